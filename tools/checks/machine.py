# SPDX-License-Identifier: Apache-2.0
"""A machine as the checks see it: every path and every fact is injected, so that tests make one up.

Files of /proc and /sys that are missing or forbidden are None: which of the two makes no difference
to somebody who is not root.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Final

from i2o.tools import extcap_setup, nbdkit
from i2o.transport.ofi import library
from i2o.transport.ofi.library import Library
from i2o.transport.pci.dma_memory import HUGE_PAGE, HugePageMemory
from i2o.transport.registry import ENTRY_POINT_GROUP

_MAX_TEXT: Final = 1 << 20
_PATIENCE_S: Final = 10.0


def _port_entry_points() -> Iterable[metadata.EntryPoint]:
    return metadata.entry_points(group=ENTRY_POINT_GROUP)


def _encodings() -> Mapping[str, str]:
    return {
        "output": getattr(sys.stdout, "encoding", None) or "none",
        "file names": sys.getfilesystemencoding(),
    }


def _free_bytes(folder: str) -> int:
    return shutil.disk_usage(folder).free


def _version_text(program: str) -> str | None:
    """Return the first line that a program says about its version, None if it cannot be run."""
    try:
        asked = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.decode("utf-8", "replace").partition("\n")[0]


def _take_low_page() -> None:
    HugePageMemory(HUGE_PAGE, "sysfs").close()


def _locked_memory() -> int:
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]


@dataclass(frozen=True)
class Machine:
    """This machine, or one that a test made up.

    Attributes:
        root: where /sys, /proc, /dev and /boot are.
        environment: environment variables.
        platform: as `sys.platform`.
        python: version of the interpreter.
        encodings: what text is encoded as, by purpose.
        version_of: returns the version of an installed distribution, or raises
            `metadata.PackageNotFoundError`.
        load: imports a module.
        ports: returns the entry points of other ports.
        wireshark_places: returns where the capture interface and the dissector belong.
        temporary_folder: returns the folder for temporary files.
        free_bytes: returns how much room a folder has.
        version_text: returns what a program says about its version, None if it is not there.
        find_nbdkit: returns where nbdkit is, or raises TransportUnavailable.
        load_libfabric: returns libfabric, or raises TransportUnavailable.
        take_low_page: takes a huge page below 4 GiB for a moment, or raises TransportUnavailable.
        locked_memory: returns how many bytes this user may lock; -1 for no limit.
    """

    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    platform: str = sys.platform
    python: tuple[int, int, int] = sys.version_info[:3]
    encodings: Mapping[str, str] = field(default_factory=_encodings)
    version_of: Callable[[str], str] = metadata.version
    load: Callable[[str], object] = import_module
    ports: Callable[[], Iterable[metadata.EntryPoint]] = _port_entry_points
    wireshark_places: Callable[[], tuple[Path, Path]] = extcap_setup.places
    temporary_folder: Callable[[], str] = tempfile.gettempdir
    free_bytes: Callable[[str], int] = _free_bytes
    version_text: Callable[[str], str | None] = _version_text
    find_nbdkit: Callable[[], str] = nbdkit.find
    load_libfabric: Callable[[], Library] = library.load
    take_low_page: Callable[[], None] = _take_low_page
    locked_memory: Callable[[], int] = _locked_memory

    def path(self, absolute: str) -> Path:
        """Return where a path of the machine is."""
        return self.root / absolute.lstrip("/")

    def data(self, absolute: str) -> bytes | None:
        """Return the start of a file, or None if it cannot be read."""
        try:
            with self.path(absolute).open("rb") as opened:
                return opened.read(_MAX_TEXT)
        except OSError:
            return None

    def text(self, absolute: str) -> str | None:
        """Return a file as text without the space around it, or None if it cannot be read."""
        data = self.data(absolute)
        return None if data is None else data.decode("utf-8", "replace").strip()

    def names(self, absolute: str) -> list[str]:
        """Return the names in a folder, sorted; none if it cannot be read."""
        try:
            return sorted(os.listdir(self.path(absolute)))
        except OSError:
            return []

    def link(self, absolute: str) -> str | None:
        """Return the last part of what a symbolic link points to, or None if there is none."""
        try:
            return os.path.basename(os.readlink(self.path(absolute)))
        except OSError:
            return None

    def exists(self, absolute: str) -> bool:
        """Whether a path is there."""
        return self.path(absolute).exists()

    def may_use(self, absolute: str) -> bool:
        """Whether this user may read and write a file."""
        return os.access(self.path(absolute), os.R_OK | os.W_OK)
