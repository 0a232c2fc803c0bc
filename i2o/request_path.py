# SPDX-License-Identifier: Apache-2.0
"""The way there: checks requests, finds real inbound frames for them, and posts them.

What is owed for a request is in the books before the IOP can answer it. A frame that was taken for
a request goes home when the request cannot be posted.
"""

from __future__ import annotations

from typing import Final

from i2o import waits
from i2o.clock import Clock
from i2o.errors import InvalidArgument, LocalFrameError, OutOfFrames
from i2o.frames.header import EMPTY_MFA, HEADER_SIZE
from i2o.iop_table import SPECIAL, HeldRequest, IopEntry, read_head
from i2o.reply_path import ReplyPath
from i2o.waits import I2OTRANS_SLEEP

_MIN_MESSAGE: Final = 12  # a NOP: header words 0 to 2


class RequestPath:
    """The request side of a message layer.

    Args:
        clock: what waits for a frame sleep and spin on.
        replies: knows who is a callback.
        debug: raise when a callback asks to sleep.
    """

    def __init__(self, clock: Clock, replies: ReplyPath, *, debug: bool) -> None:
        self._clock, self._replies, self._debug = clock, replies, debug

    def check_wait(self, wait: int, flags: int) -> None:
        """Refuse reserved flag bits and, in debug mode, sleeping where callbacks run."""
        waits.check_flags(wait, flags)
        if self._debug and wait and flags & I2OTRANS_SLEEP and self._replies.in_callback():
            raise InvalidArgument(
                "I2OTRANS_SLEEP in a callback: callbacks count as interrupt context"
            )

    def take_frame(self, entry: IopEntry, wait_us: int, flags: int) -> int:
        """Take a real inbound frame by the wait rule, or raise OutOfFrames."""
        mfa = entry.alloc()
        return self._wait_for_frame(entry, wait_us, flags) if mfa is None else mfa

    def _wait_for_frame(self, entry: IopEntry, wait_us: int, flags: int) -> int:
        """Retry by the wait rule after the first attempt failed, or raise OutOfFrames."""

        def again() -> int | None:
            entry.counters.retries += 1
            return entry.alloc()

        mfa = waits.retry(again, wait_us, flags, self._clock)
        if mfa is None:
            entry.counters.no_frame += 1
            raise OutOfFrames(f"no inbound frame of IOP {entry.number} came free")
        return mfa

    def deliver(
        self,
        entry: IopEntry,
        frame: bytes | bytearray,
        held: HeldRequest | None,
        wait_us: int,
        flags: int,
    ) -> None:
        """Check a request, take a real frame for it unless it has one, write and post it."""
        if flags & ~I2OTRANS_SLEEP or wait_us < 0 or self._debug:
            self.check_wait(wait_us, flags)
        if len(frame) < HEADER_SIZE:
            raise InvalidArgument(f"a frame of {len(frame)} bytes has no header")
        _, words, key = read_head(frame)
        size = words << 2
        if not _MIN_MESSAGE <= size <= len(frame) or size > entry.inbound_size:
            raise InvalidArgument(
                f"MessageSize {words} words: expected 3 to {entry.inbound_size // 4}"
            )
        message = frame[:size]
        with entry.lock:
            if held is not None:  # a reset may have taken its real frame away meanwhile
                held = entry.held_requests.get(id(frame), held)
            mfa = EMPTY_MFA if held is None else held[1]
            is_ours = mfa == EMPTY_MFA
            if is_ours:
                mfa = entry.port.alloc()
                if mfa == EMPTY_MFA:
                    mfa = entry.port.alloc()  # an empty port is read twice
            was_taken_away = False
            if mfa != EMPTY_MFA:
                try:
                    self._post(entry, mfa, key, message, is_ours)
                    return
                except LocalFrameError:
                    if held is None or is_ours:
                        raise
                    # the IOP was reset behind our back and has the frame: take another one
                    entry.post_nop(mfa)
                    entry.held_requests[id(frame)] = (held[0], EMPTY_MFA)
                    was_taken_away = is_ours = True
        if was_taken_away:
            mfa = self.take_frame(entry, wait_us, flags)
        else:
            mfa = self._wait_for_frame(entry, wait_us, flags)
        with entry.lock:
            self._post(entry, mfa, key, message, is_ours)

    def _post(
        self, entry: IopEntry, mfa: int, key: bytes, message: bytes | bytearray, is_ours: bool
    ) -> None:
        """Write and post a request, and note what it is owed. The lock is held.

        A frame that was taken for this request (`is_ours`) goes home if the port fails.
        """
        port, outstanding = entry.port, entry.outstanding
        if entry.refusing:
            if is_ours and not entry.is_dead:
                entry.post_nop(mfa)
            raise InvalidArgument(f"IOP {entry.number} {entry.refusing}")
        entry.has_posted = True
        if key[3] in SPECIAL:
            entry.expect(key)
        else:
            outstanding[key] = outstanding.get(key, 0) + 1
        try:
            port.write(mfa, message)
        except BaseException:
            entry.settle(key)
            if is_ours:
                entry.post_nop(mfa)
            raise
        entry.with_iop.add(mfa)
        entry.counters.requests += 1
        try:
            port.post(mfa)
        except Exception:  # an interrupt is no failure: the frame may be posted already
            entry.settle(key)
            raise
