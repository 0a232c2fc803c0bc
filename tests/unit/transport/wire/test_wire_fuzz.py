# SPDX-License-Identifier: Apache-2.0
"""Mutated packets for either half: no error but the one that ends the session, bounded memory."""

from __future__ import annotations

import os
import random

import pytest

from i2o.errors import RemoteFrameError
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.remote_iop import RemoteIop
from i2o.transport.bus_space import BusSpace
from i2o.transport.uri import Uri
from i2o.transport.wire.host_half import HostHalf, Terms
from i2o.transport.wire.messages import (
    DEVICE_KINDS,
    HOST_KINDS,
    LAYOUTS,
    MAX_GATHERED,
    TEXT_UNITS,
    WELCOME,
    WINDOW,
    Kind,
    record_packer,
)
from i2o.transport.wire.stream import Head, StreamWriter
from i2o.transport.wire.wire_unit import PUSH_LIMIT

COUNT = 50_000 if os.environ.get("I2O_TESTS_FULL") == "1" else 5_000
_WIDTHS = {"B": 8, "H": 16, "I": 32}
_LIKELY = (0, 1, 2, 3, 4, 5, 16, 64, 0x1000, 0x100000, 0x100200, 0xFFFF, 0xFFFFFFFF)


def a_record(rng: random.Random, kind: Kind, addresses: list[int]) -> bytes:
    """Return a record whose fields are mostly plausible."""
    formats = record_packer(kind).format[2:]
    fields = []
    for letter in formats:
        value = rng.choice((*_LIKELY, *addresses, rng.randrange(1 << 32)))
        fields.append(value & (1 << _WIDTHS[letter]) - 1)
    data = b""
    if kind in TEXT_UNITS:
        fields[-1] = rng.choice((0, 4, 5, 8, fields[-1]))
        data = rng.randbytes(min(4096, fields[-1] * TEXT_UNITS[kind]))
    elif LAYOUTS[kind].fields and LAYOUTS[kind].fields[-1].path == "length":
        fields[-1] = rng.choice((0, 1, 100, 4096, fields[-1]))
        data = rng.randbytes(min(5000, fields[-1]))
    return record_packer(kind).pack(kind, *fields) + data


def mutated(rng: random.Random, packet: bytes) -> bytes:
    """Return bytes of which some are changed, cut or doubled."""
    changed = bytearray(packet)
    for _ in range(rng.choice((0, 0, 1, 1, 3))):
        if not changed:
            break
        place = rng.randrange(len(changed))
        how = rng.randrange(3)
        if how == 0:
            changed[place] = rng.randrange(256)
        elif how == 1:
            del changed[place:]
        else:
            changed[place:place] = changed[: rng.randrange(20)]
    return bytes(changed)


def drained(writer: StreamWriter) -> None:
    """Take what is to be sent, and give the credits back."""
    count = 0
    while (packet := writer.next_packet()) is not None:
        for sent in packet.sent:
            sent()
        count += len(packet.buffers) > 1 or len(packet.buffers[0]) > 4
    if count:
        writer.credit(count)


@pytest.mark.parametrize("seed", [1, 2])
def test_packets_for_a_host(seed: int) -> None:
    rng, done = random.Random(seed), 0
    kinds = sorted(DEVICE_KINDS)
    ended = 0
    while done < COUNT:
        memory = BusSpace()
        buffers = [memory.allocate(4096) for _ in range(3)]
        addresses = [buffer.bus_address for buffer in buffers]
        welcome = WELCOME.new(
            version=1, window=16, packet_size=4096, frame_count=8, frame_size=64, push_limit=4096
        )
        half = HostHalf(Terms(welcome), StreamWriter(1, 16, 4096, 4), memory, lambda sentence: None)
        for buffer in buffers:
            half.release(buffer.bus_address)
        for number in range(200):
            done += 1
            body = b"".join(a_record(rng, rng.choice(kinds), addresses) for _ in range(3))
            try:
                half.take(Head(1, number & 0xFF, 0), memoryview(mutated(rng, body)))
            except RemoteFrameError:
                ended += 1
                break
            mfa = half.alloc()
            if mfa != 0xFFFFFFFF:
                half.write(mfa, rng.randbytes(64))
                half.post(mfa)
            if (mfa := half.reap()) != 0xFFFFFFFF:
                memory.window(mfa, 4)
                half.release(mfa)
            half.settle()
            drained(half.writer)
            assert half.writer.gathered <= MAX_GATHERED
    assert ended > COUNT / 1000


@pytest.mark.parametrize("seed", [1, 2])
def test_packets_for_a_device(seed: int) -> None:
    rng, done = random.Random(seed), 0
    kinds = sorted(HOST_KINDS)
    ended = 0
    with RemoteIop.from_options(EmuOptions.from_uri(Uri.parse("emu:?frames=16"))) as iop:
        unit = iop.unit
        while done < COUNT:
            iop.power_cycle()
            writer = StreamWriter(1, WINDOW, 4096, 4)
            unit.begin(writer)
            for number in range(200):
                done += 1
                body = b"".join(
                    a_record(rng, rng.choice(kinds), [unit.generation, 0x200000]) for _ in range(3)
                )
                try:
                    unit.take(Head(1, number & 0xFF, 0), memoryview(mutated(rng, body)))
                except RemoteFrameError:
                    ended += 1
                    break
                iop.run(done)
                unit.settle()
                drained(writer)
                assert unit._pushed <= PUSH_LIMIT
                assert writer.gathered <= MAX_GATHERED
                assert unit.posted_inbound() <= 16
            unit.end()
    assert ended > COUNT / 1000
