# SPDX-License-Identifier: Apache-2.0
"""What nodes do when their medium has no room, refuses, or can be looked at without the lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.node_net import NodeNet
from fakes.shm_pair import CARRIED, carry
from i2o.network_message import Node, nmsg
from i2o.network_message.errors import NodeDied
from i2o.transport.fabric.errors import FabricError
from i2o.transport.shm.carrier import ShmCarrier


def to(number: int, event: int) -> nmsg:
    return nmsg(nh_node=number, nh_event=event, nh_msg=b"%d" % event)


def waiting(net: NodeNet, number: int) -> list[int]:
    net.drive()
    return [row.event for row in net.nodes[number].listing()]


@pytest.fixture
def net() -> Iterator[NodeNet]:
    """Two nodes that know one another already, so that messages go the short way."""
    with NodeNet() as made:
        made.process(1).nsend(to(2, 0))
        made.process(2).nsend(to(1, 0))
        made.drive()
        for node in made.nodes.values():
            node.sweep()
        yield made


class Medium:
    """Stands between the links of a node and what they send with.

    Attributes:
        answers: what the next sends end with, before they reach the real medium again.
        sent: how many packets did.
    """

    def __init__(self, node: Node) -> None:
        links = node._links
        assert links is not None
        self._send, self.answers, self.sent = links._send, list[Exception | bool](), 0
        links._send = self.send

    def send(self, handle: int, packet: tuple[bytes]) -> bool:
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        self.sent += 1
        return self._send(handle, packet)


def test_what_finds_no_room_leaves_later_and_in_order(net: NodeNet) -> None:
    medium = Medium(net.nodes[1])
    medium.answers = [False]
    process = net.process(1)
    for event in (1, 2, 3):  # the second one may not overtake the first one
        process.nsend(to(2, event))
    assert medium.sent == 0
    assert waiting(net, 2) == [1, 2, 3]
    assert medium.sent == 3


def test_a_refusal_ends_the_acquaintance_with_a_node(net: NodeNet) -> None:
    medium = Medium(net.nodes[1])
    medium.answers = [FabricError(5, "it broke")]
    process = net.process(1)
    links = net.nodes[1]._links
    assert links is not None
    process.nsend(to(2, 1))
    assert (links.peers[2].epoch, links.peers[2].own_session) == (1, 0)
    assert waiting(net, 2) == []
    process.nsend(to(2, 2))  # introduces them once more
    assert waiting(net, 2) == [2]


def test_a_refusal_of_what_had_to_wait_ends_it_as_well(net: NodeNet) -> None:
    medium = Medium(net.nodes[1])
    medium.answers = [False, FabricError(5, "it broke")]
    process = net.process(1)
    process.nsend(to(2, 1))
    process.nsend(to(2, 2))
    assert waiting(net, 2) == []
    process.nsend(to(2, 3))
    assert waiting(net, 2) == [3]


def test_whoever_waits_for_a_node_hears_that_it_cannot_be_asked(net: NodeNet) -> None:
    medium = Medium(net.nodes[1])
    medium.answers = [FabricError(5, "it broke")]
    with pytest.raises(NodeDied, match="it broke"):
        net.nodes[1].ping(2, timeout_s=20)


@pytest.mark.parametrize("carried", CARRIED)
def test_a_node_that_spins_lets_its_carrier_look(
    carried: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    carry(carried, monkeypatch)
    looks: list[int] = []
    linger = ShmCarrier.linger

    def count(self: Any, nanoseconds: int) -> None:
        looks.append(nanoseconds)
        linger(self, nanoseconds)

    monkeypatch.setattr(ShmCarrier, "linger", count)
    with (
        Node(1, ShmCarrier("one"), spin_s=20) as one,
        Node(2, ShmCarrier("two"), spin_s=20) as two,
    ):
        one.add_node(2, two.address)
        two.add_node(1, one.address)
        got: list[bytes] = []

        def answer() -> None:
            process = two.attach()
            for _ in range(50):
                asked = nmsg(nh_event=1, nh_msg=bytearray(8))
                process.nrecv(asked, timeout_s=20)
                body = bytes(asked.nh_msg[: asked.nh_length])
                process.nsend(nmsg(nh_node=1, nh_event=2, nh_msg=body))

        thread = threading.Thread(target=answer)
        thread.start()
        process = one.attach()
        for number in range(50):
            process.nsend(nmsg(nh_node=2, nh_event=1, nh_msg=b"%d" % number))
            back = nmsg(nh_event=2, nh_msg=bytearray(8))
            process.nrecv(back, timeout_s=20)
            got.append(bytes(back.nh_msg[: back.nh_length]))
        thread.join()
    assert got == [b"%d" % number for number in range(50)]
    assert looks
    assert set(looks) == {20_000}
