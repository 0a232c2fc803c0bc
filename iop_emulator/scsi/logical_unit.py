# SPDX-License-Identifier: Apache-2.0
"""A SCSI logical unit without a medium: what every unit answers, unit attentions and sense data.

It is also all that the board of a DPT card is: somebody who says what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from i2o.frames.scsi_command import MAX_CDB, ScsiOpcode, SenseKey, VpdPage, cdb_size
from i2o.iop_emulator.scsi.command import CHECK_CONDITION, Command, Outcome
from i2o.iop_emulator.scsi.inquiry import (
    NO_SUCH_UNIT,
    Identity,
    device_identification,
    serial_number,
    standard_inquiry,
    vpd_page,
)
from i2o.iop_emulator.scsi.sense import AdditionalSense, CheckCondition, Sense, illegal

Handler = Callable[[Command], Outcome]

_CONTROL_NACA: Final = 2  # bit of the control byte
_CONTROL_LINK: Final = 0
_LUN_BIT: Final = 7
_SERVED_ANYWAY: Final = frozenset(
    (ScsiOpcode.INQUIRY, ScsiOpcode.REQUEST_SENSE, ScsiOpcode.REPORT_LUNS)
)
"""Commands that a unit attention does not keep from being done."""
_SELECT_WELL_KNOWN: Final = 1
_LAST_SELECT: Final = 2
_LUN_LIST_HEADER: Final = 8


class LogicalUnit:
    """One logical unit.

    Args:
        identity: who it says that it is.
        serial: its serial number.
        lun: its number, behind its target.

    Attributes:
        commands: what serves each opcode.
    """

    def __init__(self, identity: Identity, *, serial: str = "", lun: int = 0) -> None:
        self.identity, self.serial, self.lun = identity, serial, lun
        self.commands: dict[int, Handler] = {
            ScsiOpcode.TEST_UNIT_READY: self._test_unit_ready,
            ScsiOpcode.REQUEST_SENSE: self._request_sense,
            ScsiOpcode.INQUIRY: self._inquiry,
            ScsiOpcode.REPORT_LUNS: self._report_luns,
        }
        self._attentions: list[AdditionalSense] = [AdditionalSense.POWER_ON_OCCURRED]
        self._kept: Sense | None = None

    # --- what happens to it ----------------------------------------------------------------------

    def attend(self, code: AdditionalSense) -> None:
        """Have the initiator told of something that happened, once, instead of a command."""
        if code not in self._attentions:
            self._attentions.append(code)

    def reset(self, code: AdditionalSense) -> None:
        """Go back to how it started, and have the initiator told."""
        self._kept = None
        self._attentions = [code]

    # --- commands --------------------------------------------------------------------------------

    def execute(self, command: Command, *, autosense: bool) -> Outcome:
        """Do a command.

        Args:
            command: the command, with a CDB that is as long as its opcode says.
            autosense: sense data are taken now. Otherwise the next REQUEST SENSE gives them.
        """
        kept, self._kept = self._kept, None
        opcode = command.cdb[0]
        if opcode == ScsiOpcode.REQUEST_SENSE:
            self._kept = kept
        try:
            return self._serve(opcode, command)
        except CheckCondition as condition:
            self._kept = None if autosense else condition.sense
            return Outcome(CHECK_CONDITION, condition.done, sense=condition.sense.fixed())

    def _serve(self, opcode: int, command: Command) -> Outcome:
        is_here = self._addresses_this(command.cdb)
        if opcode == ScsiOpcode.INQUIRY and not is_here:
            data = bytes((NO_SUCH_UNIT,)) + standard_inquiry(self.identity)[1:]
            return command.give(data, command.number(3, 2))
        if not is_here:
            raise illegal(1, _LUN_BIT, code=AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED)
        if self._attentions and opcode not in _SERVED_ANYWAY:
            raise CheckCondition(Sense(SenseKey.UNIT_ATTENTION, self._attentions.pop(0)))
        handler = self.commands.get(opcode)
        if handler is None:
            raise illegal(0, code=AdditionalSense.INVALID_OPERATION_CODE)
        last = cdb_size(opcode) - 1
        for bit in (_CONTROL_NACA, _CONTROL_LINK):
            if command.cdb[last] >> bit & 1:
                raise illegal(last, bit)
        return handler(command)

    def _addresses_this(self, cdb: bytes) -> bool:
        """Whether the LUN in byte 1, where CDBs of up to 12 bytes had one, is this one or none."""
        return cdb_size(cdb[0]) == MAX_CDB or cdb[1] >> 5 in (0, self.lun)

    def obstacle(self) -> Sense | None:
        """Return why the unit is not ready, None if it is."""
        return None

    def _test_unit_ready(self, command: Command) -> Outcome:
        self.require_ready()
        return Outcome()

    def require_ready(self) -> None:
        """Refuse a command that needs the unit to be ready, if it is not."""
        obstacle = self.obstacle()
        if obstacle is not None:
            raise CheckCondition(obstacle)

    def _request_sense(self, command: Command) -> Outcome:
        """Give the sense data that nobody took yet, or what there is to tell."""
        if command.cdb[1] & 1:  # descriptor format
            raise illegal(1, 0)
        sense, self._kept = self._kept, None
        if sense is None and self._attentions:
            sense = Sense(SenseKey.UNIT_ATTENTION, self._attentions.pop(0))
        if sense is None:
            sense = self.obstacle() or Sense(SenseKey.NO_SENSE)
        return command.give(sense.fixed(), command.cdb[4])

    def _report_luns(self, command: Command) -> Outcome:
        select = command.cdb[2]
        if select > _LAST_SELECT:
            raise illegal(2)
        allocation = command.number(6, 4)
        if allocation < 2 * _LUN_LIST_HEADER:
            raise illegal(6)
        luns = b"" if select == _SELECT_WELL_KNOWN else bytes((0, self.lun)) + bytes(6)
        return command.give(len(luns).to_bytes(4, "big") + bytes(4) + luns, allocation)

    # --- who it is -------------------------------------------------------------------------------

    def _inquiry(self, command: Command) -> Outcome:
        wants_page, page, allocation = command.cdb[1] & 1, command.cdb[2], command.number(3, 2)
        if not wants_page:
            if page:
                raise illegal(2)
            return command.give(standard_inquiry(self.identity), allocation)
        pages = self.vpd_pages()
        if page == VpdPage.SUPPORTED_PAGES:
            body: bytes | None = bytes(sorted((VpdPage.SUPPORTED_PAGES, *pages)))
        else:
            body = pages.get(page)
        if body is None:
            raise illegal(2)
        return command.give(vpd_page(self.identity, page, body), allocation)

    def vpd_pages(self) -> dict[int, bytes]:
        """Return the vital product data by page, without the page's header."""
        return {
            VpdPage.UNIT_SERIAL_NUMBER: serial_number(self.serial),
            VpdPage.DEVICE_IDENTIFICATION: device_identification(self.identity, self.serial),
        }
