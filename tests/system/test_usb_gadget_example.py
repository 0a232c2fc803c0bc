# SPDX-License-Identifier: Apache-2.0
"""The functionfs program of docs/usb-gadget.md with a control endpoint that a test plays."""

from __future__ import annotations

import os
import runpy
import struct
from pathlib import Path

import pytest

from i2o.transport.usb.interface import BEGIN_LINK, LINK_INFO, MAGIC, REQUEST_IN, REQUEST_OUT

PROGRAM = Path(__file__).resolve().parents[2] / "docs/examples/usb_gadget/gadget.py"
ENABLE, DISABLE, SETUP, RESUME = 2, 3, 4, 6


class Unplugged(Exception):
    """Ends the program, which runs for ever."""


def event(kind: int, request: bytes = bytes(8)) -> bytes:
    return request + bytes((kind, 0, 0, 0))


def setup(request_type: int, request: int, length: int = 0) -> bytes:
    return event(SETUP, struct.pack("<BBHHH", request_type, request, 0, 0, length))


def test_what_the_program_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link begins, and is over when the host is gone; others are refused the wrong way round.

    A wrong link cannot be refused any more when its data were read: it is none.
    """
    ask = setup(REQUEST_IN, 1, LINK_INFO.size)
    begin = BEGIN_LINK.build(magic=MAGIC, version=1, frame_limit=4096, link=77)
    wrong = BEGIN_LINK.build(magic=MAGIC, version=2, frame_limit=4096, link=78)
    begin_it = setup(REQUEST_OUT, 2, 16)
    reads = [
        *(event(ENABLE), ask, begin_it, begin, event(RESUME), ask, event(DISABLE), ask),
        *(begin_it, begin, ask, setup(REQUEST_OUT, 3), b"", ask),
        *(begin_it, begin, ask, begin_it, wrong, ask),
        *(setup(REQUEST_OUT, 9), setup(REQUEST_IN, 9), b""),
    ]
    written: list[bytes] = []

    def read(descriptor: int, count: int) -> bytes:
        assert descriptor == 1000
        if not reads:
            raise Unplugged
        assert len(reads[0]) == count
        return reads.pop(0)

    monkeypatch.setattr(os, "open", lambda path, flags: 1000)
    monkeypatch.setattr(os, "read", read)
    monkeypatch.setattr(os, "write", lambda descriptor, data: written.append(data))
    monkeypatch.setattr("sys.argv", [str(PROGRAM), "/dev/ffs"])
    with pytest.raises(Unplugged):
        runpy.run_path(str(PROGRAM))
    infos = [LINK_INFO.unpack_from(data) for data in written[2:-1]]
    assert [info.link for info in infos] == [0, 77, 0, 77, 0, 77, 0]
    assert len({info.incarnation for info in infos}) == 1
    assert written[-1] == b"", "written where it should be read: refused"
