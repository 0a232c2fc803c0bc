# SPDX-License-Identifier: Apache-2.0
"""A port that remembers the frames that pass through it, while it is asked to."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from i2o.transport.port import Port


class Recorded(NamedTuple):
    """A frame that passed.

    Attributes:
        seconds: when, since the recording started.
        is_request: host to IOP.
        frame: the bytes; for a reply as many as its MessageSize says.
    """

    seconds: float
    is_request: bool
    frame: bytes


class RecordingPort:
    """Stands in front of a port; everything but the frames' contents goes straight through.

    Args:
        port: the port; closing this one closes it.
    """

    def __init__(self, port: Port) -> None:
        self._port = port
        self._start: float | None = None
        self._frames: list[Recorded] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    @property
    def soft_iop(self) -> object:
        """The software IOP behind the port, None if it is another kind of port."""
        return getattr(self._port, "soft_iop", None)

    def record(self) -> None:
        """Forget what was recorded and start again."""
        self._frames, self._start = [], time.perf_counter()

    def stop(self) -> list[Recorded]:
        """Stop, and return what passed since `record`."""
        self._start = None
        return self._frames

    def write(self, mfa: int, frame: bytes | bytearray | memoryview) -> None:
        """Copy a request into its inbound frame."""
        self._note(True, frame)
        self._port.write(mfa, frame)

    def outbound(self, mfa: int, size: int) -> memoryview:
        """Return bytes of a reply frame."""
        view = self._port.outbound(mfa, size)
        self._note(False, view[: 4 * (view[2] | view[3] << 8)])
        return view

    def _note(self, is_request: bool, frame: bytes | bytearray | memoryview) -> None:
        if self._start is not None:
            seconds = time.perf_counter() - self._start
            self._frames.append(Recorded(seconds, is_request, bytes(frame)))
