# SPDX-License-Identifier: Apache-2.0
"""Random and mutated frames: nothing is raised, and every frame is accounted for."""

from __future__ import annotations

import random
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.iop_rig import DISK, Rig
from i2o.frames import block_storage as bsa
from i2o.frames import executive, utility
from i2o.frames.functions import Function
from i2o.frames.params import ParamOperation
from i2o.frames.sgl import immediate_element
from i2o.frames.tables import IopState
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.options import IopOptions

BASE = 0x00100000  # where BusSpace puts its first buffer
WORDS = st.one_of(
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from(
        [0, BASE, BASE + 4, BASE + 0x10000, 0xD0000200, 0xD4000200, 0x54000010, 0x10000100,
         0x30000010, 0xB0000010, 0xE0001000, 0x4C00000C, 0x7C020002, 0x7C020000, 0x08000010,
         0x80000000, 0xC0000001, 0x70020000, 512, 1024, 0xFFFFFFFF]
    ),
)  # fmt: skip
LAYOUTS = [
    layout
    for chapter in (utility, executive, bsa)
    for layout in chapter.MESSAGES
    if layout.direction == "request" and layout.function is not None
]


@st.composite
def frames(draw) -> bytes:
    layout = draw(st.sampled_from(LAYOUTS))
    target = DISK if layout.chapter == "bsa" else draw(st.sampled_from([0, 8, DISK, 0x123]))
    frame = bytearray(layout.build(target_address=target))
    for word in draw(st.lists(WORDS, max_size=12)):
        frame += struct.pack("<I", word)
    for place, word in draw(st.lists(st.tuples(st.integers(2, 20), WORDS), max_size=4)):
        if 4 * place + 4 <= len(frame):
            struct.pack_into("<I", frame, 4 * place, word)
    if draw(st.booleans()):
        struct.pack_into("<H", frame, 2, len(frame) // 4)
    for place, byte in draw(
        st.lists(st.tuples(st.integers(0, 7), st.integers(0, 255)), max_size=2)
    ):
        if draw(st.integers(0, 3)) == 0:
            frame[place] = byte
    return bytes(frame)


def make() -> Rig:
    rig = Rig(
        [MemoryDisk(1 << 16, removable=True)], options=IopOptions(backlog=8), replies=8, frames=12
    )
    for _ in range(3):
        rig.buffer(4096)
    return rig


def check(rig: Rig) -> None:
    assert rig.account() == rig.unit.frame_count
    assert rig.iop.state in set(IopState)


@settings(max_examples=300)
@given(st.lists(st.one_of(frames(), st.binary(min_size=16, max_size=128)), max_size=12))
def test_any_sequence_of_frames(posted):
    rig = make()
    for frame in posted:
        mfa = rig.unit.alloc()
        if mfa == 0xFFFFFFFF:
            break
        rig.unit.write(mfa, frame)
        rig.unit.post(mfa)
        rig.advance(1)
        check(rig)
    for _ in range(30):
        for reply in rig.replies():
            assert 20 <= len(reply.data) <= 128
            assert reply.data[1] & 0x80
    check(rig)
    rig.iop.power_cycle()
    rig.bring_up(8)
    assert rig.call(bsa.BSA_STATUS_CHECK.build(target_address=DISK)).status == (0, 0)
    assert rig.unit.idle_inbound() == rig.unit.frame_count


@settings(max_examples=300)
@given(
    st.binary(max_size=96),
    st.sampled_from([0, 8, DISK]),
    st.sampled_from([Function.UTIL_PARAMS_GET, Function.UTIL_PARAMS_SET]),
    st.integers(0, 300),
)
def test_any_operation_list(data, tid, function, size):
    rig = make()
    layout = utility.UTIL_PARAMS_SET if function == 5 else utility.UTIL_PARAMS_GET
    result = rig.buffer(bytes([0xAA]) * 320)
    reply = rig.call(
        layout.build(target_address=tid)
        + immediate_element(data)
        + struct.pack("<II", 0xD0000000 | size, result.bus_address)
    )
    assert reply.data[19] in (0, 5, 6)
    assert bytes(result.view[size:]) == bytes([0xAA]) * (320 - size)


OPERATIONS = st.builds(
    lambda op, group, count, rest: struct.pack("<3H", op, group, count) + rest,
    st.sampled_from(list(ParamOperation)),
    st.sampled_from([0, 1, 2, 3, 4, 5, 0x102, 0x180, 0xF000, 0xF003, 0xF006, 0xF102, 0x7777]),
    st.sampled_from([0, 1, 2, 0xFFFF]),
    st.binary(max_size=24),
)


@settings(max_examples=200)
@given(st.lists(OPERATIONS, min_size=1, max_size=4), st.sampled_from([0, DISK]), st.booleans())
def test_any_list_of_real_operations(operations, tid, set_):
    rig = make()
    reply, _ = rig.parameters(tid, b"".join(operations), set_=set_, count=len(operations), size=200)
    assert reply.data[19] in (0, 5, 6)


def test_blocks_agree_with_a_model():
    chance = random.Random(7)
    rig = Rig([MemoryDisk(1 << 18)])
    model = bytearray(1 << 18)
    buffer = rig.buffer(1 << 16)
    for _ in range(400):
        blocks = chance.randrange(1, 20)
        count, address = 512 * blocks, 512 * chance.randrange(0, 512 - blocks)
        cut = chance.randrange(1, count)
        sgl = struct.pack(
            "<IIII",
            0x10000000 | cut,
            buffer.bus_address,
            0xD0000000 | count - cut,
            buffer.bus_address + cut,
        )
        is_write = chance.random() < 0.5
        layout = bsa.BSA_BLOCK_WRITE if is_write else bsa.BSA_BLOCK_READ
        if is_write:
            buffer.view[:count] = model[address : address + count] = chance.randbytes(count)
        frame = layout.build(
            target_address=DISK, transfer_byte_count=count, logical_byte_address=address
        )
        assert rig.call(frame + sgl).status == (0, 0)
        assert buffer.view[:count] == model[address : address + count]
    assert bytes(rig.iop.bay.disk(DISK).store._data) == bytes(model)
