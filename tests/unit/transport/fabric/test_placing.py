# SPDX-License-Identifier: Apache-2.0
"""Long messages whose place somebody knows: what a peer may say of them, and what comes of it."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from fakes.endpoint_end import BOTH, End, Ends
from fakes.frame_peer import FramePeer
from i2o.transport.capture.endpoint_recorder import EndpointRecorder
from i2o.transport.capture.endpoint_tap import TapEndpoint
from i2o.transport.fabric.completion import Completion
from i2o.transport.fabric.engine_options import EngineOptions
from i2o.transport.fabric.errors import FabricError
from i2o.transport.fabric.flags import CqFormat, EndpointType
from i2o.transport.fabric.frames import MESSAGE, FrameKind, MessageFlag
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.placement import Placement, PlacingEndpoint
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint

LIMIT = 4000
Begins = Callable[[int, int, memoryview], Placement | None]


class Place:
    """Where one message goes."""

    def __init__(self, size: int) -> None:
        self.data, self.errors = bytearray(size), list[int]()
        self._done = 0

    def fill(self, read: Callable[[memoryview], int]) -> int:
        count = read(memoryview(self.data)[self._done :])
        self._done += count
        return count

    def lost(self, code: int, reason: str) -> None:
        self.errors.append(code)


class Placer:
    """Knows the place of every message, or of none."""

    def __init__(self) -> None:
        self.fronts: list[tuple[int, int, bytes]] = []
        self.places: list[Place] = []
        self.knows = True

    def message_begins(self, source: int, length: int, front: memoryview) -> Placement | None:
        self.fronts.append((source, length, bytes(front)))
        if not self.knows:
            return None
        self.places.append(Place(length - len(front)))
        return self.places[-1]


class Showing:
    """An endpoint over a carrier that shows fronts when the test says so, and its peer."""

    def __init__(self, ends: Ends) -> None:
        self.begins: list[Begins] = []
        self.placer = Placer()
        carrier = ends.fabric.carrier("tested")
        carrier.place_with = self.begins.append  # type: ignore[attr-defined]
        options = EngineOptions(window_messages=8, window_bytes=100, eager_limit=50)
        endpoint = SoftwareEndpoint(carrier, options=options)
        assert isinstance(endpoint, PlacingEndpoint)
        assert endpoint.place_with(self.placer, LIMIT)
        self.end = ends.adopt(End(endpoint, BOTH, 0, CqFormat.TAGGED, enable=True))
        self.peer = FramePeer(ends.fabric, "peer", "tested")
        self.peer.hello()
        self.end.endpoint.progress()
        self.peer.progress()
        self.hello = self.peer.take(FrameKind.HELLO)[0]
        (self.number,) = endpoint._engine.links

    def show(
        self,
        message_id: int = 1,
        length: int = 1000,
        *,
        front: int = 10,
        size: int = -1,
        **fields: int,
    ) -> Placement | None:
        """Let the front of a frame come."""
        values = {"message_limit": 100, "byte_limit": 100_000, "epoch": self.peer.epoch, **fields}
        head = MESSAGE.build(
            **{"kind": FrameKind.MESSAGE, "message_id": message_id, "length": length, **values}
        )
        shown = memoryview(head + b"f" * front)
        whole = len(head) + length if size < 0 else size
        return self.begins[0](self.number, whole, shown)

    @property
    def broken_links(self) -> int:
        return self.end.endpoint._engine.broken_links


@pytest.fixture
def showing(ends: Ends) -> Showing:
    return Showing(ends)


@pytest.fixture(autouse=True)
def _peer_leaves(showing: Showing) -> object:
    yield
    showing.peer.carrier.close()


def fill(placement: Placement, data: bytes) -> None:
    def read(space: memoryview) -> int:
        space[: len(data)] = data
        return len(data)

    assert placement.fill(read) == len(data)


def test_the_limits_are_told(showing: Showing) -> None:
    assert (showing.hello.eager_limit, showing.hello.byte_limit) == (LIMIT, 8 * LIMIT)


def test_a_placed_message_takes_no_receive_and_is_acknowledged(showing: Showing) -> None:
    buffer = bytearray(10)
    showing.end.endpoint.recv(buffer, context="r")
    placement = showing.show(flags=MessageFlag.ACK_NOW)
    assert placement is not None
    assert [front[1:] for front in showing.placer.fronts] == [(1000, b"f" * 10)]
    fill(placement, b"a" * 400)
    assert showing.end.entries() == []
    showing.peer.progress()
    assert showing.peer.kinds() == []
    fill(placement, b"b" * 590)
    assert showing.placer.places[0].data == b"a" * 400 + b"b" * 590
    assert showing.end.entries() == []
    showing.peer.progress()
    ack, _ = showing.peer.take(FrameKind.ACK)
    assert (ack.arrived, ack.message_limit, ack.byte_limit) == (1, 9, 8 * LIMIT + 1000)
    showing.peer.message(2, b"then")
    (entry,) = showing.end.entries()
    assert isinstance(entry, Completion)
    assert (entry.context, bytes(buffer[:4])) == ("r", b"then")


def test_much_is_acknowledged_without_being_asked(showing: Showing) -> None:
    for message_id in (1, 2):
        placement = showing.show(message_id, LIMIT)
        assert placement is not None
        fill(placement, bytes(LIMIT - 10))
        showing.end.endpoint.progress()
        showing.peer.progress()
        assert showing.peer.kinds() == [FrameKind.ACK] * (message_id == 2)


def test_what_nobody_knows_the_place_of_comes_as_a_whole(showing: Showing) -> None:
    showing.placer.knows = False
    assert showing.show() is None
    assert showing.show() is None
    buffer = bytearray(1000)
    showing.end.endpoint.recv(buffer)
    showing.peer.message(1, b"m" * 1000)
    showing.end.contexts()
    assert buffer == b"m" * 1000


@pytest.mark.parametrize(
    "lie",
    [
        {"message_id": 2},
        {"message_id": 0},
        {"length": 999, "size": 1048},
        {"length": 1 << 40, "size": 1048},
        {"length": LIMIT + 1},
        {"epoch": 8},
        {"kind": FrameKind.PIECE},
        {"flags": MessageFlag.ANNOUNCED},
        {"flags": MessageFlag.TAGGED},
        {"flags": MessageFlag.DATA},
        {"flags": MessageFlag.TELL_MATCH},
    ],
)
def test_other_fronts_are_not_asked_for(showing: Showing, lie: dict[str, int]) -> None:
    assert showing.show(**lie) is None
    assert showing.placer.fronts == []
    assert not showing.broken_links


def test_a_short_front_is_not_asked_for(showing: Showing) -> None:
    head = MESSAGE.build(
        kind=FrameKind.MESSAGE, message_id=1, length=1000, epoch=showing.peer.epoch
    )
    assert showing.begins[0](showing.number, 1048, memoryview(head)[:47]) is None
    assert showing.begins[0](77, 1048, memoryview(head)) is None
    assert showing.placer.fronts == []


def test_a_false_acknowledgement_costs_the_link(showing: Showing) -> None:
    assert showing.show(arrived=1) is None
    assert showing.broken_links == 1
    assert showing.show() is None  # the link is doomed
    assert showing.placer.fronts == []
    showing.end.endpoint.progress()
    showing.peer.progress()
    assert showing.peer.losses


def test_nothing_overtakes_a_message_that_waits(showing: Showing) -> None:
    showing.peer.message(1, b"waits")
    showing.end.endpoint.progress()
    assert showing.show(2) is None
    assert showing.placer.fronts == []
    showing.end.endpoint.recv(bytearray(10))
    assert showing.show(2) is not None


def test_a_link_that_is_lost_tells_the_placement(showing: Showing) -> None:
    link = showing.end.endpoint._engine.links[showing.number]
    placement = showing.show()
    assert placement is not None
    fill(placement, bytes(400))
    showing.peer.carrier.close()
    showing.end.endpoint.progress()
    (place,) = showing.placer.places
    assert place.errors == [errno.ECONNRESET]
    fill(placement, bytes(590))  # which no carrier does
    assert link.incoming.state()[0] == 0


def test_closing_tells_the_placement(showing: Showing) -> None:
    assert showing.show() is not None
    showing.end.endpoint.close()
    assert showing.placer.places[0].errors == [errno.ECANCELED]


def test_it_is_set_before_anything_else() -> None:
    ends = Ends()
    with ends:
        one, _, _ = ends.pair()
        with pytest.raises(FabricError, match="before"):
            one.endpoint.place_with(Placer(), LIMIT)
        fresh = ends.end("fresh", enable=False)
        assert not fresh.endpoint.place_with(Placer(), LIMIT)  # its carrier does not show fronts


def test_datagrams_and_prefixes_are_not_placed() -> None:
    fabric = MemoryFabric()
    for kind, options in (
        (EndpointType.DGRAM, EngineOptions()),
        (EndpointType.RDM, EngineOptions(msg_prefix_size=8)),
    ):
        carrier = fabric.carrier("")
        carrier.place_with = lambda begins: None  # type: ignore[attr-defined]
        with SoftwareEndpoint(carrier, kind, options=options) as endpoint:
            assert not endpoint.place_with(Placer(), LIMIT)


def test_a_tap_does_not_place(ends: Ends) -> None:
    inner = ends.end("inner", enable=False).endpoint
    assert isinstance(inner, PlacingEndpoint)
    tap = TapEndpoint(inner, EndpointRecorder(lambda packet: None))  # type: ignore[arg-type]
    assert not isinstance(tap, PlacingEndpoint)
