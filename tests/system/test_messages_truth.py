# SPDX-License-Identifier: Apache-2.0
"""Captures of endpoints against what really happened: random traffic, and a remote IOP."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import i2o
from fakes.wire_station import WireStation
from i2o.capture import captured
from i2o.decode.conversation import MESSAGE, Conversation, Traced
from i2o.decode.payload_followers import payload_followers
from i2o.decode.wire_payload import WirePayload
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.environment import captured_endpoint
from i2o.transport.capture.message_record import Kind
from i2o.transport.capture.packet import Channel
from i2o.transport.capture.reader import open_capture
from i2o.transport.fabric.endpoint import CompletionQueue, Endpoint, Message
from i2o.transport.fabric.errors import ErrorAvailable, TryAgain
from i2o.transport.fabric.flags import Bind, Flag
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint
from i2o.transport.registry import open_port

STEPS = 3000


def trace_of(path: Path) -> list[Traced]:
    conversation = Conversation(payload_followers())
    with open_capture(str(path)) as packets:
        traced = [conversation.feed(packet) for packet in packets]
        assert not packets.problems
        assert not packets.dropped
    return traced


class End:
    """One end of random traffic, and what really happened there."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.cq: CompletionQueue = endpoint.open_cq()
        endpoint.bind(self.cq, Bind.TRANSMIT | Bind.RECV)
        endpoint.enable()
        self.sent: list[tuple[int | None, int | None, bytes]] = []
        self.received: list[tuple[int | None, int | None, bytes]] = []
        self.failed: Counter[int] = Counter()
        self.ended: list[object] = []
        self.peer = 0

    def send(self, rng: random.Random) -> None:
        payload = rng.randbytes(rng.choice((0, 1, 64, 500, 5000)))
        tag = rng.randrange(4) if rng.random() < 0.7 else None
        data = rng.randrange(1 << 64) if rng.random() < 0.3 else None
        context = len(self.sent)
        message = Message([payload[:40], payload[40:]], self.peer, context, data or 0, tag or 0)
        flags = Flag(0) if data is None else Flag.REMOTE_CQ_DATA
        try:
            if tag is None:
                self.endpoint.sendmsg(message, flags | Flag.COMPLETION)
            else:
                self.endpoint.tsendmsg(message, flags | Flag.COMPLETION)
        except TryAgain:
            return
        self.sent.append((tag, data, payload))

    def receive(self, rng: random.Random) -> None:
        buffer = bytearray(rng.choice((64, 6000)))
        if rng.random() < 0.3:
            self.endpoint.recv(buffer, context=buffer)
        else:
            ignore = rng.choice((0, 3))
            self.endpoint.trecv(buffer, rng.randrange(4), ignore, context=buffer)

    def look(self) -> None:
        while True:
            try:
                entries = self.cq.read(8)
            except TryAgain:
                return
            except ErrorAvailable:
                self.failed[self.cq.readerr().err] += 1
                continue
            for entry in entries:
                if entry.flags & Flag.RECV:
                    assert isinstance(entry.context, bytearray)
                    self.received.append(
                        (
                            entry.tag if entry.flags & Flag.TAGGED else None,
                            entry.data if entry.flags & Flag.REMOTE_CQ_DATA else None,
                            bytes(entry.context[: entry.length]),
                        )
                    )
                else:
                    self.ended.append(entry.context)


def test_random_traffic_is_what_the_capture_says(tmp_path: Path) -> None:
    rng = random.Random(20261126)
    path, fabric = tmp_path / "a.pcapng", MemoryFabric()
    with CaptureFile(path, payload_bytes=6000, queue_bytes=1 << 28) as file:
        ends = [
            End(captured_endpoint(SoftwareEndpoint(fabric.carrier(name)), file, f"mem://{name}"))
            for name in ("a", "b")
        ]
        for one, other in (ends, reversed(ends)):
            one.peer = one.endpoint.insert(other.endpoint.name)
        for _ in range(STEPS):
            end = rng.choice(ends)
            rng.choice((end.send, end.receive, end.receive, lambda rng, end=end: end.look()))(rng)
        for end in ends * 3:
            end.look()
        for end in ends:
            end.endpoint.close()
        for end in ends:
            end.look()
            end.cq.close()
    traced = trace_of(path)
    for number, end in enumerate(ends):
        mine = [one for one in traced if one.packet.iop == number]
        sends = [one for one in mine if one.record and one.record.kind == Kind.SEND]
        assert [_said(one) for one in sends] == end.sent
        received = [one for one in mine if one.record and one.record.kind == Kind.RECEIVED]
        assert [_said(one) for one in received] == end.received
        done = [one for one in mine if one.record and one.record.kind == Kind.SENT]
        places = {one.index: at for at, one in enumerate(sends)}
        assert [places[one.request.index] for one in done if one.request] == end.ended
        assert len(done) == len(end.ended)
        failures = Counter(
            one.record.err
            for one in mine
            if one.record and one.record.kind in (Kind.SEND_FAILED, Kind.RECEIVE_FAILED)
        )
        assert failures == end.failed
        assert len(end.sent) > 100
        assert len(end.received) > 100
        assert set(end.failed) > {265}  # truncated ones; and those that were posted at the end


def _said(one: Traced) -> tuple[int | None, int | None, bytes]:
    assert one.record is not None
    return one.record.tag, one.record.cq_data, one.record.payload


def test_the_frames_of_a_remote_iop_are_those_in_its_messages(tmp_path: Path) -> None:
    """One file with the port, the host's endpoint and the server's: all say the same."""
    path, fabric = tmp_path / "a.pcapng", MemoryFabric()

    with CaptureFile(path, payload_bytes=1 << 18, queue_bytes=1 << 28) as file:

        class Medium:
            def endpoint(self, name: str) -> Endpoint:
                made = SoftwareEndpoint(fabric.carrier(name))
                return captured_endpoint(made, file, f"mem://{name}")

            def kill(self, name: str) -> None: ...

        with (
            WireStation("emu:", Medium()) as station,
            i2o.open(captured(station.port(), file)) as iop,
            iop.block() as disk,
        ):
            disk.write(0, bytes(range(256)) * 512)
            assert disk.read(0, 1 << 17) == bytes(range(256)) * 512
    traced = trace_of(path)
    frames = [one for one in traced if one.packet.channel <= Channel.OUT]
    wanted = {
        channel: [one.frame for one in frames if one.packet.channel == channel]
        for channel in (Channel.IN, Channel.OUT)
    }
    assert len(wanted[Channel.IN]) > 15
    for endpoint in (0, 1):
        inner = [
            frame
            for one in traced
            if one.packet.channel == Channel.MESSAGE and one.packet.iop == endpoint
            for frame in _frames_in(one)
        ]
        for channel, data in wanted.items():
            found = [frame.frame for frame in inner if frame.packet.channel == channel]
            assert found == data, (endpoint, channel)
        replies = [frame for frame in inner if frame.packet.channel == Channel.OUT]
        assert all(frame.request is not None for frame in replies)
    complaints = [
        one.payload.packet.complaint
        for one in traced
        if one.kind == MESSAGE and isinstance(one.payload, WirePayload)
    ]
    assert set(complaints) == {""}


def _frames_in(one: Traced) -> list[Traced]:
    if not isinstance(one.payload, WirePayload):
        return []
    return list(one.payload._frames.values())


def test_a_port_without_endpoints_has_no_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with CaptureFile(path) as file:
        i2o.open(captured(open_port("emu:"), file)).close()
    assert {one.kind for one in trace_of(path)} == {"request", "reply", "dma"}
