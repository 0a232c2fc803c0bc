# SPDX-License-Identifier: Apache-2.0
"""Finds modules of a kernel with all that they depend on, as a guest's `modprobe` wants them."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vm.errors import PrepareError

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_ENDINGS = (".ko", ".ko.xz")


@dataclass(frozen=True)
class Module:
    """A module, and the names of those that must be loaded before it, in that order."""

    name: str
    content: bytes
    needs: tuple[str, ...]


@dataclass(frozen=True)
class ModuleTree:
    """The modules of an unpacked kernel package. `-` and `_` are the same in names.

    Args:
        folder: the one named after the kernel's release.
    """

    folder: Path

    def load_order(self, names: Iterable[str]) -> list[Module]:
        """Return modules and all that they need, each behind what it needs."""
        ordered: dict[str, Module] = {}
        for name in names:
            self._add(name.replace("-", "_"), ordered)
        return list(ordered.values())

    def _add(self, name: str, ordered: dict[str, Module]) -> None:
        if name in ordered:
            return
        content = self._read(name)
        match = _DEPENDS.search(content)
        direct = match[1].decode().replace("-", "_").split(",") if match and match[1] else []
        needs: dict[str, None] = {}
        for depended in direct:
            self._add(depended, ordered)
            needs.update(dict.fromkeys((*ordered[depended].needs, depended)))
        ordered[name] = Module(name, content, tuple(needs))

    def _read(self, name: str) -> bytes:
        path = self._paths.get(name)
        if path is None:
            raise PrepareError(f"kernel {self.folder.name} has no module {name}")
        content = path.read_bytes()
        return lzma.decompress(content) if path.suffix == ".xz" else content

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return {
            path.name.partition(".")[0].replace("-", "_"): path
            for path in self.folder.rglob("*.ko*")
            if path.name.endswith(_ENDINGS)
        }


def dependency_list(modules: Iterable[Module]) -> str:
    """Return the text of a `modules.dep`: what a module needs, the first to be loaded last."""
    return "".join(
        f"{module.name}.ko:{''.join(f' {name}.ko' for name in reversed(module.needs))}\n"
        for module in modules
    )
