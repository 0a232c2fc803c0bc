# SPDX-License-Identifier: Apache-2.0
"""Devices with our interface, as a kernel shows them: folders in place of /sys and /dev."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from i2o.tools.checks import usb_checks
from i2o.tools.checks.finding import Level
from i2o.tools.checks.machine import Machine
from i2o.transport.usb import discovery
from i2o.transport.usb.discovery import Places, find


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bus with a device of ours, a hub, and one that is being pulled out."""
    devices = tmp_path / "sys/bus/usb/devices"
    ours = {
        "idVendor": "1209", "idProduct": "0001", "busnum": "1", "devnum": "5",
        "serial": "7", "product": "I2O processor",
    }  # fmt: skip
    for name, files in {
        "1-1": ours,
        "1-1:1.0": {
            "bInterfaceClass": "ff", "bInterfaceSubClass": "49", "bInterfaceProtocol": "01"
        },
        "1-0:1.0": {
            "bInterfaceClass": "09", "bInterfaceSubClass": "00", "bInterfaceProtocol": "00"
        },
        "1-2:1.0": {
            "bInterfaceClass": "ff", "bInterfaceSubClass": "49", "bInterfaceProtocol": "01"
        },
    }.items():  # fmt: skip
        folder = devices / name
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(text + "\n")
    node = tmp_path / "dev/bus/usb/001/005"
    node.parent.mkdir(parents=True)
    node.write_bytes(b"")
    return tmp_path


def places(root: Path) -> Places:
    return Places(root / "sys", root / "dev/bus/usb")


def test_what_is_found(root: Path) -> None:
    (found,) = find(places(root))
    assert (found.kind, found.uri, found.name) == ("usb", "usb:1209:0001:7", "I2O processor")
    assert found.address == "1-1"
    assert found.details == {
        "vendor": "1209", "product": "0001", "serial": "7", "driver": None
    }  # fmt: skip
    assert found.obstacles == ()


def test_a_machine_without_usb(tmp_path: Path) -> None:
    assert list(find(places(tmp_path))) == []


def test_a_device_that_tells_little(root: Path) -> None:
    device = root / "sys/bus/usb/devices/1-1"
    (device / "serial").unlink()
    (device / "product").unlink()
    (found,) = find(places(root))
    assert (found.uri, found.name) == ("usb:1209:0001", "I2O processor")


@pytest.mark.parametrize("driver", ["usbfs", "other"])
def test_what_stands_in_the_way(root: Path, driver: str, monkeypatch) -> None:
    interface = root / "sys/bus/usb/devices/1-1:1.0"
    os.symlink(f"../../drivers/{driver}", interface / "driver")
    (root / "dev/bus/usb/001/005").unlink()
    monkeypatch.setattr(discovery, "find_spec", lambda name: None)
    (found,) = find(places(root))
    assert found.details["driver"] == driver
    reasons = [obstacle.reason for obstacle in found.obstacles]
    assert reasons[0] == "pyusb is not installed"
    assert "may not be used" in reasons[1]
    assert 'idProduct}=="0001"' in found.obstacles[1].remedy
    assert reasons[2:] == (["a driver of the kernel has it"] if driver == "other" else [])


def test_the_doctor_says_so(root: Path) -> None:
    machine = replace(Machine(), root=root)
    (check,) = usb_checks.CHECKS
    (finding,) = check.look(machine)
    assert finding.level is Level.OK
    assert finding.text == "1-1 I2O processor: usb:1209:0001:7 opens it"
    (root / "dev/bus/usb/001/005").unlink()
    (finding,) = check.look(machine)
    assert finding.level is Level.NOTE
    assert "udev rule" in str(finding.remedy)
    (root / "sys/bus/usb/devices/1-1:1.0/bInterfaceClass").write_text("03")
    (finding,) = check.look(machine)
    assert finding.text == "no USB device with the interface for I2O"
