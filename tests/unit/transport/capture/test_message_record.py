# SPDX-License-Identifier: Apache-2.0
"""Packets of endpoints: what goes in comes out, and anything else is refused in words."""

from __future__ import annotations

import random

import pytest

from i2o.transport.capture.message_record import (
    HEADER,
    MAX_NAME,
    MESSAGE_HEADER,
    Kind,
    MessageRecord,
    Present,
    encoded_name,
    pack_record,
    payload_offset,
    unpack_record,
)
from i2o.transport.fabric.flags import ADDR_UNSPEC

FULL = MessageRecord(
    Kind.RECEIVED,
    endpoint_type=3,
    event=2,
    op_flags=1 << 59 | 1 << 10,
    tag=0x8877665544332211,
    ignore=0xF0,
    cq_data=7,
    peer_address=5,
    peer="tcp://[::1]:7312",
    hop="rélais",
    length=1 << 40,
    sequence=99,
    err=104,
    prov_errno=0xFFFFFFFF,
    payload=b"payload",
)


def test_a_record_comes_back_as_it_was() -> None:
    assert unpack_record(pack_record(FULL)) == FULL
    bare = MessageRecord(Kind.SEND)
    assert unpack_record(pack_record(bare)) == bare


def test_the_struct_format_is_the_layout() -> None:
    """Every field stands where the layout says, whoever packs it."""
    assert MESSAGE_HEADER.size == HEADER.size == 72
    packed = pack_record(FULL)
    fields = MESSAGE_HEADER.unpack_from(packed)
    assert fields.version == 1
    assert fields.present == sum(Present)
    assert (fields.peer_size, fields.hop_size) == (16, 7)
    assert (fields.message_kind, fields.event_code) == (FULL.kind, FULL.event)
    for name in (
        "endpoint_type", "op_flags", "tag", "ignore", "cq_data", "peer_address", "length",
        "sequence", "err", "prov_errno",
    ):  # fmt: skip
        assert getattr(fields, name) == getattr(FULL, name), name
    numbers = random.Random(3).randbytes(72)
    assert MESSAGE_HEADER.parse_with_construct(numbers) == {
        field.path: getattr(MESSAGE_HEADER.unpack_from(numbers), field.attribute)
        for field in MESSAGE_HEADER.fields
    }


def test_what_is_not_present_is_zero_or_unspecified() -> None:
    fields = MESSAGE_HEADER.unpack_from(pack_record(MessageRecord(Kind.SENT)))
    assert (fields.present, fields.tag, fields.peer_address) == (0, 0, ADDR_UNSPEC)


def test_numbers_that_are_too_large_are_reduced() -> None:
    record = FULL._replace(tag=1 << 64 | 5, err=-1, kind=0x101)
    back = unpack_record(pack_record(record))
    assert (back.tag, back.err, back.kind) == (5, 0xFFFFFFFF, 1)


def test_names_are_cut_between_characters() -> None:
    assert encoded_name("short") == b"short"
    assert encoded_name("x" * 300) == b"x" * MAX_NAME
    assert encoded_name("é" * 200) == ("é" * 127).encode()
    assert encoded_name("\udcff") == b"?"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "0 bytes are no header of 72"),
        (bytes(71), "71 bytes are no header of 72"),
        (bytes(72), "a packet of version 0: expected 1"),
        (pack_record(FULL)[:80], "the packet ends within the name of the peer"),
        (pack_record(FULL)[:90], "the packet ends within the name of the peer"),
    ],
)
def test_what_is_no_record(data: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        unpack_record(data)


def test_where_the_payload_starts() -> None:
    packed = pack_record(FULL)
    assert packed[payload_offset(packed) :] == b"payload"
    assert payload_offset(b"") == 72


def test_random_bytes_are_a_record_or_a_complaint() -> None:
    rng = random.Random(4)
    for _ in range(2000):
        data = bytes([1]) + rng.randbytes(rng.randrange(200))
        try:
            record = unpack_record(data)
        except ValueError:
            continue
        assert len(data) - len(record.payload) >= 72
