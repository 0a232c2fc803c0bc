# SPDX-License-Identifier: Apache-2.0
"""Machines that lose one another: partition, loss in one direction, a dead first address."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from fakes.messengers import OPTIONS, QUICK, Ends
from fakes.two_machines import TwoMachines, why_not
from i2o.clock import SYSTEM_CLOCK
from i2o.transport.tcp.address import Address
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.peer_name import PeerName

_REASON = why_not()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=str(_REASON))

KEY = PeerKey(b"two machines and a cable")
IMPATIENT = replace(
    OPTIONS,
    come_back_s=60.0,
    peer=replace(
        QUICK,
        connect_timeout_s=0.1,
        handshake_timeout_s=0.2,
        keepalive_idle_s=0.1,
        keepalive_timeout_s=0.2,
    ),
)
PATIENCE_S = 30.0


class Office:
    """A messenger on each machine, driven in turn."""

    def __init__(self, machines: TwoMachines, answers: bool = False) -> None:
        self.machines = machines
        self.messengers: list[Messenger] = []
        self.got: list[list[bytes]] = [[], []]
        for index in range(2):
            with machines.inside(index):
                messenger = Messenger(
                    PeerName(1, index),
                    (Address("0.0.0.0", 0),),
                    key=KEY,
                    options=IMPATIENT,
                )
            self.messengers.append(messenger)
            messenger.recv_nb(
                lambda message, got=self.got[index]: got.append(message.data), persistent=True
            )
        for index in range(2):
            other = self.messengers[1 - index]
            port = other.address.rpartition(":")[2]
            self.messengers[index].set_peer(
                other.name, [f"tcp://{machines.address(1 - index)}:{port}"]
            )

    def drive(self, until: Callable[[], object]) -> None:
        deadline = SYSTEM_CLOCK.monotonic() + PATIENCE_S
        while not until():
            self.turn()
            assert SYSTEM_CLOCK.monotonic() < deadline, "it never came to that"

    def turn(self) -> None:
        for index, messenger in enumerate(self.messengers):
            with self.machines.inside(index):
                messenger.progress(0.001)

    def send(self, index: int, data: bytes, ends: Ends) -> None:
        with self.machines.inside(index):
            self.messengers[index].send_nb(PeerName(1, 1 - index), [data], 1, ends)

    def losses(self, index: int) -> int:
        return self.messengers[index].peers()[0].losses

    def close(self) -> None:
        for messenger in self.messengers:
            messenger.close()


@pytest.fixture
def machines() -> Iterator[TwoMachines]:
    with TwoMachines() as made:
        yield made


@pytest.fixture
def office(machines: TwoMachines) -> Iterator[Office]:
    made = Office(machines)
    yield made
    made.close()


@pytest.mark.parametrize("silent", [(0, 1), (0,), (1,)], ids=["both", "there", "back"])
def test_what_is_sent_during_a_loss_arrives_once_when_it_is_over(
    office: Office, silent: tuple[int, ...]
) -> None:
    ends = Ends()
    for number in range(3):
        office.send(0, b"%d" % number, ends)
        office.send(1, b"%d" % number, ends)
    office.drive(lambda: len(ends) == 6)
    for index in silent:
        office.machines.lose(index)
    for number in range(3, 6):
        office.send(0, b"%d" % number, ends)
        office.send(1, b"%d" % number, ends)
    office.drive(lambda: office.losses(0) + office.losses(1))  # noticed, in bounded time
    for index in silent:
        office.machines.heal(index)
    office.drive(lambda: len(ends) == 12)
    assert set(ends.errors) == {None}
    wanted = [b"%d" % number for number in range(6)]
    assert office.got == [wanted, wanted]


def test_a_dead_first_address(machines: TwoMachines, office: Office) -> None:
    machines.lose(0, (98,))
    port = office.messengers[1].address.rpartition(":")[2]
    with machines.inside(0):
        office.messengers[0].close()
        fresh = Messenger(PeerName(1, 0), (Address("0.0.0.0", 0),), key=KEY, options=IMPATIENT)
    office.messengers[0] = fresh
    fresh.set_peer(
        PeerName(1, 1), [f"tcp://{machines.address(1, network)}:{port}" for network in (98, 99)]
    )
    ends = Ends()
    office.send(0, b"x", ends)
    office.drive(lambda: len(ends))
    assert ends.errors == [None]
    status = fresh.peers()[0]
    assert status.failed_attempts == 1
    assert machines.address(1) in status.addresses[0]
