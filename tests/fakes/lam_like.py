# SPDX-License-Identifier: Apache-2.0
"""Processes of ours that do the same lines as `tests/data/lam/lam_process.c`, and say the same."""

from __future__ import annotations

import queue
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from i2o.network_message import DFLT8DATA, DRAWDATA, nmsg
from i2o.network_message.conversion import mltotf4, mltotf8, mltoti2, mltoti4
from i2o.network_message.errors import NetworkMessageError
from i2o.network_message.process import Process

ROOM: Final = 65536
LIMIT_S: Final = 20.0
_CONVERSIONS: Final = {2: mltoti2, 4: mltoti4, 5: mltotf4, 8: mltotf8}


class Attachable(Protocol):
    """A node of ours."""

    def attach(self, name: str = "", *, priority: int = 0) -> Process:
        """Return a process."""


class OurProcess:
    """A process of ours, in a thread.

    Args:
        node: its node.
        priority: as a receiver.

    Attributes:
        name: what it is called at its node.
    """

    def __init__(self, node: Attachable, priority: int) -> None:
        self.name = f"{priority} {id(self)}"
        self._process = node.attach(self.name, priority=priority)
        self._process.timeout_s, self._process.truncation = LIMIT_S, "silent"
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="i2o-lam-like")
        self._thread.start()

    def tell(self, line: str) -> None:
        """Give it a line to do."""
        self._lines.put(line)

    def answer(self) -> str:
        """Return what came of the oldest line."""
        return self._answers.get(timeout=LIMIT_S)

    def ask(self, line: str) -> str:
        """Give it a line, and return what came of it."""
        self.tell(line)
        return self.answer()

    def end(self) -> None:
        """End it."""
        self._lines.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._answers.put(self._do(*line.split()))
            except Exception as error:
                self._answers.put(repr(error))

    def _do(self, word: str, *words: str) -> str:
        process = self._process
        if word == "node":
            return f"{process.getnodeid()} {process.getorigin()}"
        if word == "sweep":
            process.sweep(None if int(words[0]) < 0 else int(words[0]))
            return "0"
        if word == "convert":
            data = bytearray.fromhex(words[1])
            _CONVERSIONS[int(words[0])](data)
            return data.hex()
        if word.endswith("send"):
            node, event, type, flags, length, seed, *pouch = map(int, words)
            header = nmsg(
                nh_node=node,
                nh_event=event,
                nh_type=type,
                nh_flags=flags,
                nh_msg=bytes((at * 7 + seed) & 0xFF for at in range(length)),
                nh_data=_typed(pouch, flags),
            )
            call = {"send": process.nsend, "try_send": process.ntry_send, "tsend": process.tsend}
            return _result(call[word], header, is_receive=False)
        event, type, length = map(int, words)
        header = nmsg(nh_event=event, nh_type=type, nh_length=length, nh_msg=bytearray(ROOM))
        receive = {
            "recv": process.nrecv,
            "try_recv": process.ntry_recv,
            "trecv": process.trecv,
            "probe": process.nprobe,
        }
        return _result(receive[word], header, is_receive=word != "probe")


def _typed(words: list[int], flags: int) -> Sequence[int] | Sequence[float] | bytes:
    """Return the words of a pouch as values of the type that the flags name."""
    raw = struct.pack("=8i", *words)
    return raw if flags & DRAWDATA else struct.unpack("=4d" if flags & DFLT8DATA else "=8i", raw)


def _words(values: Sequence[int] | Sequence[float] | bytes) -> tuple[int, ...]:
    """Return the values of a pouch as LAM prints them."""
    if not isinstance(values, bytes):
        values = struct.pack("=8i" if len(values) == 8 else "=4d", *values)
    return struct.unpack("=8i", values)


def _result(call: Callable[[nmsg], object], header: nmsg, *, is_receive: bool) -> str:
    """Make a call, and return what LAM's process prints of it."""
    result, code = 0, 0
    try:
        result = int(call(header) is True)
    except NetworkMessageError as error:
        result, code = -1, error.errno or 0
    shown = zlib.adler32(bytes(header.nh_msg[: header.nh_length]))
    data = ",".join(map(str, _words(header.nh_data)))
    return (
        f"{result} {code} dl={header.nh_dl_event},{header.nh_dl_link} event={header.nh_event} "
        f"type={header.nh_type} length={header.nh_length} flags={header.nh_flags} data={data} "
        f"sum={shown if is_receive and not code else 0}"
    )
