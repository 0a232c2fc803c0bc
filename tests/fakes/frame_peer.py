# SPDX-License-Identifier: Apache-2.0
"""A peer of an endpoint that writes its frames by hand, and so may break every rule."""

from __future__ import annotations

from i2o.frames.codec import Record
from i2o.transport.fabric.flags import EndpointType
from i2o.transport.fabric.frames import (
    ABORT,
    ACK,
    CLEAR,
    DONE,
    HELLO,
    LAYOUTS,
    MESSAGE,
    PIECE,
    REFUSE,
    SHUTDOWN,
    VERSION,
    FrameKind,
)
from i2o.transport.fabric.mem import MemoryFabric

_LAYOUT_OF = dict(zip(FrameKind, LAYOUTS, strict=True))


class FramePeer:
    """One end of a carrier in memory.

    Attributes:
        frames: what came: the head as a record, and what follows it.
        ups: how often a link came up.
        losses: errno of each link that was lost.
    """

    def __init__(self, fabric: MemoryFabric, name: str, other: str) -> None:
        self.frames: list[tuple[FrameKind, Record, bytes]] = []
        self.ups, self.losses = 0, list[int]()
        self.epoch = 7
        self.carrier = fabric.carrier(name)
        self.carrier.open(self)
        self.other = self.carrier.resolve(other)

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        kind = FrameKind(frame[0])
        layout = _LAYOUT_OF[kind]
        self.frames.append((kind, layout.unpack_from(frame), bytes(frame[layout.size :])))

    def frame_sent(self, peer: int, token: object) -> None:
        """Nothing is lent."""

    def room_made(self, peer: int) -> None:
        """Nothing waits."""

    def peer_up(self, peer: int) -> None:
        self.ups += 1

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        self.losses.append(error)

    def progress(self) -> None:
        self.carrier.progress()

    def take(self, kind: FrameKind) -> tuple[Record, bytes]:
        """Take the first frame of a kind that came."""
        found = next(frame for frame in self.frames if frame[0] is kind)
        self.frames.remove(found)
        return found[1:]

    def kinds(self) -> list[FrameKind]:
        return [frame[0] for frame in self.frames]

    # --- sending ---------------------------------------------------------------------------------

    def raw(self, frame: bytes) -> None:
        assert self.carrier.send(self.other, (frame,))

    def hello(
        self,
        *,
        epoch: int | None = None,
        endpoint_type: int = EndpointType.RDM,
        version: int = VERSION,
        incarnation: int = 1,
        message_limit: int = 100,
        byte_limit: int = 100_000,
        eager_limit: int = 1000,
        parameter: bytes = b"",
    ) -> None:
        self.raw(
            HELLO.build(
                kind=FrameKind.HELLO,
                epoch=self.epoch if epoch is None else epoch,
                version=version,
                endpoint_type=endpoint_type,
                incarnation=incarnation,
                message_limit=message_limit,
                byte_limit=byte_limit,
                eager_limit=eager_limit,
            )
            + parameter
        )

    def message(
        self, message_id: int, payload: bytes = b"", *, length: int | None = None, **fields: int
    ) -> None:
        values = {"arrived": 0, "message_limit": 100, "byte_limit": 100_000, **fields}
        self.raw(
            MESSAGE.build(
                kind=FrameKind.MESSAGE,
                message_id=message_id,
                length=len(payload) if length is None else length,
                **{"epoch": self.epoch, **values},
            )
            + payload
        )

    def piece(self, message_id: int, offset: int, data: bytes) -> None:
        head = PIECE.build(
            kind=FrameKind.PIECE, epoch=self.epoch, message_id=message_id, offset=offset
        )
        self.raw(head + data)

    def ack(self, arrived: int, message_limit: int, byte_limit: int, flags: int = 0) -> None:
        self.raw(
            ACK.build(
                kind=FrameKind.ACK,
                flags=flags,
                epoch=self.epoch,
                arrived=arrived,
                message_limit=message_limit,
                byte_limit=byte_limit,
            )
        )

    def clear(self, message_id: int, length: int) -> None:
        self.raw(
            CLEAR.build(
                kind=FrameKind.CLEAR, epoch=self.epoch, message_id=message_id, length=length
            )
        )

    def done(self, message_id: int) -> None:
        self.raw(DONE.build(kind=FrameKind.DONE, epoch=self.epoch, message_id=message_id))

    def abort(self, message_id: int, code: int) -> None:
        self.raw(
            ABORT.build(kind=FrameKind.ABORT, epoch=self.epoch, message_id=message_id, code=code)
        )

    def refuse(self, code: int, parameter: bytes = b"") -> None:
        head = REFUSE.build(kind=FrameKind.REFUSE, epoch=self.epoch, code=code)
        self.raw(head + parameter)

    def shutdown(self) -> None:
        self.raw(SHUTDOWN.build(kind=FrameKind.SHUTDOWN, epoch=self.epoch))
