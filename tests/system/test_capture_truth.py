# SPDX-License-Identifier: Apache-2.0
"""A capture of bring-up and block I/O against what really happened.

The truth about each reply comes from the OSM: every request reads another number of bytes, which
its reply repeats, so that even requests with the same contexts can be told apart.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from i2o.capture import capture
from i2o.decode.conversation import DMA, REPLY, REQUEST, Conversation, Traced
from i2o.decode.frame import extra_nodes
from i2o.frames.block_storage import BSA_BLOCK_READ
from i2o.frames.params import DEVICE_IDENTITY
from i2o.frames.sgl import simple_sgl
from i2o.message_frames import ReplyFrame
from i2o.message_layer import MessageLayer
from i2o.parameters import get_group
from i2o.requester import Requester
from i2o.tools.cli import main
from i2o.transport.capture.reader import open_capture

PLAN = """
seed = 5
[[fault]]
on = "BSA_READ"
probability = 0.5
action = "delay"
ms = 3
[[fault]]
on = "BSA_READ"
every = 17
action = "fail"
"""


def trace_of(path: Path) -> list[Traced]:
    conversation = Conversation()
    with open_capture(str(path)) as packets:
        traced = [conversation.feed(packet) for packet in packets]
        assert not packets.problems
        assert not packets.dropped
    assert conversation.unanswered() == 0
    return traced


@pytest.fixture
def disk_image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(1 << 20))
    return path


@pytest.mark.parametrize("run", ["inline", "thread"])
@pytest.mark.parametrize("contexts", [1, 1000], ids=["contexts repeat", "contexts differ"])
def test_every_reply_finds_its_request(
    tmp_path: Path, disk_image: Path, run: str, contexts: int
) -> None:
    plan, path = tmp_path / "plan.toml", tmp_path / "capture.pcapng"
    plan.write_text(PLAN)
    answered: list[tuple[int, int]] = []  # (bytes asked for, bytes moved), in order of replies
    with MessageLayer() as layer:
        port = capture(f"emu:?disk={disk_image}&faults={plan}&run={run}", path)
        iop = layer.attach(port)
        tid = layer.result(iop).lct.devices[-1].tid
        memory = [port.memory.allocate(512 * (index + 1)) for index in range(200)]

        def replied(number: int, reply: ReplyFrame) -> None:
            if not reply[1] & 0x20:
                answered.append((reply.transfer_count, reply.req_status))
            layer.free_reply(number, reply)

        _, (cookie,) = layer.register([replied])
        for index in range(200):
            size = 512 * (index + 1)
            sgl = simple_sgl([(memory[index].bus_address, size)], out=False)
            head = BSA_BLOCK_READ.build(
                target_address=tid,
                initiator_context=cookie,
                transaction_context=index % contexts,
                transfer_byte_count=size,
                message_size=8 + len(sgl) // 4,
            )
            layer.submit(iop, head + sgl, 100_000, 0)
            if index % 20 == 19:
                assert layer.run_until(lambda: not layer.outstanding(iop), 10)
        layer.detach(iop)
    traced = trace_of(path)
    reads = [one for one in traced if one.kind == REPLY and one.name == "bsa_block_read"]
    done = [reply for reply in reads if not reply.flags & 0x20]
    assert len(reads) == 200
    assert 5 < len(reads) - len(done) < 20
    asked = [int.from_bytes(_request(reply).packet.data[20:24], "little") for reply in done]
    assert [(size, 0) for size in asked] == answered
    assert asked != sorted(asked)  # they did come out of order
    assert len({_request(reply).index for reply in reads}) == 200
    for reply in reads:
        assert reply.latency_ns == reply.packet.time_ns - _request(reply).packet.time_ns > 0
    data = {one.request: one for one in traced if one.kind == DMA and one.request is not None}
    image = disk_image.read_bytes()
    for reply in done:
        captured = data[_request(reply)].packet.data
        assert captured == image[: len(captured)]
        assert len(captured) >= 500


def _request(reply: Traced) -> Traced:
    assert reply.request is not None
    return reply.request


def test_tables_parameters_and_disk_data_are_decoded(
    tmp_path: Path, disk_image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "capture.pcapng"
    with MessageLayer() as layer:
        port = capture(f"emu:?disk={disk_image}", path)
        iop = layer.attach(port)
        tid = layer.result(iop).lct.devices[-1].tid
        with Requester(layer, iop) as requester:
            get_group(requester, port.memory, tid, DEVICE_IDENTITY)
        devices = layer.result(iop).lct.devices
        layer.detach(iop)
    nodes = {}
    for traced in trace_of(path):
        assert traced.kind in (REQUEST, REPLY, DMA)
        for node in extra_nodes(traced):
            assert not list(node.problems())
            nodes[node.name] = node
    assert {"status_block", "hrt", "lct", "system_table", "operations", "results"} <= set(nodes)
    entries = nodes["lct"].json()["entries"]  # type: ignore[index, call-overload]
    assert [entry["local_tid"] for entry in entries] == [device.tid for device in devices]
    assert "device_identity" in json.dumps(nodes["results"].json())

    assert main(["dump", "-r", str(path), "--json"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    replies = [one for one in objects if one["type"] == "reply"]
    assert replies
    for reply in replies:
        request = objects[reply["reply_to"]]
        assert request["type"] == "request"
        assert request["function"] == reply["function"]
        assert reply["latency"] == pytest.approx(reply["t"] - request["t"], abs=1e-9)
