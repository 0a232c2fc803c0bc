# SPDX-License-Identifier: Apache-2.0
"""A USB device as its bus sees it: control requests, queues, halts, short and empty packets."""

from __future__ import annotations

import struct

import pytest

from i2o.transport.usb_device.descriptors import (
    DeviceSpec,
    EndpointKind,
    EndpointSpec,
    InterfaceSpec,
)
from i2o.transport.usb_device.device import MAX_OUTSTANDING, UsbDevice
from i2o.transport.usb_device.transfers import Status, Transfer

OUT, IN, RING = 0x01, 0x81, 0x82
SPEC = DeviceSpec(
    0x1234,
    0x5678,
    0x0100,
    "maker",
    "thing",
    "42",
    (
        InterfaceSpec(
            0xFF,
            1,
            2,
            (
                EndpointSpec(OUT, EndpointKind.BULK, 512),
                EndpointSpec(IN, EndpointKind.BULK, 512),
                EndpointSpec(RING, EndpointKind.INTERRUPT, 16, 4),
            ),
            "way in",
        ),
        InterfaceSpec(0xFE, 0, 0, ()),
    ),
)


class Thing:
    """A function that notes what happens."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.is_open, self.takes = True, True

    def control(self, setup, data):
        self.log.append(("control", setup.request, bytes(data)))
        return None if setup.request == 99 else b"answer"

    def wants(self, endpoint):
        return self.is_open

    def take(self, endpoint, data, ends):
        self.log.append(("take", bytes(data), ends))
        return self.takes

    def taken(self, endpoint):
        self.log.append(("taken", endpoint))

    def cleared(self, endpoint):
        self.log.append(("cleared", endpoint))

    def configured(self, is_configured):
        self.log.append(("configured", is_configured))


@pytest.fixture
def thing() -> Thing:
    return Thing()


@pytest.fixture
def device(thing: Thing) -> UsbDevice:
    made = UsbDevice(SPEC, thing)
    assert control(made, 0x00, 9, 1) == b""
    thing.log.clear()
    return made


def begin(device: UsbDevice, endpoint: int, **what: object) -> Transfer:
    transfer = Transfer(endpoint, **what, done=lambda _: None)  # type: ignore[arg-type]
    device.submit(transfer)
    return transfer


def control(device, kind, request, value=0, index=0, length=64, data=b"") -> bytes | None:
    setup = struct.pack("<BBHHH", kind, request, value, index, length if kind & 0x80 else len(data))
    done = begin(device, 0, length=length, data=data, setup=setup)
    assert done.status in (Status.OK, Status.STALL)
    return bytes(done.answer) if done.status is Status.OK else None


def test_descriptors(device: UsbDevice) -> None:
    found = control(device, 0x80, 6, 0x0100)
    assert found is not None
    assert found.hex() == "12010002000000403412785600010102" + "0301"
    whole = control(device, 0x80, 6, 0x0200, length=255)
    assert whole is not None
    assert len(whole) == struct.unpack_from("<H", whole, 2)[0] == 9 + 9 + 3 * 7 + 9
    assert whole[:9].hex() == "09023000020100" + "8032"
    assert whole[9:18].hex() == "0904000003ff010204"
    assert whole[18:39].hex() == "07050102000200" + "07058102000200" + "07058203100004"
    assert whole[39:].hex() == "0904010000fe000000"
    assert control(device, 0x80, 6, 0x0200, length=9) == whole[:9]


def test_strings(device: UsbDevice) -> None:
    assert control(device, 0x80, 6, 0x0300) == bytes.fromhex("04030904")
    for index, text in enumerate(("maker", "thing", "42", "way in"), 1):
        found = control(device, 0x80, 6, 0x0300 + index, 0x0409)
        assert found is not None
        assert found[2:].decode("utf-16-le") == text
        assert found[0] == len(found)
    assert control(device, 0x80, 6, 0x0305) is None


@pytest.mark.parametrize(
    ("kind", "request_", "value", "index"),
    [
        (0x80, 6, 0x0600, 0),  # no second speed
        (0x80, 6, 0x0201, 0),
        (0x00, 9, 2, 0),  # no such configuration
        (0x00, 7, 0, 0),  # descriptors are not changed
        (0x83, 0, 0, 0),  # for whom?
        (0x81, 0, 0, 2),  # no such interface
        (0x01, 11, 1, 0),  # no such setting
        (0x01, 77, 0, 0),
        (0x82, 0, 0, 0x83),  # no such endpoint
        (0x02, 1, 1, IN),  # another feature
        (0x02, 77, 0, IN),
    ],
)
def test_what_makes_no_sense_is_refused(device, kind, request_, value, index) -> None:
    assert control(device, kind, request_, value, index) is None


def test_status_and_settings(device: UsbDevice, thing: Thing) -> None:
    assert control(device, 0x80, 0) == b"\0\0"
    assert control(device, 0x80, 8) == b"\1"
    assert control(device, 0x81, 0) == b"\0\0"
    assert control(device, 0x81, 10) == b"\0"
    assert control(device, 0x82, 0, 0, IN) == b"\0\0"
    assert control(device, 0x82, 0, 0, 0) == b"\0\0"
    assert control(device, 0x02, 1, 0, 0x80) == b""
    assert control(device, 0x00, 5, 7) == b""
    assert control(device, 0x01, 11, 0, 0) == b""
    assert thing.log == [("cleared", OUT), ("cleared", IN), ("cleared", RING)]
    assert control(device, 0x00, 9, 0) == b""
    assert control(device, 0x80, 8) == b"\0"
    assert control(device, 0x81, 0) is None
    assert begin(device, IN, length=512).status is Status.GONE
    assert control(device, 0xC1, 5) is None


def test_requests_of_the_function(device: UsbDevice, thing: Thing) -> None:
    assert control(device, 0xC1, 5, length=3) == b"ans"
    assert control(device, 0x41, 6, data=b"told") == b""
    assert control(device, 0xC1, 99) is None
    assert begin(device, 0, setup=b"short").status is Status.STALL
    assert thing.log[:2] == [("control", 5, b""), ("control", 6, b"told")]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 1500])
@pytest.mark.parametrize("room", [512, 1024, 4096])
def test_a_transfer_to_the_host_ends_with_a_short_packet(device, thing, size, room) -> None:
    device.source(IN).push(bytes(size))
    read, last = 0, b"?" * 512
    while True:
        asked = begin(device, IN, length=room)
        assert asked.status is Status.OK
        read += asked.actual
        if asked.actual < room:
            break
    assert read == size
    assert last
    assert thing.log == [("taken", IN)]
    waits = begin(device, IN, length=room)
    assert waits.status is None
    device.source(IN).push(b"next")
    assert bytes(waits.answer) == b"next"


def test_room_that_is_no_whole_packet_overflows(device: UsbDevice, thing: Thing) -> None:
    device.source(IN).push(bytes(600))
    assert begin(device, IN, length=100).status is Status.OVERFLOW
    device.source(IN).push(bytes(100))
    assert begin(device, IN, length=100).actual == 100
    assert device.source(IN).waiting == 0


def test_what_the_host_has_not_got_is_given_once_more(device: UsbDevice, thing: Thing) -> None:
    device.source(IN).push(b"first")
    device.source(IN).push(b"second")
    lost = begin(device, IN, length=512)
    assert bytes(lost.answer) == b"first"
    waits = [begin(device, IN, length=512) for _ in range(2)]
    assert device.take_back(lost)
    assert not device.take_back(lost), "once"
    assert [bytes(each.answer) for each in waits] == [b"second", b"first"]
    told = [entry for entry in thing.log if entry[0] == "taken"]
    assert len(told) == 2, "whoever pushed it is told once"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_pieces_of_one_transfer_go_back_into_their_order(
    device: UsbDevice, thing: Thing, order: tuple[int, ...]
) -> None:
    whole = bytes(range(256)) * 5
    device.source(IN).push(whole)
    device.source(IN).push(b"behind it")
    pieces = [begin(device, IN, length=512) for _ in range(3)]
    assert [each.actual for each in pieces] == [512, 512, 256]
    for number in order:
        assert device.take_back(pieces[number])
    again = [begin(device, IN, length=512) for _ in range(4)]
    assert [bytes(each.answer) for each in again] == [
        whole[:512], whole[512:1024], whole[1024:], b"behind it",
    ]  # fmt: skip
    assert device.source(IN).waiting == 0
    assert len([entry for entry in thing.log if entry[0] == "taken"]) == 2


def test_only_what_was_given_lately_can_be_taken_back(device: UsbDevice, thing: Thing) -> None:
    given = []
    for number in range(20):
        device.source(IN).push(bytes([number]))
        given.append(begin(device, IN, length=512))
    assert not device.take_back(given[0])
    assert device.take_back(given[-1])
    device.unplug()
    assert not device.take_back(given[-2])
    assert not device.take_back(begin(device, OUT, data=b"x"))


def test_transfers_to_the_device(device: UsbDevice, thing: Thing) -> None:
    assert begin(device, OUT, data=bytes(512)).actual == 512
    assert begin(device, OUT, data=b"").status is Status.OK
    begin(device, OUT, data=bytes(512), ends=True)
    begin(device, OUT, data=b"x")
    assert [entry[2] for entry in thing.log] == [False, True, True, True]


def test_a_device_that_takes_nothing_makes_the_host_wait(device: UsbDevice, thing: Thing) -> None:
    thing.is_open = False
    first, second = begin(device, OUT, data=b"1"), begin(device, OUT, data=b"2")
    assert device.cancel(first)
    assert first.status is Status.CANCELLED
    assert not device.cancel(first)
    assert second.status is None
    thing.is_open = True
    device.resume(OUT)
    assert second.status is Status.OK
    assert thing.log == [("take", b"2", True)]


def test_halts(device: UsbDevice, thing: Thing) -> None:
    asked = begin(device, IN, length=512)
    device.halt(IN)
    assert asked.status is Status.STALL
    assert control(device, 0x82, 0, 0, IN) == b"\1\0"
    device.source(IN).push(b"kept")
    assert begin(device, IN, length=512).status is Status.STALL
    assert control(device, 0x02, 1, 0, IN) == b""
    assert bytes(begin(device, IN, length=512).answer) == b"kept"
    thing.takes, thing.is_open = False, False
    offered = [begin(device, OUT, data=b"1"), begin(device, OUT, data=b"2")]
    thing.is_open = True
    device.resume(OUT)
    assert [each.status for each in offered] == [Status.STALL, Status.STALL]
    assert begin(device, OUT, data=b"3").status is Status.STALL
    assert control(device, 0x02, 1, 0, OUT) == b""
    thing.takes = True
    assert begin(device, OUT, data=b"4").status is Status.OK
    assert control(device, 0x02, 3, 0, OUT) == b""
    assert begin(device, OUT, data=b"5").status is Status.STALL


def test_unplugging_ends_everything_once(device: UsbDevice, thing: Thing) -> None:
    thing.is_open = False
    waiting = [begin(device, IN, length=512), begin(device, OUT, data=b"1")]
    device.unplug()
    assert [each.status for each in waiting] == [Status.GONE, Status.GONE]
    assert thing.log == [("configured", False)]
    assert begin(device, IN, length=512).status is Status.GONE


def test_what_may_wait_is_bounded(device: UsbDevice) -> None:
    waiting = [begin(device, IN, length=512) for _ in range(MAX_OUTSTANDING + 1)]
    assert [each.status for each in waiting] == [None] * MAX_OUTSTANDING + [Status.STALL]
    assert begin(device, 0x03, data=b"").status is Status.STALL
    assert not device.cancel(Transfer(0x03, done=lambda _: None))
