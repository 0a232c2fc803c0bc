# SPDX-License-Identifier: Apache-2.0
"""A command on its way into a logical unit, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from i2o.frames.scsi import ScsiDeviceStatus
from i2o.iop_emulator.block_store import cut_views

GOOD = ScsiDeviceStatus.SUCCESS.value
CHECK_CONDITION = ScsiDeviceStatus.CHECK_CONDITION.value


class Command(NamedTuple):
    """One command.

    Attributes:
        cdb: what to do; as long as its opcode says.
        data_in: memory that takes what the unit returns.
        data_out: memory that has what the unit is given.
    """

    cdb: bytes
    data_in: Sequence[memoryview] = ()
    data_out: Sequence[memoryview] = ()

    def number(self, byte: int, size: int) -> int:
        """Return a big-endian number of the CDB."""
        return int.from_bytes(self.cdb[byte : byte + size], "big")

    def give(self, data: bytes, allocation: int) -> Outcome:
        """Return data to the initiator, no more than it allows.

        Args:
            data: all there is.
            allocation: the CDB's allocation length.
        """
        data = data[:allocation]
        place = 0
        for view in cut_views(self.data_in, len(data)):
            end = place + len(view)
            view[:] = data[place:end]
            place = end
        return Outcome(transferred=place, is_overrun=place < len(data))

    def take(self, count: int) -> bytes | None:
        """Return the first bytes that the initiator gives, None if it gives fewer."""
        data = b"".join(cut_views(self.data_out, count))
        return data if len(data) == count else None


class Outcome(NamedTuple):
    """What came of a command.

    Attributes:
        status: the SCSI status.
        transferred: bytes that were moved.
        is_overrun: the command moves more than there is memory for.
        sense: sense data, if the status is CHECK CONDITION.
    """

    status: int = GOOD
    transferred: int = 0
    is_overrun: bool = False
    sense: bytes = b""


OVERRUN = Outcome(is_overrun=True)
"""The outcome of a command that was given too little to begin."""
