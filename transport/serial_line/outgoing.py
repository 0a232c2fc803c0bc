# SPDX-License-Identifier: Apache-2.0
"""What a link sends: carrier frames cut into DATA frames, which are repeated until they arrived.

A line does not change the order of what goes over it. So if something arrived that was sent later
than a frame that did not, that frame is lost for sure, and is sent again at once; only the last
ones before a pause need a timer.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from i2o.errors import RemoteFrameError
from i2o.transport.serial_line.link_frames import MAX_WINDOW, MIN_PAYLOAD, FrameFlags
from i2o.transport.serial_line.link_options import LinkOptions

_NS: Final = 1_000_000_000
_LEAST_RTO_NS, _MOST_RTO_NS = _NS // 20, 2 * _NS
_FIRST_PAYLOAD: Final = 256  # until it is known how many frames get lost
_LOOK_EVERY: Final = 32  # DATA frames that were sent between two thoughts about their size
_MANY_LOST: Final = 4  # of those: smaller ones will have better luck
_MOST_BACK_OFF: Final = 6
_SERIAL: Final = 0xFFFF
_HALF: Final = 0x8000


class Piece(NamedTuple):
    """What becomes a DATA frame."""

    sequence: int
    flags: int
    payload: bytes


class _Flight:
    """A DATA frame that was sent and has not arrived, as far as is known."""

    __slots__ = ("is_lost", "order", "piece", "sent_ns", "tries")

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.order = self.sent_ns = self.tries = 0
        self.is_lost = False


class Outgoing:
    """The sending half of a link.

    Args:
        options: of this end.

    Attributes:
        queued: bytes that have not been sent yet.
        repeated: DATA frames that were sent again.
        payload_size: bytes of a carrier frame that go into one DATA frame now.
    """

    def __init__(self, options: LinkOptions) -> None:
        self._rate = options.bytes_per_s
        self._best_payload = options.best_payload
        self._first_rto_ns = options.hello_ns
        self._stuck_ns = round(options.dead_s * _NS)
        self._queue: deque[bytes] = deque()
        self._offset = 0
        self.queued = 0
        self._flights: dict[int, _Flight] = {}  # in the order of their numbers
        self._flying = 0  # their bytes
        self._lost = 0  # those that are to be sent again
        self._next = self._oldest = 0
        self._window = 0
        self._order = 0
        self._srtt = self._rttvar = self._least_rtt = 0
        self._back_off = 0
        self._progress_ns = 0
        self._timer_ns = 0  # since when it runs
        self.repeated = 0
        self.payload_size = min(_FIRST_PAYLOAD, self._best_payload)
        self._sent_lately = self._lost_lately = 0

    @property
    def next_sequence(self) -> int:
        """The number of the next DATA frame that is new."""
        return self._next

    @property
    def is_idle(self) -> bool:
        """Whether everything has arrived."""
        return not self._flights and not self._queue

    def begin(self, max_payload: int, window: int) -> None:
        """Learn what the other end takes."""
        self._best_payload = min(self._best_payload, max_payload)
        self.payload_size = min(self.payload_size, max_payload)
        self._window = min(window, MAX_WINDOW)

    def add(self, frame: bytes) -> None:
        """Queue a carrier frame."""
        self._queue.append(frame)
        self.queued += len(frame)

    # --- to the line -----------------------------------------------------------------------------

    def next_piece(self, now_ns: int) -> Piece | None:
        """Return what is to be sent next, if anything may be; it counts as sent now."""
        flight = self._next_lost() if self._lost else None
        if flight is not None:
            flight.is_lost = False
            self._lost -= 1
            self.repeated += 1
            self._timer_ns = now_ns
        elif self._queue and self._may_send():
            if not self._flights:
                self._progress_ns = self._timer_ns = now_ns
            flight = _Flight(self._cut())
            self._flights[flight.piece.sequence] = flight
            self._flying += len(flight.piece.payload)
        else:
            return None
        self._order += 1
        flight.order, flight.sent_ns = self._order, now_ns
        flight.tries += 1
        self._count_sent()
        piece = flight.piece
        if self._queue and not self._may_send():  # nothing goes on before something arrives
            piece = piece._replace(flags=piece.flags | FrameFlags.POLL)
        return piece

    def _next_lost(self) -> _Flight | None:
        return next((one for one in self._flights.values() if one.is_lost), None)

    def _may_send(self) -> bool:
        if self._next - self._oldest & _SERIAL >= self._window:
            return False
        if not self._rate or len(self._flights) < 4:
            return True
        # more than the line holds would only wait in front of it
        held_s = 0.1 + 2 * self._least_rtt / _NS if self._least_rtt else 0.25
        return self._flying < self._rate * held_s

    def _cut(self) -> Piece:
        frame = self._queue[0]
        payload = frame[self._offset : self._offset + self.payload_size]
        self._offset += len(payload)
        self.queued -= len(payload)
        flags = 0
        if self._offset < len(frame):
            flags = int(FrameFlags.MORE)
        else:
            self._queue.popleft()
            self._offset = 0
        sequence, self._next = self._next, self._next + 1 & _SERIAL
        return Piece(sequence, flags, payload)

    # --- from the line ---------------------------------------------------------------------------

    def take_ack(self, ack: int, window: int, held: int, now_ns: int) -> None:
        """Learn what has arrived.

        Args:
            ack: the first number that has not.
            window: how many from there on may be sent.
            held: bit n says that ack + 1 + n has.
            now_ns: the time.

        Raises:
            RemoteFrameError: something arrived that was never sent.
        """
        arrived = ack - self._oldest & _SERIAL
        if arrived >= _HALF:
            return  # said before something that is known: a line that repeats itself
        most = self._next - self._oldest & _SERIAL
        if arrived + (held.bit_length() + 1 if held else 0) > most:
            raise RemoteFrameError(
                f"{arrived} frames and the map {held:#x} are acknowledged, {most} were sent"
            )
        latest = 0
        for number in range(arrived):
            latest = max(latest, self._landed(self._oldest + number & _SERIAL, now_ns))
        for bit in range(held.bit_length()):
            if held >> bit & 1:
                latest = max(latest, self._landed(ack + 1 + bit & _SERIAL, now_ns))
        self._oldest, self._window = ack, min(window, MAX_WINDOW)
        if arrived:
            self._progress_ns = now_ns
        if latest:
            self._back_off = 0
            self._timer_ns = now_ns
            for flight in self._flights.values():
                if flight.order < latest and not flight.is_lost:
                    self._lose(flight)

    def _landed(self, sequence: int, now_ns: int) -> int:
        """Forget a frame that arrived; return when it was sent, as a rank."""
        flight = self._flights.pop(sequence, None)
        if flight is None:
            return 0
        self._flying -= len(flight.piece.payload)
        self._lost -= flight.is_lost
        if flight.tries == 1:  # else nobody knows which one arrived
            self.measure(now_ns - flight.sent_ns)
        return flight.order

    def measure(self, rtt: int) -> None:
        """Take a round trip of so many nanoseconds into account (RFC 6298)."""
        rtt = max(1, rtt)
        self._least_rtt = min(self._least_rtt or rtt, rtt)
        if not self._srtt:
            self._srtt, self._rttvar = rtt, rtt // 2
        else:
            self._rttvar += (abs(self._srtt - rtt) - self._rttvar) // 4
            self._srtt += (rtt - self._srtt) // 8

    # --- time ------------------------------------------------------------------------------------

    @property
    def _rto_ns(self) -> int:
        rto = self._srtt + 4 * self._rttvar if self._srtt else self._first_rto_ns
        if self._rate:  # it is behind others on the line, and so is the answer
            rto += round((self._flying + 2 * self.payload_size) / self._rate * _NS)
        # an answer cannot come sooner than a slow line can carry it, whatever the limit is
        return max(rto, min(max(rto, _LEAST_RTO_NS) << self._back_off, _MOST_RTO_NS))

    def next_deadline_ns(self) -> int | None:
        """Return when `tick` has something to do."""
        if len(self._flights) == self._lost:
            return None
        return self._timer_ns + self._rto_ns

    def tick(self, now_ns: int) -> None:
        """Give up on what should have arrived.

        Of all that is on its way only the first frame is sent again: the answer to that one tells
        about the others.
        """
        deadline = self.next_deadline_ns()
        if deadline is not None and now_ns >= deadline:
            self._timer_ns = now_ns
            self._back_off = min(self._back_off + 1, _MOST_BACK_OFF)
            self._lose(next(one for one in self._flights.values() if not one.is_lost))

    def is_stuck(self, now_ns: int) -> bool:
        """Whether nothing has arrived for so long that nothing will."""
        return bool(self._flights) and now_ns - self._progress_ns >= self._stuck_ns

    def stuck_deadline_ns(self) -> int | None:
        """Return when that will be."""
        return self._progress_ns + self._stuck_ns if self._flights else None

    # --- sizes -----------------------------------------------------------------------------------

    def _lose(self, flight: _Flight) -> None:
        flight.is_lost = True
        self._lost += 1
        self._lost_lately += 1

    def _count_sent(self) -> None:
        """Send smaller frames while many get lost, and larger ones while none does."""
        self._sent_lately += 1
        if self._sent_lately < _LOOK_EVERY:
            return
        if self._lost_lately >= _MANY_LOST:
            self.payload_size = max(MIN_PAYLOAD, self.payload_size // 2)
        elif not self._lost_lately:
            self.payload_size = min(self._best_payload, self.payload_size * 2)
        self._sent_lately = self._lost_lately = 0
