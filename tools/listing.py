# SPDX-License-Identifier: Apache-2.0
"""What the sub-commands share that show something of each IOP: `i2o hrt`, `lct`, `status`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from i2o import opening
from i2o.tools import output
from i2o.tools.arguments import DEFAULT_IOP, SubParsers, add_iop, add_json, with_faults
from i2o.tools.failures import OK

if TYPE_CHECKING:
    from i2o.iop import Iop


def add_list_parser(
    subparsers: SubParsers,
    name: str,
    summary: str,
    description: str | None,
    run: Callable[[argparse.Namespace], int],
) -> None:
    """Add a sub-command for several IOPs, with --json."""
    parser = subparsers.add_parser(name, help=summary, description=description)
    add_iop(parser, several=True)
    add_json(parser)
    parser.set_defaults(run=run)


def show_tables(
    args: argparse.Namespace,
    *,
    records: Callable[[Iop], Iterable[Mapping[str, object]]],
    head: Callable[[Iop], str],
    lines: Callable[[Iop], Sequence[str]],
) -> int:
    """Print the table of every IOP asked for.

    Args:
        args: the command line.
        records: gives an IOP's entries for JSON.
        head: gives what stands beside the IOP's URI.
        lines: gives the table as text.

    Returns:
        The exit code.
    """
    for uri in args.iop or [DEFAULT_IOP]:
        with opening.open(with_faults(uri, args.faults)) as iop:
            if args.json:
                for entry in records(iop):
                    output.emit({"iop": uri, **entry})
            else:
                output.show(f"{output.styled(uri, output.BOLD)}  {head(iop)}", *lines(iop))
    return OK
