# SPDX-License-Identifier: Apache-2.0
"""What moves endpoints over one carrier: it takes what the carrier brings, link by link.

One thread at a time may use an engine, and with it its endpoints and their queues. Nothing is sent
while the carrier calls: links are marked, and pumped when it has finished.
"""

from __future__ import annotations

import errno
import secrets
import struct
from typing import Final

from i2o.errors import RemoteFrameError
from i2o.transport.fabric.carrier import Carrier
from i2o.transport.fabric.engine_options import EngineOptions
from i2o.transport.fabric.errors import FabricError
from i2o.transport.fabric.flags import EndpointType
from i2o.transport.fabric.frames import MESSAGE_FORMAT, PIECE_FORMAT
from i2o.transport.fabric.inbox import Inbox
from i2o.transport.fabric.link import Link, LinkOwner
from i2o.transport.fabric.operations import SendOperation
from i2o.transport.fabric.placement import Placement, Placer, PlacingCarrier

SMALLEST_FRAME: Final = 128
"""Bytes that a carrier must be able to move at once."""


EPOCHS: Final = 1 << 16
_PLACED_WINDOW: Final = 8


class Engine:
    """The sink of a carrier.

    Args:
        carrier: what brings the frames.
        owner: who decides about links with peers that nobody knows yet.
        endpoint_type: of every endpoint of this engine.
        options: sizes.

    Attributes:
        links: by the carrier's number of the peer.
        inbox: of the endpoint that every link belongs to, if there is one.
        window_bytes: bytes of messages of each peer that wait although no receive is posted.
        dirty: links that want to be pumped.
        incarnation: a number that no other engine has.
        stale_frames: frames of an earlier link that were ignored.
        broken_links: links that were closed as the peer broke the rules.
        users: listeners and endpoints that share it.
    """

    def __init__(
        self,
        carrier: Carrier,
        owner: LinkOwner,
        endpoint_type: EndpointType,
        options: EngineOptions,
    ) -> None:
        if carrier.frame_limit < SMALLEST_FRAME:
            raise FabricError(
                errno.EINVAL,
                f"the carrier takes {carrier.frame_limit} bytes; {SMALLEST_FRAME} are needed",
            )
        self.carrier, self.owner, self.endpoint_type = carrier, owner, endpoint_type
        self.options = options
        self.inbox: Inbox | None = None
        is_datagram = endpoint_type is EndpointType.DGRAM
        self.piece_size = carrier.frame_limit - PIECE_FORMAT.size
        whole = carrier.frame_limit - MESSAGE_FORMAT.size
        self.eager_limit = (
            whole if is_datagram else min(options.eager_limit, whole, options.window_bytes)
        )
        self.window_bytes = options.window_bytes
        self._placer: Placer | None = None
        self.links: dict[int, Link] = {}
        self.dirty: list[Link] = []
        self.incarnation = secrets.randbits(64)
        self._epoch = secrets.randbits(16)
        self.stale_frames = self.broken_links = 0
        self._is_progressing = False
        self.is_closed = False
        self.users = 0
        self._losses: list[tuple[Link, int, str]] = []
        self._doomed: list[tuple[Link, int, int, str]] = []
        carrier.open(self)

    def place_with(self, placer: Placer, limit: int) -> bool:
        """Let long messages be placed, and travel with their headers; see `PlacingEndpoint`."""
        carrier = self.carrier
        if self.endpoint_type is EndpointType.DGRAM or not isinstance(carrier, PlacingCarrier):
            return False
        self._placer = placer
        whole = carrier.frame_limit - MESSAGE_FORMAT.size
        self.eager_limit = max(self.eager_limit, min(limit, whole, self.options.max_msg_size))
        # so large that one message at a time needs no acknowledgement of its own
        self.window_bytes = max(self.window_bytes, _PLACED_WINDOW * self.eager_limit)
        carrier.place_with(self.frame_begins)
        return True

    def link(self, peer: int) -> Link:
        """Return the link with a peer, open or not."""
        link = self.links.get(peer)
        if link is None:
            link = self.links[peer] = Link(self, peer, self.owner)
        return link

    def new_epoch(self) -> int:
        """Return the epoch of another link, which the last 65,535 links had not."""
        self._epoch = (self._epoch + 1) % EPOCHS
        return self._epoch

    # --- moving on -------------------------------------------------------------------------------

    def progress(self) -> None:
        """Take what the carrier has, and send what can be sent."""
        if self.is_closed or self._is_progressing:
            return
        self._is_progressing = True
        try:
            self.carrier.progress()
        finally:
            self._is_progressing = False
        if self.dirty:
            self.settle()

    def settle(self) -> None:
        """Send what can be sent, and end what is lost; not while the carrier calls."""
        while self.dirty and not self._is_progressing:
            if self._losses:
                losses, self._losses = self._losses, []
                for link, code, reason in losses:
                    self._lose(link, code, reason)
            if self._doomed:
                doomed, self._doomed = self._doomed, []
                for link, life, code, reason in doomed:
                    if link.life == life and not self.is_closed:
                        self.carrier.disconnect(link.peer)
                        self._lose(link, code, reason)
            dirty, self.dirty = self.dirty, []
            for link in dirty:
                link.is_dirty = False
                if not link.is_doomed and not self.is_closed:
                    link.pump()

    def doom(self, link: Link, code: int, reason: str) -> None:
        """Close a link as soon as the carrier can be called; until then it says nothing more."""
        if not link.is_doomed:
            link.is_doomed = True
            self._doomed.append((link, link.life, code, reason))
            link.mark()

    def fileno(self) -> int:
        """Return the carrier's descriptor."""
        return self.carrier.fileno()

    def next_deadline_ns(self) -> int | None:
        """Return the carrier's deadline."""
        return self.carrier.next_deadline_ns()

    def release(self) -> None:
        """One user less: the last one closes the engine."""
        self.users -= 1
        if self.users <= 0:
            self.close()

    def close(self) -> None:
        """End everything with ECANCELED, and close the carrier; again does nothing."""
        if self.is_closed:
            return
        self.settle()
        self.is_closed = True
        for link in list(self.links.values()):
            link.lost(errno.ECANCELED, "the endpoint was closed")
        self.links.clear()
        self.dirty.clear()
        self.carrier.close()

    # --- the sink --------------------------------------------------------------------------------

    def frame_begins(self, peer: int, size: int, front: memoryview) -> Placement | None:
        """Say where the rest of a long frame goes, or None: it is to come as a whole."""
        link, placer = self.links.get(peer), self._placer
        if link is None or link.is_doomed or placer is None:
            return None
        try:
            return link.frame_begins(size, front, placer)
        except RemoteFrameError as error:
            self._broke_rules(link, error)
            return None

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        """A frame came; what breaks the rules costs the peer its link."""
        self.split_frame_arrived(peer, frame, None)

    def split_frame_arrived(self, peer: int, frame: memoryview, body: memoryview | None) -> None:
        """A frame came whose end is elsewhere."""
        link = self.links.get(peer)
        if link is None:
            link = self.link(peer)
        if link.is_doomed:
            return
        try:
            link.frame(frame, body)
        except (RemoteFrameError, struct.error) as error:
            if self.endpoint_type is EndpointType.DGRAM:
                self.stale_frames += 1
                return
            self._broke_rules(link, error)

    def _broke_rules(self, link: Link, error: Exception) -> None:
        self.broken_links += 1
        self.doom(link, errno.EPROTO, f"the peer broke the rules: {error}")

    def frame_sent(self, peer: int, token: object) -> None:
        """The carrier gave the buffers of a frame back."""
        if not isinstance(token, SendOperation):
            return  # a frame of ours that nobody waits for
        token.queue.frame_sent(token)

    def room_made(self, peer: int) -> None:
        """There is room for frames to a peer again."""
        self.link(peer).mark()

    def peer_up(self, peer: int) -> None:
        """There is a way to a peer."""
        link = self.link(peer)
        link.owner.link_up(link)

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        """There is no way to a peer any more."""
        link = self.links.get(peer)
        if link is None:
            return
        if self._is_progressing:
            self._lose(link, error, reason)
        else:  # from within a send, of which somebody is in the middle
            self._losses.append((link, error, reason))
            link.mark()

    def _lose(self, link: Link, code: int, reason: str) -> None:
        link.lost(code, reason)
        if link.is_forgettable and self.links.get(link.peer) is link:
            del self.links[link.peer]
