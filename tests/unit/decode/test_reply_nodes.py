# SPDX-License-Identifier: Apache-2.0
"""Replies beyond their fixed part: failures, events, transaction errors, transaction lists."""

from __future__ import annotations

import struct

import pytest

from fakes.decoded import MFA, Talk, answer, decoded, find, meaning, problems, sized
from i2o.decode.event_nodes import event_data_text, event_names
from i2o.frames import block_storage as bsa
from i2o.frames import executive, header, lan, tables, utility
from i2o.frames.functions import DeviceClass

BLOCK = DeviceClass.RANDOM_BLOCK_STORAGE.value
LAN = DeviceClass.LAN.value
READ = sized(bsa.BSA_BLOCK_READ.build(target_address=0x10, initiator_context=7,
                                      transaction_context=9))  # fmt: skip


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


# --- failures ----------------------------------------------------------------------------------


def failure(**fields: int) -> bytes:
    reply = header.FAILURE_REPLY.build(failure_code=0x8D, severity=1, **fields)
    return reply[:4] + READ[4:12] + bytes(4) + reply[16:]


def test_a_failed_request_is_named():
    talk = Talk()
    request = talk.request(READ)
    reply = talk.reply(failure(preserved_mfa_low=MFA))
    assert decoded(reply)["preserved"] == {
        "name": "bsa_block_read",
        "index": request.index,
        "mfa": MFA,
        "initiator_context": 7,
        "transaction_context": 9,
    }
    assert problems(reply) == [
        "FAIL: the request was not delivered, INVALID_TARGET_ID (FORMAT_ERROR)"
    ]
    assert meaning(reply, "failure_code") == "INVALID_TARGET_ID"


def test_a_failed_request_that_nobody_saw():
    reply = Talk().reply(failure(preserved_mfa_low=MFA))
    assert "preserved" not in decoded(reply)
    assert len(problems(reply)) == 2
    short = Talk().reply(failure()[:18])
    assert "FAIL: the request was not delivered" in problems(short)
    odd = Talk().reply(failure()[:18] + b"\x77\x66" + failure()[20:])
    assert any("failure code 0x66" in text for text in problems(odd))
    without_mfa = Talk()
    without_mfa.request(READ, mfa=None)
    assert "mfa" not in decoded(without_mfa.reply(failure()))["preserved"]


# --- transaction errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("byte", "bit", "name"),
    [(4, 0, "target_address"), (5, 4, "initiator_address"), (20, 3, "transfer_byte_count"),
     (32, 0, "sgl"), (200, 0, "sgl")],
)  # fmt: skip
def test_a_transaction_error_names_the_field(byte, bit, name):
    talk = Talk()
    talk.request(READ)
    error = header.TRANSACTION_ERROR_REPLY.build(req_status=0x0B, error_offset=byte, bit_offset=bit)
    assert decoded(talk.reply(answer(READ, error)))["error_field"] == name


def test_a_transaction_error_of_an_unknown_request():
    error = header.TRANSACTION_ERROR_REPLY.build(function=0xA8, req_status=0x0B, error_offset=12)
    assert decoded(Talk().reply(error))["error_field"] == "transaction_context"
    behind = header.TRANSACTION_ERROR_REPLY.build(function=0xA8, req_status=0x0B, error_offset=99)
    assert "error_field" not in decoded(Talk().reply(behind))
    assert "error_field" not in decoded(Talk().reply(error[:22]))


# --- events ------------------------------------------------------------------------------------


def event(talk: Talk, tid: int, indicator: int, *data: int):
    request = sized(utility.UTIL_EVENT_REGISTER.build(target_address=tid, event_mask=0xFFFFFFFF))
    asked = talk.request(request)
    assert meaning(asked, "event_mask") == "all events"
    reply = utility.UTIL_EVENT_REGISTER_REPLY.build(event_indicator=indicator)
    return talk.reply(sized(answer(request, reply)[:20] + words(*data)))


def test_a_new_lct_entry():
    entry = tables.LCT_ENTRY.build(local_tid=0x21, class_id_class=BLOCK)
    reply = event(Talk(), 0, 0x100, *struct.unpack("<9I", entry), 5)
    assert meaning(reply, "event_indicator") == "NEW_LCT_ENTRY"
    found = decoded(reply)
    assert found["lct_entry"]["local_tid"] == 0x21
    assert found["event_words"] == [5]
    assert find(reply, "lct_entry", "local_tid").offset == 22
    assert not problems(reply)
    cut = event(Talk(), 0, 0x200, 1, 2)
    assert "ends before" in decoded(cut)["lct_entry"]["note"]


def test_events_by_class():
    talk = Talk()
    talk.learn(t010=BLOCK, t020=LAN)
    reply = event(talk, 0x10, 0x09, 4, 5, 6)
    assert meaning(reply, "event_indicator") == "VOLUME_LOAD|CAPACITY_CHANGE"
    assert decoded(reply)["event_words"] == [5, 6]
    modified = event(talk, 0x10, 0x01000000, 4)
    assert meaning(modified, "event_indicator") == "FIELD_MODIFIED"
    assert meaning(modified, "event_data") == "group 0x0004 media_info"
    assert meaning(event(talk, 0x20, 0x02, 0), "event_indicator") == "LINK_UP"
    assert event_names(0x80000001, None) == "STATE_CHANGE|0x1"
    assert event_names(0x4, DeviceClass.SCSI_PERIPHERAL.value) == "0x4"
    assert event_names(0x10, DeviceClass.SCSI_PERIPHERAL.value) == "SCSI_SMART"
    assert event_names(0, BLOCK) == ""


@pytest.mark.parametrize(
    ("indicator", "word", "device_class", "text"),
    [
        (0x80000000, 0x10, BLOCK, "FAILED"),
        (0x40000000, 2, None, "MEDIA_FAULT"),
        (0x20, 5, 0, "WATCHDOG_TIMEOUT"),
        (0x20, 5, BLOCK, ""),
        (0x01, 3, 0, "LOW_MEMORY|INBOUND_POOL_LOW"),
        (0x01000000, 0x7777, BLOCK, "group 0x7777"),
        (0x30, 1, 0, ""),
    ],
)
def test_event_data(indicator, word, device_class, text):
    assert event_data_text(indicator, word, device_class) == text


def test_an_acknowledged_event():
    talk = Talk()
    frame = sized(utility.UTIL_EVENT_ACK.build(event_indicator=0x20, event_data=5))
    asked = talk.request(frame)
    assert meaning(asked, "event_data") == "WATCHDOG_TIMEOUT"
    reply = talk.reply(answer(frame, utility.UTIL_EVENT_ACK_REPLY.build(event_indicator=0x20)))
    assert meaning(reply, "event_indicator") == "RESET_IMMINENT"
    assert not problems(reply)


# --- replies for many --------------------------------------------------------------------------


def lan_reply(layout, request, count, flags, *data, size=1):
    talk = Talk()
    talk.learn(t020=LAN)
    frame = sized(request.build(target_address=0x20, initiator_context=3))
    talk.request(frame)
    reply = layout.build(trl_count=count, trl_flags=flags, trl_element_size=size)
    body = answer(frame, reply)[:12] + reply[12:20] + words(*data)
    return talk.reply(sized(body))


def test_packets_that_were_sent():
    reply = lan_reply(lan.LAN_PACKET_SEND_REPLY, lan.LAN_PACKET_SEND, 3, 0x80, 1, 2, 3, 9)
    found = decoded(reply)
    assert found["transactions"] == [{"transaction_context": n} for n in (1, 2, 3)]
    assert found["rest"] == "09000000"
    assert not problems(reply)
    few = lan_reply(lan.LAN_SDU_SEND_REPLY, lan.LAN_SDU_SEND, 5, 0x80, 1, 2, size=2)
    assert decoded(few)["transactions"] == [{"transaction_context": 1, "data": "02000000"}]
    assert decoded(few)["note"] == "1 of 5 transactions are here"
    empty = lan_reply(lan.LAN_PACKET_SEND_REPLY, lan.LAN_PACKET_SEND, 0, 0x80)
    assert "transactions" not in decoded(empty)


def test_buckets_with_packets():
    last, more = 0x40 << 24, 0
    reply = lan_reply(
        lan.LAN_RECEIVE_POST_REPLY, lan.LAN_RECEIVE_POST, 2, 0x40,
        6, 0xAA, more | 16, 100, last | 116, 200, 0xBB, last, 60, 5,
    )  # fmt: skip
    first, second = decoded(reply)["buckets"]
    assert first["bucket_context"] == 0xAA
    assert [(p["packet_offset"], p["packet_length"]) for p in first["packets"]] == [
        (16, 100),
        (116, 200),
    ]
    assert second["packets"][0]["packet_length"] == 60
    assert decoded(reply)["rest"] == "05000000"
    flags = find(reply, "buckets", "0", "packets", "1", "packet_flags")
    assert flags.meaning == "LAST_PACKET"


def test_buckets_that_come_back_unused():
    reply = lan_reply(lan.LAN_RECEIVE_POST_REPLY, lan.LAN_RECEIVE_POST, 3, 0x80, 0, 0xAA, 0xBB)
    assert decoded(reply)["buckets"] == [{"bucket_context": 0xAA}, {"bucket_context": 0xBB}]
    assert decoded(reply)["note"] == "2 of 3 buckets are here"
    none = lan_reply(lan.LAN_RECEIVE_POST_REPLY, lan.LAN_RECEIVE_POST, 0, 0x80, 4)
    assert "buckets" not in decoded(none)


def test_other_lists_of_transactions():
    frame = sized(executive.EXEC_SYS_QUIESCE.build())
    reply = header.MULTIPLE_TRANSACTION_REPLY.build(
        msg_flags=0xD0,
        trl_control_word_trl_count=1,
        trl_control_word_trl_flags=0x40,
    )
    talk = Talk()
    talk.request(frame)
    body = answer(frame, reply)[:12] + reply[12:] + words(5, 6, 7)
    found = decoded(talk.reply(sized(body)))
    assert found["transactions"] == [{"transaction_context": 5, "data": words(6, 7).hex()}]
    assert "rest" not in found


def test_bytes_that_no_reply_has():
    frame = sized(executive.EXEC_SYS_ENABLE.build())
    talk = Talk()
    talk.request(frame)
    reply = header.SINGLE_TRANSACTION_REPLY.build() + b"\1\2\3\4"
    assert decoded(talk.reply(sized(answer(frame, reply))))["rest"] == "01020304"
