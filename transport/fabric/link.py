# SPDX-License-Identifier: Apache-2.0
"""A link with one peer, and what it is from one loss to the next: greeting, frames, end."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Protocol

from i2o.errors import RemoteFrameError
from i2o.transport.fabric.flags import ADDR_UNSPEC, EndpointType
from i2o.transport.fabric.frames import (
    ABORT,
    ACK_FORMAT,
    CLEAR,
    DONE,
    HELLO,
    MESSAGE_FORMAT,
    REFUSE,
    SHUTDOWN,
    VERSION,
    AckFlag,
    FrameKind,
)
from i2o.transport.fabric.incoming import Incoming, IncomingDatagrams
from i2o.transport.fabric.outgoing import Outgoing

if TYPE_CHECKING:
    from i2o.transport.fabric.carrier import Carrier
    from i2o.transport.fabric.engine_options import EngineOptions
    from i2o.transport.fabric.inbox import Inbox
    from i2o.transport.fabric.placement import Placement, Placer

_MESSAGE, _PIECE, _ACK = int(FrameKind.MESSAGE), int(FrameKind.PIECE), int(FrameKind.ACK)
_HELLO, _ANSWER = int(FrameKind.HELLO), int(AckFlag.ANSWER)


class LinkEngine(Protocol):
    """The engine, as its links see it."""

    carrier: Carrier
    options: EngineOptions
    endpoint_type: EndpointType
    inbox: Inbox | None
    dirty: list[Link]
    eager_limit: int
    piece_size: int
    window_bytes: int
    incarnation: int
    stale_frames: int

    def new_epoch(self) -> int:
        """Return the epoch of another link."""

    def doom(self, link: Link, code: int, reason: str) -> None:
        """Close a link as soon as the carrier can be called."""


class LinkOwner(Protocol):
    """Who decides about a link: an endpoint, or a listener."""

    def link_up(self, link: Link) -> None:
        """The carrier has a way to the peer."""

    def link_greeted(self, link: Link, endpoint_type: int, parameter: bytes) -> None:
        """The peer's HELLO came: open the link, or refuse it."""

    def link_refused(self, link: Link, code: int, parameter: bytes) -> None:
        """The peer's REFUSE came; the link will be lost at once."""

    def link_shut(self, link: Link) -> None:
        """The peer's SHUTDOWN came; the link will be lost at once."""

    def link_lost(self, link: Link, code: int, reason: str) -> None:
        """The link is lost, and everything that was under way has ended."""


class Link:
    """One peer.

    Args:
        engine: whose carrier has the peer.
        peer: the carrier's number.
        owner: who decides about it.

    Attributes:
        inbox: of the endpoint that its messages are for; None as long as there is none.
        outgoing: the sending half.
        incoming: the receiving half.
        is_open: whether messages may be sent.
        is_dirty: whether the engine knows already that there is something to do.
        epoch: of this side, in every frame.
        life: how many links with this peer were lost.
        is_doomed: whether it will be closed at once.
        is_group: whether it leads to a group.
        address: its fi_addr at the endpoint, if it was inserted.
    """

    __slots__ = (
        "_control",
        "_engine",
        "_has_greeted",
        "_known",
        "_peer_epoch",
        "_send",
        "address",
        "epoch",
        "inbox",
        "incoming",
        "is_dirty",
        "is_doomed",
        "is_group",
        "is_open",
        "life",
        "outgoing",
        "owner",
        "peer",
    )

    def __init__(self, engine: LinkEngine, peer: int, owner: LinkOwner) -> None:
        self._engine, self.peer, self.owner = engine, peer, owner
        self._send = engine.carrier.send
        options = engine.options
        is_reliable = engine.endpoint_type is not EndpointType.DGRAM
        self.inbox: Inbox | None = engine.inbox
        self.outgoing = Outgoing(
            self,
            engine.carrier.send,
            eager_limit=engine.eager_limit,
            piece_size=engine.piece_size,
            is_reliable=is_reliable,
        )
        self.life = 0
        self.epoch = engine.new_epoch() if is_reliable else 0
        self.is_dirty = self.is_doomed = self.is_group = False
        self.incoming = (Incoming if is_reliable else IncomingDatagrams)(
            self,
            window_messages=options.window_messages,
            window_bytes=engine.window_bytes,
            eager_limit=engine.eager_limit,
            max_size=options.max_msg_size,
        )
        self.address = ADDR_UNSPEC
        self._control: deque[bytes] = deque()
        self._begin(is_open=not is_reliable)

    def _begin(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self._control.clear()
        self._has_greeted = False
        self._known: tuple[int, int] | None = None  # incarnation and epoch of the peer
        self._peer_epoch = 0 if is_open else -1

    # --- sending ---------------------------------------------------------------------------------

    def mark(self) -> None:
        """Let the engine `pump` this link soon."""
        if not self.is_dirty:
            self.is_dirty = True
            self._engine.dirty.append(self)

    def control(self, frame: bytes) -> None:
        """Send a small frame soon."""
        self._control.append(frame)
        self.mark()

    @property
    def has_peer(self) -> bool:
        """Whether the peer has greeted."""
        return self._known is not None

    def greet(self, parameter: bytes = b"") -> None:
        """Send our HELLO, once for each link."""
        if self._has_greeted:
            return
        self._has_greeted = True
        engine, (_, message_limit, byte_limit) = self._engine, self.incoming.state()
        self.control(
            HELLO.build(
                kind=_HELLO,
                epoch=self.epoch,
                version=VERSION,
                endpoint_type=engine.endpoint_type,
                incarnation=engine.incarnation,
                message_limit=message_limit,
                byte_limit=byte_limit,
                eager_limit=engine.eager_limit,
            )
            + parameter
        )

    def open(self) -> None:
        """Let messages be sent: both sides have greeted."""
        self.is_open = True
        # what was received between two links is due, too, and nobody marks for it again
        if not self.outgoing.is_idle or self.incoming.is_due:
            self.mark()

    def refuse(self, code: int, parameter: bytes = b"") -> None:
        """Send the peer away; it will close the link."""
        self.control(REFUSE.build(kind=FrameKind.REFUSE, epoch=self.epoch, code=code) + parameter)

    def shut(self) -> None:
        """Tell the peer that this is the end; it will close the link."""
        self.control(SHUTDOWN.build(kind=FrameKind.SHUTDOWN, epoch=self.epoch))

    def pump(self) -> None:
        """Send what can be sent now."""
        control = self._control
        if not self.is_open and not self._has_greeted and self.outgoing.queue:
            self.greet()
        while control:
            if not self._send(self.peer, (control[0],)):
                return
            control.popleft()
        if not self.is_open or not self.outgoing.pump():
            return
        incoming = self.incoming
        if incoming.is_due:
            frame = incoming.ack()
            if not self._send(self.peer, (frame,)):
                incoming.not_told()
                if frame[1] & _ANSWER:
                    incoming.ask()

    # --- receiving -------------------------------------------------------------------------------

    def frame(self, frame: memoryview, body: memoryview | None = None) -> None:
        """Take a frame, of which a part may be elsewhere.

        Raises:
            RemoteFrameError: it breaks the rules, and the link with it.
            struct.error: it is too short for what it is.
        """
        if len(frame) < 8:
            raise RemoteFrameError(f"a frame of {len(frame)} bytes; the shortest has 8")
        kind = frame[0]
        if frame[2] | frame[3] << 8 != self._peer_epoch:
            if kind == _HELLO:
                self._hello(frame)
            elif kind == FrameKind.REFUSE and self._known is None:
                self._refused(frame)
            else:
                self._engine.stale_frames += 1
        elif kind == _MESSAGE:
            self.incoming.message(frame, body)
        elif kind == _PIECE:
            self.incoming.piece(frame, body)
        elif kind == _ACK:
            _, flags, _, arrived, message_limit, byte_limit = ACK_FORMAT.unpack(frame)
            self.outgoing.acknowledged(arrived, message_limit, byte_limit)
            if flags & _ANSWER:
                self.incoming.asked()
        else:
            self._seldom(kind, frame)

    def frame_begins(self, size: int, front: memoryview, placer: Placer) -> Placement | None:
        """Say where the rest of a frame goes, or None: it is to come as a whole.

        Raises:
            RemoteFrameError: it breaks the rules, and the link with it.
        """
        if len(front) < MESSAGE_FORMAT.size or front[0] != _MESSAGE:
            return None
        if front[2] | front[3] << 8 != self._peer_epoch:
            return None
        return self.incoming.begins(size, front, placer)

    def _seldom(self, kind: int, frame: memoryview) -> None:
        if kind == FrameKind.CLEAR:
            clear = CLEAR.unpack_from(frame)
            self.outgoing.cleared(clear.message_id, clear.length)
        elif kind == FrameKind.DONE:
            self.outgoing.done(DONE.unpack_from(frame).message_id)
        elif kind == FrameKind.ABORT:
            abort = ABORT.unpack_from(frame)
            self.incoming.aborted(abort.message_id, abort.code)
        elif kind == FrameKind.SHUTDOWN:
            self.owner.link_shut(self)
            self._engine.doom(self, errno.ESHUTDOWN, "the peer shut the connection down")
        elif kind == FrameKind.REFUSE:
            self._refused(frame)
        elif kind == _HELLO:
            self._hello(frame)
        else:
            raise RemoteFrameError(f"a frame of the unknown kind {kind}")

    def _hello(self, frame: memoryview) -> None:
        hello = HELLO.unpack_from(frame)
        if hello.version != VERSION:
            self.refuse(errno.EPROTONOSUPPORT)
            return
        known = hello.incarnation, hello.epoch
        if self._known == known:
            raise RemoteFrameError("a second HELLO")
        if self._known is not None:
            self.lost(errno.ECONNRESET, "the peer has begun anew")
        self._known, self._peer_epoch = known, hello.epoch
        self.outgoing.opened(hello.message_limit, hello.byte_limit, hello.eager_limit)
        self.owner.link_greeted(self, hello.endpoint_type, bytes(frame[HELLO.size :]))

    def _refused(self, frame: memoryview) -> None:
        refuse = REFUSE.unpack_from(frame)
        self.owner.link_refused(self, refuse.code, bytes(frame[REFUSE.size :]))
        self._engine.doom(self, errno.ECONNREFUSED, "the peer refused")

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing would be lost with this record."""
        return (
            self.address == ADDR_UNSPEC
            and not self.incoming.is_keeping
            and not self._control
            and self.outgoing.is_idle
        )

    # --- the end ---------------------------------------------------------------------------------

    def lost(self, code: int, reason: str) -> None:
        """The link is lost: everything ends with errors, and a new life begins."""
        self.life += 1
        self.epoch = self._engine.new_epoch()
        self.is_doomed = False
        self._begin(is_open=False)
        self.outgoing.lost(code, reason)
        self.incoming.lost(code, reason)
        self.owner.link_lost(self, code, reason)
