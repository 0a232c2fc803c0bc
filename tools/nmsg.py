# SPDX-License-Identifier: Apache-2.0
"""`i2o nmsg`: LAM's network messages from the command line.

Over an IOP (-i) the messages wait in the IOP. With --endpoint this command is a node of its own for
as long as it runs: it can send to the nodes that --peer names, and receive from those that know it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from i2o import opening
from i2o.network_message.descriptor import LOCAL, MAXNMSGLEN, NHDSIZE, NOBUF, nmsg
from i2o.network_message.errors import WouldBlock
from i2o.tools import output
from i2o.tools.arguments import (
    SubParsers,
    UsageError,
    add_iop,
    add_json,
    number_up_to,
    seconds,
    size,
    with_faults,
)
from i2o.tools.failures import NEGATIVE, OK

if TYPE_CHECKING:
    from i2o.network_message import IopNode, Node, Process
    from i2o.network_message.descriptor import Received
    from i2o.transport.fabric.mailbox import Listed

_MAX_EVENT: Final = 0x3FFFFFFF
_MAX_WORD: Final = 0xFFFFFFFF
_SIGN: Final = 1 << 31
_MAX_NODE: Final = _SIGN - 1
_MAX_ROOM: Final = 1 << 30
"""Bytes of memory that a receiver may set apart."""
_NEEDS_IOP: Final = ("probe", "list", "sweep")


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("nmsg", help=summary, description=__doc__)
    parser.add_argument("action", choices=("send", "receive", "probe", "list", "sweep"))
    parser.add_argument(
        "event", nargs="?", type=_event, metavar="EVENT",
        help="what messages are matched by; sweep takes all events without one",
    )  # fmt: skip
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what to send; - is stdin")
    parser.add_argument(
        "--type", type=_word, default=0, metavar="MASK", help="type mask; 0 matches any (0)"
    )
    parser.add_argument(
        "--node",
        type=_node_number,
        metavar="NUMBER",
        help="to whom, or the only one to receive from",
    )
    parser.add_argument(
        "--data", type=_pouch, default=(0,) * NHDSIZE, metavar="N,N…", help="words of the pouch"
    )
    parser.add_argument("--nobuf", action="store_true", help="wait until a receiver took it")
    parser.add_argument("--transfer", action="store_true", help="with tsend and trecv")
    parser.add_argument(
        "--length",
        type=_room,
        default=MAXNMSGLEN,
        metavar="SIZE",
        help="room for a message, up to 1G (8192)",
    )
    parser.add_argument(
        "--priority", type=_priority, default=0, metavar="NUMBER", help="as a receiver (0)"
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="how long to wait (for ever); 0: do not"
    )
    parser.add_argument("--raw", action="store_true", help="write a message's bytes, nothing else")
    parser.add_argument(
        "--endpoint", metavar="URI", help="be a node over this endpoint: tcp://127.0.0.1:0, shm://a"
    )
    parser.add_argument(
        "--number", type=_node_number, default=0, metavar="NUMBER", help="number of that node (0)"
    )
    parser.add_argument(
        "--peer", type=_peer, action="append", default=[], metavar="NUMBER=ADDRESS",
        help="another node (may be repeated)",
    )  # fmt: skip
    add_iop(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do one action; 1 if there was no message, or none could be sent."""
    if args.event is None and args.action in ("send", "receive", "probe"):
        raise UsageError(f"{args.action} needs an event", remedy=f"i2o nmsg {args.action} 7")
    if args.text is not None and args.action != "send":
        raise UsageError(f"{args.action} takes no text: {args.text!r}")
    if args.endpoint is not None and args.action in _NEEDS_IOP:
        raise UsageError(
            f"{args.action} is for an IOP: nothing waits in a node that begins with this command",
            remedy="-i URI",
        )
    if args.endpoint is not None and args.action == "send":
        known = [args.number, *(peer for peer, _ in args.peer)]
        if args.node is not None and args.node not in known:
            raise UsageError(
                f"nobody said where node {args.node} is", remedy=f"--peer {args.node}=ADDRESS"
            )
    with _node(args) as node:
        process = node.attach("i2o nmsg", priority=args.priority)
        if args.action == "send":
            return _send(args, node, process)
        if args.action == "receive":
            return _receive(args, process)
        if args.action == "probe":
            return _probe(args, process)
        if args.action == "list":
            return _list(args, process)
        return _sweep(args, process)


@contextmanager
def _node(args: argparse.Namespace) -> Iterator[Node | IopNode]:
    """Open the node that the command line names."""
    if args.endpoint is None:
        from i2o.network_message import IopNode

        with opening.open(with_faults(args.iop, args.faults)) as iop, IopNode(iop) as iop_node:
            yield iop_node
        return
    from i2o.network_message import Node
    from i2o.transport.registry import open_endpoint

    with Node(args.number, open_endpoint(args.endpoint)) as node:
        for peer, address in args.peer:
            node.add_node(peer, address)
        output.note(f"i2o: node {node.number} is at {node.address}")
        yield node


def _send(args: argparse.Namespace, node: Node | IopNode, process: Process) -> int:
    body = _body(args.text)
    header = nmsg(
        nh_node=LOCAL if args.node is None else args.node,
        nh_event=args.event,
        nh_type=args.type,
        nh_flags=NOBUF if args.nobuf else 0,
        nh_data=args.data,
        nh_msg=body,
    )
    if args.timeout == 0 and not args.transfer:
        process.ntry_send(header)
    else:
        (process.tsend if args.transfer else process.nsend)(header, timeout_s=args.timeout)
    if args.endpoint is not None and args.node not in (None, args.number):
        from i2o.network_message import Node

        assert isinstance(node, Node)
        node.ping(args.node, args.timeout)  # it has arrived, so this end may close
    if args.json:
        output.emit({"sent": len(body), "event": args.event, "taken_by": header.nh_dl_event})
    return OK


def _body(text: str | None) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    return os.fsencode(text or "")  # an argument is bytes, whatever they mean


def _receive(args: argparse.Namespace, process: Process) -> int:
    header = nmsg(nh_event=args.event, nh_type=args.type, nh_msg=bytearray(args.length))
    receive: Callable[..., Received]
    if args.transfer:
        receive = partial(process.trecv, timeout_s=args.timeout)
    elif args.timeout == 0:
        receive = process.ntry_recv
    else:
        receive = partial(process.nrecv, timeout_s=args.timeout)
    try:
        received = receive(header, source=args.node)
    except WouldBlock:
        return _nothing(args)
    body = bytes(memoryview(header.nh_msg)[: header.nh_length])
    if args.raw:
        output.binary_stdout().write(body)
    elif args.json:
        output.emit({**_record(header, received), "body": body.hex()})
    else:
        output.show(_line(header, received), output.printable(body.decode("utf-8", "replace")))
    return OK


def _line(header: nmsg, received: Received) -> str:
    lost = f" ({received.lost} more did not fit)" if received.lost else ""
    words = " ".join(map(str, header.nh_data))
    return (
        f"from node {received.source}, event {header.nh_event}, type {header.nh_type:#x}, "
        f"{received.length} bytes{lost}, pouch {words}"
    )


def _record(header: nmsg, received: Received) -> dict[str, object]:
    return {
        "source": received.source,
        "event": header.nh_event,
        "type": header.nh_type,
        "flags": received.flags,
        "length": received.length,
        "sent": received.sent,
        "data": header.nh_data.hex() if isinstance(header.nh_data, bytes) else list(header.nh_data),
    }


def _nothing(args: argparse.Namespace) -> int:
    if not args.json:
        output.note("i2o: no such message is here")
    return NEGATIVE


def _probe(args: argparse.Namespace, process: Process) -> int:
    header = nmsg(nh_event=args.event, nh_type=args.type)
    if not process.nprobe(header, source=args.node):
        return _nothing(args)
    if args.json:
        output.emit({"event": header.nh_event, "type": header.nh_type, "length": header.nh_length})
    else:
        output.show(f"event {header.nh_event}, type {header.nh_type:#x}, {header.nh_length} bytes")
    return OK


def _list(args: argparse.Namespace, process: Process) -> int:
    rows = process.listing()
    if args.json:
        for row in rows:
            output.emit({**row._asdict(), "pouch": row.pouch.hex()})
        return OK
    headers = ("number", "source", "event", "type", "bytes", "flags", "")
    output.show(*output.table(headers, [_cells(row) for row in rows], right="number source event "
                              "bytes"))  # fmt: skip
    return OK


def _cells(row: Listed) -> tuple[str, ...]:
    return (
        str(row.number), str(row.source), str(row.event), f"{row.type:#x}", str(row.length),
        f"{row.flags:#x}", "its sender waits" if row.is_announced else "",
    )  # fmt: skip


def _sweep(args: argparse.Namespace, process: Process) -> int:
    count = process.sweep(args.event)
    if args.json:
        output.emit({"swept": count})
    else:
        output.show(output.plural(count, "message") + " swept")
    return OK


def _event(text: str) -> int:
    return number_up_to(_MAX_EVENT, text, "event")


def _node_number(text: str) -> int:
    return number_up_to(_MAX_NODE, text, "number of a node")


def _priority(text: str) -> int:
    return number_up_to(_MAX_NODE, text, "priority")


def _room(text: str) -> int:
    """Read a number of bytes that there is memory for."""
    value = size(text)
    if value > _MAX_ROOM:
        raise argparse.ArgumentTypeError(f"{text!r}: a receiver has room for 1G at most")
    return value


def _word(text: str) -> int:
    """Read 32 bits, as an integer with a sign."""
    value = number_up_to(_MAX_WORD, text, "word")
    return value - (value & _SIGN) * 2


def _pouch(text: str) -> tuple[int, ...]:
    words = tuple(map(_word, text.split(",")))
    if len(words) > NHDSIZE:
        raise argparse.ArgumentTypeError(f"a pouch has {NHDSIZE} words, not {len(words)}")
    return words + (0,) * (NHDSIZE - len(words))


def _peer(text: str) -> tuple[int, str]:
    digits, equals, address = text.partition("=")
    if not equals or not address:
        raise argparse.ArgumentTypeError(f"{text!r}: write NUMBER=ADDRESS, as in 2=tcp://HOST:PORT")
    return _node_number(digits), address
