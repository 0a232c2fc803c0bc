# SPDX-License-Identifier: Apache-2.0
"""MODE SENSE and MODE SELECT."""

from __future__ import annotations

import pytest

from fakes.scsi_bench import BLOCKS, SIZE, Bench
from i2o.frames.scsi_command import ScsiOpcode as Op
from i2o.frames.scsi_command import SenseKey as Key
from i2o.iop_emulator.block_store import MemoryDisk

ALL = 0x3F


def sense_6(page: int, *, control: int = 0, flags: int = 0, subpage: int = 0) -> bytes:
    return bytes((Op.MODE_SENSE_6, flags, control << 6 | page, subpage, 255, 0))


def sense_10(page: int, *, flags: int = 0) -> bytes:
    return bytes((Op.MODE_SENSE_10, flags, page, 0, 0, 0, 0, 0, 255, 0))


def select_6(data: bytes, flags: int = 0x10) -> bytes:
    return bytes((Op.MODE_SELECT_6, flags, 0, 0, len(data), 0))


def got(bench: Bench, cdb: bytes) -> bytes:
    done = bench.run(cdb, room=255)
    assert done.outcome.status == 0
    return done.data[: done.outcome.transferred]


def test_all_pages_with_a_block_descriptor():
    data = got(Bench(), sense_6(ALL))
    assert data[0] == len(data) - 1
    assert data[1:4] == bytes((0, 0x10, 8))
    assert data[4:12] == b"\0" + BLOCKS.to_bytes(3, "big") + b"\0" + SIZE.to_bytes(3, "big")
    caching, control, exceptions = data[12:32], data[32:44], data[44:56]
    assert caching[:3] == bytes((0x08, 0x12, 0x04))
    assert control[:4] == bytes((0x0A, 0x0A, 0, 0x10))
    assert exceptions[:3] == bytes((0x1C, 0x0A, 0x08))
    assert len(data) == 56


def test_the_long_form():
    data = got(Bench(), sense_10(0x08))
    assert int.from_bytes(data[:2], "big") == len(data) - 2
    assert data[2:8] == bytes((0, 0x10, 0, 0, 0, 8))
    assert data[16] == 0x08
    data = got(Bench(), sense_10(0x08, flags=0x10))  # long descriptor
    assert data[4:8] == bytes((1, 0, 0, 16))
    assert data[8:24] == BLOCKS.to_bytes(8, "big") + bytes(4) + SIZE.to_bytes(4, "big")
    data = got(Bench(), sense_10(0x08, flags=0x08))  # no descriptor
    assert data[6:9] == bytes((0, 0, 0x08))


def test_write_protection_shows():
    assert got(Bench(MemoryDisk(BLOCKS * SIZE, read_only=True)), sense_6(ALL))[2] == 0x90


def test_what_can_be_changed_and_what_it_was_at_first():
    bench = Bench()
    changeable = got(bench, sense_6(ALL, control=1, flags=8))
    assert changeable[4:7] == bytes((0x08, 0x12, 0x04))
    assert not any(changeable[7:24])
    assert not any(changeable[26:36])
    bench.unit.pages.has_write_cache = False
    assert got(bench, sense_6(0x08, flags=8))[6] == 0
    assert got(bench, sense_6(0x08, control=2, flags=8))[6] == 4
    saved = bench.run(sense_6(0x08, control=3))
    assert saved.reason == (Key.ILLEGAL_REQUEST, 0x3900)
    assert saved.field == (2, 7, True)


@pytest.mark.parametrize(
    ("cdb", "field"),
    [(sense_6(0x02), (2, 5, True)), (sense_6(0x08, subpage=1), (3, None, True))],
)
def test_pages_that_it_does_not_have(cdb, field):
    done = Bench().run(cdb, room=255)
    assert done.reason == (Key.ILLEGAL_REQUEST, 0x2400)
    assert done.field == field


def test_all_subpages_are_all_there_is():
    assert got(Bench(), sense_6(ALL, subpage=0xFF)) == got(Bench(), sense_6(ALL))


@pytest.mark.parametrize("is_short", [True, False])
def test_the_write_cache_is_switched(is_short):
    bench = Bench()
    page = got(bench, sense_6(0x08, flags=8))[4:]
    wanted = page[:2] + b"\0" + page[3:]
    if is_short:
        data = bytes(3) + b"\x08" + bytes(8) + wanted
        cdb = select_6(data)
    else:
        data = bytes(8) + wanted
        cdb = bytes((Op.MODE_SELECT_10, 0x10, 0, 0, 0, 0, 0, 0, len(data), 0))
    done = bench.run(cdb, out=data)
    assert (done.outcome.status, done.outcome.transferred) == (0, len(data))
    assert not bench.unit.pages.has_write_cache
    assert got(bench, sense_6(0x08, flags=8))[6] == 0


@pytest.mark.parametrize(
    ("data", "reason", "field"),
    [
        (bytes(4) + b"\x08\x12\x05" + bytes(17), 0x2600, (6, None, False)),
        (bytes(4) + b"\x08\x11\x04" + bytes(17), 0x2600, (5, None, False)),
        (bytes(4) + b"\x02\x0e" + bytes(14), 0x2600, (4, None, False)),
        (bytes(4) + b"\x48\x12" + bytes(18), 0x2600, (4, None, False)),
        (bytes(4) + b"\x0a\x0a\x00\x00" + bytes(8), 0x2600, (7, None, False)),
        (bytes(3) + b"\x05" + bytes(20), 0x2600, (3, None, False)),
        (bytes(4) + b"\x08\x12\x00", 0x1A00, None),
        (bytes(3), 0x1A00, None),
    ],
)
def test_what_cannot_be_selected_changes_nothing(data, reason, field):
    bench = Bench()
    done = bench.run(select_6(data), out=data)
    assert done.reason == (Key.ILLEGAL_REQUEST, reason)
    if field is not None:
        assert done.field == field
    assert bench.unit.pages.has_write_cache


def test_select_wants_its_list_and_saves_nothing():
    bench = Bench()
    assert bench.run(select_6(bytes(24)), out=b"short").outcome.is_overrun
    assert bench.run(select_6(b"")).outcome == (0, 0, False, b"")
    assert bench.run(select_6(bytes(24), flags=0x11), out=bytes(24)).field == (1, 0, True)
