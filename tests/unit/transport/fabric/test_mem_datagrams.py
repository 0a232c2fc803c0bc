# SPDX-License-Identifier: Apache-2.0
"""Datagrams in memory: lost silently, and multicast to groups."""

from __future__ import annotations

import errno
import select

import pytest

from fakes.endpoint_end import Ends
from i2o.transport.fabric.completion import Completion
from i2o.transport.fabric.endpoint import Message, MulticastEndpoint
from i2o.transport.fabric.engine_options import EngineOptions
from i2o.transport.fabric.errors import FabricErrno, FabricError
from i2o.transport.fabric.flags import Capability, EndpointType, Flag

DGRAM = EndpointType.DGRAM


def test_a_datagram_arrives_or_does_not(ends: Ends) -> None:
    one = ends.end("one", DGRAM)
    other = ends.end("other", DGRAM, options=EngineOptions(window_messages=2))
    to, nobody = one.endpoint.insert("other"), one.endpoint.insert("nobody")
    other.endpoint.insert("one")
    buffer = bytearray(10)
    other.endpoint.recv(buffer, context="r")
    one.endpoint.send(b"abc", to, context="s")
    one.endpoint.send(b"abc", nobody, context="to nobody")
    assert one.contexts() == ["s", "to nobody"]
    (entry,) = other.entries()
    assert isinstance(entry, Completion)
    assert (entry.length, entry.source, bytes(buffer[:3])) == (3, 0, b"abc")
    for number in range(5):
        one.endpoint.inject(bytes([number]), to)
    other.endpoint.progress()
    for _ in range(3):
        other.endpoint.recv(buffer, context="kept")
    assert other.contexts() == ["kept", "kept"], "what found no place is lost"


def test_limits_and_flags_of_datagrams(ends: Ends) -> None:
    one = ends.end("one", DGRAM)
    to = one.endpoint.insert("one")
    limit = one.endpoint.attributes.max_msg_size
    assert limit == ends.fabric.frame_limit - 48
    with pytest.raises(FabricError) as caught:
        one.endpoint.send(bytes(limit + 1), to)
    assert caught.value.errno == errno.EMSGSIZE
    for flag in (Flag.DELIVERY_COMPLETE, Flag.MATCH_COMPLETE):
        with pytest.raises(FabricError) as caught:
            one.endpoint.sendmsg(Message([b"x"], to), flag)
        assert caught.value.errno == FabricErrno.EBADFLAGS
    with pytest.raises(FabricError) as caught:
        one.endpoint.tsend(b"x", 1, to)
    assert caught.value.errno == errno.ENOTSUP
    for name in ("", "group:x"):
        with pytest.raises(FabricError):
            one.endpoint.insert(name)


def test_groups(ends: Ends) -> None:
    one, other, third = (ends.end(name, DGRAM) for name in ("one", "other", "third"))
    assert isinstance(one.endpoint, MulticastEndpoint)
    assert Capability.MULTICAST in one.endpoint.attributes.capabilities
    group = one.endpoint.join("all")
    assert one.endpoint.join("all") == group
    assert one.endpoint.address_of(group) == "all"
    theirs = other.endpoint.join("all")
    third.endpoint.recv(bytearray(4), context="not in it")
    for end in (one, other):
        end.endpoint.recv(bytearray(4), context="in it")
    one.endpoint.sendmsg(Message([b"hi"], group, context="s"), Flag.MULTICAST)
    entries = one.entries()
    assert [entry.context for entry in entries] == ["s", "in it"]
    (entry,) = other.entries()
    assert entry.flags == Flag.RECV | Flag.MSG | Flag.MULTICAST
    assert third.entries() == []
    peer = one.endpoint.insert("other")
    for address, flag in ((group, Flag(0)), (peer, Flag.MULTICAST)):
        with pytest.raises(FabricError) as caught:
            one.endpoint.sendmsg(Message([b"hi"], address), flag)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(FabricError):
        one.endpoint.leave(peer)
    other.endpoint.leave(theirs)
    other.endpoint.recv(bytearray(4), context="left")
    one.endpoint.sendmsg(Message([b"hi"], group, context="s"), Flag.MULTICAST)
    assert other.entries() == []
    with pytest.raises(FabricError):
        other.endpoint.leave(theirs)
    with pytest.raises(FabricError):
        one.endpoint.join("")


def test_reliable_endpoints_have_no_groups(ends: Ends) -> None:
    one = ends.end("one")
    with pytest.raises(FabricError) as caught:
        one.endpoint.join("all")
    assert caught.value.errno == errno.ENOTSUP
    with pytest.raises(FabricError) as caught:
        one.endpoint.sendmsg(Message([b"x"], one.endpoint.insert("one")), Flag.MULTICAST)
    assert caught.value.errno == errno.ENOTSUP
    with pytest.raises(FabricError) as caught:
        ends.end("two", capabilities=Capability.MULTICAST)
    assert caught.value.errno == errno.ENOTSUP


def test_frames_that_are_no_datagrams_are_counted(ends: Ends) -> None:
    one = ends.end("one", DGRAM)
    other = ends.fabric.datagram_carrier("other")
    for frame in (b"", b"\x02\x00\x00\x00" + bytes(50), b"\x02\x00\x00\x00" + bytes(10), bytes(9)):
        other.send(other.resolve("one"), (frame,))
    assert one.entries() == []
    other.disconnect(0)
    assert other.next_deadline_ns() is None
    other.close()


def test_the_descriptor_of_datagrams(ends: Ends) -> None:
    carrier = ends.fabric.datagram_carrier("one")
    assert carrier.fileno() == -1, "not open yet"

    class Sink:
        def __init__(self) -> None:
            self.frames: list[bytes] = []
            self.sent: list[object] = []

        def frame_arrived(self, peer: int, frame: memoryview) -> None:
            self.frames.append(bytes(frame))

        def frame_sent(self, peer: int, token: object) -> None:
            self.sent.append(token)

        def room_made(self, peer: int) -> None: ...

        def peer_up(self, peer: int) -> None: ...

        def peer_lost(self, peer: int, error: int, reason: str) -> None: ...

    sink = Sink()
    me = carrier.resolve("one")
    carrier.send(me, (b"lost, as nobody listens",))
    assert carrier.lost == 1
    carrier.open(sink)
    carrier.send(me, (b"1",), "token")
    assert sink.sent == ["token"]
    assert select.select([carrier.fileno()], [], [], 0)[0]
    carrier.progress()
    assert not select.select([carrier.fileno()], [], [], 0)[0]
    carrier.send(me, (b"2",))
    assert select.select([carrier.fileno()], [], [], 0)[0]
    carrier.progress()
    assert sink.frames == [b"1", b"2"]
    with pytest.raises(FabricError):
        ends.fabric.datagram_carrier("one")
    carrier.close()
    carrier.close()
    carrier.progress()
