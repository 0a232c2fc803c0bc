# SPDX-License-Identifier: Apache-2.0
"""What disks of every class have in common: blocks, a medium, and what is done to them by hand."""

from __future__ import annotations

from abc import abstractmethod

from i2o.iop_emulator.block_store import BlockStore
from i2o.iop_emulator.ddm.base import Ddm


class Disk(Ddm):
    """A device that keeps blocks in a `BlockStore`.

    Attributes:
        store: its blocks.
    """

    store: BlockStore

    @property
    def identity_tag(self) -> bytes:
        """The serial number's last 8 characters."""
        return self.serial.encode("ascii", "replace")[-8:].ljust(8)

    @property
    @abstractmethod
    def is_removable(self) -> bool:
        """Whether the medium can be taken out."""

    @property
    @abstractmethod
    def is_loaded(self) -> bool:
        """Whether a medium is in."""

    @property
    @abstractmethod
    def is_locked(self) -> bool:
        """Whether the host wants the medium to stay in."""

    @property
    @abstractmethod
    def is_changed(self) -> bool:
        """Whether there is another medium, which the host has not taken note of yet."""

    @abstractmethod
    def put_in(self, store: BlockStore) -> None:
        """Have other blocks from now on, of another medium."""

    @abstractmethod
    def resized(self) -> None:
        """Take note that the blocks have become more or fewer."""

    @abstractmethod
    def unlock(self) -> None:
        """Let the medium out, whatever the host wants."""

    @abstractmethod
    def load(self, is_loaded: bool = True) -> None:
        """Load the medium if there is one, or unload it."""

    @abstractmethod
    def require_note(self, is_changed: bool) -> None:
        """Have the host take note of another medium before anything else, or end that."""

    @abstractmethod
    def ask_for_medium(self) -> None:
        """Take note that somebody wants the medium, which is locked in."""
