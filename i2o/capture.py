# SPDX-License-Identifier: Apache-2.0
"""Captures the traffic of IOPs to pcapng: by `I2O_CAPTURE=FILE`, or by hand.

With the environment variable every IOP that a program attaches is captured, all to one file, and
the program need not know. It is looked at when an IOP is attached; without it no port gets anything
in front of it, so that not capturing costs nothing.
"""

from __future__ import annotations

import os
from typing import BinaryIO, Final

from i2o.frames.executive import EXEC_OUTBOUND_INIT
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.host_ranges import host_ranges
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.dma_tap import TapRules
from i2o.transport.capture.environment import VARIABLE, CaptureOptions, environment_capture
from i2o.transport.capture.recorder import IopRecorder
from i2o.transport.capture.tap import TapPort
from i2o.transport.port import Port
from i2o.transport.registry import open_port

__all__ = [
    "I2O_RULES",
    "VARIABLE",
    "CaptureOptions",
    "capture",
    "captured",
    "environment_capture",
    "tapped",
]

_OUTBOUND_INIT: Final = Function.EXEC_OUTBOUND_INIT.value
_PRIVATE: Final = Function.PRIVATE_MESSAGE.value
_FIRST_CLASS_FUNCTION, _FIRST_EXECUTIVE_FUNCTION = 0x20, 0xA0


def tapped(port: Port, recorder: IopRecorder) -> TapPort:
    """Put a tap in front of a port.

    Args:
        port: the port; closing the tap closes it.
        recorder: who is told: from `CaptureFile.add_iop`, or a `PacketRecorder`.
    """
    return TapPort(port, recorder, I2O_RULES)


def captured(port: Port, file: CaptureFile) -> Port:
    """Return a port whose traffic is captured; the same one if it is in that capture already."""
    inner: Port = port
    while isinstance(inner, TapPort):
        if getattr(inner.recorder, "capture", None) is file:
            return port
        inner = inner.inner
    return tapped(port, file.add_iop(port.name))


def capture(
    port: Port | str,
    destination: str | os.PathLike[str] | BinaryIO,
    *,
    dma: bool = True,
    max_file_bytes: int | None = None,
    max_files: int | None = None,
) -> Port:
    """Capture the traffic of one port to a file of its own, which is closed with the port.

    ```
    iop = i2o.open(capture("emu:", "trace.pcapng"))
    ```

    For several IOPs in one file, make a `CaptureFile` and use `captured`.

    Args:
        port: the port, or the URI of one to open.
        destination: a path, `-` for standard output, or a binary stream, which stays open.
        dma: whether to capture the memory that requests point to.
        max_file_bytes: start another file before one gets larger.
        max_files: keep only that many files, the latest.

    Returns:
        The port to use from now on.

    Raises:
        CaptureError: it cannot be written there.
        UriError, TransportUnavailable: the port cannot be opened.
    """
    file = CaptureFile(destination, dma=dma, max_file_bytes=max_file_bytes, max_files=max_files)
    try:
        opened = open_port(port) if isinstance(port, str) else port
        return _CapturedPort(opened, file.add_iop(opened.name), I2O_RULES)
    except BaseException:
        file.close()
        raise


class _CapturedPort(TapPort):
    """A port with a capture of its own."""

    def close(self) -> None:
        """Close the port, then the capture."""
        try:
            super().close()
        finally:
            self.recorder.capture.close()  # type: ignore[attr-defined]


def _reply_frame_size(frame: bytes) -> int:
    """Return the bytes of a reply frame that an OutboundInit gives, 0 for other requests."""
    if frame[7] != _OUTBOUND_INIT or len(frame) < EXEC_OUTBOUND_INIT.size:
        return 0
    return 4 * int(EXEC_OUTBOUND_INIT.unpack_from(frame).outbound_msg_frame_size)


def _is_bulk(frame: bytes) -> bool:
    """Whether a request moves a device's data, not structures or parameters."""
    function = frame[7]
    return _FIRST_CLASS_FUNCTION <= function < _FIRST_EXECUTIVE_FUNCTION or function == _PRIVATE


I2O_RULES: Final = TapRules(
    unanswered=UNANSWERED,
    reply_frame_size=_reply_frame_size,
    find_ranges=host_ranges,
    is_bulk=_is_bulk,
)
"""What a tap must know of I2O messages."""
