# SPDX-License-Identifier: Apache-2.0
"""Checks of an IOP: of a sound one, and of ones that lose frames, lie or do not answer."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import i2o
from i2o.clock import ManualClock
from i2o.resources import HrtEntry, Lct, LctEntry
from i2o.tools.checks import iop_checks
from i2o.tools.checks.finding import Finding, Level, run_checks
from i2o.tools.checks.iop_checks import CHECKS, Patient

DISK = 0x010


@pytest.fixture
def iop():
    with i2o.open("emu:", frame_source="fifo") as opened:
        yield opened


def look(iop, *names: str) -> list[Finding]:
    """Run the checks of these names, or all."""
    checks = [check for check in CHECKS if not names or check.name in names]
    patient = Patient(iop, 0.1)
    found = [one.finding for one in run_checks("iop", checks, patient)]
    assert all(one.remedy or one.level != Level.PROBLEM for one in found)
    return found


def with_faults(tmp_path: Path, *rules: str, clock=None) -> i2o.Iop:
    plan = tmp_path / "plan.toml"
    plan.write_text("".join(f"[[fault]]\n{rule}\n" for rule in rules))
    options = {} if clock is None else {"clock": clock}
    return i2o.open(
        f"emu:?faults={plan}", frame_source="fifo", recovery=None, timeout_s=0.2, **options
    )


def groups_read(found: Finding) -> int:
    told = re.fullmatch(r"(\d+) generic groups of 3 devices read", found.text)
    assert told is not None, found.text
    return int(told[1])


def groups_of_a_sound_iop() -> int:
    with i2o.open("emu:", frame_source="fifo", recovery=None) as iop:
        (found,) = look(iop, "parameters")
    return groups_read(found)


@pytest.mark.parametrize("uri", ["emu:", "emu:?run=thread", "emu:?run=process&frames=3"])
def test_a_sound_iop(uri):
    with i2o.open(uri, frame_source="fifo") as iop:
        before = iop.layer.counters(iop.number).requests
        found = look(iop)
        assert [one for one in found if one.level != Level.OK] == []
        assert len(found) == len(CHECKS)
        sent = iop.layer.counters(iop.number).requests - before
        assert sent > 2 * iop.status.max_outbound_frames


def test_bring_up(iop):
    assert look(iop, "bring-up")[0].text == "i2o software IOP: OPERATIONAL after 100 ms"
    slow = Patient(iop, 6.0)
    (found,) = [one.finding for one in run_checks("x", CHECKS[:1], slow)]
    assert (found.level, found.text.endswith("but only after 6000 ms")) == (Level.NOTE, True)
    status = SimpleNamespace(product_id="", state=0x10, state_name="READY")
    (found,) = look(SimpleNamespace(status=status), "bring-up")
    assert found.text == "no name: READY after 100 ms"


# --- tables --------------------------------------------------------------------------------------

DEVICE = LctEntry(
    tid=0, change_indicator=0, device_flags=0, class_id=0, class_version=0, organization_id=0,
    sub_class=0, user_tid=0xFFF, parent_tid=0, bios_info=0, identity_tag=bytes(8),
    event_capabilities=0,
)  # fmt: skip
ADAPTER = HrtEntry(
    adapter_id=0, controlling_tid=0xFFF, adapter_state=0, bus_number=0, bus_type=0,
    bus_info=bytes(8),
)  # fmt: skip


def tables(devices=(), adapters=(), *, boot=0, size=None):
    """Return an IOP that has these tables and nothing else."""
    found = tuple(replace(DEVICE, **fields) for fields in devices)
    expected = 12 + 36 * len(found) if size is None else size
    return SimpleNamespace(
        devices=found,
        lct=Lct(0, boot, 0, found),
        hrt=tuple(replace(ADAPTER, **fields) for fields in adapters),
        status=SimpleNamespace(expected_lct_size=expected),
    )


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        ([{"tid": 8}, {"tid": 9}, {"tid": 8}], "TIDs are there more than once: 0x008"),
        (
            [{"tid": 1}, {"tid": 2}, {"tid": 0xFFF}],
            "reserved, but devices have them: 0x001, 0x002, 0xfff",
        ),
        ([{"tid": 8, "parent_tid": 9}], "a parent that is not there: 0x008"),
        ([{"tid": 8, "user_tid": 9}], "a user that is not there: 0x008"),
        ([{"tid": 8, "parent_tid": 8}], "their own ancestors: 0x008"),
        (
            [
                {"tid": 8, "parent_tid": 9},
                {"tid": 9, "parent_tid": 8},
                {"tid": 10, "parent_tid": 9},
            ],
            "their own ancestors: 0x008, 0x009",
        ),
        ([{"tid": tid, "user_tid": 0x7FF} for tid in range(8, 20)], "0x00c and 7 more"),
    ],
)
def test_a_wrong_lct(devices, text):
    (found,) = look(tables(devices), "lct")
    assert found.level == Level.PROBLEM
    assert found.text.endswith(text)


def test_an_lct_that_is_right():
    devices = [
        {"tid": 0},
        {"tid": 8},
        {"tid": 9, "parent_tid": 8, "user_tid": 8},
        {"tid": 10, "parent_tid": 9, "user_tid": 1},
        {"tid": 11, "parent_tid": 10, "user_tid": 0},
    ]
    (found,) = look(tables(devices, boot=10), "lct")
    assert found == Finding(Level.OK, "LCT: 5 devices, 192 bytes")
    (found,) = look(tables(devices, boot=12), "lct")
    assert "boot device 0x00c is not there" in found.text
    (found,) = look(tables(devices, size=48), "lct")
    assert (found.level, found.text) == (
        Level.NOTE, "LCT of 192 bytes, the status block says 48",
    )  # fmt: skip


def test_hrt():
    devices = [{"tid": 8}]
    right = [{"adapter_id": 1, "controlling_tid": 8}, {"adapter_id": 2}, {"controlling_tid": 0}]
    assert look(tables(devices, right), "hrt")[0].text == "HRT: 3 adapters"
    twice, strange = look(tables(devices, [{"controlling_tid": 9}, {}]), "hrt")
    assert twice.text == "adapters are there more than once: 0x000"
    assert strange.text == "adapters are controlled by a device that is not there: 0x000"


# --- devices -------------------------------------------------------------------------------------


def test_a_device_that_does_not_tell_its_groups(tmp_path):
    rule = 'on = "UTIL_PARAMS_GET"\ntid = 16\naction = "status"\nreq_status = 5\ndetail = 3'
    with with_faults(tmp_path, rule) as iop:
        refused, rest = look(iop, "parameters")
    assert refused.text.startswith("TID 0x010 does not tell its groups: ")
    assert "must have group 0xf000" in refused.remedy
    assert 0 < groups_read(rest) < groups_of_a_sound_iop()


def test_a_group_that_is_reported_and_cannot_be_read(tmp_path):
    rule = 'on = "UTIL_PARAMS_GET"\ntid = 16\nafter = 1\ntimes = 2\naction = "fail"'
    with with_faults(tmp_path, rule) as iop:
        first, second, rest = look(iop, "parameters")
    assert first.text.startswith("TID 0x010 has a group in vain: ")
    assert "FAIL frame" in second.text
    assert groups_read(rest) == groups_of_a_sound_iop() - 2


@pytest.mark.parametrize(
    ("detail", "level"), [(0x05, Level.NOTE), (0x06, Level.NOTE), (0x03, Level.PROBLEM)]
)
def test_a_disk_that_is_not_ready(tmp_path, detail, level):
    rule = f'on = "BSA_STATUS_CHECK"\naction = "status"\nreq_status = 5\ndetail = {detail}'
    with with_faults(tmp_path, rule) as iop:
        (found,) = look(iop, "disks")
    assert (found.level, found.text.startswith("TID 0x010: BsaStatusCheck")) == (level, True)


def test_a_failure_code_is_no_missing_medium(tmp_path):
    with with_faults(tmp_path, 'on = "BSA_STATUS_CHECK"\naction = "fail"\ncode = 5') as iop:
        assert look(iop, "disks")[0].level == Level.PROBLEM


def test_a_disk_that_does_not_tell_its_size(iop):
    soft_iop = iop.layer.port(iop.number).soft_iop
    del soft_iop.lct.devices[DISK].parameters._groups[0]
    (found,) = look(iop, "disks")
    assert (found.level, "device_info" in found.text) == (Level.PROBLEM, True)


def test_no_disk():
    (found,) = look(SimpleNamespace(of_class=lambda device_class: ()), "disks")
    assert (found.level, found.text) == (Level.NOTE, "the IOP has no disk")


# --- frames --------------------------------------------------------------------------------------


def test_an_interrupt_that_does_not_come(iop, monkeypatch):
    monkeypatch.setattr(iop_checks, "_WAKE_MS", 1)
    reader, writer = os.pipe()
    try:
        monkeypatch.setattr(iop.layer.port(iop.number), "fileno", lambda: reader)
        (found,) = look(iop, "interrupt")
    finally:
        os.close(reader)
        os.close(writer)
    assert found.text == "a reply came, but no interrupt within 1 ms"
    assert iop.requester.in_flight == 0


def test_a_descriptor_that_is_always_readable(iop, monkeypatch, tmp_path):
    with (tmp_path / "file").open("w+b") as always:
        port = iop.layer.port(iop.number)
        monkeypatch.setattr(port, "fileno", always.fileno)
        (found,) = look(iop, "interrupt")
    assert (found.level, "although no reply" in found.text) == (Level.NOTE, True)


def test_frames_that_are_lost(tmp_path):
    with with_faults(tmp_path, 'on = "UTIL_CLAIM"\naction = "drop"', clock=ManualClock()) as iop:
        frames = [iop.layer.request_frame(iop.number) for _ in range(2)]
        (found,) = look(iop, "frames")
        assert found.text == "2 inbound frames of 128 did not come back"
        for frame in frames:
            iop.layer.free_request(iop.number, frame)
        (found,) = look(iop, "frames")
        assert found.text == "requests that found no free inbound frame: 1"  # that was the count


def test_more_frames_than_the_status_block_tells(iop):
    result = iop.layer.result(iop.number)
    fewer = replace(result.status, current_inbound_frames=100)
    iop.layer._iops.entry(iop.number).result = replace(result, status=fewer)
    (found,) = look(iop, "frames")
    assert (found.level, found.text.startswith("more inbound frames came")) == (Level.NOTE, True)
    assert iop.layer.counters(iop.number).bad_frees == 0


def test_replies_that_nobody_asked_for_and_requests_without_one(tmp_path):
    rules = (
        'on = "EXEC_HRT_GET"\nafter = 5\ntimes = 1\naction = "duplicate"',
        'on = "UTIL_CLAIM"\naction = "drop"',
    )
    with with_faults(tmp_path, *rules, clock=ManualClock()) as iop:
        with pytest.raises(i2o.I2OError):
            iop.claim(DISK)
        found = [one.text for one in look(iop, "frames")]
    assert found == ["1 request got no reply", "replies that answered no request: 1"]


def test_complaints(iop):
    iop.layer.port(iop.number).soft_iop.complain("the host \x1b did it")
    (found,) = look(iop, "complaints")
    assert (found.level, found.text) == (Level.PROBLEM, "the host ? did it")


def test_an_iop_that_crashes_meanwhile(tmp_path):
    rule = 'on = "BSA_STATUS_CHECK"\naction = "crash"'
    with with_faults(tmp_path, rule, clock=ManualClock()) as iop:
        *before, dead, rest = look(iop)
    assert [one.level for one in before] == [Level.OK] * 4
    assert "no reply to bsa_status_check" in dead.text
    assert rest.text == "not looked at for that reason: interrupt, frames, complaints"
