# SPDX-License-Identifier: Apache-2.0
"""The mode pages of a disk: caching, control, informational exceptions.

One bit can be changed: the write cache (WCE). Everything is as after power-on when the unit is
reset; nothing is saved.
"""

from __future__ import annotations

from typing import Final

from i2o.frames.scsi_command import ModePage, SenseKey
from i2o.iop_emulator.scsi.sense import AdditionalSense, CheckCondition, Sense, illegal
from i2o.iop_emulator.scsi.sense import illegal_parameter as bad_parameter

_CURRENT, _CHANGEABLE, _DEFAULT, _SAVED = range(4)
_WCE: Final = 0x04
_SIZES: Final = {
    ModePage.CACHING.value: 0x12,
    ModePage.CONTROL.value: 0x0A,
    ModePage.INFORMATIONAL_EXCEPTIONS.value: 0x0A,
}
"""PageLength of each page."""
_UNRESTRICTED: Final = 0x10  # QUEUE ALGORITHM MODIFIER: commands may be reordered
_DEXCPT: Final = 0x08  # nothing is predicted, and nothing reported
_ALL_SUBPAGES: Final = 0xFF
_WRITE_PROTECT: Final = 0x80
_DPO_FUA: Final = 0x10
_SHORT_DESCRIPTOR: Final = 8
_LONG_DESCRIPTOR: Final = 16


class ModePages:
    """The mode pages of one unit.

    Attributes:
        has_write_cache: WCE: a write may be answered before it is durable.
    """

    def __init__(self) -> None:
        self.has_write_cache = True

    def reset(self) -> None:
        """Go back to how they are after power-on."""
        self.has_write_cache = True

    # --- sensing ---------------------------------------------------------------------------------

    def sense(
        self, cdb: bytes, *, header_size: int, blocks: int, block_size: int, read_only: bool
    ) -> bytes:
        """Return everything that MODE SENSE returns.

        Args:
            cdb: the CDB.
            header_size: 4 for MODE SENSE (6), 8 for MODE SENSE (10).
            blocks: blocks of the medium.
            block_size: bytes of each.
            read_only: the medium refuses writes.
        """
        control, code, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
        if control == _SAVED:
            raise illegal(2, 7, code=AdditionalSense.SAVING_PARAMETERS_NOT_SUPPORTED)
        codes = sorted(_SIZES) if code == ModePage.ALL_PAGES else [code]
        if code not in _SIZES and code != ModePage.ALL_PAGES:
            raise illegal(2, 5)
        if subpage and not (subpage == _ALL_SUBPAGES and code == ModePage.ALL_PAGES):
            raise illegal(3)
        is_long = header_size != 4 and bool(cdb[1] & 0x10)
        descriptor = b"" if cdb[1] & 0x08 else _descriptor(blocks, block_size, is_long=is_long)
        pages = b"".join(self._page(number, control) for number in codes)
        device = _DPO_FUA | (_WRITE_PROTECT if read_only else 0)
        if header_size == 4:
            length = header_size - 1 + len(descriptor) + len(pages)
            head = bytes((length, 0, device, len(descriptor)))
        else:
            length = header_size - 2 + len(descriptor) + len(pages)
            head = length.to_bytes(2, "big") + bytes((0, device, is_long, 0))
            head += len(descriptor).to_bytes(2, "big")
        return head + descriptor + pages

    def _page(self, code: int, control: int) -> bytes:
        body = bytearray(_SIZES[code])
        if code == ModePage.CACHING:
            is_set = self.has_write_cache if control == _CURRENT else True
            body[0] = _WCE if is_set else 0
        elif control == _CHANGEABLE:
            pass
        elif code == ModePage.CONTROL:
            body[1] = _UNRESTRICTED
        else:
            body[0] = _DEXCPT
        return bytes((code, len(body))) + bytes(body)

    # --- selecting -------------------------------------------------------------------------------

    def select(self, data: bytes, *, header_size: int) -> None:
        """Take the parameter list of MODE SELECT; all of it is checked before anything changes."""
        if not data:
            return
        if len(data) < header_size:
            raise _too_short()
        length_size = header_size // 4
        place = header_size + int.from_bytes(data[header_size - length_size : header_size], "big")
        if place - header_size not in (0, _SHORT_DESCRIPTOR, _LONG_DESCRIPTOR):
            raise bad_parameter(header_size - length_size)
        has_write_cache = self.has_write_cache
        while place < len(data):
            code = data[place] & 0x3F
            size = 2 + _SIZES.get(code, 0)
            if size == 2 or data[place] & 0x40:
                raise bad_parameter(place)
            if len(data) < place + size:
                raise _too_short()
            if data[place + 1] != size - 2:
                raise bad_parameter(place + 1)
            given, now = data[place + 2 : place + size], self._page(code, _CURRENT)[2:]
            for index, (wanted, present) in enumerate(zip(given, now, strict=True)):
                mask = _WCE if code == ModePage.CACHING and not index else 0
                if (wanted ^ present) & ~mask & 0xFF:
                    raise bad_parameter(place + 2 + index)
            if code == ModePage.CACHING:
                has_write_cache = bool(given[0] & _WCE)
            place += size
        self.has_write_cache = has_write_cache


def _descriptor(blocks: int, block_size: int, *, is_long: bool) -> bytes:
    if is_long:
        return blocks.to_bytes(8, "big") + bytes(4) + block_size.to_bytes(4, "big")
    return (
        bytes(1)
        + min(blocks, 0xFFFFFF).to_bytes(3, "big")
        + bytes(1)
        + block_size.to_bytes(3, "big")
    )


def _too_short() -> CheckCondition:
    return CheckCondition(
        Sense(SenseKey.ILLEGAL_REQUEST, AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    )
