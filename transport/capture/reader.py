# SPDX-License-Identifier: Apache-2.0
"""Opens a capture whatever its format: pcapng, classic pcap, JSONL traces, each perhaps gzipped."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Protocol

from i2o.closing import Closing
from i2o.errors import CaptureError
from i2o.transport.capture import pcap_reader, pcapng_reader
from i2o.transport.capture.jsonl_reader import JsonlReader
from i2o.transport.capture.packet import Packet
from i2o.transport.capture.pcap_reader import PcapReader
from i2o.transport.capture.pcapng_reader import Interface, PcapngReader

_CHUNK: Final = 1 << 18
_INFLATE_STEP: Final = 1 << 12  # so that what comes before damage is read
_GZIP: Final = b"\x1f\x8b"
_MAGIC_SIZE: Final = 4


class FormatReader(Protocol):
    """What the reader of each format offers."""

    interfaces: list[Interface]
    problems: list[str]
    foreign: Counter[int]

    @property
    def dropped(self) -> int:
        """Packets that the capture lost, as far as it says."""

    def __iter__(self) -> Iterator[Packet]: ...


class Capture(Closing):
    """A capture being read. Iterate over it once; packets come as soon as they are there.

    Args:
        stream: where the bytes come from, with `read1`; closed with the capture.
        name: what to call it in messages.

    Raises:
        CaptureError: the first bytes are those of no format that is known.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self._stream = stream
        self._error = ""
        read: Callable[[], bytes] = self._read_file
        start = _at_least(read, _MAGIC_SIZE)
        if start[: len(_GZIP)] == _GZIP:
            read = _Gunzip(_behind(start, read)).read
            read = self._noting_errors(read)
            start = _at_least(read, _MAGIC_SIZE)
        if self._error and not start:
            raise CaptureError(f"{name}: {self._error}")
        self._reader = _format_reader(start, _behind(start, read), name)

    @property
    def interfaces(self) -> list[Interface]:
        """Interfaces read so far, of all sections."""
        return self._reader.interfaces

    @property
    def dropped(self) -> int:
        """Packets that the capture lost, as far as it says."""
        return self._reader.dropped

    @property
    def foreign(self) -> Counter[int]:
        """Packets of other link types, which are skipped, by link type."""
        return self._reader.foreign

    @property
    def problems(self) -> list[str]:
        """What was wrong with the file so far, in sentences."""
        return self._reader.problems + ([self._error] if self._error else [])

    def __iter__(self) -> Iterator[Packet]:
        return iter(self._reader)

    def protect(self) -> None:
        """Keep captures of this and other programs from overwriting the file while it is read."""
        with contextlib.suppress(OSError, ValueError):  # no file, or one that is being written
            fcntl.flock(self._stream.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)

    def close(self) -> None:
        """Close the stream; a second call does nothing."""
        self._stream.close()

    def _read_file(self) -> bytes:
        try:
            chunk: bytes = self._stream.read1(_CHUNK)  # type: ignore[attr-defined]
        except OSError as error:
            self._error = f"it cannot be read further: {error.strerror or error}"
            return b""
        return chunk

    def _noting_errors(self, read: Callable[[], bytes]) -> Callable[[], bytes]:
        def guarded() -> bytes:
            try:
                return read()
            except zlib.error as error:
                self._error = f"its compressed data are damaged: {error}"
            except EOFError:
                self._error = "its compressed data end too early"
            return b""

        return guarded


def open_capture(path: str) -> Capture:
    """Open a capture for reading.

    Args:
        path: a file or FIFO; `-` for standard input.

    Raises:
        CaptureError: it is in no format that is known, or empty.
        OSError: it cannot be opened.
    """
    if path == "-":
        return Capture(sys.stdin.buffer, "standard input")
    stream = open(path, "rb")  # noqa: SIM115  the capture closes it
    try:
        return Capture(stream, path)
    except BaseException:
        stream.close()
        raise


class _Gunzip:
    """Inflates a stream of gzip members, at most one chunk at a time."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._rest = b""

    def read(self) -> bytes:
        """Return the next bytes, empty at the end; raises zlib.error, EOFError."""
        while True:
            packed = self._rest or self._read()
            if not packed:
                if self._inflate.eof:
                    return b""
                raise EOFError
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
            piece, rest = packed[:_INFLATE_STEP], packed[_INFLATE_STEP:]
            plain = self._inflate.decompress(piece, _CHUNK)
            self._rest = (self._inflate.unconsumed_tail or self._inflate.unused_data) + rest
            if plain:
                return plain


def _at_least(read: Callable[[], bytes], size: int) -> bytes:
    """Read until there are that many bytes, or no more."""
    start = b""
    while len(start) < size and (chunk := read()):
        start += chunk
    return start


def _behind(start: bytes, read: Callable[[], bytes]) -> Callable[[], bytes]:
    """Return a function that gives `start` first, then what `read` gives."""
    first = [start] if start else []

    def next_bytes() -> bytes:
        return first.pop() if first else read()

    return next_bytes


def _format_reader(start: bytes, read: Callable[[], bytes], name: str) -> FormatReader:
    magic = start[:_MAGIC_SIZE]
    if magic == pcapng_reader.MAGIC:
        return PcapngReader(read)
    if magic in pcap_reader.MAGICS:
        return PcapReader(read)
    if start.lstrip()[:1] == b"{":
        return JsonlReader(read)
    if not start:
        raise CaptureError(f"{name}: there is nothing in it")
    raise CaptureError(
        f"{name}: neither pcapng nor pcap nor a JSONL trace (it starts with {magic.hex(' ')})"
    )
