# SPDX-License-Identifier: Apache-2.0
"""The message layer with SCO's names and return codes (HDK Technical Reference 2, D3i2o).

Module-level functions as in the kernel, on `i2o.default_message_layer()`. They return what the
manual pages document: SUCCESS, EINVAL, ENOMEM, -1 or None. A C out-parameter is part of a returned
tuple. Where the pages are silent or contradict themselves, docs/d3i2o.md says what was chosen.

Replies are dispatched by whoever drives the layer: call `i2o.default_message_layer().poll()`, or
run an `i2o.dispatcher.Dispatcher` on it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from i2o.cookies import Callback
from i2o.errors import I2OError, OutOfFrames
from i2o.message_frames import MessageFrame, ReplyFrame, RequestFrame
from i2o.message_layer import I2O_FRAMESIZE_FORCE
from i2o.opening import default_message_layer
from i2o.waits import I2OTRANS_NOSLEEP, I2OTRANS_SLEEP

_LAYER: Final = default_message_layer()
_REFUSALS: Final = (I2OError, OSError, TypeError, ValueError)  # wrong arguments have a code, too
SUCCESS: Final = 0
TRUE: Final = 1
FALSE: Final = 0
I2O_FRAME_FORCE: Final = I2O_FRAMESIZE_FORCE
"""The spelling that the text of OSMMsgSetInboundFrameSize uses for the same flag."""


def OSMMsgOpenCall() -> None:  # noqa: N802
    """Initialise the message layer. Every OSM calls it first; again is harmless."""
    # importing this module made the layer


def OSMMsgRegister(  # noqa: N802
    count: int,
    CbFuncArray: Sequence[Callback],  # noqa: N803
) -> tuple[int, int, tuple[int, ...]]:
    """Register an OSM.

    Args:
        count: how many callbacks; must be the array's length.
        CbFuncArray: functions called with (IOP number, reply frame).

    Returns:
        (status, base cookie, cookies). Status is SUCCESS, EINVAL (no callbacks, or count does
        not fit) or ENOMEM (too many OSMs); then the cookie is 0 and there are none.
    """
    if count != len(CbFuncArray):
        return errno.EINVAL, 0, ()
    try:
        base, cookies = _LAYER.register(CbFuncArray)
    except _REFUSALS as error:
        return _code(error), 0, ()
    return SUCCESS, base, cookies


def OSMMsgDeRegister(base_cookie: int) -> int:  # noqa: N802
    """Forget an OSM. Returns SUCCESS, or EINVAL for a number that is no base cookie."""
    try:
        _LAYER.deregister(base_cookie)
    except _REFUSALS as error:
        return _code(error)
    return SUCCESS


def OSMMsgGetReqBuf(iop: int, wait: int, flags: int) -> RequestFrame | None:  # noqa: N802
    """Get a request frame.

    Args:
        iop: IOP number.
        wait: ticks to wait for a frame (ignored while frames come from system memory).
        flags: I2OTRANS_SLEEP or I2OTRANS_NOSLEEP.

    Returns:
        The frame, or None.
    """
    try:
        return _LAYER.request_frame(iop, wait, flags)
    except _REFUSALS:
        return None


def OSMMsgFreeReqBuf(iop: int, buffer: RequestFrame) -> int:  # noqa: N802
    """Give a request frame back unsent. Returns SUCCESS, or EINVAL if it is not held on it."""
    try:
        _LAYER.free_request(iop, buffer)
    except _REFUSALS as error:
        return _code(error)
    return SUCCESS


def OSMMsgSend(IopNum: int, msg: RequestFrame, wait: int, flags: int) -> int:  # noqa: N802, N803
    """Send a request.

    Args:
        IopNum: IOP number.
        msg: a frame from OSMMsgGetReqBuf for the same IOP.
        wait: microseconds to wait for a free inbound frame; retried every 100 ms.
        flags: I2OTRANS_SLEEP or I2OTRANS_NOSLEEP; all other bits are reserved.

    Returns:
        SUCCESS: delivered, the transport frees the frame. EINVAL, ENOMEM: the frame is still the
        caller's, to send again or to free.
    """
    try:
        _LAYER.send(IopNum, msg, wait, flags)
    except _REFUSALS as error:
        return _code(error)
    return SUCCESS


def OSMMsgFreeRepBuf(IopNum: int, reply: ReplyFrame) -> int:  # noqa: N802, N803
    """Give a reply frame back. Returns SUCCESS, or EINVAL if it is not held on that IOP."""
    try:
        _LAYER.free_reply(IopNum, reply)
    except _REFUSALS as error:
        return _code(error)
    return SUCCESS


def OSMMsgGetNumIops() -> int:  # noqa: N802
    """Return how many IOPs are registered, initialised or not."""
    return _LAYER.iop_count()


def OSMMsgIopValid(IopNum: int) -> int:  # noqa: N802, N803
    """Return TRUE if the IOP is known, online and active, else FALSE."""
    return TRUE if _LAYER.iop_valid(IopNum) else FALSE


def OSMMsgIopToKey(IopNum: int) -> int:  # noqa: N802, N803
    """Return the resource manager's key of an IOP, or -1."""
    try:
        return _LAYER.iop_key(IopNum)
    except _REFUSALS:
        return -1


def OSMMsgKeyToIop(key: int) -> int:  # noqa: N802
    """Return the IOP with that resource manager's key, or -1."""
    try:
        return _LAYER.iop_by_key(key)
    except _REFUSALS:
        return -1


OSMMsgKeytoIop = OSMMsgKeyToIop
"""The synopsis of the manual page spells it this way."""


def OSMMsgMfaConvert(IopNum: int, mfa: int) -> MessageFrame | None:  # noqa: N802, N803
    """Return the request preserved for a FAIL reply that is still held, or None."""
    try:
        return _LAYER.mfa_convert(IopNum, mfa)
    except _REFUSALS:
        return None


def OSMMsgGetInboundFrameSize(IopNum: int) -> int:  # noqa: N802, N803
    """Return the bytes of an inbound frame, or -1."""
    try:
        return _LAYER.inbound_frame_size(IopNum)
    except _REFUSALS:
        return -1


def OSMMsgGetOutboundFrameSize(IopNum: int) -> int:  # noqa: N802, N803
    """Return the bytes of an outbound frame, or -1."""
    try:
        return _LAYER.outbound_frame_size(IopNum)
    except _REFUSALS:
        return -1


def OSMMsgSetInboundFrameSize(IopNum: int, size: int, flags: int) -> int:  # noqa: N802, N803
    """Ask for an inbound frame size at the IOP's next reboot.

    Args:
        IopNum: IOP number.
        size: bytes, a power of two.
        flags: I2O_FRAMESIZE_FORCE to go below what was asked before, else 0.

    Returns:
        SUCCESS (also when a lower request was ignored), or EINVAL: unknown IOP, a size that is no
        power of two, reserved flag bits, or an IOP that refused.
    """
    try:
        _LAYER.set_inbound_frame_size(IopNum, size, flags)
    except _REFUSALS:
        return errno.EINVAL
    return SUCCESS


def _code(error: Exception) -> int:
    """Return the documented code: ENOMEM where the page knows it, else EINVAL."""
    return errno.ENOMEM if isinstance(error, OutOfFrames) else errno.EINVAL


__all__ = [
    "FALSE",
    "I2OTRANS_NOSLEEP",
    "I2OTRANS_SLEEP",
    "I2O_FRAMESIZE_FORCE",
    "I2O_FRAME_FORCE",
    "SUCCESS",
    "TRUE",
    "OSMMsgDeRegister",
    "OSMMsgFreeRepBuf",
    "OSMMsgFreeReqBuf",
    "OSMMsgGetInboundFrameSize",
    "OSMMsgGetNumIops",
    "OSMMsgGetOutboundFrameSize",
    "OSMMsgGetReqBuf",
    "OSMMsgIopToKey",
    "OSMMsgIopValid",
    "OSMMsgKeyToIop",
    "OSMMsgKeytoIop",
    "OSMMsgMfaConvert",
    "OSMMsgOpenCall",
    "OSMMsgRegister",
    "OSMMsgSend",
    "OSMMsgSetInboundFrameSize",
]
