# SPDX-License-Identifier: Apache-2.0
"""Who answers whom: pairing, latency, device classes and the place of DMA."""

from __future__ import annotations

import random
import struct
import time
from itertools import count

import pytest

from i2o.decode import conversation
from i2o.decode.conversation import DMA, MESSAGE, REPLY, REQUEST, Conversation, Traced
from i2o.frames import block_storage, executive, header, lan, private, scsi, tables, utility
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.sgl import chain_element, simple_sgl
from i2o.transport.capture.packet import Channel, Packet

DISK = 0x010
HOST = 0x900000


def read(context: int = 1, size: int = 512, address: int = HOST, cookie: int = 5) -> bytes:
    sgl = simple_sgl([(address, size)], out=False)
    return (
        block_storage.BSA_BLOCK_READ.build(
            target_address=DISK,
            initiator_context=cookie,
            transaction_context=context,
            transfer_byte_count=size,
            message_size=8 + len(sgl) // 4,
        )
        + sgl
    )


def done(request: bytes, count: int = 512, **fields: int) -> bytes:
    reply = block_storage.BSA_SUCCESS_REPLY.build(transfer_count=count, **fields)
    return reply[:4] + request[4:16] + reply[16:]


def progress(request: bytes) -> bytes:
    return done(request, msg_flags=0x80, req_status=0x80)


def failed(request: bytes, mfa: int) -> bytes:
    reply = header.FAILURE_REPLY.build(preserved_mfa_low=mfa, failure_code=0x8D, severity=2)
    return reply[:4] + request[4:12] + bytes(4) + reply[16:]


class Talk:
    """A conversation whose clock ticks a microsecond a packet."""

    def __init__(self) -> None:
        self.conversation = Conversation()
        self._time = count(1_000_000, 1000)

    def say(
        self,
        channel: Channel,
        data: bytes,
        *,
        mfa: int | None = None,
        address: int = 0,
        iop: int = 0,
        length: int | None = None,
    ) -> Traced:
        return self.conversation.feed(
            Packet(next(self._time), iop, channel, data, length or len(data), mfa, address)
        )

    def ask(self, frame: bytes, mfa: int | None = None, iop: int = 0) -> Traced:
        return self.say(Channel.IN, frame, mfa=mfa, iop=iop)

    def answer(self, frame: bytes, iop: int = 0) -> Traced:
        return self.say(Channel.OUT, frame, iop=iop)


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_a_reply_finds_its_request_and_the_latency(talk: Talk) -> None:
    request = talk.ask(read(), 0x1000)
    talk.ask(read(2), 0x1200)
    reply = talk.answer(done(read()))
    assert (request.kind, request.name, request.index) == (REQUEST, "bsa_block_read", 0)
    assert (reply.kind, reply.name, reply.request, reply.latency_ns) == (
        REPLY,
        "bsa_block_read",
        request,
        2000,
    )
    assert talk.conversation.outstanding(0) == talk.conversation.unanswered() == 1
    assert talk.conversation.outstanding(7) == 0


def test_replies_out_of_order(talk: Talk) -> None:
    rng = random.Random(3)
    requests = [talk.ask(read(index), 0x1000 + 512 * index) for index in range(50)]
    order = list(range(50))
    rng.shuffle(order)
    for index in order:
        assert talk.answer(done(read(index))).request is requests[index]
    assert talk.conversation.unanswered() == 0


def test_a_context_that_is_used_again(talk: Talk) -> None:
    for _ in range(3):
        request = talk.ask(read(7), 0x1000)
        assert talk.answer(done(read(7))).request is request
    assert talk.answer(done(read(7))).request is None


def test_requests_alike_are_answered_oldest_first_unless_the_reply_fits_another(
    talk: Talk,
) -> None:
    first = talk.ask(read(7, 512))
    second = talk.ask(read(7, 4096))
    third = talk.ask(read(7, 512))
    assert talk.conversation.outstanding(0) == 3
    assert talk.answer(done(read(7), 4096)).request is second
    assert talk.answer(done(read(7), 100)).request is first
    assert talk.answer(done(read(7), 512)).request is third
    assert talk.conversation.outstanding(0) == 0


def test_iops_are_kept_apart(talk: Talk) -> None:
    here, there = talk.ask(read(), iop=0), talk.ask(read(), iop=1)
    assert talk.answer(done(read()), iop=1).request is there
    assert talk.answer(done(read()), iop=0).request is here


def test_progress_replies_and_events_do_not_end_a_request(talk: Talk) -> None:
    request = talk.ask(read())
    assert [talk.answer(progress(read())).request for _ in range(2)] == [request, request]
    assert talk.answer(done(read())).request is request

    register = utility.UTIL_EVENT_REGISTER.build(target_address=DISK, event_mask=1)
    asked = talk.ask(register)
    event = utility.UTIL_EVENT_REGISTER_REPLY.build(event_indicator=1)
    event = event[:4] + register[4:16] + event[16:]
    assert [talk.answer(event).request for _ in range(3)] == [asked] * 3
    assert talk.conversation.unanswered() == 0
    assert talk.answer(failed(register, 0x1000)).request is None
    again = talk.ask(register, 0x1000)
    assert talk.answer(failed(register, 0x1000)).request is again
    assert talk.answer(event).request is None
    talk.ask(register)
    talk.ask(executive.EXEC_OUTBOUND_INIT.build())
    assert talk.answer(event).request is None


def test_alike_requests_share_their_progress(talk: Talk) -> None:
    first = talk.ask(read())
    talk.ask(read())
    assert talk.answer(progress(read())).request is first


def test_lan_replies_repeat_no_transaction_context(talk: Talk) -> None:
    send = lan.LAN_PACKET_SEND.build(target_address=0x20, initiator_context=9)
    request = talk.ask(send)
    reply = header.MULTIPLE_TRANSACTION_REPLY.build()
    reply = reply[:4] + send[4:12] + b"\x01\x01\x00\x80" + reply[16:]
    assert talk.answer(reply).request is request


def test_nothing_is_expected_of_messages_that_are_never_answered(talk: Talk) -> None:
    for layout in (utility.UTIL_NOP, executive.EXEC_STATUS_GET, executive.EXEC_IOP_RESET):
        talk.ask(layout.build())
    assert talk.conversation.unanswered() == 0


def test_outbound_init_forgets_what_was_owed(talk: Talk) -> None:
    talk.ask(read())
    talk.ask(executive.EXEC_OUTBOUND_INIT.build())
    assert talk.conversation.unanswered() == 0
    assert talk.answer(done(read())).request is None


class TestFail:
    def test_the_preserved_frame_tells_which_request(self, talk: Talk) -> None:
        talk.ask(read(1), 0x1000)
        second = talk.ask(read(2), 0x1200)
        assert talk.answer(failed(read(2), 0x1200)).request is second
        assert talk.conversation.unanswered() == 1

    def test_even_among_requests_alike(self, talk: Talk) -> None:
        first, second = talk.ask(read(), 0x1000), talk.ask(read(), 0x1200)
        assert talk.answer(failed(read(), 0x1200)).request is second
        assert talk.answer(failed(read(), 0x1000)).request is first
        assert talk.conversation.unanswered() == 0

    def test_without_mfas_the_only_one_alike_is_meant(self, talk: Talk) -> None:
        request = talk.ask(read(3))
        assert talk.answer(failed(read(3), 0x5000)).request is request

    def test_and_none_if_there_are_two(self, talk: Talk) -> None:
        talk.ask(read(3))
        talk.ask(read(4))
        assert talk.answer(failed(read(3), 0x5000)).request is None

    def test_an_answered_request_does_not_fail_again(self, talk: Talk) -> None:
        talk.ask(read(3), 0x1000)
        talk.answer(done(read(3)))
        talk.ask(read(4), 0x1200)
        assert talk.answer(failed(read(3), 0x1000)).request is None

    def test_a_short_fail_reply(self, talk: Talk) -> None:
        request = talk.ask(read(3), 0x1000)
        assert talk.answer(failed(read(3), 0x1000)[:20]).request is request


def test_swapped_tids_are_forgiven(talk: Talk) -> None:
    request = talk.ask(read())
    reply = bytearray(done(read()))
    route = struct.unpack_from("<I", reply, 4)[0]
    swapped = route & 0xFF000000 | (route & 0xFFF) << 12 | route >> 12 & 0xFFF
    struct.pack_into("<I", reply, 4, swapped)
    answered = talk.answer(bytes(reply))
    assert answered.request is request
    assert answered.target == 1


def test_short_frames(talk: Talk) -> None:
    for size in range(12):
        assert talk.ask(read()[:size]).is_short
        assert talk.answer(done(read())[:size]).is_short
    assert not talk.ask(utility.UTIL_NOP.build()[:12]).is_short
    assert talk.ask(read()[:12]).request is None
    assert talk.answer(done(read())[:12]).request is None
    assert talk.conversation.unanswered() == 0


def test_a_frame_is_cut_at_its_message_size(talk: Talk) -> None:
    assert talk.ask(read() + b"junk").frame == read()
    assert talk.ask(read()[:20]).frame == read()[:20]


def test_other_packets(talk: Talk) -> None:
    traced = talk.say(Channel.MESSAGE, b"hello")
    assert (traced.kind, traced.layout) == (MESSAGE, None)


def test_what_is_remembered_is_bounded(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_OUTSTANDING", 10)
    requests = [talk.ask(read(index), index) for index in range(15)]
    assert talk.conversation.outstanding(0) == 10
    assert talk.answer(done(read(4))).request is None
    assert talk.answer(done(read(5))).request is requests[5]
    register = [utility.UTIL_EVENT_REGISTER.build(transaction_context=index) for index in range(11)]
    for frame in register:
        talk.ask(frame)
    event = utility.UTIL_EVENT_REGISTER_REPLY.build()
    kept = [talk.answer(event[:4] + frame[4:16] + event[16:]).request for frame in register]
    assert [request is None for request in kept] == [True] + [False] * 10
    alike = Talk()
    for _ in range(15):
        alike.ask(read(1))
    assert alike.conversation.outstanding(0) == 10


class TestClasses:
    def test_a_function_gives_the_class_away(self, talk: Talk) -> None:
        reset = block_storage.BSA_DEVICE_RESET.build(target_address=DISK)
        assert talk.ask(reset).name == "bsa_device_reset|scsi_device_reset"
        talk.ask(read())
        traced = talk.ask(reset)
        assert (traced.name, traced.device_class) == ("bsa_device_reset", 0x10)
        assert traced.layout is block_storage.BSA_DEVICE_RESET

    def test_the_lct_knows_better(self, talk: Talk) -> None:
        entries = b"".join(
            tables.LCT_ENTRY.build(local_tid=tid, class_id_class=number)
            for tid, number in ((DISK, DeviceClass.SCSI_PERIPHERAL), (0x20, DeviceClass.LAN))
        )
        table = tables.LCT_HEADER.build(table_size=3 + 18)[:12] + entries
        notify = executive.EXEC_LCT_NOTIFY.build(message_size=10) + simple_sgl(
            [(HOST, 40), (HOST + 0x10000, 200)], out=False
        )
        talk.ask(notify, 0x1000)
        talk.say(Channel.FROM_DEVICE, table[:40], mfa=0x1000, address=HOST)
        talk.say(Channel.FROM_DEVICE, table[40:], mfa=0x1000, address=HOST + 0x10000)
        traced = talk.ask(scsi.SCSI_DEVICE_RESET.build(target_address=DISK))
        assert traced.name == "scsi_device_reset"
        verify = talk.ask(lan.LAN_RESET.build(target_address=0x20))
        assert verify.name == "lan_reset"

    def test_the_executive_is_known(self, talk: Talk) -> None:
        assert talk.ask(executive.EXEC_HRT_GET.build()).device_class == DeviceClass.EXECUTIVE


class TestPrivate:
    scb = private.DPT_PRIVATE_SCSI_SCB_EXEC.build(target_address=0x11, tid=0x11)

    def test_its_name_and_its_reply_are_those_of_scsi(self, talk: Talk) -> None:
        request = talk.ask(self.scb)
        assert request.name == "dpt_private_scsi_scb_exec"
        reply = scsi.SCSI_SUCCESS_REPLY.build(transfer_count=5)
        answered = talk.answer(reply[:4] + self.scb[4:16] + reply[16:])
        assert answered.name == "dpt_private_scsi_scb_exec"
        assert answered.layout is scsi.SCSI_SUCCESS_REPLY
        assert answered.meant == (Function.SCSI_SCB_EXEC, DeviceClass.SCSI_PERIPHERAL)

    def test_others_are_private_messages(self, talk: Talk) -> None:
        frame = private.PRIVATE_MESSAGE.build(organization_id=0x4916, x_function_code=1)
        assert talk.ask(frame).name == "private_message"
        reply = header.SINGLE_TRANSACTION_REPLY.build()
        answered = talk.answer(reply[:4] + frame[4:16] + reply[16:])
        assert (answered.name, answered.layout) == (
            "private_message",
            header.SINGLE_TRANSACTION_REPLY,
        )


class TestDma:
    def test_by_mfa(self, talk: Talk) -> None:
        talk.ask(read(1), 0x1000)
        request = talk.ask(read(2, 4096), 0x1200)
        traced = talk.say(Channel.FROM_DEVICE, b"x", mfa=0x1200, address=HOST + 16)
        assert (traced.kind, traced.request, traced.buffer, traced.offset) == (DMA, request, 0, 16)
        assert (traced.name, traced.target) == ("bsa_block_read", DISK)
        assert request.buffers is None  # bulk data are not kept

    def test_an_mfa_whose_request_points_elsewhere_is_not_believed(self, talk: Talk) -> None:
        talk.ask(read(1), 0x1000)
        traced = talk.say(Channel.FROM_DEVICE, b"x", mfa=0x1000, address=0x10)
        assert (traced.request, traced.name, traced.buffer) == (None, "dma", None)

    def test_a_frame_that_was_used_again_before_the_reply(self, talk: Talk) -> None:
        first = talk.ask(read(1, 512, 0xA00000), 0x1000)
        alike = talk.ask(read(1, 512, 0xB00000), 0x1000)
        talk.ask(read(2, 512, 0xC00000), 0x1000)
        for address, request in ((0xA00000, first), (0xB00000, alike)):
            assert talk.say(Channel.FROM_DEVICE, b"x", mfa=0x1000, address=address).request is (
                request
            )
        assert talk.say(Channel.FROM_DEVICE, b"x", mfa=0x1200, address=0xA00000).request is None

    def test_the_search_is_bounded(self, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(conversation, "MAX_SEARCH", 3)
        for index in range(5):
            talk.ask(read(index, 512, 0xA00000 + index * 0x1000), 0x1000)
        old = talk.say(Channel.FROM_DEVICE, b"x", mfa=0x1000, address=0xA00000)
        new = talk.say(Channel.FROM_DEVICE, b"x", mfa=0x1000, address=0xA03000)
        assert (old.request is None, new.request is None) == (True, False)

    def test_by_address_the_latest_request_is_meant(self, talk: Talk) -> None:
        talk.ask(read(1), 0x1000)
        later = talk.ask(read(2), 0x1200)
        assert talk.say(Channel.FROM_DEVICE, b"x", address=HOST).request is later

    def test_pieces_of_a_structure_are_put_together(self, talk: Talk) -> None:
        get = (
            utility.UTIL_PARAMS_GET.build(message_size=11)
            + simple_sgl([(HOST, 12)], out=True, last=False)
            + simple_sgl([(HOST + 0x1000, 8), (HOST + 0x2000, 8)], out=False)
        )
        request = talk.ask(get, 0x1000)
        talk.say(Channel.TO_DEVICE, b"operations..", mfa=0x1000, address=HOST)
        first = talk.say(Channel.FROM_DEVICE, b"AAAABBBB", mfa=0x1000, address=HOST + 0x1000)
        second = talk.say(Channel.FROM_DEVICE, b"CCCCDDDD", mfa=0x1000, address=HOST + 0x2000)
        assert (first.buffer, first.offset, second.buffer, second.offset) == (1, 0, 1, 8)
        assert request.buffers == {0: b"operations..", 1: b"AAAABBBBCCCCDDDD"}
        gap = talk.say(Channel.FROM_DEVICE, b"E", mfa=0x1000, address=HOST + 0x2004)
        assert gap.offset == 12
        assert request.buffers[1] == b"AAAABBBBCCCCDDDD"

    def test_a_chained_list_shows_where_its_memory_is(self, talk: Talk) -> None:
        frame = block_storage.BSA_BLOCK_READ.build(
            target_address=DISK, message_size=10
        ) + chain_element(HOST, 8)
        request = talk.ask(frame, 0x1000)
        inner = simple_sgl([(0xA00000, 512)], out=False)
        chain = talk.say(Channel.TO_DEVICE, inner, mfa=0x1000, address=HOST)
        assert chain.buffer == -1
        data = talk.say(Channel.FROM_DEVICE, b"x", mfa=0x1000, address=0xA00000)
        assert (data.request, data.buffer, data.offset) == (request, 0, 0)

    def test_a_reply_frame_on_its_way(self, talk: Talk) -> None:
        request = talk.ask(read(), 0x1000)
        traced = talk.say(Channel.FROM_DEVICE, done(read()), address=0x1F000000)
        assert traced.is_reply_frame
        assert (traced.request, traced.buffer) == (request, None)
        assert talk.answer(done(read())).request is request

    def test_memory_nobody_pointed_to(self, talk: Talk) -> None:
        for channel in (Channel.TO_DEVICE, Channel.FROM_DEVICE):
            traced = talk.say(channel, bytes(64), address=0x123)
            assert (traced.request, traced.is_reply_frame, traced.buffer) == (None, False, None)


# --- captures that mean harm, and rare frames ----------------------------------------------------


def test_failures_of_requests_with_the_same_contexts_take_no_time(talk):
    """Each used to be looked for in all the others: 60 s for 30,000."""
    frame = read()
    mfas = [0x1000 + 64 * n for n in range(30_000)]
    for mfa in mfas:
        talk.ask(frame, mfa)
    started = time.thread_time()
    for mfa in reversed(mfas):
        assert talk.answer(failed(frame, mfa)).request.packet.mfa == mfa
    assert time.thread_time() - started < 10
    assert talk.conversation.unanswered() == 0


def test_pieces_of_a_request_with_many_ranges_take_no_time(talk):
    ranges = [(HOST + 8192 * n, 16) for n in range(4096)]
    size = 8 + 2 * len(ranges)
    request = block_storage.BSA_BLOCK_READ.build(target_address=DISK, message_size=size)
    talk.ask(request + simple_sgl(ranges, out=False), 0x1000)
    started = time.thread_time()
    for n in range(20_000):
        address = ranges[n % 4096][0] + 4
        piece = talk.say(Channel.FROM_DEVICE, bytes(4), mfa=0x1000, address=address)
        assert (piece.buffer, piece.offset) == (0, 16 * (n % 4096) + 4)
    assert time.thread_time() - started < 5


def test_an_lct_that_comes_in_many_pieces_is_read_once(talk):
    size = 12 + 36 * 1000
    table = bytearray(size)
    for n in range(1000):
        entry = tables.LCT_ENTRY.build(local_tid=n + 8, class_id_class=0x10)
        table[12 + 36 * n : 48 + 36 * n] = entry
    sgl = simple_sgl([(HOST, size)], out=False)
    talk.ask(executive.EXEC_LCT_NOTIFY.build(message_size=6 + len(sgl) // 4) + sgl, 0x1000)
    started = time.thread_time()
    for at in range(0, size, 7):
        talk.say(Channel.FROM_DEVICE, bytes(table[at : at + 7]), mfa=0x1000, address=HOST + at)
    assert time.thread_time() - started < 3
    for tid in (8, 9, 500, 1007):
        assert talk.ask(utility.UTIL_NOP.build(target_address=tid)).device_class == 0x10


def test_the_failure_of_a_message_that_nobody_answers_otherwise(talk):
    frame = utility.UTIL_NOP.build(target_address=DISK, initiator_context=5)
    request = talk.ask(frame, 0x2000)
    reply = talk.answer(failed(frame + bytes(4), 0x2000))
    assert reply.request is request
    assert reply.latency_ns == 1000
    assert talk.conversation.unanswered() == 0


def test_contexts_of_64_bits_tell_requests_apart(talk):
    def wide(frame: bytes, context: int) -> bytes:
        head = struct.pack("<QQ", 5, context)
        return frame[:1] + bytes((frame[1] | 0x02,)) + frame[2:8] + head + frame[16:]

    frames = [wide(read(), context) for context in (1, 2, 3)]
    asked = [talk.ask(frame, 0x1000 + 64 * n) for n, frame in enumerate(frames)]
    for n in (1, 0, 2):
        assert talk.answer(wide(done(read()), n + 1)).request is asked[n]


class TestMemory:
    def test_the_oldest_requests_give_up_what_they_keep(
        self, talk: Talk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(conversation, "MAX_HELD", 1400)
        asked = []
        for index in range(5):
            notify = executive.EXEC_LCT_NOTIFY.build(
                transaction_context=index, message_size=8
            ) + simple_sgl([(0xA00000 + index * 0x1000, 400)], out=False)
            asked.append(talk.ask(notify, 0x1000 + index))
            talk.say(
                Channel.FROM_DEVICE,
                bytes(400),
                mfa=0x1000 + index,
                address=0xA00000 + index * 0x1000,
            )
        assert [request.buffers is None for request in asked] == [True] * 3 + [False] * 2
        assert asked[0].ranges == []
        late = talk.say(Channel.FROM_DEVICE, bytes(4), mfa=0x1000, address=0xA00000)
        assert late.request is None

    def test_so_do_chained_lists_and_large_frames(
        self, talk: Talk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(conversation, "MAX_HELD", 20_000)
        frame = block_storage.BSA_BLOCK_READ.build(
            target_address=DISK, message_size=10
        ) + chain_element(HOST, 8)
        chained = talk.ask(frame, 0x1000)
        inner = simple_sgl([(0xA00000, 512)], out=False)
        talk.say(Channel.TO_DEVICE, inner, mfa=0x1000, address=HOST)
        assert len(chained.ranges) == 2
        pieces = [(0xB00000 + 16 * index, 8) for index in range(100)]
        sgl = simple_sgl(pieces, out=False)
        large = [
            talk.ask(
                block_storage.BSA_BLOCK_READ.build(
                    transaction_context=index, message_size=8 + len(sgl) // 4
                )
                + sgl,
                0x2000 + index,
            )
            for index in range(3)
        ]
        assert (chained.chained, chained.ranges) == (None, [])
        assert [len(request.ranges) for request in large] == [0, 0, 100]

    def test_the_latest_keeps_its_own_however_much_that_is(
        self, talk: Talk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(conversation, "MAX_HELD", 10)
        notify = executive.EXEC_LCT_NOTIFY.build(message_size=8) + simple_sgl(
            [(0xA00000, 400)], out=False
        )
        request = talk.ask(notify, 0x1000)
        for offset in range(0, 400, 100):
            talk.say(Channel.FROM_DEVICE, bytes(100), mfa=0x1000, address=0xA00000 + offset)
        assert request.buffers == {0: bytes(400)}
