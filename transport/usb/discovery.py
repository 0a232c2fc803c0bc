# SPDX-License-Identifier: Apache-2.0
"""Finds USB devices with our interface, and says what stands in the way of opening them.

The kernel is asked through /sys, so nothing is opened and neither pyusb nor root is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from i2o.transport.found import Found, Obstacle
from i2o.transport.usb.address import UsbAddress
from i2o.transport.usb.host_device import INSTALL_PYUSB, UDEV_REMEDY
from i2o.transport.usb.interface import INTERFACE_CLASS, INTERFACE_PROTOCOL, INTERFACE_SUBCLASS


class Places(NamedTuple):
    """Where the kernel shows devices.

    Attributes:
        sysfs: what it knows of them.
        nodes: the files by which programs use them.
    """

    sysfs: Path = Path("/sys")
    nodes: Path = Path("/dev/bus/usb")


_THIS_MACHINE: Final = Places()
_OURS: Final = (INTERFACE_CLASS, INTERFACE_SUBCLASS, INTERFACE_PROTOCOL)
_FIELDS: Final = ("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")


def find(places: Places = _THIS_MACHINE) -> Iterator[Found]:
    """Yield every device with our interface, by its place on the bus."""
    try:
        names = sorted(os.listdir(places.sysfs / "bus" / "usb" / "devices"))
    except OSError:
        return
    for name in names:
        folder = places.sysfs / "bus" / "usb" / "devices" / name
        try:
            if tuple(int(_read(folder / field), 16) for field in _FIELDS) == _OURS:
                yield _found(folder, folder.parent / name.partition(":")[0], places)
        except (OSError, ValueError):  # pulled out, or no interface
            continue


def _found(interface: Path, device: Path, places: Places) -> Found:
    vendor_id, product_id = (int(_read(device / name), 16) for name in ("idVendor", "idProduct"))
    serial = _read(device / "serial", "")
    address = UsbAddress(vendor_id, product_id, serial)
    bus, number = (int(_read(device / name)) for name in ("busnum", "devnum"))
    node = places.nodes / f"{bus:03d}" / f"{number:03d}"
    driver = interface / "driver"
    return Found(
        kind="usb",
        name=_read(device / "product", "") or "I2O processor",
        uri=str(address),
        why="it has the interface for I2O",
        address=device.name,
        details={
            "vendor": f"{vendor_id:04x}",
            "product": f"{product_id:04x}",
            "serial": serial or None,
            "driver": os.path.basename(os.readlink(driver)) if driver.is_symlink() else None,
        },
        obstacles=tuple(_obstacles(address, node, driver)),
    )


def _obstacles(address: UsbAddress, node: Path, driver: Path) -> Iterator[Obstacle]:
    if find_spec("usb") is None:
        yield Obstacle("pyusb is not installed", INSTALL_PYUSB)
    if not os.access(node, os.R_OK | os.W_OK):
        yield Obstacle(
            f"{node} may not be used by this user",
            UDEV_REMEDY.format(vendor=address.vendor_id, product=address.product_id),
        )
    if driver.is_symlink() and os.path.basename(os.readlink(driver)) != "usbfs":
        yield Obstacle("a driver of the kernel has it", f"open {address}?detach=1")


def _read(path: Path, default: str | None = None) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        if default is None:
            raise
        return default
