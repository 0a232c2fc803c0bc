# SPDX-License-Identifier: Apache-2.0
"""Modules come with what they need, in an order in which a kernel takes them."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from vm.errors import PrepareError
from vm.kernel_modules import ModuleTree, dependency_list

MODULES = {
    "vfio.ko": "",
    "irqbypass.ko.xz": "",
    "vfio-pci-core.ko.xz": "irqbypass,vfio",
    "vfio-pci.ko": "vfio-pci-core,vfio",
}


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    folder = tmp_path / "6.12"
    for number, (name, depends) in enumerate(MODULES.items()):
        path = folder / "kernel" / str(number) / name
        path.parent.mkdir(parents=True)
        content = f"\x7fELF\0license=GPL\0depends={depends}\0name=x\0".encode()
        path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    return ModuleTree(folder)


def test_a_module_comes_behind_all_that_it_needs(tree: ModuleTree) -> None:
    names = [module.name for module in tree.load_order(["vfio-pci", "vfio"])]
    assert names == ["irqbypass", "vfio", "vfio_pci_core", "vfio_pci"]


def test_compressed_modules_are_unpacked(tree: ModuleTree) -> None:
    (module,) = tree.load_order(["irqbypass"])
    assert module.content.startswith(b"\x7fELF")


def test_the_list_names_needs_of_needs_the_first_to_load_last(tree: ModuleTree) -> None:
    assert dependency_list(tree.load_order(["vfio_pci"])).splitlines() == [
        "irqbypass.ko:",
        "vfio.ko:",
        "vfio_pci_core.ko: vfio.ko irqbypass.ko",
        "vfio_pci.ko: vfio_pci_core.ko vfio.ko irqbypass.ko",
    ]


def test_a_missing_module_is_named_with_the_kernel(tree: ModuleTree) -> None:
    with pytest.raises(PrepareError, match=r"kernel 6.12 has no module dpt_i2o"):
        tree.load_order(["dpt_i2o"])
