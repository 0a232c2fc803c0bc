# SPDX-License-Identifier: Apache-2.0
"""The guests of one test, which end with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from vm.cache import Cache
from vm.errors import NotPrepared
from vm.guest import Guest, Machine
from vm.initramfs import Job
from vm.inventory import QEMU
from vm.outcome import Outcome
from vm.parts import Extras, Kernel

PLAIN = Machine()


class Guests(ExitStack):
    """Starts guests. A test that needs one that is not prepared is skipped, and says so.

    Args:
        cache: has what guests are made of.
        folder: takes what they leave.
    """

    def __init__(self, cache: Cache, folder: Path) -> None:
        super().__init__()
        self._cache = cache
        self._folder = folder
        self._count = 0

    def boot(
        self, kernel: Kernel, job: Job, machine: Machine = PLAIN, *, deadline_s: float = 180
    ) -> Outcome:
        """Start a guest, wait for the end of its job, and return what it left.

        Raises:
            GuestFailed: the job's exit status is not 0, or it did not come to its end.
        """
        return self.start(kernel, job, machine).wait(deadline_s).checked()

    def qemu(self) -> list[str]:
        """Return the words that start QEMU."""
        with skipping():
            return QEMU.command(self._cache)

    def extras(self, part: Extras) -> dict[str, bytes | Path]:
        """Return libraries and programs as files for a job."""
        with skipping():
            return part.files(self._cache)

    def start(self, kernel: Kernel, job: Job, machine: Machine = PLAIN) -> Guest:
        """Start a guest and return at once."""
        self._count += 1
        folder = self._folder / f"guest-{self._count}"
        folder.mkdir()
        with skipping():
            return self.enter_context(closing(Guest(self._cache, kernel, job, machine, folder)))


@contextmanager
def skipping() -> Iterator[None]:
    """Skip the test if a part that it needs is not prepared."""
    try:
        yield
    except NotPrepared as missing:
        pytest.skip(str(missing))
