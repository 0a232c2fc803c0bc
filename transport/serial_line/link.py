# SPDX-License-Identifier: Apache-2.0
"""One end of a link over a line that damages, loses and repeats bytes: a state machine without I/O.

Bytes from the line go in, frames and news come out, and the other way round; the time is told.
Described in docs/link-protocol.md.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from i2o.errors import RemoteFrameError
from i2o.transport.serial_line.cobs import DELIMITER, Splitter
from i2o.transport.serial_line.incoming import Incoming
from i2o.transport.serial_line.link_frames import (
    LARGEST_PACKET,
    MIN_PAYLOAD,
    VERSION,
    Ack,
    Bye,
    ByeCode,
    Data,
    FrameFlags,
    Hello,
    LinkFrame,
    frame_bytes,
    link_number,
    read_frame,
)
from i2o.transport.serial_line.link_options import LinkOptions
from i2o.transport.serial_line.outgoing import Outgoing

_NS: Final = 1_000_000_000
_LONGEST_ASK_S: Final = 60.0
_ERRORS: Final[dict[int, int]] = {
    ByeCode.CLOSED: errno.ECONNRESET,
    ByeCode.UNKNOWN_LINK: errno.ECONNRESET,
    ByeCode.VERSION: errno.EPROTONOSUPPORT,
    ByeCode.FRAME_SIZE: errno.EMSGSIZE,
}


class LinkState(Enum):
    """How far a link is."""

    DOWN = auto()
    """There is none; one that the other end wants is made."""
    SEEKING = auto()
    """This end wants one, and has heard nothing yet."""
    ANSWERING = auto()
    """The other end was heard, but has not shown that it hears this one."""
    UP = auto()


@dataclass(frozen=True, slots=True)
class Up:
    """There is a link from now on."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A carrier frame came."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Room:
    """A frame that was refused may be sent now."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The link is no more, or could not be made; `error` is an errno."""

    error: int
    reason: str


LinkEvent: TypeAlias = Up | Frame | Room | Lost


class Link:
    """One end of a link, and of every link that follows on the same line.

    Args:
        options: of this end.
        new_session: makes the number of an attempt; 32 bits that no earlier attempt had.

    Attributes:
        state: how far it is.
        damaged: packets that were no frames: garbage, or frames that the line damaged.
        strays: frames of other links.
        echoes: HELLOs that came back: the line is a loop.
        links: how many there have been.
    """

    def __init__(
        self,
        options: LinkOptions,
        new_session: Callable[[], int] = lambda: secrets.randbits(32),
    ) -> None:
        self._options, self._new_session = options, new_session
        self._splitter = Splitter(LARGEST_PACKET)
        self._hello_ns = options.hello_ns
        self._give_up_ns = max(round(options.connect_s * _NS), 2 * self._hello_ns)
        self.state = LinkState.DOWN
        self._session = new_session()
        self._is_wanted = self._wants_room = False
        self._theirs = 0
        self._hello_due_ns = self._end_ns = self._hellos = 0
        self._link_in = self._link_out = 0
        self.incoming, self.outgoing = Incoming(options), Outgoing(options)
        self._heard_ns = self._ask_ns = self._asked_ns = 0
        self._is_hello_due = self._is_poll_due = False
        self._bye: Bye | None = None
        self.damaged = self.strays = self.echoes = self.links = 0
        self._echoes_before = self._noise_before = 0

    @property
    def overlong(self) -> int:
        """Packets that were longer than any frame."""
        return self._splitter.overlong

    @property
    def kept(self) -> int:
        """Bytes that this end keeps of what it received."""
        return self._splitter.kept + self.incoming.kept

    # --- what the owner wants --------------------------------------------------------------------

    def seek(self, now_ns: int) -> None:
        """Make a link, if there is none."""
        if self.state is LinkState.DOWN:
            self.state = LinkState.SEEKING
            self._hello_due_ns = now_ns
            self._end_ns = now_ns + self._give_up_ns
        if self.state is not LinkState.UP and not self._is_wanted:
            self._is_wanted = True
            self._end_ns = now_ns + self._give_up_ns

    def send(self, frame: bytes, now_ns: int) -> bool:
        """Take a carrier frame to be sent, or make a link first.

        Returns:
            False if it was not taken; `Room` will tell when to try again, or `Lost` that it is of
            no use.
        """
        if self.state is LinkState.UP and self.outgoing.queued < self._options.queue_limit:
            self.outgoing.add(frame)
            return True
        self._wants_room = True
        self.seek(now_ns)
        return False

    def close(self, reason: str = "") -> None:
        """End the link, and forget what was not sent; the other end is told with the next bytes."""
        if self.state is LinkState.UP:
            self._bye = Bye(self._link_out, ByeCode.CLOSED, reason)
        self._reset()

    def line_lost(self, reason: str) -> list[LinkEvent]:
        """Learn that the line is gone: whatever was on it is lost."""
        self._splitter.clear()
        self._bye = None
        was_known = self.state is LinkState.UP or self._is_wanted
        self._reset()
        return [Lost(errno.ENODEV, reason)] if was_known else []

    # --- from the line ---------------------------------------------------------------------------

    def receive(self, data: bytes, now_ns: int) -> list[LinkEvent]:
        """Take bytes as they come from the line."""
        events: list[LinkEvent] = []
        for packet in self._splitter.split(data):
            try:
                frame = read_frame(packet)
            except RemoteFrameError:
                self.damaged += 1
                continue
            try:
                self._take(frame, now_ns, events)
            except RemoteFrameError as error:
                self._bye = Bye(self._link_out, ByeCode.PROTOCOL, str(error))
                self._lose(events, errno.EPROTO, f"the other end broke the rules: {error}")
        if self._wants_room and self._has_room:
            self._wants_room = False
            events.append(Room())
        return events

    def _take(self, frame: LinkFrame, now_ns: int, events: list[LinkEvent]) -> None:
        if isinstance(frame, Hello):
            self._take_hello(frame, now_ns, events)
        elif isinstance(frame, Bye):
            self._take_bye(frame, events)
        elif self.state is LinkState.ANSWERING and frame.link == self._link_in:
            self._rise(now_ns, events)
            self._take(frame, now_ns, events)
        elif self.state is not LinkState.UP or frame.link != self._link_in:
            self.strays += 1
            is_request = isinstance(frame, Data) or frame.flags & FrameFlags.POLL
            if is_request and self.state is LinkState.DOWN and self._bye is None:
                self._bye = Bye(frame.link, ByeCode.UNKNOWN_LINK, "there is no such link here")
        else:
            self._heard(now_ns)
            held = 0
            if isinstance(frame, Data):
                events += map(Frame, self.incoming.take(frame, now_ns))
            else:
                held = frame.held
                if frame.flags & FrameFlags.POLL:
                    self.incoming.ack_due_ns = now_ns
            self.outgoing.take_ack(frame.ack, frame.window, held, now_ns)

    def _take_hello(self, hello: Hello, now_ns: int, events: list[LinkEvent]) -> None:
        if hello.session == self._session:
            self.echoes += 1
            return
        objection = self._objection(hello)
        if objection is not None:
            self._bye = Bye(hello.session, objection[0], objection[1])
            if self._is_wanted and self.state is not LinkState.UP:
                code = _ERRORS.get(objection[0], errno.EPROTO)
                reason = f"the other end takes or speaks {objection[1]}{_remedy(objection[0])}"
                self._lose(events, code, reason)
            return
        if self.state is LinkState.UP:
            if hello.session == self._theirs:  # it may not know that we hear it
                self.incoming.ack_due_ns = now_ns
                return
            self._lose(events, errno.ECONNRESET, "the other end began anew")
        if self.state is not LinkState.ANSWERING:
            if not self._is_wanted:
                self._end_ns = now_ns + self._give_up_ns
            self.state = LinkState.ANSWERING
        if hello.session != self._theirs:
            self._theirs = hello.session
            self._link_in = link_number(self._theirs, self._session)
            self._link_out = link_number(self._session, self._theirs)
        self.outgoing.begin(hello.max_payload, hello.window)
        if hello.echo == self._session:
            self._rise(now_ns, events)
            self.incoming.ack_due_ns = now_ns  # so that it is up there, too
        else:
            self._is_hello_due = True

    def _objection(self, hello: Hello) -> tuple[ByeCode, str] | None:
        if hello.version != VERSION:
            return ByeCode.VERSION, f"version {hello.version}, not {VERSION}"
        if hello.max_payload < MIN_PAYLOAD or not hello.window:
            return (
                ByeCode.PROTOCOL,
                f"{hello.window} payloads of {hello.max_payload} bytes at a time",
            )
        if hello.largest_frame < self._options.frame_limit:
            return (
                ByeCode.FRAME_SIZE,
                f"frames of up to {hello.largest_frame} bytes, not {self._options.frame_limit}",
            )
        return None

    def _take_bye(self, bye: Bye, events: list[LinkEvent]) -> None:
        if self.state is LinkState.UP:
            is_mine = bye.link == (
                self._link_out if bye.code == ByeCode.UNKNOWN_LINK else self._link_in
            )
        else:
            is_mine = self.state is not LinkState.DOWN and bye.link == self._session
        if not is_mine:
            self.strays += 1
            return
        if bye.code == ByeCode.UNKNOWN_LINK:
            reason = "the other end began anew"
        else:
            reason = f"the other end closed the link: {bye.reason}".rstrip(": ") + _remedy(bye.code)
        self._lose(events, _ERRORS.get(bye.code, errno.EPROTO), reason)

    def _rise(self, now_ns: int, events: list[LinkEvent]) -> None:
        self.state, self._is_wanted, self._is_hello_due = LinkState.UP, False, False
        self.links += 1
        if self._hellos == 1:  # else nobody knows which one was answered
            self.outgoing.measure(now_ns - (self._hello_due_ns - self._hello_ns))
        self._heard(now_ns)
        events.append(Up())

    def _heard(self, now_ns: int) -> None:
        self._heard_ns = self._asked_ns = now_ns
        # a slow line must have time for more than questions
        self._ask_ns = max(round(self._options.keepalive_s * _NS), 2 * self._hello_ns)
        self._is_poll_due = False

    # --- to the line -----------------------------------------------------------------------------

    def next_output(self, now_ns: int) -> bytes:
        """Return the next frame for the line, with its delimiters, or nothing.

        To be called only when the line takes it at once: what is returned counts as sent.
        """
        frame = self._next_frame(now_ns)
        return b"" if frame is None else DELIMITER + frame_bytes(frame) + DELIMITER

    def _next_frame(self, now_ns: int) -> LinkFrame | None:
        if self._bye is not None:
            bye, self._bye = self._bye, None
            return bye
        if self.state is not LinkState.UP:
            return self._next_hello(now_ns)
        incoming, outgoing = self.incoming, self.outgoing
        due = incoming.ack_due_ns
        is_due = due is not None and now_ns >= due
        held = incoming.held
        if not (is_due and held) and not self._is_poll_due:
            piece = outgoing.next_piece(now_ns)
            if piece is not None:
                incoming.told()
                window = self._options.window
                return Data(
                    self._link_out, piece.sequence, piece.flags, incoming.expected, window,
                    piece.payload,
                )  # fmt: skip
        if is_due or self._is_poll_due:
            incoming.told()
            flags = int(FrameFlags.POLL) if self._is_poll_due else 0
            self._is_poll_due = False
            return Ack(
                self._link_out, outgoing.next_sequence, flags, incoming.expected,
                self._options.window, held,
            )  # fmt: skip
        return None

    def _next_hello(self, now_ns: int) -> Hello | None:
        if self.state is LinkState.DOWN:
            return None
        if not self._is_hello_due and now_ns < self._hello_due_ns:
            return None
        self._is_hello_due = False
        self._hello_due_ns = now_ns + self._hello_ns
        self._hellos += 1
        options = self._options
        return Hello(
            self._session,
            self._theirs if self.state is LinkState.ANSWERING else 0,
            options.window,
            options.max_payload,
            options.frame_limit,
        )

    # --- time ------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> list[LinkEvent]:
        """Do what is due."""
        events: list[LinkEvent] = []
        if self.state is LinkState.UP:
            self.outgoing.tick(now_ns)
            if self.outgoing.is_stuck(now_ns):
                seconds = self._options.dead_s
                self._lose(events, errno.ETIMEDOUT, f"nothing was acknowledged for {seconds:g} s")
            elif now_ns >= self._asked_ns + self._ask_ns:
                self._asked_ns = now_ns
                self._ask_ns = min(2 * self._ask_ns, round(_LONGEST_ASK_S * _NS))
                self._is_poll_due = True
        elif self.state is not LinkState.DOWN and now_ns >= self._end_ns:
            seconds = self._give_up_ns / _NS
            reason = f"nobody answers within {seconds:g} s"
            if self.echoes > self._echoes_before:
                reason += ": the line sends back what it is sent"
            elif self.damaged + self.overlong > self._noise_before:
                reason += ": what comes is no frame (another speed at the other end?)"
            self._lose(events, errno.EHOSTUNREACH, reason)
        return events

    def next_deadline_ns(self) -> int | None:
        """Return when `tick` or `next_output` has something to do although no bytes came."""
        if self._bye is not None:
            return 0
        if self.state is LinkState.DOWN:
            return None
        if self.state is not LinkState.UP:
            return 0 if self._is_hello_due else min(self._hello_due_ns, self._end_ns)
        if self._is_poll_due:
            return 0
        times = (
            self.incoming.ack_due_ns,
            self.outgoing.next_deadline_ns(),
            self.outgoing.stuck_deadline_ns(),
        )
        due = self._asked_ns + self._ask_ns
        for time in times:
            if time is not None and time < due:
                due = time
        return due

    # --- ends ------------------------------------------------------------------------------------

    @property
    def _has_room(self) -> bool:
        return self.state is LinkState.UP and self.outgoing.queued <= self._options.queue_limit // 2

    def _lose(self, events: list[LinkEvent], error: int, reason: str) -> None:
        was_known = self.state is LinkState.UP or self._is_wanted
        self._reset()
        if was_known:
            events.append(Lost(error, reason))

    def _reset(self) -> None:
        """Forget the link; the next one has other numbers."""
        self.state = LinkState.DOWN
        self._is_wanted = self._wants_room = self._is_hello_due = self._is_poll_due = False
        self._session = self._new_session()
        self._theirs = self._hellos = 0
        self._echoes_before, self._noise_before = self.echoes, self.damaged + self.overlong
        self.incoming, self.outgoing = Incoming(self._options), Outgoing(self._options)


def _remedy(code: int) -> str:
    """Return what is to be done when the ends do not fit together."""
    return "; give both ends the same frame_limit" if code == ByeCode.FRAME_SIZE else ""
