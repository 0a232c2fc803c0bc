# SPDX-License-Identifier: Apache-2.0
"""Software: downloads in fragments, uploads, the store on disk, and DDMs that are started."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fakes.iop_rig import Reply, Rig
from i2o.frames import executive as x
from i2o.frames import tables, utility
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.executive_groups import EXEC_DRIVER_STORE, EXEC_DRIVER_STORE_TABLE
from i2o.frames.functions import Function
from i2o.frames.header import FailureCode, MsgFlags
from i2o.frames.sgl import simple_sgl
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.options import IopOptions
from i2o.iop_emulator.software_store import MAX_MODULES, MAX_SIZE, Module, ModuleName, SoftwareStore

PLAIN = (0, 0)
DDM = ModuleName(1, 0x1B, 7)
TABLE = ModuleName(3, 0x1B, 7)
BUSY, BAD, ORDER, FULL, STORE = (5, 0x1B), (5, 0x11), (5, 0x12), (5, 0x06), (5, 0x1F)
HEADER = tables.MODULE_HEADER.build(
    org_id=0x1B, module_id=7, module_version=b"\x02\x01\0\0", module_info=b"disk driver".ljust(24)
)


def words(name: ModuleName) -> dict[str, int]:
    return {
        "sw_type": name.sw_type,
        "sw_id_organization_id": name.organization_id,
        "sw_id_module_id": name.module_id,
    }


def send(
    rig: Rig, name: ModuleName, part: bytes, number: int, total: int, size: int, flags: int = 0
) -> Reply:
    buffer = rig.buffer(part)
    reply = rig.call(
        x.EXEC_SW_DOWNLOAD.build(
            current_fragment=number,
            total_fragments=total,
            download_flags=flags,
            sw_size=size,
            **words(name),
        )
        + simple_sgl([(buffer.bus_address, len(part))], out=True)
    )
    buffer.free()
    return reply


def download(rig: Rig, name: ModuleName, content: bytes, flags: int = 0) -> tuple[int, int]:
    parts = [content[place : place + 8192] for place in range(0, len(content), 8192)]
    for number, part in enumerate(parts, 1):
        status = send(rig, name, part, number, len(parts), len(content), flags).status
        if status != PLAIN:
            return status
    return PLAIN


def upload(rig: Rig, name: ModuleName, number: int, total: int, room: int) -> bytes | None:
    buffer = rig.buffer(room)
    reply = rig.call(
        x.EXEC_SW_UPLOAD.build(current_fragment=number, total_fragments=total, **words(name))
        + simple_sgl([(buffer.bus_address, room)], out=False)
    )
    return bytes(buffer.view) if reply.status == PLAIN else None


def stored(rig: Rig) -> dict[ModuleName, bytes]:
    return {module.name: module.data for module in rig.iop.executive.software.store}


def tids(rig: Rig) -> set[int]:
    return {device.tid for device in rig.iop.lct}


def test_a_module_comes_and_goes_in_fragments():
    rig = Rig()
    content = os.urandom(20_000)
    assert download(rig, TABLE, content) == PLAIN
    assert stored(rig) == {TABLE: content}
    assert upload(rig, TABLE, 1, 3, 8192) == content[:8192]
    assert upload(rig, TABLE, 3, 3, 8192) == content[16384:].ljust(8192, b"\0")
    assert upload(rig, TABLE, 4, 4, 8192) is None
    assert upload(rig, TABLE, 0, 3, 8192) is None
    assert upload(rig, TABLE, 1, 1, 20_000) == content
    assert upload(rig, TABLE, 1, 1, 100) == content[:100]
    assert rig.call(x.EXEC_SW_REMOVE.build(**words(TABLE))).status == PLAIN
    assert stored(rig) == {}


@pytest.mark.parametrize(
    ("second", "status"),
    [
        ({"number": 3}, ORDER),
        ({"number": 2, "total": 4}, ORDER),
        ({"number": 2, "size": 31}, ORDER),
        ({"number": 0}, BAD),
        ({"number": 4}, BAD),
        ({"number": 2, "size": 0}, BAD),
        ({"number": 2, "size": MAX_SIZE + 1}, BAD),
        ({"number": 2, "part": bytes(21)}, BAD),
    ],
)
def test_a_fragment_that_does_not_fit_ends_the_download(second, status):
    rig = Rig()
    assert send(rig, TABLE, bytes(10), 1, 3, 30).status == PLAIN
    given = {"part": bytes(10), "number": 2, "total": 3, "size": 30, **second}
    assert send(rig, TABLE, **given).status == status
    assert send(rig, TABLE, bytes(10), 2, 3, 30).status == ORDER
    assert download(rig, TABLE, bytes(30)) == PLAIN


def test_a_fragment_is_in_the_first_buffer():
    rig = Rig()
    good, other = rig.buffer(b"code"), rig.buffer(b"none")

    def sgl(size: int, *, out: bool) -> bytes:
        first = simple_sgl([(good.bus_address, 4)], out=out, last=False)
        return first + simple_sgl([(other.bus_address, size)], out=out)

    head = {"current_fragment": 1, "total_fragments": 1, **words(TABLE)}
    assert rig.call(x.EXEC_SW_DOWNLOAD.build(sw_size=4, **head) + sgl(4, out=True)).status == PLAIN
    assert stored(rig) == {TABLE: b"code"}
    good.view[:] = bytes(4)
    assert rig.call(x.EXEC_SW_UPLOAD.build(**head) + sgl(4, out=False)).status == PLAIN
    assert (bytes(good.view), bytes(other.view)) == (b"code", b"none")


def test_a_module_of_another_size_than_it_said_is_not_kept():
    rig = Rig()
    assert send(rig, TABLE, bytes(31), 1, 1, 30).status == BAD
    assert send(rig, TABLE, bytes(29), 1, 1, 30).status == BAD
    assert "29 bytes came of a module that says it has 30" in list(rig.complaints)[-1]
    assert stored(rig) == {}


def test_a_module_may_be_as_large_as_the_store_takes():
    assert send(Rig(), TABLE, b"x", 1, 2, MAX_SIZE).status == PLAIN


def test_an_upload_ends_with_the_last_byte():
    rig = Rig()
    content = os.urandom(16384)
    assert download(rig, TABLE, content) == PLAIN
    assert upload(rig, TABLE, 2, 2, 8192) == content[8192:]
    assert upload(rig, TABLE, 2, 3, 9000) == content[8192:].ljust(9000, b"\0")
    assert upload(rig, TABLE, 3, 3, 8192) is None


def test_the_first_fragment_starts_over():
    rig = Rig()
    for _ in range(2):
        assert send(rig, TABLE, b"old", 1, 2, 6).status == PLAIN
    assert send(rig, TABLE, b"new", 2, 2, 6).status == PLAIN
    assert stored(rig) == {TABLE: b"oldnew"}


def test_a_module_is_replaced_only_when_told_to():
    rig = Rig()
    assert download(rig, TABLE, b"first") == PLAIN
    assert download(rig, TABLE, b"second") == BUSY
    assert stored(rig) == {TABLE: b"first"}
    assert download(rig, TABLE, b"second", flags=2) == PLAIN
    assert stored(rig) == {TABLE: b"second"}


def test_unfinished_downloads_are_few():
    rig = Rig()
    names = [TABLE._replace(module_id=number) for number in range(5)]
    for name in names[:4]:
        assert send(rig, name, b"x", 1, 2, 2).status == PLAIN
    assert send(rig, names[4], b"x", 1, 2, 2).status == FULL
    assert send(rig, names[0], b"y", 2, 2, 2).status == PLAIN
    assert send(rig, names[4], b"x", 1, 2, 2).status == PLAIN


def test_unfinished_replacements_are_few():
    rig = Rig()
    names = [TABLE._replace(module_id=number) for number in range(5)]
    for name in names:
        assert download(rig, name, b"old") == PLAIN
    for name in names[:4]:
        assert send(rig, name, b"x", 1, 2, 2, flags=2).status == PLAIN
    assert send(rig, names[4], b"x", 1, 2, 2, flags=2).status == FULL
    assert stored(rig)[names[4]] == b"old"


def test_modules_are_bounded():
    rig = Rig()
    for number in range(MAX_MODULES):
        assert download(rig, TABLE._replace(module_id=number), b"x") == PLAIN
    assert download(rig, TABLE._replace(module_id=MAX_MODULES), b"x") == FULL
    assert download(rig, TABLE, b"y", flags=2) == PLAIN


# --- started DDMs ---------------------------------------------------------------------------------


def test_a_ddm_is_started_and_everybody_is_told():
    rig = Rig()
    rig.post(
        utility.UTIL_EVENT_REGISTER.build(
            target_address=0,
            event_mask=(ExecutiveEvent.NEW_LCT_ENTRY | ExecutiveEvent.MODIFIED_LCT).value,
        )
    )
    before, indicator = tids(rig), rig.iop.lct.indicator
    buffer = rig.buffer(HEADER)
    head = x.EXEC_SW_DOWNLOAD.build(
        current_fragment=1, total_fragments=1, sw_size=len(HEADER), **words(DDM)
    )
    rig.post(head + simple_sgl([(buffer.bus_address, len(HEADER))], out=True))
    event, done = rig.replies()
    assert event.words[4] == ExecutiveEvent.NEW_LCT_ENTRY
    assert done.status == PLAIN
    (tid,) = tids(rig) - before
    assert tid == 0x009
    device = rig.iop.lct.devices[tid]
    assert (device.name, device.organization_id) == ("disk driver", 0x1B)
    assert rig.iop.lct.indicator == device.change_indicator == indicator + 1
    assert rig.call(utility.UTIL_CLAIM.build(target_address=tid, claim_type=1)).status == PLAIN
    rig.post(x.EXEC_SW_REMOVE.build(**words(DDM)))
    event, done = rig.replies()
    assert event.words[4] == ExecutiveEvent.MODIFIED_LCT
    assert tids(rig) == before
    assert rig.iop.lct.indicator == indicator + 2
    gone = rig.call(utility.UTIL_CLAIM.build(target_address=tid))
    assert gone.data[19] == FailureCode.INVALID_TARGET_ID


def test_removing_a_ddm_aborts_what_it_has_going_on():
    rig = Rig(faults=(plan := FaultPlan()))
    plan.on(Function.UTIL_EVENT_ACK).delay(1000)
    download(rig, DDM, HEADER)
    rig.post(utility.UTIL_EVENT_ACK.build(target_address=0x009))
    rig.run()
    rig.post(x.EXEC_SW_REMOVE.build(**words(DDM)))
    aborted, done = rig.replies()
    assert (aborted.data[7], aborted.status[0]) == (Function.UTIL_EVENT_ACK, 9)
    assert done.status == PLAIN


def test_a_new_version_takes_the_place_of_the_old():
    rig = Rig()
    download(rig, DDM, HEADER)
    assert download(rig, DDM, b"no header", flags=2) == PLAIN
    assert rig.iop.lct.devices[0x009].name == "module 001b:0007"
    assert len(rig.iop.executive.software.running) == 1


def test_a_destroyed_ddm_can_still_be_removed():
    rig = Rig()
    download(rig, DDM, HEADER)
    assert rig.call(x.EXEC_DDM_DESTROY.build(ddm_tid=0x009)).status == PLAIN
    assert rig.call(utility.UTIL_CLAIM.build(target_address=0x009)).flags & MsgFlags.FAIL
    assert rig.call(x.EXEC_SW_REMOVE.build(**words(DDM))).status == PLAIN
    rig.iop.reset()
    assert 0x009 not in tids(rig)


def test_there_are_tids_for_seven_ddms():
    rig = Rig([])  # what disks get stays free for disks
    for number in range(7):
        assert download(rig, DDM._replace(module_id=number), b"x") == PLAIN
    assert download(rig, DDM._replace(module_id=7), b"x") == FULL


def test_only_ddms_are_started():
    rig = Rig()
    before = tids(rig)
    assert download(rig, TABLE, HEADER) == PLAIN
    assert tids(rig) == before


def test_one_ddm_too_many_is_stored_but_not_started(tmp_path: Path):
    for number in range(8):
        (tmp_path / DDM._replace(module_id=number).file_name).write_bytes(b"x")
    rig = Rig(options=IopOptions(store=str(tmp_path)))
    assert len(stored(rig)) == 8
    assert tids(rig) == {0, *range(8, 0x11)}


def test_the_groups_show_the_store():
    rig = Rig()
    download(rig, DDM, HEADER)
    download(rig, TABLE, b"table", flags=1)
    _, (one,) = rig.parameters(0, b"\x01\x00\x04\x00\xff\xff\x00\x00")
    shown = EXEC_DRIVER_STORE.unpack_from(one.data)
    used = len(HEADER) + 5
    assert (shown.module_count, shown.current_space) == (2, used)
    assert (shown.module_limit, shown.free_space) == (MAX_MODULES, MAX_MODULES * MAX_SIZE - used)
    _, (table,) = rig.parameters(0, b"\x05\x00\x05\x00\xff\xff\x00\x00")
    size = EXEC_DRIVER_STORE_TABLE.size
    rows = [EXEC_DRIVER_STORE_TABLE.unpack_from(table.data, 4 + at * size) for at in range(2)]
    assert [(row.module_size, row.module_flags) for row in rows] == [(len(HEADER), 0), (5, 1)]
    assert rows[0].module_name == b"disk driver".ljust(24)


# --- the folder -----------------------------------------------------------------------------------


def test_permanent_modules_outlive_a_reset_and_the_iop(tmp_path: Path):
    folder = tmp_path / "store"
    rig = Rig(options=IopOptions(store=str(folder)))
    assert not folder.exists()
    assert download(rig, DDM, HEADER, flags=1) == PLAIN
    assert download(rig, TABLE, b"volatile") == PLAIN
    assert [path.name for path in folder.iterdir()] == ["01-001b-0007.i2o"]
    rig.iop.reset()
    assert set(stored(rig)) == {DDM}
    assert 0x009 in tids(rig)
    again = Rig(options=IopOptions(store=str(folder)))
    assert stored(again) == {DDM: HEADER}
    assert 0x009 in tids(again)
    assert again.call(x.EXEC_SW_REMOVE.build(**words(DDM))).status == PLAIN
    assert list(folder.iterdir()) == []


def test_without_a_folder_permanent_modules_outlive_a_reset():
    rig = Rig()
    download(rig, DDM, HEADER, flags=1)
    download(rig, DDM._replace(module_id=8), HEADER)
    assert {0x009, 0x00A} <= tids(rig)
    rig.iop.reset()
    assert set(stored(rig)) == {DDM}
    assert {0x009, 0x00A} & tids(rig) == {0x009}


def test_what_does_not_belong_into_the_folder_is_left_alone(tmp_path: Path, caplog):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "01-001b-0008.i2o").mkdir()
    (tmp_path / "01-001b-0009.i2o").write_bytes(b"")
    (tmp_path / "01-001b-0007.i2o").write_bytes(b"good")
    store = SoftwareStore(str(tmp_path))
    assert [module.data for module in store] == [b"good"]
    assert len(caplog.records) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch):
    store = SoftwareStore(str(tmp_path))
    store.add(Module(DDM, b"old", is_permanent=True))

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        store.add(Module(DDM, b"new", is_permanent=True))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [DDM.file_name]
    assert SoftwareStore(str(tmp_path)).find(DDM) == Module(DDM, b"old", is_permanent=True)
    assert store.find(DDM) == Module(DDM, b"old", is_permanent=True)


def test_a_folder_has_a_limit_too(tmp_path: Path):
    for number in range(MAX_MODULES + 2):
        (tmp_path / DDM._replace(module_id=number).file_name).write_bytes(b"x")
    assert len(SoftwareStore(str(tmp_path))) == MAX_MODULES


def test_a_file_is_written_beside_and_renamed(tmp_path: Path):
    SoftwareStore(str(tmp_path)).add(Module(DDM, b"whole", is_permanent=True))
    path = tmp_path / DDM.file_name
    assert path.read_bytes() == b"whole"
    assert stat.S_ISREG(path.stat().st_mode)


def test_the_header_counts_only_when_it_names_the_module():
    other = Module(DDM._replace(module_id=8), HEADER, is_permanent=False)
    assert (other.title, other.version) == ("module 001b:0008", 0)
    own = Module(DDM, HEADER, is_permanent=False)
    assert (own.title, own.version) == ("disk driver", 0x102)
