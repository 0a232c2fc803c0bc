# SPDX-License-Identifier: Apache-2.0
"""`i2o decode`: takes apart frames given in hexadecimal, as arguments or on standard input.

Reads bare hexadecimal with or without 0x and blanks, and the output of xxd, hexdump -C and
i2o dump -x. Whether a frame is a request or a reply is what its flags say; a reply behind its
request is decoded as the answer to it.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

from i2o.errors import LocalFrameError
from i2o.tools import output
from i2o.tools.arguments import Parser, SubParsers, UsageError, add_json, number
from i2o.tools.failures import NEGATIVE, OK

_MAX_INPUT: Final = 1 << 24
_REPLY: Final = 0x80


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("decode", help=summary, description=__doc__)
    assert isinstance(parser, Parser)
    parser.add_argument(
        "hex", metavar="HEX", nargs="*", help="bytes of frames; without any: standard input"
    )
    parser.add_argument(
        "--class", dest="device_class", metavar="NAME|NUMBER",
        help="class of the device, such as random_block_storage or 0x10: its functions and status "
        "codes apply",
    )  # fmt: skip
    parser.add_argument(
        "--words", action="store_true", help="the input shows 32-bit words, not bytes"
    )
    parser.add_argument("-x", dest="hex_too", action="store_true", help="show the bytes as well")
    parser.add_argument(
        "--color", "--colour", dest="colour", choices=("auto", "always", "never"),
        default="auto", help="default: on a terminal, unless NO_COLOR is set",
    )  # fmt: skip
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decode every frame; 1 if something is wrong with one."""
    from i2o.decode.conversation import Conversation
    from i2o.decode.frame_problems import UNASKED
    from i2o.tools.dump_json import JsonPrinter, problems
    from i2o.tools.dump_line import LinePrinter
    from i2o.tools.dump_text import TextPrinter
    from i2o.tools.hex_text import frames_of_text
    from i2o.transport.capture.packet import Channel, Packet

    device_class = None if args.device_class is None else _device_class(args.device_class)
    try:
        frames = frames_of_text(args.hex or _input(), as_words=args.words)
    except LocalFrameError as error:
        raise UsageError(str(error)) from None
    if not frames:
        raise UsageError("there is no frame to decode", remedy="i2o decode 0100000300...")
    colour = output.colour_wanted(args.colour)
    printer = (
        JsonPrinter(with_bytes=args.hex_too)
        if args.json
        else TextPrinter(LinePrinter(colour=colour), detail=2, with_hex=args.hex_too, colour=colour)
    )
    conversation = Conversation()
    is_fine = True
    for frame in frames:
        channel = Channel.OUT if len(frame) > 1 and frame[1] & _REPLY else Channel.IN
        traced = conversation.feed(Packet(0, 0, channel.value, frame, len(frame)))
        if device_class is not None:
            traced.device_class = device_class
        output.show(printer.text(traced))
        is_fine = is_fine and all(text == UNASKED for text in problems(traced))
    return OK if is_fine else NEGATIVE


def _input() -> list[str]:
    """Return the lines of standard input."""
    if sys.stdin is None:
        return []
    if output.is_terminal(sys.stdin):
        output.note("frames in hexadecimal, and Ctrl-D behind them:")
    text = sys.stdin.read(_MAX_INPUT + 1)
    if len(text) > _MAX_INPUT:
        raise UsageError(f"more than {_MAX_INPUT} characters on standard input")
    return text.splitlines()


def _device_class(text: str) -> int:
    from i2o.frames.functions import DeviceClass

    for name, member in DeviceClass.__members__.items():
        if text.upper() == name:
            return member.value
    try:
        return number(text)
    except argparse.ArgumentTypeError:
        names = ", ".join(name.lower() for name in DeviceClass.__members__)
        raise UsageError(f"no device class is called {text!r}", remedy=names) from None
