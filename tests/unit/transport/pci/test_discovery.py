# SPDX-License-Identifier: Apache-2.0
"""Which functions are found on a made-up PCI bus, what opens them, and what stands in the way."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fakes.pci_tree import PciTree
from i2o.errors import TransportUnavailable
from i2o.transport import registry
from i2o.transport.found import Found, Obstacle
from i2o.transport.pci import discovery
from i2o.transport.pci.backends import Places
from i2o.transport.pci.discovery import find

CARD = "0000:03:00.0"


@pytest.fixture(autouse=True)
def _compiled(monkeypatch) -> None:
    monkeypatch.setattr(discovery, "require_native", lambda scheme: None)


@pytest.fixture
def tree(tmp_path: Path) -> PciTree:
    made = PciTree(tmp_path)
    folder = made.sysfs / "kernel/mm/hugepages/hugepages-2048kB"
    folder.mkdir(parents=True)
    (folder / "free_hugepages").write_text("8\n")
    (made.dev / "vfio/vfio").touch()
    return made


def look(tree: PciTree, may_use=lambda path: True) -> list[Found]:
    return list(find(Places(tree.sysfs, tree.dev, may_use)))


def reasons(tree: PciTree, may_use=lambda path: True) -> list[str]:
    (found,) = look(tree, may_use)
    return [obstacle.reason for obstacle in found.obstacles]


def test_a_machine_without_pci(tmp_path):
    assert list(find(Places(tmp_path, tmp_path))) == []


def test_only_iops_are_found(tree):
    tree.add("0000:00:1f.0", vendor=0x8086, device=0x1111, class_code=0x060100)
    tree.add("0000:04:00.0", vendor=0x1234, device=1, class_code=0x0E0000)
    tree.add("0000:01:00.0", class_code=0x010400)  # by its ids
    (tree.sysfs / "bus/pci/devices/0000:09:00.0").mkdir()  # being pulled out
    assert [(found.address, found.name) for found in look(tree)] == [
        ("0000:01:00.0", "DPT SmartRAID V / Adaptec 2100S family"),
        ("0000:04:00.0", "I2O controller"),
    ]


@pytest.mark.parametrize(
    ("how", "uri", "why"),
    [
        ({"driver": "vfio-pci", "group": "4"}, "vfio", "it is bound to vfio-pci"),
        ({"driver": "uio_pci_generic", "uio": "uio3"}, "uio", "it is bound to uio_pci_generic"),
        ({}, "sysfs", "no IOMMU stands between it and memory"),
        ({"driver": "pci-stub", "group": "4"}, "sysfs", "no IOMMU stands between it and memory"),
    ],
)
def test_what_opens_a_card(tree, how, uri, why):
    tree.add(CARD, **how)
    (found,) = look(tree)
    assert (found.uri, found.why, found.obstacles) == (f"{uri}:{CARD}", why, ())
    assert found.kind == "pci"
    assert found.details == {
        "vendor": "1044",
        "device": "a501",
        "class": "0e0001",
        "driver": how.get("driver"),
        "iommu_group": how.get("group"),
    }


def test_a_card_of_a_kernel_driver(tree):
    tree.add(CARD, driver="dpt_i2o")
    (found,) = look(tree)
    assert found.obstacles == (
        Obstacle(
            f"{CARD} is bound to the kernel driver 'dpt_i2o'",
            f"if nothing uses it: echo {CARD} > /sys/bus/pci/drivers/dpt_i2o/unbind",
        ),
    )


def test_an_unbound_card_behind_an_iommu_is_one_for_vfio(tree):
    tree.add(CARD, group="7", group_type="DMA-FQ")
    (found,) = look(tree)
    assert found.uri == f"vfio:{CARD}"
    assert found.why == "an IOMMU stands between it and memory"
    ((reason, remedy),) = found.obstacles
    assert reason == f"{CARD} is not bound to vfio-pci"
    assert "modprobe vfio-pci; echo vfio-pci > " in remedy


def test_vfio_without_an_iommu(tree):
    tree.add(CARD, driver="vfio-pci")
    assert reasons(tree) == [f"{CARD} is in no IOMMU group"]


def test_uio_behind_an_iommu(tree):
    tree.add(CARD, driver="uio_pci_generic", uio="uio0", group="7", group_type="DMA")
    assert [reason[:27] for reason in reasons(tree)] == ["an IOMMU stands between 000"]


def test_others_of_the_group(tree):
    tree.add(CARD, driver="vfio-pci", group="7")
    for number, driver in enumerate(("vfio-pci", "pcieport", "", "pci-stub")):
        tree.add(f"0000:05:0{number}.0", vendor=1, class_code=0x20000, driver=driver, group="7")
    assert reasons(tree) == []
    tree.add("0000:06:00.0", vendor=1, class_code=0x20000, driver="e1000", group="7")
    assert reasons(tree) == ["other drivers have devices of IOMMU group 7: 0000:06:00.0"]


def test_the_files_of_vfio(tree):
    tree.add(CARD, driver="vfio-pci", group="7")
    group = tree.dev / "vfio/7"
    assert reasons(tree, lambda path: path != group) == [f"this user may not use {group}"]
    group.unlink()
    (tree.dev / "vfio/vfio").unlink()
    assert reasons(tree) == [f"there is no {tree.dev}/vfio/vfio", f"there is no {group}"]


def test_a_user_who_is_not_root(tree):
    folder = tree.add(CARD)
    shut = (folder / "config", folder / "resource0")
    assert reasons(tree, lambda path: path not in shut) == [
        f"this user may not write config, resource0 in {folder}"
    ]


def test_the_file_of_uio(tree):
    tree.add(CARD, driver="uio_pci_generic", uio="uio3")
    assert reasons(tree, lambda path: path.name != "uio3") == [
        f"this user may not use {tree.dev}/uio3"
    ]


def test_no_accessors_no_pages_and_lockdown(tree, monkeypatch):
    def refuse(scheme):
        raise TransportUnavailable(scheme, "none are compiled", remedy="compile")

    tree.add(CARD)
    lockdown = tree.sysfs / "kernel/security/lockdown"
    lockdown.parent.mkdir()
    for text in ("[none] integrity confidentiality\n", "nonsense\n"):
        lockdown.write_text(text)
        assert reasons(tree) == []
    monkeypatch.setattr(discovery, "require_native", refuse)
    lockdown.write_text("none [integrity] confidentiality\n")
    pages = tree.sysfs / discovery._HUGE_PAGES
    pages.write_text("0\n")
    expected = [
        "none are compiled",
        "there is no free huge page for its buffers",
        "the kernel is locked down and maps no BAR",
    ]
    assert reasons(tree) == expected
    pages.unlink()
    assert reasons(tree) == expected


def test_bars_and_classes_that_are_no_iop(tree):
    tree.add(CARD, bars=((0x20, 0x200),), driver="vfio-pci", group="7")
    ((reason),) = reasons(tree)
    assert reason.startswith("BAR 0 of 0000:03:00.0 has 0x20 bytes")
    tree.add("0000:02:00.0", vendor=1, class_code=0x0E00FF)
    odd = look(tree)[0]
    assert odd.name == "I2O device"
    assert odd.obstacles[0].reason.startswith("class 0x0e00ff is no interface that is known")


def test_this_user(tmp_path):
    file = tmp_path / "file"
    assert not Places().may_use(file)
    file.touch()
    assert Places().may_use(file) == os.access(file, os.W_OK)


# --- everything that can be opened ----------------------------------------------------------------


class Port:
    """A port of another distribution that finds two."""

    @classmethod
    def find(cls):
        yield Found("lab", "one", "lab:1", "it is there")
        yield Found("lab", "two", "lab:2", "it is there, too")


def test_ports_of_others(monkeypatch):
    points = [
        EntryPoint("lab", f"{__name__}:Port", registry.ENTRY_POINT_GROUP),
        EntryPoint("plain", "pathlib:Path", registry.ENTRY_POINT_GROUP),
        EntryPoint("broken", "no_such_module:Port", registry.ENTRY_POINT_GROUP),
        EntryPoint("emu", "pathlib:Path", registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: _load(self))
    own, *others = registry.find_iops()
    assert (own.uri, own.obstacles) == ("emu:", ())
    assert [found.uri for found in others] == ["lab:1", "lab:2", "plain:", "broken:"]
    assert others[2] == Found(
        "plain", "port of pathlib:Path", "plain:", "pathlib:Path says what stands behind the colon"
    )
    ((reason, remedy),) = others[3].obstacles
    assert reason.startswith("ModuleNotFoundError")
    assert remedy == "reinstall no_such_module:Port"


def _load(point: EntryPoint):
    if point.name == "broken":
        raise ModuleNotFoundError("no_such_module")
    return Port if point.name == "lab" else replace
