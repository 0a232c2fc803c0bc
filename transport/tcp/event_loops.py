# SPDX-License-Identifier: Apache-2.0
"""Threads that drive nodes: one for each, until they are closed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from i2o.closing import Closing
from i2o.transport.tcp.node import Node

logger = logging.getLogger(__name__)


class EventLoops(Closing):
    """Starts a thread for each node at once; they are named `i2o-tcp-0`, `i2o-tcp-1` and so on.

    Args:
        nodes: to be driven.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = tuple(nodes)
        self._is_over = False
        self._threads = [
            threading.Thread(target=self._run, args=(node,), name=f"i2o-tcp-{index}", daemon=True)
            for index, node in enumerate(self._nodes)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the threads, and wait for them, unless one of them says it."""
        self._is_over = True
        for node in self._nodes:
            node.wake()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._threads = []

    def _run(self, node: Node) -> None:
        while not self._is_over:
            try:
                node.progress(-1)
            except Exception:  # one peer's trouble must not end the others' traffic
                logger.exception("event loop")
