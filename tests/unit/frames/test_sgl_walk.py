# SPDX-License-Identifier: Apache-2.0
"""The walker: every row of the truth table, chains, lies, and random bytes."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from i2o.errors import DmaFault, LocalFrameError, RemoteFrameError
from i2o.frames import sgl, sgl_walk
from i2o.frames.sgl import chain_element, immediate_element, simple_sgl
from i2o.frames.sgl_walk import (
    MAX_CHAINED_BYTES,
    MAX_CHAINS,
    MAX_ELEMENTS,
    MAX_PIECES,
    BitBucket,
    Piece,
    SglBuffer,
    SglElement,
    SglError,
    lone_simple,
    sgl_elements,
    walk_sgl,
)

LAST, EOB, DIR, LOCAL = 0x80, 0x40, 0x04, 0x08
IGNORE, TRANSPORT, BIT_BUCKET, IMMEDIATE, SIMPLE = 0x00, 0x04, 0x08, 0x0C, 0x10
PAGES, CHAIN, LONG, SHORT, ATTRIBUTES = 0x20, 0x30, 0x40, 0x70, 0x7C

END = 0x9000_0000
"""First word of a simple element that ends a list, to add a count to."""


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def first(flags: int, count: int) -> int:
    return flags << 24 | count


def walk(data: bytes, **options: Any) -> list[SglBuffer]:
    return walk_sgl(data, 0, len(data), **options)


def elements(data: bytes, **options: Any) -> list[SglElement]:
    return list(sgl_elements(data, 0, len(data), **options))


def show(buffers: Iterable[SglBuffer]) -> list[tuple[Any, ...]]:
    return [(b.pieces, b.length, b.out, b.local, b.contexts) for b in buffers]


class Host:
    """Host memory that knows a few lists, and how often it was read."""

    def __init__(self, lists: dict[int, bytes]) -> None:
        self.lists, self.reads = lists, 0

    def __call__(self, address: int, length: int) -> bytes:
        self.reads += 1
        return self.lists[address][:length]


# --- the truth table ----------------------------------------------------------------------------


@pytest.mark.parametrize("last", [0, LAST])
@pytest.mark.parametrize("local", [0, LOCAL])
@pytest.mark.parametrize("out", [0, DIR])
@pytest.mark.parametrize("end", [0, EOB])
@pytest.mark.parametrize("contexts", [0, 1, 2, 3])
def test_simple(last: int, local: int, out: int, end: int, contexts: int) -> None:
    flags = SIMPLE | last | local | out | end | contexts
    data = words(first(flags, 0x200), *range(7, 7 + contexts), 0x1000)
    expected = tuple(range(7, 7 + contexts))
    assert show(walk(data)) == [([(0x1000, 0x200)], 0x200, bool(out), bool(local), expected)]
    (element,) = elements(data)
    assert (element.kind, element.flags, element.count) == ("simple", flags, 0x200)
    assert (element.last, element.end_of_buffer) == (bool(last), bool(end))
    assert (element.out, element.local) == (bool(out), bool(local))
    assert (element.contexts, element.pieces) == (expected, ((0x1000, 0x200),))


@pytest.mark.parametrize("end", [0, EOB])
@pytest.mark.parametrize("out", [0, DIR])
@pytest.mark.parametrize("local", [0, LOCAL])
@pytest.mark.parametrize("contexts", [0, 1, 2, 3])
def test_page_list(end: int, out: int, local: int, contexts: int) -> None:
    flags = PAGES | end | out | local | contexts
    data = words(first(flags, 0x2800), *range(contexts), 0x1800, 0x5000, 0x3000, 0xFFFF_FFFF)
    pieces = [(0x1800, 0x800), (0x5000, 0x1000), (0x3000, 0x1000)]
    data = data[:-4] + words(first(SIMPLE | LAST | local, 1), 0x99)
    first_buffer = show(walk(data))[0]
    if end:
        assert first_buffer == (pieces, 0x2800, bool(out), bool(local), tuple(range(contexts)))
    else:
        assert first_buffer[0] == [*pieces, (0x99, 1)]


def test_page_list_of_aligned_pages_and_a_rest() -> None:
    data = words(first(PAGES | LAST | EOB, 0x1001), 0x8000, 0x2000)
    assert walk(data)[0].pieces == [(0x8000, 0x1000), (0x2000, 1)]


def test_page_list_within_one_page() -> None:
    data = words(first(PAGES | LAST | EOB, 0x10), 0x8FF0)
    assert walk(data)[0].pieces == [(0x8FF0, 0x10)]


def test_empty_page_list_has_no_address() -> None:
    data = words(first(PAGES | EOB, 0), first(SIMPLE | LAST, 4), 0x100)
    assert [b.pieces for b in walk(data)] == [[], [(0x100, 4)]]


def test_page_size_of_the_caller() -> None:
    data = words(first(PAGES | LAST | EOB, 0x300), 0x1080, 0x4000, 0x6000, 0x2000)
    assert walk(data, page_size=256)[0].pieces == [
        (0x1080, 0x80),
        (0x4000, 0x100),
        (0x6000, 0x100),
        (0x2000, 0x80),
    ]


@pytest.mark.parametrize("end", [0, EOB])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5])
@pytest.mark.parametrize("contexts", [0, 1, 2, 3])
def test_immediate(end: int, size: int, contexts: int) -> None:
    payload = bytes(range(1, size + 1))
    data = words(first(IMMEDIATE | end | contexts, size), *range(contexts))
    data += payload + bytes(-size % 4) + words(first(SIMPLE | LAST | EOB, 8), 0x40)
    (element, _) = elements(data)
    assert (element.kind, element.data, element.out) == ("immediate", payload, True)
    assert (element.local, element.end_of_buffer) == (False, bool(end))
    mine = [payload] if payload else []
    if end:
        assert show(walk(data)) == [
            (mine, size, True, False, tuple(range(contexts))),
            ([(0x40, 8)], 8, False, False, ()),
        ]
    else:
        assert show(walk(data)) == [
            ([*mine, (0x40, 8)], size + 8, True, False, tuple(range(contexts)))
        ]


def test_immediate_data_need_no_padding_at_the_end() -> None:
    data = words(first(IMMEDIATE | EOB | LAST, 2)) + b"ab"
    assert walk(data)[0].pieces == [b"ab"]
    assert walk_sgl(data + b"\0\0", 0, 6)[0].pieces == [b"ab"]


@pytest.mark.parametrize("end", [0, EOB])
@pytest.mark.parametrize(("contexts", "kept"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_bit_bucket(end: int, contexts: int, kept: int) -> None:
    data = words(first(BIT_BUCKET | end | contexts, 100), *range(kept))
    data += words(first(SIMPLE | LAST | EOB, 8), 0x40)
    (element, _) = elements(data)
    assert (element.kind, element.contexts) == ("bit_bucket", tuple(range(kept)))
    assert (element.out, element.local) == (None, False)
    pieces = [b.pieces for b in walk(data)]
    assert pieces == ([[BitBucket(100)], [(0x40, 8)]] if end else [[BitBucket(100), (0x40, 8)]])
    assert walk(data)[0].out is (None if end else False)
    assert walk(data)[0].length == (100 if end else 108)


def test_equal_bit_buckets_are_one_key() -> None:
    assert {BitBucket(4): "drop"}[BitBucket(4)] == "drop"


def test_empty_bit_bucket() -> None:
    assert show(walk(words(first(BIT_BUCKET | EOB | LAST, 0), 5))) == [([], 0, None, False, (5,))]


@pytest.mark.parametrize("flags", [BIT_BUCKET, BIT_BUCKET | EOB, LONG])
def test_the_one_context_may_be_missing_at_the_very_end(flags: int) -> None:
    (element,) = elements(words(first(flags | LAST, 1)))
    assert element.contexts == ()
    with pytest.raises(SglError, match="1 contexts of 4 bytes"):
        elements(words(first(flags, 1)))


def test_ignore_skips_its_count() -> None:
    data = words(first(IGNORE, 5), 0xFFFF_FFFF, 0xFFFF_FFFF, first(SIMPLE | LAST, 4), 0x40)
    assert [e.kind for e in elements(data)] == ["ignore", "simple"]
    assert show(walk(data)) == [([(0x40, 4)], 4, False, False, ())]


@pytest.mark.parametrize(("count", "skipped"), [(0, 0), (1, 1), (3, 1), (4, 1), (5, 2), (8, 2)])
def test_ignore_skips_whole_words(count: int, skipped: int) -> None:
    junk = [first(0x34, 0)] * skipped
    data = words(first(IGNORE, count), *junk, first(SIMPLE | LAST, 4), 0x40)
    assert [e.kind for e in elements(data)] == ["ignore", "simple"]


def test_ignore_may_claim_more_than_there_is() -> None:
    data = words(first(SIMPLE, 4), 0x40, first(IGNORE, 0xFFFFFF), 7)
    assert [b.pieces for b in walk(data)] == [[(0x40, 4)]]


def test_ignore_can_end_a_list() -> None:
    data = words(first(SIMPLE, 4), 0x40, first(IGNORE | LAST, 0), first(0x34, 0))
    assert [b.pieces for b in walk(data)] == [[(0x40, 4)]]


def test_transport_carries_data() -> None:
    data = words(first(TRANSPORT, 6)) + b"abcdef\0\0" + words(first(SIMPLE | LAST, 4), 0x40)
    element, simple = elements(data)
    assert (element.kind, element.data, element.offset) == ("transport", b"abcdef", 0)
    assert (element.contexts, element.out, element.end_of_buffer) == ((), None, False)
    assert simple.offset == 12
    assert len(walk(data)) == 1


def test_long_transaction_has_a_context_and_data() -> None:
    data = words(first(LONG, 4), 0xC0, 0xDA7A, first(SIMPLE | LAST, 4), 0x40)
    element, _ = elements(data)
    assert (element.kind, element.contexts) == ("long_transaction", (0xC0,))
    assert element.data == words(0xDA7A)
    assert element.end_of_buffer is False
    assert [b.contexts for b in walk(data)] == [()]


def test_a_last_long_transaction_may_claim_more_than_there_is() -> None:
    # this is how Promise's driver means to say "ignore the rest"
    data = words(first(SIMPLE | EOB, 4), 0x40, 0xC0000001)
    assert [b.pieces for b in walk(data)] == [[(0x40, 4)]]
    (_, element) = elements(data)
    assert element.data == b""


@pytest.mark.parametrize(
    ("flags", "body", "contexts", "data"),
    [
        (SHORT, (1,), (1,), b""),
        (SHORT | 1, (1, 2), (1,), words(2)),
        (SHORT | 2, (1, 2, 3), (1, 2), words(3)),
        (SHORT | 3, (1, 2), (1, 2), b""),
        (SHORT, (), (), b""),
    ],
)
def test_short_transaction(
    flags: int, body: tuple[int, ...], contexts: tuple[int, ...], data: bytes
) -> None:
    head = first(flags, (1 + len(body)) << 16 | 0xBEEF)
    element, simple = elements(words(head, *body, first(SIMPLE | LAST, 4), 0x40))
    assert (element.kind, element.count & 0xFFFF) == ("short_transaction", 0xBEEF)
    assert (element.contexts, element.data) == (contexts, data)
    assert (element.end_of_buffer, element.local, element.out) == (False, False, None)
    assert simple.kind == "simple"


def attributes(flags: int, page_size: int | None = None) -> bytes:
    if page_size is None:
        return words(first(ATTRIBUTES, 1 << 16 | flags))
    return words(first(ATTRIBUTES, 2 << 16 | flags), page_size)


def test_attributes_set_the_page_size() -> None:
    data = attributes(0, 0x2000) + words(first(PAGES | LAST | EOB, 0x3000), 0x3000, 0x8000)
    element, pages = elements(data)
    assert (element.kind, element.page_size, element.attribute_flags) == ("attributes", 0x2000, 0)
    assert (pages.page_size, pages.attribute_flags) == (None, 0)
    assert walk(data)[0].pieces == [(0x3000, 0x1000), (0x8000, 0x2000)]


def test_attributes_may_leave_the_page_size_alone() -> None:
    data = attributes(0) + words(first(PAGES | LAST | EOB, 0x1800), 0x3800, 0x8000)
    assert elements(data)[0].page_size is None
    assert walk(data)[0].pieces == [(0x3800, 0x800), (0x8000, 0x1000)]


def test_attributes_of_more_words_than_known() -> None:
    data = words(first(ATTRIBUTES, 4 << 16), 512, 1, 2, first(SIMPLE | LAST, 4), 0x40)
    assert [e.kind for e in elements(data)] == ["attributes", "simple"]


def test_64_bit_addresses() -> None:
    data = attributes(2, 4096) + words(first(SIMPLE | EOB, 0x10), 0xFFFF_FFF8, 1)
    data += words(first(PAGES | LAST | EOB | 1, 0x1800), 0xC, 0x800, 2, 0x3000, 3)
    assert show(walk(data)) == [
        ([(0x1_FFFF_FFF8, 0x10)], 0x10, False, False, ()),
        ([(0x2_0000_0800, 0x800), (0x3_0000_3000, 0x1000)], 0x1800, False, False, (0xC,)),
    ]


def test_64_bit_addresses_end_with_the_next_attributes() -> None:
    data = attributes(2, 4096) + words(first(SIMPLE, 4), 0x10, 1)
    data += attributes(0, 4096) + words(first(SIMPLE | LAST, 4), 0x20)
    assert walk(data)[0].pieces == [(0x1_0000_0010, 4), (0x20, 4)]


def test_64_bit_contexts_by_attribute() -> None:
    data = attributes(4, 4096) + words(first(SIMPLE | 2, 4), 1, 2, 3, 4, 0x40)
    data += attributes(0, 4096) + words(first(SIMPLE | 1 | LAST, 4), 5, 0x80)
    assert [e.contexts for e in elements(data) if e.kind == "simple"] == [
        (0x2_0000_0001, 0x4_0000_0003),
        (5,),
    ]


def test_64_bit_contexts_by_message_flag_stay() -> None:
    data = attributes(0, 4096) + words(first(SIMPLE | 1 | LAST, 4), 1, 2, 0x40)
    assert walk(data, context_words64=True)[0].contexts == (0x2_0000_0001,)
    bucket = words(first(BIT_BUCKET | LAST, 4), 1, 2)
    assert walk(bucket, context_words64=True)[0].contexts == (0x2_0000_0001,)
    bare = words(first(SHORT, 2 << 16), 7, first(SIMPLE | LAST, 4), 0x40)
    assert elements(bare, context_words64=True)[0].contexts == ()


@pytest.mark.parametrize("flags", [0x34, 0x3C, 0x44, 0x74, 0x78])
@pytest.mark.parametrize("more", [0, 1, 3, LAST])
def test_invalid_types(flags: int, more: int) -> None:
    data = words(first(SIMPLE, 4), 0x40, first(flags | more, 0), 0, 0, 0, 0)
    with pytest.raises(SglError, match=f"flags 0x{flags | more:02x} are no element type") as caught:
        walk(data)
    assert caught.value.offset == 8
    assert isinstance(caught.value, RemoteFrameError)


def test_the_truth_table_covers_every_flag_byte() -> None:
    valid = {*range(0x00, 0x30, 4), 0x30, 0x38, 0x40, 0x48, 0x4C, *range(0x50, 0x74, 4), 0x7C}
    for flags in range(0x100):
        data = words(first(flags, 0x10000), *([0] * 0x4010))
        if flags & 0x7C in valid:
            assert elements(data)
        else:
            with pytest.raises(SglError, match="no element type"):
                elements(data)


# --- buffers ------------------------------------------------------------------------------------


def test_end_of_buffer_separates_buffers() -> None:
    data = words(first(SIMPLE | DIR, 8), 0x100, first(SIMPLE | DIR | EOB, 4), 0x200)
    data += words(first(SIMPLE | EOB | LAST, 16), 0x300)
    assert show(walk(data)) == [
        ([(0x100, 8), (0x200, 4)], 12, True, False, ()),
        ([(0x300, 16)], 16, False, False, ()),
    ]


def test_the_end_of_the_list_closes_the_last_buffer() -> None:
    data = words(first(SIMPLE | EOB, 8), 0x100, first(SIMPLE, 4), 0x200, first(SIMPLE, 2), 0x300)
    assert [b.pieces for b in walk(data)] == [[(0x100, 8)], [(0x200, 4), (0x300, 2)]]


def test_nothing_behind_the_last_element_counts() -> None:
    data = words(first(SIMPLE | LAST, 8), 0x100, first(0x34, 0))
    assert len(walk(data)) == 1


def test_empty_elements_are_buffers_without_pieces() -> None:
    data = words(first(SIMPLE | EOB, 0), 0x100, first(SIMPLE | EOB | LAST, 0), 0)
    assert show(walk(data)) == [([], 0, False, False, ())] * 2
    assert show(walk(words(first(SIMPLE | EOB | LAST, 0), 7))) == [([], 0, False, False, ())]


def test_one_element_that_says_out_is_enough() -> None:
    data = words(first(SIMPLE, 8), 0x100, first(SIMPLE | DIR, 4), 0x200, first(SIMPLE, 2), 0x300)
    assert walk(data)[0].out is True


def test_first_contexts_are_the_buffers() -> None:
    data = words(first(SIMPLE, 8), 0x100, first(SIMPLE | 1, 4), 7, 0x200)
    data += words(first(SIMPLE | 1 | LAST, 2), 9, 0x300)
    assert walk(data)[0].contexts == (7,)


@pytest.mark.parametrize(("one", "other"), [(0, LOCAL), (LOCAL, 0)])
@pytest.mark.parametrize("count", [0, 4])
def test_a_buffer_is_local_or_not(one: int, other: int, count: int) -> None:
    data = words(first(SIMPLE | one, count), 0x100, first(SIMPLE | other, 4), 0x200)
    with pytest.raises(SglError, match="mixes host memory and the IOP's own"):
        walk(data)
    data = words(first(SIMPLE | one | EOB, count), 0x100, first(SIMPLE | other, 4), 0x200)
    assert [b.local for b in walk(data)] == [bool(one), bool(other)]


def test_immediate_data_may_precede_local_memory() -> None:
    data = words(first(IMMEDIATE, 4), 0xAA, first(SIMPLE | LOCAL | LAST, 4), 0x200)
    assert walk(data)[0].local is True


def test_an_empty_list() -> None:
    assert walk(b"") == []
    assert walk_sgl(bytes(32), 32, 32) == []
    assert walk_sgl(bytes(32), 40, 32) == []
    assert walk_sgl(words(0, 0, 0, first(SIMPLE | LAST, 4)), 16, 16) == []


def test_a_list_starts_and_ends_inside_its_frame() -> None:
    frame = b"\xff" * 12 + words(first(SIMPLE | LAST, 8), 0x100) + b"\xff" * 12
    assert walk_sgl(frame, 12, 20)[0].pieces == [(0x100, 8)]
    assert walk_sgl(memoryview(frame), 12, 32)[0].pieces == [(0x100, 8)]
    assert walk_sgl(bytearray(frame), 12, 32)[0].pieces == [(0x100, 8)]
    (element,) = sgl_elements(frame, 12, 20)
    assert (element.offset, element.list_address, element.depth) == (12, None, 0)


@pytest.mark.parametrize(("start", "end"), [(-4, 16), (0, 20), (8, 17)])
def test_bounds_outside_the_frame_are_refused(start: int, end: int) -> None:
    frame = words(first(SIMPLE | LAST, 8), 0x100) * 2
    with pytest.raises(SglError, match=r"of a frame that has 16") as caught:
        walk_sgl(frame, start, end)
    assert caught.value.offset == start


def test_message_size_bounds_the_list() -> None:
    frame = words(first(SIMPLE, 8), 0x100, first(SIMPLE | LAST, 8), 0x200)
    assert walk_sgl(frame, 0, 8)[0].pieces == [(0x100, 8)]
    for end in (9, 10, 11):  # less than a word is no element
        assert len(elements(frame[:end])) == 1
    with pytest.raises(SglError, match="simple element without its address"):
        walk_sgl(frame, 0, 12)


def test_reprs() -> None:
    (element,) = elements(words(first(SIMPLE | LAST, 8), 0x100))
    assert repr(element) == "<simple at 0: flags 0x90 count 0x8>"
    host = Host({0x1000: words(first(SIMPLE | LAST, 8), 0x100)})
    inner = elements(chain_element(0x1000, 8), read_host=host)[1]
    assert repr(inner) == "<simple at 0 of list 0x00001000: flags 0x90 count 0x8>"
    (buffer,) = walk(words(first(SIMPLE | LAST | DIR, 8), 0x100))
    assert repr(buffer) == "<SglBuffer 8 bytes, out, 1 pieces>"
    assert "no direction" in repr(walk(words(first(BIT_BUCKET | LAST, 8), 0))[0])


# --- lies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (words(first(SIMPLE, 8)), "simple element without its address"),
        (words(first(SIMPLE | 2, 8), 1), "2 contexts of 4 bytes do not fit"),
        (words(first(SIMPLE | 1, 8), 1), "simple element without its address"),
        (words(first(SIMPLE | LAST, 8), 0xFFFF_FFF9), "8 bytes at 0xfffffff9 do not fit 32-bit"),
        (words(first(SIMPLE | 1, 8), 0, 0xFFFF_FFF9), "do not fit 32-bit addresses"),
        (words(first(IMMEDIATE, 8), 1), "immediate element of 8 bytes, the list has 4 left"),
        (words(first(IMMEDIATE | LAST, 0xFFFFFF)), "16777215 bytes, the list has 0 left"),
        (words(first(TRANSPORT, 5), 1), "transport element of 5 bytes"),
        (words(first(LONG, 5), 0, 1), "long_transaction element of 5 bytes"),
        (words(first(SHORT, 3 << 16), 1), "short_transaction element of 4 bytes"),
        (words(first(SHORT, 0)), "short_transaction element of 0 words"),
        (words(first(ATTRIBUTES, 0)), "attributes element of 0 words"),
        (words(first(ATTRIBUTES, 2 << 16)), "attributes element of 4 bytes"),
        (attributes(0, 0), "page size 0, expected a power of two"),
        (attributes(0, 4097), "page size 4097"),
        (words(first(PAGES, 1)), "page list of 1 bytes lacks addresses: 1 bytes are left after 0"),
        (words(first(PAGES, 0x1001), 0x1000), "1 bytes are left after 1 pages of 4096"),
        (words(first(PAGES, 0x2000), 0x1000, 0x2004), "page 1 at 0x2004: only the first"),
        (attributes(2) + words(first(SIMPLE, 1), 0), "without its address"),
        (attributes(2) + words(first(SIMPLE, 1), 2**32 - 1, 2**32 - 1, 0), ""),
        (attributes(2) + words(first(SIMPLE, 2), 2**32 - 1, 2**32 - 1), "64-bit addresses"),
        (attributes(2) + words(first(PAGES, 1), 0), "lacks addresses"),
        (words(first(CHAIN, 8)), "chain element without its address"),
        (words(first(CHAIN | LAST, 0), 0x1000), "chain to a list of 0 bytes"),
        (words(first(CHAIN, 8), 0xFFFF_FFFF), "do not fit 32-bit addresses"),
    ],
)
def test_lies_are_refused(data: bytes, why: str) -> None:
    if not why:
        assert walk(data)
        return
    with pytest.raises(SglError, match=why) as caught:
        walk(data, read_host=Host({}))
    assert caught.value.offset is not None
    assert f"SGL at byte {caught.value.offset}" in str(caught.value)


def test_a_page_at_the_very_end_of_memory() -> None:
    data = words(first(PAGES | LAST | EOB, 0x1000), 0xFFFF_F000)
    assert walk(data)[0].pieces == [(0xFFFF_F000, 0x1000)]
    data = words(first(SIMPLE | LAST, 0x1000), 0xFFFF_F000)
    assert walk(data)[0].pieces == [(0xFFFF_F000, 0x1000)]


@pytest.mark.parametrize("page_size", [0, -4096, 4095])
def test_the_callers_page_size_must_make_sense(page_size: int) -> None:
    with pytest.raises(LocalFrameError, match="expected a power of two"):
        walk(words(first(PAGES | LAST, 1), 0), page_size=page_size)


# --- chains -------------------------------------------------------------------------------------


def test_a_chain_that_is_the_last_element() -> None:
    host = Host({0x1000: simple_sgl([(0x100, 4), (0x200, 8)], out=True)})
    frame = chain_element(0x1000, 16) + words(first(0x34, 0))
    assert show(walk(frame, read_host=host)) == [([(0x100, 4), (0x200, 8)], 12, True, False, ())]
    chain, one, two = elements(frame, read_host=host)
    assert (chain.kind, chain.depth, chain.pieces) == ("chain", 0, ((0x1000, 16),))
    assert (chain.out, chain.local, chain.end_of_buffer) == (None, False, False)
    assert [(e.list_address, e.offset, e.depth) for e in (one, two)] == [
        (0x1000, 0, 1),
        (0x1000, 8, 1),
    ]


def test_a_list_goes_on_behind_a_chain_that_is_not_the_last() -> None:
    # Solaris: the chain first, then an ignore element that ends the list
    host = Host({0x1000: simple_sgl([(0x100, 4)], out=True)})
    frame = chain_element(0x1000, 8, last=False) + words(first(IGNORE | LAST, 0))
    assert [e.kind for e in elements(frame, read_host=host)] == ["chain", "simple", "ignore"]
    frame = chain_element(0x1000, 8, last=False) + simple_sgl([(0x300, 4)], out=False)
    assert [b.pieces for b in walk(frame, read_host=host)] == [[(0x100, 4)], [(0x300, 4)]]


def test_a_buffer_may_span_lists() -> None:
    host = Host({0x1000: simple_sgl([(0x200, 8)], out=True)})
    frame = simple_sgl([(0x100, 4)], out=True, last=False, end_of_buffer=False)
    frame += chain_element(0x1000, 8)
    assert [b.pieces for b in walk(frame, read_host=host)] == [[(0x100, 4), (0x200, 8)]]


def test_a_chained_list_need_not_have_a_last_element() -> None:
    host = Host({0x1000: simple_sgl([(0x100, 4)], out=True, last=False) + b"\0\0"})
    frame = chain_element(0x1000, 10, last=False) + simple_sgl([(0x300, 4)], out=False)
    assert len(walk(frame, read_host=host)) == 2


def test_chains_with_contexts_and_nested_chains() -> None:
    host = Host(
        {
            0x1000: chain_element(0x2000, 8, last=False, contexts=(1, 2))
            + simple_sgl([(0x200, 4)], out=True),
            0x2000: simple_sgl([(0x100, 4)], out=True),
        }
    )
    found = elements(chain_element(0x1000, 24, contexts=(9,)), read_host=host)
    assert [(e.kind, e.depth, e.contexts) for e in found] == [
        ("chain", 0, (9,)),
        ("chain", 1, (1, 2)),
        ("simple", 2, ()),
        ("simple", 1, ()),
    ]


def test_attributes_hold_in_and_behind_chained_lists() -> None:
    host = Host({0x1_0000_1000: attributes(2, 8192) + words(first(SIMPLE, 4), 8, 1)})
    frame = attributes(2, 4096) + words(first(CHAIN, 20), 0x1000, 1)
    frame += words(first(PAGES | EOB | LAST, 8192), 0x8000, 0)
    assert walk(frame, read_host=host)[0].pieces == [(0x1_0000_0008, 4), (0x8000, 8192)]


def test_the_same_list_may_be_used_twice_but_not_inside_itself() -> None:
    host = Host({0x1000: simple_sgl([(0x100, 4)], out=True)})
    frame = chain_element(0x1000, 8, last=False) + chain_element(0x1000, 8)
    assert len(walk(frame, read_host=host)) == 2


@pytest.mark.parametrize("last", [True, False])
def test_chain_cycles_are_refused(last: bool) -> None:
    host = Host(
        {
            0x1000: chain_element(0x2000, 8, last=last),
            0x2000: chain_element(0x1000, 8, last=last),
        }
    )
    with pytest.raises(SglError, match="comes back to the list at 0x00001000") as caught:
        walk(chain_element(0x1000, 8), read_host=host)
    assert caught.value.offset is None
    assert "of the list at 0x00002000" in str(caught.value)
    assert host.reads == 2


def test_a_chain_to_itself_is_refused() -> None:
    host = Host({0x1000: chain_element(0x1000, 8)})
    with pytest.raises(SglError, match="comes back"):
        walk(chain_element(0x1000, 8), read_host=host)


def endless(address: int, _length: int) -> bytes:
    return chain_element(address + 8, 8)


def test_endless_chains_are_refused() -> None:
    with pytest.raises(SglError, match=f"more than {MAX_CHAINS} chained lists"):
        walk(chain_element(0x1000, 8), read_host=endless)


def test_as_many_chains_as_allowed() -> None:
    lists = {0x1000 + 8 * i: chain_element(0x1008 + 8 * i, 8) for i in range(MAX_CHAINS - 1)}
    last = 0x1000 + 8 * (MAX_CHAINS - 1)
    host = Host({**lists, last: simple_sgl([(0x100, 4)], out=True)})
    assert len(elements(chain_element(0x1000, 8), read_host=host)) == MAX_CHAINS + 1


def test_chained_bytes_are_bounded() -> None:
    reads: list[int] = []

    def read_host(address: int, length: int) -> bytes:
        reads.append(length)
        return words(first(IGNORE | LAST, 0)) + bytes(length - 4)

    frame = b"".join(chain_element(0x100_0000 * i, 0xFFFFFF, last=False) for i in range(1, 4))
    with pytest.raises(SglError, match=f"or {MAX_CHAINED_BYTES} bytes"):
        walk(frame, read_host=read_host)
    assert sum(reads) <= MAX_CHAINED_BYTES


def test_as_many_chained_bytes_as_allowed() -> None:
    def read_host(address: int, length: int) -> bytes:
        return words(first(IGNORE | LAST, 0)) + bytes(length - 4)

    rest = MAX_CHAINED_BYTES - 0xFFFFF0
    frame = chain_element(0x1000, 0xFFFFF0, last=False)
    assert len(elements(frame + chain_element(0x100_1000, rest), read_host=read_host)) == 4
    with pytest.raises(SglError, match=f"or {MAX_CHAINED_BYTES} bytes"):
        elements(frame + chain_element(0x100_1000, rest + 1), read_host=read_host)


def test_a_chain_needs_host_memory() -> None:
    frame = chain_element(0x1000, 8, last=False) + simple_sgl([(0x300, 4)], out=False)
    with pytest.raises(SglError, match="no host memory to read it from") as caught:
        walk(frame)
    assert caught.value.offset == 0
    # a dump shows what it can
    assert [e.kind for e in elements(frame)] == ["chain", "simple"]


def test_a_local_chain_cannot_be_followed() -> None:
    frame = words(first(CHAIN | LOCAL | LAST, 8), 0x1000)
    assert elements(frame)[0].local is True
    with pytest.raises(SglError, match="IOP's own memory"):
        elements(frame, read_host=Host({}))


def test_host_memory_that_is_not_there() -> None:
    def read_host(address: int, length: int) -> bytes:
        raise DmaFault(address, length)

    with pytest.raises(SglError, match="cannot be read: DMA of 8 bytes") as caught:
        walk(chain_element(0x1000, 8), read_host=read_host)
    assert isinstance(caught.value.__cause__, DmaFault)


def test_host_memory_that_is_short() -> None:
    with pytest.raises(SglError, match="the chained list has 4 of 8 bytes"):
        walk(chain_element(0x1000, 8), read_host=Host({0x1000: bytes(4)}))


def test_lies_in_a_chained_list_have_no_frame_offset() -> None:
    host = Host({0x1000: words(first(IGNORE, 0), first(0x34, 0))})
    with pytest.raises(SglError, match="byte 4 of the list at 0x00001000") as caught:
        walk(chain_element(0x1000, 8), read_host=host)
    assert caught.value.offset is None


# --- bounds -------------------------------------------------------------------------------------


def test_elements_are_counted() -> None:
    data = bytes(4 * MAX_ELEMENTS)
    assert len(elements(data)) == MAX_ELEMENTS
    with pytest.raises(SglError, match=f"more than {MAX_ELEMENTS} elements"):
        walk(data + bytes(4))


def test_pages_are_counted() -> None:
    data = attributes(0, 1) + words(first(PAGES | EOB, MAX_PIECES), *range(MAX_PIECES))
    assert len(walk(data)[0].pieces) == MAX_PIECES
    with pytest.raises(SglError, match=f"more than {MAX_PIECES} pages"):
        walk(data + words(first(PAGES | LAST, 1), 0))


# --- random lists -------------------------------------------------------------------------------

flag_bytes = st.sampled_from([IGNORE, TRANSPORT, BIT_BUCKET, IMMEDIATE, SIMPLE, PAGES, CHAIN])
first_words = st.builds(
    lambda kind, more, count: first(kind | more, count),
    flag_bytes | st.sampled_from([LONG, SHORT, ATTRIBUTES, 0x34]),
    st.sampled_from([0, 1, 2, 3, EOB, LAST, EOB | DIR, LOCAL]),
    st.integers(0, 64) | st.integers(0, 0xFFFFFF) | st.integers(0, 3).map(lambda n: n << 16),
)
frames = st.lists(
    first_words | st.integers(0, 0xFFFF_FFFF) | st.sampled_from([0, 0x1000, 4096]), max_size=32
).map(lambda values: words(*values))


def size_of(piece: Piece) -> int:
    if isinstance(piece, BitBucket):
        return piece.length
    return len(piece) if isinstance(piece, bytes) else piece[1]


@settings(max_examples=2000, deadline=None)
@given(
    frame=frames | st.binary(max_size=128),
    host_list=frames,
    wide=st.booleans(),
    page_size=st.sampled_from([256, 4096]),
    start=st.integers(-4, 132),
    cut=st.integers(-4, 8),
)
@example(b"", b"", False, 4096, 0, 0)
def test_random_bytes_raise_nothing_but_sgl_error(
    frame: bytes, host_list: bytes, wide: bool, page_size: int, start: int, cut: int
) -> None:
    reads = 0

    def read_host(address: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        return (host_list + bytes(length))[:length]

    buffers: list[SglBuffer] = []
    with contextlib.suppress(SglError):
        buffers = walk_sgl(
            frame,
            start,
            len(frame) - cut,
            read_host=read_host,
            page_size=page_size,
            context_words64=wide,
        )
    for buffer in buffers:
        sizes = [size_of(piece) for piece in buffer.pieces]
        assert sum(sizes) == buffer.length
        assert 0 not in sizes
    assert reads <= MAX_CHAINS


segments = st.tuples(st.integers(0, 0xF000_0000), st.integers(0, 0x2000000))
model_pieces = st.one_of(
    st.tuples(st.just("simple"), st.lists(segments, min_size=1, max_size=4), st.booleans()),
    st.tuples(st.just("immediate"), st.binary(max_size=20), st.just(True)),
)


@settings(max_examples=300, deadline=None)
@given(
    buffers=st.lists(model_pieces, min_size=1, max_size=6),
    contexts=st.lists(st.integers(0, 0xFFFF_FFFF), max_size=3),
    split=st.integers(0, 20),
)
def test_what_the_builders_make_is_what_the_walker_finds(
    buffers: list[tuple[str, Any, bool]], contexts: list[int], split: int
) -> None:
    parts: list[bytes] = []
    for index, (kind, what, out) in enumerate(buffers):
        last = index == len(buffers) - 1
        if kind == "simple":
            parts.append(simple_sgl(what, out=out, last=last, contexts=contexts))
        else:
            parts.append(immediate_element(what, last=last, contexts=contexts))
    # some of it in the frame, the rest in a chained list
    head, tail = b"".join(parts[:split]), b"".join(parts[split:])
    data = head + chain_element(0x1000, len(tail)) if tail else head
    found = walk(data, read_host=Host({0x1000: tail}))
    assert len(found) == len(buffers)
    for (kind, what, out), buffer in zip(buffers, found, strict=True):
        assert buffer.out is out
        assert buffer.contexts == tuple(contexts)
        if kind == "immediate":
            assert buffer.pieces == ([what] if what else [])
            continue
        assert buffer.length == sum(length for _, length in what)
        joined: list[tuple[int, int]] = []
        for address, length in buffer.pieces:  # type: ignore[misc]
            assert 0 < length <= sgl.MAX_COUNT
            if joined and sum(joined[-1]) == address:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((address, length))
        wanted: list[tuple[int, int]] = []
        for address, length in what:
            if length and wanted and sum(wanted[-1]) == address:
                wanted[-1] = (wanted[-1][0], wanted[-1][1] + length)
            elif length:
                wanted.append((address, length))
        assert joined == wanted


def test_the_quick_way_and_the_long_way_agree() -> None:
    dice = random.Random(7)
    for _ in range(2000):
        flags = LAST | SIMPLE | dice.choice([0, EOB]) | dice.choice([0, DIR]) | dice.choice([0, 8])
        count = dice.choice([0, 1, 0x1000, 0xFFFFFF])
        head = words(first(flags, count), dice.choice([0, 0x1000, 0xFFFF_FFFF, 0xFF00_0001]))
        slow = words(first(IGNORE, 0)) + head  # not a single element any more
        try:
            expected = show(walk(slow))
        except SglError:
            with pytest.raises(SglError):
                walk(head)
        else:
            assert show(walk(head)) == expected
            assert [b.has_addresses for b in walk(head)] == [True]


TOP = words(first(SIMPLE | LAST | EOB, 0x1000), 0xFFFF_F000)
"""One simple element, up to the last byte of memory."""


@pytest.mark.parametrize("flags", [SIMPLE, SIMPLE | DIR, SIMPLE | EOB, SIMPLE | EOB | DIR])
def test_a_lone_simple_element_is_found(flags: int) -> None:
    data = words(first(flags | LAST, 0x201), 0x1000)
    assert lone_simple(data, 0, 8) == (0x1000, 0x201)
    assert lone_simple(b"head" + data + b"tail", 4, 12) == (0x1000, 0x201)
    assert lone_simple(TOP, 0, 8) == (0xFFFF_F000, 0x1000)


@pytest.mark.parametrize(
    "word",
    [
        first(SIMPLE, 4),
        first(SIMPLE | LAST, 0),
        first(SIMPLE | LAST | LOCAL, 4),
        first(SIMPLE | LAST | 1, 4),
        first(SIMPLE | LAST | 2, 4),
        first(PAGES | LAST, 4),
        first(CHAIN | LAST, 4),
        first(IGNORE | LAST, 4),
    ],
)
def test_any_other_list_is_no_lone_simple_element(word: int) -> None:
    assert lone_simple(words(word, 0x1000, 0x1000, 0x1000), 0, 16) is None


@pytest.mark.parametrize(("start", "end"), [(-1, 8), (-8, 8), (0, 7), (1, 8), (0, 9), (8, 8)])
def test_a_lone_simple_element_lies_within_the_message(start: int, end: int) -> None:
    assert lone_simple(TOP, start, end) is None


def test_a_lone_simple_element_lies_within_memory() -> None:
    assert lone_simple(words(first(SIMPLE | LAST, 0x1001), 0xFFFF_F000), 0, 8) is None


@pytest.mark.parametrize("head", [b"", b"head"])
@pytest.mark.parametrize("tail", [b"", b"tail"])
def test_the_commonest_list_takes_the_quick_way(
    head: bytes, tail: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sgl_walk, "sgl_elements")
    odd = words(first(SIMPLE | LAST | LOCAL | DIR, 0x201), 0x1000)
    for data, piece in ((TOP, (0xFFFF_F000, 0x1000)), (odd, (0x1000, 0x201))):
        (buffer,) = walk_sgl(head + data + tail, len(head), len(head) + 8)
        assert buffer.pieces == [piece]


@pytest.mark.parametrize("start", [-1, -8])
def test_a_list_before_the_frame_is_refused(start: int) -> None:
    with pytest.raises(SglError, match=f"bytes {start} to 8"):
        walk_sgl(TOP, start, 8)


def test_simple_elements_of_a_long_list_take_the_short_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(sgl_walk._Reader, "_address")
    data = words(first(SIMPLE, 4), 0x40, first(SIMPLE | LOCAL | DIR | EOB | LAST, 4), 0x80)
    assert [e.pieces for e in elements(data)] == [((0x40, 4),), ((0x80, 4),)]


def test_no_simple_element_reaches_behind_the_message() -> None:
    data = words(first(IGNORE, 0), first(SIMPLE | LAST, 4), 0x40)
    for end in (8, 11):
        with pytest.raises(SglError, match="without its address"):
            walk_sgl(data, 0, end)
    assert len(walk_sgl(data, 0, 12)) == 1


def test_the_walkers_numbers_are_those_of_the_layouts() -> None:
    assert {kind for kind in sgl_walk._KINDS if kind & 0x40 == 0} >= {
        int(kind) for kind in sgl.SglElementType if int(kind) & 0x40 == 0
    }
    assert sgl_walk._LAST == sgl.SglFlags.LAST_ELEMENT
    assert sgl_walk._END_OF_BUFFER == sgl.SglFlags.END_OF_BUFFER
    assert sgl_walk._DIR == sgl.SglFlags.DIR
    assert sgl_walk._LOCAL == sgl.SglFlags.LOCAL_ADDRESS
