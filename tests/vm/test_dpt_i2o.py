# SPDX-License-Identifier: Apache-2.0
"""Debian 11's own dpt_i2o, the last Linux driver for I2O cards, brings up and uses the emulator."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from i2o.decode.conversation import REQUEST, Conversation
from i2o.decode.frame import extra_nodes, fixed_nodes
from i2o.frames.functions import Function
from i2o.transport.capture.reader import open_capture
from vm.guest import Machine
from vm.guests import Guests
from vm.initramfs import Job
from vm.inventory import DEBIAN_11
from vm.served import ServedIop

pytestmark = pytest.mark.skipif(
    shutil.which("e2fsck") is None or shutil.which("debugfs") is None,
    reason="e2fsck and debugfs are missing: apt-get install e2fsprogs",
)

SCRIPT = Path(__file__).with_name("dpt_job.py")
SIZE = 96 << 20
MEBIBYTES = 64


def job(disks: int, mebibytes: int) -> Job:
    return Job(
        f"#!/bin/sh\nexec python3 /job/dpt_job.py {disks} {mebibytes}\n",
        modules=("crc32c_generic", "ext4", "sd_mod", "dpt_i2o"),
        files={"/job/dpt_job.py": SCRIPT},
    )


def told(output: str) -> dict[str, Any]:
    """Return what the job told, one mapping of all lines; the disks by name."""
    found: dict[str, Any] = {"used": {}}
    for line in output.splitlines():
        if line.startswith("{"):
            what = json.loads(line)
            if "used" in what:
                found["used"][what["used"]] = what
            else:
                found |= what
    return found


def plan(folder: Path, delay_ms: float) -> Path:
    path = folder / "plan.toml"
    path.write_text(f'[[fault]]\naction = "delay"\nms = {delay_ms}\n')
    return path


def content(salt: int, mebibytes: int) -> str:
    """Return the hash of what the job writes."""
    wanted = hashlib.sha256()
    for number in range(mebibytes):
        wanted.update(hashlib.shake_128(f"{salt} {number}".encode()).digest(4096) * 256)
    return wanted.hexdigest()


def check(found: dict[str, Any], name: str, salt: int, mebibytes: int) -> None:
    disk = found["disks"][name]
    assert disk["size"] == SIZE
    assert disk["type"] == "0"
    assert disk["vendor"]
    used = found["used"][name]
    assert used["same"], used
    assert used["sha256"] == content(salt, mebibytes)


def hash_of(image: Path) -> str:
    """After the guest has unmounted it, the image is a file system with that file in it."""
    assert subprocess.run(["e2fsck", "-fn", image], capture_output=True).returncode == 0
    dumped = subprocess.run(
        ["debugfs", "-R", "cat /data", str(image)], capture_output=True, check=True
    ).stdout
    return hashlib.sha256(dumped).hexdigest()


def test_probe_ext4_and_64_mib_by_hash(guests: Guests, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with ServedIop(tmp_path, f"personality=dpt&disk={image},create={SIZE}") as iop:
        out = guests.boot(DEBIAN_11, job(1, MEBIBYTES), Machine(iop.device), deadline_s=240)
        complaints = iop.ask("status")["complaints"]
    found = told(out.output)
    assert list(found["disks"]) == ["sda"]
    check(found, "sda", 0, MEBIBYTES)
    assert hash_of(image) == content(0, MEBIBYTES)
    assert found.get("dpti", "").startswith("dPtSiG"), out.output  # the driver's own device
    assert "Adaptec" in out.kernel_log
    assert complaints == []


@pytest.mark.parametrize("delay_ms", [0.3, 2, 20])
def test_replies_that_take_longer(guests: Guests, tmp_path: Path, delay_ms: float) -> None:
    image = tmp_path / "disk.img"
    options = f"personality=dpt&disk={image},create={SIZE}&faults={plan(tmp_path, delay_ms)}"
    with ServedIop(tmp_path, options) as iop:
        out = guests.boot(DEBIAN_11, job(1, 2), Machine(iop.device), deadline_s=240)
    check(told(out.output), "sda", 0, 2)
    assert hash_of(image) == content(0, 2)


def test_three_boots_in_a_row_of_one_server(guests: Guests, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with ServedIop(tmp_path, f"personality=dpt&disk={image},create={SIZE}") as iop:
        for _ in range(3):
            out = guests.boot(DEBIAN_11, job(1, 1), Machine(iop.device), deadline_s=240)
            check(told(out.output), "sda", 0, 1)
    assert hash_of(image) == content(0, 1)


def test_two_cards_at_once(guests: Guests, tmp_path: Path) -> None:
    images = [tmp_path / "a.img", tmp_path / "b.img"]
    options = [f"personality=dpt&disk={image},create={SIZE}" for image in images]
    trace = tmp_path / "trace.pcapng"
    with (
        ServedIop(tmp_path, options[0], name="a", capture=trace) as a,
        ServedIop(tmp_path, options[1], name="b") as b,
    ):
        machine = Machine([*a.device, *b.device])
        out = guests.boot(DEBIAN_11, job(2, 2), machine, deadline_s=240)
    found = told(out.output)
    assert sorted(found["disks"]) == ["sda", "sdb"]
    written = {found["used"][name]["sha256"] for name in ("sda", "sdb")}
    assert written == {content(0, 2), content(1, 2)}
    # the kernel gives out names in the order in which it finds disks, which is not that of cards
    assert {hash_of(image) for image in images} == written
    check_traffic(trace)


def check_traffic(trace: Path) -> None:
    """Everything that the driver said must be understood, and be SCSI for the most part."""
    conversation, commands = Conversation(), 0
    with open_capture(str(trace)) as packets:
        for packet in packets:
            traced = conversation.feed(packet)
            nodes = [*fixed_nodes(traced), *extra_nodes(traced)]
            assert [problem for node in nodes for problem in node.problems()] == [], traced
            commands += traced.kind == REQUEST and traced.function == Function.PRIVATE_MESSAGE
    assert commands > 20
