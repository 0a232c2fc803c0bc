# SPDX-License-Identifier: Apache-2.0
"""Walks scatter/gather lists (v1.5): what a frame says about host memory.

`sgl_elements` yields every element of a list and of the lists chained to it; `walk_sgl` makes
buffers of them. Whatever the bytes say, the work is bounded: by the end that the caller gives
(MessageSize), by a cap on elements and by refusing chain cycles. Nothing is read from host memory
but chained lists, through a function that the caller hands in. I2O 1.5 §3.4.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from i2o.errors import I2OError, LocalFrameError, RemoteFrameError
from i2o.frames.sgl import SglAttributeFlags

Buffer: TypeAlias = bytes | bytearray | memoryview
ReadHost: TypeAlias = Callable[[int, int], Buffer]
Piece: TypeAlias = "tuple[int, int] | bytes | BitBucket"
ElementKind: TypeAlias = Literal[
    "ignore",
    "transport",
    "bit_bucket",
    "immediate",
    "simple",
    "page_list",
    "chain",
    "long_transaction",
    "short_transaction",
    "attributes",
]

MAX_ELEMENTS: Final = 32768
"""Elements of one list, chained ones included, that the walker reads before it gives up."""
MAX_PIECES: Final = 65536
"""Pages that the page lists of one list may name together."""
MAX_CHAINS: Final = 1024
"""Chain elements that the walker follows in one list, nested or one after another."""
MAX_CHAINED_BYTES: Final = 1 << 24
"""Bytes of chained lists that the walker reads from host memory."""

_LAST, _END_OF_BUFFER, _LOCAL, _DIR = 0x80, 0x40, 0x08, 0x04
_ADDRESS_64BIT: Final = SglAttributeFlags.ADDRESS_64BIT.value
_TRANSACTION_64BIT: Final = SglAttributeFlags.TRANSACTION_64BIT.value

_KINDS: Final[dict[int, ElementKind]] = {
    0x00: "ignore",
    0x04: "transport",
    0x08: "bit_bucket",
    0x48: "bit_bucket",
    0x0C: "immediate",
    0x4C: "immediate",
    **dict.fromkeys((0x10, 0x14, 0x18, 0x1C, 0x50, 0x54, 0x58, 0x5C), "simple"),
    **dict.fromkeys((0x20, 0x24, 0x28, 0x2C, 0x60, 0x64, 0x68, 0x6C), "page_list"),
    0x30: "chain",
    0x38: "chain",
    0x40: "long_transaction",
    0x70: "short_transaction",
    0x7C: "attributes",
}
"""The truth table: flags without LAST and without the context bits."""

_BUFFER_KINDS: Final = frozenset(("bit_bucket", "immediate", "simple", "page_list"))
_ADDRESS_KINDS: Final = frozenset(("simple", "page_list"))

_read_word = struct.Struct("<I").unpack_from
_read_simple = struct.Struct("<II").unpack_from


class SglError(RemoteFrameError):
    """A scatter/gather list that the truth table or its bounds forbid.

    Args:
        message: what is wrong and what was expected.
        offset: byte of the frame where the offending element starts, None in a chained list.
    """

    def __init__(self, message: str, offset: int | None) -> None:
        self.offset = offset
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class BitBucket:
    """A piece of a buffer without memory: the device drops these bytes, or sends as many zeros."""

    length: int


class SglElement:
    """One element of a list, as a dump shows it.

    Attributes:
        kind: its type.
        offset: byte where it starts: in the frame, or in the list at `list_address`.
        list_address: bus address of the chained list that it is in, None for the frame.
        depth: how many chain elements led to that list.
        flags: bits 31:24 of the first word.
        count: bits 23:0, whatever they mean for the type.
        contexts: the context words.
        pieces: (address, length) of what a simple element, page list or chain points at.
        data: bytes in the element itself: immediate data, or the body of a transaction,
            transport or attributes element.
    """

    __slots__ = (
        "contexts",
        "count",
        "data",
        "depth",
        "flags",
        "kind",
        "list_address",
        "offset",
        "pieces",
    )

    def __init__(
        self, kind: ElementKind, offset: int, list_address: int | None, depth: int, word: int
    ) -> None:
        self.kind: ElementKind = kind
        self.offset, self.list_address, self.depth = offset, list_address, depth
        self.flags, self.count = word >> 24, word & 0xFFFFFF
        self.contexts: tuple[int, ...] = ()
        self.pieces: tuple[tuple[int, int], ...] = ()
        self.data = b""

    @property
    def last(self) -> bool:
        """Whether its list ends here."""
        return self.flags & _LAST != 0

    @property
    def end_of_buffer(self) -> bool:
        """Whether a buffer ends here."""
        return self.flags & _END_OF_BUFFER != 0 and self.kind in _BUFFER_KINDS

    @property
    def out(self) -> bool | None:
        """True for host to device, False for device to host, None if the type does not tell."""
        if self.kind == "immediate":
            return True
        return self.flags & _DIR != 0 if self.kind in _ADDRESS_KINDS else None

    @property
    def local(self) -> bool:
        """Whether its addresses are the IOP's own."""
        return self.flags & _LOCAL != 0 and (self.kind in _ADDRESS_KINDS or self.kind == "chain")

    @property
    def attribute_flags(self) -> int:
        """`SglAttributeFlags` of an attributes element, 0 for other types."""
        return self.count & 0xFFFF if self.kind == "attributes" else 0

    @property
    def page_size(self) -> int | None:
        """Page size that an attributes element sets."""
        if self.kind != "attributes" or not self.data:
            return None
        (size,) = _read_word(self.data)
        return int(size)

    def __repr__(self) -> str:
        where = "" if self.list_address is None else f" of list {self.list_address:#010x}"
        return (
            f"<{self.kind} at {self.offset}{where}: flags {self.flags:#04x} count {self.count:#x}>"
        )


class SglBuffer:
    """One logical buffer: what the device reads from or writes to.

    Attributes:
        pieces: in order, (bus address, length) of memory, `bytes` that the message itself
            carried, or a `BitBucket`. Empty pieces are left out.
        length: bytes of all pieces.
        out: True if an element says host to device, False if none does, None if the elements
            have no direction (bit buckets). Some hosts never say it: trust the function.
        local: the addresses are the IOP's own.
        contexts: context words of the first element that has any.
        has_addresses: an element with an address contributed, if only an empty one.
    """

    __slots__ = ("contexts", "has_addresses", "length", "local", "out", "pieces")

    def __init__(
        self,
        pieces: list[Piece],
        length: int,
        out: bool | None,
        local: bool = False,
        has_addresses: bool = False,
    ) -> None:
        self.pieces, self.length, self.out = pieces, length, out
        self.local, self.has_addresses = local, has_addresses
        self.contexts: tuple[int, ...] = ()

    def __repr__(self) -> str:
        way = {True: "out", False: "in", None: "no direction"}[self.out]
        return f"<SglBuffer {self.length} bytes, {way}, {len(self.pieces)} pieces>"


def lone_simple(frame: Buffer, start: int, end: int) -> tuple[int, int] | None:
    """Return (bus address, bytes) of a list that is one simple element, by far the commonest.

    Args:
        frame: the message, a private copy.
        start: byte where the list starts.
        end: byte behind the message.

    Returns:
        None for any other list, and for an empty or a wrong element: `walk_sgl` knows more.
    """
    if start >= 0 and start + 8 <= end <= len(frame):
        word, address = _read_simple(frame, start)
        count = word & 0xFFFFFF
        if word & 0xBB000000 == 0x90000000 and count and address + count <= 0x100000000:
            return address, count
    return None


def walk_sgl(
    frame: Buffer,
    start: int,
    end: int,
    *,
    read_host: ReadHost | None = None,
    page_size: int = 4096,
    context_words64: bool = False,
) -> list[SglBuffer]:
    """Return the buffers that a list describes.

    Args:
        frame: the message, a private copy.
        start: byte where the list starts.
        end: byte behind the message (MessageSize); a list need not have a last element.
        read_host: reads chained lists, `read_host(address, length)`; without it a chain is an
            error.
        page_size: size of the pages in page lists, until the list says another.
        context_words64: contexts are 64 bits wide (MsgFlags 0x02).

    Returns:
        One entry per buffer, in order; the last one is closed by the end of the list.

    Raises:
        SglError: the list breaks a rule of the truth table or a bound.
        LocalFrameError: `page_size` is not a power of two.
    """
    if start >= 0 and start + 8 <= end <= len(frame):
        word, address = _read_simple(frame, start)
        # by far the commonest list: one simple element, no contexts
        if word & 0xB3000000 == 0x90000000:
            count = word & 0xFFFFFF
            if address + count <= 0x100000000:
                return [
                    SglBuffer(
                        [(address, count)] if count else [],
                        count,
                        word & 0x04000000 != 0,
                        word & 0x08000000 != 0,
                        True,
                    )
                ]
    buffers: list[SglBuffer] = []
    current: SglBuffer | None = None
    for element in sgl_elements(
        frame,
        start,
        end,
        read_host=read_host,
        page_size=page_size,
        context_words64=context_words64,
    ):
        if element.kind in _BUFFER_KINDS:
            if current is None:
                current = SglBuffer([], 0, None)
                buffers.append(current)
            _extend(current, element)
            if element.end_of_buffer:
                current = None
        elif element.kind == "chain" and read_host is None:
            raise _error(element, "a chained list, and no host memory to read it from")
    return buffers


def sgl_elements(
    frame: Buffer,
    start: int,
    end: int,
    *,
    read_host: ReadHost | None = None,
    page_size: int = 4096,
    context_words64: bool = False,
) -> Iterator[SglElement]:
    """Yield every element of a list, those of chained lists behind the chain element.

    Args:
        frame: the message, a private copy.
        start: byte where the list starts.
        end: byte behind the message (MessageSize).
        read_host: reads chained lists; without it they are not followed.
        page_size: size of the pages in page lists, until the list says another.
        context_words64: contexts are 64 bits wide (MsgFlags 0x02).

    Raises:
        SglError: the list breaks a rule of the truth table or a bound; elements up to there have
            been yielded.
        LocalFrameError: `page_size` is not a power of two.
    """
    if start < 0 or end > len(frame):
        raise SglError(
            f"the list is bytes {start} to {end} of a frame that has {len(frame)}", start
        )
    reader = _Reader(page_size, context_words64)
    here = _List(frame, start, end, None, 0)
    resume: list[_List] = []
    path: list[int] = []  # addresses of the chained lists that led here
    elements = chains = chained_bytes = 0
    while True:
        if here.end - here.at < 4:
            if not resume:
                return
            here = resume.pop()
            del path[here.depth :]
            continue
        elements += 1
        if elements > MAX_ELEMENTS:
            raise here.error(f"more than {MAX_ELEMENTS} elements")
        element = reader.read(here)
        yield element
        if element.last:
            here.at = here.end
        if element.kind != "chain" or read_host is None:
            continue
        if element.local:
            raise _error(element, "a chained list in the IOP's own memory cannot be read")
        ((address, length),) = element.pieces
        chains += 1
        chained_bytes += length
        if address in path:
            raise _error(element, f"the chain comes back to the list at {address:#010x}")
        if chains > MAX_CHAINS or chained_bytes > MAX_CHAINED_BYTES:
            raise _error(
                element,
                f"more than {MAX_CHAINS} chained lists or {MAX_CHAINED_BYTES} bytes of them",
            )
        try:
            chained = read_host(address, length)
        except I2OError as error:
            raise _error(element, f"the chained list cannot be read: {error}") from error
        if len(chained) != length:
            raise _error(element, f"the chained list has {len(chained)} of {length} bytes")
        resume.append(here)
        path.append(address)
        here = _List(chained, 0, length, address, len(path))


def _extend(buffer: SglBuffer, element: SglElement) -> None:
    """Add what one element describes to a buffer."""
    if element.kind in _ADDRESS_KINDS:
        if element.local != buffer.local:
            if buffer.has_addresses:
                raise _error(element, "one buffer mixes host memory and the IOP's own")
            buffer.local = element.local
        buffer.has_addresses = True
        buffer.pieces += element.pieces
    elif element.kind == "immediate":
        if element.data:
            buffer.pieces.append(element.data)
    elif element.count:
        buffer.pieces.append(BitBucket(element.count))
    buffer.length += element.count
    buffer.out = buffer.out or element.out if element.out is not None else buffer.out
    buffer.contexts = buffer.contexts or element.contexts


def _error(element: SglElement, message: str) -> SglError:
    return _error_at(element.offset, element.list_address, message)


def _error_at(offset: int, list_address: int | None, message: str) -> SglError:
    if list_address is None:
        return SglError(f"SGL at byte {offset}: {message}", offset)
    return SglError(f"SGL at byte {offset} of the list at {list_address:#010x}: {message}", None)


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & number - 1 == 0


class _List:
    """A list being read: the frame's or a chained one, and how far it is read."""

    __slots__ = ("address", "at", "data", "depth", "end")

    def __init__(self, data: Buffer, at: int, end: int, address: int | None, depth: int) -> None:
        self.data, self.at, self.end = data, at, end
        self.address, self.depth = address, depth

    def error(self, message: str) -> SglError:
        return _error_at(self.at, self.address, message)


class _Reader:
    """Reads elements by the truth table, with the attributes in force."""

    __slots__ = ("address_size", "context_size", "context_size_min", "page_size", "pages")

    def __init__(self, page_size: int, context_words64: bool) -> None:
        if not _is_power_of_two(page_size):
            raise LocalFrameError(f"page size {page_size}, expected a power of two")
        self.page_size, self.pages = page_size, 0
        self.address_size = 4
        self.context_size = self.context_size_min = 8 if context_words64 else 4

    def read(self, here: _List) -> SglElement:
        """Read the element at `here.at` and step behind it."""
        (word,) = _read_word(here.data, here.at)
        if word & 0x33000000 == 0x10000000 and self.address_size == 4 and here.end - here.at >= 8:
            return self._plain_simple(here, word)
        kind = _KINDS.get(word >> 24 & 0x7C)
        if kind is None:
            raise here.error(f"flags {word >> 24:#04x} are no element type of I2O 1.5")
        element = SglElement(kind, here.at, here.address, here.depth, word)
        at = here.at + 4
        if kind in _BUFFER_KINDS or kind == "chain":
            at = self._contexts(here, element, at)
        if kind == "simple" or kind == "chain":
            at = self._address(here, element, at)
        elif kind == "page_list":
            at = self._pages(here, element, at)
        elif kind == "immediate":
            at = self._data(here, element, at, element.count)
        elif kind == "attributes":
            at = self._attributes(here, element, at)
        elif kind == "long_transaction":
            at = self._contexts(here, element, at)
            at = self._data(here, element, at, element.count)
        elif kind == "short_transaction":
            at = self._short_transaction(here, element, at)
        elif kind == "transport":
            at = self._data(here, element, at, element.count)
        elif kind == "ignore":
            at += -(-element.count // 4) * 4
        here.at = min(at, here.end)
        return element

    def _plain_simple(self, here: _List, word: int) -> SglElement:
        """Read a simple element without contexts: what long lists are made of."""
        element = SglElement("simple", here.at, here.address, here.depth, word)
        (address,) = _read_word(here.data, here.at + 4)
        count = word & 0xFFFFFF
        if address + count > 0x100000000:
            self._check_range(here, address, count)
        if count:
            element.pieces = ((address, count),)
        here.at += 8
        return element

    def _contexts(self, here: _List, element: SglElement, at: int) -> int:
        words = element.flags & 3
        if not words and element.kind in ("bit_bucket", "long_transaction"):
            # these have one whatever the flags say, but drivers that mean "ignore the rest"
            # end a list with the first word alone
            words = 1 if not element.last or here.end - at >= self.context_size else 0
        return self._take_contexts(here, element, at, words)

    def _take_contexts(self, here: _List, element: SglElement, at: int, count: int) -> int:
        size = count * self.context_size
        if here.end - at < size:
            raise here.error(f"{count} contexts of {self.context_size} bytes do not fit")
        form = "Q" if self.context_size == 8 else "I"
        element.contexts = struct.unpack_from(f"<{count}{form}", here.data, at)
        return at + size

    def _address(self, here: _List, element: SglElement, at: int) -> int:
        if here.end - at < self.address_size:
            raise here.error(f"{element.kind} element without its address")
        address = int.from_bytes(here.data[at : at + self.address_size], "little")
        self._check_range(here, address, element.count)
        if element.count or element.kind == "chain":
            element.pieces = ((address, element.count),)
        if element.kind == "chain" and not element.count:
            raise here.error("chain to a list of 0 bytes, expected its length in the count")
        return at + self.address_size

    def _pages(self, here: _List, element: SglElement, at: int) -> int:
        page, left = self.page_size, element.count
        form = "<Q" if self.address_size == 8 else "<I"
        pieces: list[tuple[int, int]] = []
        while left:
            self.pages += 1
            if self.pages > MAX_PIECES:
                raise here.error(f"more than {MAX_PIECES} pages")
            if here.end - at < self.address_size:
                raise here.error(
                    f"page list of {element.count} bytes lacks addresses: {left} bytes are left "
                    f"after {len(pieces)} pages of {page}"
                )
            (address,) = struct.unpack_from(form, here.data, at)
            at += self.address_size
            within = address % page
            if within and pieces:
                raise here.error(
                    f"page {len(pieces)} at {address:#x}: only the first may be unaligned"
                )
            length = min(left, page - within)  # so no page runs past the end of memory
            pieces.append((address, length))
            left -= length
        element.pieces = tuple(pieces)
        return at

    def _data(self, here: _List, element: SglElement, at: int, length: int) -> int:
        """Take bytes that the element carries; they are padded to a whole word."""
        if element.last and element.kind == "long_transaction":
            length = min(length, here.end - at)
        if here.end - at < length:
            raise here.error(
                f"{element.kind} element of {length} bytes, the list has {here.end - at} left"
            )
        element.data = bytes(here.data[at : at + length])
        return at + -(-length // 4) * 4

    def _short_transaction(self, here: _List, element: SglElement, at: int) -> int:
        room = self._body(here, element)
        contexts = min(max(1, element.flags & 3), room // self.context_size)
        at = self._take_contexts(here, element, at, contexts)
        return self._data(here, element, at, room - contexts * self.context_size)

    def _attributes(self, here: _List, element: SglElement, at: int) -> int:
        at = self._data(here, element, at, self._body(here, element))
        page_size = element.page_size
        if page_size is not None:
            if not _is_power_of_two(page_size):
                raise here.error(f"page size {page_size}, expected a power of two")
            self.page_size = page_size
        self.address_size = 8 if element.attribute_flags & _ADDRESS_64BIT else 4
        wide = element.attribute_flags & _TRANSACTION_64BIT
        self.context_size = 8 if wide else self.context_size_min
        return at

    def _body(self, here: _List, element: SglElement) -> int:
        """Return the bytes behind the first word of an element that counts its own words."""
        words = element.count >> 16
        if words == 0:
            raise here.error(f"{element.kind} element of 0 words, expected at least 1")
        return 4 * (words - 1)

    def _check_range(self, here: _List, address: int, length: int) -> None:
        if address + length > 1 << 8 * self.address_size:
            raise here.error(
                f"{length} bytes at {address:#x} do not fit {8 * self.address_size}-bit addresses"
            )
