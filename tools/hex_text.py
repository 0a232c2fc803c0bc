# SPDX-License-Identifier: Apache-2.0
"""Reads frames that people have as text: bare hexadecimal, xxd, hexdump -C, `i2o dump -x`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from i2o.errors import LocalFrameError

MAX_BYTES: Final = 1 << 20
"""Bytes of one frame; MessageSize cannot say more than a quarter of it."""

_OFFSET: Final = re.compile(r"\s*([0-9a-fA-F]{4,16})(?::\s|\s{2})\s*(.*)")
_FILLERS: Final = re.compile(r"0[xX]|\\x|[\s,;:_-]")
_WORD: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,8})")
_DMA_LINE: Final = re.compile(r" iop\d+ (?:=>|<=) ")
_NOT_WORD: Final = re.compile(r"[\s,;]+")
_MIN_FRAME: Final = 12


def frames_of_text(lines: Iterable[str], *, as_words: bool = False) -> list[bytes]:
    """Return the frames in a text.

    Lines that start with an offset are a dump: a frame begins at offset 0, lines without an offset
    are ignored, and so is what `i2o dump` shows of DMA. Without offsets a line that is a whole
    frame by its MessageSize is one, and so are lines that are one together; an empty line ends a
    frame.

    Args:
        lines: the text.
        as_words: it shows 32-bit words, as a driver prints them, not bytes in memory order.

    Raises:
        LocalFrameError: something is no hexadecimal; says which line.
    """
    texts = [line.rstrip("\n") for line in lines]
    if any(_dumped(text) for text in texts):
        return _frames_of_dump(texts)
    return _frames_of_lines(texts, as_words)


def _frames_of_dump(texts: list[str]) -> list[bytes]:
    frames: list[bytearray] = []
    is_dma = False
    for text in texts:
        found = _dumped(text)
        if found is None:
            if " iop" in text:
                is_dma = _DMA_LINE.search(text) is not None
            continue
        if is_dma:
            continue
        offset, data = found
        if offset == 0 or not frames:
            frames.append(bytearray())
        if len(frames[-1]) <= MAX_BYTES:
            frames[-1] += data
    return [bytes(frame) for frame in frames if frame]


def _dumped(text: str) -> tuple[int, bytes] | None:
    """Return offset and bytes of a line of a dump, None if it is none."""
    match = _OFFSET.fullmatch(text)
    if match is None:
        return None
    data = bytearray()
    is_xxd = ":" in text[: match.start(2)]
    at, end = match.start(2), len(text)
    while at < end and len(data) < 16:
        width = 0
        while at + width < end and text[at + width] in "0123456789abcdefABCDEF":
            width += 1
        follows = text[at + width : at + width + 1]
        if width % 2 or not width or follows not in ("", " ") or (width > 2 and not is_xxd):
            break
        data += bytes.fromhex(text[at : at + width])
        at += width
        blanks = 0
        while at < end and text[at] == " ":
            at, blanks = at + 1, blanks + 1
        # two blanks: the middle of a line of 16, or its text
        if blanks > 2 or (blanks == 2 and (is_xxd or len(data) != 8)):
            break
    return (int(match[1], 16), bytes(data)) if data else None


def _frames_of_lines(texts: list[str], as_words: bool) -> list[bytes]:
    frames: list[bytes] = []
    collected = b""
    for number, text in enumerate([*texts, ""], 1):
        data = _words(number, text) if as_words else _bytes(number, text)
        if collected and (not data or is_whole(data) or _is_complete(collected)):
            frames.append(collected)
            collected = b""
        collected += data
        if len(collected) > MAX_BYTES:
            raise LocalFrameError(f"line {number}: no frame has more than {MAX_BYTES} bytes")
    return [frame for found in frames for frame in _cut(found)]


def is_whole(data: bytes) -> bool:
    """Whether bytes are exactly one frame, as its MessageSize says."""
    return len(data) >= _MIN_FRAME and 4 * _size_words(data) == len(data)


def _is_complete(data: bytes) -> bool:
    return len(data) >= _MIN_FRAME and 4 * _size_words(data) <= len(data)


def _cut(data: bytes) -> list[bytes]:
    """Cut bytes into frames if that comes out even, else leave them as they are."""
    frames, at = [], 0
    while len(data) - at >= _MIN_FRAME:
        size = 4 * _size_words(data[at:])
        if size < _MIN_FRAME:
            break
        frames.append(data[at : at + size])
        at += size
    return frames if at == len(data) else [data]


def _size_words(data: bytes) -> int:
    return data[2] | data[3] << 8


def _bytes(number: int, text: str) -> bytes:
    digits = _FILLERS.sub("", text)
    try:
        return bytes.fromhex(digits)
    except ValueError:
        what = "an odd number of digits" if re.fullmatch("[0-9a-fA-F]*", digits) else "no hex"
        raise LocalFrameError(f"line {number}: {what}: {_shown(text)}") from None


def _words(number: int, text: str) -> bytes:
    found = b""
    for word in filter(None, _NOT_WORD.split(text)):
        match = _WORD.fullmatch(word)
        if match is None:
            raise LocalFrameError(f"line {number}: {_shown(word)} is no word of up to 8 hex digits")
        found += int(match[1], 16).to_bytes(4, "little")
    return found


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
