# SPDX-License-Identifier: Apache-2.0
"""A system of IOPs under one message layer: the host's table is what lets them connect."""

from __future__ import annotations

import random

import pytest

from i2o.errors import UriError
from i2o.frames import block_storage as bsa
from i2o.frames import executive as x
from i2o.frames import utility
from i2o.frames.header import FailureCode
from i2o.iop import Iop
from i2o.iop_emulator.emu_port import EmuPort
from i2o.iop_emulator.iop_system import IopSystem
from i2o.message_layer import MessageLayer
from i2o.requester import Requester

DISK = 0x010


def alias(layer: MessageLayer, number: int, peer: int) -> int:
    """Connect two attached IOPs; return the TID on the first of the disk on the second."""
    peer_id = layer.port(peer).soft_iop.executive.iop_id
    with Requester(layer, number) as requester:
        reply = requester.call(x.EXEC_IOP_CONNECT.build(iop_id1=peer_id))
        executive = x.EXEC_IOP_CONNECT_REPLY.unpack_from(reply).iop2_alias_for_iop1
        reply = requester.call(
            x.EXEC_CONN_SETUP.build(
                target_address=executive,
                object_info_target_device=DISK,
                object_info_initiator_device=1,
            )
        )
        told = x.EXEC_CONN_SETUP_REPLY.unpack_from(reply)
        tid: int = told.alias_info_iop1_alias_for_target_device
        return tid


@pytest.mark.parametrize("run", ["inline", "thread"])
def test_a_disk_of_one_iop_is_read_through_another(run):
    system = IopSystem()
    with MessageLayer() as layer:
        first, second, third = (
            layer.attach(EmuPort.in_system(f"emu:?run={run}", system)) for _ in range(3)
        )
        tid = alias(layer, first, second)
        back = alias(layer, second, third)
        layer.refresh(first)
        layer.refresh(second)
        text = b"from the first".ljust(512)
        with Iop(layer, first).block(tid) as disk:
            with Iop(layer, second).block(back) as other:
                other.write(0, bytes(512))
            disk.write(4096, text)
            disk.flush()
            view = memoryview(bytearray(512))
            layer.port(second).soft_iop.bay.disk(DISK).store.read_into(4096, [view])
            assert bytes(view) == text
            layer.detach(third)
            assert disk.read(4096, 512) == text
        layer.detach(second)
        with Requester(layer, first) as requester:
            reply = requester.call(bsa.BSA_STATUS_CHECK.build(target_address=tid))
            assert reply.failed
            assert reply[19] == FailureCode.ROUTING_FAILURE
        unit = layer.port(first).unit
        assert layer.run_until(lambda: unit.idle_inbound() == unit.frame_count, 5)


def test_requests_in_flight_to_an_iop_that_is_detached_end_once(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "BSA_STATUS_CHECK"\naction = "drop"\n')
    system = IopSystem()
    with MessageLayer() as layer:
        first = layer.attach(EmuPort.in_system("emu:", system))
        second = layer.attach(EmuPort.in_system(f"emu:?faults={plan}", system))
        tid = alias(layer, first, second)
        seen: list[int] = []
        with Requester(layer, first) as requester:
            for _ in range(5):
                requester.start(
                    bsa.BSA_STATUS_CHECK.build(target_address=tid),
                    on_reply=lambda reply: seen.append(reply[19]),
                )
            layer.poll()
            assert seen == []
            layer.detach(second)
            assert layer.run_until(lambda: len(seen) >= 5, 5)
        assert seen == [8] * 5


def test_an_iop_in_a_process_is_in_no_system():
    with pytest.raises(UriError, match="in one process"):
        EmuPort.in_system("emu:?run=process", IopSystem())


def test_a_closed_port_leaves_the_system():
    system = IopSystem()
    port = EmuPort.in_system("emu:?iop_id=7", system)
    assert system.find(7) is not None
    port.close()
    assert system.find(7) is None


def burst(layer: MessageLayer, here: int, there: int, chance: random.Random) -> None:
    """Send some requests over, perhaps reset an IOP, and see each request end once."""
    tid = alias(layer, here, there)
    messages = [
        bsa.BSA_STATUS_CHECK.build(target_address=tid),
        bsa.BSA_MEDIA_VERIFY.build(target_address=tid, byte_count=1 << 20),
        utility.UTIL_ABORT.build(target_address=tid, abort_type=3),
        utility.UTIL_LOCK.build(target_address=tid),
    ]
    seen: list[int] = []
    count = chance.randrange(1, 40)
    with Requester(layer, here) as requester:
        for _ in range(count):
            requester.start(chance.choice(messages), on_reply=lambda reply: seen.append(reply[19]))
        layer.poll(chance.randrange(20))
        if chance.random() < 0.6:
            layer.bring_up(chance.choice(layer.iop_numbers()))
        assert layer.run_until(lambda: len(seen) >= count, 20)
    assert len(seen) == count


@pytest.mark.parametrize("run", ["inline", "thread"])
@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_reset_in_between_every_request_ends_once(tmp_path, run, seed):
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "BSA_STATUS_CHECK"\naction = "delay"\nms = 1\nevery = 3\n')
    uri = f"emu:?run={run}&faults={plan}&disk={tmp_path}/"
    system, chance = IopSystem(), random.Random(seed)
    with MessageLayer() as layer:
        ports = [EmuPort.in_system(f"{uri}{name},create=1M", system) for name in "abc"]
        numbers = [layer.attach(port) for port in ports]
        for _ in range(12):
            burst(layer, *chance.sample(numbers, 2), chance)
        assert [layer.counters(number).unexpected for number in numbers] == [0, 0, 0]
        units = [port.unit for port in ports]
        assert layer.run_until(
            lambda: all(unit.idle_inbound() == unit.frame_count for unit in units), 5
        )
