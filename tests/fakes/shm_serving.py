# SPDX-License-Identifier: Apache-2.0
"""An IOP that a thread of this process serves in shared memory."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Self

import pytest

from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.shm_iop import ShmIop
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.transport.serving import serve
from i2o.transport.shm.rendezvous import Meeting, listen
from i2o.transport.shm.server import ShmServer
from i2o.transport.uri import Uri


def count_fast_requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what grows by the numbers of requests that go the fast path from now on."""
    fast: list[int] = []
    count = SoftIop._count_answers

    def note(iop: SoftIop, requests: int, replies: int) -> None:
        fast.append(requests)
        count(iop, requests, replies)

    monkeypatch.setattr(SoftIop, "_count_answers", note)
    return fast


class Serving:
    """Serves until the end of a `with` block.

    Attributes:
        server: the server.
        iop: what it serves.
    """

    def __init__(self, query: str = "", name: str = "test", spin_s: float = 0.0) -> None:
        self.iop = ShmIop.from_options(EmuOptions.from_uri(Uri.parse(f"emu:?{query}")))
        self.server = ShmServer(listen(name, Meeting.IOP), self.iop, spin_s=spin_s)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="i2o-test-server")
        self._thread.start()

    def _run(self) -> None:
        serve([self.server], lambda: self._is_stopped, self._wake)

    def vanish_from_loop(self) -> None:
        """Stop to serve, and leave everything open."""
        if not self._is_stopped:
            self._is_stopped = True
            os.eventfd_write(self._wake, 1)
            self._thread.join()

    def vanish(self) -> None:
        """Stop to serve, and close the sockets, as the kernel does for a process that died."""
        if not self._is_stopped:
            self.vanish_from_loop()
            channel = self.server.host._channel
            if channel is not None:
                channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.vanish()
        self.server.close()
        self.iop.close()
        os.close(self._wake)
