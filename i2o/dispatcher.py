# SPDX-License-Identifier: Apache-2.0
"""A thread that drives a message layer: it sleeps until replies come and runs their callbacks."""

from __future__ import annotations

import logging
import os
import select
import threading

from i2o.closing import Closing
from i2o.errors import InvalidArgument
from i2o.message_layer import MessageLayer

logger = logging.getLogger(__name__)

_PAUSE_AFTER_ERROR_MS = 1
_LONGEST_SLEEP_S = 0.1  # an IOP attached meanwhile is noticed after this time


class Dispatcher(Closing):
    """Polls all IOPs of a layer from a thread of its own; callbacks run there.

    Args:
        layer: the message layer.

    Attributes:
        errors: what callbacks raised, in order. `close` raises them on the caller's thread.
    """

    def __init__(self, layer: MessageLayer) -> None:
        self._layer = layer
        self.errors: list[Exception] = []
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="i2o-dispatcher", daemon=True)
        self._closed = False
        layer.polled_by_thread(True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread.

        Raises:
            InvalidArgument: called by a callback, on the thread that is to stop.
            Whatever callbacks raised: the error itself, or an ExceptionGroup of several.
        """
        if self._closed:
            return
        if threading.current_thread() is self._thread:
            raise InvalidArgument("a callback cannot close the dispatcher that runs it")
        self._closed = True
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._layer.polled_by_thread(False)
        os.close(self._stop)
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise ExceptionGroup("several callbacks raised", self.errors)

    def _run(self) -> None:
        stop = self._stop
        while True:
            poller = select.poll()
            poller.register(stop, select.POLLIN)
            try:
                for number in self._layer.filenos().values():
                    poller.register(number, select.POLLIN)
                ready = poller.poll(1000 * self._patience())
                if any(number == stop for number, _ in ready):
                    return
                self._layer.poll()
            except Exception as error:
                logger.warning("a reply callback raised", exc_info=True)
                self.errors.append(error)
                if poller.poll(_PAUSE_AFTER_ERROR_MS) == [(stop, select.POLLIN)]:
                    return

    def _patience(self) -> float:
        """Return how long to sleep at most, in seconds."""
        deadline = self._layer.next_deadline_ns()
        if deadline is None:
            return _LONGEST_SLEEP_S
        left = (deadline - self._layer.clock.monotonic_ns()) / 1e9
        return min(max(left, 0.0), _LONGEST_SLEEP_S)
