# SPDX-License-Identifier: Apache-2.0
"""The kinds of parts that guests are made of: QEMU, kernels, and the programs inside.

Versions are never named: a part is the newest of its series on the day it is prepared. What is
in the cache stays in use until its folder is removed or the part is described differently.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from vm import cpio, kernel_image, userland
from vm.apt_archive import MANIFEST, AptArchive, machine_architecture
from vm.cache import Cache
from vm.errors import NotPrepared, PrepareError
from vm.kernel_modules import ModuleTree

QEMU_SINCE = (10, 1)
"""The first version with the device `vfio-user-pci`."""


@dataclass(frozen=True)
class Part(ABC):
    """Something to download and unpack: one folder of the cache.

    Args:
        name: what the project calls it.
        packages: regular expressions for the names of its packages.
        suites: where the packages come from; the last one is preferred.
        architecture: Debian's name of it; empty for that of the machine.
    """

    name: str
    packages: tuple[str, ...]
    suites: tuple[str, ...]
    architecture: str

    made_by: ClassVar[tuple[ModuleType, ...]] = ()
    """The modules that decide what is in it, besides the packages."""

    @property
    def entry(self) -> str:
        """The name in the cache. It changes with the way that the part is made."""
        return f"{self.name}-{hashlib.sha256(self._recipe.encode()).hexdigest()[:8]}"

    @property
    def _recipe(self) -> str:
        return repr(self) + "".join(map(inspect.getsource, self.made_by))

    def find(self, cache: Cache) -> Path:
        """Return the part's folder, which must have been prepared."""
        found = cache.find(self.entry)
        if found is None:
            raise NotPrepared(
                f"{self.name} ({', '.join(self.packages)} from {', '.join(self.suites)}) is not "
                f"in {cache.folder}: run `python tests/vm/prepare.py`"
            )
        return found

    def prepare(self, cache: Cache) -> Path:
        """Return the part's folder, after downloading what goes into it if need be."""
        return cache.provide(self.entry, self._make)

    def _make(self, folder: Path) -> None:
        work = folder / ".apt"
        archive = AptArchive(work, self.suites, self.architecture or machine_architecture())
        archive.update()
        self._fill(folder, archive, [archive.newest(pattern) for pattern in self.packages])
        shutil.rmtree(work)

    @abstractmethod
    def _fill(self, folder: Path, archive: AptArchive, names: Sequence[str]) -> None:
        """Make the part out of these packages."""


class Qemu(Part):
    """An emulator that runs from its folder, with the libraries that it was built for."""

    def command(self, cache: Cache) -> list[str]:
        """Return the words that start it."""
        return _qemu_command(self.find(cache))

    def _fill(self, folder: Path, archive: AptArchive, names: Sequence[str]) -> None:
        archive.unpack(names, folder)
        for useless in ("doc", "man", "locale"):
            shutil.rmtree(folder / "usr" / "share" / useless, ignore_errors=True)
        says = subprocess.run([*_qemu_command(folder), "--version"], capture_output=True, text=True)
        if qemu_version(says.stdout) < QEMU_SINCE:
            wanted = ".".join(map(str, QEMU_SINCE))
            answer = (says.stdout or says.stderr).partition("\n")[0]
            raise PrepareError(
                f"{self.name} from {', '.join(self.suites)}: needs version {wanted} or newer, "
                f"but it says {answer!r}"
            )


class Userland(Part):
    """The programs in a guest, as archives that a kernel unpacks: busybox, and Python."""

    made_by = (userland, cpio)

    def busybox(self, cache: Cache) -> Path:
        """Return the archive with a shell and the usual commands."""
        return self.find(cache) / "busybox.cpio"

    def python(self, cache: Cache) -> Path:
        """Return the archive with Python and its standard library, to go behind the other."""
        return self.find(cache) / "python.cpio"

    def _fill(self, folder: Path, archive: AptArchive, names: Sequence[str]) -> None:
        tree = folder / "tree"
        tree.mkdir()
        archive.unpack(names, tree)
        userland.compile_python(tree)
        with (folder / "busybox.cpio").open("wb") as out:
            userland.pack_busybox(tree, out)
        with (folder / "python.cpio").open("wb") as out:
            userland.pack_python(tree, out)
        (tree / MANIFEST).rename(folder / MANIFEST)
        shutil.rmtree(tree)


class Headers(Part):
    """What C programs for a guest's architecture include."""

    def folder(self, cache: Cache) -> Path:
        """Return the folder to include from."""
        return self.find(cache) / "usr" / "include"

    def _fill(self, folder: Path, archive: AptArchive, names: Sequence[str]) -> None:
        archive.unpack(names, folder, dependencies=False)
        shutil.rmtree(folder / "usr" / "lib", ignore_errors=True)


@dataclass(frozen=True)
class Extras(Part):
    """Libraries and programs that some guests have beside those of their userland.

    Args:
        wanted: patterns of the files that guests get.
    """

    wanted: tuple[str, ...] = field(default=("**/*-linux-gnu/*.so.*",), repr=False)

    def files(self, cache: Cache) -> dict[str, bytes | Path]:
        """Return where they go in a guest, and where they are."""
        folder = self.find(cache)
        found = (path for pattern in self.wanted for path in folder.glob(pattern))
        return {f"/{path.relative_to(folder)}": path.resolve() for path in found}

    def _fill(self, folder: Path, archive: AptArchive, names: Sequence[str]) -> None:
        archive.unpack(names, folder, dependencies=False)


@dataclass(frozen=True)
class Kernel(Part):
    """A kernel and its modules, as they come out of their package.

    Args:
        userland: the programs that run on it.
    """

    userland: Userland = field(repr=False)

    made_by = (kernel_image,)

    def image(self, cache: Cache) -> Path:
        """Return the file that boots."""
        folder = self.find(cache)
        unpacked = folder / "vmlinux"
        return unpacked if unpacked.exists() else _only(folder, "boot/vmlinuz-*")

    def modules(self, cache: Cache) -> ModuleTree:
        """Return its modules."""
        folder = self.find(cache)
        for above in ("usr/lib/modules/*", "lib/modules/*"):
            if found := list(folder.glob(above)):
                return ModuleTree(found[0])
        raise PrepareError(f"{folder} has no modules: remove it and prepare it again")

    def _fill(self, folder: Path, archive: AptArchive, names: Sequence[str]) -> None:
        archive.unpack(names, folder, dependencies=False)
        if "CONFIG_PVH=y" in _only(folder, "boot/config-*").read_text():  # else QEMU cannot boot it
            unpacked = kernel_image.uncompressed(_only(folder, "boot/vmlinuz-*").read_bytes())
            if unpacked is not None:
                (folder / "vmlinux").write_bytes(unpacked)


def qemu_version(says: str) -> tuple[int, ...]:
    """Return the version in the answer to `--version`, nothing if there is none."""
    found = re.search(r"version (\d+)\.(\d+)", says)
    return tuple(int(number) for number in found.groups()) if found else ()


def _qemu_command(folder: Path) -> list[str]:
    libraries = _only(folder, "usr/lib/*-linux-gnu")
    data = (folder / "usr/share/qemu", folder / "usr/share/seabios", folder / "usr/lib/ipxe/qemu")
    return [
        *("env", f"QEMU_MODULE_DIR={libraries / 'qemu'}"),  # or it lacks usb-redir
        *(str(_only(libraries, "ld-linux*.so.*")), "--library-path", str(libraries)),
        str(folder / "usr/bin/qemu-system-x86_64"),
        *(word for path in data for word in ("-L", str(path))),
    ]


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise PrepareError(f"{folder / pattern}: expected one, found {len(found)}; remove {folder}")
    return found[0]
