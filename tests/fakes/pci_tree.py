# SPDX-License-Identifier: Apache-2.0
"""A /sys/bus/pci of plain files, with functions that tests make up."""

from __future__ import annotations

from pathlib import Path


class PciTree:
    """Functions under a folder that stands for /sys and /dev.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.sysfs, self.dev = root / "sys", root / "dev"
        (self.sysfs / "bus/pci/devices").mkdir(parents=True)
        (self.dev / "vfio").mkdir(parents=True)

    def add(
        self,
        address: str = "0000:03:00.0",
        *,
        vendor: int = 0x1044,
        device: int = 0xA501,
        class_code: int = 0x0E0001,
        subsystem: tuple[int, int] = (0x1044, 0xC03C),
        bars: tuple[tuple[int, int], ...] = ((0x20000, 0x200),),
        driver: str = "",
        group: str = "",
        group_type: str = "identity",
        uio: str = "",
    ) -> Path:
        """Make a function; `bars` are (size, resource flags). Returns its folder."""
        folder = self.sysfs / "bus/pci/devices" / address
        folder.mkdir()
        for name, value in (
            ("vendor", f"{vendor:#06x}"),
            ("device", f"{device:#06x}"),
            ("class", f"{class_code:#08x}"),
            ("subsystem_vendor", f"{subsystem[0]:#06x}"),
            ("subsystem_device", f"{subsystem[1]:#06x}"),
            ("irq", "11"),
        ):
            (folder / name).write_text(value + "\n")
        lines, at = [], 0xF000_0000
        for number, (size, flags) in enumerate(bars):
            lines.append(f"{at:#018x} {at + size - 1 if size else 0:#018x} {flags:#018x}")
            (folder / f"resource{number}").write_bytes(bytes(size))
            at += 0x100_0000
        lines += ["0x0000000000000000 0x0000000000000000 0x0000000000000000"] * (7 - len(lines))
        (folder / "resource").write_text("\n".join(lines) + "\n")
        config = bytearray(256)
        config[0:4] = vendor.to_bytes(2, "little") + device.to_bytes(2, "little")
        (folder / "config").write_bytes(config)
        if driver:
            place = self.sysfs / "bus/pci/drivers" / driver
            place.mkdir(parents=True, exist_ok=True)
            (folder / "driver").symlink_to(place)
        if group:
            place = self.sysfs / "kernel/iommu_groups" / group
            (place / "devices").mkdir(parents=True, exist_ok=True)
            (place / "devices" / address).touch()
            (place / "type").write_text(group_type + "\n")
            (folder / "iommu_group").symlink_to(place)
            (self.dev / "vfio" / group).touch()
        if uio:
            (folder / "uio" / uio).mkdir(parents=True)
        return folder
