# SPDX-License-Identifier: Apache-2.0
"""`i2o list`: shows every IOP that can be opened here, and what stands in the way of others.

It only looks, and needs no root.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from i2o.tools import output
from i2o.tools.arguments import SubParsers, add_json
from i2o.tools.failures import OK
from i2o.transport.found import Found
from i2o.transport.registry import find_iops


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("list", help=summary, description=__doc__)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List them."""
    for found in find_iops():
        if args.json:
            output.emit(record(found))
        else:
            output.show(*lines(found))
    return OK


def record(found: Found) -> dict[str, object]:
    """Return one for JSON."""
    return {
        "kind": found.kind,
        "name": found.name,
        "address": found.address or None,
        "uri": found.uri,
        "why": found.why,
        "usable": not found.obstacles,
        "obstacles": [obstacle._asdict() for obstacle in found.obstacles],
        **found.details,
    }


def lines(found: Found) -> Iterator[str]:
    """Yield one for people."""
    colour = output.YELLOW if found.obstacles else output.GREEN
    uri = output.styled(output.printable(found.uri), output.BOLD)
    yield f"{uri}  {output.printable(found.name)}"
    facts = [f"{name.replace('_', ' ')} {value}" for name, value in found.details.items() if value]
    if facts:
        yield f"    {output.printable(', '.join(facts))}"
    if not found.obstacles:
        yield f"    {output.styled('can be opened', colour)}: {output.printable(found.why)}"
    for reason, remedy in found.obstacles:
        yield f"    {output.styled('in the way', colour)}: {output.printable(reason)}"
        if remedy:
            yield f"    -> {output.printable(remedy)}"
