# SPDX-License-Identifier: Apache-2.0
"""The host's end: finding and claiming, halts, time that runs out, cables that are pulled."""

from __future__ import annotations

import errno
import importlib
import queue
import random
import select
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from fakes.recording_sink import RecordingSink
from fakes.usb_bus import FakeBus
from fakes.usb_station import UsbStation
from i2o.clock import SYSTEM_CLOCK, ManualClock
from i2o.errors import IopDead, RemoteFrameError, TransportUnavailable, UriError
from i2o.testing.bare_host import BareHost
from i2o.transport.fabric.completion import CompletionError
from i2o.transport.fabric.errors import ErrorAvailable, FabricError, TryAgain
from i2o.transport.fabric.flags import Bind
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint
from i2o.transport.registry import open_endpoint, open_listener
from i2o.transport.usb import host_device, host_link
from i2o.transport.usb.address import UsbAddress
from i2o.transport.usb.carrier import UsbCarrier
from i2o.transport.usb.device_carrier import UsbDeviceCarrier
from i2o.transport.usb.host_device import UsbBus
from i2o.transport.usb.interface import FRAME_LIMIT, HEADER, IN_ENDPOINT, LINK_INFO, device_spec
from i2o.transport.usb.link_function import MAX_BYTES, News, NewsKind

ADDRESS = UsbAddress(0x1209, 1)
PATIENCE_S = 10.0


class Cable:
    """A host and a device, both driven by the test."""

    def __init__(self, clock=SYSTEM_CLOCK) -> None:
        self.bus = FakeBus()
        self.device, self.inside = UsbDeviceCarrier(device_spec("1")), RecordingSink()
        self.device.open(self.inside)
        self.bus.plug(self.device.device)
        self.host, self.outside = UsbCarrier(UsbBus(self.bus), clock=clock), RecordingSink()
        self.host.open(self.outside)

    def until(self, look: Callable[[], object]) -> None:
        end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
        while not look():
            assert SYSTEM_CLOCK.monotonic() < end, (self.inside.events, self.outside.events)
            select.select([self.host.fileno(), self.device.fileno()], [], [], 0.01)
            self.host.progress()
            self.device.progress()

    def up(self) -> None:
        self.host.resolve(str(ADDRESS))
        self.until(lambda: ("up", 0) in self.inside.events and ("up", 0) in self.outside.events)

    def send(self, *frames: bytes) -> None:
        """Send to the device, and wait until it is there."""
        before = len(self.inside.payloads)
        for frame in frames:
            self.until(lambda frame=frame: self.host.send(0, [frame]))
        self.until(lambda: len(self.inside.payloads) == before + len(frames))
        assert self.inside.payloads[before:] == list(frames)

    def answer(self, *frames: bytes) -> None:
        """Send to the host, and wait until it is there."""
        before = len(self.outside.payloads)
        for frame in frames:
            self.until(lambda frame=frame: self.device.send(0, [frame]))
        self.until(lambda: len(self.outside.payloads) == before + len(frames))
        assert self.outside.payloads[before:] == list(frames)

    def close(self) -> None:
        self.host.close()
        self.device.close()


@pytest.fixture
def cable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cable]:
    monkeypatch.setattr(host_link, "READ_MS", 20)
    monkeypatch.setattr(host_link, "WRITE_MS", 20)
    made = Cable()
    yield made
    made.close()


# --- finding and claiming ------------------------------------------------------------------------


def test_addresses() -> None:
    assert UsbAddress.parse("usb:1209:0001") == ADDRESS
    assert str(UsbAddress.parse("usb:AB:1:x-7")) == "usb:00ab:0001:x-7"
    for wrong in ("usb:", "usb:1209", "usb:12345:1", "usb:1209:0001:", "tcp:1:2"):
        with pytest.raises(UriError, match="VID:PID"):
            UsbAddress.parse(wrong)


def test_which_device_is_meant(cable: Cable) -> None:
    bus = UsbBus(cable.bus)
    with pytest.raises(TransportUnavailable, match="not plugged in"):
        bus.open(UsbAddress(0x1209, 2))
    other = UsbDeviceCarrier(device_spec("2"))
    cable.bus.plug(other.device)
    with pytest.raises(TransportUnavailable, match="2 devices"):
        bus.open(ADDRESS)
    with pytest.raises(TransportUnavailable, match="not plugged in"):
        bus.open(UsbAddress(0x1209, 1, "3"))
    bus.open(UsbAddress(0x1209, 1, "2")).close()
    assert other.device.configuration == 1
    assert cable.device.device.configuration == 0
    other.close()


def test_the_interface_is_claimed_and_released(cable: Cable) -> None:
    with UsbBus(cable.bus).open(ADDRESS):
        with pytest.raises(TransportUnavailable, match="in use"):
            UsbBus(cable.bus).open(ADDRESS)
        cable.bus.log.clear()
    assert cable.bus.log == ["release", "close"]
    UsbBus(cable.bus).open(ADDRESS).close()


def test_a_driver_keeps_it_unless_asked(cable: Cable) -> None:
    cable.bus.drivers = True
    with pytest.raises(TransportUnavailable, match="detach=1"):
        UsbBus(cable.bus).open(ADDRESS)
    assert "detach" not in cable.bus.log
    with UsbBus(cable.bus).open(ADDRESS, detach=True):
        assert not cable.bus.drivers
    assert cable.bus.drivers
    assert [word for word in cable.bus.log if word in ("detach", "attach")] == ["detach", "attach"]


def test_permissions_are_explained(cable: Cable) -> None:
    cable.bus.raise_in("open_device", errno.EACCES, errno.EACCES)
    with pytest.raises(TransportUnavailable, match=r'udev rule.*idVendor}=="1209"'):
        UsbBus(cable.bus).open(ADDRESS)
    cable.bus.raise_in("claim_interface", errno.EIO)
    with pytest.raises(OSError, match="EIO"):
        UsbBus(cable.bus).open(ADDRESS)


def test_serial_numbers_that_may_not_be_read(cable: Cable, monkeypatch) -> None:
    cable.bus.raise_in("ctrl_transfer", errno.EACCES, errno.EACCES)
    with pytest.raises(TransportUnavailable, match="udev rule"):
        UsbBus(cable.bus).open(UsbAddress(0x1209, 1, "1"))


def test_a_backend_without_drivers(cable: Cable, monkeypatch) -> None:
    def missing(*_: object) -> bool:
        raise NotImplementedError

    monkeypatch.setattr(FakeBus, "is_kernel_driver_active", missing)
    UsbBus(cable.bus).open(ADDRESS, detach=True).close()


def test_what_is_not_installed(monkeypatch) -> None:
    core = importlib.import_module("usb.core")
    libusb = importlib.import_module("usb.backend.libusb1")
    monkeypatch.setattr(libusb, "get_backend", lambda **_: None)

    def find(**_: object) -> None:
        raise core.NoBackendError("none")

    monkeypatch.setattr(core, "find", find)
    with pytest.raises(TransportUnavailable, match=r"libusb-1\.0-0"):
        UsbBus().devices()

    bus = FakeBus()
    answers = iter([core.NoBackendError("none"), []])

    def find_by_name(**words: object) -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        assert words["backend"] is bus
        return answer

    monkeypatch.setattr(core, "find", find_by_name)
    monkeypatch.setattr(libusb, "get_backend", lambda **_: bus)
    assert UsbBus().devices() == []

    def no_module(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(host_device, "import_module", no_module)
    with pytest.raises(TransportUnavailable, match=r"pip install pyusb"):
        UsbBus().devices()


# --- frames --------------------------------------------------------------------------------------


def test_frames_in_both_directions(cable: Cable) -> None:
    cable.up()
    assert cable.host.address_of(0) == "usb:1209:0001"
    assert cable.host.resolve("usb:1209:1") == 0
    sizes = (0, 1, 503, 504, 505, 1016, 4096, FRAME_LIMIT - 8, FRAME_LIMIT)
    frames = [bytes([size & 0xFF]) * size for size in sizes]
    cable.send(*frames)
    cable.answer(*frames)
    # whole packets are followed by an empty one
    assert cable.bus.writes.count(0) == sum((size + 8) % 512 == 0 for size in sizes) == 3


def test_what_was_taken_makes_room(cable: Cable) -> None:
    """More goes over a link than may wait at once."""
    cable.up()
    frames = [bytes([number]) * 60_000 for number in range(2 + MAX_BYTES // 60_000)]
    cable.send(*frames)
    cable.answer(*frames)
    link = cable.host._peers[0].link
    cable.until(lambda: link._outbox_bytes == 0)
    assert cable.device.function._bytes_out == 0


def test_what_makes_no_sense_is_refused(cable: Cable) -> None:
    cable.up()
    with pytest.raises(FabricError) as wrong:
        cable.host.resolve("usb:what")
    assert wrong.value.errno == errno.EINVAL
    with pytest.raises(FabricError) as wrong:
        cable.host.send(0, [bytes(FRAME_LIMIT + 1)])
    assert wrong.value.errno == errno.EMSGSIZE


def test_time_that_runs_out_in_the_middle(cable: Cable) -> None:
    cable.up()
    cable.bus.pieces.extend((512, 512, 1000, 3, 5))
    cable.answer(bytes(range(256)) * 10, b"short", b"after")
    cable.bus.packets = 1
    cable.send(bytes(range(256)) * 5, bytes(1016), b"after")


def test_halts_are_cleared_and_nothing_is_lost(cable: Cable) -> None:
    cable.up()
    cable.bus.raise_in("bulk_read", errno.EPIPE, None, errno.EPIPE, errno.EPIPE)
    cable.bus.raise_in("bulk_write", None, errno.EPIPE, errno.EPIPE)
    cable.bus.raise_in("intr_read", errno.EPIPE)
    cable.send(b"1", b"2", b"3")
    cable.answer(b"1", b"2", b"3")
    cable.device.device.halt(IN_ENDPOINT)
    cable.device.device.halt(0x01)
    cable.send(bytes(2000))
    cable.answer(bytes(2000))
    cable.until(lambda: "clear 0x82" in cable.bus.log)
    assert {"clear 0x01", "clear 0x81"} <= set(cable.bus.log)
    assert not cable.outside.losses


def test_a_halt_in_the_middle_of_a_frame_has_it_sent_again(cable: Cable) -> None:
    cable.up()
    cable.bus.packets = 1
    cable.bus.raise_in("bulk_write", None, errno.EPIPE)
    cable.send(bytes(range(250)) * 4, b"after")
    assert "clear 0x01" in cable.bus.log
    cable.bus.pieces.append(512)
    cable.bus.raise_in("bulk_read", None, errno.EPIPE)
    cable.device.send(0, [bytes(1000)])
    cable.until(lambda: cable.outside.losses or cable.outside.payloads)


@pytest.mark.parametrize("name", ["bulk_read", "intr_read", "bulk_write"])
def test_a_device_that_halts_for_ever_is_lost(cable: Cable, name: str) -> None:
    cable.up()
    cable.bus.raise_in(name, *[errno.EPIPE] * (host_link.MAX_HALTS + 1))
    cable.host.send(0, [b"x"])
    cable.until(lambda: cable.outside.losses)
    assert cable.outside.losses[0][0] == errno.ECONNRESET
    cable.until(lambda: cable.outside.events.count(("up", 0)) == 2)  # and begins anew
    cable.answer(b"goes on")


@pytest.mark.parametrize("name", ["bulk_read", "intr_read", "bulk_write"])
def test_an_error_of_the_bus_is_a_loss(cable: Cable, name: str) -> None:
    cable.up()
    cable.bus.raise_in(name, errno.EIO)
    cable.host.send(0, [b"x"])
    cable.until(lambda: cable.outside.losses)
    assert len(cable.outside.losses) == 1


def test_a_full_device_makes_the_host_wait(cable: Cable) -> None:
    cable.up()
    count = 0
    while cable.host.send(0, [count.to_bytes(2, "big")]):
        count += 1
        if count > 1000:
            cable.until(lambda: False)
    assert count >= host_link.MAX_FRAMES
    cable.until(lambda: ("room", 0) in cable.outside.events)
    cable.until(lambda: len(cable.inside.payloads) == count)
    assert cable.inside.payloads == [number.to_bytes(2, "big") for number in range(count)]


def test_a_device_that_takes_nothing_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(host_link, "READ_MS", 5)
    monkeypatch.setattr(host_link, "WRITE_MS", 5)
    clock = ManualClock()
    cable = Cable(clock)
    try:
        cable.up()
        monkeypatch.setattr(cable.device.function, "wants", lambda endpoint: False)
        cable.device.device._out[1]._wants = lambda endpoint: False
        cable.host.send(0, [b"never taken"])

        def is_lost() -> bool:
            clock.advance(1)
            return bool(cable.outside.losses)

        cable.until(is_lost)
        assert "takes nothing" in str(cable.outside.losses[0][1])
    finally:
        cable.close()


def test_closing_sends_what_was_accepted(cable: Cable) -> None:
    cable.up()
    for number in range(20):
        cable.host.send(0, [bytes([number])])
    cable.host.close()
    cable.device.progress()
    assert cable.inside.payloads == [bytes([number]) for number in range(20)]
    assert cable.inside.losses
    assert cable.bus.log[-2:] == ["release", "close"]


def test_closing_does_not_wait_for_a_device_that_takes_nothing(cable: Cable, monkeypatch) -> None:
    monkeypatch.setattr(host_link, "LINGER_S", 0.05)
    cable.up()
    cable.device.device._out[1]._wants = lambda endpoint: False
    cable.host.send(0, [b"never taken"])
    begin = SYSTEM_CLOCK.monotonic()
    cable.host.close()
    assert SYSTEM_CLOCK.monotonic() - begin < host_link.STALL_S / 3
    assert cable.inside.payloads == []


# --- links that end ------------------------------------------------------------------------------


def test_nobody_is_there(cable: Cable) -> None:
    clock = ManualClock(1)
    with UsbCarrier(UsbBus(cable.bus), clock=clock) as host:
        sink = RecordingSink()
        host.open(sink)
        peer = host.resolve("usb:1209:0bad")
        assert host.next_deadline_ns() == 0

        def look() -> bool:
            host.progress()
            return host._peers[peer].link is None and host._peers[peer].retry_ns > 0

        cable.until(look)
        assert sink.events == []  # nobody wanted to send
        deadline = host.next_deadline_ns()
        assert deadline is not None
        assert deadline > clock.monotonic_ns()
        host.send(peer, [b"x"])
        cable.until(lambda: look() and sink.events)
        ((code, reason),) = sink.losses
        assert code == errno.EHOSTUNREACH
        assert "not plugged in" in str(reason)


def test_nothing_runs_behind_the_device(cable: Cable) -> None:
    cable.device.function.is_open = False
    peer = cable.host.resolve(str(ADDRESS))
    cable.host.send(peer, [b"x"])
    cable.until(lambda: cable.outside.losses)
    assert "begins no link" in str(cable.outside.losses[0][1])


def test_a_device_of_another_version(cable: Cable, monkeypatch) -> None:
    wrong = LINK_INFO.build(magic=1, version=9, frame_limit=1)
    monkeypatch.setattr(cable.device.function, "control", lambda setup, data: wrong)
    peer = cable.host.resolve(str(ADDRESS))
    cable.host.send(peer, [b"x"])
    cable.until(lambda: cable.outside.losses)
    assert "version 9" in str(cable.outside.losses[0][1])


def test_the_device_ends_the_link(cable: Cable) -> None:
    cable.up()
    frames = [bytes([number]) for number in range(30)]
    for frame in frames:
        cable.device.send(0, [frame])
    cable.device.disconnect(0)
    cable.until(lambda: cable.outside.losses)
    assert cable.outside.payloads == frames  # what it sent before comes first
    assert cable.outside.losses == [(errno.ECONNRESET, "the device ended the link")]
    cable.until(lambda: cable.inside.events.count(("up", 0)) == 2)


def test_the_end_of_a_link_is_seen_without_the_doorbell(cable: Cable, monkeypatch) -> None:
    cable.up()
    monkeypatch.setattr(cable.device.function, "_ring", lambda flags: None)
    cable.device.send(0, [b"last"])
    cable.device.disconnect(0)
    cable.until(lambda: cable.outside.losses)
    assert cable.outside.payloads == [b"last"]


def test_the_end_of_a_link_is_seen_by_the_doorbell_alone(cable: Cable, monkeypatch) -> None:
    cable.up()
    source = cable.device.device.source(IN_ENDPOINT)
    monkeypatch.setattr(source, "push", lambda data: None)
    cable.device.disconnect(0)
    cable.until(lambda: cable.outside.losses)


def test_the_host_ends_the_link(cable: Cable) -> None:
    cable.up()
    cable.host.send(0, [b"before"])
    cable.host.disconnect(0)
    cable.host.disconnect(0)
    cable.until(lambda: cable.inside.losses)
    assert cable.inside.payloads == [b"before"]
    cable.until(lambda: cable.inside.events.count(("up", 0)) == 2)
    assert not cable.outside.losses
    assert "busy" not in cable.bus.log  # the next link waits until the device is let go
    cable.send(b"again")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda link: HEADER.build(link=link, length=3) + b"four",
        lambda link: HEADER.build(link=link, length=FRAME_LIMIT + 1) + b"x",
    ],
)
def test_a_device_that_breaks_the_rules_is_lost(cable: Cable, wrong) -> None:
    cable.up()
    link = cable.device.function.link
    with cable.device.device.lock:
        cable.device.device.source(IN_ENDPOINT).push(wrong(link))
    cable.until(lambda: cable.outside.losses)
    assert cable.outside.losses[0][0] == errno.EPROTO


def test_a_halt_in_the_middle_of_a_frame_ends_the_link(cable: Cable, monkeypatch) -> None:
    """Nobody knows what is missing then."""
    counts: list[int] = []
    read = host_device.HostDevice.read

    def halting(self, buffer, timeout_ms: int) -> int:
        if counts[-1:] == [512]:
            counts.append(0)
            raise OSError(errno.EPIPE, "halted")
        counts.append(read(self, buffer, timeout_ms))
        return counts[-1]

    monkeypatch.setattr(host_device.HostDevice, "read", halting)
    cable.up()
    cable.bus.pieces.append(512)
    cable.device.send(0, [bytes(5000)])
    cable.until(lambda: cable.outside.losses)
    assert cable.outside.payloads == []


def test_what_an_earlier_link_left_is_ignored(cable: Cable) -> None:
    cable.up()
    with cable.device.device.lock:
        source = cable.device.device.source(IN_ENDPOINT)
        source.push(HEADER.build(link=1, length=5) + b"stale")
    cable.answer(b"mine")
    with cable.device.device.lock:
        source.push(b"")  # an empty packet alone means nothing
        cable.device.device.source(0x82).push(b"junk")
    cable.answer(b"goes on")


def test_a_host_that_takes_nothing_is_not_sent_more(cable: Cable, monkeypatch) -> None:
    monkeypatch.setattr(host_link, "MAX_FRAMES", 2)
    cable.up()
    link = cable.host._peers[0].link
    frames = [bytes([number]) for number in range(10)]
    for frame in frames:
        cable.device.send(0, [frame])
    end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
    while len(cable.host._news) < 2:
        assert SYSTEM_CLOCK.monotonic() < end
    assert link._unread == 2
    cable.until(lambda: cable.outside.payloads == frames)


# --- unplugging ----------------------------------------------------------------------------------


def test_unplugged_in_the_middle_of_a_hundred_sends(cable: Cable) -> None:
    """Each ends once; after it is plugged in again, the next one works."""
    inner = UsbDeviceCarrier(device_spec("9"))
    bus = FakeBus(inner.device)
    with SoftwareEndpoint(inner) as device, SoftwareEndpoint(UsbCarrier(UsbBus(bus))) as host:
        queues = [(device, device.open_cq()), (host, host.open_cq())]
        ended: dict[str, list[object]] = {"device": [], "host": []}
        for endpoint, cq in queues:
            endpoint.bind(cq, Bind.RECV | Bind.TRANSMIT)
            endpoint.enable()

        def pump() -> None:
            for (_, cq), name in zip(queues, ended, strict=True):
                try:
                    ended[name] += cq.read(64)
                except ErrorAvailable:
                    ended[name].append(cq.readerr())
                except TryAgain:
                    continue

        def until(look: Callable[[], object]) -> None:
            end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
            while not look():
                assert SYSTEM_CLOCK.monotonic() < end, ended
                pump()

        to = host.insert(inner.name)
        for number in range(30):
            device.recv(bytearray(2000), context=("in", number))
        for number in range(100):
            host.send(bytes(2000), to, context=number)
        until(lambda: len(ended["device"]) >= 5)
        bus.unplug(inner.device)
        until(lambda: len(ended["host"]) >= 100)
        assert sorted(each.context for each in ended["host"]) == list(range(100))
        assert any(isinstance(each, CompletionError) for each in ended["host"])
        bus.plug(inner.device)
        host.send(b"next", to, context="next")
        until(lambda: len(ended["host"]) == 101)
        last = ended["host"][-1]
        if isinstance(last, CompletionError):  # it was still found to be away
            host.send(b"next", to, context="next")
            until(lambda: len(ended["host"]) == 102)
        assert not isinstance(ended["host"][-1], CompletionError)
        device.close()
        host.close()
        for _, cq in queues:
            cq.close()


def test_a_port_whose_cable_is_pulled_and_plugged_in(tmp_path) -> None:
    uri = f"emu:?disk={tmp_path / 'disk.img'},create=1M"
    with UsbStation(uri) as station, station.port() as port:
        host = BareHost(port)
        host.init_outbound()
        station.pull()
        with pytest.raises(IopDead):
            host.init_outbound()
        station.bus.plug(station.device)
        end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
        while True:
            try:
                port.reconnect()
                break
            except IopDead:
                assert SYSTEM_CLOCK.monotonic() < end
        BareHost(port).init_outbound()


# --- by URI --------------------------------------------------------------------------------------


def test_uris(monkeypatch) -> None:
    monkeypatch.setattr(UsbBus, "devices", lambda *_: [])
    with open_endpoint("usb:1209:0001?detach=1") as endpoint:
        assert endpoint.name == "usb:host"
    open_listener("usb:").close()
    with pytest.raises(UriError, match="rdm or msg"):
        open_endpoint("usb:?type=x")
    with pytest.raises(UriError, match="VID:PID"):
        open_endpoint("usb:what")
    with pytest.raises(UriError, match="unknown option"):
        open_listener("usb:?type=msg")


def test_other_devices_are_not_ours(cable: Cable, monkeypatch) -> None:
    """Those with another interface, and those that vanish while they are looked at."""
    spec = cable.device.device.spec
    other = replace(spec.interfaces[0], class_code=3)
    monkeypatch.setattr(cable.device.device, "spec", replace(spec, interfaces=(other,)))
    assert UsbBus(cable.bus).devices() == []
    half = replace(spec.interfaces[0], endpoints=spec.interfaces[0].endpoints[:2])
    monkeypatch.setattr(cable.device.device, "spec", replace(spec, interfaces=(half,)))
    with pytest.raises(OSError, match="lacks an endpoint"):
        UsbBus(cable.bus).open(ADDRESS)
    (found,) = UsbBus(cable.bus).devices()
    monkeypatch.setattr(host_device, "interface_of", lambda device: None)
    with pytest.raises(OSError, match="gone"):
        host_device.HostDevice(found)


def test_a_device_that_is_configured_is_left_so(cable: Cable) -> None:
    UsbBus(cable.bus).open(ADDRESS).close()
    log: list[bool] = []
    cable.device.function.configured = log.append  # type: ignore[method-assign]
    UsbBus(cable.bus).open(ADDRESS).close()
    assert log == []


def test_links_that_are_ended_before_they_stand(cable: Cable) -> None:
    cable.host.send(cable.host.resolve(str(ADDRESS)), [b"x"])
    cable.host.disconnect(0)
    cable.host.send(0, [b"x"])
    cable.host.disconnect(0)
    cable.until(lambda: ("up", 0) in cable.outside.events)
    cable.send(b"works")


def test_descriptors_that_pyusb_does_not_like(cable: Cable, monkeypatch) -> None:
    def odd(*_: object, **__: object) -> None:
        raise ValueError("Invalid configuration 3")

    monkeypatch.setattr(UsbBus, "open", odd)
    cable.host.send(cable.host.resolve(str(ADDRESS)), [b"x"])
    cable.until(lambda: cable.outside.losses)
    assert cable.outside.losses == [(errno.EHOSTUNREACH, "Invalid configuration 3")]


def test_mutated_transfers_of_a_device_harm_nobody() -> None:
    """Whatever a device sends is a frame, stale, or the end of the link; memory is bounded."""

    def closed() -> host_device.HostDevice:
        raise OSError(errno.ENODEV, "none")

    chance, told = random.Random(4), []
    link = host_link.Link(closed, lambda _, news: told.append(news.frame))
    link.join()
    link._is_over, link._number = False, 7
    good = HEADER.build(link=7, length=40) + bytes(range(40))
    for _ in range(50_000):
        data = bytearray(good)
        for _ in range(chance.choice((1, 1, 2))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.1:
            del data[chance.randrange(len(data)) :]
        try:
            link._take(data)
        except RemoteFrameError:
            data.clear()
        assert len(data) <= len(good)  # what waits for its end
        told.clear()
        link._take(bytearray(good))
        assert told == [bytes(range(40))]


def test_a_device_that_acknowledges_a_link_and_begins_none(cable: Cable, monkeypatch) -> None:
    """As behind functionfs, where data are acknowledged before a program has seen them."""
    monkeypatch.setattr(host_device.HostDevice, "control_out", lambda *words: None)
    told: queue.SimpleQueue[News] = queue.SimpleQueue()
    link = host_link.Link(lambda: UsbBus(cable.bus).open(ADDRESS), lambda _, news: told.put(news))
    news = told.get(timeout=PATIENCE_S)
    link.stop()
    link.join()
    assert (news.kind, news.code) == (NewsKind.LOST, errno.EHOSTUNREACH)
    assert "did not say why" in news.reason


def test_what_is_closed_takes_nothing(cable: Cable) -> None:
    cable.up()
    cable.host.close()
    assert cable.host.send(0, [b"late"]) is False
    cable.host.disconnect(0)
    cable.host.progress()
    assert cable.host.next_deadline_ns() is None
    assert cable.host.address_of(0) == str(ADDRESS)


def test_whether_drivers_are_detached_is_yes_or_no() -> None:
    with pytest.raises(UriError, match="detach is 1 or 0, not 'x'"):
        open_endpoint("usb:1209:1?detach=x")
