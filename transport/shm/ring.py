# SPDX-License-Identifier: Apache-2.0
"""One end of a ring of packets in shared memory: one producer, one consumer, compiled accesses.

A ring is 256 bytes of control words and a power of two bytes of data. Only compiled code touches
them: its atomic accesses and fences are what makes the packets of one side whole for the other.
What the other side writes is checked there, each time, before it is used.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any, Final

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
    """Return the compiled extension if it has rings, or None."""
    try:
        native = import_module("i2o.transport._native")
    except ImportError:
        return None
    return native if hasattr(native.lib, "i2o_ring_open") else None


def packet_limit(size: int) -> int:
    """Return the bytes of the largest packet that a ring with `size` bytes of data takes."""
    return size // 4


class _End:
    """What both ends have in common."""

    def __init__(self, native: Any, control: memoryview, data: memoryview, wake_fd: int) -> None:
        ffi, lib = native.ffi, native.lib
        self._kept: tuple[Any, ...] = ffi.from_buffer(control), ffi.from_buffer(data)
        self._ring = ffi.new("i2o_ring *")
        if len(control) < CONTROL_SIZE or lib.i2o_ring_open(
            self._ring, *self._kept, len(data), wake_fd
        ):
            raise LocalFrameError(f"{len(control)} + {len(data)} bytes are no ring")
        self._close, self._release = lib.i2o_ring_close, ffi.release

    def close(self) -> None:
        """Let go of the memory and the eventfd: every use of this end fails from now on."""
        self._close(self._ring)
        kept, self._kept = self._kept, ()
        for buffer in kept:
            self._release(buffer)


class Producer(_End):
    """Puts packets in.

    Args:
        native: see `native_rings`.
        control: the control words.
        data: the data.
        wake_fd: an eventfd that is written when the consumer sleeps; -1 for none. Stays the
            caller's.
    """

    def __init__(self, native: Any, control: memoryview, data: memoryview, wake_fd: int) -> None:
        super().__init__(native, control, data, wake_fd)
        lib = native.lib
        self._from_buffer = native.ffi.from_buffer
        self._push_two = partial(lib.i2o_ring_push_two, self._ring)
        self.push = partial(lib.i2o_ring_push, self._ring)
        """Put in a packet, given as bytes and their number.

        Returns PUSHED, or what `check` understands. Where there is no room, the consumer writes
        our eventfd when it has made some.
        """
        self.push_record = partial(lib.i2o_ring_push_record, self._ring)
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
            if length > self._ring.limit:
                raise LocalFrameError(
                    f"a packet of {length} bytes: this ring takes {self._ring.limit}"
                )
            raise RingBroken("the other side's place in the ring cannot be")


class Consumer(_End):
    """Takes packets out.

    Args:
        native: see `native_rings`.
        control: the control words.
        data: the data.
        wake_fd: an eventfd that is written when the producer waits for room; -1 for none.
        room: bytes of the largest packet that is expected; a larger one breaks the ring.

    Attributes:
        packet: what was popped last is at its start.
    """

    def __init__(
        self, native: Any, control: memoryview, data: memoryview, wake_fd: int, room: int
    ) -> None:
        super().__init__(native, control, data, wake_fd)
        ffi, lib = native.ffi, native.lib
        self._buffer = ffi.new("char[]", room)
        self.packet = memoryview(ffi.buffer(self._buffer))
        self.pop = partial(lib.i2o_ring_pop, self._ring, self._buffer, room)
        """Take a packet out, into `packet`; returns its length, or EMPTY_RING; else see `check`."""
        self.pending = partial(lib.i2o_ring_pending, self._ring)
        """Return whether there is a packet, as far as one sees without a lock."""
        self.disarm = partial(lib.i2o_ring_disarm, self._ring)
        """Take back what `arm` said."""
        self._arm = partial(lib.i2o_ring_arm, self._ring)
        self._spin = partial(lib.i2o_ring_spin, self._ring)

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

    def spin(self, seconds: float) -> bool:
        """Look for a packet for so long, without the interpreter lock; return whether one came."""
        return bool(self._spin(round(seconds * 1e9)))
