# SPDX-License-Identifier: Apache-2.0
"""`i2o emulate`: serves a software IOP to others, or controls one that is running.

With --serve it makes an IOP and serves it, to QEMU for example, until it is told to stop (SIGTERM,
SIGINT). What belongs to the IOP may stand in the URI, as in emu: URIs, for example
vfio-user:/tmp/iop.sock?disk=array.img&control=/tmp/control. For each URI there is an IOP of its
own. A line `ready URI` is printed for each when it can be used. I2O_CAPTURE=FILE captures the
traffic.

Without --serve it sends a COMMAND to a running IOP, which was started with a control socket: disks
are plugged, pulled and resized, media changed, blocks made bad, the IOP is made to fail. `help`
lists the commands.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from i2o.errors import RemoteFrameError
from i2o.tools import output
from i2o.tools.arguments import SubParsers, UsageError, add_faults, add_json, positive_seconds
from i2o.tools.control_client import ask, command_line
from i2o.tools.failures import NEGATIVE, OK


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "emulate",
        help=summary,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--serve",
        metavar="URI",
        action="append",
        help="serve an IOP there: vfio-user:SOCKET?OPTIONS is a PCI device for QEMU, "
        "shm:NAME?OPTIONS is for programs that open shm:NAME, tcp://HOST:PORT?OPTIONS and "
        "ofi://PROVIDER/ADDRESS?OPTIONS are for those of other machines, too, "
        "serial:DEVICE?OPTIONS is for who is at the other end of that line, "
        "usbip:HOST:PORT?OPTIONS is a USB device for kernels that import it, "
        "usbredir:SOCKET?OPTIONS is one for QEMU",
    )
    parser.add_argument(
        "--disk",
        metavar="SPEC",
        action="append",
        help="with --serve: a disk of the IOP, as in emu:?disk=SPEC",
    )
    parser.add_argument(
        "--personality",
        metavar="NAME",
        help="with --serve: which card the IOP passes itself off as",
    )
    add_faults(parser)
    parser.add_argument(
        "--control",
        metavar="PATH",
        help="the control socket: of the IOP that is served, or of the one to control",
    )
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait for the answer to a command (default: 10)",
    )
    add_json(parser)
    parser.add_argument(
        "words", nargs="*", metavar="COMMAND", help="a command and its arguments; try help"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve an IOP, or send a command and show the answer; 1 if the IOP says no."""
    if args.serve:
        if args.words:
            raise UsageError("--serve takes no command", remedy="send it from another terminal")
        from i2o.tools.serving import serve_iops

        return serve_iops(args)
    for name in ("disk", "personality", "faults"):
        if getattr(args, name):
            raise UsageError(f"--{name} belongs to --serve", remedy="add --serve vfio-user:SOCKET")
    return _command(args)


def _command(args: argparse.Namespace) -> int:
    if args.control is None:
        raise UsageError(
            "which IOP is to be controlled?",
            remedy="name its socket: --control PATH, or serve one: --serve URI",
        )
    if not "".join(args.words[:1]).strip():
        raise UsageError("no command given", remedy=f"i2o emulate --control {args.control} help")
    name, *arguments = args.words
    answer = ask(args.control, command_line(name, arguments), args.timeout)
    if args.json:
        output.emit(answer)
    elif answer["ok"]:
        try:
            lines = _lines(name, answer)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RemoteFrameError(
                f"what listens on {args.control!r} is no software IOP, or another version: "
                "use --json to see what it said"
            ) from None
        output.show(*(output.printable(line) for line in lines))
    else:
        output.note(f"i2o: {output.printable(str(answer.get('error', 'the IOP refused')))}")
    return OK if answer["ok"] else NEGATIVE


def _lines(name: str, answer: Mapping[str, Any]) -> list[str]:
    """Return an answer for people."""
    if name == "help":
        rows = [
            (f"{command['name']} {command['arguments']}".rstrip(), command["help"])
            for command in answer["commands"]
        ]
        return output.table(("command", "what it does"), rows)
    if "heartbeats" in answer:
        return _service_processor_status(answer)
    if name in ("heartbeat", "event") and answer.keys() == {"ok"}:
        return [f"{name} sent"]
    if name == "status":
        return _status(answer)
    if "size" in answer:
        return [f"TID {answer['tid']:#05x}: {_disk(answer)}"]
    if "tid" in answer:
        return [f"TID {answer['tid']:#05x}: removed"]
    if "state" in answer:
        return [f"the IOP is {answer['state']}"]
    return [f"fault plan: {output.plural(answer['fault_rules'], 'rule')}"]


def _status(answer: Mapping[str, Any]) -> list[str]:
    happened = [f"{name} {count}" for name, count in answer["counters"].items() if count]
    rows = [
        (
            f"{device['tid']:#05x}",
            device["class"],
            ", ".join(f"{claim['tid']:#05x}" for claim in device["claims"]) or "-",
            _disk(device) if "size" in device else device["name"],
        )
        for device in answer["devices"]
    ]
    return [
        f"state       {answer['state']}",
        f"LCT change  {answer['change_indicator']}",
        f"faults      {output.plural(answer['fault_rules'], 'rule')}",
        f"counters    {', '.join(happened) or 'nothing happened yet'}",
        *output.table(("TID", "class", "claimed by", "what it is"), rows),
        *_complaints(answer["complaints"]),
    ]


def _service_processor_status(answer: Mapping[str, Any]) -> list[str]:
    return [
        f"system      {'up' if answer['up'] else 'not known to be up'}",
        f"commands    {answer['commands']}",
        f"heartbeats  {answer['heartbeats']}",
        *_complaints(answer["complaints"]),
        *output.table(("kept under", "data"), sorted(answer["kept"].items())),
    ]


def _complaints(sentences: Sequence[str]) -> list[str]:
    return [f"complaints  {len(sentences) or 'none'}", *(f"  {text}" for text in sentences)]


def _disk(disk: Mapping[str, Any]) -> str:
    """Return what is known of a disk."""
    if disk["medium"] == "none":
        return "no medium"
    parts = [
        disk["image"],
        output.human_size(disk["size"]),
        f"blocks of {disk['block_size']}",
        *(word for word in ("removable", "locked", "changed") if disk[word]),
    ]
    if disk["read_only"]:
        parts.append("read-only")
    if disk["medium"] == "unloaded":
        parts.append("not loaded")
    if disk.get("bad"):
        parts.append(f"bad blocks {_ranges(disk['bad'], disk['bad_ranges'])}")
    return ", ".join(parts)


def _ranges(pairs: Sequence[Sequence[int]], count: int) -> str:
    shown = " ".join(f"{first}-{last}" if first < last else str(first) for first, last in pairs)
    return f"{shown} …" if count > len(pairs) else shown
