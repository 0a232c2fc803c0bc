# SPDX-License-Identifier: Apache-2.0
"""`i2o hrt`: the adapters of an IOP."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from i2o.frames.tables import HrtAdapterState
from i2o.resources import HrtEntry
from i2o.tools import output
from i2o.tools.arguments import SubParsers
from i2o.tools.listing import add_list_parser, show_tables


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    add_list_parser(subparsers, "hrt", summary, __doc__, run)


def run(args: argparse.Namespace) -> int:
    """Print the table of every IOP asked for."""
    return show_tables(
        args,
        records=lambda iop: map(record, iop.hrt),
        head=lambda iop: output.plural(len(iop.hrt), "adapter"),
        lines=lambda iop: rows(iop.hrt),
    )


def rows(hrt: Sequence[HrtEntry], *, indent: int = 0) -> list[str]:
    """Return the table as lines."""
    return output.table(
        ("adapter", "TID", "bus", "number", "location", "state"),
        [
            (
                f"{entry.adapter_id:#010x}",
                f"{entry.controlling_tid:#05x}",
                entry.bus_name,
                str(entry.bus_number),
                entry.location,
                state_text(entry.adapter_state),
            )
            for entry in hrt
        ],
        indent=indent,
    )


def state_text(state: int) -> str:
    """Return the names of an adapter's state bits."""
    names = [(bit.name or "").lower() for bit in HrtAdapterState if state & bit]
    return ",".join(names) or "-"


def record(entry: HrtEntry) -> dict[str, object]:
    """Return an entry for JSON."""
    return {
        **asdict(entry),
        "bus_info": entry.bus_info.hex(),
        "bus_name": entry.bus_name,
        "location": entry.location,
    }
