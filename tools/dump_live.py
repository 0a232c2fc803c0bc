# SPDX-License-Identifier: Apache-2.0
"""Brings an IOP up and hands on what it and this program say to each other."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Final

from i2o import capture, opening
from i2o.closing import Closing
from i2o.errors import I2OError
from i2o.message_layer import MessageLayer
from i2o.tools.failures import OK
from i2o.transport.capture.packet import Packet
from i2o.transport.capture.recorder import PacketRecorder
from i2o.transport.registry import open_port

MAX_WAITING: Final = 65536
"""Packets that wait to be shown; more are dropped."""

_SLICE_S: Final = 0.05


class IopSource(Closing):
    """The traffic of an IOP that this program opens, from its bring-up on.

    The IOP is driven by a thread of its own, which registers for all events of its devices.

    Args:
        uri: which IOP.
        seconds: stop after so long; None for never.
    """

    is_live = True
    problems: tuple[str, ...] = ()

    def __init__(self, uri: str, *, seconds: float | None = None) -> None:
        self._uri = uri
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._packets: queue.SimpleQueue[Packet | None] = queue.SimpleQueue()
        self._end = threading.Event()
        self._error: Exception | None = None
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="i2o-dump")
        self._thread.start()

    def __iter__(self) -> Iterator[Packet]:
        """Yield packets.

        Raises:
            I2OError, OSError: the IOP cannot be opened, or died.
        """
        while True:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            try:
                packet = self._packets.get(timeout=None if left is None else max(left, 0))
            except queue.Empty:
                return
            if packet is None:
                break
            yield packet
        if self._error is not None:
            raise self._error

    def describe(self, packet: Packet) -> str:
        """Return the URI."""
        return self._uri

    def exit_code(self) -> int:
        """Return 0."""
        return OK

    def close(self) -> None:
        """Detach the IOP."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._drive()
        except Exception as error:
            self._error = error
        finally:
            self._packets.put(None)

    def _drive(self) -> None:
        with MessageLayer() as layer:
            port = capture.tapped(open_port(self._uri), PacketRecorder(self._take))
            with opening.open(port, layer=layer) as iop:
                with contextlib.suppress(I2OError):  # it is not the traffic that was asked for
                    iop.events()
                while not self._end.is_set():
                    layer.run_until(self._end.is_set, _SLICE_S)

    def _take(self, packet: Packet) -> None:
        if self._packets.qsize() < MAX_WAITING:
            self._packets.put(packet)
        else:
            self.dropped += 1
