# SPDX-License-Identifier: Apache-2.0
"""The carrier in memory: order, room, and links that break as told."""

from __future__ import annotations

import errno
import select
import threading
from collections.abc import Iterator

import pytest

from fakes.recording_sink import RecordingSink
from i2o.transport.fabric.errors import FabricError
from i2o.transport.fabric.mem import MemoryCarrier, MemoryFabric


class Lender(RecordingSink):
    """A sink that takes frames in two parts."""

    def split_frame_arrived(self, peer: int, frame: memoryview, body: memoryview) -> None:
        self.frames.append((peer, bytes(frame) + b"|" + bytes(body)))


class Attached:
    def __init__(self, fabric: MemoryFabric, name: str, sink: RecordingSink) -> None:
        self.carrier: MemoryCarrier = fabric.carrier(name)
        self.sink = sink
        self.carrier.open(sink)

    def send(self, name: str, frame: bytes, token: object = None) -> bool:
        return self.carrier.send(self.carrier.resolve(name), (frame[:1], frame[1:]), token)

    def got(self) -> list[bytes]:
        """Make progress; take what came."""
        self.carrier.progress()
        found, self.sink.frames = [frame for _, frame in self.sink.frames], []
        return found

    def news(self) -> list[tuple[object, ...]]:
        """Make progress; take the events, without the peer."""
        self.carrier.progress()
        found, self.sink.events = self.sink.events, []
        return [(event[0], *event[2:]) for event in found]


LOST = ("lost", errno.ECONNRESET)


@pytest.fixture
def fabric() -> MemoryFabric:
    return MemoryFabric(frame_limit=1000, room=3)


@pytest.fixture
def a(fabric: MemoryFabric) -> Iterator[Attached]:
    attached = Attached(fabric, "a", RecordingSink())
    yield attached
    attached.carrier.close()


@pytest.fixture
def b(fabric: MemoryFabric) -> Iterator[Attached]:
    attached = Attached(fabric, "b", RecordingSink())
    yield attached
    attached.carrier.close()


def test_frames_come_once_and_in_order(a: Attached, b: Attached) -> None:
    assert a.send("b", b"1", token="t")
    assert a.sink.sent == [(b.carrier.number, "t")]
    assert a.send("b", b"22")
    assert b.got() == [b"1", b"22"]
    assert b.got() == []
    assert b.sink.events == [("up", a.carrier.number)]
    assert a.news() == [("up",)]
    assert b.carrier.address_of(a.carrier.number) == "a"
    assert a.carrier.next_deadline_ns() is None


def test_there_is_room_for_so_many(a: Attached, b: Attached) -> None:
    assert [a.send("b", b"x") for _ in range(4)] == [True, True, True, False]
    assert a.news() == [("up",)]
    assert len(b.got()) == 3
    assert a.news() == [("room",)]
    assert a.send("b", b"x")


def test_a_direction_is_blocked(fabric: MemoryFabric, a: Attached, b: Attached) -> None:
    a.send("b", b"x")
    fabric.block("a", "b")
    assert not a.send("b", b"y")
    assert b.send("a", b"z")
    assert b.got() == [b"x"]
    a.news()
    fabric.unblock("a", "b")
    assert a.news() == [("room",)]
    fabric.unblock("a", "b")
    assert a.news() == []
    assert a.send("b", b"y")


def test_frames_are_held(fabric: MemoryFabric, a: Attached, b: Attached) -> None:
    fabric.hold("a", "b")
    fabric.hold("a", "b")
    for frame in (b"1", b"2", b"3"):
        a.send("b", frame)
    assert b.got() == []
    fabric.release("a", "b", 2)
    assert b.got() == [b"1", b"2"]
    fabric.release("a", "b")
    assert b.got() == [b"3"]
    fabric.release("a", "b")
    a.send("b", b"4")
    assert b.got() == [b"4"]


@pytest.mark.parametrize("is_held", [False, True])
def test_a_reset_loses_what_is_under_way(
    fabric: MemoryFabric, a: Attached, b: Attached, is_held: bool
) -> None:
    a.send("b", b"fine")
    assert b.got() == [b"fine"]
    if is_held:
        fabric.hold("a", "b")
    a.send("b", b"lost")
    fabric.reset("a", "b")
    fabric.reset("a", "b")
    assert a.send("b", b"lost, too"), "the end has not been told yet"
    assert b.got() == []
    assert b.news() == [("up",), LOST]
    assert a.news() == [("up",), LOST]
    fabric.release("a", "b")
    a.send("b", b"new")
    assert b.got() == [b"new"]
    assert b.news() == [("up",)]


@pytest.mark.parametrize("is_held", [False, True])
def test_a_drop_loses_nothing(
    fabric: MemoryFabric, a: Attached, b: Attached, is_held: bool
) -> None:
    if is_held:
        fabric.hold("a", "b")
    a.send("b", b"still")
    fabric.drop("a", "b")
    fabric.drop("nobody", "b")
    assert b.got() == [b"still"]
    assert b.news() == [("up",), LOST]
    assert a.news() == [("up",), LOST]


def test_one_side_closes_and_the_other_finds_out(
    fabric: MemoryFabric, a: Attached, b: Attached
) -> None:
    a.send("b", b"1")
    fabric.half_close("a", "b")
    assert b.got() == [b"1"]
    assert b.news() == [("up",), LOST]
    assert a.news() == [("up",)]
    assert a.send("b", b"2")
    assert a.news() == [LOST]
    assert b.got() == []


def test_who_was_told_makes_a_new_link(fabric: MemoryFabric, a: Attached, b: Attached) -> None:
    a.send("b", b"1")
    fabric.half_close("a", "b")
    b.got()
    b.news()
    assert b.send("a", b"anew")
    assert a.got() == [b"anew"]
    assert a.news() == [("up",), LOST, ("up",)]
    assert a.send("b", b"2")
    assert b.got() == [b"2"]


def test_who_is_not_there(fabric: MemoryFabric, a: Attached, b: Attached) -> None:
    assert a.send("nobody", b"x")
    assert a.news() == [("lost", errno.ECONNREFUSED)]
    fabric.isolate("b")
    assert a.send("b", b"x")
    assert a.send("b", b"y")
    assert a.news() == [("lost", errno.EHOSTUNREACH)]
    fabric.rejoin("b")
    assert a.send("b", b"z")
    assert b.got() == [b"z"]


@pytest.mark.parametrize("end", ["kill", "close"])
def test_an_end_that_is_gone_with_a_wake_up_in_its_descriptor(
    fabric: MemoryFabric, a: Attached, b: Attached, end: str
) -> None:
    assert b.carrier.fileno() >= 0
    a.send("b", b"never read")
    if end == "kill":
        fabric.kill("b")
    else:
        b.carrier.close()
    b.carrier.progress()
    assert b.carrier.fileno() == -1
    assert b.got() == []


def test_a_process_is_killed_and_comes_back(fabric: MemoryFabric, a: Attached, b: Attached) -> None:
    b.send("a", b"under way")
    fabric.kill("b")
    assert a.got() == []
    assert a.news()[-1] == LOST
    assert b.got() == []
    again = Attached(fabric, "b", RecordingSink())
    a.send("b", b"hello")
    assert again.got() == [b"hello"]
    again.send("a", b"and goodbye")
    again.carrier.close()
    again.carrier.close()
    assert a.got() == [b"and goodbye"]
    assert a.news()[-1] == LOST


def test_disconnecting_is_silent_here_and_told_there(a: Attached, b: Attached) -> None:
    a.send("b", b"1")
    b.send("a", b"not wanted any more")
    a.carrier.disconnect(b.carrier.number)
    a.carrier.disconnect(b.carrier.number)
    assert a.got() == []
    assert a.news() == []
    assert b.got() == [b"1"]
    assert b.news() == [("up",), LOST]
    assert b.send("a", b"anew")
    assert a.got() == [b"anew"]


def test_an_end_is_its_own_peer(fabric: MemoryFabric, a: Attached) -> None:
    a.send("a", b"me")
    assert a.got() == [b"me"]
    assert a.news() == [("up",)]
    fabric.reset("a", "a")
    assert a.news() == [LOST]


def test_names(fabric: MemoryFabric, a: Attached) -> None:
    with pytest.raises(FabricError) as caught:
        fabric.carrier("a")
    assert caught.value.errno == errno.EADDRINUSE
    assert fabric.carrier().name != fabric.carrier().name
    for name in ("", "\0", "tcp://x"):
        with pytest.raises(FabricError) as caught:
            a.carrier.resolve(name)
        assert caught.value.errno == errno.EINVAL


def test_two_begin_at_once_and_have_one_link(a: Attached, b: Attached) -> None:
    a.send("b", b"from a")
    b.send("a", b"from b")
    assert (a.got(), b.got()) == ([b"from b"], [b"from a"])
    assert (a.news(), b.news()) == ([("up",)], [("up",)])


def test_the_descriptor_is_readable_when_something_came(a: Attached, b: Attached) -> None:
    def is_readable() -> bool:
        return bool(select.select([b.carrier.fileno()], [], [], 0)[0])

    assert not is_readable()
    a.send("b", b"x")
    assert is_readable()
    assert b.got() == [b"x"]
    assert not is_readable()
    a.send("b", b"y")
    b.carrier.close()
    assert b.carrier.fileno() == -1


def test_a_descriptor_that_is_asked_for_late(a: Attached, b: Attached) -> None:
    a.send("b", b"x")
    assert select.select([b.carrier.fileno()], [], [], 0)[0]


# --- lent buffers ----------------------------------------------------------------------------


def test_large_frames_are_lent_and_given_back(fabric: MemoryFabric, a: Attached) -> None:
    borrower = Attached(fabric, "c", Lender())
    data = bytearray(b"body")
    peer = a.carrier.resolve("c")
    a.carrier.send(peer, (b"head", data), "token")
    assert a.sink.sent == []
    assert borrower.got() == [b"head|body"]
    a.carrier.progress()
    assert a.sink.sent == [(peer, "token")]
    a.carrier.send(peer, (b"head", b"bo", b"dy"), "other")
    assert borrower.got() == [b"head|body"]
    borrower.carrier.close()


@pytest.mark.parametrize("how", ["drop", "disconnect", "close"])
def test_what_was_lent_is_taken_back(fabric: MemoryFabric, a: Attached, how: str) -> None:
    borrower = Attached(fabric, "c", Lender())
    data = bytearray(b"body")
    peer = a.carrier.resolve("c")
    a.carrier.send(peer, (b"head", data), "token")
    if how == "drop":
        fabric.drop("a", "c")
        a.carrier.progress()
    elif how == "disconnect":
        a.carrier.disconnect(peer)
    else:
        a.carrier.close()
    data[:] = b"XXXX"  # the buffer is the caller's again
    assert borrower.got() == [b"head|body"]
    a.carrier.progress()
    assert a.sink.sent == []
    borrower.carrier.close()


def test_two_threads(fabric: MemoryFabric) -> None:
    """Each drives its end, and waits on its descriptor without limit: no wake-up is lost."""
    one, other = (Attached(fabric, name, RecordingSink()) for name in ("one", "other"))
    one.send("other", b"0")
    other.got()
    one.got()
    count = 3000
    got: list[int] = []

    def receive() -> None:
        while len(got) < count:
            select.select([other.carrier.fileno()], [], [])
            got.extend(int(frame) for frame in other.got())

    thread = threading.Thread(target=receive, name="i2o-test-receiver", daemon=True)
    thread.start()
    for number in range(count):
        frame = str(number).encode()
        while not one.send("other", frame):
            select.select([one.carrier.fileno()], [], [])
            one.carrier.progress()
    thread.join(20)
    assert got == list(range(count))
    one.carrier.close()
    other.carrier.close()
