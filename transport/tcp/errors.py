# SPDX-License-Identifier: Apache-2.0
"""Errors of peers: an addressee nobody knows is another thing than one nobody reaches."""

from __future__ import annotations

import errno

from i2o.errors import I2OError
from i2o.transport.fabric.errors import FabricError, TryAgain


class ProtocolViolation(I2OError):
    """The other side sent what the protocol forbids: its link is closed."""


class PeerError(FabricError):
    """Something about a peer cannot be done; `errno` says what."""


class AddresseeUnknown(PeerError):
    """ENOENT: nobody was registered under this name, no route leads there, no carrier takes it."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOENT, message)


class Unreachable(PeerError):
    """EHOSTUNREACH, or what the last attempt said: the peer is known, but no link comes about."""

    def __init__(self, message: str, code: int = errno.EHOSTUNREACH) -> None:
        super().__init__(code, message)


class QueueFull(TryAgain):
    """EAGAIN: as much as may wait for this peer waits already; try again when it is less."""


class SendTimeout(PeerError, TimeoutError):
    """ETIMEDOUT: a message was not acknowledged in time."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ETIMEDOUT, message)


class RecvTimeout(PeerError, TimeoutError):
    """ETIMEDOUT: no message came in time."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ETIMEDOUT, message)
