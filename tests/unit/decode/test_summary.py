# SPDX-License-Identifier: Apache-2.0
"""What a line says of a frame."""

from __future__ import annotations

import struct

import pytest

from fakes.decoded import Talk, answer, meaning, sized, with_buffers
from i2o.decode.summary import summary
from i2o.frames import block_storage as bsa
from i2o.frames import header, scsi, tables, utility
from i2o.frames.sgl import chain_element

REGISTER = utility.UTIL_EVENT_REGISTER


@pytest.fixture
def talk() -> Talk:
    found = Talk()
    found.learn(t010=0x10, t011=0x51)
    return found


@pytest.mark.parametrize(
    ("tid", "mask", "said"),
    [
        (0, 0x17000320, "LOCK_RELEASE|DEVICE_RESET|EVENT_MASK_MODIFIED|FIELD_MODIFIED|"
                        "RESET_IMMINENT|NEW_LCT_ENTRY|MODIFIED_LCT"),
        (0x10, 0xFFFFFFFF, "all events"),
        (0x10, 0, "0"),
        (0x99, 0x80000001, "STATE_CHANGE|0x1"),
    ],
)  # fmt: skip
def test_no_bit_of_an_event_mask_is_left_out(talk: Talk, tid: int, mask: int, said: str) -> None:
    request = talk.request(REGISTER.build(target_address=tid, event_mask=mask))
    assert sorted(summary(request).removeprefix("event_mask ").split("|")) == sorted(
        said.split("|")
    )


@pytest.mark.parametrize(
    ("tid", "indicator", "data", "said"),
    [
        (0x10, 0x80000000, struct.pack("<I", 0x11), "event STATE_CHANGE, FAULTED"),
        (0x10, 0x80000000, struct.pack("<I", 0x7777), "event STATE_CHANGE, data 0x7777"),
        (0x10, 0x04000000, bytes(4), "event DEVICE_RESET"),
        (0, 0x100, tables.LCT_ENTRY.build(local_tid=0x33), "event NEW_LCT_ENTRY, TID 0x033"),
        (0, 0, b"", "event of no kind"),
    ],
)
def test_events_say_what_happened(
    talk: Talk, tid: int, indicator: int, data: bytes, said: str
) -> None:
    request = REGISTER.build(target_address=tid, event_mask=0xFFFFFFFF)
    talk.request(request)
    reply = header.SINGLE_TRANSACTION_REPLY.build()[:16] + struct.pack("<I", indicator) + data
    assert summary(talk.reply(sized(answer(request, reply)))) == said


def test_flags_without_a_name_are_numbers(talk: Talk) -> None:
    request = talk.request(bsa.BSA_CACHE_FLUSH.build(target_address=0x10, control_flags=0x8001))
    assert "0x80" in summary(request)


def test_the_status_of_scsi_is_called_as_in_the_details(talk: Talk) -> None:
    request = with_buffers(scsi.SCSI_SCB_EXEC.build(target_address=0x11, cdb_length=6), 36)
    talk.request(request)
    reply = scsi.SCSI_ERROR_REPLY.build(req_status=6, detailed_status_code=0x0002)
    found = talk.reply(sized(answer(request, reply)))
    assert summary(found) == "ERROR_PARTIAL_TRANSFER, CHECK_CONDITION, 0"
    assert meaning(found, "detailed_status_code") == "CHECK_CONDITION"


def test_a_common_code_has_its_name_in_the_details_too(talk: Talk) -> None:
    request = with_buffers(bsa.BSA_BLOCK_READ.build(target_address=0x10), 512)
    talk.request(request)
    reply = header.TRANSACTION_ERROR_REPLY.build(req_status=0xB, detailed_status_code=0x10)
    found = talk.reply(sized(answer(request, reply)))
    assert summary(found) == "TRANSACTION_ERROR, INVALID_OFFSET"
    assert meaning(found, "detailed_status_code") == "INVALID_OFFSET"


def test_a_list_that_is_all_elsewhere_is_not_called_empty(talk: Talk) -> None:
    head = bsa.BSA_BLOCK_READ.build(target_address=0x10, transfer_byte_count=512)
    request = talk.request(sized(head + chain_element(0x5000, 16, last=True)))
    assert summary(request) == "512 at 0x0, SGL chained"


def test_frames_with_contexts_of_64_bits_say_nothing_wrong(talk: Talk) -> None:
    frame = with_buffers(bsa.BSA_BLOCK_READ.build(target_address=0x10, msg_flags=2), 512)
    assert "contexts of 64 bits" in summary(talk.request(frame))
    reply = bsa.BSA_SUCCESS_REPLY.build(msg_flags=0xC2)
    assert "contexts of 64 bits" in summary(talk.reply(answer(frame, reply)))
