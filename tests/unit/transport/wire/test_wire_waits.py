# SPDX-License-Identifier: Apache-2.0
"""A host sends on as credits come in, and a server that is to end waits for no host."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pytest

from fakes.memory_endpoints import MemoryEndpoint, MemoryMedium
from i2o.capture import I2O_RULES
from i2o.frames.block_storage import BSA_BLOCK_WRITE
from i2o.frames.sgl import simple_sgl
from i2o.transport.fabric.endpoint import Message
from i2o.transport.port import EMPTY
from i2o.transport.wire.messages import HELLO, MIN_PACKET, PACKET, VERSION, WELCOME, Kind
from i2o.transport.wire.stream import HEAD_SIZE
from i2o.transport.wire.wire_port import WirePort
from i2o.transport.wire.wire_server import WireServer
from i2o.transport.wire.wire_unit import WireUnit

SESSION = 7
WINDOW = 2
SIZE = 40_000


class StrictServer:
    """Welcomes a host, and gives each packet back at once: never more than two are on their way."""

    def __init__(self, medium: MemoryMedium, packet_size: int) -> None:
        self.endpoint: MemoryEndpoint = medium.endpoint("server")
        self.endpoint.enable()
        medium.on_message = self._on_message
        self.content = bytearray()
        self._packet_size, self._number = packet_size, 0

    def _on_message(self, source: str, dest: str, data: bytes) -> Sequence[bytes]:
        if dest == "host":
            return [data]
        session = PACKET.unpack_from(data, 0).session
        if not session:
            self._say(self._welcome(HELLO.unpack_from(data, HEAD_SIZE + 1).token), 0)
        else:
            self.content += data[HEAD_SIZE:]
            self._say(b"", 1)
        return []

    def _say(self, content: bytes, credits: int) -> None:
        head = PACKET.build(session=SESSION, number=self._number, credits=credits)
        self._number = self._number + 1 & 0xFF
        self.endpoint.sendmsg(Message([head + content], self.endpoint.insert("host")))

    def _welcome(self, token: int) -> bytes:
        return bytes((Kind.WELCOME,)) + WELCOME.build(
            version=VERSION,
            window=WINDOW,
            packet_size=self._packet_size,
            token=token,
            frame_count=4,
            frame_size=512,
            push_limit=SIZE,
        )


@pytest.mark.parametrize("packet_size", [MIN_PACKET, 4096])
def test_one_look_sends_all_that_credits_come_in_for(packet_size: int) -> None:
    medium = MemoryMedium(max_msg_size=packet_size)
    server = StrictServer(medium, packet_size)
    with ExitStack() as opened:
        opened.callback(server.endpoint.queue.close)
        port = opened.enter_context(
            WirePort(medium.endpoint("host"), "server", name="wire:host", connect_s=1.0)
        )
        port.learn(I2O_RULES)
        buffer = port.memory.allocate(SIZE)
        buffer.view[:] = bytes(range(250)) * (SIZE // 250)
        sgl = simple_sgl([(buffer.bus_address, SIZE)], out=True)
        frame = BSA_BLOCK_WRITE.build(
            target_address=0x10,
            message_size=(BSA_BLOCK_WRITE.size + len(sgl)) // 4,
            transfer_byte_count=SIZE,
        )
        descriptor = port.fileno()
        mfa = port.alloc()
        port.write(mfa, frame + sgl)
        port.post(mfa)
        assert len(server.content) < SIZE, "it takes more packets than there were credits for"
        assert port.reap() == EMPTY
        assert server.content.count(buffer.view) == 1
        assert server.content.endswith(frame + sgl)
        assert not select.select([descriptor], [], [], 0)[0], "nothing is left to look at"
        buffer.free()


class SteppedClock:
    """A clock that passes when somebody sleeps.

    Attributes:
        naps: how often somebody did.
    """

    def __init__(self, on_sleep: Callable[[int], None] = lambda count: None) -> None:
        self._now, self._on_sleep, self.naps = 0.0, on_sleep, 0

    def monotonic(self) -> float:
        return self._now

    def monotonic_ns(self) -> int:
        return round(self._now * 1e9)

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        self.naps += 1
        self._on_sleep(self.naps)

    spin = sleep


class NothingBehind:
    def run(self, now_ns: int) -> int | None:
        return None

    def power_cycle(self) -> None: ...

    def filenos(self) -> tuple[int, ...]:
        return ()


def test_a_server_that_is_to_end_waits_for_no_host() -> None:
    stopped: list[int] = []
    clock = SteppedClock(lambda count: stopped.append(count) if count == 3 else None)
    with WireServer(
        MemoryMedium().endpoint("server"),
        WireUnit(),
        NothingBehind(),
        clock=clock,
        should_stop=lambda: bool(stopped),
    ) as server:
        assert not server.unit.wait_for(lambda: False)
        assert clock.naps == 3
        assert server.unit.wait_for(lambda: True), "what is there counts nevertheless"


def test_a_host_has_half_a_minute_to_answer() -> None:
    clock = SteppedClock()
    with WireServer(
        MemoryMedium().endpoint("server"), WireUnit(), NothingBehind(), clock=clock
    ) as server:
        assert not server.unit.wait_for(lambda: False)
        assert 29.9 < clock.monotonic() < 30.1
