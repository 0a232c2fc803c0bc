# SPDX-License-Identifier: Apache-2.0
"""Changes of an IOP's device table: devices that came, went, or changed.

One LctNotify waits at the IOP for the next change indicator. Its answer only says that something
changed: the tables are read again then, so that everybody has them. Some firmware answers at once,
again and again; after a few answers without a change it is asked less often.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from i2o.closing import Closing
from i2o.errors import I2OError, InvalidArgument, IopDead, RequestFailed
from i2o.frames.executive import EXEC_LCT_NOTIFY
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import LCT_ENTRY, LCT_HEADER_SIZE
from i2o.message_layer import MessageLayer
from i2o.recovery import abort_of, ended_early
from i2o.replies import raise_for_status
from i2o.requester import Pending, Requester
from i2o.resources import Lct, LctEntry
from i2o.transport.host_memory import HostMemory

logger = logging.getLogger(__name__)

PATIENCE: Final = 3
"""Answers without a change in a row before the pauses begin."""
PAUSE_S: Final = 1.0
_CLOSE_S: Final = 1.0
_FOR_EVER_S: Final = 1e6
_ALL_CLASSES: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class LctChange:
    """The difference of two device tables.

    Attributes:
        added: devices that are new.
        removed: devices that are gone, as they were.
        changed: devices whose entry is another one, as it is now. Its user does not count.
        lct: the new table.
    """

    added: tuple[LctEntry, ...]
    removed: tuple[LctEntry, ...]
    changed: tuple[LctEntry, ...]
    lct: Lct


def difference(before: Lct, now: Lct) -> LctChange | None:
    """Return what changed between two tables, or None if nothing did.

    A TID that another device has now counts as one removed and one added.
    """
    old = {entry.tid: entry for entry in before.devices}
    new = {entry.tid: entry for entry in now.devices}
    swapped = {tid for tid in old.keys() & new.keys() if _identity(old[tid]) != _identity(new[tid])}
    change = LctChange(
        added=tuple(new[tid] for tid in new if tid not in old or tid in swapped),
        removed=tuple(old[tid] for tid in old if tid not in new or tid in swapped),
        changed=tuple(
            entry
            for tid, entry in new.items()
            if tid in old and tid not in swapped and _is_changed(old[tid], entry)
        ),
        lct=now,
    )
    return change if change.added or change.removed or change.changed else None


def _identity(entry: LctEntry) -> tuple[object, ...]:
    return entry.class_id, entry.sub_class, entry.identity_tag


def _is_changed(before: LctEntry, now: LctEntry) -> bool:
    return replace(before, user_tid=now.user_tid) != now


class LctWatch(Closing):
    """Changes as they come; made by `i2o.Iop.lct_changes`, for one thread at a time.

    Iterating waits for the next change, and ends when the IOP is gone or the watch was closed.
    While it waits, and whoever reads the tables, `i2o.Iop.lct` is current.

    Args:
        layer: the message layer.
        iop: IOP number.
        memory: where the buffer of the LctNotify comes from.
        timeout_s: how long iterating waits for the next change; None for ever.

    Attributes:
        useless: answers in a row that came without a change.
        ended: why no more changes will come, or an empty string.
    """

    def __init__(
        self, layer: MessageLayer, iop: int, memory: HostMemory, *, timeout_s: float | None = None
    ) -> None:
        self._layer, self._iop, self._memory = layer, iop, memory
        self.timeout_s = timeout_s
        self._known = layer.result(iop).lct
        self._requester = Requester(layer, iop)
        self._pending: Pending | None = None
        self._not_before = layer.clock.monotonic()
        self.useless = 0
        self.ended = ""

    def take(self, timeout_s: float | None = None) -> LctChange | None:
        """Return the next change, or None if none comes in time or none will come any more.

        Args:
            timeout_s: seconds; None waits until the watch ends.

        Raises:
            RequestFailed: the IOP refuses LctNotify.
            IopDead, RequestTimeout: it does not answer any more; the next call asks again.
            RemoteFrameError: its tables contradict themselves.
        """
        clock = self._layer.clock
        deadline = clock.monotonic() + (_FOR_EVER_S if timeout_s is None else max(0.0, timeout_s))
        while not self.ended:
            change = self._look()
            if change is not None:
                return change
            left = deadline - clock.monotonic()
            is_news = self._wait(max(0.0, left))
            if not is_news and left <= 0 and timeout_s is not None:
                break
        return None

    def __iter__(self) -> Iterator[LctChange]:
        """Yield changes until none comes within `timeout_s`, or the watch ends."""
        while (change := self.take(self.timeout_s)) is not None:
            yield change

    def close(self) -> None:
        """Take the LctNotify back from the IOP."""
        self.ended = self.ended or "the watch was closed"
        pending, self._pending = self._pending, None
        try:
            if pending is not None and not pending.is_done() and self._layer.iop_valid(self._iop):
                self._take_back(pending)
        finally:
            if pending is not None:
                pending.release()
            self._requester.close()

    # -------------------------------------------------------------------------------------------

    def _look(self) -> LctChange | None:
        """Compare the table with the one that was known; somebody else may have read it."""
        self.ended = self.ended or self._layer.why_gone(self._iop)
        if self.ended:
            return None
        now = self._layer.result(self._iop).lct
        before, self._known = self._known, now
        change = None if before is now else difference(before, now)
        if change is not None:
            self.useless = 0
        return change

    def _has_news(self) -> bool:
        return bool(
            self.ended
            or self._layer.why_gone(self._iop)
            or self._layer.result(self._iop).lct is not self._known
        )

    def _wait(self, timeout_s: float) -> bool:
        """Wait for the answer to the LctNotify, or for other news; return whether there are."""
        pause = self._not_before - self._layer.clock.monotonic()
        if pause > 0:
            return self._layer.run_until(self._has_news, min(timeout_s, pause))
        if not self._layer.iop_valid(self._iop):  # it is reset, or waits for somebody to do that
            return self._layer.run_until(
                lambda: self._has_news() or self._layer.iop_valid(self._iop), timeout_s
            )
        try:
            return self._ask_and_read(timeout_s)
        except RequestFailed as error:
            if error.req_status is None and self._has_lost_its_state():
                return False  # whoever looks after it brings it up again
            raise
        except I2OError:
            if self._layer.iop_valid(self._iop):
                raise
            return False  # gone, or being reset

    def _has_lost_its_state(self) -> bool:
        """Look at an IOP that does not deliver an LctNotify: it fails, or is none of ours now."""
        with contextlib.suppress(IopDead, InvalidArgument):
            self._layer.check(self._iop)
        return not self._layer.iop_valid(self._iop)

    def _ask_and_read(self, timeout_s: float) -> bool:
        pending = self._pending
        if pending is None:
            pending = self._pending = self._ask()
        if not self._layer.run_until(lambda: pending.is_done() or self._has_news(), timeout_s):
            return False
        if pending.reply is None or self._pending is not pending:  # other news, or closed
            return True
        self._pending = None
        pending.release()
        self.useless += 1
        if self.useless >= PATIENCE:
            self._not_before = self._layer.clock.monotonic() + PAUSE_S
        if not ended_early(pending.reply):
            raise_for_status(pending.reply, "LctNotify")
            self._layer.refresh(self._iop)
        return True

    def _ask(self) -> Pending:
        """Send an LctNotify for the next change. Its buffer takes no more than the beginning."""
        size = LCT_HEADER_SIZE + LCT_ENTRY.size
        buffer = self._memory.allocate(size)
        sgl = simple_sgl([(buffer.bus_address, size)], out=False)
        message = EXEC_LCT_NOTIFY.build(
            message_size=(EXEC_LCT_NOTIFY.size + len(sgl)) // 4,
            class_identifier=_ALL_CLASSES,
            last_reported_change_indicator=self._known.change_indicator + 1 & 0xFFFF_FFFF,
        )
        return self._requester.start(message + sgl, buffers=(buffer,))

    def _take_back(self, pending: Pending) -> None:
        try:
            self._requester.wait_for(self._requester.start(abort_of(pending)), _CLOSE_S)
        except I2OError as error:
            logger.info("IOP %d: an LctNotify stays: %s", self._iop, error)
