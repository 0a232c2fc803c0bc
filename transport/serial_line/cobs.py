# SPDX-License-Identifier: Apache-2.0
"""Consistent overhead byte stuffing: packets without zero bytes, so that a zero ends each of them.

Source: Cheshire and Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Transactions on
Networking 7(2), 1999.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from i2o.errors import RemoteFrameError

DELIMITER: Final = b"\0"
_LONGEST_RUN: Final = 254  # bytes without a zero that one code byte may stand for


def encoded_size(size: int) -> int:
    """Return the most bytes that a packet of this size becomes, without delimiters."""
    return size + 1 + size // _LONGEST_RUN


def encode(data: bytes) -> bytes:
    """Return the packet without zero bytes; no delimiter is added."""
    pieces: list[bytes] = []
    for run in data.split(DELIMITER):
        size = len(run)
        if size < _LONGEST_RUN:
            pieces += (bytes((size + 1,)), run)
            continue
        start = 0
        while size - start >= _LONGEST_RUN:
            pieces += (b"\xff", run[start : start + _LONGEST_RUN])
            start += _LONGEST_RUN
        # a run of 254 says nothing about a zero behind it: another code byte does
        pieces += (bytes((size - start + 1,)), run[start:])
    if len(pieces) > 2 and pieces[-2] == b"\x01" and pieces[-4] == b"\xff":
        del pieces[-2:]  # nothing but the end is behind the last long run
    return b"".join(pieces)


def decode(data: bytes) -> bytes:
    """Return what was encoded.

    Raises:
        RemoteFrameError: it is empty, has a zero, or ends before a code byte says so.
    """
    pieces: list[bytes] = []
    at, end = 0, len(data)
    if not end or DELIMITER in data:
        raise RemoteFrameError("a stuffed packet has at least one byte, and no zero")
    while True:
        code = data[at]
        following = at + code
        if following > end:
            raise RemoteFrameError(
                f"a stuffed packet of {end} bytes ends before the {code - 1} bytes that were said"
            )
        pieces.append(data[at + 1 : following])
        at = following
        if at == end:
            return b"".join(pieces)
        if code != 0xFF:
            pieces.append(DELIMITER)


class Splitter:
    """Cuts a stream of bytes at its delimiters, however it comes in.

    Args:
        limit: bytes of the longest packet, stuffed. Of a longer one nothing is kept.

    Attributes:
        overlong: packets, or pieces of garbage, that were longer.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._is_skipping = False
        self.overlong = 0

    @property
    def kept(self) -> int:
        """Bytes that wait for their delimiter."""
        return len(self._rest)

    def split(self, data: bytes) -> Iterator[bytes]:
        """Yield the packets that end in these bytes, still stuffed; empty ones are left out."""
        *ended, begun = data.split(DELIMITER)
        for piece in ended:
            if self._is_skipping:
                self._is_skipping = False
            elif len(self._rest) + len(piece) > self._limit:
                self.overlong += 1
            elif self._rest or piece:
                packet = bytes(self._rest) + piece
                self._rest.clear()
                yield packet
            self._rest.clear()
        if not self._is_skipping and begun:
            if len(self._rest) + len(begun) > self._limit:
                self.overlong += 1
                self._is_skipping = True
                self._rest.clear()
            else:
                self._rest += begun

    def clear(self) -> None:
        """Forget what has begun."""
        self._rest.clear()
        self._is_skipping = False
