# SPDX-License-Identifier: Apache-2.0
"""The device for network messages: requests that end early, and receivers with bad memory."""

from __future__ import annotations

import pytest

from fakes.iop_rig import Reply, Rig
from fakes.network_books import network_disagreement
from i2o.frames import network_message as frames
from i2o.frames.header import DetailedStatus, ReqStatus
from i2o.frames.sgl import simple_sgl
from i2o.iop_emulator.ddm.network_message import BUFFERED, LOCAL, TID, NetworkMessageDdm
from i2o.iop_emulator.options import IopOptions

EVENT = 6
NOBUF = 0x10
ANY = frames.NetworkMessageOptions.ANY_SOURCE.value
TRY = frames.NetworkMessageOptions.TRY.value
SPACE = 4096
NOWHERE = 0x7000_0000


@pytest.fixture
def rig() -> Rig:
    return Rig(options=IopOptions(network_messages=SPACE))


def device(rig: Rig) -> NetworkMessageDdm:
    found = rig.iop.lct.devices[TID]
    assert isinstance(found, NetworkMessageDdm)
    return found


def send(rig: Rig, length: int = 12, **fields: int) -> list[Reply]:
    data = rig.buffer(bytes(32) + b"m" * length)
    asked = {"node": LOCAL, "event": EVENT, "length": length, **fields}
    layout = frames.NETWORK_MESSAGE_SEND
    size = 32 + length
    rig.post(
        layout.build(target_address=TID, **asked) + simple_sgl([(data.bus_address, size)], out=True)
    )
    return rig.replies()


def receive(rig: Rig, address: int | None = None, **fields: int) -> list[Reply]:
    place = rig.buffer(64).bus_address if address is None else address
    asked = {"event": EVENT, "length": 64, "options": ANY, **fields}
    layout = frames.NETWORK_MESSAGE_RECEIVE
    rig.post(layout.build(target_address=TID, **asked) + simple_sgl([(place, 64)], out=False))
    return rig.replies()


def test_a_message_is_not_lost_to_a_receiver_without_memory(rig: Rig) -> None:
    """The error is the receiver's, the sender is told that the message is buffered."""
    assert receive(rig, NOWHERE) == []
    receiver, sender = send(rig)
    assert receiver.status == (ReqStatus.ERROR_NO_DATA_TRANSFER, DetailedStatus.INVALID_PARAMETER)
    assert sender.status == (0, 0)
    assert frames.NETWORK_MESSAGE_SENT.unpack_from(sender.data).dl_event == BUFFERED
    (got,) = receive(rig)
    assert frames.NETWORK_MESSAGE_RECEIVED.unpack_from(got.data).length == 12


def test_the_next_receiver_gets_what_one_without_memory_could_not(rig: Rig) -> None:
    assert receive(rig, NOWHERE) == []
    assert receive(rig) == []
    _, good, _ = send(rig)
    assert good.status == (0, 0)
    assert device(rig)._mailbox.count == 0


def test_a_message_that_is_there_stays_for_others(rig: Rig) -> None:
    send(rig)
    (failed,) = receive(rig, NOWHERE)
    assert failed.status[0] == ReqStatus.ERROR_NO_DATA_TRANSFER
    (got,) = receive(rig, options=ANY | TRY)
    assert got.status == (0, 0)


@pytest.mark.parametrize("end", ["outbound init", "failure"])
@pytest.mark.parametrize("waits", ["receiver", "offer", "sender"])
def test_who_waited_is_forgotten_when_requests_end(rig: Rig, end: str, waits: str) -> None:
    if waits == "sender":
        send(rig, 3000)
        assert send(rig, 2000) == []
        assert send(rig, 12) == []
    elif waits == "offer":
        assert send(rig, message_flags=NOBUF) == []
    else:
        assert receive(rig) == []
    if end == "failure":
        rig.iop.fail()
    else:
        rig.init_outbound()
    rig.replies()
    assert network_disagreement(device(rig)) == ""
    assert device(rig)._mailbox.count == (waits == "sender")


def test_a_buffer_that_is_too_small_is_said_so_at_once(rig: Rig) -> None:
    (refused,) = receive(rig, length=65)
    assert refused.status == (
        ReqStatus.ERROR_NO_DATA_TRANSFER,
        DetailedStatus.MISSING_PARAMETER,
    )
    assert "needs a buffer of 65 bytes" in list(rig.iop.complaints)[-1]
