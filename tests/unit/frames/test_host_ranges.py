# SPDX-License-Identifier: Apache-2.0
"""The host memory that requests point to."""

from __future__ import annotations

import random

import pytest

from i2o.errors import LocalFrameError
from i2o.frames import block_storage, catalog, executive, private, scsi, utility
from i2o.frames.host_ranges import MAX_RANGES, HostRange, host_ranges, sgl_start
from i2o.frames.layout import MessageLayout
from i2o.frames.sgl import chain_element, immediate_element, simple_sgl

A, B, C = 0x100000, 0x200000, 0x300000


def frame_of(layout: MessageLayout, sgl: bytes, **fields: int) -> bytes:
    return layout.build(message_size=(layout.size + len(sgl)) // 4, **fields) + sgl


def ranges_of(layout: MessageLayout, sgl: bytes, **fields: int) -> list[tuple[int, int, int, bool]]:
    found = host_ranges(frame_of(layout, sgl, **fields))
    return [(one.buffer, one.offset, one.address, one.to_device) for one in found]


def both(out: bool) -> bytes:
    """A list of two buffers: two pieces, then one."""
    first = simple_sgl([(A, 16), (B, 16)], out=out, last=False)
    return first + simple_sgl([(C, 8)], out=out)


@pytest.mark.parametrize("out", [False, True])
def test_the_function_knows_the_direction_better_than_the_elements(out: bool) -> None:
    def ways(layout: MessageLayout, **fields: int) -> list[bool]:
        found = ranges_of(layout, both(out), **fields)
        assert [one[:3] for one in found] == [(0, 0, A), (0, 16, B), (1, 0, C)]
        return [one[3] for one in found]

    assert ways(block_storage.BSA_BLOCK_READ) == [False] * 3
    assert ways(block_storage.BSA_BLOCK_WRITE) == [True] * 3
    assert ways(utility.UTIL_PARAMS_GET) == [True, True, False]
    assert ways(utility.UTIL_CONFIG_DIALOG) == [False, False, True]
    assert ways(executive.EXEC_SYS_TAB_SET) == [True] * 3
    assert ways(executive.EXEC_ADAPTER_READ) == [out] * 3
    for layout in (scsi.SCSI_SCB_EXEC, private.DPT_PRIVATE_SCSI_SCB_EXEC):
        assert ways(layout, scb_flags=0x4000) == [False, False, out]
        assert ways(layout, scb_flags=0x8000) == [True, True, out]
        assert ways(layout) == [out] * 3


def test_bare_addresses() -> None:
    status = executive.EXEC_STATUS_GET.build(reply_buffer_address_low=A)
    assert host_ranges(status) == [HostRange(0, 0, A, 88, False)]
    status = executive.EXEC_STATUS_GET.build(reply_buffer_address_low=A, reply_buffer_length=40)
    assert host_ranges(status) == [HostRange(0, 0, A, 40, False)]
    long = executive.EXEC_STATUS_GET.build(
        reply_buffer_address_low=A, reply_buffer_length=0xFFFFFFFF
    )
    assert host_ranges(long) == [HostRange(0, 0, A, 88, False)]
    assert host_ranges(executive.EXEC_STATUS_GET.build()) == []
    reset = executive.EXEC_IOP_RESET.build(status_word_low_address=B)
    assert host_ranges(reset) == [HostRange(0, 0, B, 4, False)]
    assert host_ranges(executive.EXEC_IOP_RESET.build()) == []


@pytest.mark.parametrize("stated", [0, 4, 6])
def test_outbound_init_means_word_six_whatever_it_says(stated: int) -> None:
    frame = bytearray(frame_of(executive.EXEC_OUTBOUND_INIT, simple_sgl([(A, 4)], out=False)))
    frame[0] = stated << 4 | 1
    assert sgl_start(frame) == 24
    assert host_ranges(frame) == [HostRange(0, 0, A, 4, False)]


def test_data_in_the_frame_take_their_place_in_the_buffer() -> None:
    sgl = immediate_element(b"12345678", end_of_buffer=False) + simple_sgl([(A, 8)], out=True)
    frame = frame_of(utility.UTIL_PARAMS_SET, sgl)
    assert host_ranges(frame) == [HostRange(0, 8, A, 8, True)]


def test_chained_lists() -> None:
    inner = simple_sgl([(B, 512)], out=False)
    frame = frame_of(block_storage.BSA_BLOCK_READ, chain_element(A, len(inner)))
    memory = {A: inner}

    def read(address: int, length: int) -> bytes:
        if address not in memory:
            raise LocalFrameError("not there")
        return memory[address][:length]

    chain = HostRange(-1, 0, A, len(inner), True)
    assert host_ranges(frame) == [chain]
    assert host_ranges(frame, read_host=read) == [chain, HostRange(0, 0, B, 512, False)]
    memory.clear()
    assert host_ranges(frame, read_host=read) == [chain]


def test_memory_of_the_iop_and_empty_pieces_are_left_out() -> None:
    sgl = bytearray(simple_sgl([(A, 16), (B, 16)], out=False))
    sgl[3] |= 0x08
    assert ranges_of(block_storage.BSA_BLOCK_READ, bytes(sgl)) == [(0, 16, B, False)]
    empty = simple_sgl([(A, 0), (B, 16)], out=False)
    assert ranges_of(block_storage.BSA_BLOCK_READ, empty) == [(0, 0, B, False)]
    assert host_ranges(block_storage.BSA_STATUS_CHECK.build()) == []
    assert host_ranges(b"") == []


def test_what_stands_before_nonsense_counts() -> None:
    good = simple_sgl([(A, 16)], out=False, last=False)
    frame = frame_of(block_storage.BSA_BLOCK_READ, good + b"\xff\xff\xff\xff")
    assert host_ranges(frame) == [HostRange(0, 0, A, 16, False)]


def test_any_bytes_are_bounded() -> None:
    def read(address: int, length: int) -> bytes:
        if length > 4096:
            raise LocalFrameError("not captured")
        return random.Random(address).randbytes(length)

    rng = random.Random(11)
    functions = [layout.function for layout in catalog.messages() if layout.function is not None]
    for _ in range(5000):
        frame = bytearray(rng.randbytes(rng.randrange(0, 200)))
        if len(frame) > 8:
            frame[7] = rng.choice(functions)
            frame[0] = rng.randrange(16) << 4 | 1
        found = host_ranges(frame, read_host=read)
        assert len(found) <= MAX_RANGES
