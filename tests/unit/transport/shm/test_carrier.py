# SPDX-License-Identifier: Apache-2.0
"""Frames between carriers in shared memory: links, the ways they end, and those that cross."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import threading

import pytest

from fakes.shm_pair import CARRIED, carry
from i2o.clock import ManualClock
from i2o.errors import UriError
from i2o.transport.fabric.errors import FabricError
from i2o.transport.registry import open_endpoint, open_listener
from i2o.transport.shm.carrier import FRAME_LIMIT, MAX_WAITING, ShmCarrier
from i2o.transport.shm.channel import RingChannel
from i2o.transport.shm.greeting import Hello, Mode, Refusal, Refused, close_all, hear, say
from i2o.transport.shm.rendezvous import Meeting, listen, path_of
from i2o.transport.shm.segment import TO_DEVICE, TO_HOST


@pytest.fixture(params=CARRIED)
def carried(request, monkeypatch):
    carry(request.param, monkeypatch)


class Sink:
    """Keeps everything, in order."""

    def __init__(self, carrier: ShmCarrier) -> None:
        self.carrier = carrier
        self.frames: list[tuple[str, bytes]] = []
        self.news: list[tuple[object, ...]] = []
        carrier.open(self)

    def _name(self, peer: int) -> str:
        return self.carrier.address_of(peer).removeprefix("shm://")

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        self.frames.append((self._name(peer), bytes(frame)))

    def frame_sent(self, peer: int, token: object) -> None:
        self.news.append(("sent", self._name(peer), token))

    def room_made(self, peer: int) -> None:
        self.news.append(("room", self._name(peer)))

    def peer_up(self, peer: int) -> None:
        self.news.append(("up", self._name(peer)))

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        self.news.append(("lost", self._name(peer), error))


@pytest.fixture
def ends(carried):
    with contextlib.ExitStack() as stack:
        yield lambda *names: [
            Sink(stack.enter_context(ShmCarrier(name, clock=ManualClock()))) for name in names
        ]


def drive(*sinks: Sink, rounds: int = 100) -> None:
    for _ in range(rounds):
        for sink in sinks:
            sink.carrier.progress()


def send(source: Sink, target: str, frame: bytes, *others: Sink) -> None:
    peer = source.carrier.resolve(target)
    for _ in range(200):
        if source.carrier.send(peer, [frame], frame):
            return
        drive(source, *others, rounds=1)
    raise AssertionError("no room")


def test_the_first_frame_makes_the_link(ends):
    a, b = ends("a", "b")
    assert (a.carrier.name, a.carrier.frame_limit) == ("shm://a", FRAME_LIMIT)
    assert not a.carrier.send(a.carrier.resolve("b"), [b"early"])
    drive(a, b)
    assert a.news == [("up", "b"), ("room", "b")]
    assert b.news == [("up", "a")]
    send(a, "shm://b", b"one", b)
    send(b, "a", b"two", a)
    a.carrier.send(a.carrier.resolve("b"), [b"three ", memoryview(b"x" * 5000)])
    drive(a, b)
    assert b.frames == [("a", b"one"), ("a", b"three " + b"x" * 5000)]
    assert a.frames == [("b", b"two")]
    assert ("sent", "b", b"one") in a.news


def test_frames_to_oneself(ends):
    (a,) = ends("a")
    assert a.carrier.send(a.carrier.resolve("a"), [b"me"], "token")
    assert select.select([a.carrier.fileno()], [], [], 0)[0]
    drive(a, rounds=1)
    assert (a.frames, a.news) == ([("a", b"me")], [("sent", "a", "token"), ("up", "a")])
    a.carrier.send(0, [b"lost"])
    a.carrier.disconnect(0)
    drive(a)
    assert len(a.frames) == 1


def test_nobody_is_there(ends):
    (a,) = ends("a")
    assert a.carrier.send(a.carrier.resolve("none"), [b"lost"])
    drive(a)
    assert a.news == [("lost", "none", errno.ECONNREFUSED)]
    for address in ("", "a b", "shm://..", "tcp://a"):
        with pytest.raises(FabricError) as caught:
            a.carrier.resolve(address)
        assert caught.value.errno == errno.EINVAL


def test_of_two_that_cross_the_first_name_keeps_its_own(ends):
    a, b = ends("a", "b")
    for sink, other in ((a, "b"), (b, "a")):
        sink.carrier.send(sink.carrier.resolve(other), [b"x"])
    drive(a, rounds=3)
    assert a.news == [], "it waits for the answer to its own hello"
    drive(b, rounds=3)
    assert ("up", "a") in b.news
    drive(a, rounds=3)
    assert ("up", "b") in a.news


@pytest.mark.parametrize("first", [0, 1])
def test_links_that_cross_lose_nothing(ends, first):
    """Both say hello before either hears the other."""
    a, b = ends("a", "b")
    peers = {a: a.carrier.resolve("b"), b: b.carrier.resolve("a")}
    for sink, peer in peers.items():
        assert not sink.carrier.send(peer, [b"x"])
    order = (a, b) if first == 0 else (b, a)
    drive(*order)
    for number in range(30):
        send(a, "b", b"%d" % number, b)
        send(b, "a", b"%d" % number, a)
    drive(a, b)
    assert [frame for _, frame in b.frames] == [b"%d" % number for number in range(30)]
    assert [frame for _, frame in a.frames] == [b"%d" % number for number in range(30)]
    assert [news[0] for sink in (a, b) for news in sink.news].count("lost") == 0
    assert len(a.carrier._peers) == len(b.carrier._peers) == 1


def test_a_crossing_that_does_not_come_is_tried_again(ends):
    (b,) = ends("b")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path_of("a", Meeting.PEER)))
    listener.listen()
    b.carrier.send(b.carrier.resolve("a"), [b"x"])
    other, _ = listener.accept()
    assert hear(other).name == "b"
    say(other, Refused(Refusal.CROSSING, 0, ""))
    drive(b, rounds=40)
    assert b.carrier.next_deadline_ns() is not None
    other.close()
    b.carrier._clock.sleep(1)
    drive(b, rounds=40)
    again, _ = listener.accept()
    assert hear(again) == Hello(again and hello_modes(), "b")
    say(again, Refused(Refusal.UNABLE, 0, "no"))
    drive(b, rounds=40)
    assert b.news[-1] == ("lost", "a", errno.ECONNREFUSED)
    again.close()
    listener.close()


def hello_modes() -> Mode:
    from i2o.transport.shm.link import own_modes

    return own_modes()


def test_a_full_ring_tells_when_there_is_room(ends):
    a, b = ends("a", "b")
    send(a, "b", b"first", b)
    drive(a, b)
    peer, count = a.carrier.resolve("b"), 1
    a.news.clear()
    while a.carrier.send(peer, [bytes(FRAME_LIMIT // 2)]):
        count += 1
    assert count > 3
    drive(a, rounds=40)
    a.news.clear()
    assert not a.carrier.send(peer, [bytes(FRAME_LIMIT // 2)])
    descriptor = a.carrier.fileno()
    drive(b)
    assert select.select([descriptor], [], [], 10)[0]
    drive(a, rounds=2)
    assert ("room", "b") in a.news
    drive(b)
    assert len(b.frames) == count


def test_what_was_sent_before_the_end_arrives(ends):
    a, b = ends("a", "b")
    send(a, "b", b"one", b)
    drive(a, b)
    for number in range(3):
        send(a, "b", b"%d" % number, b)
    a.carrier.close()
    drive(b)
    assert [frame for _, frame in b.frames] == [b"one", b"0", b"1", b"2"]
    assert b.news[-1] == ("lost", "a", errno.ECONNRESET)
    assert a.carrier.fileno() == -1
    a.carrier.progress()
    a.carrier.close()


def test_one_that_begins_anew_is_known_by_its_name(ends):
    a, b = ends("a", "b")
    send(a, "b", b"old", b)
    drive(a, b)
    a.carrier.close()
    (again,) = ends("a")
    send(again, "b", b"new", b)
    drive(again, b)
    assert [frame for _, frame in b.frames] == [b"old", b"new"]
    assert [news for news in b.news if news[0] != "room"] == [
        ("up", "a"),
        ("lost", "a", errno.ECONNRESET),
        ("up", "a"),
    ]


def test_a_disconnect_is_told_to_the_other_side_only(ends):
    a, b = ends("a", "b")
    send(a, "b", b"one", b)
    drive(a, b)
    a.news.clear()
    a.carrier.disconnect(a.carrier.resolve("b"))
    a.carrier.disconnect(a.carrier.resolve("nobody"))
    drive(a, b)
    assert a.news == []
    assert b.news[-1] == ("lost", "a", errno.ECONNRESET)
    send(b, "a", b"again", a)
    drive(a, b)
    assert a.frames == [("b", b"again")]


def test_a_sleeper_is_woken_by_each_frame(ends):
    a, b = ends("a", "b")
    send(a, "b", b"one", b)
    drive(a, b)
    descriptor = b.carrier.fileno()
    for number in range(50):
        drive(b, rounds=3)
        assert not select.select([descriptor], [], [], 0)[0], "nothing is there"
        send(a, "b", b"%d" % number, b)
        assert select.select([descriptor], [], [], 10)[0]
        drive(b, rounds=1)
        assert b.frames[-1] == ("a", b"%d" % number)


def test_strangers_stop_nobody(ends, monkeypatch):
    a, b = ends("a", "b")
    strangers = []
    for number in range(MAX_WAITING + 3):
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.settimeout(30)
        end.connect(str(path_of("b", Meeting.PEER)))
        strangers.append(end)
        drive(b, rounds=2)
        if number == 1:
            end.send(b"nonsense")
        elif number == 2:
            say(end, Hello(Mode(0), "x"))
        elif number == 3:
            say(end, Hello(hello_modes(), "no name"))
    drive(b)
    assert hear(strangers[2]).code is Refusal.UNABLE
    assert hear(strangers[3]).code is Refusal.UNABLE
    send(a, "b", b"good", b)
    drive(a, b)
    assert b.frames == [("a", b"good")]
    assert len(b.carrier._waiting) <= MAX_WAITING
    for end in strangers:
        end.close()
    monkeypatch.setattr("i2o.transport.shm.carrier.may_share", lambda peer: False)
    a.carrier.disconnect(a.carrier.resolve("b"))
    drive(a, b)
    assert a.carrier.send(a.carrier.resolve("b"), [b"x"])
    drive(a)
    assert a.news[-1] == ("lost", "b", errno.EACCES)


def test_a_peer_that_writes_nonsense_is_lost(ends):
    a, b = ends("a", "b")
    send(a, "b", b"one", b)
    drive(a, b)
    (peer,) = a.carrier._peers.values()
    channel = peer.link.channel
    if hasattr(channel, "_producer"):
        peer.link.segment.memory[0x100:0x104] = b"\1\2\3\4"
    else:
        channel.send(bytes(FRAME_LIMIT + 1))
    drive(b)
    assert b.news[-1] == ("lost", "a", errno.ECONNRESET)


def test_a_frame_to_a_peer_that_is_gone_is_lost_and_told(ends):
    """Also when sending is the first to notice."""
    a, b = ends("a", "b")
    send(a, "b", b"one", b)
    drive(a, b)
    b.carrier.close()
    peer = a.carrier.resolve("b")
    for _ in range(40):  # more than fits into a ring
        assert a.carrier.send(peer, [bytes(FRAME_LIMIT)])
    drive(a)
    assert a.news[-1] == ("lost", "b", errno.ECONNRESET)


def test_a_frame_before_the_first_one_arrived_waits(ends):
    a, _ = ends("a", "b")
    peer = a.carrier.resolve("b")
    assert not a.carrier.send(peer, [b"one"])
    assert not a.carrier.send(peer, [b"one"]), "still nobody has answered"
    assert a.carrier.next_deadline_ns() is None


def test_closing_sends_strangers_away(ends):
    (b,) = ends("b")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(30)
        stranger.connect(str(path_of("b", Meeting.PEER)))
        drive(b, rounds=2)
        assert len(b.carrier._waiting) == 1
        b.carrier.close()
        assert stranger.recv(1) == b""


def test_a_sink_may_disconnect_whoever_it_hears(ends):
    a, b = ends("a", "b")
    send(a, "b", b"one", b)
    drive(a, b)
    for number in range(3):
        send(a, "b", b"%d" % number, b)
    keep = b.frame_arrived

    def hear_one(peer: int, frame: memoryview) -> None:
        keep(peer, frame)
        b.carrier.disconnect(peer)

    b.frame_arrived = hear_one
    drive(b)
    assert [frame for _, frame in b.frames] == [b"one", b"0"]


@pytest.mark.parametrize("by", ["accept", "offer"])
def test_without_descriptors_a_carrier_lives(ends, monkeypatch, by):
    a, b = ends("a", "b")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(path_of("b", Meeting.PEER)))
        drive(b, rounds=2)
        peer = a.carrier.resolve("b")
        a.carrier.send(peer, [b"early"])
        if by == "offer":
            with monkeypatch.context() as patch:
                patch.setattr("i2o.transport.shm.carrier.offer", no_descriptors)
                drive(b, a)
            assert b.news[-1] == ("lost", "a", errno.ECONNRESET)
            assert a.news[-1] == ("lost", "b", errno.ECONNRESET)
        else:
            listener = b.carrier._listener
            refusing = RefusingOnce(listener.socket)
            monkeypatch.setattr(listener, "socket", refusing)
            drive(b)
            assert refusing.refused
            assert not stranger.recv(1), "it was there first, and said nothing"
        send(a, "b", b"good", b)
        drive(a, b)
    assert b.frames[-1] == ("a", b"good")


def no_descriptors(*_: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


class RefusingOnce:
    """A listening socket that finds no descriptor the first time."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening, self.refused = listening, False
        self.fileno, self.close = listening.fileno, listening.close

    def accept(self) -> tuple[socket.socket, object]:
        if not self.refused:
            self.refused = True
            no_descriptors()
        return self._listening.accept()


def test_somebody_elses_carrier_is_not_welcome(ends, monkeypatch):
    (b,) = ends("b")
    monkeypatch.setattr("i2o.transport.shm.carrier.may_share", lambda peer: False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(30)
        stranger.connect(str(path_of("b", Meeting.PEER)))
        drive(b, rounds=2)
        assert stranger.recv(1) == b""


@pytest.mark.parametrize("answer", [Hello(Mode.SOCKET, "a"), None])
def test_an_answer_that_is_none_ends_the_link(ends, answer):
    (b,) = ends("b")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path_of("a", Meeting.PEER)))
        listener.listen()
        b.carrier.send(b.carrier.resolve("a"), [b"x"])
        other, _ = listener.accept()
        with other:
            if answer is not None:
                say(other, answer)
        drive(b)
    assert b.news[-1] == ("lost", "a", errno.ECONNRESET)


def test_whoever_makes_a_new_link_while_the_old_one_stands_has_lost_that(ends, carried):
    a, b = ends("a", "b")
    send(a, "b", b"one", b)
    drive(a, b)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as again:
        again.settimeout(30)
        again.connect(str(path_of("b", Meeting.PEER)))
        say(again, Hello(hello_modes(), "a"))
        drive(b)
        close_all(hear(again).descriptors)
    assert ("lost", "a", errno.ECONNRESET) in b.news
    assert b.news.count(("up", "a")) == 2


def test_endpoints_by_uri():
    with open_endpoint("shm://a") as one, open_endpoint("shm://?type=msg") as other:
        assert one.name == "shm://a"
        assert other.name.startswith("shm://")
        with pytest.raises(FabricError) as caught:
            open_endpoint("shm://a")
        assert caught.value.errno == errno.EADDRINUSE
    open_listener("shm://a").close()
    for uri in ("shm://a b", "shm://a?nonsense=1", "shm://a?type=dgram"):
        with pytest.raises(UriError):
            open_endpoint(uri)


# --- what killed ones left -----------------------------------------------------------------------


def test_the_next_one_removes_what_killed_ones_left():
    dead, chosen, alive = "4194305-0123abcd", "mine", f"{os.getpid()}-0123abcd"
    for name in (dead, chosen, alive):  # no process has the first one's number: it is too large
        listen(name, Meeting.PEER).socket.close()
    with listen("4194306-0123abcd", Meeting.PEER) as heard, ShmCarrier():
        assert not path_of(dead, Meeting.PEER).exists()
        assert path_of(chosen, Meeting.PEER).exists(), "the next one of that name replaces it"
        assert path_of(alive, Meeting.PEER).exists(), "who is alive is not even asked"
        assert path_of("4194306-0123abcd", Meeting.PEER).exists(), "somebody listens"
        assert heard.socket.fileno() >= 0


def test_a_name_that_was_given_to_a_killed_one_is_swept():
    """What `shm://` is called is what is looked for."""
    with ShmCarrier() as carrier:
        assert re.fullmatch(rf"shm://{os.getpid()}-[0-9a-f]{{8}}", carrier.name)


def linked(ends, *names: str) -> list[Sink]:
    sinks = ends(*names)
    first = sinks[0]
    for other in sinks[1:]:
        send(first, other.carrier.name, b"hello", *sinks[1:])
    drive(*sinks)
    for sink in sinks:
        sink.frames.clear()
        sink.news.clear()
    return sinks


def test_lingering_delivers_a_frame_that_is_there(ends):
    a, b = linked(ends, "a", "b")
    b.carrier.linger(0)  # the first one looks at the sockets
    send(a, "b", b"one")
    send(a, "b", b"two")
    b.carrier.linger(0)
    assert b.frames == [("a", b"one")]
    b.carrier.linger(1_000_000_000)
    assert b.frames == [("a", b"one"), ("a", b"two")]


def test_lingering_waits_for_a_frame_that_comes_later(ends, carried):
    a, b = linked(ends, "a", "b")
    thread = threading.Thread(target=send, args=(a, "b", b"late"))
    thread.start()
    while not b.frames:
        b.carrier.linger(60_000_000_000)
    thread.join()
    assert b.frames == [("a", b"late")]


@pytest.mark.parametrize("watched", [False, True])
def test_whoever_only_lingers_hears_of_everything_else(ends, watched):
    a, b, c = linked(ends, "a", "b", "c")
    if watched:
        assert a.carrier.fileno() >= 0
    send(b, "a", b"from b")
    send(c, "a", b"from c")
    a.carrier.send(0, [b"from a"])
    a.carrier.linger(60_000_000_000)  # two peers: nobody can look for both
    assert sorted(a.frames) == [("a", b"from a"), ("b", b"from b"), ("c", b"from c")]
    c.carrier.close()
    for _ in range(64):
        a.carrier.linger(1000)
    assert ("lost", "c", errno.ECONNRESET) in a.news
    b.carrier.close()  # the only one that is left
    for _ in range(64):
        a.carrier.linger(1000)
    assert ("lost", "b", errno.ECONNRESET) in a.news
    a.carrier.close()
    a.carrier.linger(1000)


@pytest.mark.parametrize("carried", CARRIED[:1], indirect=True)
def test_lingering_notices_a_ring_that_makes_no_sense(ends, carried):
    _, b = linked(ends, "a", "b")
    link = b.carrier._up[0].link
    assert link is not None
    assert isinstance(link.channel, RingChannel)
    b.carrier.linger(0)  # the first one looks at the sockets
    for which in (TO_HOST, TO_DEVICE):
        tail_at = link.segment.ring(which).control_at
        link.segment.memory[tail_at : tail_at + 4] = b"\xff\xff\xff\x7f"
    b.carrier.linger(1000)
    assert not b.carrier._up, "it is noticed at once, not with the next look at the sockets"
    drive(b)
    assert b.news == [("lost", "a", errno.ECONNRESET)]
