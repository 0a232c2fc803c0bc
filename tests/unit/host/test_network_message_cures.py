# SPDX-License-Identifier: Apache-2.0
"""LAM's weaknesses, and that they are cured: what old behaviour would fail here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from fakes.node_net import NodeNet
from i2o.network_message import LOCAL, NOBUF, Node, nmsg
from i2o.network_message.errors import (
    BadNode,
    MessageTooLong,
    NetworkMessageError,
    NodeDied,
    NotAttached,
    Swept,
    TimedOut,
    WouldBlock,
)
from i2o.network_message.packet import HEADER_SIZE, INITIAL_WINDOW, Kind, Packer
from i2o.network_message.waits import WaitReport, circles

EVENT = 6


@pytest.fixture(params=["carrier", "endpoint"])
def net(request: pytest.FixtureRequest) -> Iterator[NodeNet]:
    with NodeNet(request.param, count=3) as net:
        yield net


def to(number: int, body: bytes = b"Hello, world", **fields: object) -> nmsg:
    return nmsg(**{"nh_node": number, "nh_event": EVENT, "nh_msg": body, **fields})  # type: ignore[arg-type]


def room(size: int = 64, **fields: object) -> nmsg:
    return nmsg(**{"nh_event": EVENT, "nh_msg": bytearray(size), **fields})  # type: ignore[arg-type]


def meet(net: NodeNet) -> None:
    """Introduce nodes 1 and 2, so that each knows the other's window."""
    net.process(1).nsend(to(2))
    net.drive()
    net.process(2).nrecv(room(), timeout_s=1)
    net.drive()


# --- packets of several senders never mix ---------------------------------------------------------


def test_packets_of_several_senders_to_one_event_never_mix(net: NodeNet) -> None:
    for step in range(5):
        for number in (1, 2):
            net.process(number).nsend(to(3, bytes((number,)) * 20000))
        net.drive(step)
    receiver = net.process(3)
    for _ in range(10):
        got = room(20000)
        received = receiver.nrecv(got, timeout_s=1)
        assert received.sent == 20000
        assert bytes(got.nh_msg) == bytes((received.source,)) * 20000


def test_packets_of_several_messages_of_one_sender_never_mix() -> None:
    """Two processes of one node, packets in turn: as two links, but of one source."""
    with NodeNet() as net:
        meet(net)
        header = Packer(1).header
        peer = net.nodes[1]._links.peers[2]  # type: ignore[union-attr]
        for offset in (0, 8192, 16384):
            for message in (900, 901):
                part = bytes((message & 0xFF,)) * min(8192, 20000 - offset)
                packet = header(
                    Kind.DATA, peer.own_session, message, EVENT, 0, 0, 20000, offset
                ) + part  # fmt: skip
                net.nodes[1]._links._post(peer, packet)  # type: ignore[union-attr]
        for message in (900, 901):
            got = room(20000)
            net.process(2).nrecv(got, timeout_s=1)
            assert bytes(got.nh_msg) == bytes((message & 0xFF,)) * 20000


# --- what waits is bounded, and can be thrown away ------------------------------------------------


def test_a_sender_of_another_node_has_credit_and_no_more(net: NodeNet) -> None:
    meet(net)
    sender = net.process(1)
    count = 0
    with pytest.raises(WouldBlock, match="no room"):
        while True:
            sender.ntry_send(to(2, bytes(8000)))
            net.drive(2)
            count += 1
    assert count == (256 << 10) // 8064
    assert len(net.nodes[2].listing()) == count
    with pytest.raises(TimedOut):
        sender.nsend(to(2, bytes(8000)), timeout_s=1)


def test_a_sender_that_gets_room_when_its_node_is_closed_is_told_so(
    net: NodeNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet(net)
    sender, node = net.process(1), net.nodes[1]
    with pytest.raises(WouldBlock):
        while True:
            sender.ntry_send(to(2, bytes(8000)))
            net.drive(2)
    # the wait ends well, but another thread closes the node before this one has the lock again
    monkeypatch.setattr(node, "_block", lambda *wait: monkeypatch.setattr(node, "_closed", True))
    with pytest.raises(NotAttached):
        sender.nsend(to(2, bytes(8000)))


def test_credit_comes_back_with_what_is_received(net: NodeNet) -> None:
    sender, receiver = net.process(1), net.process(2)
    for _ in range(200):
        net.later.append(lambda: receiver.nrecv(room(8000), timeout_s=1))
        sender.nsend(to(2, bytes(8000)), timeout_s=60)
    assert len(net.nodes[2].listing()) <= 40


def test_one_sender_does_not_plug_the_node_for_others(net: NodeNet) -> None:
    meet(net)
    with pytest.raises(WouldBlock):
        while True:
            net.process(1).ntry_send(to(2, bytes(8000)))
            net.drive(2)
    net.process(3).nsend(to(2, nh_event=9), timeout_s=5)
    assert net.process(2).nrecv(room(nh_event=9), timeout_s=5).source == 3


def test_a_message_longer_than_the_window_is_refused_not_stuck(net: NodeNet) -> None:
    meet(net)
    with pytest.raises(MessageTooLong, match="node 2 buffers 262144: use tsend"):
        net.process(1).nsend(to(2, bytes(300_000)))


def test_a_longer_one_to_a_node_that_is_new_waits_to_be_introduced(net: NodeNet) -> None:
    with pytest.raises(WouldBlock):
        net.process(1).ntry_send(to(2, bytes(100_000)))
    net.process(1).nsend(to(2, bytes(100_000)), timeout_s=5)
    assert net.process(2).nrecv(room(100_000), timeout_s=5).length == 100_000


def test_local_senders_wait_for_room_in_their_order() -> None:
    with Node(1, space=1000) as node:
        process = node.attach("p")
        process.nsend(to(LOCAL, bytes(900)))
        with pytest.raises(WouldBlock):
            process.ntry_send(to(LOCAL, bytes(100)))
        done: list[int] = []

        def send(size: int) -> None:
            node.attach(f"sender of {size}").nsend(to(LOCAL, bytes(size)), timeout_s=20)
            done.append(size)

        threads = []
        for size in (500, 10):
            threads.append(threading.Thread(target=send, args=(size,)))
            threads[-1].start()
            wait_for(lambda: len(node.waits()) == len(threads))
        assert not done  # the small one would have room, but it came later
        for size in (900, 500, 10):
            assert process.nrecv(room(1000), timeout_s=20).length == size
        for thread in threads:
            thread.join()


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when other threads have come somewhere."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.001)


def test_sweep_throws_away_what_waits(net: NodeNet) -> None:
    for event in (6, 7, 6):
        net.process(1).nsend(to(2, nh_event=event))
    net.drive()
    node = net.nodes[2]
    assert node.sweep(6) == 2
    assert [row.event for row in node.listing()] == [7]
    assert net.process(2).sweep() == 1
    assert node.listing() == []


def test_what_was_swept_gives_its_credit_back(net: NodeNet) -> None:
    meet(net)
    for _ in range(200):
        net.process(1).ntry_send(to(2, bytes(8000)))
        net.drive(2)
        net.nodes[2].sweep()
        net.drive(2)


def test_sweep_frees_a_sender_that_waits_to_be_taken(net: NodeNet) -> None:
    net.later.append(lambda: net.nodes[2].sweep())
    with pytest.raises(Swept, match="node 2 swept"):
        net.process(1).nsend(to(2, nh_flags=NOBUF), timeout_s=60)
    net.later.append(lambda: net.nodes[1].sweep())
    with pytest.raises(Swept):
        net.process(1).nsend(to(LOCAL, nh_flags=NOBUF), timeout_s=60)


def test_messages_may_have_a_time_to_live() -> None:
    with NodeNet(ttl_s=10) as net:
        net.process(1).nsend(to(2))
        net.drive()
        net.clock.advance(9)
        assert len(net.nodes[2].listing()) == 1
        net.clock.advance(1)
        assert net.nodes[2].listing() == []
        with pytest.raises(WouldBlock):
            net.process(2).ntry_recv(room())
        with pytest.raises(Swept):
            net.process(1).nsend(to(2, nh_flags=NOBUF), timeout_s=60)


def test_the_listing_tells_what_waits(net: NodeNet) -> None:
    net.process(1).nsend(to(2, nh_type=5, nh_data=(9,) * 8))
    net.drive()
    (row,) = net.process(2).listing()
    assert (row.source, row.event, row.type, row.length, row.is_announced) == (1, 6, 5, 12, False)


def test_bfqlook_copies_a_message_that_stays(net: NodeNet) -> None:
    net.process(1).nsend(to(2, nh_data=(9,) * 8))
    net.drive()
    (row,) = net.nodes[2].listing()
    header, source = net.process(2).bfqlook(row.number)
    assert (bytes(header.nh_msg), header.nh_data, source) == (b"Hello, world", (9,) * 8, 1)
    assert net.nodes[2].listing() == [row]
    with pytest.raises(NetworkMessageError, match="number 77"):
        net.process(2).bfqlook(77)


# --- try is atomic --------------------------------------------------------------------------------


def test_try_send_reserves_every_packet_before_the_first(net: NodeNet) -> None:
    meet(net)
    sender = net.process(1)
    for _ in range(32):
        sender.ntry_send(to(2, bytes(8000)))
    with pytest.raises(WouldBlock):
        sender.ntry_send(to(2, bytes(20000)))
    net.drive()
    assert len(net.nodes[2].listing()) == 32
    assert net.nodes[2].dropped == 0
    sender.ntry_send(to(2, bytes(10)))


def test_try_send_leaves_the_header_alone_when_it_fails(net: NodeNet) -> None:
    meet(net)
    header = to(2, bytes(20000), nh_data=(1, 2, 3, 4, 5, 6, 7, 8), nh_flags=NOBUF)
    before = repr(header)
    with pytest.raises(WouldBlock):
        net.process(1).ntry_send(header)
    header.nh_node = LOCAL
    with pytest.raises(WouldBlock):
        net.process(1).ntry_send(header)
    header.nh_node = 2
    assert repr(header) == before


def test_try_recv_takes_a_message_or_nothing_while_others_receive() -> None:
    """Threads that probe and receive in one step: each message is received once."""
    with Node(1) as node:
        process = node.attach("sender")
        for number in range(200):
            process.nsend(to(LOCAL, number.to_bytes(2, "little")))
        taken: list[bytes] = []

        def receive() -> None:
            own = node.attach("receiver")
            while True:
                got = room(2)
                try:
                    own.ntry_recv(got)
                except WouldBlock:
                    return
                taken.append(bytes(got.nh_msg))

        threads = [threading.Thread(target=receive) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == sorted(number.to_bytes(2, "little") for number in range(200))


def test_try_recv_does_not_take_what_another_node_only_offers(net: NodeNet) -> None:
    seen: list[object] = []

    def look() -> None:
        process = net.process(2)
        seen.append(process.nprobe(room()))
        with pytest.raises(WouldBlock):
            process.ntry_recv(room())
        seen.append([row.is_announced for row in process.listing()])

    net.later.append(look)
    with pytest.raises(TimedOut):
        net.process(1).nsend(to(2, nh_flags=NOBUF), timeout_s=0.5)
    net.drive()
    assert seen == [False, [True]]
    assert net.nodes[2].listing() == []  # the offer was withdrawn


# --- the source can be named ----------------------------------------------------------------------


def test_a_receiver_may_name_the_source(net: NodeNet) -> None:
    for number in (1, 2):
        net.process(number).nsend(to(3, bytes((number,))))
    net.drive()
    receiver = net.process(3)
    for number in (2, 1):
        got = room(1)
        assert receiver.nrecv(got, source=number, timeout_s=1).source == number
        assert bytes(got.nh_msg) == bytes((number,))
    with pytest.raises(WouldBlock):
        receiver.ntry_recv(room(), source=2)
    with pytest.raises(BadNode, match="no node 9"):
        receiver.nrecv(room(), source=9)


# --- deadlines, and who waits for whom ------------------------------------------------------------


def test_every_blocking_call_has_a_deadline(net: NodeNet) -> None:
    process = net.process(1)
    calls: list[Callable[[], object]] = [
        lambda: process.nrecv(room(), timeout_s=1),
        lambda: process.trecv(room(), timeout_s=1),
        lambda: process.tsend(to(2), timeout_s=1),
        lambda: process.nsend(to(2, nh_flags=NOBUF), timeout_s=1),
        lambda: process.tsend(to(LOCAL), timeout_s=1),
    ]
    for call in calls:
        start = net.clock.monotonic()
        with pytest.raises(TimedOut) as caught:
            call()
        assert 1 <= net.clock.monotonic() - start < 1.5
        assert "process of 1" in str(caught.value)
    assert net.nodes[1].waits() == []
    assert net.nodes[1].listing() == []
    net.drive()
    assert net.nodes[2].listing() == []


def test_a_process_may_have_a_deadline_for_all_calls(net: NodeNet) -> None:
    process = net.process(1)
    process.timeout_s = 2
    with pytest.raises(TimedOut, match="not within 2 s"):
        process.nrecv(room())


def test_two_nodes_that_send_unbuffered_to_each_other_are_shown_as_a_circle(net: NodeNet) -> None:
    reports: list[WaitReport] = []

    def other() -> None:
        net.later.append(look)
        with pytest.raises(TimedOut):
            net.process(2).nsend(to(1, nh_flags=NOBUF), timeout_s=1)

    def look() -> None:
        reports.extend(net.nodes[1].waits() + net.nodes[2].waits())

    net.later.append(other)
    with pytest.raises(TimedOut):
        net.process(1).nsend(to(2, nh_flags=NOBUF), timeout_s=5)
    assert circles(reports) == [(1, 2)]
    assert str(reports[0]).startswith("node 1, process of 1: send to node 2, event 6, type 0x0")


def test_circles_are_found_once_and_any_node_is_in_none() -> None:
    def report(node: int, other: int | None) -> WaitReport:
        return WaitReport("p", node, "send to", other, 1, 0, 0.0)

    waits = [report(1, 2), report(2, 3), report(3, 1), report(4, None), report(5, 1), report(6, 6)]
    assert circles(waits) == [(1, 2, 3), (6,)]
    assert "any node" in str(report(4, None))


# --- a node that dies -----------------------------------------------------------------------------


def test_what_waits_for_a_node_that_dies_ends_and_the_rest_goes_on(net: NodeNet) -> None:
    meet(net)
    net.later.append(lambda: net.lose(2))
    with pytest.raises(NodeDied, match="node 2"):
        net.process(1).nsend(to(2, nh_flags=NOBUF), timeout_s=60)
    net.process(1).nsend(to(3), timeout_s=5)
    assert net.process(3).nrecv(room(), timeout_s=5).source == 1


def test_a_receive_that_names_a_node_ends_when_that_dies(net: NodeNet) -> None:
    meet(net)
    net.later.append(lambda: net.lose(2))
    with pytest.raises(NodeDied):
        net.process(1).nrecv(room(), source=2, timeout_s=600)


def test_a_node_that_says_nothing_is_dead_after_a_while() -> None:
    with NodeNet(dead_after_s=3) as net:
        meet(net)
        net.fabric.block("n1", "n2")
        net.fabric.block("n2", "n1")
        start = net.clock.monotonic()
        with pytest.raises(NodeDied):
            net.process(1).nrecv(room(), source=2, timeout_s=600)
        assert net.clock.monotonic() - start <= 5


def test_a_node_that_is_waited_for_is_asked_whether_it_lives(net: NodeNet) -> None:
    meet(net)
    with pytest.raises(TimedOut):
        net.process(1).nrecv(room(), source=2, timeout_s=100)


def test_what_a_node_sent_before_it_died_is_received(net: NodeNet) -> None:
    net.process(1).nsend(to(2))
    net.drive()
    net.nodes[1].close()
    del net.nodes[1]
    net.drive()
    assert net.process(2).nrecv(room(), timeout_s=1).length == 12


def test_a_node_that_closes_says_goodbye(net: NodeNet) -> None:
    meet(net)

    def close() -> None:
        net.nodes.pop(2).close()

    net.later.append(close)
    with pytest.raises(NodeDied):
        net.process(1).nrecv(room(), source=2, timeout_s=600)


def test_half_a_message_of_a_node_that_died_is_thrown_away() -> None:
    with NodeNet() as net:
        meet(net)
        links = net.nodes[1]._links
        assert links is not None
        peer = links.peers[2]
        links._put(peer, Kind.DATA, 50, EVENT, length=20000, body=bytes(8192))
        net.drive()
        net.nodes.pop(1).close()
        net.drive()
        assert net.nodes[2].dropped == 1
        assert net.nodes[2].listing() == []


def test_a_restarted_node_is_known_again(net: NodeNet) -> None:
    meet(net)
    net.lose(2)
    net.drive()
    net.start(2)
    net.process(2).nsend(to(1, b"again"))
    got = room()
    net.process(1).nrecv(got, timeout_s=60)
    assert bytes(got.nh_msg[:5]) == b"again"
    net.process(1).nsend(to(2, b"welcome"))
    assert net.process(2).nrecv(room(), timeout_s=60).length == 7


def test_what_a_dead_node_left_gives_no_credit_to_its_successor() -> None:
    with NodeNet() as net:
        meet(net)
        net.process(1).nsend(to(2, bytes(8000)))
        net.drive()
        net.lose(1)
        net.drive()
        net.start(1)
        net.process(1).nsend(to(2))
        net.drive()
        for length in (8000, 12):
            assert net.process(2).nrecv(room(8000), timeout_s=1).length == length
        links = net.nodes[2]._links
        assert links is not None
        assert links.peers[1].held == 0


def test_nobody_is_paid_more_than_the_window() -> None:
    with NodeNet() as net:
        meet(net)
        links = net.nodes[1]._links
        assert links is not None
        inject(net, Packer(1).header(Kind.CREDIT, links.peers[2].own_session, length=1 << 31))
        other = net.nodes[2]._links
        assert other is not None
        assert other.peers[1].credit == other.peers[1].window


def test_a_local_try_send_does_not_overtake_who_waits_for_room() -> None:
    with Node(1, space=1000) as node:
        process = node.attach("p")
        process.nsend(to(LOCAL, bytes(800)))
        thread = threading.Thread(
            target=lambda: node.attach("q").nsend(to(LOCAL, bytes(500)), timeout_s=20)
        )
        thread.start()
        wait_for(lambda: len(node.waits()) == 1)
        with pytest.raises(WouldBlock):
            process.ntry_send(to(LOCAL, b"x"))
        assert process.sweep() == 1
        thread.join()
        assert process.nrecv(room(500)).length == 500


def test_a_restarted_node_may_be_somewhere_else() -> None:
    with NodeNet() as net:
        meet(net)
        net.lose(2)
        net.drive()
        moved = Node(2, net.fabric.carrier("elsewhere"), clock=net.clock, pause=net._pause)
        moved.add_node(1, "n1")
        net.nodes[2] = moved
        net.process(2).nsend(to(1, b"again"))
        assert net.process(1).nrecv(room(), timeout_s=60).length == 5
        assert net.nodes[1].nodes() == {2: "elsewhere"}
        net.process(1).nsend(to(2))
        assert net.process(2).nrecv(room(), timeout_s=60).source == 1


def test_a_node_that_lives_has_no_double(net: NodeNet) -> None:
    meet(net)
    double = Node(2, net.fabric.carrier("double"), clock=net.clock, pause=net._pause)
    try:
        double.add_node(1, "n1")
        before = net.nodes[1].dropped
        if net.via == "carrier":
            double.attach("p").nsend(to(1))
            net.drive()
            assert net.nodes[1].dropped > before
            assert net.nodes[1].nodes()[2] == "n2"
    finally:
        double.close()


def test_ping_waits_until_everything_sent_before_is_there(net: NodeNet) -> None:
    net.process(1).nsend(to(2))
    assert net.nodes[1].ping(2, timeout_s=60) >= 0
    assert len(net.nodes[2].listing()) == 1
    with pytest.raises(BadNode):
        net.nodes[1].ping(9)
    net.lose(2)
    with pytest.raises(NodeDied):
        net.nodes[1].ping(2, timeout_s=600)
    with Node(1) as alone, pytest.raises(BadNode):
        alone.ping(2)


def test_a_receiver_whose_sender_dies_with_half_the_body_waits_on(net: NodeNet) -> None:
    meet(net)
    got = room(20000)
    results: list[object] = []

    def die() -> None:
        net.nodes.pop(1).close()

    def receive() -> None:
        net.later.append(die)
        net.later.append(lambda: net.process(3).nsend(to(2, b"from another")))
        results.append(net.process(2).nrecv(got, timeout_s=600))

    links = net.nodes[1]._links
    assert links is not None
    number = 4000
    links._put(links.reach(2), Kind.OFFER, number, EVENT, length=20000)
    net.drive()
    receive()
    assert results == [(3, 12, 12, 0)]


@pytest.mark.parametrize(
    ("body", "length", "source"),
    [(b"x" * 2000, 1 << 18, 7), (b"n7", 10, 7)],
)
def test_a_hello_that_makes_no_sense_introduces_nobody(
    body: bytes, length: int, source: int
) -> None:
    with NodeNet() as net:
        meet(net)
        before = net.nodes[2].dropped
        inject(net, Packer(source).header(Kind.HELLO, 5, length=length) + body)
        assert net.nodes[2].dropped == before + 1
        assert 7 not in net.nodes[2].nodes()


# --- what comes from outside ----------------------------------------------------------------------


def inject(net: NodeNet, packet: bytes) -> None:
    """Send node 2 a packet as node 1 would."""
    links = net.nodes[1]._links
    assert links is not None
    links._post(links.peers[2], packet)
    net.drive()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packet: packet[: HEADER_SIZE - 1],
        lambda packet: b"\x09" + packet[1:],
        lambda packet: packet[:1] + b"\x63" + packet[2:],
        lambda packet: packet[:4] + b"\x07\0\0\0" + packet[8:],
        lambda packet: packet[:8] + b"\x07\0\0\0" + packet[12:],
        lambda packet: packet[:28] + (1 << 30).to_bytes(4, "little") + packet[32:],
        lambda packet: packet[:32] + (5).to_bytes(4, "little") + packet[36:],
        lambda packet: packet + b"too long",
    ],
    ids=["short", "version", "kind", "source", "session", "length", "offset", "body"],
)
def test_packets_that_make_no_sense_are_dropped(spoil: Callable[[bytes], bytes]) -> None:
    with NodeNet() as net:
        meet(net)
        links = net.nodes[1]._links
        assert links is not None
        session = links.peers[2].own_session
        good = Packer(1, is_big_endian=False).header(Kind.DATA, session, 9, EVENT, length=3)
        before = net.nodes[2].dropped
        inject(net, spoil(good + b"abc"))
        assert net.nodes[2].dropped == before + 1
        assert net.nodes[2].listing() == []


def test_a_sender_without_credit_is_not_believed() -> None:
    with NodeNet(window=INITIAL_WINDOW) as net:
        meet(net)
        links = net.nodes[1]._links
        assert links is not None
        session = links.peers[2].own_session
        for number in range(40):
            packet = Packer(1).header(Kind.DATA, session, number, EVENT, length=8000)
            inject(net, packet + bytes(8000))
        assert len(net.nodes[2].listing()) == 8
        assert net.nodes[2].dropped == 32


@pytest.mark.parametrize("kind", [Kind.BODY, Kind.ACCEPT, Kind.REFUSE, Kind.WITHDRAW, Kind.CREDIT])
def test_answers_to_questions_that_nobody_asked_do_nothing(kind: Kind) -> None:
    with NodeNet() as net:
        meet(net)
        links = net.nodes[1]._links
        assert links is not None
        session = links.peers[2].own_session
        inject(net, Packer(1).header(kind, session, 5, length=1 << 31) + b"x")
        assert net.nodes[2].listing() == []
        with pytest.raises(MessageTooLong):
            net.process(2).nsend(to(1, bytes(300_000)))


def test_there_is_a_limit_of_nodes() -> None:
    with (
        NodeNet(count=3, max_nodes=2) as net,
        pytest.raises(BadNode, match="2 nodes are known"),
    ):
        net.nodes[1].add_node(9, "n9")


def test_a_number_belongs_to_one_address() -> None:
    with NodeNet() as net:
        net.nodes[1].add_node(2, "n2")
        with pytest.raises(BadNode, match="node 2 is at n2, not at n3"):
            net.nodes[1].add_node(2, "n3")
        with pytest.raises(BadNode):
            net.nodes[1].add_node(1, "n1")
    with Node(1) as alone, pytest.raises(BadNode, match="no endpoint"):
        alone.add_node(2, "n2")
    with pytest.raises(BadNode, match="from 0 to 2147483647"):
        Node(-1)


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("via", ["carrier", "endpoint"])
def test_threads_of_a_node_share_its_links(via: str) -> None:
    """Several threads wait at once; one drives, and every one gets its own."""
    from i2o.transport.fabric.mem import MemoryFabric
    from i2o.transport.fabric.software_endpoint import SoftwareEndpoint

    fabric = MemoryFabric()

    def link(name: str) -> object:
        carrier = fabric.carrier(name)
        return carrier if via == "carrier" else SoftwareEndpoint(carrier)

    with Node(1, link("a"), spin_s=0) as one, Node(2, link("b"), spin_s=0) as two:  # type: ignore[arg-type]
        one.add_node(2, two.address)
        results: dict[int, int] = {}

        def echo(event: int) -> None:
            process = two.attach(f"echo {event}")
            for _ in range(10):
                process.nrecv(room(4, nh_event=event), timeout_s=20)
                process.nsend(to(1, b"echo", nh_event=100 + event), timeout_s=20)

        def ask(event: int) -> None:
            process = one.attach(f"ask {event}")
            for _ in range(10):
                process.nsend(to(2, b"ask!", nh_event=event), timeout_s=20)
                got = process.nrecv(room(4, nh_event=100 + event), timeout_s=20)
                results[event] = results.get(event, 0) + got.length

        threads = [
            threading.Thread(target=call, args=(event,))
            for event in range(3)
            for call in (echo, ask)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {0: 40, 1: 40, 2: 40}


def test_closing_a_node_ends_the_calls_that_wait() -> None:
    node = Node(1)
    caught: list[Exception] = []

    def receive() -> None:
        try:
            node.attach("p").nrecv(room(), timeout_s=20)
        except NotAttached as error:
            caught.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    wait_for(lambda: len(node.waits()) == 1)
    node.close()
    thread.join()
    assert len(caught) == 1


def test_an_interrupted_call_leaves_nothing_behind() -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with Node(1, pause=interrupt) as node:
        with pytest.raises(KeyboardInterrupt):
            node.attach("p").nrecv(room())
        with pytest.raises(KeyboardInterrupt):
            node.attach("p").nsend(to(LOCAL, nh_flags=NOBUF))
        assert node.waits() == []
        assert node.listing() == []
        node.attach("p").nsend(to(LOCAL))
        assert node.attach("p").ntry_recv(room()).length == 12
