# SPDX-License-Identifier: Apache-2.0
"""A software IOP on PCI as its driver sees it: through a vfio-user client, with time by hand."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.pci_driver import BASE, DATA, INBOUND, OUTBOUND, PciDriver, read_of, write_of
from fakes.vfio_user_client import Client, Guest
from i2o.clock import ManualClock
from i2o.errors import DmaFault, TransportUnavailable, UriError
from i2o.frames import block_storage as bsa
from i2o.frames import executive
from i2o.frames.tables import STATUS_BLOCK, IopState
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.pci_function import SETTLE_NS, IopFunction, MasteredMemory
from i2o.transport.port import EMPTY
from i2o.transport.uri import Uri
from i2o.transport.vfio_user import Server
from i2o.transport.vfio_user.messages import Command, IrqIndex, IrqSetFlags

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=0x010)
PAGE = 0x200


def status_get() -> bytes:
    return executive.EXEC_STATUS_GET.build(
        reply_buffer_address_low=BASE + PAGE, reply_buffer_length=STATUS_BLOCK.size
    )


class Slot:
    """An IOP, its server, and a driver."""

    def __init__(self, folder: Path, query: str = "") -> None:
        self.clock = ManualClock()
        options = EmuOptions.from_uri(Uri.parse(f"emu:?{query}" if query else "emu:"))
        self.iop = IopFunction.from_options(options, self.clock)
        self.server = Server(folder / "iop.sock", self.iop)
        self.guest = Guest()
        self.client = Client.of(self.server)
        self.driver = PciDriver(self.client, self.guest, self.run)

    def run(self) -> int | None:
        """Let time pass until everything has settled, and run."""
        self.clock.advance(SETTLE_NS / 1e9)
        return self.iop.run(self.clock.monotonic_ns())

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self.iop.close()
        self.guest.close()

    @property
    def complaints(self) -> list[str]:
        return list(self.iop.soft_iop.complaints)


@pytest.fixture
def plug(tmp_path) -> Iterator[Callable[..., Slot]]:
    slots: list[Slot] = []

    def plug(query: str = "") -> Slot:
        slots.append(Slot(tmp_path, query))
        return slots[-1]

    yield plug
    for slot in slots:
        slot.close()


@pytest.fixture
def slot(plug) -> Slot:
    return plug()


@pytest.fixture
def up(slot) -> Slot:
    slot.driver.bring_up()
    return slot


@pytest.fixture
def event() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def signals(descriptor: int) -> int:
    try:
        return os.eventfd_read(descriptor)
    except BlockingIOError:
        return 0


# --- what it is ----------------------------------------------------------------------------------


def test_it_is_an_i2o_controller_with_one_bar(slot):
    config = slot.client.read(7, 0, 64)
    assert config[0:4] == bytes.fromhex("86806219")
    assert config[8:12] == bytes.fromhex("0101000e")  # revision, FIFO with interrupt registers
    slot.client.write(7, 0x10, b"\xff" * 4)
    assert slot.client.read(7, 0x10, 4) == (0x100000000 - (1 << 20)).to_bytes(4, "little")
    info, _, (descriptor,) = slot.client.region_info(0)
    os.close(descriptor)
    assert info[4] == 1 << 20
    assert slot.client.region_info(1)[0][4] == 0


def test_data_goes_through_its_disk(up):
    up.guest.view[DATA : DATA + 4096] = bytes(range(256)) * 16
    assert up.driver.call(write_of(4096, at=8192))[19] == 0
    reply = up.driver.call(read_of(4096, BASE + 2 * DATA, at=8192))
    assert bsa.BSA_SUCCESS_REPLY.unpack_from(reply).transfer_count == 4096
    assert up.guest.view[2 * DATA : 2 * DATA + 4096] == bytes(range(256)) * 16
    assert up.complaints == []


# --- time ----------------------------------------------------------------------------------------


def test_a_request_is_served_some_time_after_its_doorbell(up):
    up.driver.post(CHECK)
    began = up.clock.monotonic_ns()
    assert up.iop.run(began) == began + SETTLE_NS
    assert up.driver.reap() is None
    assert up.iop.run(began + SETTLE_NS - 1) == began + SETTLE_NS
    assert up.driver.reap() is None
    assert up.iop.run(began + SETTLE_NS) is None
    assert up.driver.reap()[19] == 0


def test_of_a_hundred_requests_none_is_forgotten(plug):
    slot = plug()
    slot.driver.bring_up(replies=128)
    for number in range(100):
        slot.driver.post(CHECK[:12] + number.to_bytes(4, "little") + CHECK[16:])
    deadline = slot.run()
    assert deadline is not None  # one run has a budget
    assert deadline <= slot.clock.monotonic_ns()
    assert slot.iop.run(deadline) is None
    found = []
    while (reply := slot.driver.reap()) is not None:
        found.append(int.from_bytes(reply[12:16], "little"))
    assert found == list(range(100))


def test_an_iop_that_crashed_asks_for_no_run(up):
    """Or its server would do nothing else."""
    up.iop.soft_iop.crash()
    up.driver.post(CHECK)
    assert up.run() is None
    assert up.run() is None


def test_a_timer_of_the_iop_and_a_settling_request_share_the_deadline(plug, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "bsa_status_check"\naction = "delay"\nms = 1\n')
    slot = plug(f"faults={plan}")
    slot.driver.bring_up()
    slot.driver.post(CHECK)
    slot.clock.advance(SETTLE_NS / 1e9)
    now = slot.clock.monotonic_ns()
    assert slot.iop.run(now) == now + 1_000_000
    slot.driver.post(CHECK)
    assert slot.iop.run(now) == now + SETTLE_NS
    slot.clock.advance(0.001)
    slot.run()
    assert slot.driver.reap()[19] == 0


# --- the bus -------------------------------------------------------------------------------------


def test_without_bus_mastering_nothing_of_the_host_is_touched(up):
    up.driver.master(False)
    up.guest.view[PAGE : PAGE + 4] = b"same"
    up.driver.post(status_get())
    up.run()
    assert up.guest.view[PAGE : PAGE + 4] == b"same"
    up.driver.post(CHECK)
    up.run()
    assert up.driver.reap() is None
    assert all("set bit 2 of the PCI command register" in sentence for sentence in up.complaints)
    assert len(up.complaints) >= 2
    up.driver.master()
    up.driver.post(status_get())
    up.run()
    block = STATUS_BLOCK.unpack_from(up.guest.view, PAGE)
    assert block.iop_state == IopState.OPERATIONAL


def test_memory_that_is_not_connected_is_out_of_reach():
    memory = MasteredMemory()
    for access in (
        lambda: memory.read(0x5000, 4),
        lambda: memory.write(0x5000, b"1234"),
        lambda: memory.windows([(0x5000, 4), (0x6000, 4)], writable=True),
    ):
        with pytest.raises(DmaFault, match=r"0x00005000.*no bus master"):
            access()
    with pytest.raises(DmaFault, match="no bus master"):
        memory.windows([], writable=False)


def test_dma_outside_of_the_mappings_is_an_error_and_not_the_end(up):
    reply = up.driver.call(read_of(4096, 0xDEAD0000))
    assert reply[19] != 0
    assert any("0xdead0000" in sentence for sentence in up.complaints)
    assert up.driver.call(CHECK)[19] == 0


def test_memory_that_is_unmapped_is_out_of_reach(up):
    up.client.dma_unmap(BASE, up.guest.size)
    up.driver.post(CHECK)
    up.run()
    assert up.driver.client.read32(OUTBOUND) == EMPTY
    assert any("no memory there" in sentence for sentence in up.complaints)


# --- interrupts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [IrqIndex.INTX, IrqIndex.MSI])
def test_a_reply_makes_one_interrupt(up, event, index):
    up.client.set_irqs(index, IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER, fds=(event,))
    up.driver.post(CHECK)
    assert signals(event) == 0
    up.run()
    up.iop.run(up.clock.monotonic_ns())
    assert signals(event) == 1
    assert up.client.config_word(6) & 0x08
    up.driver.reap()
    if index == IrqIndex.INTX:
        up.client.set_irqs(index, IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_UNMASK)
    assert signals(event) == 0
    assert not up.client.config_word(6) & 0x08
    up.driver.post(CHECK)
    up.run()
    assert signals(event) == 1


def test_a_masked_reply_makes_none(up, event):
    flags = IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER
    up.client.set_irqs(IrqIndex.MSI, flags, fds=(event,))
    up.client.write32(0x34, 0x08)
    up.driver.post(CHECK)
    up.run()
    assert signals(event) == 0
    up.client.write32(0x34, 0)
    assert signals(event) == 1


# --- resets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "client gone"])
def test_a_reset_is_a_power_cycle(up, how):
    up.iop.soft_iop.crash()
    up.client.write32(0x10, 0x1234)
    up.client.write32(0x34, 0xFF)
    up.driver.post(CHECK)
    for _ in range(5):
        up.client.read32(INBOUND)
    if how == "reset":
        up.client.call(Command.DEVICE_RESET)
    else:
        up.client.close()
        up.server.handle()
        up.client = Client.of(up.server)
        up.driver = PciDriver(up.client, up.guest, up.run)
    assert up.iop.soft_iop.state == IopState.RESET
    assert [up.client.read32(offset) for offset in (0x10, 0x34, OUTBOUND)] == [0, 0, EMPTY]
    assert up.iop.unit.idle_inbound() == 128
    assert up.iop.unit.held_by_host() == 0
    assert up.run() is None  # what was posted is gone
    up.driver.bring_up()
    assert up.driver.call(CHECK)[19] == 0


# --- the control socket --------------------------------------------------------------------------


def test_commands_are_run_between_requests(plug, tmp_path):
    slot = plug(f"control={tmp_path}/control")
    slot.driver.bring_up()
    (descriptor,) = slot.iop.filenos()
    assert descriptor in slot.server.reads_from()
    with socket.socket(socket.AF_UNIX) as user:
        user.connect(f"{tmp_path}/control")
        user.setblocking(False)
        user.sendall(b"fail\n")
        slot.driver.post(CHECK)
        slot.run()
        assert json.loads(user.recv(4096)) == {"ok": True, "state": "FAILED"}
        assert slot.driver.reap()[19] == 0  # it was posted before
        user.sendall(b"crash\npower-cycle\n")
        for _ in range(3):
            slot.run()
        answers = [json.loads(line) for line in user.recv(4096).splitlines()]
        assert answers[-1] == {"ok": True, "state": "RESET"}


def test_without_a_control_socket_only_clients_are_read(slot):
    assert slot.iop.filenos() == ()


# --- options -------------------------------------------------------------------------------------


def test_options_are_those_of_uris(plug, tmp_path):
    disk = tmp_path / "disk.img"
    slot = plug(f"disk={disk},create=4M&frames=3&frame_size=256&iop_id=9")
    found = [slot.client.read32(INBOUND) for _ in range(4)]
    assert found == [0x1000, 0x1100, 0x1200, EMPTY]
    assert slot.iop.soft_iop.options.iop_id == 9
    (device,) = slot.iop.soft_iop.bay.devices.values()
    assert device.store.size == 4 << 20


def test_a_control_socket_that_cannot_be_made_leaves_no_disk_open(tmp_path):
    query = f"disk={tmp_path}/d,create=1M&control={tmp_path}/no/such/place"
    with pytest.raises(TransportUnavailable, match="control socket"):
        IopFunction.from_options(EmuOptions.from_uri(Uri.parse(f"emu:?{query}")), ManualClock())


def test_a_fault_plan_that_cannot_be_read_is_an_error(tmp_path):
    options = EmuOptions.from_uri(Uri.parse(f"emu:?faults={tmp_path}/none"))
    with pytest.raises(UriError):
        IopFunction.from_options(options, ManualClock())
