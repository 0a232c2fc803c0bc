# SPDX-License-Identifier: Apache-2.0
"""Status block, HRT, LCT and system table: those of an emulated IOP, and those that are wrong."""

from __future__ import annotations

import struct

import pytest

from fakes.decoded import IN, OUT, Talk, decoded, find, meaning, problems, sized, with_buffers
from fakes.iop_rig import DISK, Rig
from i2o.decode import table_nodes as module
from i2o.decode.dma_summary import dma_summary
from i2o.decode.table_nodes import hrt_node, lct_node, software_node, system_table_node
from i2o.frames import executive, tables
from i2o.frames.functions import DeviceClass
from i2o.frames.sgl import simple_sgl


def entry(tid: int, number: int) -> bytes:
    return tables.LCT_ENTRY.build(local_tid=tid, class_id_class=number)


def lct(*entries: bytes, words: int | None = None, change: int = 7) -> bytes:
    size = 3 + 9 * len(entries) if words is None else words
    return struct.pack("<III", size, 0, change) + b"".join(entries)


# --- of an emulated IOP ------------------------------------------------------------------------


def fetched(layout, size: int) -> tuple[Talk, bytes]:
    """Return a conversation with the request for a table, and the table that an IOP wrote."""
    rig = Rig()
    buffer = rig.buffer(size)
    head = layout.build()
    reply = rig.call(head + simple_sgl([(buffer.bus_address, size)], out=False))
    assert reply.status == (0, 0)
    talk = Talk()
    talk.request(with_buffers(head, size))
    return talk, bytes(buffer.view)


def test_a_status_block():
    rig = Rig()
    block = rig.buffer(88)
    frame = executive.EXEC_STATUS_GET.build(reply_buffer_address_low=block.bus_address)
    rig.post(frame)
    rig.run()
    talk = Talk()
    talk.request(frame)
    traced = talk.from_device(bytes(block.view), block.bus_address)
    found = decoded(traced)["status_block"]
    assert found == {
        field.path: value.hex() if isinstance(value, bytes) else value
        for field in tables.STATUS_BLOCK.fields
        for value in [getattr(tables.STATUS_BLOCK.unpack_from(block.view), field.attribute)]
    }
    assert meaning(traced, "status_block", "iop_state") == "OPERATIONAL"
    assert dma_summary(traced) == "status OPERATIONAL, 16 frames of 512 bytes"


def test_a_status_block_whose_last_byte_comes_last():
    talk = Talk()
    talk.request(executive.EXEC_STATUS_GET.build(reply_buffer_address_low=IN))
    first = talk.from_device(bytes(87))
    assert decoded(first)["status_block"]["note"] == "87 of 88 bytes are here: no sync_byte"
    last = talk.from_device(b"\xff", IN + 87)
    assert decoded(last)["status_block"]["sync_byte"] == 0xFF
    assert decoded(last)["part"] == "bytes 87 to 88"


def test_the_lct_of_an_iop():
    talk, table = fetched(executive.EXEC_LCT_NOTIFY, 1024)
    words = int.from_bytes(table[:2], "little")
    traced = talk.from_device(table[: 4 * words])
    found = decoded(traced)["lct"]
    assert len(found["entries"]) == (words - 3) // 9 >= 2
    (disk,) = (item for item in found["entries"] if item["local_tid"] == DISK)
    assert disk["class_id.class"] == DeviceClass.RANDOM_BLOCK_STORAGE
    assert "lct_entry" not in found
    count = len(found["entries"])
    indicator = found["current_change_indicator"]
    assert dma_summary(traced) == f"LCT: {count} devices, change indicator {indicator}"
    node = find(traced, "lct", "entries", "1", "class_id.class")
    assert node.offset == 12 + 36 + 12
    assert not problems(traced)


def test_the_hrt_of_an_iop():
    talk, table = fetched(executive.EXEC_HRT_GET, 256)
    traced = talk.from_device(table)
    found = decoded(traced)["hrt"]
    assert len(found["entries"]) == found["number_entries"]
    assert not problems(traced)


# --- by hand -----------------------------------------------------------------------------------


def test_buses_of_an_hrt():
    pci = tables.HRT_BUS_INFO_PCI.build(pci_vendor_id=0x1044, pci_device_number=3)
    entries = [
        tables.HRT_ENTRY.build(adapter_id=1, bus_type=4, bus_info=pci, adapter_state=6),
        tables.HRT_ENTRY.build(adapter_id=2, bus_type=2),
        tables.HRT_ENTRY.build(adapter_id=3, bus_type=0x33),
    ]
    node = hrt_node(struct.pack("<HBBI", 3, 4, 0, 9) + b"".join(entries), 256)
    first, second, third = node.json()["entries"]
    assert (first["bus"]["pci_vendor_id"], first["bus"]["pci_device_number"]) == (0x1044, 3)
    assert "eisa_slot_number" in second["bus"]
    assert "base_io_port" in third["bus"]
    assert node.meaning == "3 adapters"
    items = node.children[4].children
    assert [item.meaning for item in items] == ["PCI", "EISA", "bus type 0x33"]
    assert items[0].children[2].meaning == "CONTROLLED|PRESENT"


def test_hrts_that_are_wrong():
    assert hrt_node(b"\1\0\4", 99).json()["note"] == "3 of 8 bytes of the header: no hrt_version"
    small = hrt_node(struct.pack("<HBBI", 1, 2, 0, 9) + bytes(16), 99)
    assert list(small.problems()) == ["entry_length is 2 words, an HRT entry has 4"]
    assert len(small.json()["entries"]) == 1
    long = hrt_node(struct.pack("<HBBI", 9, 4, 0, 9) + bytes(20), 28)
    assert long.json()["note"] == "1 of 9 entries: the host's buffer has 28 of 152 bytes"
    assert hrt_node(struct.pack("<HBBI", 0, 0, 0, 9), 28).meaning == "0 adapters"


def test_lcts_that_do_not_fit():
    table = lct(entry(0, 0), entry(16, 16), entry(17, 0x51))
    node = lct_node(table, 4096)
    assert node.meaning == "3 devices, change indicator 7"
    assert not list(node.problems())
    assert [item.meaning for item in node.children[-1].children] == [
        "TID 0x000 EXECUTIVE, user NO_USER",
        "TID 0x010 RANDOM_BLOCK_STORAGE, user NO_USER",
        "TID 0x011 SCSI_PERIPHERAL, user NO_USER",
    ]
    probe = lct_node(table[:48], 48)
    assert probe.json()["note"] == "1 of 3 entries: the host's buffer has 48 of 120 bytes"
    cut = lct_node(table[:50], 4096)
    assert cut.json()["note"] == "1 of 3 entries: 50 of 120 bytes are here"
    assert lct_node(table[:9], 99).json()["note"] == (
        "9 of 12 bytes of the header: no current_change_indicator"
    )
    odd = lct_node(lct(entry(0, 0), words=13), 99)
    assert list(odd.problems()) == ["table_size says 52 bytes: no header and whole entries"]
    assert lct_node(lct(words=0), 99).json()["entries"] == []


def test_tables_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_ITEMS", 2)
    node = lct_node(lct(*[entry(n, 16) for n in range(4)]), 4096)
    assert len(node.json()["entries"]) == 2
    assert node.json()["note"] == "2 of 4 entries: more than 2 are not shown"


def test_a_system_table():
    iop = tables.SYSTAB_IOP_ENTRY.build(iop_id=2, iop_state=8, inbound_message_frame_size=32)
    other = tables.SYSTAB_IOP_ENTRY.build(iop_id=3, iop_state=0x77)
    table = tables.SYSTAB_HEADER.build(number_entries=2, sys_tab_version=1) + iop + other
    talk = Talk()
    head = executive.EXEC_SYS_TAB_SET.build()
    sgl = b"".join(
        simple_sgl([(address, size)], out=True, last=address != 3)
        for address, size in ((OUT, len(table)), (2, 0), (3, 0))
    )
    talk.request(sized(head + sgl))
    traced = talk.to_device(table)
    found = decoded(traced)["system_table"]
    assert [item["iop_id"] for item in found["entries"]] == [2, 3]
    assert dma_summary(traced) == "system table: 2 IOPs"
    items = find(traced, "system_table", "entries").children
    assert [item.meaning for item in items] == ["IOP 0x002 OPERATIONAL", "IOP 0x003 state 0x77"]
    assert find(
        traced, "system_table", "entries", "1", "messenger_info.inbound_message_port_address_low"
    )
    assert system_table_node(table[:10], 10).json()["note"] == "10 of 16 bytes of the header"
    one = system_table_node(table[:48], 999)
    assert one.json()["note"] == "1 of 2 entries: 48 of 80 bytes are here"


@pytest.mark.parametrize(
    ("layout", "data", "name", "text"),
    [
        (executive.EXEC_IOP_RESET, b"\1\0\0\0", "reset_status", "reset status: IN_PROGRESS"),
        (executive.EXEC_OUTBOUND_INIT, b"\4\0\0\0", "outbound_status", "outbound status: COMPLETE"),
    ],
)
def test_status_words(layout, data, name, text):
    talk = Talk()
    if layout is executive.EXEC_IOP_RESET:
        talk.request(layout.build(status_word_low_address=IN))
    else:
        talk.request(with_buffers(layout.build(version_offset=1), 4))
    traced = talk.from_device(data)
    assert list(decoded(traced)) == [name]
    assert dma_summary(traced) == text


def test_a_reclaim_list():
    talk = Talk()
    sgl = simple_sgl([(0x100, 4)], out=False, last=False) + simple_sgl([(IN, 64)], out=False)
    talk.request(sized(executive.EXEC_OUTBOUND_INIT.build() + sgl))
    traced = talk.from_device(struct.pack("<4I", 3, 2, 0x1000, 0x2000))
    assert decoded(traced)["reclaim_list"] == {
        "mfa_count": 3,
        "mfa_release_count": 2,
        "entries": [0x1000, 0x2000],
        "note": "2 of 3 entries are here",
    }
    whole = talk.from_device(struct.pack("<4I", 2, 2, 0x1000, 0x2000))
    assert "note" not in decoded(whole)["reclaim_list"]
    assert decoded(talk.from_device(b"\1"))["reclaim_list"]["entries"] == []


def test_software_on_its_way():
    header = tables.MODULE_HEADER.build(header_size=80, org_id=0x1B, code_size=1000)
    head = executive.EXEC_SW_DOWNLOAD.build(current_fragment=1, sw_type=1, total_fragments=2)
    talk = Talk()
    talk.request(sized(head + simple_sgl([(OUT, 4096)], out=True)))
    found = decoded(talk.to_device(header + bytes(100)))
    assert found["software"]["org_id"] == 0x1B
    assert "data" in decoded(talk.to_device(b"\x7fELF" + bytes(100)))
    later = executive.EXEC_SW_DOWNLOAD.build(current_fragment=2, sw_type=1, total_fragments=2)
    talk.request(sized(later + simple_sgl([(OUT, 4096)], out=True)))
    assert "data" in decoded(talk.to_device(header))
    assert software_node(b"\1") is None
