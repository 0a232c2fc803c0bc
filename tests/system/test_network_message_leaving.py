# SPDX-License-Identifier: Apache-2.0
"""What a node has sent arrives, also when it is closed right after, or its program is busy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from i2o.network_message import Node, Received, nmsg
from i2o.transport.registry import open_endpoint
from i2o.transport.tcp.carrier import TcpCarrier

EVENT = 6
SIZE = 60_000
PATIENCE_S = 60

OPENERS: dict[str, Callable[[], object]] = {
    "carrier": TcpCarrier,
    "endpoint": lambda: open_endpoint("tcp://127.0.0.1:0"),
}


class Receiver:
    """A node with a thread that receives messages, one after the other."""

    def __init__(self, opener: Callable[[], object], count: int) -> None:
        self.node = Node(2, opener())  # type: ignore[arg-type]
        self.got: list[tuple[Received, bytes]] = []
        self._count = count
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        process = self.node.attach("receiver")
        for _ in range(self._count):
            header = nmsg(nh_event=EVENT, nh_msg=bytearray(SIZE))
            received = process.nrecv(header, timeout_s=PATIENCE_S)
            self.got.append((received, bytes(header.nh_msg[:16])))

    def end(self) -> list[tuple[Received, bytes]]:
        self._thread.join()
        self.node.close()
        return self.got


@pytest.fixture(params=OPENERS)
def opener(request: pytest.FixtureRequest) -> Callable[[], object]:
    return OPENERS[request.param]


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_a_message_arrives_although_its_sender_leaves_at_once(
    opener: Callable[[], object],
) -> None:
    """The connection is not even made when nsend returns."""
    receiver = Receiver(opener, 1)
    with Node(1, opener()) as one:  # type: ignore[arg-type]
        one.add_node(2, receiver.node.address)
        one.attach("sender").nsend(nmsg(nh_node=2, nh_event=EVENT, nh_msg=b"m" * SIZE))
    assert receiver.end() == [((1, SIZE, SIZE, 0), b"m" * 16)]


def test_more_than_a_socket_takes_arrives_too(opener: Callable[[], object]) -> None:
    receiver = Receiver(opener, 40)
    with Node(1, opener()) as one:  # type: ignore[arg-type]
        one.add_node(2, receiver.node.address)
        process = one.attach("sender")
        for number in range(40):
            body = bytes([number]) * SIZE
            message = nmsg(nh_node=2, nh_event=EVENT, nh_msg=body)
            process.nsend(message, timeout_s=PATIENCE_S)
    assert [body[0] for _, body in receiver.end()] == list(range(40))


def test_somebody_who_never_answers_does_not_keep_a_node_open(silent: str) -> None:
    one = Node(1, TcpCarrier(), linger_s=0.05)
    one.add_node(2, silent)
    one.attach("sender").nsend(nmsg(nh_node=2, nh_event=EVENT, nh_msg=b"m"))
    one.close()
    one.close()


def test_a_thread_in_the_background_drives_a_node_between_calls(
    opener: Callable[[], object],
) -> None:
    """Neither node makes a call after nsend, and yet the message is there."""
    with (
        Node(1, opener(), background=True) as one,  # type: ignore[arg-type]
        Node(2, opener(), background=True) as two,  # type: ignore[arg-type]
    ):
        one.add_node(2, two.address)
        one.attach("sender").nsend(nmsg(nh_node=2, nh_event=EVENT, nh_msg=b"m" * SIZE))
        pause = threading.Event()
        while not two._mailbox.count:
            pause.wait(0.001)
        (row,) = two.attach("receiver").listing()
        assert (row.source, row.length) == (1, SIZE)
        assert one.waits() == two.waits() == []


def test_calls_work_beside_the_thread() -> None:
    with Node(1, TcpCarrier(), background=True) as one, Node(2, TcpCarrier()) as two:
        one.add_node(2, two.address)
        two.add_node(1, one.address)

        def answer() -> None:
            process = two.attach("second")
            for _ in range(50):
                header = nmsg(nh_event=EVENT, nh_msg=bytearray(16))
                process.nrecv(header, timeout_s=PATIENCE_S)
                process.nsend(nmsg(nh_node=1, nh_event=EVENT), timeout_s=PATIENCE_S)

        thread = threading.Thread(target=answer)
        thread.start()
        process = one.attach("first")
        for _ in range(50):
            process.nsend(nmsg(nh_node=2, nh_event=EVENT, nh_msg=b"?"), timeout_s=PATIENCE_S)
            process.nrecv(nmsg(nh_event=EVENT), timeout_s=PATIENCE_S)
        thread.join()


def test_a_node_that_is_alone_needs_no_thread() -> None:
    with Node(1, background=True) as node:
        assert not [thread for thread in threading.enumerate() if thread.name == "i2o-node-1"]
        assert node.waits() == []
