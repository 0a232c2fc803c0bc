# SPDX-License-Identifier: Apache-2.0
"""The host's end of a queue pair whose device is in another process.

It knows the free frames, the replies that have arrived, and who holds which frame; what the device
tells is checked against that, and a device that tells nonsense counts as dead.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.errors import IopDead, LocalFrameError
from i2o.transport.arena_space import ArenaSpace
from i2o.transport.host_memory import HostMemory
from i2o.transport.port import EMPTY
from i2o.transport.shm.channel import Channel, PeerGone, RingChannel
from i2o.transport.shm.records import RECORD, Word
from i2o.transport.shm.segment import Segment
from i2o.transport.shm.tables import HostTable, PlainHostTable, native_tables

_SLICE_S: Final = 0.05  # how long one thread may not know what another one took in
_PATIENCE_S: Final = 5.0  # how long a device may not take what it is told
_TRUST_NS: Final = 50_000  # how long a look at the other process counts; ending one takes longer
_MOST_POSTS: Final = 1 << 16
_RECORD_SIZE: Final = RECORD.size
_records_of = RECORD.iter_unpack
_POST, _POST_STATIC = int(Word.POST), int(Word.POST_STATIC)
_RELEASE, _FREE, _REPLY = int(Word.RELEASE), int(Word.FREE), int(Word.REPLY)


class HostHalf:
    """The host's end.

    Args:
        channel: what leads to the device.
        segment: the shared memory.
        on_misuse: called with a sentence when the host handles a frame wrongly.
        spin_s: how long a wait looks without sleeping before it sleeps.
        clock: what limits are measured by.

    Attributes:
        memory: the host's buffers.
        alloc: pops a free inbound MFA, or EMPTY; raises IopDead.
        write: copies a request into an inbound frame; raises LocalFrameError if it does not fit,
            IopDead when the process is known to be gone.
        post: queues a request; raises IopDead.
        reap: pops a reply MFA, or EMPTY; raises IopDead when no reply is left and none can come.
        release: gives a reply frame to the device; raises IopDead.
        outbound: returns what is at a bus address, of so many bytes; raises DmaFault.
    """

    alloc: Callable[[], int]
    write: Callable[[int, bytes | bytearray | memoryview], None]
    post: Callable[[int], None]
    reap: Callable[[], int]
    release: Callable[[int], None]
    outbound: Callable[[int, int], memoryview]
    _take_in: Callable[[], bytes | memoryview | None]

    def __init__(
        self,
        channel: Channel,
        segment: Segment,
        *,
        on_misuse: Callable[[str], None],
        spin_s: float = 0.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._channel, self._segment, self._on_misuse = channel, segment, on_misuse
        self._clock, self._spin_s = clock, spin_s
        self._has_packet = channel.has_packet
        self._send_record = channel.send_record
        self._frame_size = segment.shape.frame_size
        self._memory = segment.memory
        self._mfas = segment.shape.mfas()
        self._space = ArenaSpace(
            segment.arena,
            on_cover=self._tell_cover,
            on_uncover=self._tell_uncover,
        )
        self.memory: HostMemory = self._space
        self._static: dict[int, int] = {}  # how often each static frame may still be posted
        self._why_gone = ""
        self._now_ns = clock.monotonic_ns
        self._lock = threading.Lock()
        native = native_tables() if isinstance(channel, RingChannel) else None
        if native is None:
            self._table: HostTable = PlainHostTable(self._mfas)
            self._take_in = self._take_in_packets
            self.alloc, self.reap = self._alloc_and_tell, self._reap_and_tell
            self.write, self.post, self.release = self._write, self._post, self._release
            self.outbound = self._space.window
        else:
            assert isinstance(channel, RingChannel)
            table = native.HostTable(
                self._mfas.start,
                self._mfas.step,
                len(self._mfas),
                segment.memory,
                segment.arena,
                self._space.base,
                channel.rings(),
                channel.socket,
                _TRUST_NS,
                (
                    self._alloc,
                    self._write,
                    self._post,
                    self._reap,
                    self._release,
                    self._outbound,
                ),
            )
            self._table = table
            self._take_in = partial(_take_in_ring, table, channel)
            self.alloc, self.reap = table.alloc, table.reap
            self.write, self.post, self.release = table.write, table.post, table.release
            self.outbound = table.outbound
        self._table.is_slow = native is None or clock is not SYSTEM_CLOCK

    @property
    def generation(self) -> int:
        """How many resets the device has told of."""
        return self._table.generation

    def tell_after(self, after: Callable[[], object] | None) -> None:
        """Have something called whenever somebody took a frame or a reply, or looked for one."""
        self._table.after = after

    # --- the long ways of what a port does --------------------------------------------------------

    def _alloc(self) -> int:
        if self._why_gone:
            self._require_process()
        table = self._table
        if not table.free_count:
            self.drain()
            if not table.free_count:
                self._look()
        elif table.is_held or self._has_packet():
            self.drain()
        return EMPTY if table.is_starved else table.take_free()

    def _alloc_and_tell(self) -> int:
        mfa = self._alloc()
        if self._table.after is not None:
            self._table.after()
        return mfa

    def _write(self, mfa: int, frame: bytes | bytearray | memoryview) -> None:
        data = memoryview(frame).cast("B")
        size = len(data)
        if self._why_gone:
            self._require_process()
        if not self._table.holds(mfa):
            raise LocalFrameError(f"MFA {mfa:#010x} is not the host's to write: allocate it first")
        if size > self._frame_size:
            raise LocalFrameError(
                f"a frame of {size} bytes does not fit: inbound frames have {self._frame_size}"
            )
        self._memory[mfa : mfa + size] = data

    def read_inbound(self, mfa: int, size: int) -> bytes:
        """Read an inbound frame; raises LocalFrameError for an MFA that is none."""
        if mfa not in self._mfas or not 0 <= size <= self._frame_size:
            raise LocalFrameError(f"{size} bytes at {mfa:#010x} are no inbound frame of this IOP")
        return self._memory[mfa : mfa + size].tobytes()

    def _post(self, mfa: int) -> None:
        if self._why_gone:
            self._require_process()
        if self._table.let_go(mfa):
            self._tell(_POST, mfa, self._table.generation)
        elif not self._post_static(mfa):
            self._on_misuse(f"MFA {mfa:#010x} was posted to 0x40, but the host does not hold it")

    def _post_static(self, mfa: int) -> bool:
        """Queue a static frame once more, if it is one and may be posted."""
        with self._lock:
            left = self._static.get(mfa, 0)
            if not left:
                return False
            self._static[mfa] = left - 1
        self._tell(_POST_STATIC, mfa, self._table.generation)
        return True

    def _reap(self) -> int:
        table = self._table
        self.settle()
        if not table.reply_count:
            if self._has_packet() or self._why_gone:
                self.drain()
            elif self._now_ns() >= table.trusted_until_ns:
                self._look()
        mfa = table.take_reply()
        if mfa == EMPTY and self._why_gone:
            self._require_process()
        return mfa

    def settle(self) -> None:
        """Take what a call on another thread, or one that was interrupted, has left to be taken.

        It may be a reply, or take replies back.
        """
        if self._table.is_held:
            with contextlib.suppress(IopDead):  # who asks for replies is told when there are none
                self.drain()

    def _reap_and_tell(self) -> int:
        mfa = self._reap()
        if self._table.after is not None:
            self._table.after()
        return mfa

    def _release(self, mfa: int) -> None:
        if mfa == EMPTY or mfa % 4:
            self._on_misuse(f"{mfa:#010x} was released to 0x44: a frame address is a word's")
            return
        self._tell(_RELEASE, mfa)

    def _outbound(self, address: int, length: int) -> memoryview:
        view = self._space.window(address, length)
        self._table.set_near(*self._space.near)  # the next reply is there, too
        return view

    # --- the rest ---------------------------------------------------------------------------------

    def power_cycle(self, timeout_s: float) -> None:
        """Have the device's power cycled, and wait until it was; raises IopDead."""
        before = self.generation
        self._tell(Word.POWER_CYCLE)
        end_ns = self._clock.monotonic_ns() + round(timeout_s * 1e9)
        while self.generation == before:
            left_ns = end_ns - self._clock.monotonic_ns()
            if left_ns <= 0:
                raise IopDead(f"the IOP's process did not reset within {timeout_s:g} s")
            self.wait(left_ns / 1e9)

    @property
    def reply_pending(self) -> bool:
        """Whether a reply is here already."""
        return self._table.reply_count > 0

    @property
    def is_gone(self) -> bool:
        """Whether the device is known to be gone: whoever asks for a reply is told."""
        return bool(self._why_gone)

    def arm(self) -> bool:
        """Make the channel's descriptors tell of news; False if there is some already."""
        return self._channel.arm()

    def silence(self) -> None:
        """Make the channel's descriptors silent until the next `arm`."""
        self._channel.silence()

    def filenos(self) -> tuple[int, ...]:
        """Return the channel's descriptors, none when it is closed."""
        return self._channel.filenos()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the device tells something; False when the time ran out; raises IopDead.

        Several threads may wait: what one of them takes in ends the waiting of all.
        """
        if self._why_gone:
            self._require_process()
        before = self._table.news
        end_ns = self._clock.monotonic_ns() + round(max(0.0, timeout_s) * 1e9)
        spin_s = min(self._spin_s, timeout_s)
        if spin_s > 0 and self._channel.spin(round(spin_s * 1e9)):
            self.drain()
        while self._table.news == before:
            if self._table.is_held or not self._channel.arm():
                self.drain()
                continue
            left_s = max(0.0, (end_ns - self._clock.monotonic_ns()) / 1e9)
            if self._sleep(min(left_s, _SLICE_S)):
                self._channel.silence()
                self.drain()
                self._look()
            elif left_s <= _SLICE_S:
                return self._table.news != before
        return True

    def _sleep(self, timeout_s: float) -> bool:
        """Sleep on the channel's descriptors; return whether there is something to look at."""
        poller = select.poll()
        descriptors = self._channel.filenos()
        for descriptor in descriptors:
            poller.register(descriptor, select.POLLIN)
        return not descriptors or bool(poller.poll(timeout_s * 1000))

    def drain(self) -> bool:
        """Take in what the device has told; return whether that was anything.

        Raises:
            IopDead: that was nothing, and the process is gone.
        """
        with self._lock:
            try:
                rest = self._take_in()
            except PeerGone as error:
                self._give_up(str(error))
                rest = None
            if rest is None:
                if self._why_gone:
                    self._require_process()
                return False
            records = _records_of(rest)
            try:
                for word, value, more in records:
                    self._take(word, value, more)
            finally:
                try:  # an interrupt costs what it hit, and nothing behind that
                    for word, value, more in records:
                        self._take(word, value, more)
                finally:
                    self._table.resume()
            return True

    def _take_in_packets(self) -> memoryview | None:
        """Take packets; return what the table did not understand, or None if there were none."""
        taken = self._channel.take(_RECORD_SIZE)
        if taken is None:
            return None
        self._table.news += 1
        return taken[self._table.sift(taken) :]

    def let_go(self) -> None:
        """Have nothing to do with the device any more; everything else raises IopDead from now on.

        It may go on writing to the shared memory, which is not given to anything else.
        """
        self._give_up("it was let go of")
        self._channel.close()

    def close(self) -> None:
        """Let go of the shared memory and the channel."""
        self._channel.close()
        self._table.detach()
        self._space.close()
        self._segment.close()

    # --- what the device tells -------------------------------------------------------------------

    def _take(self, word: int, value: int, more: int) -> None:
        table = self._table
        if word == _REPLY:
            if not table.put_reply(value):
                self._refuse("there are more replies than there can be")
        elif word == _FREE:
            self._static.pop(value, None)
            if not table.put_free(value):
                self._refuse(f"MFA {value:#010x} became free, which is no frame or was free before")
        elif word == Word.PRESERVE and table.hold(value):
            self._static.pop(value, None)
        elif word == Word.DROP:
            table.drop_replies()
        elif word == Word.STARVE:
            table.is_starved = bool(value)
        elif word == Word.STATIC and more <= _MOST_POSTS and table.fix(value):
            self._static[value] = more
        elif word == Word.RENEW and self._static.get(value, _MOST_POSTS) < _MOST_POSTS:
            self._static[value] += 1
        elif word == Word.REFILL:
            self._static.clear()
            table.refill(value)
        else:
            self._refuse(f"record {word} with {value:#x} and {more:#x} makes no sense")

    def _refuse(self, sentence: str) -> None:
        """Have nothing more to do with a device that tells nonsense."""
        self._give_up(f"it does not keep to the rules: {sentence}")

    def _give_up(self, reason: str) -> None:
        self._why_gone = self._why_gone or reason
        self._table.is_gone = True

    # --- the other process -----------------------------------------------------------------------

    def _look(self) -> None:
        """Look whether the other process is there; raise IopDead if nothing is left of it."""
        if not self._why_gone:
            try:
                self._channel.check()
            except PeerGone as error:
                has_news = self.drain()
                self._give_up(str(error))
                if has_news or self._table.reply_count:  # what it said before it died counts
                    return
            else:
                self._table.trusted_until_ns = self._now_ns() + _TRUST_NS
        self._require_process()

    def _require_process(self) -> None:
        if self._why_gone:
            raise IopDead(f"the IOP's process is gone: {self._why_gone}")

    def _tell_cover(self, address: int, length: int) -> None:
        self._look()
        self._tell(Word.COVER, address, length)

    def _tell_uncover(self, address: int) -> None:
        self._table.set_near(0, 0)
        with contextlib.suppress(IopDead):  # a buffer may be freed when nobody is there any more
            self._tell(Word.UNCOVER, address)

    def _tell(self, word: int, value: int = 0, more: int = 0) -> None:
        """Tell the device something, waiting for room if need be; raises IopDead."""
        if self._why_gone:
            self._require_process()
        if self._now_ns() >= self._table.trusted_until_ns:
            self._look()  # memory takes what nobody reads: an end is noticed by looking only
            self._require_process()
        try:
            if self._send_record(word, value, more):
                return
            end_ns = self._clock.monotonic_ns() + round(_PATIENCE_S * 1e9)
            while not self._send_record(word, value, more):
                self.drain()  # it may itself wait until it can tell us something
                left_s = (end_ns - self._clock.monotonic_ns()) / 1e9
                if left_s <= 0:
                    self._give_up(f"it did not take what it was told for {_PATIENCE_S:g} s")
                    break
                self._channel.wait_for_room(min(left_s, _SLICE_S))
        except PeerGone as error:
            self._give_up(str(error))
        self._require_process()


def _take_in_ring(table: Any, channel: RingChannel) -> bytes | None:
    """Take packets; return what the table did not understand, or None if there were none."""
    code = table.take_in()
    if code < 0:
        channel.nothing(code)
        return None
    rest: bytes = table.rest()
    return rest
