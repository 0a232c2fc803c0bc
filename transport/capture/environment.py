# SPDX-License-Identifier: Apache-2.0
"""What `I2O_CAPTURE=FILE` asks for: one capture for a whole program, ports and endpoints alike.

The variable is looked at when something is opened; what is not captured gets nothing in front of
it. What a tap of a port must know of I2O is the host side's (`i2o.capture`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import parse_qsl

from i2o.errors import CaptureError
from i2o.transport.capture.capture_file import QUEUE_BYTES, CaptureFile
from i2o.transport.capture.capture_target import CaptureBusy
from i2o.transport.capture.connection_tap import TapPassiveEndpoint
from i2o.transport.capture.endpoint_recorder import PAYLOAD_BYTES
from i2o.transport.capture.endpoint_tap import TapEndpoint
from i2o.transport.capture.messenger_tap import MessengerLike, TapMessenger
from i2o.transport.capture.pcapng_writer import MAX_SNAP_LENGTH
from i2o.transport.capture.recorder import DMA_SNAP
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.flags import EndpointType
from i2o.transport.uri import parse_size

logger = logging.getLogger(__name__)

VARIABLE: Final = "I2O_CAPTURE"
"""The environment variable that says where to."""

_SWITCH: Final = {"0": False, "no": False, "off": False, "1": True, "yes": True, "on": True}


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """Where and how to capture: what `FILE?name=value&name=value` says.

    Attributes:
        file: a path.
        dma: `dma`: capture the memory that requests point to.
        messages: `messages`: capture the messages of endpoints.
        snap_length: `snap`: bytes to keep of any packet.
        dma_snap: `dma_snap`: bytes to keep of a packet of bulk data, its address included.
        payload_bytes: `message_snap`: bytes to keep of a message.
        max_file_bytes: `size`: start another file before one gets larger.
        max_file_seconds: `seconds`: start another file when one is that old.
        max_files: `files`: keep only the latest ones.
        queue_bytes: `queue`: packets that may wait for the disk.
    """

    file: str
    dma: bool = True
    messages: bool = True
    snap_length: int = MAX_SNAP_LENGTH
    dma_snap: int = DMA_SNAP
    payload_bytes: int = PAYLOAD_BYTES
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
            payload_bytes=self.payload_bytes,
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


def captured_endpoint(endpoint: Endpoint, file: CaptureFile, description: str = "") -> Endpoint:
    """Return an endpoint whose messages are captured.

    Args:
        endpoint: the endpoint; closing what is returned closes it.
        file: the capture. An endpoint that is in it already is returned as it is.
        description: its URI; its name by default.
    """
    inner: object = endpoint
    while isinstance(inner, TapEndpoint):
        if getattr(inner.recorder, "capture", None) is file:
            return endpoint
        inner = inner.inner
    recorder = file.add_endpoint(
        description or _name_of(endpoint), endpoint_type=endpoint.attributes.type
    )
    return TapEndpoint(endpoint, recorder)


def captured_listener(
    listener: PassiveEndpoint, file: CaptureFile, description: str = ""
) -> PassiveEndpoint:
    """Return an endpoint that listens, and that everything which comes of it is captured of.

    Args:
        listener: the endpoint; closing what is returned closes it.
        file: the capture.
        description: its URI; its name by default.
    """
    recorder = file.add_endpoint(
        description or _name_of(listener), endpoint_type=EndpointType.MSG.value
    )
    return TapPassiveEndpoint(listener, recorder, lambda made: captured_endpoint(made, file))


def endpoint_by_environment(endpoint: Endpoint, description: str = "") -> Endpoint:
    """Return an endpoint as the environment asks: captured, or as it is.

    Args:
        endpoint: an endpoint that was just made.
        description: its URI.

    Raises:
        CaptureError: the variable makes no sense, or the file cannot be written.
    """
    file = _message_capture()
    return endpoint if file is None else captured_endpoint(endpoint, file, description)


def listener_by_environment(listener: PassiveEndpoint, description: str = "") -> PassiveEndpoint:
    """Return an endpoint that listens as the environment asks: captured, or as it is.

    Args:
        listener: an endpoint that was just made.
        description: its URI.

    Raises:
        CaptureError: the variable makes no sense, or the file cannot be written.
    """
    file = _message_capture()
    return listener if file is None else captured_listener(listener, file, description)


def messenger_by_environment(messenger: MessengerLike, name: str) -> TapMessenger | None:
    """Return a tap in front of a messenger, if the environment asks for one.

    Args:
        messenger: a messenger that was just made.
        name: of it.

    Raises:
        CaptureError: the variable makes no sense, or the file cannot be written.
    """
    file = _message_capture()
    return None if file is None else TapMessenger(messenger, file.add_endpoint(f"peers of {name}"))


def _message_capture() -> CaptureFile | None:
    text = os.environ.get(VARIABLE)
    if not text or not CaptureOptions.parse(text).messages:
        return None
    return environment_capture()


def _name_of(end: Endpoint | PassiveEndpoint) -> str:
    """Return the name of an endpoint, which not all have before they are enabled."""
    try:
        return end.name
    except OSError:
        return ""


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


def _switch(text: str) -> bool:
    if text not in _SWITCH:
        raise ValueError(text)
    return _SWITCH[text]


_OPTIONS: Final[dict[str, tuple[str, Callable[[str], bool | int | float]]]] = {
    "dma": ("dma", _switch),
    "messages": ("messages", _switch),
    "message_snap": ("payload_bytes", parse_size),
    "snap": ("snap_length", parse_size),
    "dma_snap": ("dma_snap", parse_size),
    "size": ("max_file_bytes", parse_size),
    "seconds": ("max_file_seconds", float),
    "files": ("max_files", int),
    "queue": ("queue_bytes", parse_size),
}
