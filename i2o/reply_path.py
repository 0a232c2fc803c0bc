# SPDX-License-Identifier: Apache-2.0
"""The way back: takes replies from IOPs to the callbacks they are for, and makes up missing ones.

Every frame goes home, whatever a callback does; every answered request gets exactly one final
callback. Callbacks run without locks held.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from i2o.cookies import Callback, CookieTable
from i2o.errors import InvalidArgument
from i2o.frames.header import (
    EMPTY_MFA,
    FAILURE_REPLY,
    HEADER_SIZE,
    FailureCode,
    FailureSeverity,
)
from i2o.iop_table import (
    EVENT_REGISTER,
    FAIL_FLAG,
    LAST_FLAG,
    REPLY_FLAG,
    SPECIAL,
    HeldReply,
    IopEntry,
    read_head,
)
from i2o.message_frames import ReplyFrame

logger = logging.getLogger(__name__)

_KIND, _FINAL = REPLY_FLAG | LAST_FLAG | FAIL_FLAG, REPLY_FLAG | LAST_FLAG


class ReplyPath:
    """The reply side of a message layer.

    Args:
        cookies: whose callback a reply is for.
    """

    def __init__(self, cookies: CookieTable) -> None:
        self._cookies = cookies
        self._dispatching: dict[int, IopEntry] = {}  # what each thread runs callbacks for

    def in_callback(self) -> bool:
        """Whether the caller is a callback, which counts as interrupt context."""
        return threading.get_ident() in self._dispatching

    def refuse_in_callback(self, what: str) -> None:
        """Raise InvalidArgument if the caller is a callback."""
        if threading.get_ident() in self._dispatching:
            raise InvalidArgument(f"a callback cannot {what}")

    def is_busy_elsewhere(self, entry: IopEntry) -> bool:
        """Whether another thread runs callbacks for an IOP."""
        own = threading.get_ident()
        busy = tuple(self._dispatching.items())
        return any(other is entry and ident != own for ident, other in busy)

    def drain(
        self,
        entry: IopEntry,
        budget: int,
        errors: list[Exception],
        enough: Callable[[], bool] | None = None,
    ) -> int:
        """Dispatch up to `budget` replies of one IOP; an empty port is read twice."""
        done = 0
        reap, lock, number = entry.port.reap, entry.lock, entry.number
        ident, dispatching = threading.get_ident(), self._dispatching
        outer = dispatching.get(ident)
        try:
            dispatching[ident] = entry
            while done < budget and not entry.is_dead:
                with lock:
                    mfa = reap()
                    if mfa == EMPTY_MFA:
                        mfa = reap()
                        if mfa == EMPTY_MFA:
                            break
                    reply, callback = self._accept(entry, mfa)
                done += 1
                if callback is None:
                    continue
                try:
                    callback(number, reply)
                except BaseException as error:
                    self._callback_raised(entry, reply, error, errors)
                if enough is not None and enough():
                    break
        finally:
            if outer is None:
                dispatching.pop(ident, None)
            else:
                dispatching[ident] = outer
        return done

    def _accept(self, entry: IopEntry, mfa: int) -> tuple[ReplyFrame, Callback | None]:
        """Copy a reply, find whose it is, and settle the books. The lock is held.

        A reply that nobody is going to free is sent home here, and has no callback.
        """
        size = entry.outbound_size
        if mfa not in entry.reply_frames:
            entry.counters.malformed += 1
            logger.warning("IOP %d: reply at %#010x, not one of our frames", entry.number, mfa)
            return ReplyFrame(), None
        view = entry.port.outbound(mfa, size)
        flags, words, key = read_head(view)
        if words << 2 < size:
            size = words << 2
        reply = ReplyFrame(view[:size])
        preserved = EMPTY_MFA
        if flags & _KIND == _FINAL and size >= HEADER_SIZE and key[3] not in SPECIAL:
            owed = entry.outstanding.pop(key, 0)
            if owed > 1:
                entry.outstanding[key] = owed - 1
            is_expected = owed > 0
            if not is_expected:
                self._note_unexpected(entry, reply)
        else:
            is_expected, preserved = self._accept_unusual(entry, reply, flags)
        held = (reply, mfa, preserved)
        callback = None
        if is_expected:
            entry.counters.replies += 1
            callback = self._cookies.find(key[4:8])
            if callback is None:
                entry.counters.unknown_cookie += 1
                logger.info("IOP %d: reply to a cookie nobody has", entry.number)
        if callback is None:
            self.send_home(entry, held)
        else:
            entry.held_replies[id(reply)] = held
        return reply, callback

    def _accept_unusual(self, entry: IopEntry, reply: ReplyFrame, flags: int) -> tuple[bool, int]:
        """Settle the books for anything but the one final reply to an ordinary request.

        Returns:
            Whether somebody waits for it, and the preserved MFA of a FAIL reply.
        """
        counters = entry.counters
        if len(reply) < HEADER_SIZE or not flags & REPLY_FLAG:
            counters.malformed += 1
            logger.warning("IOP %d: a posted frame is no reply: %s", entry.number, reply.hex())
            return False, EMPTY_MFA
        key = bytes(reply[4:16])
        preserved = EMPTY_MFA
        if flags & FAIL_FLAG:
            counters.fails += 1
            preserved = entry.preserved_frame(reply)
            failed = entry.key_of_failed(reply, preserved)
            is_expected = failed is not None and entry.settle(failed)
        elif flags & LAST_FLAG and key[3] != EVENT_REGISTER:
            is_expected = entry.settle(key)
        else:
            is_expected = entry.is_expected(key)
        if not is_expected:
            self._note_unexpected(entry, reply)
        return is_expected, preserved

    def _note_unexpected(self, entry: IopEntry, reply: ReplyFrame) -> None:
        entry.counters.unexpected += 1
        logger.info("IOP %d: unexpected reply %s", entry.number, reply[:HEADER_SIZE].hex())

    def _callback_raised(
        self, entry: IopEntry, reply: ReplyFrame, error: BaseException, errors: list[Exception]
    ) -> None:
        """Send the frame home if the callback did not, and keep the error for the caller."""
        entry.counters.callback_errors += 1
        held = entry.held_replies.pop(id(reply), None)
        if held is not None:
            entry.counters.auto_freed += 1
            self.send_home(entry, held)
        if not isinstance(error, Exception):
            raise error
        errors.append(error)

    def send_home(self, entry: IopEntry, held: HeldReply) -> None:
        """Return a reply frame, and a preserved request frame, to their queues."""
        _, mfa, preserved = held
        with entry.lock:
            if preserved != EMPTY_MFA and not entry.saved_requests.pop(preserved, None):
                entry.post_nop(preserved)
            entry.release(mfa)

    def finish_outstanding(self, entry: IopEntry, errors: list[Exception]) -> None:
        """Synthesise the final replies that are still owed; collect what callbacks raise."""
        with entry.lock:
            owed = [key for key, count in entry.outstanding.items() for _ in range(count)]
            entry.outstanding.clear()
            entry.event_registrations.clear()
        interrupt: BaseException | None = None
        for key in owed:
            try:
                self._synthesise(entry, key, errors)
            except BaseException as error:  # the others get their callbacks all the same
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _synthesise(self, entry: IopEntry, key: bytes, errors: list[Exception]) -> None:
        preserved = entry.save_request(key)
        frame = ReplyFrame(
            FAILURE_REPLY.build(
                severity=FailureSeverity.PATH_STATE,
                failure_code=FailureCode.SERVICE_TERMINATED,
                lowest_version=1,
                highest_version=1,
                preserved_mfa_low=preserved,
            )
        )
        frame[4:HEADER_SIZE] = key
        entry.counters.synthesised += 1
        callback = self._cookies.find(key[4:8])
        if callback is None:
            entry.counters.unknown_cookie += 1
            del entry.saved_requests[preserved]
            return
        entry.held_replies[id(frame)] = (frame, EMPTY_MFA, preserved)
        ident = threading.get_ident()
        outer = self._dispatching.get(ident)
        try:
            self._dispatching[ident] = entry
            callback(entry.number, frame)
        except BaseException as error:
            self._callback_raised(entry, frame, error, errors)
        finally:
            if outer is None:
                self._dispatching.pop(ident, None)
            else:
                self._dispatching[ident] = outer
