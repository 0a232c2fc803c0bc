# SPDX-License-Identifier: Apache-2.0
"""The commands of a running IOP: what each does, and that a wrong one changes nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.frames import block_storage as bsa
from i2o.frames import utility
from i2o.frames.tables import IopState
from i2o.iop_emulator import commands, disk_bay
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.commands import COMMANDS, execute
from i2o.iop_emulator.faults import FaultPlan

PLAN = '[[fault]]\non = "BSA_STATUS_CHECK"\naction = "status"\nreq_status = 5\ndetail = 4\n'


@pytest.fixture
def rig():
    rig = Rig([MemoryDisk(1 << 20, removable=True)])
    yield rig
    rig.iop.close()


def good(rig: Rig, line: str) -> dict:
    answer = execute(rig.iop, line)
    assert answer.pop("ok") is True, answer
    return answer


def wrong(rig: Rig, line: str) -> str:
    """Run a command that must fail; return the error, and check that the IOP is as it was."""
    before = execute(rig.iop, "status")
    answer = execute(rig.iop, line)
    assert answer.pop("ok") is False
    assert set(answer) == {"error"}
    assert execute(rig.iop, "status") == before
    return str(answer["error"])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "b.img"
    path.write_bytes(bytes(8192))
    return path


def check(rig: Rig) -> tuple[int, int]:
    return rig.call(bsa.BSA_STATUS_CHECK.build(target_address=DISK)).status


def test_help_lists_every_command(rig) -> None:
    listed = good(rig, "help")["commands"]
    assert [entry["name"] for entry in listed] == list(COMMANDS)
    assert all(entry["help"] for entry in listed)


def test_status(rig) -> None:
    rig.call(utility.UTIL_CLAIM.build(target_address=DISK, claim_type=1, initiator_address=1))
    rig.iop.complain("wrong")
    said = good(rig, "status")
    assert (said["state"], said["iop_id"], said["change_indicator"]) == ("OPERATIONAL", 2, 1)
    assert said["fault_rules"] == 0
    assert said["counters"]["requests"] == rig.iop.counters.requests
    assert said["complaints"] == ["wrong"]
    executive, ddm, disk = said["devices"]
    assert (executive["tid"], executive["class"], ddm["tid"]) == (0, "executive", 8)
    assert disk == {
        "tid": DISK,
        "class": "random_block_storage",
        "name": "memory",
        "serves": True,
        "claims": [{"tid": 1, "type": 1}],
        "size": 1 << 20,
        "block_size": 512,
        "image": "memory",
        "read_only": False,
        "removable": True,
        "medium": "loaded",
        "locked": False,
        "changed": False,
    }
    rig.call(bsa.BSA_MEDIA_EJECT.build(target_address=DISK))
    rig.iop.lct.devices[8].device_class = 0x777
    _, ddm, disk = good(rig, "status")["devices"]
    assert (ddm["class"], disk["medium"]) == ("0x777", "unloaded")


def test_status_shows_a_bounded_number_of_bad_ranges(rig, monkeypatch) -> None:
    monkeypatch.setattr(commands, "MAX_RANGES_SHOWN", 2)
    for block in (1, 3, 5):
        good(rig, f"bad 0x10 {block}")
    disk = good(rig, "status")["devices"][2]
    assert (disk["bad"], disk["bad_ranges"]) == ([[1, 1], [3, 3]], 3)


def test_add_and_remove(rig, image) -> None:
    said = good(rig, f"add {image},block_size=4096,ro")
    assert (said["tid"], said["size"], said["block_size"]) == (0x11, 8192, 4096)
    assert rig.iop.bay.disk(0x11).store.read_only
    assert "is in use by another emulator" in wrong(rig, f"add {image}")
    assert good(rig, "remove 17") == {"tid": 0x11}
    good(rig, f"add {image}")  # the lock was given back
    assert wrong(rig, "remove 17") == "no disk has TID 0x011"
    assert wrong(rig, "remove 8") == "no disk has TID 0x008"


def test_images_that_cannot_be_used(rig, image, tmp_path) -> None:
    for spec, reason in (
        (tmp_path / "none.img", "does not exist"),
        (tmp_path, "is a directory"),
        (f"{image},block_size=16384", "no whole number of blocks"),
        (f"{image},create=4096", "exists and has 8192 bytes, not 4096"),
        (f"{image},bad=99", "there is no block 99"),
        (f"{image},frob", "unknown part 'frob'"),
        (",ro", "needs a path"),
        ("%00", "needs a path"),
        (f"{image},block_size=3", "not a power of two"),
    ):
        for command in ("add", f"insert {DISK}"):
            said = wrong(rig, f"{command} {spec}")
            assert reason in said
    good(rig, f"add {image}")


def test_no_image_is_made_for_nothing(rig, tmp_path, monkeypatch) -> None:
    path = tmp_path / "new.img"
    good(rig, f"add {tmp_path / 'fixed.img'},create=4096")
    assert "cannot be taken out" in wrong(rig, f"insert 0x11 {path},create=4096")
    assert "no disk has TID" in wrong(rig, f"insert 0x99 {path},create=4096")
    monkeypatch.setattr(disk_bay, "MAX_DISKS", 2)
    assert "at most 2 disks" in wrong(rig, f"add {path},create=4096")
    assert not path.exists()


def test_an_image_is_closed_again_when_it_finds_no_place(rig, image, monkeypatch) -> None:
    monkeypatch.setattr(rig.iop.bay, "require_room", lambda: None)
    monkeypatch.setattr(rig.iop.lct, "free_tid", lambda first: 1 / 0)
    assert "add failed: ZeroDivisionError" in wrong(rig, f"add {image}")
    monkeypatch.undo()
    good(rig, f"add {image}")


def test_blanks_are_escaped(rig, tmp_path) -> None:
    good(rig, f"add {tmp_path}/my%20disk%2C1.img,create=4096")
    assert (tmp_path / "my disk,1.img").stat().st_size == 4096


def test_resize(rig) -> None:
    assert good(rig, "resize 0x010 2M")["size"] == 2 << 20
    assert rig.iop.bay.disk(DISK).state.size == 2 << 20
    assert "no whole number of blocks" in wrong(rig, "resize 0x010 1000")
    assert "is no size" in wrong(rig, "resize 0x010 -4")
    assert "at most" in wrong(rig, "resize 0x010 4T")
    assert "no disk has TID" in wrong(rig, "resize 0 4M")


def test_media(rig, image) -> None:
    assert good(rig, "eject 0x010")["medium"] == "none"
    assert "has no medium" in wrong(rig, "eject 0x010")
    assert "has no medium" in wrong(rig, "resize 0x010 4096")
    assert "has no medium" in wrong(rig, "bad 0x010 0")
    said = good(rig, f"insert 0x010 {image},bad=3")
    assert (said["medium"], said["removable"], said["bad"]) == ("loaded", True, [[3, 3]])
    rig.call(bsa.BSA_MEDIA_LOCK.build(target_address=DISK))
    assert good(rig, "status")["devices"][2]["locked"]
    assert "has locked the medium" in wrong(rig, "eject 0x010")
    assert "the only word there is" in wrong(rig, "eject 0x010 now")
    good(rig, "eject 0x010 force")
    good(rig, f"insert 0x010 {image}")  # the lock of the file was given back


def test_bad_and_good(rig) -> None:
    assert good(rig, "bad 0x010 5-9")["bad"] == [[5, 9]]
    assert good(rig, "good 0x010 6")["bad"] == [[5, 5], [7, 9]]
    assert "whose blocks are 0 to 2047" in wrong(rig, "bad 0x010 2048")
    assert "are no blocks" in wrong(rig, "good 0x010 a-b")


def test_failing_and_coming_back(rig) -> None:
    assert good(rig, "fail") == {"state": "FAILED"}
    assert "FAILED already" in wrong(rig, "fail")
    assert good(rig, "crash") == {"state": "FAULTED"}
    for command in ("fail", "crash", "reset"):
        assert "only power-cycle" in wrong(rig, command)
    assert good(rig, "power-cycle") == {"state": "RESET"}
    rig.bring_up()
    assert good(rig, "reset") == {"state": "RESET"}
    assert rig.state == IopState.RESET


def test_fault_plans(rig, tmp_path) -> None:
    (tmp_path / "a plan.toml").write_text(PLAN)
    assert good(rig, f"faults {tmp_path}/a%20plan.toml") == {"fault_rules": 1}
    assert check(rig) == (5, 4)
    assert good(rig, "status")["fault_rules"] == 1
    assert "cannot be read" in wrong(rig, f"faults {tmp_path}")
    assert "cannot be read" in wrong(rig, "faults a%00b")
    (tmp_path / "wrong.toml").write_text("seed = []")
    assert "seed" in wrong(rig, f"faults {tmp_path}/wrong.toml")
    assert check(rig) == (5, 4)
    assert good(rig, "faults none") == {"fault_rules": 0}
    assert check(rig) == (0, 0)


def test_times_of_a_new_plan_count_from_now() -> None:
    rig = Rig()
    rig.advance(5000)
    plan = FaultPlan()
    plan.on("BSA_STATUS_CHECK").between(100, 200).reply(5, 4)
    plan.on("*").between(300, 400).starve()
    rig.run()
    assert rig.iop.is_idle
    rig.iop.misbehave(plan)
    assert not rig.iop.is_idle
    assert rig.iop.next_deadline_ns(rig.now_ns) == rig.now_ns
    rig.run()
    assert check(rig) == (0, 0)
    rig.advance(100)
    assert check(rig) == (5, 4)
    assert rig.iop.next_deadline_ns(rig.now_ns) == rig.now_ns + 200_000_000
    rig.advance(250)
    assert rig.unit.alloc() == 0xFFFFFFFF
    rig.iop.misbehave(None)
    assert check(rig) == (0, 0)
    assert rig.iop.next_deadline_ns(rig.now_ns) is None


def test_an_iop_in_reset_stays_closed_whatever_the_plan() -> None:
    rig = Rig()
    rig.iop.reset(hold_ns=1000)
    rig.iop.misbehave(None)
    assert rig.unit.alloc() == 0xFFFFFFFF
    rig.advance(1)
    assert rig.unit.alloc() != 0xFFFFFFFF


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("frob", "no command is called 'frob'; known are help, status, add"),
        ("", "no command is called ''"),
        ("help me", "help has 1 arguments: write help"),
        ("remove", "remove has 0 arguments: write remove TID"),
        ("bad 16", "write bad TID FIRST[-LAST]"),
        ("eject 16 force now", "write eject TID [force]"),
        ("remove disk", "'disk' is no TID: write for example 0x010"),
        ("remove 0x1000", "those end at 0xfff"),
        ("remove -1", "is no TID"),
        ("remove ²", "is no TID"),
    ],
)
def test_lines_that_are_wrong(rig, line: str, reason: str) -> None:
    assert reason in wrong(rig, line)


def test_a_command_that_goes_wrong_by_itself_is_survived(rig, monkeypatch) -> None:
    monkeypatch.setattr(rig.iop.bay, "remove", lambda tid: 1 / 0)
    assert wrong(rig, "remove 16").startswith("remove failed: ZeroDivisionError")


def test_random_lines_neither_raise_nor_harm(tmp_path, monkeypatch) -> None:
    """Words of commands in any order, and noise: an answer each, and an IOP that still works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(PLAN)
    chance = random.Random(11)
    rig = Rig([MemoryDisk(1 << 16, removable=True)])
    words = [
        *COMMANDS, "0x010", "16", "17", "0x11", "18", "0", "8", "4K", "64K", "1000", "0-9", "3",
        "none", "plan.toml", "force", "a.img,create=8K", "b.img,create=4K,removable",
        "c.img,create=4K,bad=1", "a.img", "b.img,ro", "\x00", "é", "%", "%00,ro", ",", "-",
    ]  # fmt: skip
    for number in range(4000):
        if chance.random() < 0.8:
            line = " ".join(chance.choices(words, k=chance.choice((1, 2, 2, 3, 3, 4))))
        else:
            line = "".join(chr(chance.randrange(0x250)) for _ in range(chance.randrange(40)))
        answer = execute(rig.iop, line)
        assert answer["ok"] or "failed:" not in str(answer["error"]), (line, answer)
        if number % 100 == 0:
            rig.iop.run(64, number)
    good(rig, "faults none")
    good(rig, "power-cycle")
    rig.bring_up()
    assert rig.state == IopState.OPERATIONAL
    assert rig.account() == rig.unit.frame_count
    rig.iop.close()
