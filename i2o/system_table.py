# SPDX-License-Identifier: Apache-2.0
"""The system table: what every IOP is told of all of them.

An IOP gets the table at its bring-up, by SysTabSet. When it changes, because an IOP came, went,
died or was found in another state, those that are up get the new one by SysModify, which changes
nothing else. Nobody waits for their answers: what one IOP says to the news holds up no other. An
IOP that has not answered yet is told of the next change when it has.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Final

from i2o.errors import I2OError
from i2o.frames import executive, tables
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.iop_table import IopEntry
from i2o.message_frames import ReplyFrame
from i2o.replies import status_of
from i2o.requester import Requester, RequestLayer
from i2o.resources import IopStatus

_LOG: Final = logging.getLogger(__name__)


class SystemTable:
    """The table as it is now.

    Where an IOP's inbound port is, is not known to anything here: the entries leave it out.
    """

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, int]] = {}
        self._last_changed: dict[int, int] = {}
        self._indicator = 0
        self._data = b""
        self._told: dict[int, bytes] = {}  # what IOPs were sent and did not answer, by number
        self._lock = threading.Lock()

    def update(self, entries: Iterable[IopEntry], news: tuple[IopEntry, IopStatus] | None) -> bool:
        """Look at all IOPs again; return whether anything changed.

        Args:
            entries: those that are attached.
            news: one that is being brought up, and its status; the others are as last seen.
        """
        rows: dict[int, dict[str, int]] = {}
        for entry in entries:
            if news is not None and entry is news[0]:
                rows[entry.iop_id] = _row(entry, news[1], news[1].state)
            elif entry.result is not None:
                rows[entry.iop_id] = _row(entry, entry.result.status, _state(entry))
        if rows == self._rows:
            return False
        self._indicator += 1
        for iop_id, row in rows.items():
            if self._rows.get(iop_id) != row:
                self._last_changed[iop_id] = self._indicator
        self._rows = rows
        self._data = self._build()
        return True

    @property
    def data(self) -> bytes:
        """The table as IOPs are given it."""
        return self._data

    def _build(self) -> bytes:
        header: bytes = tables.SYSTAB_HEADER.build(
            number_entries=len(self._rows),
            sys_tab_version=1,
            current_change_indicator=self._indicator,
        )
        return header + b"".join(
            tables.SYSTAB_IOP_ENTRY.build(**row, last_changed=self._last_changed[iop_id])
            for iop_id, row in sorted(self._rows.items())
        )

    def send(self, layer: RequestLayer, entry: IopEntry) -> None:
        """Send the table to an IOP that is up, and leave it to the callback to clean up.

        What goes wrong is logged: the next change tells the IOP again.
        """
        with self._lock:
            if entry.number in self._told:
                return
            data = self._told[entry.number] = self._data
        try:
            table = entry.port.memory.allocate(len(data))
            table.view[:] = data
            table.to_device()
            sgl = simple_sgl(((table.bus_address, len(data)),), out=True)
            layout = executive.EXEC_SYS_MODIFY
            message = layout.build(message_size=(layout.size + len(sgl)) // 4) + sgl
            with Requester(layer, entry.number) as requester:
                pending = requester.start(
                    message,
                    buffers=(table,),
                    wait_us=0,
                    on_reply=lambda reply: self._answered(layer, entry, reply),
                )
                pending.release()
        except BaseException as error:
            self._told.pop(entry.number, None)
            if not isinstance(error, I2OError | OSError | MemoryError):
                raise
            _LOG.warning("IOP %d: not told of the new system table: %s", entry.number, error)

    def _answered(self, layer: RequestLayer, entry: IopEntry, reply: ReplyFrame) -> None:
        """Take note of an answer; tell the IOP what has changed since it was told."""
        data = self._told.pop(entry.number, b"")
        if reply.failed or status_of(reply).req_status:
            _LOG.info("IOP %d does not take a new system table while it is up", entry.number)
        if data != self._data and entry.online:
            self.send(layer, entry)


def _row(entry: IopEntry, status: IopStatus, state: int) -> dict[str, int]:
    return {
        "organization_id": status.organization_id,
        "iop_id": entry.iop_id,
        "segment_number": status.segment_number,
        "i2o_version": status.i2o_version,
        "iop_state": int(state),
        "messenger_type": status.messenger_type,
        "inbound_message_frame_size": status.inbound_frame_size // 4,
        "iop_capabilities": status.capabilities,
    }


def _state(entry: IopEntry) -> IopState:
    """Return the state of an IOP that was up once, as far as anybody knows."""
    if entry.is_dead:
        return IopState.FAULTED
    return IopState.OPERATIONAL if entry.online else IopState.FAILED
