# SPDX-License-Identifier: Apache-2.0
"""`i2o status`: what an IOP says about itself, what happened, what a software IOP complains about.

The counters are those of this run: from the moment the IOP was attached to the end of its bring-up.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from i2o import opening
from i2o.frames.tables import IopCapabilities, IopState, MessengerType
from i2o.resources import IopStatus
from i2o.tools import output
from i2o.tools.arguments import DEFAULT_IOP, SubParsers, with_faults
from i2o.tools.failures import NEGATIVE, OK
from i2o.tools.listing import add_list_parser

if TYPE_CHECKING:
    from i2o.iop import Iop

_VERSIONS = {0: "1.0", 1: "1.5", 2: "2.0"}


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    add_list_parser(subparsers, "status", summary, __doc__, run)


def run(args: argparse.Namespace) -> int:
    """Print the status of every IOP asked for; 1 if one is not OPERATIONAL."""
    code = OK
    for uri in args.iop or [DEFAULT_IOP]:
        with opening.open(with_faults(uri, args.faults)) as iop:
            iop.refresh()
            if iop.status.state != IopState.OPERATIONAL:
                code = NEGATIVE
            if args.json:
                output.emit(record(uri, iop))
            else:
                output.show(output.styled(uri, output.BOLD), *lines(iop))
    return code


def lines(iop: Iop) -> list[str]:
    """Return status, counters and complaints as lines."""
    shown = [f"  {name:18}{text}" for name, text in status_pairs(iop.status)]
    counters = asdict(iop.layer.counters(iop.number))
    happened = [f"{name} {count}" for name, count in counters.items() if count]
    shown.append(f"  {'counters':18}{', '.join(happened) or 'nothing happened yet'}")
    complaints = complaints_of(iop)
    if complaints is not None:
        shown.append(f"  {'complaints':18}{len(complaints) or 'none'}")
        shown += [f"    {output.printable(sentence)}" for sentence in complaints]
    return shown


def status_pairs(status: IopStatus) -> list[tuple[str, str]]:
    """Return the status block as names and texts."""
    version = _VERSIONS.get(status.i2o_version, f"code {status.i2o_version}")
    state = output.styled(
        status.state_name,
        output.GREEN if status.state == IopState.OPERATIONAL else output.RED,
    )
    return [
        ("product", status.product_id or "-"),
        ("state", state),
        ("I2O version", version),
        ("organization", f"{status.organization_id:#06x}"),
        ("IOP id", f"{status.iop_id:#05x}, host unit {status.host_unit_id}, "
                   f"segment {status.segment_number}"),
        ("inbound frames", f"{status.max_inbound_frames} of {status.inbound_frame_size} bytes, "
                           f"{status.current_inbound_frames} now"),
        ("outbound frames", f"{status.max_outbound_frames} at most"),
        ("LCT", f"{status.expected_lct_size} bytes expected"),
        ("messenger", messenger_text(status.messenger_type)),
        ("capabilities", capabilities_text(status.capabilities)),
    ]  # fmt: skip


def messenger_text(messenger: int) -> str:
    """Return the messenger type's name."""
    try:
        return MessengerType(messenger).name.lower()
    except ValueError:
        return f"type {messenger:#04x}"


def capabilities_text(capabilities: int) -> str:
    """Return what an IOP can do: context sizes as numbers, the rest by name."""
    flags = (
        IopCapabilities.INBOUND_PEER_SUPPORT,
        IopCapabilities.OUTBOUND_PEER_SUPPORT,
        IopCapabilities.PEER_TO_PEER_SUPPORT,
    )
    contexts = {0: "32", 1: "64", 2: "32 or 64", 3: "32 and 64"}[capabilities & 3]
    names = [(flag.name or "").lower() for flag in flags if capabilities & flag]
    return ", ".join([f"{contexts}-bit contexts", *names])


def complaints_of(iop: Iop) -> list[str] | None:
    """Return what a software IOP in this process complains about; None for any other IOP."""
    software = getattr(iop.layer.port(iop.number), "soft_iop", None)
    sentences: Iterable[str] | None = getattr(software, "complaints", None)
    return None if sentences is None else list(sentences)


def record(uri: str, iop: Iop) -> dict[str, object]:
    """Return everything for JSON."""
    return {
        "iop": uri,
        **asdict(iop.status),
        "state_name": iop.status.state_name,
        "counters": asdict(iop.layer.counters(iop.number)),
        "complaints": complaints_of(iop),
    }
