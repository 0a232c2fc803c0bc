# SPDX-License-Identifier: Apache-2.0
"""The device's end of a link: what its host may do, and what it hears."""

from __future__ import annotations

import errno
import random
import struct

import pytest

from fakes.recording_sink import RecordingSink
from i2o.errors import RemoteFrameError
from i2o.transport.fabric.errors import FabricError
from i2o.transport.usb.device_carrier import UsbDeviceCarrier
from i2o.transport.usb.interface import (
    BEGIN_LINK,
    DOORBELL,
    DOORBELL_ENDPOINT,
    FRAME_LIMIT,
    HEADER,
    IN_ENDPOINT,
    LINK_INFO,
    MAGIC,
    OUT_ENDPOINT,
    VERSION,
    DoorbellFlags,
    device_spec,
)
from i2o.transport.usb.link_function import MAX_FRAMES, MAX_NEWS, LinkFunction, News, NewsKind
from i2o.transport.usb_device.transfers import Status, Transfer

LINK = 7


class Host:
    """Speaks to the device as a host would, transfer by transfer."""

    def __init__(self, link: LinkFunction) -> None:
        self.link, self.device = link, link.device
        assert self.control(0x00, 9, value=1) == b""

    def transfer(self, endpoint: int, **what: object) -> Transfer:
        made = Transfer(endpoint, **what, done=lambda _: None)  # type: ignore[arg-type]
        self.device.submit(made)
        return made

    def control(self, kind, request, data=b"", *, value=0, index=0, length=64):
        size = length if kind & 0x80 else len(data)
        setup = struct.pack("<BBHHH", kind, request, value, index, size)
        done = self.transfer(0, setup=setup, data=data, length=length)
        return bytes(done.answer) if done.status is Status.OK else None

    def begin(self, link=LINK, limit=FRAME_LIMIT, magic=MAGIC, version=VERSION):
        return self.control(
            0x41, 2, BEGIN_LINK.build(magic=magic, version=version, frame_limit=limit, link=link)
        )

    def info(self):
        return LINK_INFO.unpack_from(self.control(0xC1, 1))

    def frame(self, body: bytes, link: int = LINK) -> Transfer:
        return self.transfer(
            OUT_ENDPOINT, data=HEADER.build(link=link, length=len(body)) + body, ends=True
        )

    def read(self) -> bytes | None:
        done = self.transfer(IN_ENDPOINT, length=1 << 17)
        if done.status is None:
            self.device.cancel(done)
            return None
        return bytes(done.answer)

    def heard(self):
        done = self.transfer(DOORBELL_ENDPOINT, length=16)
        if done.status is None:
            self.device.cancel(done)
            return None
        record = DOORBELL.unpack_from(done.answer)
        return DoorbellFlags(record.flags), record.link, record.frames


def news_of(link: LinkFunction) -> list[News]:
    found = []
    while (news := link.next_news()) is not None:
        found.append(news)
    return found


def kinds(link: LinkFunction) -> list[str]:
    return [news.kind.name for news in news_of(link)]


@pytest.fixture
def host(link: LinkFunction) -> Host:
    made = Host(link)
    assert made.begin() == b""
    assert kinds(link) == ["UP"]
    return made


def test_what_the_device_says_of_the_link(link: LinkFunction) -> None:
    host = Host(link)
    info = host.info()
    assert (info.magic, info.version, info.frame_limit, info.link) == (MAGIC, 1, FRAME_LIMIT, 0)
    host.begin()
    again = host.info()
    assert (again.link, again.incarnation) == (LINK, info.incarnation)


@pytest.mark.parametrize(
    "wrong", [{"magic": 1}, {"version": 2}, {"link": 0}, {"limit": 127}], ids=str
)
def test_a_link_that_makes_no_sense(link: LinkFunction, wrong: dict[str, int]) -> None:
    assert Host(link).begin(**wrong) is None
    assert kinds(link) == []


def test_requests_that_make_no_sense(host: Host) -> None:
    assert host.control(0xC1, 2) is None
    assert host.control(0x41, 2, b"short") is None
    assert host.control(0xC1, 1, index=1) is None


def test_no_link_before_somebody_is_there(link: LinkFunction) -> None:
    link.is_open = False
    assert Host(link).begin() is None


def test_frames_in_both_directions(host: Host, link: LinkFunction) -> None:
    assert host.frame(b"one").status is Status.OK
    for piece in (HEADER.build(link=LINK, length=1016) + bytes(504), bytes(512), b""):
        host.transfer(OUT_ENDPOINT, data=piece)
    assert [news.frame for news in news_of(link)] == [b"one", bytes(1016)]
    assert link.send(b"back")
    assert host.heard() == (DoorbellFlags.FRAMES, LINK, 1)
    assert host.read() == HEADER.build(link=LINK, length=4) + b"back"
    waiting = host.transfer(IN_ENDPOINT, length=512)
    assert link.send(b"at once")
    assert bytes(waiting.answer)[8:] == b"at once"
    assert host.heard() is None  # it was reading


def test_frames_of_another_link_are_ignored(host: Host, link: LinkFunction) -> None:
    host.frame(b"stale", link=6)
    host.transfer(OUT_ENDPOINT, data=b"short")
    assert link.stale == 2
    assert kinds(link) == []


def test_another_link_forgets_the_first(host: Host, link: LinkFunction) -> None:
    host.transfer(OUT_ENDPOINT, data=bytes(512))
    link.send(b"for the first")
    assert host.begin(link=8) == b""
    assert kinds(link) == ["LOST", "UP"]
    assert host.read() is None
    assert host.heard() is None
    host.frame(b"x", link=8)
    assert kinds(link) == ["FRAME"]


def test_the_device_ends_the_link_after_what_it_sent(host: Host, link: LinkFunction) -> None:
    link.send(b"last words")
    link.end()
    link.end()
    assert host.heard() == (DoorbellFlags.FRAMES | DoorbellFlags.RESET, LINK, 1)
    assert host.read() == HEADER.build(link=LINK, length=10) + b"last words"
    assert host.read() == b""
    assert host.info().link == 0
    assert kinds(link) == []  # who ends a link is not told of it


def test_the_host_ends_the_link(host: Host, link: LinkFunction) -> None:
    link.send(b"never read")
    waiting = (
        host.transfer(DOORBELL_ENDPOINT, length=16),
        host.transfer(DOORBELL_ENDPOINT, length=16),
    )
    assert host.control(0x41, 3) == b""
    assert all(each.status is Status.OK for each in waiting)
    (lost,) = news_of(link)
    assert (lost.kind, lost.code) == (NewsKind.LOST, errno.ECONNRESET)
    assert host.read() is None
    assert not link.send(b"x")
    host.begin(link=9)
    assert kinds(link) == ["UP", "ROOM"]


def test_a_host_that_breaks_the_rules(host: Host, link: LinkFunction) -> None:
    host.transfer(OUT_ENDPOINT, data=HEADER.build(link=LINK, length=99) + b"short", ends=True)
    (lost,) = news_of(link)
    assert (lost.kind, lost.code) == (NewsKind.LOST, errno.EPROTO)
    heard = host.heard()
    assert heard is not None
    assert heard[0] == DoorbellFlags.RESET


def test_a_transfer_without_end_takes_no_memory(host: Host, link: LinkFunction) -> None:
    for _ in range(300):
        assert host.transfer(OUT_ENDPOINT, data=bytes(512)).status is Status.OK
    assert kinds(link) == ["LOST"]
    host.transfer(OUT_ENDPOINT, data=b"")
    host.begin()
    host.frame(b"good")
    assert kinds(link) == ["UP", "FRAME"]


def test_who_takes_nothing_is_not_sent_more(host: Host, link: LinkFunction) -> None:
    sent = [host.frame(b"x") for _ in range(MAX_FRAMES + 2)]
    assert [each.status for each in sent[-3:]] == [Status.OK, None, None]
    assert link.next_news() is not None
    assert sent[-2].status is Status.OK
    assert host.heard() == (DoorbellFlags.ROOM, LINK, 0)
    assert kinds(link) == ["FRAME"] * (MAX_FRAMES + 1)
    assert sent[-1].status is Status.OK


def test_a_host_that_reads_nothing_is_not_sent_more(host: Host, link: LinkFunction) -> None:
    assert [link.send(b"x") for _ in range(MAX_FRAMES + 1)] == [True] * MAX_FRAMES + [False]
    assert kinds(link) == []
    assert host.read() is not None
    assert kinds(link) == ["ROOM"]
    host.begin(link=8)
    assert kinds(link) == ["LOST", "UP"]
    large = bytes(FRAME_LIMIT)
    assert [link.send(large) for _ in range(17)] == [True] * 16 + [False]


def test_frames_that_the_host_cannot_take(link: LinkFunction) -> None:
    Host(link).begin(limit=128)
    assert link.send(bytes(128))
    with pytest.raises(RemoteFrameError, match="takes 128"):
        link.send(bytes(129))


def test_halts_cost_no_frame(host: Host, link: LinkFunction) -> None:
    link.send(b"waits")
    link.device.halt(IN_ENDPOINT)
    assert host.transfer(IN_ENDPOINT, length=512).status is Status.STALL
    assert host.control(0x02, 1, index=IN_ENDPOINT) == b""
    assert host.read() == HEADER.build(link=LINK, length=5) + b"waits"
    host.transfer(OUT_ENDPOINT, data=bytes(512))
    link.device.halt(OUT_ENDPOINT)
    assert host.control(0x02, 1, index=OUT_ENDPOINT) == b""
    host.frame(b"again")
    assert [news.frame for news in news_of(link)] == [b"again"]


def test_links_that_nobody_looks_at_are_bounded(link: LinkFunction) -> None:
    host = Host(link)
    answers = [host.begin(link=number + 1) for number in range(MAX_NEWS)]
    assert answers[0] == b""
    assert answers[-1] is None
    assert len(news_of(link)) <= MAX_NEWS + 2


def test_mutated_transfers_harm_nobody(link: LinkFunction) -> None:
    """Whatever a host sends, the next good frame of a link arrives."""
    chance, host = random.Random(3), Host(link)
    for number in range(50_000):
        data = bytearray(HEADER.build(link=LINK, length=40) + bytes(40))
        for _ in range(chance.choice((0, 1, 2))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        what = chance.randrange(10)
        if what == 0:
            host.control(
                chance.choice((0x41, 0xC1, 0x02, 0x01)), chance.randrange(12),
                bytes(data[: chance.choice((0, 16, 20))]), index=chance.randrange(3),
            )  # fmt: skip
        elif what == 1:
            host.transfer(OUT_ENDPOINT, data=bytes(512 * chance.randrange(3)))
        else:
            host.transfer(OUT_ENDPOINT, data=bytes(data))
        link.send(b"out")
        host.read()
        news_of(link)
        if number % 50 == 49:
            host.control(0x00, 9, value=1)
            host.begin()
            news_of(link)
            host.frame(b"good")
            assert [news.frame for news in news_of(link)] == [b"good"]


# --- the carrier ---------------------------------------------------------------------------------


def test_a_device_has_one_peer() -> None:
    with UsbDeviceCarrier(device_spec("7")) as carrier:
        sink = RecordingSink()
        carrier.open(sink)
        assert carrier.name == "usb:1209:0001:7"
        assert carrier.resolve("usb:host") == 0
        assert carrier.address_of(0) == "usb:host"
        with pytest.raises(FabricError, match="one peer"):
            carrier.resolve("usb:1209:0001")
        host = Host(carrier.function)
        assert not carrier.send(0, [b"early"])
        host.begin()
        host.frame(b"hello")
        carrier.progress()
        assert sink.events == [("up", 0), ("room", 0)]
        assert sink.frames == [(0, b"hello")]
        assert carrier.send(0, [b"a", b"b"], "token")
        assert sink.sent == [(0, "token")]
        assert (host.read() or b"")[8:] == b"ab"
        with pytest.raises(FabricError) as refused:
            carrier.send(0, [bytes(FRAME_LIMIT + 1)])
        assert refused.value.errno == errno.EMSGSIZE
        assert carrier.next_deadline_ns() is None
        carrier.disconnect(0)
        assert host.info().link == 0
        host.begin(link=8)
        host.control(0x41, 3)
        carrier.progress()
        assert sink.events[-1] == ("lost", 0, errno.ECONNRESET)
    carrier.close()
    assert carrier.fileno() == -1
    assert host.begin() is None
