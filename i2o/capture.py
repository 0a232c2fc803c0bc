# SPDX-License-Identifier: Apache-2.0
"""Captures the traffic of IOPs to pcapng: by `I2O_CAPTURE=FILE`, or by hand.

With the environment variable every IOP that a program attaches is captured, all to one file, and
the program need not know. It is looked at when an IOP is attached; without it no port gets anything
in front of it, so that not capturing costs nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, Final
from urllib.parse import parse_qsl

from i2o.errors import CaptureError
from i2o.frames.executive import EXEC_OUTBOUND_INIT
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.host_ranges import host_ranges
from i2o.transport.capture.capture_file import QUEUE_BYTES, CaptureFile
from i2o.transport.capture.capture_target import CaptureBusy
from i2o.transport.capture.dma_tap import TapRules
from i2o.transport.capture.pcapng_writer import MAX_SNAP_LENGTH
from i2o.transport.capture.recorder import DMA_SNAP, IopRecorder
from i2o.transport.capture.tap import TapPort
from i2o.transport.port import Port
from i2o.transport.registry import open_port
from i2o.transport.uri import parse_size

logger = logging.getLogger(__name__)

VARIABLE: Final = "I2O_CAPTURE"
"""The environment variable that says where to."""

_OUTBOUND_INIT: Final = Function.EXEC_OUTBOUND_INIT.value
_PRIVATE: Final = Function.PRIVATE_MESSAGE.value
_FIRST_CLASS_FUNCTION, _FIRST_EXECUTIVE_FUNCTION = 0x20, 0xA0
_SWITCH: Final = {"0": False, "no": False, "off": False, "1": True, "yes": True, "on": True}


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """Where and how to capture: what `FILE?name=value&name=value` says.

    Attributes:
        file: a path.
        dma: `dma`: capture the memory that requests point to.
        snap_length: `snap`: bytes to keep of any packet.
        dma_snap: `dma_snap`: bytes to keep of a packet of bulk data, its address included.
        max_file_bytes: `size`: start another file before one gets larger.
        max_file_seconds: `seconds`: start another file when one is that old.
        max_files: `files`: keep only the latest ones.
        queue_bytes: `queue`: packets that may wait for the disk.
    """

    file: str
    dma: bool = True
    snap_length: int = MAX_SNAP_LENGTH
    dma_snap: int = DMA_SNAP
    max_file_bytes: int | None = None
    max_file_seconds: float | None = None
    max_files: int | None = None
    queue_bytes: int = QUEUE_BYTES

    @classmethod
    def parse(cls, text: str) -> CaptureOptions:
        """Read a file name with options.

        Raises:
            CaptureError: an option is unknown, given twice or wrong, or there is no file name.
        """
        file, _, query = text.partition("?")
        if not file:
            raise CaptureError(f"{text!r} names no file to capture to")
        values: dict[str, bool | int | float] = {}
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError:
            raise CaptureError(f"{text!r}: options must read name=value&name=value") from None
        for name, value in pairs:
            if name not in _OPTIONS:
                known = ", ".join(sorted(_OPTIONS))
                raise CaptureError(f"{text!r}: unknown option {name!r}; there are {known}")
            attribute, convert = _OPTIONS[name]
            if attribute in values:
                raise CaptureError(f"{text!r}: option {name!r} is given twice")
            try:
                values[attribute] = convert(value)
            except ValueError:
                raise CaptureError(f"{text!r}: {name}={value!r} is not understood") from None
        return cls(file, **values)  # type: ignore[arg-type]

    def open(self) -> CaptureFile:
        """Start the capture; raises CaptureError if that cannot be."""
        return CaptureFile(
            self.file,
            dma=self.dma,
            snap_length=self.snap_length,
            dma_snap=self.dma_snap,
            max_file_bytes=self.max_file_bytes,
            max_file_seconds=self.max_file_seconds,
            max_files=self.max_files,
            queue_bytes=self.queue_bytes,
        )


def environment_capture() -> CaptureFile | None:
    """Return the capture that the environment asks for, the same one at every call.

    Returns:
        None if it asks for none, or if another program captures into that FIFO already.

    Raises:
        CaptureError: the variable makes no sense, or the file cannot be written.
    """
    text = os.environ.get(VARIABLE)
    return _capture_to(text, os.getpid()) if text else None


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


@cache
def _capture_to(text: str, pid: int) -> CaptureFile | None:
    """Start a capture, once for each process: a forked child gets a file of its own."""
    options = CaptureOptions.parse(text)
    if options.file == "-":
        raise CaptureError(
            f"{VARIABLE}=-: programs print to standard output; use a file, a FIFO or /dev/fd/3"
        )
    try:
        return options.open()
    except CaptureBusy as error:
        logger.warning("%s; this one is not captured", error)
        return None


def _reply_frame_size(frame: bytes) -> int:
    """Return the bytes of a reply frame that an OutboundInit gives, 0 for other requests."""
    if frame[7] != _OUTBOUND_INIT or len(frame) < EXEC_OUTBOUND_INIT.size:
        return 0
    return 4 * int(EXEC_OUTBOUND_INIT.unpack_from(frame).outbound_msg_frame_size)


def _is_bulk(frame: bytes) -> bool:
    """Whether a request moves a device's data, not structures or parameters."""
    function = frame[7]
    return _FIRST_CLASS_FUNCTION <= function < _FIRST_EXECUTIVE_FUNCTION or function == _PRIVATE


def _switch(text: str) -> bool:
    if text not in _SWITCH:
        raise ValueError(text)
    return _SWITCH[text]


I2O_RULES: Final = TapRules(
    unanswered=UNANSWERED,
    reply_frame_size=_reply_frame_size,
    find_ranges=host_ranges,
    is_bulk=_is_bulk,
)
"""What a tap must know of I2O messages."""

_OPTIONS: Final[dict[str, tuple[str, Callable[[str], bool | int | float]]]] = {
    "dma": ("dma", _switch),
    "snap": ("snap_length", parse_size),
    "dma_snap": ("dma_snap", parse_size),
    "size": ("max_file_bytes", parse_size),
    "seconds": ("max_file_seconds", float),
    "files": ("max_files", int),
    "queue": ("queue_bytes", parse_size),
}
