# SPDX-License-Identifier: Apache-2.0
"""Sense data as a program uses them: what kind of reason, which, and the block concerned."""

from __future__ import annotations

from typing import Final, NamedTuple

from i2o.decode import scsi
from i2o.frames.scsi_command import SenseKey

_FIXED: Final = (0x70, 0x71)
_DESCRIPTORS: Final = (0x72, 0x73)
_FIXED_HEAD: Final = 14
_DESCRIPTOR_HEAD: Final = 8
_INFORMATION: Final = 0x00
_VALID: Final = 0x80


class Sense(NamedTuple):
    """Why a SCSI command could not be done.

    Attributes:
        key: what kind of reason; see `SenseKey`.
        code: additional sense code.
        qualifier: its qualifier.
        information: what the code says it is, mostly a block number; None if not given.
        raw: the sense data.
    """

    key: int
    code: int
    qualifier: int
    information: int | None
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Sense | None:
        """Read sense data of the fixed or the descriptor format; None if they are neither."""
        kind = raw[0] & 0x7F if raw else 0
        if kind in _FIXED and len(raw) >= _FIXED_HEAD:
            information = int.from_bytes(raw[3:7], "big") if raw[0] & _VALID else None
            return cls(raw[2] & 0xF, raw[12], raw[13], information, raw)
        if kind in _DESCRIPTORS and len(raw) >= _DESCRIPTOR_HEAD:
            return cls(raw[1] & 0xF, raw[2], raw[3], _descriptor_information(raw), raw)
        return None

    @property
    def is_attention(self) -> bool:
        """Whether something happened before the command, which was not done."""
        return self.key == SenseKey.UNIT_ATTENTION

    @property
    def text(self) -> str:
        """The sense data in words, with the block concerned."""
        words = f"{scsi.SENSE_KEYS[self.key]}: "
        words += scsi.additional_sense_text(self.code, self.qualifier)
        if self.information is None:
            return words
        what = "block" if self.key in _ABOUT_BLOCKS else "information"
        return f"{words}, {what} {self.information}"


_ABOUT_BLOCKS: Final = frozenset(
    (SenseKey.MEDIUM_ERROR, SenseKey.RECOVERED_ERROR, SenseKey.MISCOMPARE)
)


def _descriptor_information(raw: bytes) -> int | None:
    place, end = _DESCRIPTOR_HEAD, min(len(raw), _DESCRIPTOR_HEAD + raw[7])
    while place + 12 <= end:
        if raw[place] == _INFORMATION and raw[place + 2] & _VALID:
            return int.from_bytes(raw[place + 4 : place + 12], "big")
        place += 2 + raw[place + 1]
    return None
