# SPDX-License-Identifier: Apache-2.0
"""Finds the IOPs on the PCI bus, and says what opens each or what stands in the way.

Nothing is opened and nothing changes, so it needs no root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

from i2o.errors import TransportUnavailable
from i2o.transport.found import Found, Obstacle
from i2o.transport.pci.backends import (
    FOR_PROGRAMS,
    UIO_DRIVERS,
    Opening,
    Places,
    choose,
    require_plain_addresses,
)
from i2o.transport.pci.cards import Card, card_of
from i2o.transport.pci.function import PciFunction
from i2o.transport.pci.interrupt import uio_name
from i2o.transport.pci.register_window import require_native
from i2o.transport.pci.vfio import DRIVER, require_group
from i2o.transport.uri import Uri

_I2O_CLASS: Final = 0x0E
_HARMLESS: Final = (DRIVER, "pcieport", "pci-stub", "")
"""Drivers that a device of the same IOMMU group may have."""
_THIS_MACHINE: Final = Places()
_HUGE_PAGES: Final = "kernel/mm/hugepages/hugepages-2048kB/free_hugepages"


def find(places: Places = _THIS_MACHINE) -> Iterator[Found]:
    """Yield every function that is an IOP or says that it is one, by address."""
    try:
        addresses = sorted(os.listdir(places.sysfs / "bus" / "pci" / "devices"))
    except OSError:
        return
    for address in addresses:
        try:
            function = PciFunction("pci", address, places.sysfs)
            card = card_of(function)
            if card is not None or function.class_code >> 16 == _I2O_CLASS:
                yield _found(function, card, places)
        except (OSError, ValueError, TransportUnavailable):  # pulled out, or no /sys of a kernel
            continue


def _found(function: PciFunction, card: Card | None, places: Places) -> Found:
    scheme, why = choose(function)
    function.backend = scheme
    return Found(
        kind="pci",
        name=card.name if card is not None else "I2O device",
        uri=f"{scheme}:{function.address}",
        why=why,
        address=function.address,
        details={
            "vendor": f"{function.vendor_id:04x}",
            "device": f"{function.device_id:04x}",
            "class": f"{function.class_code:06x}",
            "driver": function.driver or None,
            "iommu_group": function.iommu_group or None,
        },
        obstacles=tuple(_obstacles(scheme, function, card, places)),
    )


def _obstacles(
    scheme: str, function: PciFunction, card: Card | None, places: Places
) -> Iterator[Obstacle]:
    if card is None:
        yield Obstacle(
            f"class {function.class_code:#08x} is no interface that is known: 0x0e0000 or 0x0e0001 "
            "is expected",
            "read what its vendor says",
        )
        return
    text = f"{scheme}:{function.address}"
    opening = Opening(Uri.parse(text), function, card, places)
    yield from _said(opening.bars)
    if scheme == "vfio":
        yield from _vfio(function, places)
        return
    allowed = UIO_DRIVERS if scheme == "uio" else FOR_PROGRAMS
    yield from _said(lambda: function.require_unbound(allowed=allowed))
    yield from _said(lambda: require_native(scheme))
    yield from _said(lambda: require_plain_addresses(opening))
    needed = ["config", *(f"resource{bar.number}" for bar in function.bars if bar.is_memory)]
    shut = [name for name in needed if not places.may_use(function.folder / name)]
    if shut:
        yield Obstacle(f"this user may not write {', '.join(shut)} in {function.folder}", "be root")
    if scheme == "uio":
        yield from _said(lambda: _require_uio(function, places))
    yield from _low_memory(places)
    yield from _lockdown(places)


def _vfio(function: PciFunction, places: Places) -> Iterator[Obstacle]:
    refused = list(_said(lambda: require_group(function)))
    yield from refused
    if refused:
        return
    folder, group = places.sysfs / "bus" / "pci" / "devices", function.iommu_group
    others = [
        name
        for name in function.group_members
        if name != function.address and _driver(folder / name) not in _HARMLESS
    ]
    if others:
        yield Obstacle(
            f"other drivers have devices of IOMMU group {group}: {', '.join(others[:8])}",
            f"unbind them, or bind them to {DRIVER}, too",
        )
    for path in (places.dev / "vfio" / "vfio", places.dev / "vfio" / group):
        if not path.exists():
            yield Obstacle(f"there is no {path}", "as root: modprobe vfio-pci")
        elif not places.may_use(path):
            yield Obstacle(
                f"this user may not use {path}",
                f"as root: chown $USER {path}, or a udev rule that does it",
            )


def _require_uio(function: PciFunction, places: Places) -> None:
    path = places.dev / uio_name(function)
    if not places.may_use(path):
        raise TransportUnavailable(
            "uio", f"this user may not use {path}", remedy="be root; or use irq=off"
        )


def _low_memory(places: Places) -> Iterator[Obstacle]:
    try:
        free = int((places.sysfs / _HUGE_PAGES).read_text())
    except (OSError, ValueError):
        free = 0
    if not free:
        yield Obstacle(
            "there is no free huge page for its buffers",
            "as root: echo 16 > /proc/sys/vm/nr_hugepages; vfio: needs none",
        )


def _lockdown(places: Places) -> Iterator[Obstacle]:
    try:
        mode = (places.sysfs / "kernel" / "security" / "lockdown").read_text()
    except OSError:
        return
    if "[none]" not in mode and "[" in mode:
        yield Obstacle(
            "the kernel is locked down and maps no BAR",
            f"bind it to {DRIVER}, or switch Secure Boot off",
        )


def _said(check: Callable[[], object]) -> Iterator[Obstacle]:
    """Run a check of the backends, and yield what it says if it refuses."""
    try:
        check()
    except TransportUnavailable as error:
        yield Obstacle(error.reason, error.remedy)


def _driver(folder: os.PathLike[str]) -> str:
    try:
        return os.readlink(os.path.join(folder, "driver")).rpartition("/")[2]
    except OSError:
        return ""
