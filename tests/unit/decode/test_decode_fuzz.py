# SPDX-License-Identifier: Apache-2.0
"""Whatever the bytes are: no exception, bounded work, and a reason for what is malformed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.decoded import IN, MFA, OUT, Talk, nodes_of, problems, sized, with_buffers
from i2o.decode.conversation import DMA, Traced
from i2o.decode.dma_summary import MAX_LENGTH, dma_summary
from i2o.frames import catalog, executive, header, private, utility
from i2o.frames.layout import MessageLayout
from i2o.transport.capture.packet import Channel, Packet

FRAMES = 20_000
SLOWEST_S = 10.0
"""In time of the processor, which other programs do not lengthen. The largest table takes a second
on a slow one under coverage; only work that grows faster than what is read gets there."""


def decode(traced: Traced) -> None:
    started = time.thread_time()
    for node in nodes_of(traced):
        node.json()
        assert all(leaf.value is not None for leaf in node.leaves())
        assert all(text for text in node.problems())
    if traced.kind == DMA:
        assert 0 < len(dma_summary(traced)) <= MAX_LENGTH
    assert time.thread_time() - started < SLOWEST_S


def frame(layout: MessageLayout, chance: random.Random) -> bytes:
    """Return a frame with the right head and any body, of about the right size."""
    size = max(0, layout.size + chance.choice((0, 0, 4, 64, chance.randrange(64), -4, -1)))
    data = bytearray(chance.randbytes(size))
    if len(data) >= 8 and chance.random() < 0.9:
        data[0] = layout.sgl_word_offset << 4 | 1
        data[1] = 0xC0 if layout.direction == "reply" else 0
        data[4:7] = chance.choice((b"\0\x10\0", b"\x10\x10\0", b"\x20\x10\0"))
        if layout.function is not None:
            data[7] = layout.function
        if chance.random() < 0.8:
            data[2:4] = (len(data) // 4).to_bytes(2, "little")
    if layout.chapter == "private" and len(data) >= 20:
        data[16:20] = private.DPT_PRIVATE_SCSI_SCB_EXEC.build()[16:20]
    if layout.sgl_word_offset and len(data) >= layout.size and chance.random() < 0.8:
        return with_buffers(bytes(data[: layout.size]), 64, 256)
    return bytes(data)


def buffer(chance: random.Random) -> bytes:
    size = chance.randrange(200)
    if chance.random() < 0.5:
        return chance.randbytes(size)
    return bytes(chance.choice((0, 0, 0, 1, 1, 2, 3, 4, 8, 9, 0xF0, 0xFF)) for _ in range(size))


def packets(chance: random.Random) -> Iterator[Packet]:
    layouts = catalog.messages()
    while True:
        layout = chance.choice(layouts)
        channel = Channel.IN if layout.direction == "request" else Channel.OUT
        data = frame(layout, chance)
        length = len(data) + chance.choice((0, 0, 0, 9))
        yield Packet(0, 0, channel.value, data, length, MFA)
        if channel == Channel.IN:
            for address in (OUT, IN, IN + chance.choice((4, 64))):
                data = buffer(chance)
                way = Channel.TO_DEVICE if address == OUT else Channel.FROM_DEVICE
                length = len(data) + chance.choice((0, 0, 50))
                yield Packet(0, 0, way.value, data, length, MFA, address)


@pytest.mark.parametrize("seed", range(4))
def test_any_frames_and_buffers(seed):
    chance = random.Random(seed)
    talk = Talk()
    talk.learn(t010=0x10, t020=0x20)
    source = packets(chance)
    for _ in range(FRAMES // 4):
        decode(talk.conversation.feed(next(source)))


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Channel)), st.binary(max_size=96), st.integers(0, 3)),
        max_size=8,
    )
)
def test_any_bytes_in_any_order(said):
    talk = Talk()
    for channel, data, more in said:
        decode(talk.say(channel, data, length=len(data) + more, address=IN))


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_parameter_lists(data, cut):
    talk = Talk()
    talk.learn(t010=0x10)
    head = utility.UTIL_PARAMS_GET.build(target_address=0x10)
    talk.request(with_buffers(head, 300, 300))
    decode(talk.to_device(data[:cut]))
    decode(talk.from_device(data[cut:]))


def test_every_frame_that_is_cut_has_a_reason():
    for layout in catalog.messages():
        if layout.direction != "request":
            continue
        whole = sized(layout.build(target_address=0x10))
        for size in range(len(whole)):
            traced = Talk().request(whole[:size])
            assert problems(traced), (layout, size)
            cut = Talk().request(whole[:size], length=len(whole))
            assert any("captured" in text for text in problems(cut)), (layout, size)
        for words in range(len(whole) // 4):
            assert problems(Talk().request(sized(whole, words))), (layout, words)


def test_every_byte_of_a_header_that_makes_no_sense_has_a_reason():
    frame = sized(executive.EXEC_HRT_GET.build())
    known_functions = {layout.function for layout in catalog.messages()}
    for value in range(256):
        version = Talk().request(bytes([value]) + frame[1:])
        if value & 0xF > 1 or 0 < value >> 4 < 4 or value >> 4 > 4:
            assert problems(version), value
        flags = Talk().request(frame[:1] + bytes([value]) + frame[2:])
        if value & (0x80 | 0x20 | 0x0C | 0x02):
            assert problems(flags), value
        function = Talk().request(frame[:7] + bytes([value]) + frame[8:])
        if value not in known_functions:
            assert "is not known" in problems(function)[0]


def test_replies_cut_anywhere():
    for layout in catalog.messages():
        if layout.direction != "reply":
            continue
        whole = sized(layout.build())
        for size in range(len(whole)):
            assert problems(Talk().reply(whole[:size])), (layout, size)
    assert header.FAILURE_REPLY.size == 36


def test_huge_tables_take_bounded_time():
    talk = Talk()
    talk.request(with_buffers(executive.EXEC_LCT_NOTIFY.build(), 0xFFFFF0))
    decode(talk.from_device(b"\xff\xff" + bytes(0x10000)))
    talk.request(with_buffers(utility.UTIL_PARAMS_GET.build(), 0xFFFFF0, 0xFFFFF0))
    decode(talk.to_device(b"\xff\xff\0\0" + b"\x0a\0\0\xf1" * 16000))
    decode(talk.from_device(b"\xff\xff\0\0" + b"\x01\0\0\0" * 16000))
