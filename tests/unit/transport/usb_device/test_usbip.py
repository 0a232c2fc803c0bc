# SPDX-License-Identifier: Apache-2.0
"""USB/IP: sessions of bytes, and the server's sockets."""

from __future__ import annotations

import errno
import random
import select
import socket
import struct

import pytest

from fakes.usbip_client import (
    IMPORT,
    IMPORTED,
    LIST,
    OneExport,
    configure,
    drain,
    returned,
    setup,
    submit,
    unlink,
)
from i2o.errors import RemoteFrameError, TransportUnavailable
from i2o.transport.usb.interface import HEADER, LINK_INFO, device_spec
from i2o.transport.usb.link_function import LinkFunction
from i2o.transport.usb_device import byte_session, session_server
from i2o.transport.usb_device.usbip.server import UsbIpServer
from i2o.transport.usb_device.usbip.session import Session

GET_INFO = setup(0xC1, 1, length=20)
BEGIN = struct.pack("<IHHII", 0x4F324955, 1, 0, 65536, 7)


@pytest.fixture
def exports(link: LinkFunction) -> OneExport:
    return OneExport(link.device)


@pytest.fixture
def client(exports: OneExport) -> Session:
    made = Session(exports, lambda: None)
    made.receive(IMPORT)
    assert len(drain(made)) == IMPORTED
    made.receive(configure() + submit(2, 0, data=BEGIN, setup=setup(0x41, 2, length=16)))
    drain(made)
    return made


def test_a_list(exports: OneExport) -> None:
    asked = Session(exports, lambda: None)
    asked.receive(LIST[:5])
    assert not asked.has_output
    asked.receive(LIST[5:])
    answer = drain(asked)
    assert asked.is_finished
    assert not asked.wants_more
    assert answer[:12] == struct.pack(">HHII", 0x0111, 5, 0, 1)
    assert answer[12 + 256 : 12 + 259] == b"1-1"
    bus, number, speed, vendor, product, version = struct.unpack_from(">IIIHHH", answer, 12 + 288)
    assert (bus, number, speed, vendor, product, version) == (1, 2, 3, 0x1209, 1, 0x0100)
    assert answer[12 + 312 :] == bytes((0xFF, 0x49, 0x01, 0))


def test_an_import(exports: OneExport) -> None:
    first = Session(exports, lambda: None)
    for byte in IMPORT:
        first.receive(bytes((byte,)))
    assert drain(first)[:8] == struct.pack(">HHI", 0x0111, 3, 0)
    second = Session(exports, lambda: None)
    second.receive(IMPORT)
    assert drain(second) == struct.pack(">HHI", 0x0111, 3, 2)
    assert second.is_finished
    other = Session(exports, lambda: None)
    other.receive(IMPORT[:8] + b"9-9".ljust(32, b"\0"))
    assert drain(other) == struct.pack(">HHI", 0x0111, 3, 4)


def test_transfers(client: Session, link: LinkFunction) -> None:
    client.receive(submit(10, 0, length=20, setup=GET_INFO) + submit(11, 1, length=1024))
    (info,) = returned(drain(client), 10, 11)
    assert (info.command, info.sequence, info.status, info.actual) == (3, 10, 0, 20)
    assert LINK_INFO.unpack_from(info.data).link == 7
    assert link.send(b"to the host")
    (frame,) = returned(drain(client), 11)
    assert frame.data == HEADER.build(link=7, length=11) + b"to the host"
    whole = HEADER.build(link=7, length=504) + bytes(504)
    client.receive(submit(12, 1, data=whole, flags=0x40))
    (sent,) = returned(drain(client))
    assert (sent.sequence, sent.status, sent.actual) == (12, 0, 512)
    kinds = []
    while (news := link.next_news()) is not None:
        kinds.append((news.kind.name, len(news.frame)))
    assert kinds == [("UP", 0), ("FRAME", 504)]


def test_what_is_refused_says_so(client: Session) -> None:
    client.receive(
        submit(10, 0, length=9, setup=setup(0xC1, 99, length=9))
        + submit(11, 5, length=512)
        + submit(12, 0, data=b"", setup=setup(0, 9, 0))
        + submit(13, 1, length=512)
    )
    found = returned(drain(client), 10, 11, 13)
    assert [(each.sequence, each.status) for each in found] == [
        (10, -errno.EPIPE),
        (11, -errno.EPIPE),
        (12, 0),
        (13, -errno.ESHUTDOWN),
    ]


def test_what_is_unlinked_is_heard_of_once(client: Session, link: LinkFunction) -> None:
    client.receive(submit(10, 1, length=512) + unlink(11, 10) + unlink(12, 10) + unlink(13, 99))
    found = returned(drain(client))
    assert [(each.command, each.sequence, each.status) for each in found] == [
        (4, 11, -errno.ECONNRESET),
        (4, 12, 0),
        (4, 13, 0),
    ]
    assert link.send(b"x")
    assert not client.has_output


def test_what_is_under_way_is_bounded(client: Session) -> None:
    for number in range(100, 100 + 17):
        client.receive(submit(number, 1, length=1 << 20))
    (full,) = returned(drain(client))
    assert (full.sequence, full.status) == (116, -errno.ENOMEM)
    client.receive(unlink(200, 100) + submit(201, 1, length=1 << 20))
    assert [each.sequence for each in returned(drain(client))] == [200]


def test_a_client_that_reads_nothing_is_not_read_from(
    client: Session, link: LinkFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_session, "OUTBOX_LIMIT", 100)
    client.receive(submit(10, 0, length=20, setup=GET_INFO))
    assert client.wants_more
    client.receive(submit(11, 0, length=20, setup=GET_INFO))
    assert not client.wants_more
    client.sent(30)
    assert client.next_output() is not None
    assert len(client.next_output() or b"") == 38
    drain(client)
    assert client.wants_more


@pytest.mark.parametrize(
    "wrong",
    [
        submit(10, 1, length=512, packets=3),
        submit(10, 1, length=-1),
        submit(10, 1, length=(1 << 20) + 1),
        submit(10, 16, length=512),
        submit(10, 1, length=512).replace(b"\0\0\0\1\0\0\0\1", b"\0\0\0\7\0\0\0\1"),
        submit(10, 1, length=512) * 2,
        submit(10, 0, length=20, setup=setup(0x41, 2, length=20)),
        struct.pack(">IIIII28x", 9, 10, 0, 0, 0),
    ],
)
def test_nonsense_ends_a_session(client: Session, wrong: bytes) -> None:
    with pytest.raises(RemoteFrameError):
        client.receive(wrong)


@pytest.mark.parametrize("wrong", [b"\x01\x06" + LIST[2:], LIST[:2] + b"\x80\x09" + LIST[4:]])
def test_nonsense_before_an_import(exports: OneExport, wrong: bytes) -> None:
    with pytest.raises(RemoteFrameError):
        Session(exports, lambda: None).receive(wrong)


def test_the_end_of_a_session_unplugs_the_device(client: Session, link: LinkFunction) -> None:
    client.receive(submit(10, 1, length=512))
    client.close()
    assert not client.has_output
    assert link.device.configuration == 0
    kinds = []
    while (news := link.next_news()) is not None:
        kinds.append(news.kind.name)
    assert kinds == ["UP", "LOST"]


def test_mutated_bytes_harm_nobody() -> None:
    """Whatever a client sends, it is answered or sent away, and the next client is served."""
    chance = random.Random(20)
    good = [
        configure(),
        submit(2, 0, data=BEGIN, setup=setup(0x41, 2, length=16)),
        submit(3, 0, length=20, setup=GET_INFO),
        submit(4, 1, length=1024),
        submit(5, 1, data=HEADER.build(link=7, length=40) + bytes(40)),
        submit(6, 2, length=16),
        unlink(7, 4),
        submit(8, 0, data=b"", setup=setup(0x02, 1, 0, 0x81)),
        submit(9, 0, length=255, setup=setup(0x80, 6, 0x0200, 0, 255)),
    ]
    link = LinkFunction(device_spec("1"), lambda: None)
    link.is_open = True
    count = 0
    while count < 50_000:
        exports = OneExport(link.device)
        client = Session(exports, lambda: None)
        try:
            client.receive(IMPORT)
            for _ in range(40):
                data = bytearray(chance.choice(good))
                data[4:8] = count.to_bytes(4, "big")
                for _ in range(chance.choice((0, 1, 1, 2))):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                if chance.random() < 0.1:
                    del data[chance.randrange(len(data)) :]
                count += 1
                client.receive(bytes(data))
                drain(client)
                link.send(b"frame")
                while link.next_news() is not None:
                    pass
        except RemoteFrameError:
            pass
        client.close()
    client = Session(OneExport(link.device), lambda: None)
    client.receive(IMPORT + configure() + submit(3, 0, length=20, setup=GET_INFO))
    assert returned(drain(client)[IMPORTED:], 3)[-1].actual == 20


# --- sockets -------------------------------------------------------------------------------------


@pytest.fixture
def ports(link: LinkFunction):
    with UsbIpServer(("127.0.0.1", 0), [link.device]) as made:
        yield made


def talk(ports: UsbIpServer, end: socket.socket, size: int) -> bytes:
    """Let the server work until so much has come back, or the connection ended."""
    data = b""
    end.setblocking(False)
    for _ in range(10_000):
        ports.handle()
        try:
            part = end.recv(size - len(data))
        except BlockingIOError:
            continue
        except ConnectionResetError:
            return data
        data += part
        if not part or len(data) == size:
            return data
    raise AssertionError(f"only {len(data)} of {size} bytes came")


def test_a_server_has_one_client_for_a_device(ports: UsbIpServer, link: LinkFunction) -> None:
    assert ports.fileno() >= 0
    with (
        socket.create_connection(ports.address) as one,
        socket.create_connection(ports.address) as other,
    ):
        one.sendall(IMPORT)
        assert len(talk(ports, one, IMPORTED)) == IMPORTED
        other.sendall(IMPORT)
        assert talk(ports, other, 9) == struct.pack(">HHI", 0x0111, 3, 2)
        one.sendall(configure())
        assert returned(talk(ports, one, 48))[0].status == 0
    for _ in range(100):
        ports.handle()
    assert link.device.configuration == 0
    with socket.create_connection(ports.address) as again:
        again.sendall(IMPORT)
        assert talk(ports, again, IMPORTED)[:8] == struct.pack(">HHI", 0x0111, 3, 0)


def test_a_machine_that_is_gone_does_not_keep_the_device(ports: UsbIpServer) -> None:
    """Nothing ends a connection to a machine without power but the system's own questions."""
    with socket.create_connection(ports.address):
        ports.handle()
        (client,) = ports._clients
        assert client.end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        names = socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT
        idle_s, pause_s, count = (client.end.getsockopt(socket.IPPROTO_TCP, name) for name in names)
        assert idle_s + pause_s * count <= 60


def test_a_list_ends_the_connection(ports: UsbIpServer) -> None:
    with socket.create_connection(ports.address) as end:
        end.sendall(LIST)
        assert len(talk(ports, end, 10_000)) == 12 + 312 + 4


def test_nonsense_ends_the_connection(ports: UsbIpServer) -> None:
    with socket.create_connection(ports.address) as end:
        end.sendall(bytes(100))
        assert talk(ports, end, 1) == b""
    with socket.create_connection(ports.address) as end:
        end.sendall(IMPORT[:8] + b"9-9".ljust(32, b"\0"))
        assert talk(ports, end, 9) == struct.pack(">HHI", 0x0111, 3, 4)


def test_those_who_only_wait_make_room(ports: UsbIpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_server, "MAX_CLIENTS", 1)
    with socket.create_connection(ports.address) as idle:
        ports.handle()
        with socket.create_connection(ports.address) as one:
            assert talk(ports, idle, 1) == b""
            one.sendall(IMPORT)
            assert len(talk(ports, one, IMPORTED)) == IMPORTED
            with socket.create_connection(ports.address) as late:
                assert talk(ports, late, 1) == b""


def test_those_who_only_wait_make_room_when_descriptors_run_out(ports: UsbIpServer) -> None:
    real = ports._listener

    class NoDescriptors:
        """As if there was none left while anybody is connected."""

        @property
        def socket(self) -> object:
            return self

        def fileno(self) -> int:
            return real.socket.fileno()

        def accept(self) -> object:
            if ports._clients:
                raise OSError(errno.EMFILE, "too many open files")
            return real.socket.accept()

    with socket.create_connection(ports.address) as idle:
        ports.handle()
        ports._listener = NoDescriptors()  # type: ignore[assignment]
        with socket.create_connection(ports.address) as one:
            assert talk(ports, idle, 1) == b""
            one.sendall(IMPORT)
            assert len(talk(ports, one, IMPORTED)) == IMPORTED
            ports.handle()
            assert len(ports._clients) == 1, "who has the device keeps it"
    ports._listener = real


class Door:
    """A listener that may have no descriptor for who comes."""

    def __init__(self, real) -> None:
        self._real, self.is_full = real, False

    @property
    def socket(self):
        return self

    def fileno(self) -> int:
        return self._real.socket.fileno()

    def accept(self):
        if self.is_full:
            raise OSError(errno.EMFILE, "too many open files")
        return self._real.socket.accept()

    def close(self) -> None:
        self._real.close()


def test_without_descriptors_it_looks_away_for_a_moment(ports, monkeypatch) -> None:
    """Who has the device keeps it, who waits is taken later, and no processor is kept busy."""
    monkeypatch.setattr(session_server, "PAUSE_S", 0.5)
    door = ports._listener = Door(ports._listener)
    with (
        socket.create_connection(ports.address) as owner,
        socket.create_connection(ports.address) as other,
    ):
        owner.sendall(IMPORT)
        assert len(talk(ports, owner, IMPORTED)) == IMPORTED
        ports._drop(ports._clients[-1])
        door.is_full = True
        with socket.create_connection(ports.address) as late:
            for _ in range(2):
                assert select.select([ports.fileno()], [], [], 10)[0]
                ports.handle()
                assert not select.select([ports.fileno()], [], [], 0)[0]
                ports.handle()
                assert len(ports._clients) == 1
            door.is_full = False
            assert select.select([ports.fileno()], [], [], 10)[0]
            late.sendall(LIST)
            assert talk(ports, late, 12)
            assert ports.has_owner
        assert other.recv(1) == b""


def test_a_client_that_reads_slowly_gets_everything(ports, link, monkeypatch) -> None:
    monkeypatch.setattr(byte_session, "OUTBOX_LIMIT", 1 << 16)
    count = 200
    with socket.socket() as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.connect(ports.address)
        end.sendall(IMPORT)
        talk(ports, end, IMPORTED)
        ports._clients[0].end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        begin = submit(2, 0, data=BEGIN, setup=setup(0x41, 2, length=16))
        end.sendall(configure() + begin)
        talk(ports, end, 96)
        for number in range(count):
            end.sendall(submit(100 + number, 1, length=4096))
        sent = 0
        for _ in range(1000):
            ports.handle()
            sent += sent < count and link.send(bytes(4000))
        assert ports._clients[0].events & select.EPOLLOUT
        data = b""
        while len(data) < count * (48 + 4008):
            data += talk(ports, end, 4096 if len(data) + 4096 < count * 4056 else 1)
            sent += sent < count and link.send(bytes(4000))
        found = returned(data, *range(100, 100 + count))
        assert [each.sequence for each in found] == list(range(100, 100 + count))


def test_an_address_that_is_taken(ports: UsbIpServer) -> None:
    with pytest.raises(TransportUnavailable, match="another port"):
        UsbIpServer(ports.address, [])
