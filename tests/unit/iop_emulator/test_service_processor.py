# SPDX-License-Identifier: Apache-2.0
"""The service processor as its driver sees it: ports, frames, interrupts and dot commands."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.vfio_user_client import Client
from i2o.errors import RemoteFrameError
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.dot_command import DotCommand, DotType
from i2o.iop_emulator.service_processor import (
    EMPTY,
    FRAMES,
    HEARTBEAT,
    INBOUND_PORT,
    INTERRUPT_MASK,
    INTERRUPT_STATUS,
    MAX_KEPT,
    MAX_WAITING,
    OS_STATE,
    OUTBOUND_BIT,
    OUTBOUND_PORT,
    ServiceProcessor,
)
from i2o.transport.vfio_user import Server
from i2o.transport.vfio_user.messages import Command, IrqIndex, RegionIndex

PATH = b"\x08\x07"


class Slot:
    """A service processor in a slot, and a driver that does it right."""

    def __init__(self, folder: Path) -> None:
        self.control = folder / "control"
        self.device = ServiceProcessor(ControlSocket(str(self.control)))
        self.server = Server(folder / "s", self.device)
        self.client = Client.of(self.server)
        self.client.write32(INTERRUPT_MASK, 0)

    def send(self, message: bytes) -> int:
        mfa = self.client.read32(INBOUND_PORT)
        assert not mfa & 0xFF
        self.client.write(RegionIndex.BAR0, mfa, message)
        self.client.write32(INBOUND_PORT, mfa)
        return mfa

    def take(self) -> DotCommand | None:
        mfa = self.client.read32(OUTBOUND_PORT)
        if mfa == EMPTY:
            return None
        message = self.client.read(RegionIndex.BAR0, mfa, 4096)
        self.client.write32(OUTBOUND_PORT, mfa)
        return DotCommand.parse(message)

    def call(self, kind: int, path: bytes, data: bytes = b"") -> DotCommand | None:
        self.send(DotCommand(kind, path, data).message())
        assert self.device.run(0) is None
        return self.take()

    def say(self, line: str) -> dict[str, object]:
        with socket.socket(socket.AF_UNIX) as user:
            user.connect(str(self.control))
            user.sendall(line.encode() + b"\n")
            self.device.run(0)
            return dict(json.loads(user.recv(65536)))

    @property
    def complaints(self) -> list[str]:
        return list(self.device.complaints)

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self.device.close()


@pytest.fixture
def slot(tmp_path) -> Iterator[Slot]:
    slot = Slot(tmp_path)
    yield slot
    slot.close()
    assert not slot.control.exists()


# --- dot commands --------------------------------------------------------------------------------


def test_a_command_is_packed_behind_a_short_header():
    message = DotCommand(DotType.READ, b"\4\3\6", b"ab").message()
    assert message.hex(" ", 4) == "01000600 004000ff 00000000 02030200 00000403 06616200"
    assert DotCommand.parse(message) == DotCommand(2, b"\4\3\6", b"ab")
    assert DotCommand.parse(message + bytes(4000)) == DotCommand(2, b"\4\3\6", b"ab")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        bytes(17),
        bytes.fromhex("01000500 004000ff 00000000 02030200 00000403 06616200"),  # says less
        bytes.fromhex("01000600 004000ff 00000000 02030200 00000403 06"),  # is less
        bytes.fromhex("01ffffff 004000ff 00000000 02ffffff 0000") + bytes(4096),
    ],
)
def test_a_message_that_says_too_much_is_refused(message):
    with pytest.raises(RemoteFrameError, match="dot command"):
        DotCommand.parse(message)


# --- commands ------------------------------------------------------------------------------------


def test_what_is_written_can_be_read(slot):
    assert slot.call(DotType.READ, PATH) == DotCommand(DotType.RESPONSE, PATH)
    assert slot.call(DotType.WRITE, PATH, b"hello") == DotCommand(DotType.RESPONSE, PATH)
    assert slot.call(DotType.READ, PATH) == DotCommand(DotType.RESPONSE, PATH, b"hello")
    assert slot.call(DotType.WRITE_NEXT, PATH, b"again") == DotCommand(DotType.RESPONSE, PATH)
    assert slot.call(DotType.READ_NEXT, PATH) == DotCommand(DotType.RESPONSE, PATH, b"again")
    assert slot.call(DotType.READ, b"\1") == DotCommand(DotType.RESPONSE, b"\1")
    assert slot.device.commands == 6
    assert slot.complaints == []


def test_the_largest_command_fits_a_frame(slot):
    data = bytes(range(256)) * 15 + bytes(4096 - 12 - 6 - 2 - 3840)
    slot.call(DotType.WRITE, PATH, data)
    assert slot.call(DotType.READ, PATH).data == data


def test_the_driver_says_whether_the_system_is_up(slot):
    slot.call(DotType.WRITE, OS_STATE, b"\5")
    assert slot.device.is_up
    slot.call(DotType.WRITE, OS_STATE, b"\4")
    assert not slot.device.is_up


def test_a_heartbeat_comes_back_as_a_write(slot):
    assert slot.say("heartbeat") == {"ok": True}
    assert slot.take() == DotCommand(DotType.HEARTBEAT, HEARTBEAT)
    slot.call(DotType.WRITE, HEARTBEAT)
    assert slot.device.heartbeats == 1


@pytest.mark.parametrize("kind", [DotType.RESPONSE, DotType.EVENT, DotType.HEARTBEAT, 7, 255])
def test_what_is_no_command_is_not_answered(slot, kind):
    assert slot.call(kind, PATH) is None
    assert slot.complaints == [f"a dot command of type {int(kind)} is not answered"]


def test_a_broken_message_is_complained_about_and_its_frame_is_free(slot):
    for _ in range(FRAMES + 1):
        slot.send(bytes(64))
        slot.device.run(0)
    assert slot.take() is None
    assert "dot command" in slot.complaints[0]


def test_what_is_kept_is_bounded(slot):
    for number in range(MAX_KEPT + 1):
        slot.call(DotType.WRITE, number.to_bytes(3, "big"), b"x")
    assert slot.call(DotType.READ, (MAX_KEPT - 1).to_bytes(3, "big")).data == b"x"
    assert slot.call(DotType.READ, MAX_KEPT.to_bytes(3, "big")).data == b""
    slot.call(DotType.WRITE, bytes(3), b"new")
    assert slot.call(DotType.READ, bytes(3)).data == b"new"


# --- ports ---------------------------------------------------------------------------------------


def test_frames_go_round(slot):
    frames = {slot.client.read32(INBOUND_PORT) for _ in range(FRAMES)}
    assert len(frames) == FRAMES
    assert slot.client.read32(INBOUND_PORT) == EMPTY
    for mfa in frames:
        slot.client.write(RegionIndex.BAR0, mfa, DotCommand(DotType.READ, PATH).message())
        slot.client.write32(INBOUND_PORT, mfa)
    slot.device.run(0)
    for _ in frames:
        assert slot.take() is not None
    assert slot.take() is None
    assert {slot.client.read32(INBOUND_PORT) for _ in range(FRAMES)} == frames


def test_messages_wait_for_frames_of_the_host_in_order(slot):
    for number in range(FRAMES + 3):
        slot.device.event(bytes([number]))
    slot.device.run(0)
    held = [slot.client.read32(OUTBOUND_PORT) for _ in range(FRAMES)]
    assert slot.client.read32(OUTBOUND_PORT) == EMPTY
    slot.device.run(0)
    assert slot.client.read32(INTERRUPT_STATUS) == 0
    for mfa in held:
        slot.client.write32(OUTBOUND_PORT, mfa)
    slot.device.run(0)
    found = []
    while (told := slot.take()) is not None:
        found.append(told.data[0])
    assert found == list(range(FRAMES, FRAMES + 3))


def test_too_many_messages_push_the_oldest_out(slot):
    for number in range(MAX_WAITING + 5):
        slot.device.event(number.to_bytes(2, "big"))
    slot.device.run(0)
    assert slot.take().data == (5).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("port", "value"),
    [(INBOUND_PORT, 0x10000), (INBOUND_PORT, EMPTY), (INBOUND_PORT, 0x20000),
     (OUTBOUND_PORT, 0x20000), (OUTBOUND_PORT, EMPTY), (OUTBOUND_PORT, 0x10000),
     (OUTBOUND_PORT, 0x20004)],
)  # fmt: skip
def test_frames_that_the_host_does_not_hold_are_complained_about(slot, port, value):
    slot.client.write32(port, value)
    (sentence,) = slot.complaints
    assert sentence.startswith(f"{value:#010x} was ")
    assert slot.device.run(0) is None
    assert slot.call(DotType.READ, PATH) is not None


def test_a_port_is_written_as_a_word(slot):
    slot.client.write(RegionIndex.BAR0, INBOUND_PORT, b"\0\0")
    slot.client.write(RegionIndex.BAR0, OUTBOUND_PORT, bytes(8))
    assert len(slot.complaints) == 2
    assert slot.client.read(RegionIndex.BAR0, INBOUND_PORT, 8) == bytes(8)
    assert slot.client.read32(INBOUND_PORT) == 0x10000  # none was taken


def test_the_rest_of_the_bar_is_memory(slot):
    for offset, data in ((0x3F7, b"\x5a"), (0xAC004, bytes(4)), (0xFFFFC, b"last"), (0x0, b"12")):
        slot.client.write(RegionIndex.BAR0, offset, data)
        assert slot.client.read(RegionIndex.BAR0, offset, len(data)) == data


# --- interrupts ----------------------------------------------------------------------------------


def test_the_line_follows_messages_and_mask(slot):
    levels: list[bool] = []
    slot.device.regions[0].connect(levels.append)
    slot.device.event(b"1")
    slot.device.event(b"2")
    slot.device.run(0)
    assert slot.client.read32(INTERRUPT_STATUS) == OUTBOUND_BIT
    slot.client.write32(INTERRUPT_MASK, 0x18)
    assert (levels[-1], slot.client.read32(INTERRUPT_MASK)) == (False, 0x18)
    assert slot.client.read32(INTERRUPT_STATUS) == OUTBOUND_BIT
    slot.client.write32(INTERRUPT_MASK, 0x10)
    assert levels[-1]
    slot.take()
    assert levels[-1]  # one is left
    slot.take()
    assert not levels[-1]
    assert slot.client.read32(INTERRUPT_STATUS) == 0


def test_interrupts_are_masked_at_power_on_and_are_intx(slot):
    slot.client.call(Command.DEVICE_RESET)
    assert slot.client.read32(INTERRUPT_MASK) == OUTBOUND_BIT
    assert slot.server.session.interrupts.info(IrqIndex.INTX)[1] == 1
    assert slot.server.session.interrupts.info(IrqIndex.MSI)[1] == 0
    assert slot.client.read(RegionIndex.CONFIG, 0, 4) == bytes.fromhex("14100f01")


# --- the end of a host ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "client gone"])
def test_nothing_of_a_host_is_left(slot, how):
    slot.call(DotType.WRITE, OS_STATE, b"\5")
    slot.call(DotType.WRITE, PATH, b"secret")
    slot.device.event(b"late")
    slot.client.read32(INBOUND_PORT)
    if how == "reset":
        slot.client.call(Command.DEVICE_RESET)
    else:
        slot.client.close()
        slot.server.handle()
        slot.client = Client.of(slot.server)
    assert not slot.device.is_up
    slot.device.run(0)
    assert slot.take() is None
    assert slot.call(DotType.READ, PATH).data == b""
    assert slot.client.read(RegionIndex.BAR0, 0x20000 + 4096, 4096) == bytes(4096)
    assert slot.device.commands == 3


# --- the control socket --------------------------------------------------------------------------


def test_an_operator_sees_and_sends(slot):
    slot.call(DotType.WRITE, OS_STATE, b"\5")
    assert slot.say("status") == {
        "ok": True,
        "up": True,
        "commands": 1,
        "heartbeats": 0,
        "kept": {"040306": "05"},
        "complaints": [],
    }
    assert slot.say("event 68690a") == {"ok": True}
    assert slot.take() == DotCommand(DotType.EVENT, b"", b"hi\n")
    assert slot.device.filenos()[0] in slot.server.reads_from()


@pytest.mark.parametrize(
    "line", ["", "help", "status now", "heartbeat x", "event", "event xyz", "event 00 00",
             "event " + "00" * 3000]
)  # fmt: skip
def test_an_operator_is_told_what_there_is(slot, line):
    answer = slot.say(line or "nothing")
    assert not answer["ok"]
    assert "status, heartbeat, event HEX" in str(answer["error"])
    assert slot.take() is None


def test_without_a_control_socket(tmp_path):
    device = ServiceProcessor()
    assert device.filenos() == ()
    assert device.run(0) is None
    device.close()
