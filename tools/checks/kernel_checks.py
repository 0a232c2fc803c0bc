# SPDX-License-Identifier: Apache-2.0
"""Checks of what the kernel lets a program do with a PCI card, as far as one sees without root."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Final

from i2o.tools.checks.finding import Check, Finding, note, ok
from i2o.tools.checks.machine import Machine
from i2o.tools.output import human_size
from i2o.transport.pci.dma_memory import DEFAULT_SIZE

_MAX_CONFIG: Final = 4 << 20
_GZIP: Final = 31  # zlib's wbits for a gzip header


def _lockdown(machine: Machine) -> Iterator[Finding]:
    text = machine.text("/sys/kernel/security/lockdown")
    if text is None:
        yield ok("no lockdown is to be seen")
        return
    mode = re.search(r"\[(\w+)\]", text)
    if mode is None or mode[1] == "none":
        yield ok("lockdown is off")
    else:
        yield note(
            f"lockdown is on ({mode[1]}): neither /dev/mem nor the BARs in /sys can be mapped",
            "use VFIO, which still works, or switch Secure Boot off",
        )


def _devmem(machine: Machine) -> Iterator[Finding]:
    if not machine.exists("/dev/mem"):
        yield ok("there is no /dev/mem, and VFIO does not need it")
        return
    config = _kernel_config(machine)
    if config is None:
        yield note(
            "whether the kernel restricts /dev/mem (STRICT_DEVMEM) cannot be seen: "
            "its configuration is not there",
            "modprobe configs, or look for CONFIG_STRICT_DEVMEM in its configuration",
        )
        return
    strict, io_strict = (
        re.search(rf"^CONFIG_{name}=y$", config, re.MULTILINE) is not None
        for name in ("STRICT_DEVMEM", "IO_STRICT_DEVMEM")
    )
    if io_strict:
        yield note(
            "IO_STRICT_DEVMEM: /dev/mem does not show the BARs of a card that has a driver",
            "unbind the driver, boot with iomem=relaxed, or use VFIO",
        )
    elif strict:
        yield ok("STRICT_DEVMEM: /dev/mem shows BARs, but no RAM")
    else:
        yield ok("/dev/mem is not restricted")


def _kernel_config(machine: Machine) -> str | None:
    """Return the kernel's configuration, None if it is not there or damaged."""
    packed = machine.data("/proc/config.gz")
    if packed is not None:
        try:
            data = zlib.decompressobj(_GZIP).decompress(packed, _MAX_CONFIG)
        except zlib.error:
            return None
        return data.decode("ascii", "replace")
    release = machine.text("/proc/sys/kernel/osrelease")
    return machine.text(f"/boot/config-{release}") if release else None


def _iommu(machine: Machine) -> Iterator[Finding]:
    units = machine.names("/sys/class/iommu")
    groups = len(machine.names("/sys/kernel/iommu_groups"))
    if units and groups:
        yield ok(f"IOMMU on: {', '.join(units[:4])}{' …' * (len(units) > 4)}, {groups} groups")
    elif units:
        yield note(
            f"there is an IOMMU ({', '.join(units[:4])}), but it has no groups",
            "boot with intel_iommu=on or amd_iommu=on",
        )
    else:
        yield note(
            "no IOMMU: a card could write to any memory, and VFIO needs its no-IOMMU mode",
            "switch VT-d or AMD-Vi on in the firmware; boot with intel_iommu=on or amd_iommu=on",
        )


def _vfio(machine: Machine) -> Iterator[Finding]:
    if not machine.exists("/dev/vfio/vfio"):
        yield note("VFIO is not loaded", "as root: modprobe vfio-pci")
        return
    if machine.may_use("/dev/vfio/vfio"):
        yield ok("/dev/vfio/vfio can be used")
    else:
        yield note(
            "/dev/vfio/vfio cannot be used by this user", "as root: chmod 666 /dev/vfio/vfio"
        )
    if machine.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y":
        yield note("VFIO's no-IOMMU mode is on: nothing keeps a card from any memory")
    for name in machine.names("/dev/vfio"):
        if not re.fullmatch(r"(noiommu-)?\d+", name):
            continue
        if machine.may_use(f"/dev/vfio/{name}"):
            yield ok(f"/dev/vfio/{name} can be used")
        else:
            yield note(
                f"/dev/vfio/{name} cannot be used by this user",
                f"as root: chown $USER /dev/vfio/{name}, or a udev rule that does it",
            )


def _hugepages(machine: Machine) -> Iterator[Finding]:
    found = {
        name: int(number)
        for name, number in re.findall(
            r"^(HugePages_Total|HugePages_Free|Hugepagesize):\s+(\d+)",
            machine.text("/proc/meminfo") or "",
            re.MULTILINE,
        )
    }
    if len(found) < 3:
        yield ok("the kernel has no huge pages")
    elif not found["HugePages_Total"]:
        yield ok(f"none reserved (vm.nr_hugepages reserves pages of {found['Hugepagesize']} kB)")
    else:
        yield ok(
            f"{found['HugePages_Free']} of {found['HugePages_Total']} free, "
            f"{found['Hugepagesize']} kB each"
        )


def _locked_memory(machine: Machine) -> Iterator[Finding]:
    """Compare with what VFIO locks; root may lock anything."""
    limit = machine.locked_memory()
    if limit < 0:
        yield ok("no limit of locked memory")
    elif limit < DEFAULT_SIZE:
        yield note(
            f"ulimit -l is {human_size(limit)}: vfio: locks {human_size(DEFAULT_SIZE)} for buffers",
            "raise memlock in /etc/security/limits.conf, or open vfio:ADDRESS?dma=4M",
        )
    else:
        yield ok(f"{human_size(limit)} may be locked, {human_size(DEFAULT_SIZE)} are needed")


CHECKS: Final[tuple[Check[Machine], ...]] = (
    Check("lockdown", _lockdown),
    Check("/dev/mem", _devmem),
    Check("iommu", _iommu),
    Check("vfio", _vfio),
    Check("huge pages", _hugepages),
    Check("memlock", _locked_memory),
)
