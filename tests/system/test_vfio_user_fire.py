# SPDX-License-Identifier: Apache-2.0
"""The vfio-user server under fire: whatever a client sends, the next client is served."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
from pathlib import Path

import pytest

from fakes.vfio_user_client import Client, Guest, packed
from i2o.clock import SYSTEM_CLOCK
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.options import IopOptions
from i2o.iop_emulator.pci_function import IopFunction
from i2o.transport.vfio_user import Server
from i2o.transport.vfio_user.messages import Command, IrqIndex

CASES = 20_000
EDGES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 32, 255, 0x1000, 0xFFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


class Target:
    """An IOP on a socket, and the means to count what it holds."""

    def __init__(self, folder: Path) -> None:
        self.function = IopFunction(
            IopOptions(), [MemoryDisk(1 << 16)], None, frames=16, frame_size=128,
            clock=SYSTEM_CLOCK, settle_ns=0,
        )  # fmt: skip
        self.server = Server(folder / "s", self.function)

    def work(self) -> None:
        """Let the server do all it can, as `serve` would."""
        while True:
            busy = self.server.handle()
            deadline = self.function.run(SYSTEM_CLOCK.monotonic_ns())
            if not busy and (deadline is None or deadline > SYSTEM_CLOCK.monotonic_ns()):
                return

    def close(self) -> None:
        self.server.close()
        self.function.close()


@pytest.fixture
def target(tmp_path):
    target = Target(tmp_path)
    yield target
    target.close()


@pytest.fixture
def guest():
    guest = Guest(1 << 16)
    yield guest
    guest.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def conversation(event: int, guest: Guest) -> list[tuple[int, bytes, list[int]]]:
    """What QEMU and a driver say: greeting, memory, interrupts, registers, a StatusGet."""
    status_get = struct.pack("<HHIIIIIII", 0x0001, 9, 0xA0001000, 0, 0, 0, 0, 0x2000, 0)
    frame = status_get + struct.pack("<I", 88)

    def access(offset: int, region: int, data: bytes | int) -> bytes:
        if isinstance(data, int):
            return struct.pack("<QII", offset, region, data)
        return struct.pack("<QII", offset, region, len(data)) + data

    word = struct.pack
    return [
        (Command.VERSION, word("<HH", 0, 0) + b'{"capabilities":{"max_msg_fds":8}}\0', []),
        (Command.DEVICE_GET_INFO, bytes(16), []),
        (Command.DEVICE_GET_REGION_INFO, word("<IIIIQQ", 32, 0, 0, 0, 0, 0), []),
        (Command.DEVICE_GET_IRQ_INFO, word("<IIII", 16, 0, 0, 0), []),
        (Command.DMA_MAP, word("<IIQQQ", 32, 3, 0, 0, guest.size), [guest.descriptor]),
        (Command.DEVICE_SET_IRQS, word("<IIIII", 20, 0x24, IrqIndex.INTX, 0, 1), [event]),
        (Command.REGION_WRITE, access(4, 7, b"\x06\x00"), []),
        (Command.REGION_READ, access(0x30, 0, 4), []),
        (Command.REGION_READ, access(0x40, 0, 4), []),
        (Command.REGION_WRITE, access(0x1000, 0, frame), []),
        (Command.REGION_WRITE, access(0x40, 0, word("<I", 0x1000)), []),
        (Command.REGION_WRITE, access(0x44, 0, word("<I", 0x3000)), []),
        (Command.REGION_READ, access(0x44, 0, 4), []),
        (Command.REGION_WRITE, access(0x34, 0, word("<I", 0xFF)), []),
        (Command.REGION_WRITE_MULTI, word("<QQII8s", 1, 0x34, 0, 4, b""), []),
        (Command.DEVICE_SET_IRQS, word("<IIIII", 20, 0x11, IrqIndex.INTX, 0, 1), []),
        (Command.DMA_UNMAP, word("<IIQQ", 24, 0, 0, guest.size), []),
        (Command.DEVICE_RESET, b"", []),
    ]


def mutated(chance: random.Random, message: bytes) -> bytes:
    """Change one or two words or bytes, cut the message, or let it grow."""
    changed = bytearray(message)
    for _ in range(chance.choice((1, 1, 2))):
        kind = chance.random()
        place = chance.randrange(len(changed)) if changed else 0
        if kind < 0.5 and len(changed) >= 4:
            place = place // 4 * 4
            place = min(place, len(changed) - 4)
            value = chance.choice((*EDGES, chance.getrandbits(32)))
            changed[place : place + 4] = struct.pack("<I", value)
        elif kind < 0.75 and changed:
            changed[place] ^= 1 << chance.randrange(8)
        elif kind < 0.9:
            del changed[place:]
        else:
            changed += chance.randbytes(chance.randrange(1, 64))
    return bytes(changed)


def assert_served(target: Target) -> None:
    with Client.of(target.server) as client:
        client._pump = target.work
        assert client.config_word(0) == target.function.identity.vendor_id
        assert client.read32(0x40) == 0x1000
    target.work()
    assert not target.server.has_client


@pytest.mark.untraced
def test_mutated_messages(target, guest, capsys):
    """Each case is a conversation with one message that is wrong."""
    seed = int(os.environ.get("I2O_FUZZ_SEED", "7"))
    chance = random.Random(seed)
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    whole = conversation(event, guest)
    assert_served(target)
    before = open_files()
    broken = 0
    for number in range(CASES):
        at = chance.randrange(len(whole))
        with Client.of(target.server, greet=False) as client:
            for place, (command, payload, files) in enumerate(whole[: at + 1]):
                message = packed(place, command, payload)
                if place == at:
                    message = mutated(chance, message)
                    files = chance.choice((files, [], [guest.descriptor], [event, event]))
                if message:
                    socket.send_fds(client.end, [message], files)
            try:
                target.work()
            except Exception:
                with capsys.disabled():
                    print(f"\ncase {number} of seed {seed}: command {command}, {message.hex()}")
                raise
            broken += not target.server.has_client
        target.work()
        assert not target.server.has_client
        assert open_files() == before, f"case {number} of seed {seed} leaks descriptors"
        assert len(target.server.session.memory) == 0
    assert CASES // 50 < broken < CASES  # some ended the connection, most did not
    assert_served(target)
    os.close(event)


def test_a_client_that_is_gone_at_every_byte(target, guest):
    """The conversation breaks off after each of its bytes."""
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    messages = [
        (packed(place, command, payload), files)
        for place, (command, payload, files) in enumerate(conversation(event, guest))
    ]
    before = open_files()
    for at, (last, last_files) in enumerate(messages):
        for length in range(len(last) + 1):
            with Client.of(target.server, greet=False) as client:
                for message, files in messages[:at]:
                    socket.send_fds(client.end, [message], files)
                if length:
                    socket.send_fds(client.end, [last[:length]], last_files)
                target.work()
            target.work()
            assert open_files() == before
    assert_served(target)
    os.close(event)


def test_a_guest_that_comes_back_finds_a_fresh_iop(target, guest):
    """StatusGet by hand, twice, by two clients: bring-up begins at the beginning each time."""
    for _ in range(2):
        with Client.of(target.server) as client:
            client._pump = target.work
            client.dma_map(0, guest.size, guest.descriptor)
            client.config_word(4, 0x0006)
            event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            client.set_irqs(IrqIndex.INTX, 0x24, fds=[event])
            mfa = client.read32(0x40)
            assert mfa == 0x1000
            guest.view[0x2000:0x2058] = bytes(88)
            request = struct.pack("<HHIIIIIIII", 0x0001, 10, 0xA0001000, 0, 0, 0, 0, 0x2000, 0, 88)
            client.write(0, mfa, request)
            client.write32(0x40, mfa)
            target.work()
            assert guest.view[0x2000 + 87] == 0xFF
            assert not select.select([event], [], [], 0)[0]
            os.close(event)
        target.work()
