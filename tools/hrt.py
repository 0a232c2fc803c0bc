# SPDX-License-Identifier: Apache-2.0
"""`i2o hrt`: the adapters of an IOP."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from i2o import opening
from i2o.frames.tables import HrtAdapterState
from i2o.resources import HrtEntry
from i2o.tools import output
from i2o.tools.arguments import DEFAULT_IOP, SubParsers, add_iop, add_json


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("hrt", help=summary, description=__doc__)
    add_iop(parser, several=True)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table of every IOP asked for."""
    for uri in args.iop or [DEFAULT_IOP]:
        with opening.open(uri) as iop:
            if args.json:
                for entry in iop.hrt:
                    output.emit({"iop": uri, **record(entry)})
            else:
                head = (
                    f"{output.styled(uri, output.BOLD)}  {output.plural(len(iop.hrt), 'adapter')}"
                )
                output.show(head, *rows(iop.hrt))
    return 0


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
