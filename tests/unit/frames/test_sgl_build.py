# SPDX-License-Identifier: Apache-2.0
"""The functions that build scatter/gather elements."""

from __future__ import annotations

import pytest

from i2o.errors import LocalFrameError
from i2o.frames.sgl import (
    MAX_COUNT,
    SGE_ATTRIBUTES,
    SGE_CHAIN,
    SGE_SIMPLE,
    SGE_SIMPLE_1CTX,
    chain_element,
    immediate_element,
    simple_sgl,
)


def test_typical_constants_of_drivers() -> None:
    one = [(0x12345678, 0x200)]
    assert simple_sgl(one, out=False) == bytes.fromhex("000200d0 78563412")
    assert simple_sgl(one, out=True) == bytes.fromhex("000200d4 78563412")
    assert simple_sgl(one, out=True, last=False) == bytes.fromhex("00020054 78563412")
    bare = simple_sgl(one, out=False, last=False, end_of_buffer=False)
    assert bare == bytes.fromhex("00020010 78563412")
    assert immediate_element(b"abc") == bytes.fromhex("0300004c 61626300")
    assert immediate_element(b"abcd", last=True)[3] == 0xCC
    assert immediate_element(b"", end_of_buffer=False) == bytes.fromhex("0000000c")
    assert chain_element(0x1000, 64) == bytes.fromhex("400000b0 00100000")
    assert chain_element(0x1000, 64, last=False)[3] == 0x30
    assert SGE_ATTRIBUTES.build(sgl_attribute_flags=2) == bytes.fromhex("0200027c 00100000")


def test_builders_agree_with_the_layouts() -> None:
    assert simple_sgl([(0x1000, 8)], out=False) == SGE_SIMPLE.build(
        flags_count_count=8, flags_count_flags=0xD0, physical_address=0x1000
    )
    assert simple_sgl([(0x1000, 8)], out=False, contexts=[7]) == SGE_SIMPLE_1CTX.build(
        flags_count_count=8,
        flags_count_flags=0xD1,
        buffer_context=7,
        physical_address=0x1000,
    )
    assert chain_element(0x1000, 8) == SGE_CHAIN.build(
        flags_count_count=8, flags_count_flags=0xB0, physical_address=0x1000
    )


def test_only_the_last_element_ends_buffer_and_list() -> None:
    data = simple_sgl([(0, 1), (8, 2), (16, 3)], out=True)
    assert [data[i + 3] for i in range(0, len(data), 8)] == [0x14, 0x14, 0xD4]


def test_long_segments_become_several_elements() -> None:
    data = simple_sgl([(0x1000, 2 * MAX_COUNT)], out=False)
    assert len(data) == 3 * 8
    parts = [SGE_SIMPLE.unpack_from(data, at) for at in range(0, len(data), 8)]
    assert [part.flags_count_flags for part in parts] == [0x10, 0x10, 0xD0]
    assert sum(part.flags_count_count for part in parts) == 2 * MAX_COUNT
    at = 0x1000
    for part in parts:
        assert part.physical_address == at
        at += part.flags_count_count
    assert [part.physical_address & 0xFFF for part in parts] == [0, 0, 0]


def test_the_longest_segment_of_one_element() -> None:
    assert len(simple_sgl([(0, MAX_COUNT)], out=False)) == 8
    assert len(simple_sgl([(0, MAX_COUNT + 1)], out=False)) == 16


def test_contexts_are_repeated_in_every_element() -> None:
    data = simple_sgl([(0x10, 1), (0x20, 2)], out=False, contexts=[1, 2, 3])
    assert len(data) == 2 * 20
    assert data[3], data[23] == (0x13, 0xD3)
    assert data[4:16] == data[24:36] == bytes.fromhex("01000000 02000000 03000000")
    assert immediate_element(b"x", contexts=[9])[:8] == bytes.fromhex("0100004d 09000000")
    assert chain_element(4, 8, contexts=[9])[:8] == bytes.fromhex("080000b1 09000000")


def test_an_empty_segment_is_an_element_of_no_bytes() -> None:
    assert simple_sgl([(0, 0)], out=True) == bytes.fromhex("000000d4 00000000")


@pytest.mark.parametrize("segment", [(-1, 1), (0, -1), (0xFFFF_FFFF, 2), (1 << 32, 1)])
def test_segments_outside_32_bits_are_refused(segment: tuple[int, int]) -> None:
    with pytest.raises(LocalFrameError, match="does not fit 32-bit addresses"):
        simple_sgl([segment], out=True)


def test_the_last_byte_of_memory_can_be_used() -> None:
    assert simple_sgl([(0xFFFF_FFFF, 1)], out=True)[4:] == b"\xff\xff\xff\xff"


def test_a_buffer_needs_a_segment() -> None:
    with pytest.raises(LocalFrameError, match="at least one segment"):
        simple_sgl([], out=True)


@pytest.mark.parametrize("contexts", [[1, 2, 3, 4], [-1], [1 << 32]])
def test_contexts_that_do_not_fit_are_refused(contexts: list[int]) -> None:
    for build in (
        lambda: simple_sgl([(0, 1)], out=True, contexts=contexts),
        lambda: immediate_element(b"", contexts=contexts),
        lambda: chain_element(0, 8, contexts=contexts),
    ):
        with pytest.raises(LocalFrameError, match="at most three context words"):
            build()


def test_immediate_data_have_one_direction_and_a_limit() -> None:
    with pytest.raises(LocalFrameError, match="host to device only"):
        immediate_element(b"x", out=False)
    with pytest.raises(LocalFrameError, match="cannot count 16777216 bytes"):
        immediate_element(bytes(MAX_COUNT + 1))


@pytest.mark.parametrize(("address", "length"), [(1 << 32, 8), (-1, 8)])
def test_chain_addresses_that_do_not_fit_are_refused(address: int, length: int) -> None:
    with pytest.raises(LocalFrameError, match="does not fit 32 bits"):
        chain_element(address, length)


@pytest.mark.parametrize("length", [-1, MAX_COUNT + 1])
def test_chain_lengths_that_do_not_fit_are_refused(length: int) -> None:
    with pytest.raises(LocalFrameError, match="cannot count"):
        chain_element(0, length)
