# SPDX-License-Identifier: Apache-2.0
"""Debian 11's stock dpt_i2o drives emulated DPT cards: two of them, with a file system on each."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

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

MODULES = ("dpt_i2o", "sd_mod", "crc32c_generic", "ext4")
SIZE = 128 << 20
MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    shutil.which("mke2fs") is None or shutil.which("debugfs") is None,
    reason="mke2fs and debugfs are missing: apt-get install e2fsprogs",
)

SCRIPT = """#!/bin/sh
for module in dpt_i2o sd_mod crc32c_generic ext4; do modprobe $module; done
until [ -b /dev/sda ] && [ -b /dev/sdb ]; do sleep 0.1; done
for disk in sda sdb; do
    read size < /sys/block/$disk/size
    read vendor < /sys/block/$disk/device/vendor
    read model < /sys/block/$disk/device/model
    echo $disk $size $vendor $model
    mkdir /mnt$disk
    mount -t ext4 /dev/$disk /mnt$disk
done
echo /dev/dpti*
dd if=/dev/urandom of=/random bs=1048576 count=64 2>/dev/null
for disk in sda sdb; do cp /random /mnt$disk/file; done
sync
echo 3 >/proc/sys/vm/drop_caches
for file in /random /mntsda/file /mntsdb/file; do sha256sum $file | cut -d ' ' -f 1; done
umount /mntsda
umount /mntsdb
"""


def disk_image(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", str(path)], check=True)
    return path


def stored_hash(image: Path) -> str:
    """Return the hash of the file on the host's side of a disk, whose file system must be sound."""
    subprocess.run(["e2fsck", "-fn", str(image)], check=True, capture_output=True)
    done = subprocess.run(
        ["debugfs", "-R", "cat /file", str(image)], check=True, capture_output=True
    )
    return hashlib.sha256(done.stdout).hexdigest()


def test_two_cards_with_a_file_system_each(guests: Guests, tmp_path: Path) -> None:
    images = [disk_image(tmp_path / f"{name}.img") for name in ("first", "second")]
    trace = tmp_path / "trace.pcapng"
    with (
        ServedIop(
            tmp_path, f"personality=dpt&disk={images[0]}", name="first", capture=trace
        ) as first,
        ServedIop(tmp_path, f"personality=dpt&disk={images[1]}", name="second") as second,
    ):
        out = guests.boot(
            DEBIAN_11,
            Job(SCRIPT, spare_modules=MODULES, python=False),
            Machine([*first.device, *second.device]),
            deadline_s=300,
        )
        told = [iop.ask("status") for iop in (first, second)]
    *disks, nodes, random, on_first, on_second = out.output.split("\n")[:6]
    assert disks == [f"{disk} {SIZE // 512} ADAPTEC SOFTWARE DISK" for disk in ("sda", "sdb")]
    assert nodes == "/dev/dpti0 /dev/dpti1"
    assert random == on_first == on_second
    assert [stored_hash(image) for image in images] == [random, random]
    assert [status["complaints"] for status in told] == [[], []]
    assert "Attached SCSI disk" in out.kernel_log
    check_traffic(trace)


def check_traffic(trace: Path) -> None:
    """Everything that the driver said must be understood, and be SCSI for the most part."""
    conversation, commands = Conversation(), 0
    with open_capture(str(trace)) as packets:
        for packet in packets:
            traced = conversation.feed(packet)
            nodes = [*fixed_nodes(traced), *extra_nodes(traced)]
            problems = [problem for node in nodes for problem in node.problems()]
            assert problems == [], traced
            is_request = traced.kind == REQUEST
            commands += is_request and traced.function == Function.PRIVATE_MESSAGE
    assert commands > 64 * MIB // (256 << 10)
