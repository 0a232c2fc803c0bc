# SPDX-License-Identifier: Apache-2.0
"""The folder that keeps what guests are made of: entries that are either whole or not there."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cache:
    """Folders by name. Each is made in a temporary folder first, and moved when it is complete.

    Args:
        folder: where the entries are.
    """

    folder: Path

    @classmethod
    def of_user(cls) -> Cache:
        """Return the cache at `I2O_VM_CACHE`, else the one in the user's cache folder."""
        if named := os.environ.get("I2O_VM_CACHE"):
            return cls(Path(named).absolute())
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
        return cls(base / "i2o" / "vm")

    def find(self, name: str) -> Path | None:
        """Return the entry, or none if it was never completed."""
        path = self.folder / name
        return path if path.is_dir() else None

    def provide(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the entry; if it is missing, make it.

        Args:
            name: of the entry.
            make: fills the empty folder that it is given.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock(name):
            if found := self.find(name):
                return found
            for left in self.folder.glob(f".{name}.new-*"):  # by a run that was interrupted
                shutil.rmtree(left, ignore_errors=True)
            new = Path(tempfile.mkdtemp(prefix=f".{name}.new-", dir=self.folder))
            try:
                make(new)
                new.chmod(0o755)
                return new.rename(self.folder / name)
            finally:
                shutil.rmtree(new, ignore_errors=True)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with (self.folder / f".{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
