# SPDX-License-Identifier: Apache-2.0
"""usb-redir: sessions of bytes, and the server's socket."""

from __future__ import annotations

import random
import socket
import struct
from typing import NamedTuple

import pytest

from i2o.errors import RemoteFrameError, TransportUnavailable
from i2o.transport.usb.interface import FRAME_LIMIT, HEADER, LINK_INFO
from i2o.transport.usb.link_function import LinkFunction
from i2o.transport.usb_device.usbredir.server import UsbRedirServer
from i2o.transport.usb_device.usbredir.session import RedirSession

CAPABILITIES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6
HELLO = struct.pack("<III64sI", 0, 68, 0, b"qemu", CAPABILITIES | 1)
BEGIN = struct.pack("<IHHII", 0x4F324955, 1, 0, 65536, 7)


class Packet(NamedTuple):
    kind: int
    number: int
    body: bytes


def packet(kind: int, number: int, body: bytes = b"") -> bytes:
    return struct.pack("<IIQ", kind, len(body), number) + body


def control(number: int, kind: int, request: int, *, value=0, index=0, length=0, data=b""):
    size = length if kind & 0x80 else len(data)
    head = struct.pack("<BBBBHHH", kind & 0x80, request, kind, 0, value, index, size)
    return packet(100, number, head + data)


def bulk(number: int, endpoint: int, *, length: int = 0, data: bytes = b"") -> bytes:
    size = length if endpoint & 0x80 else len(data)
    head = struct.pack("<BBHIH", endpoint, 0, size & 0xFFFF, 0, size >> 16)
    return packet(101, number, head + data)


def drain(client: RedirSession) -> bytes:
    out = b""
    while (data := client.next_output()) is not None:
        out += data
        client.sent(len(data))
    return out


def packets(data: bytes) -> list[Packet]:
    found = []
    while data:
        kind, length, number = struct.unpack_from("<IIQ", data)
        found.append(Packet(kind, number, data[16 : 16 + length]))
        data = data[16 + length :]
    return found


@pytest.fixture
def client(link: LinkFunction) -> RedirSession:
    """Has configured the device and begun a link."""
    made = RedirSession(link.device, lambda: None)
    made.receive(HELLO + packet(6, 1, b"\1") + control(2, 0x41, 2, data=BEGIN))
    drain(made)
    while link.next_news() is not None:
        pass
    return made


def test_a_device_is_connected(link: LinkFunction) -> None:
    client = RedirSession(link.device, lambda: None)
    hello = drain(client)
    assert hello[:12] == struct.pack("<III", 0, 68, 0)
    assert hello[76:] == struct.pack("<I", CAPABILITIES)
    for byte in HELLO:
        client.receive(bytes((byte,)))
    interfaces, endpoints, connect = packets(drain(client))
    assert (interfaces.kind, endpoints.kind, connect.kind) == (4, 5, 1)
    assert len(interfaces.body) == 4 + 4 * 32
    assert interfaces.body[:5] == b"\1\0\0\0\0"
    assert [interfaces.body[4 + 32 * n] for n in (1, 2, 3)] == [0xFF, 0x49, 0x01]
    assert len(endpoints.body) == 3 * 32 + 2 * 32
    kinds = {n: kind for n, kind in enumerate(endpoints.body[:32]) if kind != 255}
    assert kinds == {0: 0, 16: 0, 1: 2, 17: 2, 18: 3}
    assert endpoints.body[32 + 18] == 4
    sizes = struct.unpack_from("<32H", endpoints.body, 96)
    assert {n: size for n, size in enumerate(sizes) if size} == {
        0: 64, 16: 64, 1: 512, 17: 512, 18: 16
    }  # fmt: skip
    assert connect.body == struct.pack("<BBBBHHH", 2, 0, 0, 0, 0x1209, 1, 0x0100)


def test_configurations_and_settings(client: RedirSession, link: LinkFunction) -> None:
    client.receive(
        packet(7, 10)
        + packet(6, 11, b"\0")
        + packet(7, 12)
        + packet(6, 13, b"\2")
        + packet(6, 14, b"\1")
        + packet(9, 15, b"\0\0")
        + packet(10, 16, b"\0")
        + packet(9, 17, b"\0\1")
        + packet(10, 18, b"\5")
    )
    found = {each.number: each for each in packets(drain(client)) if each.kind in (8, 11)}
    bodies = {number: each.body for number, each in found.items()}
    assert bodies == {
        10: b"\0\1", 11: b"\0\0", 12: b"\0\0", 13: b"\4\0", 14: b"\0\1",
        15: b"\0\0\0", 16: b"\0\0\0", 17: b"\4\0\0", 18: b"\4\5\0",
    }  # fmt: skip


def test_control_packets(client: RedirSession) -> None:
    client.receive(control(10, 0xC1, 1, length=20) + control(11, 0xC1, 99, length=9))
    info, refused = packets(drain(client))
    assert (info.kind, info.number) == (100, 10)
    assert info.body[:10] == struct.pack("<BBBBHHH", 0x80, 1, 0xC1, 0, 0, 0, 20)
    assert LINK_INFO.unpack_from(info.body, 10).link == 7
    assert refused.body == struct.pack("<BBBBHHH", 0x80, 99, 0xC1, 4, 0, 0, 0)


def test_bulk_packets(client: RedirSession, link: LinkFunction) -> None:
    client.receive(bulk(10, 0x81, length=66_048))
    assert not client.has_output
    assert link.send(bytes(FRAME_LIMIT))
    (frame,) = packets(drain(client))
    size = FRAME_LIMIT + 8
    assert frame.body[:10] == struct.pack("<BBHIH", 0x81, 0, size & 0xFFFF, 0, size >> 16)
    assert frame.body[10:18] == HEADER.build(link=7, length=FRAME_LIMIT)
    assert len(frame.body) == 10 + size
    whole = HEADER.build(link=7, length=504) + bytes(504)
    client.receive(bulk(11, 1, data=whole) + bulk(12, 1) + bulk(13, 5, data=b"x"))
    first, second, refused = packets(drain(client))
    assert first.body == struct.pack("<BBHIH", 1, 0, 512, 0, 0)
    assert second.body == struct.pack("<BBHIH", 1, 0, 0, 0, 0)
    assert refused.body == struct.pack("<BBHIH", 5, 4, 0, 0, 0)
    news = link.next_news()
    assert news is not None
    assert len(news.frame) == 504


def test_what_is_cancelled_says_so(client: RedirSession) -> None:
    client.receive(bulk(10, 0x81, length=512) + packet(21, 10) + packet(21, 10) + packet(21, 99))
    (cancelled,) = packets(drain(client))
    assert (cancelled.number, cancelled.body[1]) == (10, 1)


def test_what_crosses_a_cancellation_is_sent_once_more(
    client: RedirSession, link: LinkFunction
) -> None:
    """QEMU drops what comes for a transfer that it has cancelled, and says that nothing came."""
    client.receive(bulk(10, 0x81, length=512))
    assert link.send(b"frame")
    (lost,) = packets(drain(client))
    client.receive(packet(21, 10) + bulk(11, 0x81, length=512) + packet(21, 10))
    (again,) = packets(drain(client))
    assert (lost.number, again.number) == (10, 11)
    assert lost.body == again.body
    assert link.send(b"next")
    client.receive(bulk(12, 0x81, length=512))
    (following,) = packets(drain(client))
    assert following.body.endswith(b"next")


def test_what_has_ended_counts_no_more(client: RedirSession) -> None:
    for number in range(20):
        client.receive(bulk(number, 0x81, length=1 << 20) + packet(21, number))
    assert len(packets(drain(client))) == 20


def test_doorbells(client: RedirSession, link: LinkFunction) -> None:
    client.receive(packet(15, 10, b"\x82"))
    (status,) = packets(drain(client))
    assert (status.kind, status.number, status.body) == (17, 10, b"\0\x82")
    for number in range(2):
        link.send(b"frame")
        (rung,) = packets(drain(client))
        assert (rung.kind, rung.number) == (103, number)
        assert rung.body[:4] == struct.pack("<BBH", 0x82, 0, 12)
    client.receive(packet(15, 11, b"\x82") + packet(16, 12, b"\x82") + packet(16, 13, b"\x82"))
    assert [each.kind for each in packets(drain(client))] == [17, 17, 17]
    link.send(b"frame")
    assert not client.has_output
    client.receive(packet(15, 14, b"\x81") + packet(15, 15, b"\x85"))
    assert [each.body for each in packets(drain(client))] == [b"\2\x81", b"\2\x85"]


def test_a_reset_of_the_bus_ends_everything(client: RedirSession, link: LinkFunction) -> None:
    client.receive(bulk(10, 0x81, length=512) + packet(15, 11, b"\x82"))
    drain(client)
    client.receive(packet(3, 0))
    (ended,) = packets(drain(client))
    assert (ended.number, ended.body[1]) == (10, 3)
    assert link.device.configuration == 0
    client.receive(packet(22, 0) + packet(23, 0, b"x") + packet(24, 0))  # of no interest
    assert not client.has_output


def test_a_halted_doorbell_is_told(client: RedirSession, link: LinkFunction) -> None:
    client.receive(packet(15, 10, b"\x82"))
    drain(client)
    link.device.halt(0x82)
    (halted,) = packets(drain(client))
    assert halted.body == struct.pack("<BBH", 0x82, 4, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        packet(6, 1),
        packet(101, 1, b"short"),
        packet(12, 1),
        packet(103, 1),
        struct.pack("<IIQ", 101, 1 << 30, 1),
        packet(100, 1, struct.pack("<BBBBHHH", 0, 2, 0x41, 0, 0, 0, 9)),
        packet(101, 1, struct.pack("<BBHIH", 1, 0, 9, 0, 0)),
        packet(101, 1, struct.pack("<BBHIH", 0x81, 0, 0, 0, 0xFFFF)),
        packet(101, 1, struct.pack("<BBHIH", 0x80, 0, 9, 0, 0)),
        bulk(1, 0x81, length=512) * 2,
        b"".join(bulk(number, 0x81, length=1 << 20) for number in range(17)),
    ],
)
def test_nonsense_ends_a_session(client: RedirSession, wrong: bytes) -> None:
    with pytest.raises(RemoteFrameError):
        client.receive(wrong + packet(99, 0))


@pytest.mark.parametrize("wrong", [b"\1" + HELLO[1:], HELLO[:-4] + bytes(4), HELLO[:4] + bytes(8)])
def test_nonsense_at_first(link: LinkFunction, wrong: bytes) -> None:
    with pytest.raises(RemoteFrameError):
        RedirSession(link.device, lambda: None).receive(wrong)


def test_the_end_of_a_session_unplugs_the_device(client: RedirSession, link: LinkFunction) -> None:
    client.receive(bulk(10, 0x81, length=512) + packet(15, 11, b"\x82"))
    client.close()
    assert not client.has_output
    assert link.device.configuration == 0


def test_mutated_packets_harm_nobody(link: LinkFunction) -> None:
    """Whatever a client sends, it is answered or sent away, and the next client is served."""
    chance = random.Random(21)
    count = 0
    while count < 50_000:
        client = RedirSession(link.device, lambda: None)
        try:
            client.receive(HELLO)
            for _ in range(40):
                count += 1
                good = chance.choice(
                    [
                        packet(6, count, b"\1"),
                        control(count, 0x41, 2, data=BEGIN),
                        control(count, 0xC1, 1, length=20),
                        bulk(count, 0x81, length=1024),
                        bulk(count, 0x01, data=HEADER.build(link=7, length=40) + bytes(40)),
                        packet(15, count, b"\x82"),
                        packet(16, count, b"\x82"),
                        packet(21, max(0, count - chance.randrange(5))),
                        packet(9, count, b"\0\0"),
                    ]
                )
                data = bytearray(good)
                for _ in range(chance.choice((0, 1, 1, 2))):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                client.receive(bytes(data))
                drain(client)
                link.send(b"frame")
                while link.next_news() is not None:
                    pass
        except RemoteFrameError:
            pass
        client.close()
    client = RedirSession(link.device, lambda: None)
    drain(client)
    client.receive(HELLO + packet(6, 1, b"\1") + control(2, 0xC1, 1, length=20))
    assert len(packets(drain(client))[-1].body) == 10 + 20


def test_one_client_at_a_time(link: LinkFunction, tmp_path) -> None:
    path = tmp_path / "usb.sock"
    with UsbRedirServer(path, link.device) as ports:
        with pytest.raises(TransportUnavailable, match="somebody listens"):
            UsbRedirServer(path, link.device)
        for _ in range(3):
            ports.handle()  # it was asked whether it lives
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
                one.connect(str(path))
                ports.handle()
                assert ports.has_owner
                assert len(one.recv(100)) == 80
                other.connect(str(path))
                for _ in range(3):
                    ports.handle()
                assert other.recv(100) == b""
            for _ in range(3):
                ports.handle()
            assert not ports.has_owner
    assert not path.exists()
