# SPDX-License-Identifier: Apache-2.0
"""A message layer on an asyncio event loop: `add_reader` on every IOP, a future per request."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Self

from i2o.errors import OutOfFrames, RequestTimeout
from i2o.frames.catalog import function_name
from i2o.message_frames import ReplyFrame
from i2o.message_layer import MessageLayer
from i2o.requester import Requester
from i2o.waits import RETRY_US

_LONGEST_SLEEP_S = 0.1


class AsyncDriver:
    """Dispatches a layer's replies on the running loop, and awaits replies.

    Use it as an asynchronous context manager; a loop may have several. Callbacks of every OSM on
    the layer run on the loop's thread; what they raise goes to the loop's exception handler.

    Args:
        layer: the message layer; its IOPs may come and go.
    """

    def __init__(self, layer: MessageLayer) -> None:
        self._layer = layer
        self._watched: dict[int, int] = {}
        self._own: list[int] = []  # a loop has one reader per descriptor: duplicates are ours
        self._requesters: dict[int, _AsyncRequester] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._watch()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop, self._loop = self._loop, None
        assert loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._unwatch(loop)
        for requester in self._requesters.values():
            requester.close()
        self._requesters.clear()

    async def call(self, iop: int, message: bytes, timeout_s: float = 30.0) -> ReplyFrame:
        """Send a request and await its final reply.

        Args:
            iop: IOP number.
            message: the whole message; its contexts are replaced.
            timeout_s: how long to wait, for a frame and for the reply together.

        Raises:
            RequestTimeout: no reply came.
            OutOfFrames: no inbound frame came free.
            InvalidArgument: no such IOP, or no such frame.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        requester = self._requesters.get(iop)
        if requester is None:
            requester = self._requesters[iop] = _AsyncRequester(self._layer, iop)
        while True:
            try:
                future = requester.begin(message)
                break
            except OutOfFrames:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(RETRY_US / 1e6)
        self._watch()
        try:
            return await asyncio.wait_for(future, deadline - loop.time())
        except TimeoutError:
            raise RequestTimeout(
                f"no reply to {function_name(message[7])} within {timeout_s:g} s"
            ) from None

    def _watch(self) -> None:
        """Watch the descriptors of all IOPs, and arm the timer for those without interrupts."""
        loop = self._loop
        if loop is None:
            return
        now = self._layer.filenos()
        if now != self._watched:
            self._unwatch(loop)
            for descriptor in now.values():
                self._own.append(os.dup(descriptor))
                loop.add_reader(self._own[-1], self._drain)
            self._watched = now
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._layer.next_deadline_ns()
        if deadline is not None:
            left = max(0.0, (deadline - self._layer.clock.monotonic_ns()) / 1e9)
            self._timer = loop.call_later(min(left, _LONGEST_SLEEP_S), self._drain)

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        for descriptor in self._own:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        self._own.clear()
        self._watched = {}

    def _drain(self) -> None:
        try:
            self._layer.poll()
        finally:
            self._watch()


class _AsyncRequester(Requester):
    """A requester whose pending requests resolve futures; it never waits for a frame."""

    def begin(self, message: bytes) -> asyncio.Future[ReplyFrame]:
        """Send a request without waiting; raises OutOfFrames when no frame is free."""
        future: asyncio.Future[ReplyFrame] = asyncio.get_running_loop().create_future()
        self.start(message, wait_us=0, on_reply=lambda reply: _resolve(future, reply))
        return future


def _resolve(future: asyncio.Future[ReplyFrame], reply: ReplyFrame) -> None:
    if not future.done():  # cancelled or timed out meanwhile
        future.set_result(reply)
