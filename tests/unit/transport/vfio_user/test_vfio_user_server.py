# SPDX-License-Identifier: Apache-2.0
"""The vfio-user server as its clients see it, with a device that is four registers."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from fakes.vfio_user_client import Client, ClientError, Guest, memory_file, packed
from i2o.clock import SYSTEM_CLOCK
from i2o.errors import DmaFault, TransportUnavailable
from i2o.transport.serving import serve
from i2o.transport.vfio_user import ConfigSpace, GuestMemory, Identity, Interrupts, Server
from i2o.transport.vfio_user.messages import (
    MAX_MESSAGE,
    Command,
    DmaUnmapFlags,
    IrqIndex,
    IrqSetFlags,
    MessageFlags,
    RegionFlags,
    RegionIndex,
)

CONFIG = RegionIndex.CONFIG
TRIGGER_FD = IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER
UNMASK = IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_UNMASK
MASK = IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_MASK
OFF = IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_TRIGGER


class Bar:
    """A page that remembers; with a file behind it, its second half can be mapped."""

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self.size, self.descriptor = size, descriptor
        self.mappable = ((size // 2, size // 2),)
        self.content = bytearray(size)
        self.accesses: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        self.accesses.append(("r", offset, size))
        return bytes(self.content[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        self.accesses.append(("w", offset, len(data)))
        self.content[offset : offset + len(data)] = data


class Registers:
    """The smallest device."""

    def __init__(self, *, msix: int = 0, descriptor: int | None = None) -> None:
        self.identity = Identity(
            0x1234, 0x5678, 0x0E0001, 3, 0xAAAA, 0xBBBB, bars={0: 8192, 1: 4096}, msix=msix
        )
        self.bar = Bar(8192, descriptor)
        self.regions = {0: self.bar, 1: Bar(4096)}
        self.resets = self.goodbyes = self.runs = 0
        self.deadline: int | None = None

    def connect(self, memory: GuestMemory, interrupts: Interrupts, config: ConfigSpace) -> None:
        self.memory, self.interrupts, self.config = memory, interrupts, config

    def reset(self) -> None:
        self.resets += 1

    def client_gone(self) -> None:
        self.goodbyes += 1

    def run(self, now_ns: int) -> int | None:
        self.runs += 1
        return self.deadline

    def filenos(self) -> tuple[int, ...]:
        return ()


@pytest.fixture
def device() -> Registers:
    return Registers(msix=4)


@pytest.fixture
def server(tmp_path, device) -> Iterator[Server]:
    with Server(tmp_path / "s", device) as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[Client]:
    with Client.of(server) as client:
        yield client


@pytest.fixture
def event() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def guest() -> Iterator[Guest]:
    memory = Guest()
    yield memory
    memory.close()


def signals(descriptor: int) -> int:
    try:
        return os.eventfd_read(descriptor)
    except BlockingIOError:
        return 0


def refused(code: int):
    return pytest.raises(ClientError, match=os.strerror(code))


# --- connection --------------------------------------------------------------------------------


def test_a_version_is_agreed_on_with_a_subset_of_capabilities(server):
    with Client.of(server, greet=False) as client:
        assert client.version(0, 5) == {
            "max_msg_fds": 8,
            "max_data_xfer_size": 1 << 20,
            "pgsizes": 4096,
            "max_dma_maps": 4096,
            "write_multiple": True,
        }


@pytest.mark.parametrize("text", [b"", b"\0", b"{\0", b"[]\0", b'{"capabilities": 3}\0', b"\xff\0"])
def test_capabilities_that_make_no_sense_are_none(server, text):
    with Client.of(server, greet=False) as client:
        data, _ = client.call(Command.VERSION, struct.pack("<HH", 0, 0) + text)
        assert data == struct.pack("<HH", 0, 0) + b'{"capabilities": {}}\0'


@pytest.mark.parametrize(
    "message",
    [
        packed(1, Command.VERSION, struct.pack("<HH", 1, 0)),
        packed(1, Command.DEVICE_GET_INFO, bytes(16)),
        packed(1, Command.VERSION, struct.pack("<HH", 0, 0), flags=1),
        struct.pack("<HHIII", 1, Command.VERSION, 15, 0, 0),
        struct.pack("<HHIII", 1, Command.VERSION, MAX_MESSAGE + 1, 0, 0),
    ],
    ids=["major", "no version", "a reply", "too small", "too large"],
)
def test_a_client_that_does_not_speak_the_protocol_is_disconnected(server, message):
    with Client.of(server, greet=False) as client:
        client.end.send(message)
        with pytest.raises(ConnectionResetError):
            client.receive()
    with Client.of(server) as client:
        assert client.config_word(0) == 0x1234


def test_one_client_at_a_time(server, client):
    with Client.of(server, greet=False) as second:
        text = struct.pack("<HH", 0, 0)
        second.end.send(packed(1, Command.VERSION, text))
        assert client.config_word(0) == 0x1234
        client.close()
        assert second.receive()[0] == 1
        assert second.config_word(2) == 0x5678


def test_what_a_client_had_is_gone_with_it(server, device, client, event, guest):
    client.dma_map(0, guest.size, guest.descriptor)
    client.set_irqs(IrqIndex.MSI, TRIGGER_FD, fds=[event])
    client.write(CONFIG, 4, b"\6\0")
    assert device.config.may_master
    before = len(os.listdir("/proc/self/fd"))
    client.close()
    server.handle()
    assert device.goodbyes == 1
    assert not device.interrupts.uses_messages
    with pytest.raises(DmaFault, match="no memory there"):
        device.memory.read(0, 1)
    assert not device.config.may_master
    assert not server.has_client
    # the client's own end, the server's, the eventfd, and the mapping's
    assert len(os.listdir("/proc/self/fd")) == before - 4


def test_a_message_may_come_in_pieces(server, client):
    message = packed(77, Command.REGION_READ, struct.pack("<QII", 0, CONFIG, 4))
    for byte in message:
        client.end.send(bytes([byte]))
        server.handle()
    number, flags, error, data, _ = client.receive()
    assert (number, flags, error, data[16:]) == (77, 1, 0, b"\x34\x12\x78\x56")


def test_descriptors_stay_with_their_message(server, device, client, guest):
    """Three messages in one go: only the second one has a descriptor."""
    other = memory_file(4096)
    client.send(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, 4096))
    client.send(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0x10000, 4096), [guest.descriptor])
    client.send(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0x20000, 4096), [other])
    for _ in range(3):
        assert client.receive()[1:3] == (1, 0)
    os.pwrite(other, b"other", 0)
    guest.view[:5] = b"guest"
    assert device.memory.read(0x10000, 5) == b"guest"
    assert device.memory.read(0x20000, 5) == b"other"
    with pytest.raises(DmaFault, match="share=on"):
        device.memory.read(0, 5)
    os.close(other)


def test_a_client_that_does_not_read_is_not_read_either(server, device, client):
    payload = struct.pack("<QII", 0, 0, 4096)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            client.send(Command.REGION_READ, payload)
            sent += 1
            server.handle()
    assert server.writes_to() == [server._client.fileno()]
    assert server._client.fileno() not in server.reads_from()
    assert len(device.bar.accesses) < sent
    for _ in range(sent):
        assert len(client.receive()[3]) == 16 + 4096
    assert not server.writes_to()


def test_no_reply_means_none(server, client):
    client.send(Command.REGION_WRITE, struct.pack("<QII", 0, 0, 1) + b"x", flags=0x10)
    client.send(Command.REGION_WRITE, struct.pack("<QII", 1 << 40, 0, 1) + b"x", flags=0x10)
    assert client.read(0, 0, 1) == b"x"


@pytest.mark.parametrize(
    "command",
    [
        Command.DEVICE_GET_REGION_IO_FDS,
        Command.DEVICE_FEATURE,
        Command.MIG_DATA_READ,
        Command.MIG_DATA_WRITE,
        Command.DMA_READ,
        0,
        99,
    ],
)
def test_what_is_not_offered_is_refused(client, command):
    with refused(errno.ENOTSUP):
        client.call(command, bytes(64))


@pytest.mark.parametrize(
    "command",
    [c for c in Command if c.value in {2, 3, 4, 5, 7, 8, 9, 10, 15}],
)
def test_a_message_too_short_for_its_structure_is_refused(client, command):
    with refused(errno.EINVAL):
        client.call(command, bytes(3))


# --- regions -----------------------------------------------------------------------------------


def test_device_info(client):
    data, _ = client.call(Command.DEVICE_GET_INFO, bytes(16))
    assert struct.unpack("<IIII", data) == (16, 3, 9, 5)


def test_region_info_without_a_file(client):
    both = RegionFlags.READ | RegionFlags.WRITE
    assert client.region_info(0) == ((32, both, 0, 0, 8192, 0), b"", [])
    assert client.region_info(CONFIG) == ((32, both, 7, 0, 256, 0), b"", [])
    assert client.region_info(5) == ((32, 0, 5, 0, 0, 0), b"", [])
    with refused(errno.EINVAL):
        client.region_info(9)


def test_region_info_says_what_can_be_mapped(tmp_path):
    descriptor = memory_file(8192)
    with (
        Server(tmp_path / "s", Registers(descriptor=descriptor)) as server,
        Client.of(server) as client,
    ):
        head, capability, shared = client.region_info(0)
        assert head == (64, 15, 0, 32, 8192, 0)
        assert capability == b""  # the client gave no room, and learns how much it takes
        os.close(shared[0])
        head, capability, shared = client.region_info(0, argsz=64)
        assert head == (64, 15, 0, 32, 8192, 0)
        assert struct.unpack("<HHIIIQQ", capability) == (1, 1, 0, 1, 0, 4096, 4096)
        os.pwrite(descriptor, b"seen", 4096)
        assert os.pread(shared[0], 4, 4096) == b"seen"
        os.close(shared[0])
    os.close(descriptor)


def test_region_accesses_reach_the_device_as_they_are(client, device):
    client.write(0, 8188, b"last")
    client.write(0, 1, b"xyz")
    assert client.read(0, 8188, 4) == b"last"
    assert client.read(0, 0, 8192)[:4] == b"\0xyz"
    assert device.bar.accesses == [("w", 8188, 4), ("w", 1, 3), ("r", 8188, 4), ("r", 0, 8192)]


@pytest.mark.parametrize(
    ("offset", "index", "count"),
    [(8192, 0, 1), (8189, 0, 4), (0, 0, 0), (1 << 63, 0, 4), (0, 2, 1), (0, 8, 1), (0, 77, 1),
     (255, CONFIG, 2), (0, 6, 4)],
)  # fmt: skip
def test_accesses_outside_a_region_are_refused(client, device, offset, index, count):
    with refused(errno.EINVAL):
        client.read(index, offset, count)
    with refused(errno.EINVAL):
        client.write(index, offset, bytes(count))
    assert not device.bar.accesses


def test_reads_are_bounded(client):
    with refused(errno.E2BIG):
        client.read(0, 0, 0xFFFFFFFF)


def test_a_write_with_other_bytes_than_it_says_is_refused(client, device):
    with refused(errno.EINVAL):
        client.call(Command.REGION_WRITE, struct.pack("<QII", 0, 0, 4) + b"12345")
    assert not device.bar.accesses


def test_several_writes_in_one_message(client, device):
    writes = [(0, 4, b"abcd"), (4, 2, b"ef"), (8, 8, b"12345678")]
    payload = struct.pack("<Q", 3) + b"".join(
        struct.pack("<QII8s", offset, 0, size, data) for offset, size, data in writes
    )
    assert client.call(Command.REGION_WRITE_MULTI, payload)[0] == payload[:8]
    assert client.read(0, 0, 16) == b"abcdef\0\x0012345678"
    assert device.bar.accesses[:3] == [("w", 0, 4), ("w", 4, 2), ("w", 8, 8)]


@pytest.mark.parametrize("payload", [
    struct.pack("<Q", 2) + struct.pack("<QII8s", 0, 0, 4, b"abcd"),
    struct.pack("<Q", 1 << 60),
    struct.pack("<Q", 1) + struct.pack("<QII8s", 0, 0, 9, b"abcd"),
    struct.pack("<Q", 1) + struct.pack("<QII8s", 0, 0, 0, b"abcd"),
])  # fmt: skip
def test_several_writes_that_make_no_sense(client, device, payload):
    with refused(errno.EINVAL):
        client.call(Command.REGION_WRITE_MULTI, payload)
    assert not device.bar.accesses


def test_reset(client, device):
    client.config_word(4, 0x0006)
    client.call(Command.DEVICE_RESET)
    assert device.resets == 1
    assert client.config_word(4) == 0


# --- configuration space -----------------------------------------------------------------------


def test_configuration_header(client):
    head = client.read(CONFIG, 0, 64)
    assert struct.unpack_from("<HHHHBHB", head, 0) == (0x1234, 0x5678, 0, 0x10, 3, 0x0001, 0x0E)
    assert struct.unpack_from("<HH", head, 0x2C) == (0xAAAA, 0xBBBB)
    assert head[0x3D] == 1
    assert head[0x34] == 0x40


def test_configuration_capabilities(client):
    msi = client.read(CONFIG, 0x40, 16)
    msix = client.read(CONFIG, msi[1], 12)
    assert msi[0] == 5
    assert int.from_bytes(msi[2:4], "little") == 0x0080
    assert (msix[0], msix[1]) == (0x11, 0)
    assert struct.unpack_from("<HII", msix, 2) == (3, 1, 0x801)


def test_bars_tell_their_size(client):
    for bar, size in ((0, 8192), (1, 4096)):
        client.write32(0x10 + 4 * bar, 0xFFFFFFFF, CONFIG)
        assert client.read32(0x10 + 4 * bar, CONFIG) == 0x100000000 - size
    client.write32(0x18, 0xFFFFFFFF, CONFIG)
    assert client.read32(0x18, CONFIG) == 0


def test_only_what_can_be_written_is(client):
    client.write(CONFIG, 0, b"\xff" * 256)
    head = client.read(CONFIG, 0, 64)
    assert head[:4] == b"\x34\x12\x78\x56"
    assert head[4:6] == b"\x47\x05"
    assert head[0x3C:0x3E] == b"\xff\x01"


def test_a_device_sees_that_it_may_master(client, device):
    assert not device.config.may_master
    client.config_word(4, 0x0004)
    assert device.config.may_master


# --- interrupts --------------------------------------------------------------------------------


def test_irq_info(client):
    def info(index: int) -> tuple[int, ...]:
        data, _ = client.call(Command.DEVICE_GET_IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0))
        return struct.unpack("<IIII", data)

    assert info(IrqIndex.INTX) == (16, 7, 0, 1)
    assert info(IrqIndex.MSI) == (16, 9, 1, 1)
    assert info(IrqIndex.MSIX) == (16, 9, 2, 4)
    assert info(IrqIndex.ERROR) == (16, 1, 3, 0)
    with refused(errno.EINVAL):
        info(5)


def test_intx_masks_itself_and_signals_again_while_the_level_is_high(client, device, event):
    client.set_irqs(IrqIndex.INTX, TRIGGER_FD, fds=[event])
    device.interrupts.set_level(True)
    device.interrupts.set_level(True)
    assert signals(event) == 1
    assert client.config_word(6) & 8
    client.set_irqs(IrqIndex.INTX, UNMASK)
    assert signals(event) == 1
    device.interrupts.set_level(False)
    assert client.config_word(6) & 8  # the client's line is high until it unmasks
    client.set_irqs(IrqIndex.INTX, UNMASK)
    assert signals(event) == 0
    assert not client.config_word(6) & 8
    device.interrupts.set_level(True)
    assert signals(event) == 1
    assert device.interrupts.signals == 3


def test_intx_that_is_masked_or_disabled_waits(client, device, event):
    client.set_irqs(IrqIndex.INTX, TRIGGER_FD, fds=[event])
    client.set_irqs(IrqIndex.INTX, MASK)
    device.interrupts.set_level(True)
    assert signals(event) == 0
    client.config_word(4, 0x0400)
    client.set_irqs(IrqIndex.INTX, UNMASK)
    assert signals(event) == 0
    assert client.config_word(6) & 8  # the status says it all the same
    client.config_word(4, 0)
    assert signals(event) == 1


def test_a_level_that_was_high_before_is_told_to_a_new_listener(client, device, event):
    device.interrupts.set_level(True)
    client.set_irqs(IrqIndex.INTX, TRIGGER_FD, fds=[event])
    assert signals(event) == 1
    client.set_irqs(IrqIndex.MSI, TRIGGER_FD, fds=[event])
    assert signals(event) == 1


def test_a_level_that_is_high_goes_back_to_the_line_with_the_last_message(client, device, event):
    client.set_irqs(IrqIndex.INTX, TRIGGER_FD, fds=[event])
    message = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    client.set_irqs(IrqIndex.MSI, TRIGGER_FD, fds=[message])
    device.interrupts.set_level(True)
    assert (signals(event), signals(message)) == (0, 1)
    client.set_irqs(IrqIndex.MSI, OFF, count=0)
    assert (signals(event), signals(message)) == (1, 0)
    os.close(message)


@pytest.mark.parametrize("index", [IrqIndex.MSI, IrqIndex.MSIX])
def test_messages_are_signalled_by_the_rise_alone(client, device, event, index):
    client.set_irqs(index, TRIGGER_FD, fds=[event])
    assert device.interrupts.uses_messages
    for level in (True, True, False, False, True):
        device.interrupts.set_level(level)
    assert signals(event) == 2
    client.set_irqs(index, OFF, count=0)
    assert not device.interrupts.uses_messages
    device.interrupts.set_level(False)
    device.interrupts.set_level(True)
    assert signals(event) == 0


def test_vectors_of_msix_are_separate(client, device, event):
    client.set_irqs(IrqIndex.MSIX, TRIGGER_FD, start=2, fds=[event])
    device.interrupts.signal(1)
    device.interrupts.signal(7)
    assert signals(event) == 0
    device.interrupts.signal(2)
    assert signals(event) == 1


def test_a_masked_message_comes_when_it_is_unmasked(client, device, event):
    client.set_irqs(IrqIndex.MSIX, TRIGGER_FD, fds=[event])
    client.set_irqs(IrqIndex.MSIX, MASK)
    device.interrupts.signal(0)
    device.interrupts.signal(0)
    assert signals(event) == 0
    client.set_irqs(IrqIndex.MSIX, UNMASK)
    assert signals(event) == 1
    client.set_irqs(IrqIndex.MSIX, UNMASK)
    assert signals(event) == 0


def test_a_client_may_trigger_by_itself(client, event):
    client.set_irqs(IrqIndex.MSIX, TRIGGER_FD, start=1, fds=[event])
    switched = IrqSetFlags.DATA_BOOL | IrqSetFlags.ACTION_TRIGGER
    client.set_irqs(IrqIndex.MSIX, switched, count=4, data=b"\1\0\1\1")
    assert signals(event) == 0
    client.set_irqs(IrqIndex.MSIX, switched, count=4, data=b"\0\1\0\0")
    assert signals(event) == 1


@pytest.mark.parametrize(
    ("index", "flags", "start", "count", "data"),
    [
        (9, OFF, 0, 0, b""),
        (IrqIndex.MSIX, OFF, 3, 2, b""),
        (IrqIndex.MSIX, OFF, 0xFFFFFFFF, 1, b""),
        (IrqIndex.MSIX, MASK, 0, 0, b""),
        (IrqIndex.MSIX, OFF | IrqSetFlags.ACTION_MASK, 0, 1, b""),
        (IrqIndex.MSIX, OFF | IrqSetFlags.DATA_BOOL, 0, 1, b""),
        (IrqIndex.MSIX, 0, 0, 1, b""),
        (IrqIndex.MSIX, OFF | 0x40, 0, 1, b""),
        (IrqIndex.MSIX, IrqSetFlags.DATA_BOOL | IrqSetFlags.ACTION_TRIGGER, 0, 4, b"\1\1\1"),
        (IrqIndex.MSIX, IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_MASK, 0, 1, b""),
    ],
)
def test_interrupt_commands_that_make_no_sense(client, index, flags, start, count, data):
    with refused(errno.EINVAL):
        client.set_irqs(index, flags, start, count, data)


def test_interrupt_descriptors_must_be_as_many_eventfds_as_vectors(client, device, event, guest):
    with refused(errno.EINVAL):
        client.set_irqs(IrqIndex.MSIX, TRIGGER_FD, count=2, fds=[event])
    with refused(errno.EINVAL):
        client.set_irqs(IrqIndex.MSIX, TRIGGER_FD, fds=[guest.descriptor])
    assert not device.interrupts.uses_messages


def test_a_full_counter_stalls_nobody(client, device):
    full = os.eventfd(0, os.EFD_CLOEXEC)  # blocking, as a hostile client would have it
    os.eventfd_write(full, (1 << 64) - 2)
    client.set_irqs(IrqIndex.MSI, TRIGGER_FD, fds=[full])
    os.set_blocking(full, True)  # again: the flag is the file's, not the descriptor's
    device.interrupts.set_level(True)
    assert client.config_word(0) == 0x1234
    os.close(full)


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [True, False])
def test_dma_across_several_ranges(client, device, sealed):
    files = [memory_file(0x3000, sealed=sealed) for _ in range(2)]
    client.dma_map(0x10000, 0x2000, files[0], offset=0x1000)
    client.dma_map(0x12000, 0x1000, files[1], offset=0x2000)
    device.memory.write(0x11FFC, b"12345678")
    assert os.pread(files[0], 4, 0x2FFC) == b"1234"
    assert os.pread(files[1], 4, 0x2000) == b"5678"
    assert device.memory.read(0x11FFA, 12) == b"\0\x0012345678\0\0"
    assert device.memory.windows([(0x11FFC, 8)], writable=True) is None
    windows = device.memory.windows([(0x10000, 4), (0x12000, 4)], writable=True)
    if sealed:
        assert [bytes(window) for window in windows] == [bytes(4), b"5678"]
    else:
        assert windows is None
    for file in files:
        os.close(file)


def test_dma_outside_of_what_is_mapped(client, device, guest):
    client.dma_map(0x1000, 0x1000, guest.descriptor)
    client.dma_map(0x4000, 0x1000, guest.descriptor)
    for address, length in (
        (0xFFF, 2),
        (0x1FFF, 2),
        (0x3FFF, 1),
        (0x5000, 1),
        (0, 0),
        (0x1000, -1),
    ):
        with pytest.raises(DmaFault):
            device.memory.read(address, length)
        with pytest.raises(DmaFault):
            device.memory.windows([(address, length)], writable=False)
    with pytest.raises(DmaFault):
        device.memory.write(0x1FFF, b"ab")
    assert guest.view[0xFFF] == 0  # nothing of a write that crosses the end


def test_dma_rights(client, device, guest):
    client.dma_map(0, 0x1000, guest.descriptor, flags=1)
    client.dma_map(0x1000, 0x1000, guest.descriptor, flags=2)
    assert device.memory.read(0, 1) == b"\0"
    with pytest.raises(DmaFault, match="not to be written"):
        device.memory.write(0, b"x")
    with pytest.raises(DmaFault, match="not to be written"):
        device.memory.windows([(0, 1)], writable=True)
    device.memory.write(0x1000, b"x")
    with pytest.raises(DmaFault, match="not to be read"):
        device.memory.read(0x1000, 1)


def test_memory_that_a_client_truncates_is_a_fault(client, device):
    file = memory_file(0x2000, sealed=False)
    client.dma_map(0, 0x2000, file)
    device.memory.write(0x1000, b"there")
    os.ftruncate(file, 0x1000)
    with pytest.raises(DmaFault, match="truncated"):
        device.memory.read(0x1000, 5)
    with pytest.raises(DmaFault, match="truncated"):
        device.memory.write(0x1000, b"there")
    assert device.memory.read(0, 1) == b"\0"
    os.close(file)


def test_unmapping(client, device, guest):
    client.dma_map(0x1000, 0x1000, guest.descriptor)
    client.dma_map(0x2000, 0x1000, guest.descriptor)
    with refused(errno.ENOENT):
        client.dma_unmap(0x1000, 0x2000)
    with refused(errno.ENOENT):
        client.dma_unmap(0x1800, 0x800)
    assert client.dma_unmap(0x1000, 0x1000) == struct.pack("<IIQQ", 24, 0, 0x1000, 0x1000)
    with pytest.raises(DmaFault):
        device.memory.read(0x1000, 1)
    with refused(errno.ENOENT):
        client.dma_unmap(0x1000, 0x1000)
    with refused(errno.ENOTSUP):
        client.dma_unmap(0x2000, 0x1000, DmaUnmapFlags.GET_DIRTY_BITMAP)
    with refused(errno.EINVAL):
        client.dma_unmap(0x2000, 0x1000, DmaUnmapFlags.ALL)
    client.dma_unmap(0, 0, DmaUnmapFlags.ALL)
    assert len(device.memory) == 0


def test_ranges_that_cannot_be_mapped(client, device, guest, tmp_path):
    client.dma_map(0x10000, 0x10000, guest.descriptor)
    for address in (0x10000, 0xF000, 0x1F000):
        with refused(errno.EEXIST):
            client.dma_map(address, 0x2000, guest.descriptor)
    read_end, write_end = os.pipe()
    for address, size, descriptor, offset in (
        (0, 0, guest.descriptor, 0),
        ((1 << 64) - 4096, 8192, guest.descriptor, 0),
        (0x40000, guest.size + 4096, guest.descriptor, 0),
        (0x40000, 4096, guest.descriptor, guest.size),
        (0x40000, 4096, guest.descriptor, 1 << 63),
        (0x40000, 4096, guest.descriptor, 100),
        (0x40000, 4096, read_end, 0),
    ):
        with refused(errno.EINVAL):
            client.dma_map(address, size, descriptor, offset=offset)
    with refused(errno.EINVAL):
        client.call(
            Command.DMA_MAP,
            struct.pack("<IIQQQ", 32, 3, 0, 0x40000, 4096),
            [guest.descriptor, guest.descriptor],
        )
    assert len(device.memory) == 1
    os.close(read_end)
    os.close(write_end)


def test_the_number_of_ranges_is_bounded(device, server):
    for number in range(4096):
        device.memory.map(number * 4096, 4096, 3, None, 0)
    with Client.of(server) as client, refused(errno.ENOSPC):
        client.dma_map(1 << 40, 4096, None)


def test_how_much_is_mapped_is_bounded_and_the_rest_is_reached_by_calls(client, device):
    """A sparse file costs a client nothing; it must not use up the server's addresses."""
    size = 1 << 41
    sparse = memory_file(size)
    for number in range(3):
        client.dma_map(number * size, size, sparse)
    at = [number * size for number in range(3)]
    device.memory.write(at[2] + 5, b"late")
    assert device.memory.read(at[0] + 5, 4) == b"late"
    views = [device.memory.windows([(address, 4)], writable=True) for address in at]
    assert [view is None for view in views] == [False, False, True]
    client.dma_unmap(at[0], size)  # which makes room
    client.dma_map(at[0], size, sparse)
    assert device.memory.windows([(at[0], 4)], writable=True) is not None
    os.close(sparse)


def test_too_many_descriptors_end_the_connection(server, client, guest):
    before = len(os.listdir("/proc/self/fd"))
    client.send(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, 4096), [guest.descriptor] * 20)
    with pytest.raises(ConnectionResetError):
        client.receive()
    assert len(os.listdir("/proc/self/fd")) == before - 1  # the server's end


def test_descriptors_that_nobody_asked_for_are_closed(server, client, guest):
    before = len(os.listdir("/proc/self/fd"))
    client.call(Command.DEVICE_GET_INFO, bytes(16), [guest.descriptor] * 3)
    client.send(Command.DEVICE_GET_INFO, bytes(16), [guest.descriptor], flags=MessageFlags.NO_REPLY)
    server.handle()
    assert len(os.listdir("/proc/self/fd")) == before


# --- the socket --------------------------------------------------------------------------------


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path, device):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Server(path, device):
        assert os.stat(path).st_mode & 0o777 == 0o600
        with pytest.raises(TransportUnavailable, match="somebody listens there"):
            Server(path, Registers())
    assert not path.exists()


def test_places_where_no_socket_can_be(tmp_path, device):
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(TransportUnavailable, match="is no socket"):
        Server(file, device)
    assert file.read_text() == "precious"
    with pytest.raises(TransportUnavailable, match="cannot serve"):
        Server(tmp_path / "none" / "s", device)
    with pytest.raises(TransportUnavailable, match="cannot serve"):
        Server(tmp_path / ("x" * 200), device)


def test_a_socket_that_somebody_else_made_since_is_left_alone(tmp_path, device):
    path = tmp_path / "s"
    server = Server(path, device)
    path.unlink()
    with Server(path, Registers()):
        server.close()
        assert path.exists()


def test_serve_runs_devices_between_messages_until_it_is_told_to_stop(tmp_path):
    devices = [Registers(), Registers()]
    read_end, write_end = os.pipe()
    with Server(tmp_path / "a", devices[0]) as a, Server(tmp_path / "b", devices[1]) as b:
        with Client(b.path, lambda: None) as client:
            client.send(Command.VERSION, struct.pack("<HH", 0, 0))
            devices[0].deadline = SYSTEM_CLOCK.monotonic_ns() + 1_000_000
            serve([a, b], lambda: devices[0].runs > 5 and b.messages == 1, read_end)
            assert select.select([client.end], [], [], 0)[0]
        devices[0].deadline = None
        os.write(write_end, b"x")
        turns = iter([False, True])
        serve([a, b], lambda: next(turns), read_end)
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("how", ["disabled", "connected to nothing", "client gone"])
def test_intx_is_used_again_when_msi_is_not(server, device, event, how):
    client = Client.of(server)
    client.set_irqs(IrqIndex.MSI, TRIGGER_FD, fds=(event,))
    device.interrupts.set_level(True)
    assert signals(event) == 1
    device.interrupts.set_level(False)
    if how == "client gone":
        client.close()
        server.handle()
        client = Client.of(server)
    client.set_irqs(IrqIndex.INTX, TRIGGER_FD, fds=(event,))
    if how == "disabled":
        client.set_irqs(IrqIndex.MSI, OFF, count=0)
    elif how == "connected to nothing":
        client.set_irqs(IrqIndex.MSI, TRIGGER_FD)
    device.interrupts.set_level(True)
    assert signals(event) == 1
    device.interrupts.set_level(True)
    assert signals(event) == 0  # it masked itself
    client.set_irqs(IrqIndex.INTX, UNMASK)
    assert signals(event) == 1
    client.close()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process have descriptors that select cannot be told of."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_serve_with_descriptors_beyond_what_select_takes(tmp_path):
    """A client may map so much that the next one of another device gets such a descriptor."""
    read_end, write_end = os.pipe()
    wake = fcntl.fcntl(read_end, fcntl.F_DUPFD_CLOEXEC, 1500)
    with Server(tmp_path / "s", Registers()) as server, Client(server.path, lambda: None) as client:
        client.send(Command.VERSION, struct.pack("<HH", 0, 0))
        serve([server], lambda: server.messages == 1, wake)
        big = struct.pack("<QII", 0, 0, 4096)
        while not server.writes_to():  # until it does not fit: then the server waits to write
            client.send(Command.REGION_READ, big)
            server.handle()
        client.end.recv(1 << 20)
        serve([server], lambda: not server.writes_to(), wake)
        os.write(write_end, b"x")
        turns = iter([False, True])
        serve([server], lambda: next(turns), wake)
        assert next(turns, None) is None
    for descriptor in (read_end, write_end, wake):
        os.close(descriptor)
