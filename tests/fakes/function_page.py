# SPDX-License-Identifier: Apache-2.0
"""Reads docs/functions.md, so that tests can hold the emulator against it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fakes.iop_rig import Reply
from i2o.frames.block_storage import BsaDetailedStatus
from i2o.frames.functions import Function
from i2o.frames.header import DetailedStatus, FailureCode, MsgFlags, ReqStatus
from i2o.frames.scsi import ScsiDetailedStatus

PAGE = Path(__file__).resolve().parents[2] / "docs" / "functions.md"
_ROW = re.compile(r"^\| (0x[0-9A-F]{2}) \| (\w+) \| (.+?) \| (.+?) \| `(\w+)` \|$")
_BSA = frozenset(f.value for name, f in Function.__members__.items() if name.startswith("BSA_"))
_SCSI = frozenset(
    f.value
    for name, f in Function.__members__.items()
    if name.startswith(("HBA_", "SCSI_SCB_", "DPT_PRIVATE_SCSI_"))
)


class Row(NamedTuple):
    """One function as the page has it."""

    code: int
    name: str
    answer: str
    refusals: frozenset[str]
    test: str


@cache
def rows() -> dict[str, Row]:
    """Return the rows by the name of their test."""
    found = {}
    for line in PAGE.read_text().splitlines():
        match = _ROW.match(line)
        if match:
            code, name, answer, refusals, test = match.groups()
            codes = frozenset(re.findall(r"`([^`]+)`", refusals))
            found[test] = Row(int(code, 16), name, answer, codes, test)
    return found


class Outcomes:
    """Collects how an IOP said no.

    Attributes:
        seen: names of the refusals: a detailed status, or `FAIL` and a failure code.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def refused(self, reply: Reply) -> Reply:
        """Note a reply that must be a refusal."""
        if reply.flags & MsgFlags.FAIL:
            self.seen.add(f"FAIL {FailureCode(reply.data[19]).name}")
            return reply
        req_status, detail = reply.status
        assert req_status != ReqStatus.SUCCESS, "a refusal was expected"
        if reply.data[7] == Function.EXEC_CONN_SETUP:  # its status is one byte, with no detail
            self.seen.add(ReqStatus(req_status).name)
            return reply
        function = reply.data[7]
        codes = BsaDetailedStatus if function in _BSA else DetailedStatus
        if req_status == ReqStatus.TRANSACTION_ERROR:
            self.seen.add("TRANSACTION_ERROR")
        elif function in _SCSI:
            adapter, _, device = ScsiDetailedStatus(detail).name.partition("|")
            self.seen.add(device if adapter == "SUCCESS" else adapter)
        else:
            self.seen.add(codes(detail).name)
        return reply
