# SPDX-License-Identifier: Apache-2.0
"""Software that a host has loaded into an IOP: in memory, and what is permanent in a folder, too.

A folder holds one file a module, named by type, organization and module: `01-001b-0007.i2o`. A file
appears under its name only when it is whole and on the disk.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from i2o.frames.tables import MODULE_HEADER

_LOG: Final = logging.getLogger(__name__)
MAX_MODULES: Final = 64
MAX_SIZE: Final = 16 << 20
"""Bytes of the largest module."""
_NAME: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{4})-([0-9a-f]{4})\.i2o")


class ModuleName(NamedTuple):
    """What tells modules apart.

    Attributes:
        sw_type: a `SwType`.
        organization_id: who made it.
        module_id: which of theirs it is.
    """

    sw_type: int
    organization_id: int
    module_id: int

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.sw_type:02x}-{self.organization_id:04x}-{self.module_id:04x}.i2o"


class Module(NamedTuple):
    """One piece of software.

    Attributes:
        name: its name.
        data: all of it.
        is_permanent: it outlives a reset.
    """

    name: ModuleName
    data: bytes
    is_permanent: bool

    @property
    def title(self) -> str:
        """ModuleInfo of its header, or a name made up of its numbers."""
        text = ""
        if self.has_header:
            info: bytes = MODULE_HEADER.unpack_from(self.data).module_info
            text = info.rstrip(b"\0 ").decode("ascii", "replace")
        return text or f"module {self.name.organization_id:04x}:{self.name.module_id:04x}"

    @property
    def version(self) -> int:
        """ModuleVersion of its header, 0 without one."""
        if not self.has_header:
            return 0
        return int.from_bytes(MODULE_HEADER.unpack_from(self.data).module_version, "little")

    @property
    def has_header(self) -> bool:
        """Whether it starts with a module header that names the same module."""
        if len(self.data) < MODULE_HEADER.size:
            return False
        header = MODULE_HEADER.unpack_from(self.data)
        return (header.org_id, header.module_id) == (self.name.organization_id, self.name.module_id)


class SoftwareStore:
    """Every module of an IOP.

    Args:
        folder: where permanent modules are kept; without one they live as long as the IOP. It is
            made when the first one comes.
    """

    def __init__(self, folder: str = "") -> None:
        self._folder = Path(folder) if folder else None
        self._modules: dict[ModuleName, Module] = {}
        for module in self._read():
            if len(self._modules) < MAX_MODULES:
                self._modules[module.name] = module

    def find(self, name: ModuleName) -> Module | None:
        """Return a module, or None."""
        return self._modules.get(name)

    def add(self, module: Module) -> None:
        """Keep a module, in place of one with the same name.

        Raises:
            OSError: it is permanent and cannot be written. What was there before stays.
        """
        if module.is_permanent and self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write_whole(self._folder / module.name.file_name, module.data)
        self._modules[module.name] = module

    def remove(self, name: ModuleName) -> None:
        """Forget a module, and its file.

        Raises:
            KeyError: there is none.
            OSError: its file cannot be removed. The module stays.
        """
        module = self._modules[name]
        if module.is_permanent and self._folder is not None:
            (self._folder / name.file_name).unlink(missing_ok=True)
        del self._modules[name]

    def forget_volatile(self) -> None:
        """Forget what does not outlive a reset."""
        self._modules = {name: one for name, one in self._modules.items() if one.is_permanent}

    @property
    def is_full(self) -> bool:
        """Whether no further module fits."""
        return len(self._modules) >= MAX_MODULES

    @property
    def used(self) -> int:
        """Bytes of all modules."""
        return sum(len(module.data) for module in self._modules.values())

    def __iter__(self) -> Iterator[Module]:
        return iter([self._modules[name] for name in sorted(self._modules)])

    def __len__(self) -> int:
        return len(self._modules)

    def _read(self) -> Iterator[Module]:
        """Read what the folder has. What cannot be read is left out with a warning."""
        if self._folder is None or not self._folder.is_dir():
            return
        for path in sorted(self._folder.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match is None:
                continue
            try:
                if not path.is_file() or not 0 < path.stat().st_size <= MAX_SIZE:
                    raise OSError(f"not a regular file of 1 to {MAX_SIZE} bytes")
                data = path.read_bytes()
            except OSError as error:
                _LOG.warning("software store: %s is left out: %s", path, error)
                continue
            sw_type, organization_id, module_id = (int(text, 16) for text in match.groups())
            yield Module(ModuleName(sw_type, organization_id, module_id), data, is_permanent=True)


def _write_whole(path: Path, data: bytes) -> None:
    """Make a file appear at once and for good: written beside, made durable, renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
