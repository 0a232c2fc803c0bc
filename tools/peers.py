# SPDX-License-Identifier: Apache-2.0
"""`i2o peers`: shows the peer table of a running messenger: states, queues, counters.

It becomes a peer itself for a moment, under a name that nobody has, and asks.
"""

from __future__ import annotations

import argparse
from typing import Any

from i2o.errors import I2OError
from i2o.tools import output
from i2o.tools.arguments import SubParsers
from i2o.tools.failures import OK
from i2o.tools.output import printable
from i2o.tools.peer_arguments import add_peer, key_of, tls_of, who_is_there
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.peer_name import random_name
from i2o.transport.tcp.wire import Purpose

_COLUMNS = (
    ("peer", "name"),
    ("state", "state"),
    ("waiting", "waiting"),
    ("flight", "in_flight"),
    ("bytes", "waiting_bytes"),
    ("sent", "messages_sent"),
    ("received", "messages_received"),
    ("again", "resent"),
    ("twice", "duplicates"),
    ("links", "connects"),
    ("lost", "losses"),
    ("nacks", "nacks"),
)


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("peers", help=summary, description=__doc__)
    add_peer(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask, and show the answer."""
    there = who_is_there(args)
    if there.purpose != Purpose.MESSAGES:
        raise I2OError(
            f"{args.address} belongs to an endpoint, which has no table of peers (i2o ping works)"
        )
    me = random_name()
    with Messenger(
        me, (), key=key_of(args), insecure=args.insecure, client_tls=tls_of(args)
    ) as messenger:
        messenger.set_peer(there.name, [args.address])
        table = messenger.ask_status(there.name, args.timeout)
    table["peers"] = [peer for peer in table["peers"] if peer["name"] != str(me)]
    if args.json:
        peers = table.pop("peers")
        output.emit(table)
        for peer in peers:
            output.emit(peer)
    else:
        output.show(*lines(table))
    return OK


def lines(table: dict[str, Any]) -> list[str]:
    """Return the answer for people."""
    head = printable(f"peer {table['name']} at {table['address'] or 'no address'}")
    loops = output.plural(table["loops"], "event loop") if table["loops"] else "no event loop"
    found = [
        output.styled(head, output.BOLD),
        f"    {loops}, {output.plural(table['half_open'], 'caller')} in the handshake, "
        f"{output.plural(table['kept'], 'message')} nobody received",
    ]
    found += [
        f"    to {printable(to)} over {printable(hop)}" for to, hop in table["routes"].items()
    ]
    if not table["peers"]:
        return [*found, "no peers"]
    names = [name for name, _ in _COLUMNS]
    rows = [[printable(str(peer[key])) for _, key in _COLUMNS] for peer in table["peers"]]
    found += output.table(names, rows, right=" ".join(names[2:]))
    for peer in table["peers"]:
        if peer["last_error"]:
            found.append(f"{printable(peer['name'])}: {printable(peer['last_error'])}")
    return found
