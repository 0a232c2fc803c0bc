# SPDX-License-Identifier: Apache-2.0
"""Network messages over an IOP: the host's side and the device together."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator

import pytest

import i2o
from i2o.errors import RequestFailed, UriError
from i2o.frames import network_message as frames
from i2o.frames.functions import Function
from i2o.frames.network_message import NetworkMessageStatus
from i2o.frames.utility import UTIL_PARAMS_GET
from i2o.iop import Iop
from i2o.network_message import DINT4MSG, LOCAL, NOBUF, ORIGIN, IopNode, Process, nmsg
from i2o.network_message.conversion import IS_BIG_ENDIAN
from i2o.network_message.errors import (
    BadDescriptor,
    BadNode,
    MessageTooLong,
    NetworkMessageError,
    NodeDied,
    NotAttached,
    Swept,
    TimedOut,
    WouldBlock,
)
from i2o.replies import raise_for_status

EVENT = 6
URI = "emu:?network_messages=64K"
WORDS = (1, -2, 3, 4, 5, 6, 7, 8)


@pytest.fixture
def iop() -> Iterator[Iop]:
    with i2o.open(URI) as iop:
        yield iop


@pytest.fixture
def node(iop: Iop) -> Iterator[IopNode]:
    with IopNode(iop) as node:
        yield node


@pytest.fixture
def process(node: IopNode) -> Process:
    return node.attach("p")


def to(number: int = LOCAL, body: bytes = b"Hello, world", **fields: object) -> nmsg:
    return nmsg(**{"nh_node": number, "nh_event": EVENT, "nh_msg": body, **fields})  # type: ignore[arg-type]


def room(size: int = 64, **fields: object) -> nmsg:
    return nmsg(**{"nh_event": EVENT, "nh_msg": bytearray(size), **fields})  # type: ignore[arg-type]


class Other:
    """A call in another thread, once it waits in the IOP."""

    def __init__(self, node: IopNode, call: Callable[[], object]) -> None:
        before = len(node.waits())
        self.result: object = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        pause = threading.Event()
        while len(node.waits()) == before and self._thread.is_alive():
            pause.wait(0.001)
        pause.wait(0.01)

    def _run(self) -> None:
        try:
            self.result = self._call()
        except NetworkMessageError as error:
            self.result = error

    def end(self) -> object:
        self._thread.join()
        return self.result


def test_an_iop_without_the_device_has_no_network_messages() -> None:
    with i2o.open("emu:") as iop, pytest.raises(NetworkMessageError) as caught:
        IopNode(iop)
    assert caught.value.errno == errno.ENOTSUP


@pytest.mark.parametrize("size", ["1", "2G", "no"])
def test_the_size_is_checked(size: str) -> None:
    with pytest.raises(UriError):
        i2o.open(f"emu:?network_messages={size}")


def test_a_message_comes_as_it_was_sent(process: Process) -> None:
    process.nsend(to(nh_type=5, nh_data=WORDS))
    got = room(nh_type=4)
    assert process.nrecv(got) == (2, 12, 12, 0)
    assert (got.nh_type, got.nh_data, bytes(got.nh_msg[:12])) == (5, WORDS, b"Hello, world")


def test_every_name_of_the_node(process: Process, node: IopNode) -> None:
    for number in (LOCAL, ORIGIN, node.number):
        process.nsend(to(number))
        assert process.nrecv(room(), source=number if number > 0 else None).source == node.number
    assert process.nprobe(room(), source=LOCAL) is False
    with pytest.raises(BadNode):
        process.nsend(to(99))
    with pytest.raises(BadNode, match="no node 99"):
        process.nrecv(room(), source=99)


def test_truncation_is_reported(process: Process) -> None:
    process.nsend(to())
    assert process.nrecv(room(4)).lost == 8


def test_a_message_without_a_body(process: Process) -> None:
    process.nsend(to(body=b"", nh_data=WORDS))
    got = room(0)
    assert process.nrecv(got).length == 0
    assert got.nh_data == WORDS


@pytest.mark.parametrize("swaps", [False, True])
def test_the_receiver_converts_what_has_the_other_byte_order(iop: Iop, swaps: bool) -> None:
    with IopNode(iop, is_big_endian=swaps != IS_BIG_ENDIAN) as node:
        process = node.attach("p")
        process.nsend(to(body=b"abcdefgh", nh_flags=DINT4MSG))
        (row,) = process.listing()
        assert row.is_swapped is swaps
        got = room()
        process.nrecv(got)
        assert bytes(got.nh_msg[:8]) == (b"dcbahgfe" if swaps else b"abcdefgh")


def test_try_probe_list_look_and_sweep(process: Process) -> None:
    with pytest.raises(WouldBlock):
        process.ntry_recv(room())
    assert not process.nprobe(room())
    for event in (6, 7, 6):
        process.ntry_send(to(nh_event=event))
    assert process.nprobe(room())
    rows = process.listing()
    assert [(row.number, row.event) for row in rows] == [(1, 6), (2, 7), (3, 6)]
    header, source = process.bfqlook(2)
    assert (header.nh_event, bytes(header.nh_msg), source) == (7, b"Hello, world", 2)
    with pytest.raises(BadDescriptor):
        process.bfqlook(9)
    with pytest.raises(BadNode, match="nodes have numbers"):
        process.nsend(to(nh_node=1 << 40))
    assert process.sweep(6) == 2
    assert process.sweep() == 1
    assert process.listing() == []


def test_a_look_at_an_empty_message(process: Process) -> None:
    process.nsend(to(body=b""))
    assert process.bfqlook(1)[0].nh_length == 0


def test_a_receiver_that_waits_gets_the_message(process: Process, node: IopNode) -> None:
    got = room()
    other = Other(node, lambda: node.attach("q").nrecv(got, timeout_s=20))
    process.nsend(to())
    assert other.end() == (2, 12, 12, 0)


def test_the_highest_priority_gets_it(process: Process, node: IopNode) -> None:
    others = {
        priority: Other(
            node,
            lambda priority=priority: node.attach("q", priority=priority).nrecv(  # type: ignore[misc]
                room(), timeout_s=20
            ),
        )
        for priority in (100, 900, 500)
    }
    for length, priority in ((1, 900), (2, 500), (3, 100)):
        process.nsend(to(body=bytes(length)))
        assert others[priority].end() == (2, length, length, 0)


def test_nobuf_and_transfers_wait_for_the_receiver(process: Process, node: IopNode) -> None:
    header = to(nh_flags=NOBUF)
    other = Other(node, lambda: node.attach("q").nsend(header, timeout_s=20))
    assert process.listing()[0].is_announced
    assert process.nrecv(room()).length == 12
    assert other.end() is None
    assert header.nh_dl_event == EVENT
    body = bytes(at & 0xFF for at in range(100_000))
    other = Other(node, lambda: node.attach("q").tsend(to(body=body), timeout_s=20))
    with pytest.raises(WouldBlock):
        process.ntry_recv(room())
    got = room(100_000)
    process.trecv(got, timeout_s=20)
    other.end()
    assert bytes(got.nh_msg) == body
    with pytest.raises(WouldBlock):
        process.ntry_send(to(nh_flags=NOBUF))


def test_senders_wait_for_room_in_their_order(process: Process, node: IopNode) -> None:
    process.nsend(to(body=bytes(60_000)))
    with pytest.raises(WouldBlock):
        process.ntry_send(to(body=bytes(6000)))
    with pytest.raises(MessageTooLong):
        process.nsend(to(body=bytes(70_000)))
    first = Other(node, lambda: node.attach("q").nsend(to(body=bytes(6000)), timeout_s=20))
    second = Other(node, lambda: node.attach("r").nsend(to(body=b"x"), timeout_s=20))
    for length in (60_000, 6000, 1):
        assert process.nrecv(room(60_000)).length == length
    assert first.end() is None
    assert second.end() is None


def test_a_sender_that_waits_for_room_meets_a_receiver(process: Process, node: IopNode) -> None:
    process.nsend(to(body=bytes(60_000)))
    receiver = Other(node, lambda: node.attach("q").nrecv(room(nh_event=7), timeout_s=20))
    sender = Other(node, lambda: node.attach("r").nsend(to(body=bytes(6000)), timeout_s=20))
    process.nsend(to(nh_event=7))
    assert receiver.end() == (2, 12, 12, 0)
    assert process.sweep() == 1
    assert sender.end() is None
    assert process.nrecv(room(6000)).length == 6000


def test_sweep_ends_senders_that_wait(process: Process, node: IopNode) -> None:
    other = Other(node, lambda: node.attach("q").nsend(to(nh_flags=NOBUF), timeout_s=20))
    assert process.sweep() == 1
    assert isinstance(other.end(), Swept)


def test_every_call_has_a_deadline_and_leaves_nothing_behind(process: Process) -> None:
    for call in (
        lambda: process.nrecv(room(), timeout_s=0.01),
        lambda: process.tsend(to(), timeout_s=0.01),
        lambda: process.nsend(to(nh_flags=NOBUF), timeout_s=0.01),
    ):
        with pytest.raises(TimedOut, match=r"not within 0.01 s. Waiting are: node 2, p"):
            call()
    assert process.listing() == []
    process.nsend(to())
    assert process.nrecv(room()).length == 12


def test_a_timed_out_sender_for_room_sends_nothing(process: Process) -> None:
    process.nsend(to(body=bytes(60_000)))
    with pytest.raises(TimedOut):
        process.nsend(to(body=bytes(6000)), timeout_s=0.01)
    process.sweep()
    assert process.listing() == []


def test_a_reset_ends_who_waits(iop: Iop, process: Process, node: IopNode) -> None:
    process.nsend(to())
    other = Other(node, lambda: node.attach("q").nrecv(room(nh_event=9), timeout_s=20))
    iop.revive()
    assert isinstance(other.end(), NodeDied)
    assert process.listing() == []


def test_what_is_closed_says_so(node: IopNode) -> None:
    process = node.attach("p")
    node.close()
    with pytest.raises(NotAttached):
        process.nsend(to())
    with pytest.raises(NotAttached):
        node.attach("q")


# --- the device alone -----------------------------------------------------------------------------


def ask(iop: Iop, message: bytes) -> None:
    raise_for_status(iop.requester.call(message), "a network message")


@pytest.mark.parametrize(
    "message",
    [
        frames.NETWORK_MESSAGE_SEND.build(target_address=9, node=-2, event=1, length=3),
        frames.NETWORK_MESSAGE_SEND.build(target_address=9, node=-2, event=1),
    ],
)
def test_a_request_without_its_buffer_is_refused(iop: Iop, message: bytes) -> None:
    with pytest.raises(RequestFailed, match="MISSING_PARAMETER"):
        ask(iop, message)


def test_a_receive_without_its_buffer_is_refused(iop: Iop, process: Process) -> None:
    process.nsend(to())
    for layout, fields in (
        (frames.NETWORK_MESSAGE_LOOK, {"number": 1}),
        (frames.NETWORK_MESSAGE_LIST, {}),
        (frames.NETWORK_MESSAGE_RECEIVE, {"event": EVENT, "options": 8}),
    ):
        with pytest.raises(RequestFailed, match="MISSING_PARAMETER"):
            ask(iop, layout.build(target_address=9, length=500, **fields))


@pytest.mark.parametrize("fields", [{"organization_id": 1}, {"x_function_code": 99}])
def test_private_messages_of_others_are_not_understood(iop: Iop, fields: dict[str, int]) -> None:
    with pytest.raises(RequestFailed, match="UNSUPPORTED_FUNCTION"):
        ask(iop, frames.NETWORK_MESSAGE_PROBE.build(target_address=9, **fields))


def test_the_device_tells_which_messages_it_has(iop: Iop) -> None:
    rows = iop.params_get(9, "private_message_extensions")
    assert isinstance(rows, list)
    assert [row["x_function_code"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {row["organization_id"] for row in rows} == {frames.ORGANIZATION}
    assert UTIL_PARAMS_GET.function == Function.UTIL_PARAMS_GET


def test_status_codes_are_those_of_the_page() -> None:
    assert [status.value for status in NetworkMessageStatus] == list(range(0x8001, 0x8006))


def test_requests_that_wait_are_bounded(iop: Iop, process: Process) -> None:
    message = frames.NETWORK_MESSAGE_RECEIVE.build(target_address=9, event=1, options=8)
    pending = [iop.requester.start(message) for _ in range(1024)]
    for call in (
        lambda: process.nrecv(room(), timeout_s=1),
        lambda: process.tsend(to(), timeout_s=1),
    ):
        with pytest.raises(RequestFailed, match="INSUFFICIENT_RESOURCE"):
            call()
    process.nsend(to(body=bytes(60_000), nh_event=2))
    with pytest.raises(RequestFailed, match="INSUFFICIENT_RESOURCE"):
        process.nsend(to(body=bytes(9000), nh_event=2), timeout_s=1)
    iop.revive()
    for each in pending:
        each.release()
