# SPDX-License-Identifier: Apache-2.0
"""Our own host side on a machine of 32 bits, with memory for DMA out of huge pages."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vm.cache import Cache
from vm.extension import build_for_i686
from vm.guest import Machine
from vm.guests import Guests, skipping
from vm.initramfs import Job
from vm.inventory import DEBIAN_12_I686, PYTHON_I386
from vm.project import project_files
from vm.served import ServedIop

SCRIPT = Path(__file__).with_name("block_job.py")
MODULE = "/usr/lib/python3/dist-packages/i2o/transport/_native.abi3.so"
GIB = 1 << 30


def test_sysfs_and_uio_on_32_bits(guests: Guests, vm_cache: Cache, tmp_path: Path) -> None:
    with skipping():
        headers = PYTHON_I386.folder(vm_cache)
    image = tmp_path / "disk.img"
    job = Job(
        "#!/bin/sh\nuname -m\necho 40 >/proc/sys/vm/nr_hugepages\n"
        "exec python3 /job/block_job.py sysfs uio\n",
        modules=("uio_pci_generic",),
        files={
            **project_files(),
            MODULE: build_for_i686(tmp_path, headers),
            "/job/block_job.py": SCRIPT,
        },
    )
    with ServedIop(tmp_path, f"disk={image},create=16M") as iop:
        out = guests.boot(DEBIAN_12_I686, job, Machine(iop.device, memory_mb=1024), deadline_s=300)
    machine, *lines = out.output.splitlines()
    assert machine == "i686"
    results = [json.loads(line) for line in lines if line.startswith("{")]
    assert [result["uri"].partition(":")[0] for result in results] == ["sysfs", "uio"], out.output
    assert all("error" not in result for result in results), out.output
    for result, access in zip(results, ("polling", "INTx"), strict=True):
        assert access in result["access"]
        assert result["state"] == "OPERATIONAL"
        assert result["same"]
        assert result["alive"]
        assert result["bus_address"] < 4 * GIB
    assert results[-1]["sha256"] == hashlib.sha256(image.read_bytes()[: 2 << 20]).hexdigest()
