# SPDX-License-Identifier: Apache-2.0
"""libfabric's providers, each behind the contract of endpoints.

What a provider lacks is refused, and the tests that differ say so: levels of completion that it
does not keep, and, with shared memory of libfabric 1.x, looking at messages and masks of tags.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from urllib.parse import quote

import pytest

from i2o.errors import TransportUnavailable
from i2o.testing.endpoint_messages import refuses
from i2o.testing.endpoints import EndpointConformance
from i2o.testing.stations import BOTH, Bench, Station
from i2o.transport.fabric.endpoint import Endpoint, Message, PassiveEndpoint
from i2o.transport.fabric.errors import FabricErrno
from i2o.transport.fabric.flags import Capability, Flag
from i2o.transport.ofi.library import load
from i2o.transport.ofi.opening import open_endpoint, open_passive

pytestmark = pytest.mark.libfabric
RENDEZVOUS = 1 << 20
"""Bytes of a message that is not done before the receiver fetches it."""


def with_caps(uri: str, wanted: Capability | None) -> str:
    if wanted is None:
        return uri
    return f"{uri}&caps={quote(','.join(each.name or '' for each in wanted))}"


class OfiConformance(EndpointConformance):
    """The differences that all of these providers have."""

    kept_levels: Flag = Flag.INJECT_COMPLETE

    def test_every_level_completes_once(self, bench: Bench, a: Station, b: Station) -> None:
        for level in (
            Flag.INJECT_COMPLETE,
            Flag.TRANSMIT_COMPLETE,
            Flag.DELIVERY_COMPLETE,
            Flag.MATCH_COMPLETE,
        ):
            message = Message([b"level"], a.addresses[b], level, tag=1)
            for post, receive in (
                (a.endpoint.sendmsg, b.endpoint.recv),
                (a.endpoint.tsendmsg, lambda into: b.endpoint.trecv(into, 1)),
            ):
                if not level & self.kept_levels:
                    with refuses(errno.ENOTSUP):
                        post(message, level)
                    continue
                into = bytearray(5)
                receive(into)
                bench.post(post, message, level)
                assert bench.completion(b).length == 5
                assert bench.completion(a).context == level
                assert into == b"level"
        bench.nothing()

    def test_weak_levels_do_not_wait_for_a_receive(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        if self.kept_levels & Flag.TRANSMIT_COMPLETE:
            super().test_weak_levels_do_not_wait_for_a_receive(bench, a, b)

    def test_delivered_is_in_the_receivers_buffer(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        if self.kept_levels & Flag.DELIVERY_COMPLETE:
            super().test_delivered_is_in_the_receivers_buffer(bench, a, b)

    def test_matched_waits_for_a_receive_or_a_discard(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        with refuses(errno.ENOTSUP):
            a.endpoint.tsendmsg(Message([b"x"], a.addresses[b], tag=1), Flag.MATCH_COMPLETE)

    def test_a_fence_waits_for_what_was_posted_before(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        to, other = a.addresses[b], bench.station()
        bench.introduce(a, other)
        bench.post(a.endpoint.tsend, bytes(RENDEZVOUS), 1, to, context="before")
        bench.post(a.endpoint.tsendmsg, Message([b"2"], to, "fenced", tag=2), Flag.FENCE)
        bench.post(a.endpoint.tsend, b"3", 3, to, context="after")
        for tag in (3, 2):
            b.endpoint.trecv(bytearray(1), tag, context=tag)
        bench.nothing()
        other.endpoint.recv(bytearray(1), context="elsewhere")
        bench.post(a.endpoint.send, b"x", a.addresses[other], context="elsewhere")
        assert bench.completion(other).context == "elsewhere"
        assert bench.completion(a).context == "elsewhere", "a fence is about one peer"
        bench.nothing()
        b.endpoint.trecv(bytearray(RENDEZVOUS), 1, context=1)
        assert [bench.completion(b).context for _ in range(3)] == [1, 2, 3]
        assert [bench.completion(a).context for _ in range(3)] == ["before", "fenced", "after"]

    def test_what_a_fence_held_back_ends_with_the_endpoint(self, bench: Bench, a: Station) -> None:
        sender = bench.station()
        bench.introduce(a, sender)
        to = sender.addresses[a]
        bench.post(sender.endpoint.tsend, bytes(RENDEZVOUS), 1, to, context="before")
        for number in range(3):
            bench.post(sender.endpoint.sendmsg, Message([b"2"], to, number), Flag.FENCE)
        bench.settle()
        sender.endpoint.close()
        ended = [bench.error(sender, errno.ECANCELED).context for _ in range(4)]
        assert sorted(map(str, ended)) == ["0", "1", "2", "before"]


class TestTcpRxm(OfiConformance):
    """Unconnected endpoints over TCP, and connected ones over TCP as it is."""

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return open_endpoint(with_caps("ofi://tcp;ofi_rxm/127.0.0.1:0?connect_ms=300", wanted))

    def listen(self, resources: ExitStack) -> PassiveEndpoint:
        return open_passive("ofi://tcp/127.0.0.1:0")

    def open_connected(self, resources: ExitStack) -> Endpoint:
        return open_endpoint("ofi://tcp/127.0.0.1:0?connect_ms=1000")

    def nobody(self, resources: ExitStack) -> str:
        with open_endpoint("ofi://tcp;ofi_rxm/127.0.0.1:0") as gone:
            cq = gone.open_cq()
            gone.bind(cq, BOTH)
            gone.enable()
            name = gone.name
        cq.close()
        return name


def shm_is_old() -> bool:
    try:
        return load().version.startswith("1.")
    except TransportUnavailable:  # then everything here is skipped anyway
        return False


class TestShm(OfiConformance):
    """Shared memory."""

    kept_levels = Flag.INJECT_COMPLETE | Flag.TRANSMIT_COMPLETE | Flag.DELIVERY_COMPLETE

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return open_endpoint(with_caps("ofi://shm/?connect_ms=300", wanted))

    def nobody(self, resources: ExitStack) -> str | None:
        # libfabric 1.x does not tell two apart who were both inserted before they were there
        return None if shm_is_old() else "fi_ns://i2o-tests-nobody"

    def test_nothing_is_posted_before_it_is_enabled(self, bench: Bench) -> None:
        with bench.endpoint() as endpoint:
            cq = endpoint.open_cq()
            endpoint.bind(cq, BOTH)
            to = endpoint.insert(bench.station().endpoint.name)
            for call in self._operations(endpoint, to):
                with refuses(FabricErrno.EOPBADSTATE):
                    call()
        cq.close()


_TAKEN = (
    "test_a_peek_that_finds_nothing",
    "test_a_peek_tells_of_a_message_that_stays",
    "test_a_peek_finds_the_oldest",
    "test_a_claimed_message_is_for_its_claim_alone",
    "test_two_claims_at_once",
    "test_a_message_is_discarded",
    "test_flags_of_peeks_that_make_no_sense",
)
_MASKED = (
    "test_a_tag_is_matched_where_it_is_not_ignored",
    "test_receives_and_messages_are_searched_in_order",
    "test_plain_and_tagged_messages_do_not_meet",
    "test_truncation_tells_the_tag",
    "test_every_send_and_every_receive",
)


def _no_looks(self: TestShm, bench: Bench, a: Station, b: Station) -> None:
    """It would take the message: refused, and what is there is received."""
    for flags in (Flag.PEEK, Flag.PEEK | Flag.CLAIM, Flag.PEEK | Flag.DISCARD, Flag.CLAIM):
        with refuses(errno.ENOTSUP):
            b.endpoint.trecvmsg(Message(tag=1), flags)
    bench.post(a.endpoint.tsend, b"x", 1, a.addresses[b])
    b.endpoint.trecv(bytearray(1), 1, context="whole")
    assert bench.completion(b).context == "whole"


def _no_masks(self: TestShm, bench: Bench, a: Station, b: Station) -> None:
    """It would compare with another receive's mask: refused; whole tags are matched in order."""
    with refuses(errno.ENOTSUP):
        b.endpoint.trecv(bytearray(1), 0, 1)
    for number, tag in enumerate((1, 2, 1, 3, 2)):
        bench.post(a.endpoint.tsenddata, b"x", number, tag, a.addresses[b])
    for tag, number in ((2, 1), (1, 0), (2, 4), (3, 3), (1, 2)):
        b.endpoint.trecv(bytearray(1), tag, context=tag)
        got = bench.completion(b)
        assert (got.tag, got.data) == (tag, number)


if shm_is_old():
    for name in _TAKEN:
        setattr(TestShm, name, _no_looks)
    for name in _MASKED:
        if hasattr(TestShm, name):
            setattr(TestShm, name, _no_masks)
