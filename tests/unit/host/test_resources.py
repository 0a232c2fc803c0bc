# SPDX-License-Identifier: Apache-2.0
"""Tables from the other side: decoded, bounded, refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2o import resources
from i2o.errors import RemoteFrameError
from i2o.frames import tables

DISK = tables.LCT_ENTRY.build(
    table_entry_size=9,
    local_tid=0x20,
    class_id_class=0x10,
    user_tid=0xFFF,
    identity_tag=b"12345678",
)


def lct(*entries: bytes, words: int | None = None) -> bytes:
    size = (12 + 36 * len(entries)) // 4 if words is None else words
    return size.to_bytes(2, "little") + bytes(6) + (7).to_bytes(4, "little") + b"".join(entries)


def test_lct():
    table = resources.parse_lct(lct(DISK, DISK) + bytes(100))
    assert table.change_indicator == 7
    assert [entry.tid for entry in table.devices] == [0x20, 0x20]
    assert table.devices[0].class_name == "random_block_storage"
    assert table.devices[0].is_free
    assert table.devices[0].identity_tag == b"12345678"


def test_an_unknown_class_has_a_number_for_a_name():
    entry = tables.LCT_ENTRY.build(table_entry_size=9, class_id_class=0x123)
    assert resources.parse_lct(lct(entry)).devices[0].class_name == "class 0x123"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(11),
        lct(DISK, words=30),
        lct(DISK, words=2),
        lct(tables.LCT_ENTRY.build(table_entry_size=0)),
    ],
    ids=["empty", "short", "claims more", "claims less than a header", "entry of 0 words"],
)
def test_lct_that_lies(data):
    with pytest.raises(RemoteFrameError):
        resources.parse_lct(data)


def hrt(count: int, words: int, *entries: bytes) -> bytes:
    return count.to_bytes(2, "little") + bytes((words, 0)) + bytes(4) + b"".join(entries)


def test_hrt():
    pci = tables.HRT_BUS_INFO_PCI.build(
        pci_bus_number=2, pci_device_number=3, pci_function_number=1, pci_vendor_id=0x1044
    )
    entries = [
        tables.HRT_ENTRY.build(adapter_id=1, bus_type=4, bus_info=pci),
        tables.HRT_ENTRY.build(adapter_id=2, bus_type=0, bus_info=b"abcdefgh"),
        tables.HRT_ENTRY.build(adapter_id=3, bus_type=0x55),
    ]
    first, second, third = resources.parse_hrt(hrt(3, 4, *entries))
    assert (first.bus_name, first.location) == ("pci", "02:03.1 [1044:0000]")
    assert (second.bus_name, second.location) == ("local", b"abcdefgh".hex())
    assert third.bus_name == "bus 0x55"
    wide = [entry + bytes(8) for entry in entries]  # the entries of 2.0 are longer
    assert [entry.adapter_id for entry in resources.parse_hrt(hrt(3, 6, *wide))] == [1, 2, 3]


@pytest.mark.parametrize(
    "data", [b"", bytes(7), hrt(1, 3, bytes(16)), hrt(2, 4, bytes(16)), hrt(65535, 255)]
)
def test_hrt_that_lies(data):
    with pytest.raises(RemoteFrameError):
        resources.parse_hrt(data)


def test_status():
    block = tables.STATUS_BLOCK.build(
        inbound_msg_frame_size=32, iop_state=0x77, product_id_string=b"  A \x01B\0junk".ljust(24)
    )
    status = resources.parse_status(block)
    assert status.inbound_frame_size == 128
    assert status.state_name == "UNKNOWN_0x77"
    assert status.product_id == "A ?B"
    with pytest.raises(RemoteFrameError):
        resources.parse_status(block[:-1])


@given(st.binary(max_size=200))
def test_random_tables_are_decoded_or_refused(data):
    for parse in (resources.parse_lct, resources.parse_hrt, resources.parse_status):
        try:
            parse(data)
        except RemoteFrameError as error:
            assert str(error)
