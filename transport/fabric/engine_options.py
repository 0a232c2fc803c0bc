# SPDX-License-Identifier: Apache-2.0
"""Sizes of the software engine."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from i2o.transport.fabric.errors import FabricError


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How much an endpoint may have under way, and how much it keeps for its peers.

    Attributes:
        tx_size: sends that may be outstanding.
        rx_size: receives that may be posted.
        window_messages: messages of each peer that wait here although no receive is posted.
        window_bytes: bytes of such messages, of each peer.
        eager_limit: bytes of the largest message that travels with its header, and may wait.
        inject_size: bytes of the largest message that can be injected.
        max_msg_size: bytes of the largest message.
        iov_limit: buffers of one operation.
        msg_prefix_size: bytes that the caller leaves free in front of every message.
    """

    tx_size: int = 1024
    rx_size: int = 4096
    window_messages: int = 1024
    window_bytes: int = 1 << 20
    eager_limit: int = 16 << 10
    inject_size: int = 4096
    max_msg_size: int = 1 << 30
    iov_limit: int = 16
    msg_prefix_size: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("tx_size", 1),
            ("rx_size", 1),
            ("window_messages", 1),
            ("window_bytes", 1),
            ("eager_limit", 0),
            ("inject_size", 0),
            ("max_msg_size", 0),
            ("iov_limit", 1),
            ("msg_prefix_size", 0),
        ):
            value = getattr(self, name)
            if not least <= value < 1 << 31:
                raise FabricError(errno.EINVAL, f"{name} = {value}; expected {least} to 2^31 - 1")
