# SPDX-License-Identifier: Apache-2.0
"""PCI functions as sysfs shows them, and turning them on."""

from __future__ import annotations

import os

import pytest

from fakes.pci_tree import PciTree
from i2o.errors import TransportUnavailable
from i2o.transport.pci.cards import Card, card_of
from i2o.transport.pci.function import Bar, Enabled, PciFunction, parse_address

BDF = "0000:03:00.0"


@pytest.fixture
def tree(tmp_path) -> PciTree:
    return PciTree(tmp_path)


def function(tree: PciTree, **what) -> PciFunction:
    tree.add(BDF, **what)
    return PciFunction("sysfs", BDF, tree.sysfs)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0000:03:00.0", BDF), ("3:0.0", BDF), ("1:aB:1f.7", "0001:ab:1f.7"), ("03:00.0", BDF)],
)
def test_addresses(text, wanted):
    assert parse_address("vfio", text) == wanted


@pytest.mark.parametrize("text", ["", "03", "0:0:0", "3:20.0", "3:0.8", "3:0.0 ", "../../x:0:0.0"])
def test_what_is_no_address(text):
    with pytest.raises(TransportUnavailable, match=r"no PCI address \(write DOMAIN"):
        parse_address("vfio", text)


def test_a_function_tells_who_it_is(tree):
    card = function(tree, driver="vfio-pci", group="14", subsystem=(0x105A, 0x1234))
    assert (card.vendor_id, card.device_id, card.class_code) == (0x1044, 0xA501, 0x0E0001)
    assert (card.subsystem_vendor_id, card.subsystem_id) == (0x105A, 0x1234)
    assert (card.driver, card.iommu_group, card.group_members) == ("vfio-pci", "14", (BDF,))
    assert card.interrupt == 11


def test_a_function_without_driver_and_group(tree):
    card = function(tree)
    assert (card.driver, card.iommu_group, card.group_members) == ("", "", ())
    card.require_unbound()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe", b"0x10 0x20", None])
@pytest.mark.parametrize("name", ["vendor", "class", "irq", "resource"])
def test_what_the_kernel_would_not_say_is_refused_by_name(tree, name, content):
    card = function(tree)
    path = card.folder / name
    path.unlink()
    if content is not None:  # else the device was pulled out meanwhile
        path.write_bytes(content)
    ask = {
        "vendor": lambda: card.vendor_id,
        "class": lambda: card.class_code,
        "irq": lambda: card.interrupt,
        "resource": lambda: card.bars,
    }[name]
    if (name, content) == ("resource", b""):
        assert ask() == ()
        return
    with pytest.raises(TransportUnavailable, match=f"{BDF}/{name} does not say.*pulled out"):
        ask()


def test_there_is_no_such_function(tree):
    with pytest.raises(TransportUnavailable, match=r"there is no PCI device 0000:03:00\.0"):
        PciFunction("sysfs", BDF, tree.sysfs)


def test_a_driver_is_left_alone(tree):
    card = function(tree, driver="dpt_i2o")
    with pytest.raises(TransportUnavailable, match=r"'dpt_i2o'.*drivers/dpt_i2o/unbind"):
        card.require_unbound(allowed=("vfio-pci",))
    card.require_unbound(allowed=("vfio-pci", "dpt_i2o"))


def test_memory_bars_are_found_behind_io_ports(tree):
    card = function(tree, bars=((0x100, 0x101), (0x20000, 0x200), (0, 0), (0x40000, 0x1200)))
    assert card.bars == (
        Bar(0, 0xF000_0000, 0x100, False),
        Bar(1, 0xF100_0000, 0x20000, True),
        Bar(3, 0xF300_0000, 0x40000, True),
    )
    assert card.memory_bar().number == 1
    assert card.memory_bar(1).number == 3
    with pytest.raises(TransportUnavailable, match="has 2 memory BARs, 3 are needed"):
        card.memory_bar(2)


def test_memory_and_bus_mastering_are_put_back(tree):
    card = function(tree)
    card.command = 0x0401
    with Enabled(card, uses_interrupt=True):
        assert card.command == 0x0007
    assert card.command == 0x0401
    with Enabled(card, uses_interrupt=False):
        assert card.command == 0x0407
    assert card.command == 0x0401


def test_what_is_on_already_is_not_touched(tree, monkeypatch):
    card = function(tree)
    card.command = 0x0006
    monkeypatch.setattr(PciFunction, "write_config", lambda *_: pytest.fail("written"))
    with Enabled(card, uses_interrupt=True):
        assert card.command == 0x0006


class Stubborn(PciFunction):
    """Its bus master bit does not stick."""

    def write_config(self, offset: int, data: bytes) -> None:
        super().write_config(offset, bytes([data[0] & ~4, data[1]]))


def test_a_bit_that_does_not_stick(tree):
    tree.add(BDF)
    card = Stubborn("sysfs", BDF, tree.sysfs)
    with pytest.raises(TransportUnavailable, match="does not keep its bus master bit"):
        Enabled(card, uses_interrupt=False)
    assert card.command == 0


def test_a_configuration_space_that_cannot_be_written(tree):
    card = function(tree)
    os.remove(card.folder / "config")
    with pytest.raises(TransportUnavailable, match=r"cannot be written: No such file.*be root"):
        Enabled(card, uses_interrupt=False)


def test_a_device_that_went_away_is_not_restored(tree):
    card = function(tree)
    enabled = Enabled(card, uses_interrupt=False)
    os.remove(card.folder / "config")
    enabled.close()


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ({}, "DPT SmartRAID V / Adaptec 2100S family"),
        ({"device": 0xA511, "class_code": 0x010400}, "Adaptec 2000S family, zero channel"),
        ({"vendor": 0x8086, "device": 0x1960, "subsystem": (0x105A, 1)}, "Promise SuperTrak 100"),
        ({"vendor": 0x8086, "device": 0x1960}, "I2O controller"),
        ({"vendor": 0x1234, "device": 1}, "I2O controller"),
    ],
)
def test_cards_by_id_and_class(tree, what, wanted):
    card = card_of(function(tree, **what))
    assert card is not None
    assert card.name == wanted


@pytest.mark.parametrize("class_code", [0x0E0002, 0x0E0100, 0x010400, 0x0C0330])
def test_what_is_no_iop(tree, class_code):
    assert card_of(function(tree, vendor=0x1234, class_code=class_code)) is None


def test_a_card_without_interrupt_registers(tree):
    assert card_of(function(tree, vendor=0x1234, class_code=0x0E0000)) == Card(has_status=False)


def test_promise_cards_are_limited(tree):
    card = card_of(function(tree, vendor=0x8086, device=0x1962, subsystem=(0x105A, 0)))
    assert card is not None
    assert card.unlocks_function_0
    assert card.max_sectors == 128
