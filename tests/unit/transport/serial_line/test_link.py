# SPDX-License-Identifier: Apache-2.0
"""The link as a state machine, in a time of its own: what lines do to it, and what ends it."""

from __future__ import annotations

import errno
import os
import random
from itertools import pairwise

import pytest

from fakes.noisy_line import NS, Cable, Noise
from i2o.transport.serial_line.link import Frame, Link, LinkState, Lost, Room, Up
from i2o.transport.serial_line.link_frames import (
    MAX_WINDOW,
    MIN_PAYLOAD,
    Ack,
    Bye,
    ByeCode,
    Data,
    FrameFlags,
    Hello,
    LinkFrame,
    frame_bytes,
    link_number,
    read_frame,
)
from i2o.transport.serial_line.link_options import LinkOptions

ROUGH = Noise(bit_errors=1e-4, dropped=1e-4, doubled=1e-4, lost_frames=0.1, garbage=0.01)
FULL = bool(os.environ.get("I2O_TESTS_FULL"))


def some_frames(count: int, most: int = 3000, seed: int = 0) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(source.randrange(1, most)) for _ in range(count)]


def has_all(cable: Cable, number: int, frames: list[bytes]):
    return lambda: len(cable.ends[number].frames) >= len(frames)


# --- what arrives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [960.0, 11520.0, 1e6])
def test_a_clean_line_is_used(rate):
    """The bar is 0.7 of what the line could carry; both directions at once take nothing away."""
    cable = Cable(rate=rate)
    cable.connect()
    frames, start = [b"x" * 4000] * 30, cable.now_ns
    for end in cable.ends:
        end.send(*frames)
    cable.until(lambda: all(len(end.frames) == 30 for end in cable.ends))
    used = 30 * 4000 / ((cable.now_ns - start) / NS) / rate
    assert used > (0.7 if rate == 960.0 else 0.9)
    assert [end.link.outgoing.repeated for end in cable.ends] == [0, 0]


@pytest.mark.parametrize("seed", range(20 if FULL else 4))
def test_a_rough_line_loses_nothing(seed):
    cable = Cable(noise=ROUGH, seed=2 * seed)
    cable.connect()
    frames = [some_frames(40, seed=seed), some_frames(40, seed=seed + 100)]
    for end, these in zip(cable.ends, frames, strict=True):
        end.send(*these)
    cable.until(lambda: all(end.link.outgoing.is_idle and not end.waiting for end in cable.ends))
    cable.run(5)
    assert cable.ends[1].frames == frames[0]
    assert cable.ends[0].frames == frames[1]
    assert [end.news for end in cable.ends] == [[Up()], [Up()]]
    assert all(end.link.damaged and end.link.outgoing.repeated for end in cable.ends)


def test_sizes_follow_the_line():
    """Small frames while many are lost, large ones when none is any more."""
    cable = Cable(noise=ROUGH, seed=5)
    cable.connect()
    cable.ends[0].send(*[b"x" * 2000] * 40)
    cable.until(has_all(cable, 1, [b""] * 40))
    outgoing = cable.ends[0].link.outgoing
    assert outgoing.payload_size < 256
    cable.wires[0]._noise = cable.wires[1]._noise = Noise()
    cable.ends[0].send(*[b"x" * 2000] * 100)
    cable.until(has_all(cable, 1, [b""] * 140))
    assert outgoing.payload_size == cable.ends[0].link._options.best_payload


def test_numbers_go_round():
    cable = Cable(LinkOptions(frame_limit=64), rate=1e8)
    cable.connect()
    for end in cable.ends:  # as after 65,530 frames
        end.link.incoming.expected = end.link.outgoing._next = end.link.outgoing._oldest = 0xFFFA
    frames = some_frames(100, 60)
    cable.ends[0].send(*frames)
    cable.until(has_all(cable, 1, frames))
    assert cable.ends[1].frames == frames
    assert cable.ends[0].link.outgoing.next_sequence == 94


def test_numbers_go_round_for_real():
    """More than 65,536 frames, of which some are lost on the way, as are some of the answers."""
    ends = [Link(LinkOptions(frame_limit=64, queue_limit=200)) for _ in range(2)]
    now, sent, packets, found = NS, 0, 0, []
    ends[0].seek(now)
    while len(found) < 66_000:
        now += NS // 1000
        assert now < 600 * NS, "it does not go on"
        while ends[0].state is LinkState.UP and sent < 66_000:
            if not ends[0].send(sent.to_bytes(4, "little"), now):
                break
            sent += 1
        for end, other in zip(ends, reversed(ends), strict=True):
            data = b""
            while packet := end.next_output(now):
                packets += 1
                if packets % 331:
                    data += packet
            for event in (*other.receive(data, now), *other.tick(now)):
                if isinstance(event, Frame):
                    found.append(int.from_bytes(event.data, "little"))
                else:
                    assert isinstance(event, Up | Room), event
    assert found == list(range(66_000))
    assert ends[1].incoming.expected == 66_000 - 65_536
    assert ends[0].outgoing.repeated > 100


@pytest.mark.parametrize("rate", [5.0, 30.0])
def test_a_line_slower_than_its_timers(rate):
    """At 50 and 300 baud a frame alone takes longer than any timer waits on other lines."""
    cable = Cable(rate=rate)
    cable.connect()
    cable.ends[0].send(b"x" * 200)
    cable.until(has_all(cable, 1, [b""]), seconds=2 * 300 / rate)
    cable.until(lambda: cable.ends[0].link.outgoing.is_idle)
    assert cable.ends[0].link.outgoing.repeated == 0
    assert [end.news for end in cable.ends] == [[Up()], [Up()]]


def test_a_lost_frame_is_repeated_without_waiting_for_a_timer():
    cable, sent = Cable(), []

    def lose_one(number: int, data: bytes) -> bytes:
        frame = read_frame(data[1:-1])
        if number == 0 and isinstance(frame, Data):
            sent.append(frame.sequence)
            if sent == [0, 1, 2]:
                return b""
        return data

    cable.connect()
    cable.tap = lose_one
    cable.ends[0].send(b"x" * 4000)
    start = cable.now_ns
    cable.until(has_all(cable, 1, [b""]))
    assert sent.count(2) == 2
    assert len(sent) == len(set(sent)) + 1, "nothing else was repeated"
    assert cable.now_ns - start < NS


def test_the_last_frame_is_repeated_by_the_timer():
    cable, lost = Cable(), []

    def lose_three(number: int, data: bytes) -> bytes:
        if number == 0 and len(lost) < 3 and isinstance(read_frame(data[1:-1]), Data):
            lost.append(cable.now_ns)
            return b""
        return data

    cable.connect()
    cable.tap = lose_three
    cable.ends[0].send(b"alone")
    cable.until(has_all(cable, 1, [b""]))
    first, second = lost[1] - lost[0], lost[2] - lost[1]
    assert first <= 0.2 * NS, "the handshake has told how long a round trip takes"
    assert 1.8 * first <= second <= 2.2 * first, "it waits twice as long"


def test_a_lost_acknowledgement_costs_nothing_but_a_repetition():
    cable, lost = Cable(), []

    def lose(number: int, data: bytes) -> bytes:
        if number == 1 and not lost and isinstance(read_frame(data[1:-1]), Ack):
            lost.append(data)
            return b""
        return data

    cable.connect()
    cable.tap = lose
    cable.ends[0].send(b"once")
    cable.until(has_all(cable, 1, [b""]))
    cable.until(lambda: cable.ends[0].link.outgoing.is_idle)
    assert lost
    assert cable.ends[1].frames == [b"once"]
    assert cable.ends[1].link.incoming.duplicates == 1


def test_the_receivers_window_is_kept():
    cable = Cable(LinkOptions(), LinkOptions(window=2, max_payload=MIN_PAYLOAD))
    flying: set[int] = set()
    sizes = []

    def look(number: int, data: bytes) -> bytes:
        frame = read_frame(data[1:-1])
        if number == 0 and isinstance(frame, Data):
            flying.add(frame.sequence)
            sizes.append((len(flying), len(frame.payload)))
        elif number == 1 and isinstance(frame, Ack | Data):
            flying.difference_update(range(frame.ack))
        return data

    cable.connect()
    cable.tap = look
    cable.ends[0].send(b"x" * 4000)
    cable.until(has_all(cable, 1, [b""]))
    assert max(sizes) == (2, MIN_PAYLOAD)


def test_room():
    options = LinkOptions(queue_limit=1000, baud=115200)
    cable = Cable(options)
    cable.connect()
    link = cable.ends[0].link
    taken = 0
    while link.send(b"x" * 400, cable.now_ns):
        taken += 1
    assert taken == 3
    cable.until(lambda: Room() in cable.ends[0].events)
    assert link.outgoing.queued <= 500
    assert link.send(b"more", cable.now_ns)


# --- how links begin and end ----------------------------------------------------------------------


def test_both_seek_at_once():
    cable = Cable()
    for end in cable.ends:
        end.link.seek(cable.now_ns)
    cable.until(lambda: all(end.link.state is LinkState.UP for end in cable.ends))
    cable.run(2)
    assert [end.news for end in cable.ends] == [[Up()], [Up()]]


@pytest.mark.parametrize("seed", range(6))
def test_a_handshake_over_a_rough_line(seed):
    noise = Noise(lost_frames=0.5, garbage=0.5)
    cable = Cable(LinkOptions(connect_s=60), noise=noise, seed=seed)
    cable.connect()
    cable.ends[1].send(b"hello")
    cable.until(has_all(cable, 0, [b""]))
    assert [end.news for end in cable.ends] == [[Up()], [Up()]]


def test_a_frame_that_is_refused_makes_the_link():
    cable = Cable()
    cable.ends[0].send(b"first")
    cable.until(has_all(cable, 1, [b""]))
    assert cable.ends[0].events[:2] == [Up(), Room()]
    assert cable.ends[1].events == [Up(), Frame(b"first")]


def test_nobody_answers():
    cable = Cable()
    cable.tap = lambda number, data: b""
    cable.ends[0].link.seek(cable.now_ns)
    start = cable.now_ns
    cable.until(lambda: cable.ends[0].events)
    (lost,) = cable.ends[0].events
    assert (lost.error, lost.reason) == (errno.EHOSTUNREACH, "nobody answers within 5 s")
    assert cable.now_ns - start == 5 * NS
    assert cable.ends[0].link.state is LinkState.DOWN
    assert cable.ends[0].link.next_deadline_ns() is None


@pytest.mark.parametrize(("back", "word"), [("echo", "sends back"), ("noise", "another speed")])
def test_nobody_answers_and_why(back, word):
    link, events, now = Link(LinkOptions()), [], 0
    link.seek(now)
    while not events:
        data = link.next_output(now)
        if data:
            link.receive(data if back == "echo" else b"\0login: \0", now)
        now = max(now + 1, link.next_deadline_ns() or 0)
        events = link.tick(now)
    assert word in events[0].reason


def test_why_nobody_answered_before_is_forgotten():
    """What came in an earlier attempt tells nothing about this one."""
    link, now = Link(LinkOptions()), 0
    reasons = []
    for back in (b"\0login: \0", b""):
        link.seek(now)
        link.receive(back, now)
        events = []
        while not events:
            link.next_output(now)
            now = max(now + 1, link.next_deadline_ns() or 0)
            events = link.tick(now)
        reasons.append(events[0].reason)
    assert "another speed" in reasons[0]
    assert reasons[1] == "nobody answers within 5 s"


def test_an_answer_to_one_of_two_hellos_tells_no_round_trip():
    """Nobody knows which one was answered, so the timer begins with what it does not know."""
    for hellos, wait_ns in ((1, NS // 20), (2, NS // 4)):
        link, now = Link(LinkOptions(), lambda: 1000), 0
        link.seek(now)
        for number in range(hellos):
            now = number * NS // 4
            assert link.next_output(now)
        now += NS // 1000
        assert link.receive(frame_bytes(Hello(2000, 1000, 32, 4096, 4096)) + b"\0", now) == [Up()]
        link.send(b"x", now)
        assert isinstance(read_frame(link.next_output(now)[1:-1]), Data)
        assert link.outgoing.next_deadline_ns() == now + wait_ns


def test_a_loop_is_no_peer():
    """A line that echoes and has somebody at its end, too: one's own frames are not taken."""
    cable = Cable()
    cable.connect()
    mine = cable.ends[0].link
    link_out = link_number(1000, 2000)
    echoed = frame_bytes(Data(link_out, 0, 0, 0, 32, b"echo"))
    assert mine.receive(echoed + b"\0", cable.now_ns) == []
    assert mine.strays == 1


def test_an_end_that_asks_and_goes_is_forgotten():
    """Nobody asked for a link here, so nobody is told."""
    cable = Cable()
    cable.ends[1].link.receive(frame_bytes(Hello(7, 0, 32, 4096, 4096)) + b"\0", cable.now_ns)
    assert cable.ends[1].link.state is LinkState.ANSWERING
    cable.tap = lambda number, data: b""
    cable.run(6)
    assert cable.ends[1].events == []
    assert cable.ends[1].link.state is LinkState.DOWN


def test_an_end_that_closes():
    cable = Cable()
    cable.connect()
    cable.ends[0].send(b"before")
    cable.until(has_all(cable, 1, [b""]))
    cable.ends[0].link.close("enough")
    cable.until(lambda: len(cable.ends[1].news) == 2)
    assert cable.ends[1].news[1] == Lost(errno.ECONNRESET, "the other end closed the link: enough")
    assert cable.ends[0].news == [Up()]
    cable.connect()
    cable.ends[0].send(b"again")
    cable.until(lambda: cable.ends[1].frames == [b"before", b"again"])


def test_an_end_that_restarted_and_calls():
    cable = Cable()
    cable.connect()
    new = cable.replace(0)
    new.send(b"new")
    cable.until(has_all(cable, 1, [b""]))
    assert cable.ends[1].news == [Up(), Lost(errno.ECONNRESET, "the other end began anew"), Up()]


def test_an_end_that_restarted_and_waits_is_noticed():
    """By the first frame that is sent to it, and otherwise by asking it."""
    for sends in (True, False):
        cable = Cable()
        cable.connect()
        cable.replace(1)
        if sends:
            cable.ends[0].send(b"for the old one")
        start = cable.now_ns
        cable.until(lambda c=cable: len(c.ends[0].news) == 2)
        assert cable.ends[0].news[1].error == errno.ECONNRESET
        assert cable.now_ns - start < (NS // 2 if sends else 3 * NS)
        cable.run(1)
        assert cable.ends[1].frames == []


def test_an_end_that_does_not_answer_any_more():
    cable = Cable(LinkOptions(dead_s=7.0))
    cable.connect()
    cable.tap = lambda number, data: b"" if number == 0 else data
    cable.ends[0].send(b"x" * 3000)
    start = cable.now_ns
    cable.until(lambda: len(cable.ends[0].news) == 2)
    assert cable.ends[0].news[1] == Lost(errno.ETIMEDOUT, "nothing was acknowledged for 7 s")
    assert 7 * NS <= cable.now_ns - start <= 7.1 * NS


def test_a_silent_end_is_asked_less_and_less_and_not_given_up():
    cable = Cable()
    cable.connect()
    cable.run(1)
    asked = []

    def deaf(number: int, data: bytes) -> bytes:
        asked.append(cable.now_ns)
        return b""

    cable.tap = deaf
    cable.replace(1, LinkOptions(keepalive_s=1e9))
    start = cable.now_ns
    cable.run(300)
    gaps = [round((b - a) / NS) for a, b in pairwise(asked)]
    assert asked[0] - start <= 2 * NS
    assert gaps[:7] == [4, 8, 16, 32, 60, 60, 60]
    assert cable.ends[0].news == [Up()]


def test_an_idle_link_stays():
    cable = Cable()
    cable.connect()
    cable.run(100)
    assert [end.news for end in cable.ends] == [[Up()], [Up()]]
    assert sum(cable.carried) < 100 * 60, "and costs little"


def test_a_line_that_goes_away():
    cable = Cable()
    cable.connect()
    link = cable.ends[0].link
    assert link.line_lost("unplugged") == [Lost(errno.ENODEV, "unplugged")]
    assert link.line_lost("unplugged") == []
    assert link.state is LinkState.DOWN


def test_what_one_end_cannot_take_is_said():
    for options, other, error in (
        (LinkOptions(frame_limit=4096), LinkOptions(frame_limit=512), errno.EMSGSIZE),
        (LinkOptions(frame_limit=512), LinkOptions(frame_limit=4096), errno.EMSGSIZE),
    ):
        cable = Cable(options, other)
        cable.ends[0].link.seek(cable.now_ns)
        cable.until(lambda c=cable: c.ends[0].events)
        assert cable.ends[0].events[0].error == error
        assert "4096" in cable.ends[0].events[0].reason
        assert "512" in cable.ends[0].events[0].reason
        assert "same frame_limit" in cable.ends[0].events[0].reason


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello(7, 0, 32, 4096, 4096, version=2), ByeCode.VERSION),
        (Hello(7, 0, 0, 4096, 4096), ByeCode.PROTOCOL),
        (Hello(7, 0, 32, MIN_PAYLOAD - 1, 4096), ByeCode.PROTOCOL),
    ],
)
def test_hellos_that_are_refused(hello, code):
    link = Link(LinkOptions())
    assert link.receive(frame_bytes(hello) + b"\0", 0) == []
    said = read_frame(link.next_output(0).strip(b"\0"))
    assert (said.link, said.code) == (7, code)
    assert link.next_output(0) == b""
    other = Link(LinkOptions(), iter([7, 8]).__next__)
    other.seek(0)
    (lost,) = other.receive(frame_bytes(said) + b"\0", 0)
    assert lost.error in (errno.EPROTONOSUPPORT, errno.EPROTO)


# --- rules that are broken ------------------------------------------------------------------------


class Lonely:
    """A link that is up with nobody, and what it is told by hand."""

    def __init__(self, options: LinkOptions = LinkOptions()) -> None:  # noqa: B008
        self.link = Link(options, iter(range(100, 200)).__next__)
        self.tell(Hello(7, 100, 32, 4096, 4096))
        self.link.next_output(0)
        self.to, self.back = link_number(7, 100), link_number(100, 7)

    def tell(self, frame: LinkFrame):
        return self.link.receive(frame_bytes(frame) + b"\0", 0)

    def said(self) -> LinkFrame | None:
        data = self.link.next_output(0)
        return read_frame(data.strip(b"\0")) if data else None


@pytest.mark.parametrize(
    "frame",
    [
        Data(0, 0, 0, 1, 32, b"x"),
        Ack(0, 0, 0, 0, 32, 1),
        Ack(0, 0, 0, 5, 32, 0),
        Data(0, 0, 0, 0, 32, b"x" * 65),
    ],
)
def test_nonsense_ends_the_link(frame):
    lonely = Lonely(LinkOptions(max_payload=64))
    (lost,) = lonely.tell(frame._replace(link=lonely.to))[-1:]
    assert (type(lost), lost.error) == (Lost, errno.EPROTO)
    bye = lonely.said()
    assert (bye.link, bye.code) == (lonely.back, ByeCode.PROTOCOL)


def test_a_gap_is_told_before_anything_else():
    lonely = Lonely()
    lonely.tell(Data(lonely.to, 1, 0, 0, 32, b"early"))
    lonely.link.send(b"answer", 0)
    assert lonely.said().held == 1
    assert lonely.said().payload == b"answer"


def test_every_attempt_has_another_session():
    lonely = Lonely()
    lonely.link.close()
    assert lonely.said().code == ByeCode.CLOSED
    lonely.link.seek(0)
    assert lonely.said().session == 101


def test_who_answers_is_up_by_frames_of_this_link_alone():
    link = Link(LinkOptions(), lambda: 100)
    link.receive(frame_bytes(Hello(7, 0, 32, 4096, 4096)) + b"\0", 0)
    link.receive(frame_bytes(Ack(5, 0, 0, 0, 32, 0)) + b"\0", 0)
    assert (link.state, link.strays) == (LinkState.ANSWERING, 1)
    link.receive(frame_bytes(Ack(link_number(7, 100), 0, 0, 0, 32, 0)) + b"\0", 0)
    assert link.state is LinkState.UP


def test_a_frame_that_does_not_end():
    lonely = Lonely(LinkOptions(frame_limit=100, max_payload=64))
    more = int(FrameFlags.MORE)
    assert lonely.tell(Data(lonely.to, 0, more, 0, 32, b"x" * 64)) == []
    assert lonely.link.kept == 64
    (lost,) = lonely.tell(Data(lonely.to, 1, more, 0, 32, b"x" * 64))
    assert lost.error == errno.EPROTO
    assert lonely.link.kept == 0


def test_what_is_beyond_the_window_is_not_kept():
    lonely = Lonely(LinkOptions(window=4))
    for number in (1, 3, 3, 4, 40000):
        lonely.tell(Data(lonely.to, number, 0, 0, 32, b"x" * 10))
    assert lonely.link.kept == 20
    assert lonely.link.incoming.duplicates == 3
    ack = lonely.said()
    assert (ack.ack, ack.held) == (0, 0b101)
    assert lonely.tell(Data(lonely.to, 0, 0, 0, 32, b"0")) == [Frame(b"0"), Frame(b"x" * 10)]
    ack = lonely.said()
    assert (ack.ack, ack.held) == (2, 0b1)


def test_an_acknowledgement_goes_along_with_data():
    lonely = Lonely()
    lonely.tell(Data(lonely.to, 0, 0, 0, 32, b"question"))
    assert lonely.said() is None, "it waits for an answer to go with"
    lonely.link.send(b"answer", 0)
    answer = lonely.said()
    assert (answer.payload, answer.ack) == (b"answer", 1)
    assert lonely.said() is None
    lonely.tell(Data(lonely.to, 1, int(FrameFlags.POLL), 1, 32, b"now"))
    assert lonely.said() == Ack(lonely.back, 1, 0, 2, MAX_WINDOW, 0)
    for number in range(2, 10):
        lonely.tell(Data(lonely.to, number, 0, 1, 32, b"many"))
    assert lonely.said().ack == 10, "at the latest after eight"


def test_strays():
    lonely = Lonely()
    for frame in (Ack(5, 0, 0, 0, 32, 0), Data(5, 0, 0, 0, 32, b"x"), Bye(5, 0), Bye(lonely.to, 1)):
        assert lonely.tell(frame) == []
    assert lonely.link.strays == 4
    assert lonely.said() is None
    assert lonely.tell(Bye(lonely.back, ByeCode.UNKNOWN_LINK))[0].error == errno.ECONNRESET
    lonely.tell(Ack(5, 0, 0, 0, 32, 0))
    assert lonely.said() is None, "nothing was asked"
    lonely.tell(Ack(5, 0, int(FrameFlags.POLL), 0, 32, 0))
    assert lonely.said().code == ByeCode.UNKNOWN_LINK
    lonely.tell(Bye(lonely.to, 0))
    assert lonely.link.state is LinkState.DOWN


def test_garbage_of_any_length_costs_nothing_but_a_repetition():
    cable, noise = Cable(rate=1e6), random.Random(1)

    def garbage(number: int, data: bytes) -> bytes:
        return data + noise.randbytes(noise.choice((0, 1, 300, 6000))).replace(b"\0", b"?")

    cable.connect()
    cable.tap = garbage
    frames = some_frames(30)
    cable.ends[0].send(*frames)
    cable.until(has_all(cable, 1, frames))
    assert cable.ends[1].frames == frames
    assert cable.ends[1].link.overlong


def test_mutated_frames():
    """Frames with good checksums and wrong numbers: no crash, and little is kept."""
    noise = random.Random(11)
    number = 0
    options = LinkOptions(max_payload=256, frame_limit=512)
    for _ in range(10):
        lonely = Lonely(options)
        for _ in range(5000):
            number += 1
            pick, small = noise.random(), noise.randrange(6)
            link = noise.choice((lonely.to, lonely.to, lonely.to, lonely.back, number))
            frame: LinkFrame
            if pick < 0.6:
                frame = Data(
                    link, small, noise.randrange(256), 0, noise.randrange(40),
                    noise.randbytes(noise.randrange(200)),
                )  # fmt: skip
            elif pick < 0.9:
                frame = Ack(
                    link, small, noise.randrange(8), 0, 1, noise.getrandbits(2) * (pick > 0.8)
                )
            elif pick < 0.99:
                frame = Bye(number, small, "x")
            else:
                frame = Hello(7, noise.randrange(3), small, 64 * small, 512)
            lonely.tell(frame)
            lonely.link.next_output(0)
            assert lonely.link.kept < 40 * 256
            if lonely.link.state is not LinkState.UP:
                lonely = Lonely(options)
        fresh = Lonely(options)
        assert fresh.tell(Data(fresh.to, 0, 0, 0, 32, b"good")) == [Frame(b"good")]
