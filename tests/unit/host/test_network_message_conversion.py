# SPDX-License-Identifier: Apache-2.0
"""Conversions between byte orders: each value, each array, and the header of packets."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from i2o.errors import RemoteFrameError
from i2o.network_message import conversion
from i2o.network_message.errors import BadDescriptor
from i2o.network_message.packet import HEADER_SIZE, PACKET, Kind, Packer, parse

SINGLE = {"i2": ("h", -2), "i4": ("i", -70000), "f4": ("f", 1.5), "f8": ("d", -1e300)}


@pytest.mark.parametrize("kind", SINGLE)
def test_a_value_becomes_big_endian_and_local_again(kind: str) -> None:
    letter, value = SINGLE[kind]
    to_trollius: Callable[[bytes], bytes] = getattr(conversion, f"ltot{kind}")
    to_local: Callable[[bytes], bytes] = getattr(conversion, f"ttol{kind}")
    converted = to_trollius(struct.pack("=" + letter, value))
    assert converted == struct.pack(">" + letter, value)
    assert struct.unpack("=" + letter, to_local(converted)) == (value,)
    with pytest.raises(BadDescriptor, match="bytes is expected"):
        to_trollius(b"123")


@pytest.mark.parametrize("kind", SINGLE)
def test_an_array_is_converted_in_place(kind: str) -> None:
    letter, value = SINGLE[kind]
    values = bytearray(struct.pack("=3" + letter, value, value, value))
    getattr(conversion, f"mltot{kind}")(values)
    assert values == struct.pack(">3" + letter, value, value, value)
    getattr(conversion, f"mttol{kind}")(memoryview(values))
    assert values == struct.pack("=3" + letter, value, value, value)
    with pytest.raises(BadDescriptor, match="no whole number"):
        getattr(conversion, f"mltot{kind}")(bytearray(3))
    with pytest.raises(BadDescriptor, match="bytearray"):
        getattr(conversion, f"mltot{kind}")(bytes(8))


def test_a_big_endian_machine_converts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "IS_BIG_ENDIAN", True)
    assert conversion.ltoti4(b"abcd") == b"abcd"
    values = bytearray(b"abcd")
    conversion.mltoti4(values)
    assert values == b"abcd"


@pytest.mark.parametrize("is_big_endian", [False, True])
def test_headers_are_in_the_senders_order(is_big_endian: bool) -> None:
    pouch = bytes(range(32))
    raw = Packer(7, is_big_endian=is_big_endian).header(
        Kind.DATA, 1, 2, 3, -4, 5, 6, 7, pouch
    )  # fmt: skip
    assert len(raw) == HEADER_SIZE == 68
    assert parse(memoryview(raw)) == (1, 2, is_big_endian, 7, 1, 2, 3, -4, 5, 6, 7, pouch)


def test_the_layout_is_the_struct() -> None:
    raw = Packer(7, is_big_endian=False).header(Kind.OFFER, 1, 2, 3, -4, 5, 6, 7, bytes(range(32)))
    record = PACKET.unpack_from(raw)
    fields = ("kind", "source", "session", "message", "event", "type", "flags", "length", "offset")
    assert [getattr(record, name) for name in fields] == [4, 7, 1, 2, 3, -4, 5, 6, 7]
    assert bytes(record.pouch) == bytes(range(32))


def test_what_is_no_packet() -> None:
    with pytest.raises(RemoteFrameError, match="no header"):
        parse(memoryview(bytes(67)))
    with pytest.raises(RemoteFrameError, match="version 9"):
        parse(memoryview(b"\x09" + bytes(67)))
