# SPDX-License-Identifier: Apache-2.0
"""Pcapng blocks written by hand, to test readers with: any byte order, any options."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Options = Sequence[tuple[int, bytes]]
USER0, USER1 = 147, 148


class Blocks:
    """Builds blocks of one byte order."""

    def __init__(self, order: str = "<") -> None:
        self.order = order

    def block(self, kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        length = len(body) + 12
        return self.pack("II", kind, length) + body + self.pack("I", length)

    def section(self) -> bytes:
        return self.block(0x0A0D0D0A, self.pack("IHHq", 0x1A2B3C4D, 1, 0, -1))

    def interface(
        self,
        name: str = "",
        link_type: int = USER0,
        snap: int = 0,
        options: Options = ((9, b"\t"),),
    ) -> bytes:
        every = [*options]
        if name:
            every.insert(0, (2, name.encode()))
        return self.block(1, self.pack("HHI", link_type, 0, snap) + self.options(every))

    def packet(
        self,
        interface: int,
        time: int,
        data: bytes,
        *,
        length: int | None = None,
        options: Options = (),
    ) -> bytes:
        head = self.pack(
            "IIIII", interface, time >> 32, time & 0xFFFFFFFF, len(data), length or len(data)
        )
        padded = data + bytes(-len(data) % 4)
        return self.block(6, head + padded + self.options(options))

    def statistics(self, interface: int, options: Options = ()) -> bytes:
        return self.block(5, self.pack("III", interface, 0, 0) + self.options(options))

    def flags(self, value: int) -> tuple[int, bytes]:
        return 2, self.pack("I", value)

    def packet_id(self, value: int) -> tuple[int, bytes]:
        return 5, self.pack("Q", value)

    def options(self, options: Options) -> bytes:
        if not options:
            return b""
        parts = [
            self.pack("HH", code, len(value)) + value + bytes(-len(value) % 4)
            for code, value in options
        ]
        return b"".join(parts) + bytes(4)

    def pack(self, form: str, *values: int) -> bytes:
        return struct.pack(self.order + form, *values)
