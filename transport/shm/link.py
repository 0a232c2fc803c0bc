# SPDX-License-Identifier: Apache-2.0
"""A connection of two processes: the memory that they share, and the channel over it.

`offer` is the side that was connected to: it makes memory and eventfds, and hands them over. `take`
is the side that connected: it checks what it is handed before it uses it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import NamedTuple

from i2o.errors import RemoteFrameError
from i2o.transport.shm.channel import Channel, RingChannel, SocketChannel
from i2o.transport.shm.greeting import Hello, Mode, Welcome, close_all, say
from i2o.transport.shm.ring import native_rings, packet_limit
from i2o.transport.shm.segment import Segment, Shape

_EVENTFD = "anon_inode:[eventfd]"


class Link(NamedTuple):
    """What a connection consists of.

    Attributes:
        channel: carries packets; it owns the socket, and is closed before the segment.
        segment: what is shared.
    """

    channel: Channel
    segment: Segment

    def close(self) -> None:
        """Close both."""
        self.channel.close()
        self.segment.close()


def own_modes() -> Mode:
    """Return how this process can carry packets."""
    return Mode.SOCKET if native_rings() is None else Mode.RINGS | Mode.SOCKET


def offer(end: socket.socket, hello: Hello, shape: Shape, text: str, room: int) -> Link:
    """Welcome somebody.

    Args:
        end: the socket, the link's from now on if this returns.
        hello: what was said.
        shape: what is to be shared.
        text: what stands behind it, in words.
        room: bytes of the largest packet.

    Raises:
        OSError: the other side is gone, or there are no descriptors.
        LocalFrameError: there is no segment of that shape.
    """
    native = native_rings() if Mode.RINGS in hello.modes else None
    segment, memory = Segment.make(shape)
    with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as always:
        on_failure.callback(segment.close)
        always.callback(os.close, memory)
        if native is None:
            say(end, Welcome(Mode.SOCKET, shape, text, (memory,)))
            channel: Channel = SocketChannel(end, room)
        else:
            bells = []
            for _ in range(2):
                bells.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
                on_failure.callback(os.close, bells[-1])
            theirs, ours = bells
            say(end, Welcome(Mode.RINGS, shape, text, (memory, theirs, ours)))
            channel = RingChannel(
                native,
                end,
                segment,
                is_host=False,
                own_bell=ours,
                other_bell=theirs,
                room=min(room, packet_limit(shape.ring_size)),
            )
        on_failure.pop_all()
    return Link(channel, segment)


def take(end: socket.socket, welcome: Welcome, room: int) -> Link:
    """Take what a welcome brings; its descriptors are closed or owned afterwards, whatever happens.

    Args:
        end: the socket, the link's from now on if this returns.
        welcome: what was said.
        room: bytes of the largest packet.

    Raises:
        RemoteFrameError: it is not what it should be.
    """
    memory, *bells = welcome.descriptors
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(close_all, bells)
        try:
            segment = Segment.adopt(memory, welcome.shape)
        finally:
            os.close(memory)
        on_failure.callback(segment.close)
        channel: Channel
        if welcome.mode is Mode.SOCKET:
            channel = SocketChannel(end, room)
        else:
            native = native_rings()
            if native is None:
                raise RemoteFrameError("rings were not offered")
            for bell in bells:
                if os.readlink(f"/proc/self/fd/{bell}") != _EVENTFD:
                    raise RemoteFrameError("what was handed over is no eventfd")
                os.set_blocking(bell, False)
            own, other = bells
            channel = RingChannel(
                native,
                end,
                segment,
                is_host=True,
                own_bell=own,
                other_bell=other,
                room=min(room, packet_limit(welcome.shape.ring_size)),
            )
        on_failure.pop_all()
    return Link(channel, segment)
