# SPDX-License-Identifier: Apache-2.0
"""What two processes say before they share memory: who connects, what is shared, or why nothing is.

Whoever connects says HELLO and how packets may be carried. The answer is WELCOME, with descriptors
of everything that is shared, or REFUSED with a reason. A HELLO that names no way only asks, and is
refused with how things are. Each is one packet of a SEQPACKET socket.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from construct import Int16ul, Int32ul

from i2o.errors import RemoteFrameError
from i2o.frames.layout import structure
from i2o.transport.shm.segment import Shape

MAGIC: Final = 0x4D485332  # "2SHM"
VERSION: Final = 1
MAX_GREETING: Final = 4096
MAX_DESCRIPTORS: Final = 3
_CREDENTIALS: Final = struct.Struct("iii")

GREETING: Final = structure(
    "Greeting",
    "magic" / Int32ul,
    "version" / Int16ul,
    "kind" / Int16ul,
    "code" / Int32ul,
    "pid" / Int32ul,
    chapter="shm",
)
SHAPE: Final = structure(
    "Shape",
    "frame_count" / Int32ul,
    "frame_size" / Int32ul,
    "ring_size" / Int32ul,
    "arena_size" / Int32ul,
    chapter="shm",
)


class Kind(IntEnum):
    """What a greeting is."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3


class Mode(IntFlag):
    """How packets can be carried: the code of HELLO (all that are possible) and WELCOME (one)."""

    RINGS = 1
    SOCKET = 2


class Refusal(IntEnum):
    """Why there is no WELCOME: the code of REFUSED."""

    IDLE = 1
    """It was only asked, and somebody could connect."""
    BUSY = 2
    """Somebody else is connected: the process `pid`."""
    CROSSING = 3
    """We are connecting to you at this moment: take that one."""
    UNABLE = 4
    """It cannot be done."""


class Peer(NamedTuple):
    """The process at the other end of a socket, as the kernel knows it."""

    pid: int
    uid: int


class Hello(NamedTuple):
    """Somebody wants to connect.

    Attributes:
        modes: how packets can be carried; none if it only asks.
        name: what the connecting side is called.
    """

    modes: Mode
    name: str


class Welcome(NamedTuple):
    """The connection stands.

    Attributes:
        mode: how packets are carried.
        shape: what is in the shared memory.
        text: what stands behind it, in words.
        descriptors: the memory; with rings, also the eventfd of whoever connected and the other's.
    """

    mode: Mode
    shape: Shape
    text: str
    descriptors: tuple[int, ...]


class Refused(NamedTuple):
    """There is no connection.

    Attributes:
        code: why.
        pid: with BUSY, whose it is; 0 if nobody knows.
        reason: why, in words.
        remedy: what to do about it.
    """

    code: Refusal
    pid: int
    reason: str
    remedy: str = ""


def peer_of(end: socket.socket) -> Peer:
    """Return who is at the other end of a socket."""
    data = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return Peer(pid, uid)


def may_share(peer: Peer) -> bool:
    """Whether a process is one of this user's, or of root's."""
    return peer.uid in (os.geteuid(), 0)


def say(end: socket.socket, greeting: Hello | Welcome | Refused) -> None:
    """Send a greeting; raises OSError."""
    rights: tuple[int, ...] = ()
    if isinstance(greeting, Hello):
        kind, code, pid, text = Kind.HELLO, int(greeting.modes), os.getpid(), greeting.name
        body = b""
    elif isinstance(greeting, Welcome):
        kind, code, pid, text = Kind.WELCOME, int(greeting.mode), os.getpid(), greeting.text
        body = SHAPE.build(**greeting.shape._asdict())
        rights = greeting.descriptors
    else:
        kind, code, pid = Kind.REFUSED, int(greeting.code), greeting.pid
        text, body = f"{greeting.reason}\0{greeting.remedy}", b""
    head = GREETING.build(magic=MAGIC, version=VERSION, kind=int(kind), code=code, pid=pid)
    data = (head + body + text.encode("utf-8", "replace"))[:MAX_GREETING]
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", rights))] if rights else []
    end.sendmsg([data], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def hear(end: socket.socket) -> Hello | Welcome | Refused:
    """Receive a greeting.

    The descriptors of a WELCOME are the caller's; others are closed.

    Raises:
        BlockingIOError, TimeoutError: none is there.
        OSError: the other side is gone.
        RemoteFrameError: it is no greeting.
    """
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
    data, ancillary, flags, _ = end.recvmsg(MAX_GREETING, room, socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) // 4 * 4])
            descriptors += numbers
    try:
        if not data:
            raise ConnectionResetError("the other side is gone")
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise RemoteFrameError("a greeting that is too long")
        greeting = _read(data, descriptors)
    except BaseException:
        close_all(descriptors)
        raise
    if not isinstance(greeting, Welcome):
        close_all(descriptors)
    return greeting


def _read(data: bytes, descriptors: list[int]) -> Hello | Welcome | Refused:
    head = GREETING.unpack_from(data)
    if head.magic != MAGIC:
        raise RemoteFrameError(f"a greeting that begins with {head.magic:#010x}, not {MAGIC:#010x}")
    if head.version != VERSION:
        raise RemoteFrameError(
            f"the other side speaks version {head.version} of the shared memory, this is {VERSION}"
        )
    body = data[GREETING.size :]
    if head.kind == Kind.HELLO:
        return Hello(Mode(head.code & 3), _text(body))
    if head.kind == Kind.WELCOME:
        shape = Shape(**{name: getattr(SHAPE.unpack_from(body), name) for name in Shape._fields})
        if head.code not in (Mode.RINGS, Mode.SOCKET):
            raise RemoteFrameError(f"packets cannot be carried by way {head.code}")
        mode = Mode(head.code)
        if len(descriptors) != (3 if mode is Mode.RINGS else 1):
            raise RemoteFrameError(f"{len(descriptors)} descriptors came with a welcome")
        return Welcome(mode, shape, _text(body[SHAPE.size :]), tuple(descriptors))
    if head.kind == Kind.REFUSED:
        if head.code not in Refusal.__members__.values():
            raise RemoteFrameError(f"a refusal for reason {head.code}")
        reason, _, remedy = _text(body).partition("\0")
        return Refused(Refusal(head.code), head.pid, reason, remedy)
    raise RemoteFrameError(f"a greeting of kind {head.kind}")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def close_all(descriptors: tuple[int, ...] | list[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
