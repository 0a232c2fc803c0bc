# SPDX-License-Identifier: Apache-2.0
"""One end of a ring of packets in shared memory: one producer, one consumer, compiled accesses.

A ring is 256 bytes of control words and a power of two bytes of data. Only compiled code touches
them: its atomic accesses and fences are what makes the packets of one side whole for the other.
What the other side writes is checked there, each time, before it is used.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from mmap import mmap
from typing import Any, Final, NamedTuple

from i2o.errors import I2OError, LocalFrameError

CONTROL_SIZE: Final = 256
"""Bytes of a ring's control words: tail, head, "sleeps" and "waits", 64 bytes apart."""
EMPTY_RING: Final = -1
"""What `Consumer.pop` returns when there is no packet."""
_BROKEN: Final = -2
PUSHED: Final = 1
"""What `Producer.push` returns when a packet is in."""


class RingBroken(I2OError):
    """The other side has written what cannot be: its ring is not used any more."""


def native_rings() -> Any:
    """Return the compiled extension if it has rings (an old build has not all of it), or None."""
    try:
        native = import_module("i2o.transport._native")
    except ImportError:
        return None
    return native if hasattr(native.lib, "i2o_is_quiet") else None


def packet_limit(size: int) -> int:
    """Return the bytes of the largest packet that a ring with `size` bytes of data takes."""
    return size // 4


class RingPlace(NamedTuple):
    """Where a ring is.

    Attributes:
        memory: what it is in: a mapping, no view of one. Compiled code has its address.
        control_at: offset of the control words.
        data_at: offset of the data.
        size: bytes of the data.
    """

    memory: mmap | bytearray
    control_at: int
    data_at: int
    size: int


class _End:
    """What both ends have in common.

    Attributes:
        ring: as compiled code knows it.
    """

    def __init__(self, native: Any, place: RingPlace, wake_fd: int) -> None:
        ffi, lib = native.ffi, native.lib
        memory, control_at, data_at, size = place
        ends = control_at + CONTROL_SIZE, data_at + size
        self._kept: tuple[Any, ...] = (ffi.from_buffer(memory),)
        self.ring = ffi.new("i2o_ring *")
        if (
            min(control_at, data_at, size) < 0
            or max(ends) > len(memory)
            or lib.i2o_ring_open(
                self.ring, self._kept[0] + control_at, self._kept[0] + data_at, size, wake_fd
            )
        ):
            raise LocalFrameError(f"{size} bytes at {data_at:#x} of {len(memory):#x} are no ring")
        self._close, self._release = lib.i2o_ring_close, ffi.release

    def _bind(self, function: Any, *more: object) -> partial[int]:
        """Return a function of this end, which keeps the memory for as long as it can be called."""
        bound: partial[int] = partial(function, self.ring, *more)
        bound.__dict__["kept"] = self._kept
        return bound

    def close(self) -> None:
        """Let go of the memory and the eventfd: every use of this end fails from now on."""
        self._close(self.ring)
        kept, self._kept = self._kept, ()
        for buffer in kept:
            self._release(buffer)


class Producer(_End):
    """Puts packets in.

    Args:
        native: see `native_rings`.
        place: where the ring is.
        wake_fd: an eventfd that is written when the consumer sleeps; -1 for none. Stays the
            caller's.
    """

    def __init__(self, native: Any, place: RingPlace, wake_fd: int) -> None:
        super().__init__(native, place, wake_fd)
        lib = native.lib
        self._from_buffer = native.ffi.from_buffer
        self._push_two = self._bind(lib.i2o_ring_push_two)
        self.push = self._bind(lib.i2o_ring_push)
        """Put in a packet, given as bytes and their number.

        Returns PUSHED, or what `check` understands. Where there is no room, the consumer writes
        our eventfd when it has made some.
        """
        self.push_record = self._bind(lib.i2o_ring_push_record)
        """Put in a packet of three words; returns what `push` does."""

    def push_two(self, head: bytes, rest: bytes | bytearray | memoryview) -> int:
        """Put in a packet of two parts; returns what `push` does."""
        code: int = self._push_two(head, len(head), self._from_buffer(rest), len(rest))
        return code

    def check(self, code: int, length: int) -> None:
        """Return if there was only no room for a packet.

        Raises:
            RingBroken: the other side has written nonsense.
            LocalFrameError: the packet is larger than the ring takes.
        """
        if code == _BROKEN:
            if length > self.ring.limit:
                raise LocalFrameError(
                    f"a packet of {length} bytes: this ring takes {self.ring.limit}"
                )
            raise RingBroken("the other side's place in the ring cannot be")


class Consumer(_End):
    """Takes packets out.

    Args:
        native: see `native_rings`.
        place: where the ring is.
        wake_fd: an eventfd that is written when the producer waits for room; -1 for none.
        room: bytes of the largest packet that is expected; a larger one breaks the ring.

    Attributes:
        packet: what was taken out last is at its start.
    """

    def __init__(self, native: Any, place: RingPlace, wake_fd: int, room: int) -> None:
        super().__init__(native, place, wake_fd)
        ffi, lib = native.ffi, native.lib
        self._buffer = ffi.new("char[]", 2 * room)
        self.packet = memoryview(ffi.buffer(self._buffer))
        self.pop_within = self._bind(lib.i2o_ring_pop, self._buffer, room)
        """Look for a packet so many nanoseconds without the interpreter's lock; then `pop`."""
        self.pop = self._bind(lib.i2o_ring_pop, self._buffer, room, 0)
        """Take a packet out, into `packet`; returns its length, or EMPTY_RING; else see `check`."""
        self.take = self._bind(lib.i2o_ring_take, self._buffer, 2 * room)
        """Take packets out, into `packet`, one behind another.

        Given is the grain: what is left over at the end of a packet when it is cut into pieces of
        so many bytes is left out. Returns how many bytes there are, which is more than `room` if
        a packet may be left; or what `pop` returns.
        """
        self.pending = self._bind(lib.i2o_ring_pending)
        """Return whether there is a packet, as far as one sees without a lock."""
        self.disarm = self._bind(lib.i2o_ring_disarm)
        """Take back what `arm` said."""
        self._arm = self._bind(lib.i2o_ring_arm)
        self.spin = self._bind(lib.i2o_ring_spin)
        """Look for a packet so many nanoseconds, without the interpreter's lock.

        Returns whether one came.
        """

    def check(self, length: int) -> None:
        """Raise RingBroken if what `pop` returned says that the other side has written nonsense."""
        if length == _BROKEN:
            raise RingBroken("what the other side put into the ring cannot be")

    def arm(self) -> bool:
        """Say that we are going to sleep, so that the next packet is told by the eventfd.

        Returns:
            False if a packet is there already: then nothing was said, and sleeping is wrong.
        """
        return bool(self._arm())
