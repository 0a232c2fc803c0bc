# SPDX-License-Identifier: Apache-2.0
"""Our own host side drives a PCI device: sysfs, UIO, VFIO, interrupts and DMA of a real kernel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from i2o.transport.pci.register_window import native_accessors
from vm.guest import Machine
from vm.guests import Guests
from vm.initramfs import Job
from vm.inventory import DEBIAN_13
from vm.project import project_files
from vm.served import ServedIop

SCRIPT = Path(__file__).with_name("block_job.py")
GIB = 1 << 30

pytestmark = pytest.mark.skipif(
    native_accessors() is None, reason="there was no C compiler when i2o was installed"
)


def job(*backends: str, modules: tuple[str, ...], before: str = "") -> Job:
    words = " ".join(f"'{backend}'" for backend in backends)
    return Job(
        f"#!/bin/sh\n{before}\nexec python3 /job/block_job.py {words}\n",
        modules=modules,
        files={**project_files(), "/job/block_job.py": SCRIPT},
    )


def results(output: str) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert all("error" not in result for result in found), output
    return {result["uri"].partition(":")[0] + "".join(result["uri"].partition("?")[1:]): result
            for result in found}  # fmt: skip


def check(result: dict[str, Any], access: str) -> None:
    assert result["state"] == "OPERATIONAL"
    assert result["devices"][-1] == [0x010, "random_block_storage"]
    assert access in result["access"]
    assert result["same"]
    assert result["bus_address"] < 4 * GIB
    assert result["alive"]


def test_sysfs_and_uio_in_a_guest_with_memory_above_4_gib(guests: Guests, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with ServedIop(tmp_path, f"disk={image},create=16M") as iop:
        out = guests.boot(
            DEBIAN_13,
            job(
                "sysfs", "uio", "uio?irq=off", "pci",
                modules=("uio_pci_generic",),
                # the kernel takes memory above 4 GiB first, of which there are 4 GiB
                before="echo 2400 >/proc/sys/vm/nr_hugepages",
            ),
            Machine(iop.device, memory_mb=6144),
            deadline_s=300,
        )  # fmt: skip
        complaints = iop.ask("status")["complaints"]
    found = results(out.output)
    assert sorted(found) == ["pci", "sysfs", "uio", "uio?irq=off"]
    check(found["sysfs"], "polling")
    check(found["uio"], "INTx")
    check(found["uio?irq=off"], "polling")
    check(found["pci"], "INTx")  # uio_pci_generic has it
    assert found["sysfs"]["interrupts"] == found["uio?irq=off"]["interrupts"] == 0
    assert 1 <= found["uio"]["interrupts"] < 1000  # it comes, and it does not storm
    assert found["pci"]["sha256"] == hashlib.sha256(image.read_bytes()[: 2 << 20]).hexdigest()
    assert all("0xdead0000" in sentence for sentence in complaints), complaints


def test_vfio_behind_an_iommu(guests: Guests, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with ServedIop(tmp_path, f"disk={image},create=16M") as iop:
        out = guests.boot(
            DEBIAN_13,
            job(
                "vfio", "vfio?irq=off", "vfio?access=file", "pci",
                modules=("vfio_iommu_type1", "vfio-pci"),
            ),
            Machine(iop.device, iommu=True),
            deadline_s=300,
        )  # fmt: skip
        complaints = iop.ask("status")["complaints"]
    found = results(out.output)
    assert sorted(found) == ["pci", "vfio", "vfio?access=file", "vfio?irq=off"]
    check(found["vfio"], "MSI")
    check(found["vfio?irq=off"], "polling")
    check(found["vfio?access=file"], "MSI")
    assert found["vfio"]["interrupts"] >= 1
    assert found["vfio?irq=off"]["interrupts"] == 0
    # the IOMMU refuses what is not mapped, the IOP says so, and both go on
    for result in found.values():
        assert result["outside"] == "0x05"  # ERROR_NO_DATA_TRANSFER
    assert any("0xdead0000" in sentence for sentence in complaints), complaints
    assert found["pci"]["sha256"] == hashlib.sha256(image.read_bytes()[: 2 << 20]).hexdigest()
