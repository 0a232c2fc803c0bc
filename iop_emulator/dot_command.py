# SPDX-License-Identifier: Apache-2.0
"""Dot commands: what IBM's service processors and their drivers say to each other.

They travel in private I2O messages whose header ends with the initiator context: 12 bytes. Then
come six bytes (type, size of the command, size of the data as 16 bits, status, reserved), the
command, which is a path of numbers, and the data. Found out by looking at Linux' driver ibmasm
at work.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from i2o.errors import RemoteFrameError

MESSAGE_HEADER_SIZE: Final = 12
_HEAD: Final = struct.Struct("<BBHBx")
_MESSAGE: Final = struct.Struct("<BBHII")
_VERSION: Final = 0x01
_FROM_PROCESSOR: Final = 0xFF004000
"""Function private, initiator 4, target 0: the driver's own requests have it, too."""


class DotType(IntEnum):
    """Type of a dot command."""

    WRITE = 0
    WRITE_NEXT = 1
    READ = 2
    READ_NEXT = 3
    RESPONSE = 4
    EVENT = 5
    HEARTBEAT = 6


@dataclass(frozen=True, slots=True)
class DotCommand:
    """One command, response or event.

    Attributes:
        kind: a `DotType`, or another number.
        command: the path.
        data: what goes with it.
        status: 0 for success.
    """

    kind: int
    command: bytes
    data: bytes = b""
    status: int = 0

    @classmethod
    def parse(cls, message: bytes) -> Self:
        """Read a message; raises RemoteFrameError if there is less of it than it says."""
        if len(message) < MESSAGE_HEADER_SIZE + _HEAD.size:
            raise RemoteFrameError(f"a message of {len(message)} bytes has no dot command")
        _, _, words, _, _ = _MESSAGE.unpack_from(message)
        kind, command_size, data_size, status = _HEAD.unpack_from(message, MESSAGE_HEADER_SIZE)
        start = MESSAGE_HEADER_SIZE + _HEAD.size
        end = start + command_size + data_size
        if end > min(4 * words, len(message)):
            raise RemoteFrameError(
                f"a dot command that ends after {end} bytes is in a message of {4 * words}"
            )
        return cls(
            kind, message[start : start + command_size], message[start + command_size : end], status
        )

    def message(self) -> bytes:
        """Return it as a message, in whole words."""
        body = _HEAD.pack(self.kind, len(self.command), len(self.data), self.status)
        body += self.command + self.data
        body += bytes(-len(body) % 4)
        words = (MESSAGE_HEADER_SIZE + len(body)) // 4
        return _MESSAGE.pack(_VERSION, 0, words, _FROM_PROCESSOR, 0) + body
