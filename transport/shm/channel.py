# SPDX-License-Identifier: Apache-2.0
"""What carries packets between two processes: whole, in order, with a way to sleep until one comes.

`RingChannel` is two rings in shared memory, with an eventfd for each side to sleep on.
`SocketChannel` sends the same packets over the socket by which the two found one another: a system
call on each side orders the memory that they share, so it needs no compiled code and is right on
every machine. Either notices by the socket that the other process is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import Any, Final, Protocol

from i2o.errors import I2OError
from i2o.transport.shm.ring import EMPTY_RING, PUSHED, Consumer, Producer, RingBroken
from i2o.transport.shm.segment import TO_DEVICE, TO_HOST, Segment

_SOCKET_BUFFER: Final = 1 << 20
_DONTWAIT: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class PeerGone(I2OError):
    """The other process ended, closed its end, or does not keep to the rules."""


class Channel(Protocol):
    """One end."""

    room: int
    """Bytes of the largest packet."""

    def send(self, packet: bytes) -> bool:
        """Send a packet; return False if there is no room now. Raises PeerGone."""

    def send_record(self, word: int, value: int, more: int) -> bool:
        """Send a packet of three words; see `send`."""

    def send_two(self, head: bytes, rest: bytes | bytearray | memoryview) -> bool:
        """Send a packet of two parts; see `send`."""

    def receive(self) -> memoryview | None:
        """Take the next packet, which is there until the next call; None if there is none.

        Raises:
            PeerGone: there is none, and there will be none.
        """

    def receive_within(self, nanoseconds: int) -> memoryview | None:
        """Look for a packet for so long at most, if looking costs little; then `receive`."""

    def take(self, grain: int) -> memoryview | None:
        """Take the packets that are there, one behind another, which are there until the next call.

        Args:
            grain: of each packet only as many pieces of so many bytes are taken as there are.

        Returns:
            What they hold, more than `room` if some may be left; None if there are none.

        Raises:
            PeerGone: there are none, and there will be none.
        """

    def has_packet(self) -> int:
        """Return whether `receive` is worth calling. Costs little, and may miss the end."""

    def check(self) -> None:
        """Raise PeerGone if the other process is gone."""

    def is_over(self) -> bool:
        """Return whether the other process has closed its end, whatever it has left to read."""

    def arm(self) -> bool:
        """Make `filenos` tell of the next packet; False if one is there already."""

    def silence(self) -> None:
        """Take in what `filenos` told of wake-ups; what it told of packets stays."""

    def spin(self, nanoseconds: int, /) -> int:
        """Wait for a packet so long without sleeping; return whether one came."""

    def filenos(self) -> tuple[int, ...]:
        """Return descriptors that are readable when there is something to do; none if closed."""

    def room_filenos(self) -> tuple[int, ...]:
        """Return descriptors that are writable when there is room; none if `filenos` tell it."""

    def wait_for_room(self, timeout_s: float) -> None:
        """Wait until the other side has taken something, for so long at most."""

    def close(self) -> None:
        """Close the socket and let go of the memory."""


class SocketChannel:
    """Packets over a SEQPACKET socket.

    Args:
        end: the socket, which the channel owns from now on.
        room: bytes of the largest packet.
    """

    def __init__(self, end: socket.socket, room: int) -> None:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        self._end, self.room = end, room
        self._refused = ""  # for what it sent
        self._buffer = bytearray(2 * room + 1)
        self._view = memoryview(self._buffer)

    def send(self, packet: bytes) -> bool:
        """Send a packet; return False if there is no room now. Raises PeerGone."""
        try:
            self._end.send(packet, _DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            raise PeerGone(f"the other process is gone: {error.strerror}") from None
        return True

    def send_record(self, word: int, value: int, more: int) -> bool:
        """Send a packet of three words."""
        return self.send(
            word.to_bytes(4, "little") + value.to_bytes(4, "little") + more.to_bytes(4, "little")
        )

    def send_two(self, head: bytes, rest: bytes | bytearray | memoryview) -> bool:
        """Send a packet of two parts."""
        return self.send(b"".join((head, rest)))

    def receive(self) -> memoryview | None:
        """Take the next packet, or None; raises PeerGone."""
        size = self._receive_at(0)
        return None if size is None else self._view[:size]

    def receive_within(self, nanoseconds: int) -> memoryview | None:
        """Take the next packet, or None, at once: looking costs a system call each time."""
        return self.receive()

    def take(self, grain: int) -> memoryview | None:
        """Take the packets that are there, or None; raises PeerGone."""
        taken = self._receive_at(0)
        if taken is None:
            return None
        taken -= taken % grain
        with contextlib.suppress(PeerGone):  # which the next call notices as well
            while taken <= self.room:
                size = self._receive_at(taken)
                if size is None:
                    break
                taken += size - size % grain
        return self._view[:taken]

    def _receive_at(self, place: int) -> int | None:
        """Take a packet into a place of the buffer; return its size, or None; raises PeerGone."""
        if self._refused:
            raise PeerGone(self._refused)
        try:
            size = self._end.recv_into(
                self._view[place : place + self.room + 1], 0, socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return None
        except OSError as error:
            raise PeerGone(f"the other process is gone: {error.strerror}") from None
        if not size:
            raise PeerGone("the other process is gone")
        if size > self.room:
            self._refused = f"the other process sent more than {self.room} bytes in one packet"
            raise PeerGone(self._refused)
        return size

    def has_packet(self) -> int:
        """Return 1: who looks asks the kernel anyway."""
        return 1

    def check(self) -> None:
        """Do nothing: `receive` notices."""

    def is_over(self) -> bool:
        """Return whether the other end of the socket is closed."""
        return is_over(self._end)

    def arm(self) -> bool:
        """Return True: the socket is readable as long as a packet is there."""
        return True

    def silence(self) -> None:
        """Do nothing: there are no other wake-ups."""

    def spin(self, nanoseconds: int, /) -> int:
        """Return 0: looking costs a system call each time, so one may sleep as well."""
        return 0

    def filenos(self) -> tuple[int, ...]:
        """Return the socket."""
        fileno = self._end.fileno()
        return () if fileno < 0 else (fileno,)

    def room_filenos(self) -> tuple[int, ...]:
        """Return the socket."""
        return self.filenos()

    def wait_for_room(self, timeout_s: float) -> None:
        """Wait until the socket takes more."""
        _poll(self.filenos(), select.POLLOUT, timeout_s)

    def close(self) -> None:
        """Close the socket."""
        self._end.close()


class RingChannel:
    """Packets in two rings.

    Args:
        native: the compiled extension.
        end: the socket, which nothing is sent over; owned from now on.
        segment: where the rings are; stays the caller's, who closes it after the channel.
        is_host: whether this is the side that the ring TO_HOST leads to.
        own_bell: the eventfd that we sleep on; owned from now on.
        other_bell: the one that the other side sleeps on; owned from now on.
        room: bytes of the largest packet.
    """

    def __init__(
        self,
        native: Any,
        end: socket.socket,
        segment: Segment,
        *,
        is_host: bool,
        own_bell: int,
        other_bell: int,
        room: int,
    ) -> None:
        end.setblocking(False)
        self._end, self.room = end, room
        self._own_bell, self._other_bell = own_bell, other_bell
        outgoing, incoming = (TO_DEVICE, TO_HOST) if is_host else (TO_HOST, TO_DEVICE)
        self._producer = Producer(native, segment.ring(outgoing), other_bell)
        self._consumer = consumer = Consumer(native, segment.ring(incoming), other_bell, room)
        self._push, self._push_two = self._producer.push, self._producer.push_two
        self._push_record = self._producer.push_record
        self._pop, self._take, self._packet = consumer.pop, consumer.take, consumer.packet
        self._pop_within = consumer.pop_within
        self.has_packet, self.spin = consumer.pending, consumer.spin
        self._is_quiet, self._cast = native.lib.i2o_is_quiet, native.ffi.cast
        self._is_broken = False

    def send(self, packet: bytes) -> bool:
        """Send a packet; return False if there is no room now. Raises PeerGone."""
        size = len(packet)
        code = self._push(packet, size)
        return code == PUSHED or self._not_sent(code, size)

    def send_record(self, word: int, value: int, more: int) -> bool:
        """Send a packet of three words."""
        code = self._push_record(word, value, more)
        return code == PUSHED or self._not_sent(code, 12)

    def send_two(self, head: bytes, rest: bytes | bytearray | memoryview) -> bool:
        """Send a packet of two parts."""
        code = self._push_two(head, rest)
        return code == PUSHED or self._not_sent(code, len(head) + len(rest))

    @property
    def socket(self) -> int:
        """The socket, by whose end one notices that the other process is gone; -1 if closed."""
        return self._end.fileno()

    def rings(self) -> tuple[object, int, int]:
        """Return what keeps the two rings, and the addresses of that we take from and the other."""
        rings = self._consumer.ring, self._producer.ring
        incoming, outgoing = (int(self._cast("uintptr_t", ring)) for ring in rings)
        return rings, incoming, outgoing

    def receive(self) -> memoryview | None:
        """Take the next packet, or None; raises PeerGone."""
        size = self._pop()
        if size >= 0:
            return self._packet[:size]
        self.nothing(size)
        return None

    def receive_within(self, nanoseconds: int) -> memoryview | None:
        """Look for a packet for so long without the interpreter's lock; then `receive`."""
        size = self._pop_within(nanoseconds)
        if size >= 0:
            return self._packet[:size]
        self.nothing(size)
        return None

    def take(self, grain: int) -> memoryview | None:
        """Take the packets that are there, or None; raises PeerGone."""
        size = self._take(grain)
        if size >= 0:
            return self._packet[:size]
        self.nothing(size)
        return None

    def nothing(self, code: int) -> None:
        """Return if a ring is only empty, as such a code says; raise PeerGone if it is broken."""
        if code == EMPTY_RING:
            return
        try:
            self._consumer.check(code)
        except RingBroken as error:
            raise self._broken(error) from None

    def check(self) -> None:
        """Raise PeerGone if the other process is gone, or has been found to write nonsense."""
        if self._is_broken:
            raise PeerGone("the other process wrote what cannot be")
        if self._is_quiet(self._end.fileno()):
            return
        try:
            said = self._end.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise PeerGone(f"the other process is gone: {error.strerror}") from None
        if said:
            self._is_broken = True
            raise PeerGone("the other process said something that it must not say here")
        raise PeerGone("the other process is gone")

    def is_over(self) -> bool:
        """Return whether the other end of the socket is closed."""
        return is_over(self._end)

    def arm(self) -> bool:
        """Make the eventfd tell of the next packet; False if one is there already."""
        return self._consumer.arm()

    def silence(self) -> None:
        """Read the eventfd empty, and have no more wake-ups until the next `arm`."""
        self._consumer.disarm()
        with contextlib.suppress(OSError, ValueError):  # nothing to read, or closed
            os.eventfd_read(self._own_bell)

    def filenos(self) -> tuple[int, ...]:
        """Return the eventfd and the socket."""
        fileno = self._end.fileno()
        return () if fileno < 0 else (self._own_bell, fileno)

    def room_filenos(self) -> tuple[int, ...]:
        """Return none: the eventfd tells of room, too."""
        return ()

    def wait_for_room(self, timeout_s: float) -> None:
        """Wait until the other side has written our eventfd, or is gone."""
        _poll(self.filenos(), select.POLLIN, timeout_s)
        self.silence()

    def close(self) -> None:
        """Close the socket and the eventfds."""
        if self._end.fileno() < 0:
            return
        self._producer.close()
        self._consumer.close()
        self._end.close()
        bells = self._own_bell, self._other_bell
        self._own_bell = self._other_bell = -1
        for bell in bells:
            os.close(bell)

    def _not_sent(self, code: int, size: int) -> bool:
        """Return False; raise PeerGone if there will never be room."""
        try:
            self._producer.check(code, size)
        except RingBroken as error:
            raise self._broken(error) from None
        self.check()
        return False

    def _broken(self, error: RingBroken) -> PeerGone:
        self._is_broken = True
        return PeerGone(f"the other process does not keep to the rules: {error}")


def is_over(end: socket.socket) -> bool:
    """Return whether the other end of a socket is closed."""
    if end.fileno() < 0:
        return True
    poller = select.poll()
    poller.register(end.fileno(), select.POLLRDHUP)
    return bool(poller.poll(0))


def _poll(descriptors: tuple[int, ...], wanted: int, timeout_s: float) -> None:
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, wanted)
    poller.poll(max(0.0, timeout_s) * 1000)
