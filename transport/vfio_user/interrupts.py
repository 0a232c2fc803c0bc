# SPDX-License-Identifier: Apache-2.0
"""The interrupts of a PCI device: INTx, MSI and MSI-X, as a client's event descriptors.

The device has one interrupt condition a vector. With MSI-X or MSI every rise of it is one signal.
INTx follows the level: it masks itself when it is signalled, and an unmask while the level is
still high signals again. Descriptors that are no eventfd are refused, since writing to them could
block.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from typing import Final

from i2o.transport.vfio_user.errors import Refused
from i2o.transport.vfio_user.messages import IrqIndex, IrqInfoFlags, IrqSetFlags

_ONE: Final = (1).to_bytes(8, "little")
_DATA: Final = IrqSetFlags.DATA_NONE | IrqSetFlags.DATA_BOOL | IrqSetFlags.DATA_EVENTFD
_ACTION: Final = IrqSetFlags.ACTION_MASK | IrqSetFlags.ACTION_UNMASK | IrqSetFlags.ACTION_TRIGGER


class _Vector:
    """One interrupt: where it is signalled, and whether it is held back."""

    __slots__ = ("descriptor", "is_asserted", "is_masked", "is_pending")

    def __init__(self) -> None:
        self.descriptor: int | None = None
        self.is_asserted = False  # INTx: signalled, and the client has not let go of it yet
        self.is_masked = False
        self.is_pending = False

    def connect(self, descriptor: int | None) -> None:
        """Take another descriptor, or none."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = descriptor
        self.is_asserted = self.is_masked = self.is_pending = False

    def signal(self) -> bool:
        """Signal once; return whether somebody could be told."""
        if self.descriptor is None:
            return False
        with contextlib.suppress(OSError):  # a full counter has been signalled already
            os.set_blocking(self.descriptor, False)  # the client shares this flag and may clear it
            os.write(self.descriptor, _ONE)
        return True


class Interrupts:
    """All interrupts of one device.

    Args:
        msi: vectors of MSI.
        msix: vectors of MSI-X.

    Attributes:
        signals: how many signals were given, for tests and figures.
    """

    def __init__(self, msi: int = 1, msix: int = 0) -> None:
        counts = {IrqIndex.INTX: 1, IrqIndex.MSI: msi, IrqIndex.MSIX: msix}
        self._vectors = {
            index: [_Vector() for _ in range(counts.get(index, 0))] for index in IrqIndex
        }
        self._level = self._is_by_message = False
        self._intx = self._vectors[IrqIndex.INTX][0]
        self._is_intx_disabled = False
        self.signals = 0

    # --- what the device does ------------------------------------------------------------------

    @property
    def uses_messages(self) -> bool:
        """Whether the client has set MSI or MSI-X up."""
        return any(
            vector.descriptor is not None
            for index in (IrqIndex.MSIX, IrqIndex.MSI)
            for vector in self._vectors[index]
        )

    @property
    def is_pending(self) -> bool:
        """Bit 3 of the PCI status: the device asks, or the client's line is high still.

        A driver that shares its line looks here whether an interrupt is its own. One that was
        signalled and taken care of before the driver came to look is.
        """
        return self._level or self._intx.is_asserted

    def set_level(self, level: bool) -> None:
        """Raise or lower the interrupt. A rise is signalled; a level that stays is not."""
        rises = level and not self._level
        self._level = level
        if self._is_by_message:
            if rises:
                self.signal(0)
            return
        if level:
            self._signal_intx()

    def signal(self, vector: int) -> None:
        """Signal one MSI-X or MSI vector, once. A masked one is signalled when it is unmasked."""
        for index in (IrqIndex.MSIX, IrqIndex.MSI):
            vectors = self._vectors[index]
            if vector < len(vectors) and vectors[vector].descriptor is not None:
                if vectors[vector].is_masked:
                    vectors[vector].is_pending = True
                elif vectors[vector].signal():
                    self.signals += 1
                return

    def disable_intx(self, disabled: bool) -> None:
        """Follow the interrupt disable bit of the PCI command register."""
        self._is_intx_disabled = disabled
        if self._level and not self._is_by_message:
            self._signal_intx()

    # --- what the client says ------------------------------------------------------------------

    def info(self, index: int) -> tuple[int, int]:
        """Return flags and count of an interrupt type; raises Refused for one that is none."""
        vectors = self._of(index)
        flags = IrqInfoFlags.EVENTFD
        if index == IrqIndex.INTX:
            flags |= IrqInfoFlags.MASKABLE | IrqInfoFlags.AUTOMASKED
        elif index in (IrqIndex.MSI, IrqIndex.MSIX):
            flags |= IrqInfoFlags.NORESIZE
        return int(flags), len(vectors)

    def set(
        self,
        index: int,
        start: int,
        count: int,
        flags: int,
        switches: bytes,
        descriptors: Sequence[int],
    ) -> None:
        """Do what DEVICE_SET_IRQS asks for.

        Args:
            index: the type.
            start: first vector.
            count: vectors; 0 with no data disables the type.
            flags: `IrqSetFlags`, one for the data and one for the action.
            switches: a byte a vector, with DATA_BOOL.
            descriptors: the descriptors that came along. They stay the caller's.

        Raises:
            Refused: a combination that makes no sense.
        """
        vectors = self._of(index)
        data, action = flags & _DATA, flags & _ACTION
        if data.bit_count() != 1 or action.bit_count() != 1 or flags & ~int(_DATA | _ACTION):
            raise Refused(errno.EINVAL, f"interrupt flags {flags:#x}")
        if start + count > len(vectors):
            raise Refused(errno.EINVAL, f"vectors {start} to {start + count - 1} of {len(vectors)}")
        if data == IrqSetFlags.DATA_EVENTFD:
            self._connect(vectors[start : start + count], action, descriptors)
            self._is_by_message = self.uses_messages
            if self._level and descriptors:  # it was high before anybody listened
                if self._is_by_message:
                    self.signal(0)
                else:
                    self._signal_intx()
            return
        if not count:
            if action != IrqSetFlags.ACTION_TRIGGER or data != IrqSetFlags.DATA_NONE or start:
                raise Refused(errno.EINVAL, "an interrupt command for no vector")
            for vector in vectors:
                vector.connect(None)
            self._is_by_message = self.uses_messages
            if self._level and not self._is_by_message:  # told by message; now by the line again
                self._signal_intx()
            return
        if data == IrqSetFlags.DATA_BOOL and len(switches) < count:
            raise Refused(errno.EINVAL, f"{len(switches)} switches for {count} vectors")
        for number in range(start, start + count):
            if data == IrqSetFlags.DATA_NONE or switches[number - start]:
                self._act(index, vectors[number], action)

    def disconnect(self) -> None:
        """Close every descriptor: the client is gone."""
        for vectors in self._vectors.values():
            for vector in vectors:
                vector.connect(None)
        self._is_by_message = False

    # -------------------------------------------------------------------------------------------

    def _of(self, index: int) -> list[_Vector]:
        try:
            return self._vectors[IrqIndex(index)]
        except ValueError:
            raise Refused(errno.EINVAL, f"no interrupt type {index}") from None

    def _connect(self, vectors: Sequence[_Vector], action: int, descriptors: Sequence[int]) -> None:
        if action != IrqSetFlags.ACTION_TRIGGER:
            raise Refused(errno.EINVAL, "only a trigger takes descriptors")
        if not descriptors:
            for vector in vectors:
                vector.connect(None)
            return
        if len(descriptors) != len(vectors):
            raise Refused(errno.EINVAL, f"{len(descriptors)} descriptors, {len(vectors)} vectors")
        for descriptor in descriptors:
            if not _is_eventfd(descriptor):
                raise Refused(errno.EINVAL, "an interrupt's descriptor must be an eventfd")
        for vector, descriptor in zip(vectors, descriptors, strict=True):
            vector.connect(os.dup(descriptor))

    def _act(self, index: int, vector: _Vector, action: int) -> None:
        if action == IrqSetFlags.ACTION_MASK:
            vector.is_masked = True
        elif action == IrqSetFlags.ACTION_TRIGGER:
            vector.signal()
        else:
            vector.is_asserted = vector.is_masked = False
            if index == IrqIndex.INTX:
                if self._level:
                    self._signal_intx()
            elif vector.is_pending:
                vector.is_pending = False
                vector.signal()

    def _signal_intx(self) -> None:
        vector = self._intx
        if not self._is_intx_disabled and not vector.is_masked and vector.signal():
            vector.is_asserted = vector.is_masked = True  # until the client unmasks it
            self.signals += 1


def _is_eventfd(descriptor: int) -> bool:
    return os.readlink(f"/proc/self/fd/{descriptor}").startswith("anon_inode:[eventfd")
