# SPDX-License-Identifier: Apache-2.0
"""The two ways in: `open` an IOP of one's own, or share the program's default message layer."""

from __future__ import annotations

from functools import cache
from typing import Final

from i2o.bring_up import Limits
from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.iop import Iop
from i2o.message_layer import FrameSource, MessageLayer
from i2o.recovery import Recovery
from i2o.transport.port import Port

_DEFAULT_RECOVERY: Final = Recovery()


@cache
def default_message_layer() -> MessageLayer:
    """Return the message layer that `i2o.d3i2o` works on: one per process."""
    return MessageLayer()


def open(
    uri: str | Port,
    *,
    layer: MessageLayer | None = None,
    clock: Clock = SYSTEM_CLOCK,
    frame_source: FrameSource = "memory",
    limits: Limits | None = None,
    timeout_s: float = 30.0,
    recovery: Recovery | None = _DEFAULT_RECOVERY,
) -> Iop:
    """Open an IOP and bring it up.

    Args:
        uri: which one, for example `emu:?disk=array.img`; or an open port.
        layer: the message layer to attach to; a new one, closed with the IOP, if None.
        clock: for a new layer.
        frame_source: see `MessageLayer.attach`.
        limits: time limits and frame counts of the bring-up.
        timeout_s: how long later requests may take.
        recovery: what to do about one that takes longer (abort it, reset its device, reset the
            IOP); None for nothing.

    Returns:
        The IOP, OPERATIONAL. It is a context manager; closing it detaches it.

    Raises:
        UriError, TransportUnavailable: it cannot be opened.
        IopDead, RequestTimeout, RequestFailed: it does not come up.
    """
    own = layer is None
    shared = MessageLayer(clock=clock) if layer is None else layer
    number = shared.attach(uri, frame_source=frame_source, limits=limits)
    try:
        return Iop(shared, number, owns_layer=own, timeout_s=timeout_s, recovery=recovery)
    except BaseException:
        shared.detach(number)
        raise
