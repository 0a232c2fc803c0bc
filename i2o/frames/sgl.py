# SPDX-License-Identifier: Apache-2.0
"""Scatter/gather list elements (v1.5): layouts, flags, and functions that build them.

An element is a word of count (bits 23:0) and flags (bits 31:24), then context words, then what its
type has. `i2o.frames.sgl_walk` reads lists. As written in the SIG's i2omsg.h 1.5.4; version 2.0
has other element types, which this module does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum, IntFlag
from typing import Final

from construct import Int8ul, Int16ul, Int32ul, Struct

from i2o.errors import LocalFrameError
from i2o.frames.layout import Layout, Part, structure, word


class SglFlags(IntFlag):
    """Flag bits of an element's first word; which of them a type has depends on the type."""

    LAST_ELEMENT = 0x80
    END_OF_BUFFER = 0x40
    LOCAL_ADDRESS = 0x08
    DIR = 0x04
    BC1 = 0x02
    BC0 = 0x01


class SglElementType(IntEnum):
    """Type bits of an element, without the flags that modify the type."""

    IGNORE_ELEMENT = 0x00
    TRANSPORT_ELEMENT = 0x04
    BIT_BUCKET_ELEMENT = 0x08
    IMMEDIATE_DATA_ELEMENT = 0x0C
    SIMPLE_ADDRESS_ELEMENT = 0x10
    PAGE_LIST_ADDRESS_ELEMENT = 0x20
    CHAIN_POINTER_ELEMENT = 0x30
    LONG_TRANSACTION_ELEMENT = 0x40
    SHORT_TRANSACTION_ELEMENT = 0x70
    SGL_ATTRIBUTES_ELEMENT = 0x7C


class SglContextSize(IntEnum):
    """Bits BC1 and BC0: context words of an element, doubled with 64-bit contexts."""

    NO_CONTEXT = 0
    CONTEXT32_NULL = 0
    CONTEXT32_U32 = 1
    CONTEXT32_U64 = 2
    CONTEXT32_U96 = 3
    CONTEXT64_NULL = 0
    CONTEXT64_U64 = 1
    CONTEXT64_U128 = 2
    CONTEXT64_U192 = 3


class SglAttributeFlags(IntFlag):
    """SglAttributeFlags of an attributes element: in force from there on."""

    BIT_BUCKET_HINT = 0x0400
    IMMEDIATE_DATA_HINT = 0x0200
    LOCAL_ADDRESS_HINT = 0x0100
    TRANSACTION_32BIT = 0x0000
    TRANSACTION_64BIT = 0x0004
    LOCAL_ADDRESS_32BIT = 0x0000
    ADDRESS_64BIT = 0x0002  # used by Linux and asr, not named in the SIG header


MAX_COUNT: Final = 0xFFFFFF
"""The most bytes one element can count."""

FLAGS_COUNT: Final = "flags_count" / Struct(word("first_word", ("count", 24), ("flags", 8)))
BUFFER_CONTEXT: Final = "buffer_context" / Int32ul
PHYSICAL_ADDRESS: Final = "physical_address" / Int32ul

LONG_LENGTH_WORD: Final = word("first_word", ("long_element_length", 24), ("flags", 8))

FLAGS_COUNT_ENUMS: Final = {"flags_count.flags": SglFlags}
FLAGS_ENUMS: Final = {"flags": SglFlags}


def _element(name: str, *parts: Part) -> Layout:
    return structure(name, FLAGS_COUNT, *parts, chapter="sgl", enums=FLAGS_COUNT_ENUMS)


SGE_SIMPLE: Final = _element("sge_simple", PHYSICAL_ADDRESS)
SGE_SIMPLE_1CTX: Final = _element("sge_simple_1ctx", BUFFER_CONTEXT, PHYSICAL_ADDRESS)
SGE_PAGE_LIST: Final = _element("sge_page_list", PHYSICAL_ADDRESS)
SGE_PAGE_LIST_1CTX: Final = _element("sge_page_list_1ctx", BUFFER_CONTEXT, PHYSICAL_ADDRESS)
SGE_CHAIN: Final = _element("sge_chain", PHYSICAL_ADDRESS)
SGE_CHAIN_1CTX: Final = _element("sge_chain_1ctx", "context" / Int32ul, PHYSICAL_ADDRESS)
SGE_BIT_BUCKET: Final = _element("sge_bit_bucket", BUFFER_CONTEXT)
SGE_IGNORE: Final = _element("sge_ignore")
SGE_IMMEDIATE: Final = _element("sge_immediate")
SGE_IMMEDIATE_1CTX: Final = _element("sge_immediate_1ctx", BUFFER_CONTEXT)
SGE_LONG_TRANSACTION: Final = structure(
    "sge_long_transaction", LONG_LENGTH_WORD, BUFFER_CONTEXT, chapter="sgl", enums=FLAGS_ENUMS
)
SGE_SHORT_TRANSACTION: Final = structure(
    "sge_short_transaction",
    "class_fields" / Int16ul,
    "element_length" / Int8ul,
    "flags" / Int8ul,
    BUFFER_CONTEXT,
    chapter="sgl",
    enums=FLAGS_ENUMS,
    note="element_length counts the words of the whole element.",
)
SGE_ATTRIBUTES: Final = structure(
    "sge_attributes",
    "sgl_attribute_flags" / Int16ul,
    "element_length" / Int8ul,
    "flags" / Int8ul,
    "page_frame_size" / Int32ul,
    chapter="sgl",
    enums={"sgl_attribute_flags": SglAttributeFlags, **FLAGS_ENUMS},
    defaults={
        "flags": SglElementType.SGL_ATTRIBUTES_ELEMENT.value,
        "element_length": 2,
        "page_frame_size": 4096,
    },
    note="element_length counts the words of the whole element.",
)
SGE_TRANSPORT: Final = structure(
    "sge_transport", LONG_LENGTH_WORD, chapter="sgl", enums=FLAGS_ENUMS
)

STRUCTURES: Final[tuple[Layout, ...]] = (
    SGE_SIMPLE,
    SGE_SIMPLE_1CTX,
    SGE_PAGE_LIST,
    SGE_PAGE_LIST_1CTX,
    SGE_CHAIN,
    SGE_CHAIN_1CTX,
    SGE_BIT_BUCKET,
    SGE_IGNORE,
    SGE_IMMEDIATE,
    SGE_IMMEDIATE_1CTX,
    SGE_LONG_TRANSACTION,
    SGE_SHORT_TRANSACTION,
    SGE_ATTRIBUTES,
    SGE_TRANSPORT,
)

_ELEMENT = struct.Struct("<II")
_LAST, _EOB, _DIR = 0x80, 0x40, 0x04
_SIMPLE_IN = SglElementType.SIMPLE_ADDRESS_ELEMENT.value
_SIMPLE_OUT = _SIMPLE_IN | _DIR


def simple_sgl(
    segments: Iterable[tuple[int, int]],
    *,
    out: bool,
    last: bool = True,
    end_of_buffer: bool = True,
    contexts: Sequence[int] = (),
) -> bytes:
    """Build the simple elements of one buffer.

    A segment too long for one element's 24-bit count becomes several elements.

    Args:
        segments: (bus address, length) of each contiguous piece, at least one.
        out: the device reads the buffer (host to device).
        last: the list ends here.
        end_of_buffer: the buffer ends here.
        contexts: up to three context words, repeated in every element.

    Returns:
        The elements.

    Raises:
        LocalFrameError: no segment, or one that does not fit 32-bit addresses.
    """
    words = _context_words(contexts) if contexts else b""
    flags = _SIMPLE_OUT if out else _SIMPLE_IN
    flags |= len(contexts)
    elements: list[bytes] = []
    for address, length in segments:
        if length < 0 or not 0 <= address <= 0xFFFFFFFF or address + length > 1 << 32:
            raise LocalFrameError(
                f"segment of {length} bytes at {address:#x} does not fit 32-bit addresses"
            )
        while length > MAX_COUNT:
            # split at a page boundary: devices like aligned pieces
            step = MAX_COUNT & ~0xFFF
            elements.append(_simple_element(step, flags, words, address))
            address, length = address + step, length - step
        elements.append(_simple_element(length, flags, words, address))
    if not elements:
        raise LocalFrameError("a buffer needs at least one segment")
    final = bytearray(elements[-1])
    final[3] |= (_LAST if last else 0) | (_EOB if end_of_buffer else 0)
    elements[-1] = bytes(final)
    return b"".join(elements)


def immediate_element(
    data: bytes,
    *,
    out: bool = True,
    last: bool = False,
    end_of_buffer: bool = True,
    contexts: Sequence[int] = (),
) -> bytes:
    """Build an immediate element: the data themselves, padded to a whole word.

    Args:
        data: what the buffer holds.
        out: must be true; immediate data have no other direction.
        last: the list ends here.
        end_of_buffer: the buffer ends here.
        contexts: up to three context words.

    Raises:
        LocalFrameError: more than 24 bits can count, or not `out`.
    """
    if not out:
        raise LocalFrameError("immediate data go from host to device only")
    flags = SglElementType.IMMEDIATE_DATA_ELEMENT.value | len(contexts)
    flags |= (_LAST if last else 0) | (_EOB if end_of_buffer else 0)
    head = _first_word(len(data), flags) + _context_words(contexts)
    return head + data + bytes(-len(data) % 4)


def chain_element(
    address: int, length: int, *, last: bool = True, contexts: Sequence[int] = ()
) -> bytes:
    """Build a chain element, which continues the list elsewhere in host memory.

    Args:
        address: bus address of the next list.
        length: its bytes.
        last: nothing follows behind the chain element.
        contexts: up to three context words.

    Raises:
        LocalFrameError: the address or the length does not fit.
    """
    flags = SglElementType.CHAIN_POINTER_ELEMENT.value | len(contexts) | (_LAST if last else 0)
    return _first_word(length, flags) + _context_words(contexts) + _address(address)


def _simple_element(count: int, flags: int, contexts: bytes, address: int) -> bytes:
    """Return a simple element whose numbers are known to fit."""
    if not contexts:
        return _ELEMENT.pack(flags << 24 | count, address)
    return _first_word(count, flags) + contexts + _address(address)


def _first_word(count: int, flags: int) -> bytes:
    if not 0 <= count <= MAX_COUNT:
        raise LocalFrameError(f"an element cannot count {count} bytes, {MAX_COUNT} at most")
    return (flags << 24 | count).to_bytes(4, "little")


def _address(address: int) -> bytes:
    if not 0 <= address <= 0xFFFFFFFF:
        raise LocalFrameError(f"bus address {address:#x} does not fit 32 bits")
    return address.to_bytes(4, "little")


def _context_words(contexts: Sequence[int]) -> bytes:
    if len(contexts) > 3 or not all(0 <= context <= 0xFFFFFFFF for context in contexts):
        raise LocalFrameError(f"at most three context words of 32 bits: {list(contexts)}")
    return struct.pack(f"<{len(contexts)}I", *contexts)
