# SPDX-License-Identifier: Apache-2.0
"""Writes the file system that a guest starts from: programs, kernel modules, and the job."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vm.cache import Cache
from vm.cpio import cpio_archive
from vm.kernel_modules import dependency_list
from vm.parts import Kernel

_INIT = """#!/bin/busybox sh
# Started by the kernel: does the job in /job, sends its output to the second serial port and what
# it left to the third, and switches off.
export PATH=/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 TERM=dumb
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mkdir -p /results
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
ip link set lo up
stty -F /dev/ttyS1 raw
stty -F /dev/ttyS2 raw

exec 3>/dev/ttyS1
cd /job
status=0
while read -r module; do
    [ "$status" != 0 ] || modprobe $module >&3 2>&1 || status="modprobe $module"
done <modules
if [ "$status" = 0 ]; then
    ./script </dev/null >&3 2>&1
    status=$?
fi
exec 3>&-
mkdir /run/guest
echo "$status" >/run/guest/status
dmesg >/run/guest/dmesg
tar -c -f - -C / run/guest results >/dev/ttyS2
poweroff -f
"""

_SETTINGS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
}


@dataclass(frozen=True)
class Job:
    """What a guest does.

    Args:
        script: the text of a program that starts with `#!`. It runs in `/job`; its output comes
            back, and so do the files that it puts into `/results`.
        modules: kernel modules to load before, in this order, with all that they need; behind a
            name there may be parameters.
        spare_modules: modules that the script can load itself, with `modprobe`.
        files: paths in the guest, and what is there: bytes, or a file or folder of this machine.
        python: whether the guest has Python. Without, it starts sooner.
    """

    script: str
    modules: Sequence[str] = ()
    spare_modules: Sequence[str] = ()
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    python: bool = True


def write_initramfs(path: Path, cache: Cache, kernel: Kernel, job: Job) -> None:
    """Write the archives that a kernel unpacks into its memory, one behind the other.

    Args:
        path: the file to write.
        cache: has the programs and the modules.
        kernel: starts from it.
        job: what to do then.
    """
    archives = [kernel.userland.busybox(cache)]
    if job.python:
        archives.append(kernel.userland.python(cache))
    tree = kernel.modules(cache)
    names = [line.split()[0] for line in job.modules]
    modules = tree.load_order([*names, *job.spare_modules])
    with path.open("wb") as out:
        for archive in archives:
            with archive.open("rb") as part:
                shutil.copyfileobj(part, out)
        with cpio_archive(out) as cpio:
            cpio.file("init", _INIT.encode(), 0o755)
            for name, text in _SETTINGS.items():
                cpio.file(name, text.encode())
            folder = f"usr/lib/modules/{tree.folder.name}"
            cpio.file(f"{folder}/modules.dep", dependency_list(modules).encode())
            for module in modules:
                cpio.file(f"{folder}/{module.name}.ko", module.content)
            cpio.file("job/modules", "".join(f"{line}\n" for line in job.modules).encode())
            cpio.file("job/script", job.script.encode(), 0o755)
            for target, source in job.files.items():
                if isinstance(source, bytes):
                    cpio.file(target, source)
                else:
                    cpio.copy(target, source)
