# SPDX-License-Identifier: Apache-2.0
"""A transfer that a host asks for, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum, auto
from typing import Final

from construct import Int8ul, Int16ul

from i2o.frames.layout import structure

SETUP: Final = structure(
    "setup_packet",
    "request_type" / Int8ul,
    "request" / Int8ul,
    "value" / Int16ul,
    "index" / Int16ul,
    "length" / Int16ul,
    chapter="usb",
    reference="USB 2.0, 9.3",
)
"""What a control transfer begins with."""
TO_HOST: Final = 0x80
KIND_MASK: Final = 0x60
STANDARD: Final = 0x00
VENDOR: Final = 0x40
RECIPIENT_MASK: Final = 0x1F


class Recipient(IntEnum):
    """Whom a control request is for."""

    DEVICE = 0
    INTERFACE = 1
    ENDPOINT = 2


class Status(Enum):
    """How a transfer ended."""

    OK = auto()
    """It moved `actual` bytes, which may be less than what was asked for."""
    STALL = auto()
    """The endpoint is halted, or the device refuses the request."""
    OVERFLOW = auto()
    """A packet was larger than the room that was left."""
    CANCELLED = auto()
    """The host wanted it no longer."""
    GONE = auto()
    """The device is not there, or not configured."""


class Transfer:
    """One transfer.

    Args:
        endpoint: its address; 0 for a control transfer of either direction.
        length: bytes that the host has room for, if they go to the host.
        data: what goes to the device, else nothing.
        setup: of a control transfer, the packet that it begins with.
        ends: of data to the device: whether the host sends an empty packet if it must, so that
            nothing else belongs to it. Without it, whole packets may go on with the next transfer.
        done: called once when it has ended, with the device's lock held.

    Attributes:
        status: how it ended, None as long as it has not.
        answer: what goes to the host.
        actual: bytes that were moved.
    """

    __slots__ = (
        "actual",
        "answer",
        "data",
        "done",
        "endpoint",
        "ends",
        "length",
        "setup",
        "status",
    )

    def __init__(
        self,
        endpoint: int,
        *,
        length: int = 0,
        data: bytes | memoryview = b"",
        setup: bytes = b"",
        ends: bool = False,
        done: Callable[[Transfer], None],
    ) -> None:
        self.endpoint, self.length, self.data, self.setup = endpoint, length, data, setup
        self.ends, self.done = ends, done
        self.status: Status | None = None
        self.answer: bytes | memoryview = b""
        self.actual = 0

    def end(self, status: Status, answer: bytes | memoryview = b"", actual: int = 0) -> None:
        """End it and tell whoever asked for it."""
        self.status, self.answer = status, answer
        self.actual = len(answer) or actual
        self.done(self)
