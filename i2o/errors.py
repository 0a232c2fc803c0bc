# SPDX-License-Identifier: Apache-2.0
"""The errors of the whole project: one root, and one class per kind of blame.

Local mistakes (we built nonsense), remote mistakes (the other side sent nonsense) and
things that cannot run here are different classes, because a caller reacts differently.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple


class I2OError(Exception):
    """The root of every error that this project raises on purpose."""


class LocalFrameError(I2OError, ValueError):
    """A frame, field or buffer built on this side does not fit its layout."""


class RemoteFrameError(I2OError, ValueError):
    """The other side sent something that its layout or its bounds forbid."""


class UriError(I2OError, ValueError):
    """A URI names no known backend, or an option that the backend does not have."""


class TransportUnavailable(I2OError):
    """The backend exists but cannot run here.

    Args:
        backend: the URI scheme.
        reason: what is missing, in one clause.
        remedy: what the user can do about it.
    """

    def __init__(self, backend: str, reason: str, *, remedy: str = "") -> None:
        self.backend, self.reason, self.remedy = backend, reason, remedy
        super().__init__(f"{backend}: {reason}" + (f" ({remedy})" if remedy else ""))


class DmaFault(RemoteFrameError):
    """A device-side access to host memory that no buffer covers.

    Args:
        address: the first bus address of the access.
        length: bytes asked for.
        why: what is wrong with that range.
    """

    def __init__(self, address: int, length: int, why: str = "no host buffer covers it") -> None:
        self.address, self.length = address, length
        super().__init__(f"DMA of {length} bytes at bus address {address:#010x}: {why}")


class MessageLayerError(I2OError, OSError):
    """A message layer call failed; `errno` is the code that D3i2o documents for it."""

    default_errno = errno.EINVAL

    def __init__(self, message: str, code: int | None = None) -> None:
        number = self.default_errno if code is None else code
        super().__init__(number, f"{os.strerror(number)}: {message}")

    def explain(self, text: str) -> None:
        """Add to the message where this happened, or what to do about it."""
        self.strerror = f"{self.strerror}; {text}"
        self.args = (self.errno, self.strerror)


class InvalidArgument(MessageLayerError):
    """EINVAL: an unknown IOP, cookie or frame, a reserved flag bit, a size that is not allowed."""


class OutOfFrames(MessageLayerError):
    """ENOMEM: no message frame (or registration slot) was free within the allowed wait."""

    default_errno = errno.ENOMEM


class IopDead(MessageLayerError):
    """EIO: the IOP does not answer, left the state it must be in, or is gone."""

    default_errno = errno.EIO


class RecoveryStep(NamedTuple):
    """One step that was taken about a request that was late.

    Attributes:
        name: `status`, `abort`, `device reset` or `IOP reset`.
        seconds: how long it took.
        outcome: what came of it.
    """

    name: str
    seconds: float
    outcome: str


class RequestTimeout(MessageLayerError, TimeoutError):
    """ETIMEDOUT: a request got no final reply in time.

    Args:
        message: which, and how long it was waited for.
        steps: what was done about it.
    """

    default_errno = errno.ETIMEDOUT

    def __init__(self, message: str, *, steps: tuple[RecoveryStep, ...] = ()) -> None:
        told = [message, *(f"{step.name}: {step.outcome}" for step in steps)]
        super().__init__("; ".join(told))
        self.steps = steps


class RequestFailed(MessageLayerError):
    """EIO: the IOP answered with a status other than success.

    Args:
        message: request, status names and what they mean.
        req_status: the ReqStatus byte, or None when the reply was a FAIL frame.
        detail: the DetailedStatusCode, or the failure code of a FAIL frame.
        transfer_count: bytes that the failing message moved, as its device counts.

    Attributes:
        delivered: of a read of a block device, how many bytes from its start on are in the buffer.
        address: the byte of a block device that failed, where the device told.
    """

    default_errno = errno.EIO
    delivered = 0
    address: int | None = None

    def __init__(
        self, message: str, *, req_status: int | None, detail: int, transfer_count: int = 0
    ) -> None:
        super().__init__(message)
        self.req_status, self.detail, self.transfer_count = req_status, detail, transfer_count


class ParameterError(I2OError, LookupError):
    """A parameter group, field or row does not exist, or cannot be read or written.

    Args:
        message: what was asked and what the device answered.
        block_status: the BlockStatus byte of the result block.
    """

    def __init__(self, message: str, block_status: int = 0) -> None:
        super().__init__(message)
        self.block_status = block_status


class CaptureError(I2OError):
    """A capture cannot be written where it should go, or a file is no capture that we read."""
