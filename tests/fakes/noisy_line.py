# SPDX-License-Identifier: Apache-2.0
"""A serial line without hardware: bytes that take their time, with the errors that lines have."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from i2o.transport.serial_line.link import Frame, Link, LinkEvent, LinkState, Lost, Up
from i2o.transport.serial_line.link_options import LinkOptions

NS = 1_000_000_000


@dataclass(frozen=True)
class Noise:
    """How often what happens; probabilities.

    Attributes:
        bit_errors: of each bit, that it turns.
        dropped: of each byte.
        doubled: of each byte.
        lost_frames: of each zero, that all since the last one is lost.
        garbage: of each zero, that up to 100 bytes of anything follow.
    """

    bit_errors: float = 0.0
    dropped: float = 0.0
    doubled: float = 0.0
    lost_frames: float = 0.0
    garbage: float = 0.0


class NoisyWire:
    """One direction; what it does to bytes depends on nothing but them and the seed."""

    def __init__(self, noise: Noise, seed: int) -> None:
        self._noise, self._random = noise, random.Random(seed)
        self._is_losing = False
        self._until = {
            "bit": self._gap(8 * noise.bit_errors),
            "drop": self._gap(noise.dropped),
            "double": self._gap(noise.doubled),
        }

    def carry(self, data: bytes) -> bytes:
        noise, chance = self._noise, self._random.random
        if not data or noise == Noise():
            return data
        out = bytearray()
        for byte in data:
            if byte == 0:
                self._is_losing = chance() < noise.lost_frames
                if chance() < noise.garbage:
                    out += self._random.randbytes(self._random.randrange(100))
            elif self._is_losing:
                continue
            if self._happens("bit", 8 * noise.bit_errors):
                byte ^= 1 << self._random.randrange(8)
            if self._happens("drop", noise.dropped):
                continue
            out.append(byte)
            if self._happens("double", noise.doubled):
                out.append(byte)
        return bytes(out)

    def _happens(self, what: str, chance: float) -> bool:
        if not chance:
            return False
        self._until[what] -= 1
        if self._until[what] >= 0:
            return False
        self._until[what] = self._gap(chance)
        return True

    def _gap(self, chance: float) -> int:
        return int(self._random.expovariate(chance)) if chance else 0


class End:
    """A link, and everything that it told."""

    def __init__(self, options: LinkOptions, first_session: int) -> None:
        self.sessions = iter(range(first_session, 1 << 32))
        self.link = Link(options, lambda: next(self.sessions))
        self.events: list[LinkEvent] = []
        self.waiting: deque[bytes] = deque()

    @property
    def frames(self) -> list[bytes]:
        return [event.data for event in self.events if isinstance(event, Frame)]

    @property
    def news(self) -> list[LinkEvent]:
        return [event for event in self.events if isinstance(event, Up | Lost)]

    def send(self, *frames: bytes) -> None:
        self.waiting += frames


class Cable:
    """Two ends and the line between them, in a time of its own.

    Attributes:
        ends: the two.
        now_ns: the time.
        rate: bytes a second of each direction.
    """

    def __init__(
        self,
        options: LinkOptions | None = None,
        other: LinkOptions | None = None,
        *,
        noise: Noise = Noise(),
        rate: float = 11520.0,
        delay_ns: int = 1_000_000,
        seed: int = 1,
    ) -> None:
        options = LinkOptions(baud=round(10 * rate)) if options is None else options
        self.ends = End(options, 1000), End(options if other is None else other, 2000)
        self.rate, self._delay_ns = rate, delay_ns
        self.wires = [NoisyWire(noise, seed), NoisyWire(noise, seed + 1)]
        self._free_ns = [0, 0]
        self._pipes: tuple[deque[tuple[int, bytes]], ...] = (deque(), deque())
        self.now_ns = NS
        self.carried = [0, 0]
        self.tap: Callable[[int, bytes], bytes] = lambda number, data: data

    def replace(self, number: int, options: LinkOptions | None = None) -> End:
        """Start one end anew, as after a crash."""
        old = self.ends[number]
        new = End(options or LinkOptions(baud=round(10 * self.rate)), 5000 + number)
        self.ends = (new, self.ends[1]) if number == 0 else (self.ends[0], new)
        assert old is not new
        return new

    def step(self) -> None:
        """Let the time pass until something can happen, and let that happen."""
        self._happen()
        self.now_ns = self._next_ns()
        self._happen()

    def _happen(self) -> None:
        now = self.now_ns
        for number, end in enumerate(self.ends):
            pipe = self._pipes[1 - number]
            arrived = b""
            while pipe and pipe[0][0] <= now:
                arrived += pipe.popleft()[1]
            if arrived:
                end.events += end.link.receive(arrived, now)
            end.events += end.link.tick(now)
            while end.waiting and end.link.send(end.waiting[0], now):
                end.waiting.popleft()
        for number, end in enumerate(self.ends):
            self._put(number, end.link)

    def _put(self, number: int, link: Link) -> None:
        """Let an end write, as long as the line is not busy."""
        while self._free_ns[number] <= self.now_ns:
            data = link.next_output(self.now_ns)
            if not data:
                return
            end = self.now_ns + round(len(data) / self.rate * NS)
            self._free_ns[number] = end
            self.carried[number] += len(data)
            carried = self.tap(number, self.wires[number].carry(data))
            if carried:
                self._pipes[number].append((end + self._delay_ns, carried))

    def _next_ns(self) -> int:
        times = [pipe[0][0] for pipe in self._pipes if pipe]
        for number, end in enumerate(self.ends):
            due = end.link.next_deadline_ns()
            if due is not None:
                times.append(max(due, self._free_ns[number]))
            if self._free_ns[number] > self.now_ns:
                times.append(self._free_ns[number])
        later = [time for time in times if time > self.now_ns]
        return min(later, default=self.now_ns + NS // 100)

    def until(self, look: Callable[[], object], seconds: float = 600.0) -> None:
        """Go on until something holds; fail when that takes too long, in the line's own time."""
        end = self.now_ns + round(seconds * NS)
        while not look():
            assert self.now_ns < end, f"it did not come to that within {seconds:g} s"
            self.step()

    def run(self, seconds: float) -> None:
        """Go on for so long."""
        end = self.now_ns + round(seconds * NS)
        while self.now_ns < end:
            self.step()

    def connect(self) -> None:
        """Make the link."""
        self.ends[0].link.seek(self.now_ns)
        self.until(lambda: all(end.link.state is LinkState.UP for end in self.ends))
