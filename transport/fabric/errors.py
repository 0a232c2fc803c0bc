# SPDX-License-Identifier: Apache-2.0
"""Errors of endpoints: libfabric's codes, each an `OSError` with that code as `errno`."""

from __future__ import annotations

import errno
import os
from enum import IntEnum
from typing import Final

from i2o.errors import I2OError


class FabricErrno(IntEnum):
    """Codes that libfabric adds to errno (`rdma/fi_errno.h`)."""

    EOTHER = 256
    ETOOSMALL = 257
    EOPBADSTATE = 258
    EAVAIL = 259
    EBADFLAGS = 260
    ENOEQ = 261
    EDOMAIN = 262
    ENOCQ = 263
    ECRC = 264
    ETRUNC = 265
    ENOKEY = 266
    ENOAV = 267
    EOVERRUN = 268
    ENORX = 269


_MEANINGS: Final[dict[int, str]] = {
    FabricErrno.EOTHER: "unspecified error",
    FabricErrno.ETOOSMALL: "provided buffer is too small",
    FabricErrno.EOPBADSTATE: "operation not permitted in the current state",
    FabricErrno.EAVAIL: "an error entry is available",
    FabricErrno.EBADFLAGS: "flags not supported",
    FabricErrno.ENOEQ: "no event queue is bound",
    FabricErrno.EDOMAIN: "objects belong to different domains",
    FabricErrno.ENOCQ: "no completion queue is bound",
    FabricErrno.ECRC: "checksum error",
    FabricErrno.ETRUNC: "the message was truncated",
    FabricErrno.ENOKEY: "a required key is not available",
    FabricErrno.ENOAV: "no address vector is bound",
    FabricErrno.EOVERRUN: "the queue has been overrun",
    FabricErrno.ENORX: "the receiver has no buffer posted",
}


def meaning(code: int) -> str:
    """Return what an error code of an operation means (fi_strerror)."""
    found = _MEANINGS.get(code)  # no exception: EAGAIN is asked for all the time
    return os.strerror(code) if found is None else found


class FabricError(I2OError, OSError):
    """An operation of an endpoint was refused; nothing was posted.

    Args:
        code: an errno, or a `FabricErrno`.
        message: what was wrong and what to do.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, f"{meaning(code)}: {message}")


class TryAgain(FabricError, BlockingIOError):
    """EAGAIN: no resource now. Read the completion queues, then make the same call again."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EAGAIN, message)


class ErrorAvailable(FabricError):
    """EAVAIL: the next entry of the completion queue is an error; `readerr` returns it."""

    def __init__(self) -> None:
        super().__init__(FabricErrno.EAVAIL, "the oldest entry is an error: take it with readerr()")
