# SPDX-License-Identifier: Apache-2.0
"""The documented behaviour of nsend, nrecv and their family: a test for each sentence."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import pytest

from fakes.node_net import NodeNet
from i2o.errors import I2OError
from i2o.network_message import (
    DFLT4DATA,
    DFLT8DATA,
    DINT2MSG,
    DINT4DATA,
    DINT4MSG,
    DRAWDATA,
    EVBUFFERD,
    EVDL0,
    LOCAL,
    MAXNMSGLEN,
    N2ND,
    NHDSIZE,
    NOBUF,
    NREEL,
    ORIGIN,
    Node,
    Process,
    nmsg,
)
from i2o.network_message.conversion import IS_BIG_ENDIAN
from i2o.network_message.descriptor import DFLT4MSG, DTBO
from i2o.network_message.errors import (
    EBADNODE,
    ENOTATTACHED,
    BadDescriptor,
    BadNode,
    MessageTooLong,
    MessageTruncated,
    NotAttached,
    TimedOut,
    WouldBlock,
)

EVENT = 6
WORDS = (1, -2, 3, 4, 5, 6, 7, (1 << 31) - 1)


@pytest.fixture
def node() -> Iterator[Node]:
    with Node(5) as node:
        yield node


@pytest.fixture
def process(node: Node) -> Process:
    return node.attach("p")


@pytest.fixture(params=["carrier", "endpoint"])
def net(request: pytest.FixtureRequest) -> Iterator[NodeNet]:
    with NodeNet(request.param) as net:
        yield net


def to(number: int, body: bytes = b"Hello, world", **fields: object) -> nmsg:
    return nmsg(**{"nh_node": number, "nh_event": EVENT, "nh_msg": body, **fields})  # type: ignore[arg-type]


def room(size: int = 64, **fields: object) -> nmsg:
    return nmsg(**{"nh_event": EVENT, "nh_msg": bytearray(size), **fields})  # type: ignore[arg-type]


def body_of(header: nmsg) -> bytes:
    return bytes(header.nh_msg[: header.nh_length])


# --- the descriptor -------------------------------------------------------------------------------


def test_constants_are_lams() -> None:
    assert (MAXNMSGLEN, NHDSIZE, LOCAL) == (8192, 8, -2)


def test_the_manual_pages_example(net: NodeNet) -> None:
    sender, receiver = net.process(1), net.process(2)
    sender.nsend(to(2, b"Hello, world\0"))
    got = room(16)
    assert receiver.nrecv(got).length == 13
    assert body_of(got) == b"Hello, world\0"


def test_repr_shows_every_field() -> None:
    text = repr(to(2))
    assert "nh_node=2" in text
    assert "nh_dl_event=0" in text


def test_sending_changes_dl_event_and_dl_link_alone(net: NodeNet) -> None:
    header = to(2, nh_type=3, nh_data=WORDS)
    before = {name: getattr(header, name) for name in nmsg.__slots__}
    net.process(1).nsend(header)
    changed = {name for name in before if getattr(header, name) != before[name]}
    assert changed <= {"nh_dl_event", "nh_dl_link"}


def test_dl_event_and_dl_link_name_the_link_to_another_node() -> None:
    with NodeNet(count=3) as net:
        for number, link in ((2, 0), (3, 1)):
            header = to(number)
            net.process(1).nsend(header)
            assert (header.nh_dl_event, header.nh_dl_link) == (EVDL0, link)


def test_dl_event_is_the_buffers_for_a_local_message(process: Process) -> None:
    header = to(LOCAL)
    process.nsend(header)
    assert (header.nh_dl_event, header.nh_dl_link) == (EVBUFFERD, 0)


def test_receiving_changes_neither_dl_event_nor_dl_link(process: Process) -> None:
    process.nsend(to(LOCAL))
    got = room()
    got.nh_dl_event, got.nh_dl_link = 11, 12
    process.nrecv(got)
    assert (got.nh_dl_event, got.nh_dl_link) == (11, 12)


def test_node_is_not_used_by_receiving(process: Process) -> None:
    process.nsend(to(LOCAL))
    got = room(nh_node=99)
    process.nrecv(got)
    assert got.nh_node == 99


def test_local_bypasses_the_routes(process: Process) -> None:
    process.nsend(to(LOCAL))
    assert process.nrecv(room()).source == 5


def test_origin_is_the_node_that_started_the_others() -> None:
    with NodeNet(origin=1) as net:
        net.process(2).nsend(to(ORIGIN))
        assert net.process(1).nrecv(room()).source == 2
        net.process(1).nsend(to(ORIGIN))
        assert net.process(1).nrecv(room()).source == 1
        assert net.process(2).getorigin() == 1
        assert net.process(2).getnodeid() == 2


def test_nodes_have_names() -> None:
    with NodeNet() as net:
        assert net.nodes[1].number_of("name 2") == 2
        assert net.nodes[1].nodes() == {2: "n2"}
        with pytest.raises(BadNode, match="known are name 2"):
            net.nodes[1].number_of("nobody")


# --- matching -------------------------------------------------------------------------------------


def test_events_must_be_equal(process: Process) -> None:
    process.nsend(to(LOCAL))
    with pytest.raises(WouldBlock):
        process.ntry_recv(room(nh_event=EVENT + 1))
    assert process.ntry_recv(room()).length == 12


def test_events_of_programs_are_not_negative(process: Process) -> None:
    for event in (-1, 1 << 30):
        with pytest.raises(BadDescriptor, match="events of programs"):
            process.nsend(to(LOCAL, nh_event=event))
        with pytest.raises(BadDescriptor):
            process.nrecv(room(nh_event=event))


@pytest.mark.parametrize(
    ("sent", "asked", "is_match"),
    [(1, 2, False), (3, 2, True), (0, 2, True), (2, 0, True), (0, 0, True), (-1, 4, True)],
)
def test_types_need_a_bit_in_common_and_0_matches_any(
    process: Process, sent: int, asked: int, is_match: bool
) -> None:
    process.nsend(to(LOCAL, nh_type=sent))
    assert process.nprobe(room(nh_type=asked)) is is_match


def test_a_type_has_32_bits(process: Process) -> None:
    with pytest.raises(BadDescriptor, match="32 bits"):
        process.nsend(to(LOCAL, nh_type=1 << 31))


def test_type_becomes_the_senders_by_receiving(process: Process) -> None:
    process.nsend(to(LOCAL, nh_type=5))
    got = room(nh_type=4)
    process.nrecv(got)
    assert got.nh_type == 5


def test_event_is_never_altered(process: Process) -> None:
    header = to(LOCAL)
    process.nsend(header)
    got = room()
    process.nrecv(got)
    assert (header.nh_event, got.nh_event) == (EVENT, EVENT)


def test_messages_are_received_in_their_order(net: NodeNet) -> None:
    sender, receiver = net.process(1), net.process(2)
    for number in range(20):
        sender.nsend(to(2, bytes((number,))))
    for number in range(20):
        got = room()
        receiver.nrecv(got)
        assert body_of(got) == bytes((number,))


# --- length, flags, pouch -------------------------------------------------------------------------


def test_the_lesser_length_is_transferred_to_a_longer_buffer(process: Process) -> None:
    process.nsend(to(LOCAL, b"abc"))
    got = room(10)
    assert process.nrecv(got) == (5, 3, 3, 0)
    assert (got.nh_length, bytes(got.nh_msg)) == (3, b"abc" + bytes(7))


def test_the_lesser_length_is_transferred_to_a_shorter_buffer(process: Process) -> None:
    process.nsend(to(LOCAL, b"abcdef"))
    got = room(10, nh_length=4)
    assert process.nrecv(got).lost == 2
    assert (got.nh_length, bytes(got.nh_msg)) == (4, b"abcd" + bytes(6))
    with pytest.raises(WouldBlock):
        process.ntry_recv(room())


def test_truncation_is_silent_by_option(process: Process) -> None:
    process.truncation = "silent"
    process.nsend(to(LOCAL, b"abcdef"))
    received = process.nrecv(room(4))
    assert (received.length, received.sent, received.lost) == (4, 4, 0)


def test_truncation_raises_by_option(process: Process) -> None:
    process.truncation = "raise"
    process.nsend(to(LOCAL, b"abcdef"))
    got = room(4)
    with pytest.raises(MessageTruncated, match="6 bytes of node 5, 4 of them") as caught:
        process.nrecv(got)
    assert caught.value.lost == 2
    assert body_of(got) == b"abcd"


def test_length_is_within_the_memory(process: Process) -> None:
    with pytest.raises(BadDescriptor, match="nh_length 4; nh_msg has 3 bytes"):
        process.nsend(to(LOCAL, b"abc", nh_length=4))
    with pytest.raises(BadDescriptor):
        process.nrecv(room(3, nh_length=4))
    with pytest.raises(BadDescriptor, match="bytearray"):
        process.nrecv(to(LOCAL, b"abc"))


def test_memory_of_any_items_is_taken(process: Process) -> None:
    words = memoryview(bytearray(12)).cast("I")
    words[1] = 7
    process.nsend(nmsg(nh_event=EVENT, nh_msg=words))
    got = nmsg(nh_event=EVENT, nh_msg=memoryview(bytearray(12)).cast("I"))
    assert process.nrecv(got).length == 12
    assert got.nh_msg[1] == 7


@pytest.mark.parametrize("length", [0, 1, 8191, 8192, 8193, 16384, 20000])
def test_long_messages_go_in_packets_and_come_whole(net: NodeNet, length: int) -> None:
    body = bytes(at * 7 & 0xFF for at in range(length))
    net.process(1).nsend(to(2, body, nh_data=WORDS))
    got = room(length)
    assert net.process(2).nrecv(got) == (1, length, length, 0)
    assert (body_of(got), got.nh_data) == (body, WORDS)


def test_a_message_with_the_pouch_alone(net: NodeNet) -> None:
    net.process(1).nsend(nmsg(nh_node=2, nh_event=EVENT, nh_data=WORDS))
    got = nmsg(nh_event=EVENT)
    assert net.process(2).nrecv(got).length == 0
    assert got.nh_data == WORDS


def test_the_senders_pouch_does_not_change(net: NodeNet) -> None:
    header = to(2, bytes(20000), nh_data=WORDS)
    net.process(1).nsend(header)
    assert header.nh_data == WORDS


def test_flags_are_never_altered(process: Process) -> None:
    header = to(LOCAL, nh_flags=DINT4MSG)
    process.nsend(header)
    got = room(nh_flags=NOBUF)
    assert process.nrecv(got).flags == DINT4MSG
    assert (header.nh_flags, got.nh_flags) == (DINT4MSG, NOBUF)


@pytest.mark.parametrize("flags", [N2ND, NREEL, 0x1000])
def test_flags_of_packets_are_refused(process: Process, flags: int) -> None:
    with pytest.raises(BadDescriptor, match="set by packets"):
        process.nsend(to(LOCAL, nh_flags=flags))


# --- data representation --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        (0, WORDS),
        (DINT4DATA, WORDS),
        (DFLT4DATA, (0.5, -1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)),
        (DFLT8DATA, (0.1, -1e300, 2.0, 3.0)),
        (DRAWDATA, bytes(range(32))),
    ],
)
@pytest.mark.parametrize("is_big_endian", [False, True])
def test_the_pouch_arrives_as_it_was_on_nodes_of_either_byte_order(
    flags: int, values: object, is_big_endian: bool
) -> None:
    with NodeNet(is_big_endian=is_big_endian) as net:
        header = to(2, nh_flags=flags, nh_data=values)
        if is_big_endian != IS_BIG_ENDIAN and flags != DRAWDATA:
            from i2o.network_message import conversion

            raw = conversion.pack_pouch(header.nh_data, flags)
            unit = 8 if flags == DFLT8DATA else 4
            header.nh_data = conversion.unpack_pouch(conversion.swapped(raw, unit), flags)
        net.process(1).nsend(header)
        got = room()
        net.process(2).nrecv(got)
        assert got.nh_data == values


@pytest.mark.parametrize(
    ("flags", "unit"), [(0, 1), (DINT2MSG, 2), (DINT4MSG, 4), (DFLT4MSG, 4), (0x800000, 8)]
)
def test_the_body_of_a_node_with_the_other_byte_order_is_converted(flags: int, unit: int) -> None:
    body = bytes(range(16))
    with NodeNet(is_big_endian=not IS_BIG_ENDIAN) as net:
        net.process(1).nsend(to(2, body, nh_flags=flags))
        got = room(16)
        net.process(2).nrecv(got)
        swapped = b"".join(body[at : at + unit][::-1] for at in range(0, 16, unit))
        assert body_of(got) == swapped


def test_nothing_is_converted_between_nodes_of_one_byte_order() -> None:
    with NodeNet() as net:
        net.process(1).nsend(to(2, bytes(range(16)), nh_flags=DINT4MSG))
        got = room(16)
        net.process(2).nrecv(got)
        assert body_of(got) == bytes(range(16))


def test_nothing_is_converted_within_a_node(process: Process) -> None:
    process.nsend(to(LOCAL, bytes(range(16)), nh_flags=DINT4MSG | DTBO))
    got = room(16)
    process.nrecv(got)
    assert body_of(got) == bytes(range(16))


def test_data_in_network_order_already_are_converted_by_the_receiver_alone() -> None:
    with NodeNet() as net:
        body = struct.pack(">4I", 1, 2, 3, 4)
        net.process(1).nsend(to(2, body, nh_flags=DINT4MSG | DTBO))
        got = room(16)
        net.process(2).nrecv(got)
        assert struct.unpack("=4I", body_of(got)) == (1, 2, 3, 4)


def test_a_body_that_is_no_whole_number_of_values_keeps_its_rest() -> None:
    with NodeNet(is_big_endian=not IS_BIG_ENDIAN) as net:
        net.process(1).nsend(to(2, b"abcdefg", nh_flags=DINT4MSG))
        got = room()
        net.process(2).nrecv(got)
        assert body_of(got) == b"dcbaefg"


@pytest.mark.parametrize(
    ("flags", "data"),
    [
        (0, (1, 2)),
        (0, (1 << 31,) * 8),
        (0, (1.5,) * 8),
        (DFLT8DATA, (1.0,) * 8),
        (DFLT4DATA | DFLT8DATA, (1.0,) * 8),
        (DRAWDATA, b"short"),
        (DRAWDATA, WORDS),
        (DFLT4DATA, (1e300,) * 8),
    ],
)
def test_a_pouch_must_be_what_the_flags_say(process: Process, flags: int, data: object) -> None:
    with pytest.raises(BadDescriptor):
        process.nsend(to(LOCAL, nh_flags=flags, nh_data=data))


@pytest.mark.parametrize("flags", [1 << 40, 1 << 32, -1])
def test_flags_have_32_bits_wherever_the_message_goes(net: NodeNet, flags: int) -> None:
    for node in (1, 2):
        with pytest.raises(BadDescriptor, match="do not fit 32 bits"):
            net.process(1).nsend(to(node, nh_flags=flags))


def test_flags_that_name_several_types_of_the_body_are_refused(process: Process) -> None:
    with pytest.raises(BadDescriptor, match="several types"):
        process.nsend(to(LOCAL, nh_flags=DINT4MSG | DFLT4MSG))


# --- blocking -------------------------------------------------------------------------------------


def test_try_recv_never_blocks(process: Process) -> None:
    got = room(nh_type=9)
    with pytest.raises(WouldBlock) as caught:
        process.ntry_recv(got)
    assert isinstance(caught.value, BlockingIOError)
    assert (got.nh_type, got.nh_length) == (9, 64)


def test_try_send_goes_where_nsend_would_not_block(net: NodeNet) -> None:
    net.process(1).ntry_send(to(2))
    assert net.process(2).nrecv(room()).length == 12


def test_nobuf_returns_when_a_receiver_took_the_message(net: NodeNet) -> None:
    taken: list[int] = []
    net.later.append(lambda: taken.append(net.process(2).nrecv(room(), timeout_s=1).length))
    header = to(2, nh_flags=NOBUF)
    net.process(1).nsend(header, timeout_s=5)
    assert taken == [12]


def test_nobuf_to_a_receiver_of_the_same_node(process: Process, node: Node) -> None:
    with pytest.raises(WouldBlock, match="no receiver waits"):
        process.ntry_send(to(LOCAL, nh_flags=NOBUF))
    with pytest.raises(TimedOut):
        process.nsend(to(LOCAL, nh_flags=NOBUF), timeout_s=0)
    assert node.listing() == []


def test_success_says_only_that_the_message_left_the_caller(net: NodeNet) -> None:
    net.process(1).nsend(to(2))
    net.nodes[2].close()
    assert not net.later


def test_probe_does_not_take_the_message(process: Process) -> None:
    process.nsend(to(LOCAL, nh_type=5, nh_data=WORDS))
    got = room(nh_type=4)
    assert process.nprobe(got)
    assert (got.nh_type, got.nh_length, got.nh_data) == (5, 12, WORDS)
    assert process.nprobe(room())
    process.nrecv(room())
    assert not process.nprobe(room())


def test_tsend_goes_to_trecv_alone(net: NodeNet) -> None:
    body = bytes(at & 0xFF for at in range(100_000))
    got = room(100_000)
    results: list[object] = []

    def receive() -> None:
        with pytest.raises(WouldBlock):
            net.process(2).ntry_recv(room())
        results.append(net.process(2).trecv(got, timeout_s=5))

    net.later.append(receive)
    net.process(1).tsend(to(2, body, nh_data=WORDS), timeout_s=60)
    assert results == [(1, 100_000, 100_000, 0)]
    assert (body_of(got), got.nh_data) == (body, WORDS)


def test_trecv_takes_the_lesser_length(net: NodeNet) -> None:
    got = room(10)
    results: list[object] = []
    net.later.append(lambda: results.append(net.process(2).trecv(got, timeout_s=5)))
    net.process(1).tsend(to(2, b"x" * 50), timeout_s=60)
    assert results == [(1, 10, 50, 0)]


def test_trecv_of_nothing_but_the_pouch(net: NodeNet) -> None:
    results: list[object] = []
    net.later.append(lambda: results.append(net.process(2).trecv(room(0), timeout_s=5)))
    net.process(1).tsend(to(2, b"x" * 50), timeout_s=60)
    assert results == [(1, 0, 50, 0)]


# --- errors ---------------------------------------------------------------------------------------


def test_a_node_that_nobody_knows(process: Process) -> None:
    header = to(77)
    with pytest.raises(BadNode) as caught:
        process.nsend(header)
    assert caught.value.errno == EBADNODE == 1253
    assert header.nh_dl_event == 0


def test_a_process_that_is_not_attached(node: Node) -> None:
    process = node.attach("p")
    process.detach()
    process.detach()
    for call in (process.nsend, process.ntry_send, process.tsend):
        with pytest.raises(NotAttached) as caught:
            call(to(LOCAL))
        assert caught.value.errno == ENOTATTACHED == 1240
    for receive in (process.nrecv, process.ntry_recv, process.trecv, process.nprobe):
        with pytest.raises(NotAttached):
            receive(room())


def test_a_node_that_is_closed(node: Node) -> None:
    process = node.attach("p")
    node.close()
    node.close()
    with pytest.raises(NotAttached, match="node 5 is closed"):
        process.nsend(to(LOCAL))
    with pytest.raises(NotAttached):
        node.attach("q")


def test_nothing_goes_to_another_node_from_one_that_is_closed() -> None:
    with NodeNet() as net:
        process, node = net.process(1), net.nodes[1]
        process.nsend(nmsg(nh_node=2, nh_event=1))
        net.drive()
        process.nsend(nmsg(nh_node=2, nh_event=2))  # by the short way
        node.close()
        with pytest.raises(NotAttached, match="node 1 is closed"):
            process.nsend(nmsg(nh_node=2, nh_event=3))
        net.nodes[2].progress()
        assert [row.event for row in net.process(2).listing()] == [1, 2]


def test_errors_are_the_projects_and_the_systems() -> None:
    error = WouldBlock("why")
    assert isinstance(error, I2OError)
    assert isinstance(error, OSError)


def test_a_message_that_the_buffer_could_never_take() -> None:
    with Node(1, space=1000) as node, pytest.raises(MessageTooLong, match="use tsend"):
        node.attach("p").nsend(to(LOCAL, bytes(1000)))


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [-1, -1.0, -0.001, math.nan, math.inf])
def test_a_time_limit_is_seconds_or_none(net: NodeNet, timeout_s: float) -> None:
    one = net.process(1)
    for call in (one.nrecv, one.trecv, one.nsend, one.tsend):
        with pytest.raises(BadDescriptor, match=r"timeout_s .*: give seconds"):
            call(to(2, bytearray(4)), timeout_s=timeout_s)
    with pytest.raises(BadDescriptor, match="timeout_s"):
        net.nodes[1].ping(2, timeout_s)
    one.timeout_s = timeout_s
    with pytest.raises(BadDescriptor, match="timeout_s"):
        one.nrecv(room())


def test_no_time_at_all_is_a_time_limit(process: Process) -> None:
    with pytest.raises(TimedOut):
        process.nrecv(room(), timeout_s=0)
    process.timeout_s = 0
    with pytest.raises(TimedOut):
        process.nrecv(room())


@pytest.mark.parametrize("priority", ["x", 1 << 31, 1.5, None])
def test_a_priority_is_an_integer(node: Node, priority: object) -> None:
    with pytest.raises(BadDescriptor, match=r"priority .* is no integer of 32 bits"):
        node.attach(priority=priority)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [-3, 99999999999999, "x"])
def test_a_node_has_a_number(node: Node, number: object) -> None:
    with pytest.raises(BadNode, match="a node has a number from 0 to"):
        Node(number)  # type: ignore[arg-type]
    with pytest.raises(BadNode, match="a node has a number from 0 to"):
        node.add_node(number, "somewhere")  # type: ignore[arg-type]
