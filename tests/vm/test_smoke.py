# SPDX-License-Identifier: Apache-2.0
"""Every guest that other tests build upon starts, and has what they need of it."""

from __future__ import annotations

import subprocess

import pytest

from vm.errors import GuestFailed
from vm.guest import Machine
from vm.guests import Guests
from vm.initramfs import Job
from vm.inventory import DEBIAN_11, DEBIAN_12_I686, DEBIAN_13
from vm.project import project_files

SAYS_WHAT_IT_IS = """#!/usr/bin/python3
import platform, struct
print(platform.release(), struct.calcsize("P") * 8)
"""

LOADS_DPT_I2O = """#!/bin/sh
uname -r
modprobe dpt_i2o || true
"""

CHANGES_DRIVERS = """#!/usr/bin/python3
import platform
from pathlib import Path

pci = Path("/sys/bus/pci")
print(platform.release(), (pci / "drivers/ibmasm").is_dir())
(device,) = (path.parent for path in pci.glob("devices/*/vendor") if "1234" in path.read_text())
(group,) = Path("/dev/vfio").glob("[0-9]*")
print((device / "driver").resolve().name, group.is_char_device())
(device / "driver" / "unbind").write_text(device.name)
(device / "driver_override").write_text("uio_pci_generic")
(pci / "drivers_probe").write_text(device.name)
print((device / "driver").resolve().name, Path("/dev/uio0").is_char_device())
Path("/results/config").write_bytes((device / "config").read_bytes())
"""

RUNS_THE_COMMAND = """#!/bin/sh
cat /job/note
exec python3 -m i2o --version
"""

CRASHES = """#!/bin/sh
echo it comes
echo c >/proc/sysrq-trigger
"""


@pytest.mark.parametrize("device", ["vfio-user-pci", "usb-redir"])
def test_qemu_has_clients_for_devices_in_other_processes(guests: Guests, device: str) -> None:
    # not `-device help`: that loads every module, and aborts at those of another QEMU in /usr/lib
    done = subprocess.run(
        [*guests.qemu(), "-device", f"{device},help"], capture_output=True, text=True, check=True
    )
    assert f"{device} options" in done.stdout


def test_debian_11_has_the_driver_for_i2o_hardware(guests: Guests) -> None:
    job = Job(LOADS_DPT_I2O, spare_modules=["dpt_i2o"], python=False)
    outcome = guests.boot(DEBIAN_11, job)
    assert outcome.output.startswith("5.10.")
    assert "Adaptec I2O RAID" in outcome.kernel_log  # it ran, and found no adapter


def test_a_module_that_does_not_load_is_a_failure(guests: Guests) -> None:
    with pytest.raises(GuestFailed, match="modprobe dpt_i2o failed") as failed:
        guests.boot(DEBIAN_11, Job("#!/bin/sh\n", ["dpt_i2o"], python=False))
    assert "No such device" in str(failed.value)


def test_debian_12_has_32_bits(guests: Guests) -> None:
    outcome = guests.boot(DEBIAN_12_I686, Job(SAYS_WHAT_IT_IS))
    release, bits = outcome.output.split()
    assert release.startswith("6.1.")
    assert bits == "32"


def test_debian_13_gives_a_device_to_its_drivers(guests: Guests) -> None:
    modules = ["ibmasm", "uio_pci_generic", "vfio_iommu_type1", "vfio-pci ids=1234:11e8"]
    machine = Machine(["-device", "edu"], iommu=True)
    outcome = guests.boot(DEBIAN_13, Job(CHANGES_DRIVERS, modules), machine)
    first, *bound = outcome.output.splitlines()
    assert first.startswith("6.12.")
    assert first.endswith(" True")
    assert bound == ["vfio-pci True", "uio_pci_generic True"]
    assert outcome.files["config"][:4] == bytes.fromhex("34 12 e8 11")


def test_the_project_runs_in_a_guest(guests: Guests) -> None:
    files = {**project_files(), "/job/note": b"noted\n"}
    outcome = guests.boot(DEBIAN_13, Job(RUNS_THE_COMMAND, files=files))
    assert outcome.output.startswith("noted\ni2o ")


def test_a_kernel_that_crashes_is_a_failure_with_its_words(guests: Guests) -> None:
    with pytest.raises(GuestFailed, match=r"Kernel panic.*sysrq") as failed:
        guests.boot(DEBIAN_13, Job(CRASHES, python=False))
    assert "it comes" in str(failed.value)


def test_a_guest_that_does_not_end_is_a_failure(guests: Guests) -> None:
    with pytest.raises(GuestFailed, match=r"did not finish within 0\.1 s"):
        guests.boot(DEBIAN_13, Job("#!/bin/sh\n", python=False), deadline_s=0.1)
