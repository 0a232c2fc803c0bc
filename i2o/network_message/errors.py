# SPDX-License-Identifier: Apache-2.0
"""Errors of network messages: LAM's codes where it has one, the system's otherwise."""

from __future__ import annotations

import errno
import os
from typing import Final

from i2o.errors import I2OError

ENOTATTACHED: Final = 1240
"""LAM's code: the caller is not attached to a node."""
EBADNODE: Final = 1253
"""LAM's code: no node has that number."""
_LAM: Final = {ENOTATTACHED: "not attached to a node", EBADNODE: "bad node"}


class NetworkMessageError(I2OError, OSError):
    """A network message was not sent or received; `errno` says why.

    Args:
        code: an errno, or a code of LAM's.
        message: what was wrong and what to do.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, f"{_LAM.get(code) or os.strerror(code)}: {message}")


class NotAttached(NetworkMessageError):
    """ENOTATTACHED: the process was detached, or its node is closed."""

    def __init__(self, message: str) -> None:
        super().__init__(ENOTATTACHED, message)


class BadNode(NetworkMessageError):
    """EBADNODE: nobody knows where that node is."""

    def __init__(self, message: str) -> None:
        super().__init__(EBADNODE, message)


class WouldBlock(NetworkMessageError, BlockingIOError):
    """EWOULDBLOCK: nothing was moved, because it could not be moved at once."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EWOULDBLOCK, message)


class TimedOut(NetworkMessageError, TimeoutError):
    """ETIMEDOUT: the deadline of a blocking call passed; nothing was moved.

    The message ends with what everybody at this node waits for.
    """

    def __init__(self, message: str) -> None:
        super().__init__(errno.ETIMEDOUT, message)


class NodeDied(NetworkMessageError, ConnectionError):
    """EHOSTDOWN: the other node is gone, and with it what was going on with it."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EHOSTDOWN, message)


class Swept(NetworkMessageError):
    """ECANCELED: the message was swept, or was too old, before anybody received it."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ECANCELED, message)


class MessageTruncated(NetworkMessageError):
    """EMSGSIZE: the message was longer than the receiver asked for; what fits was received.

    Args:
        message: which.
        lost: bytes that found no place.
    """

    def __init__(self, message: str, lost: int) -> None:
        super().__init__(errno.EMSGSIZE, message)
        self.lost = lost


class BadDescriptor(NetworkMessageError, ValueError):
    """EINVAL: a descriptor, or another argument, has a value that cannot be."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EINVAL, message)


class MessageTooLong(NetworkMessageError):
    """EMSGSIZE: longer than what the receiving node lets wait; `tsend` has no such limit."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EMSGSIZE, message)
