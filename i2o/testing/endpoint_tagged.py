# SPDX-License-Identifier: Apache-2.0
"""Conformance of endpoints: tagged messages, as fi_tagged(3) has them."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

from i2o.testing.endpoint_backend import EndpointBackend
from i2o.testing.endpoint_messages import KINDS, PLAIN, REFUSED, refuses
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.completion import Completion
from i2o.transport.fabric.endpoint import NO_FLAGS, Message
from i2o.transport.fabric.errors import FabricErrno, FabricError
from i2o.transport.fabric.flags import Capability, Flag

SENT = Flag.SEND | Flag.TAGGED
RECEIVED = Flag.RECV | Flag.TAGGED
_ALL = 0xFFFF_FFFF_FFFF_FFFF
_HIGH = 0x8000_0000_0000_0001


class EndpointTagged(EndpointBackend):
    """Matching by tag, and looking at messages before they are received."""

    def test_without_the_capability_there_are_no_tagged_messages(self, bench: Bench) -> None:
        """ENOTSUP, for every call."""
        station = bench.station(PLAIN)
        if station.capabilities & Capability.TAGGED:  # the provider gives no less
            return
        to = station.endpoint.insert(station.endpoint.name)
        one = station.endpoint
        calls: list[Callable[[], None]] = [
            lambda: one.tsend(b"x", 1, to),
            lambda: one.tsendv([b"x"], 1, to),
            lambda: one.tsendmsg(Message([b"x"], to, tag=1)),
            lambda: one.tinject(b"x", 1, to),
            lambda: one.tsenddata(b"x", 1, 1, to),
            lambda: one.tinjectdata(b"x", 1, 1, to),
            lambda: one.trecv(bytearray(1), 1),
            lambda: one.trecvv([bytearray(1)], 1),
            lambda: one.trecvmsg(Message([bytearray(1)], tag=1)),
        ]
        for call in calls:
            with refuses(errno.ENOTSUP):
                call()
        bench.nothing()

    # --- matching --------------------------------------------------------------------------------

    def test_a_tag_is_matched_where_it_is_not_ignored(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """send_tag & ~ignore == recv_tag & ~ignore; the sender's whole tag is told."""
        b.endpoint.trecv(bytearray(1), _HIGH, context="exact")
        b.endpoint.trecv(bytearray(1), 0x1200, 0xFF, context="low byte ignored")
        b.endpoint.trecv(bytearray(1), 0, _ALL, context="any")
        for tag, context in ((0x12AB, "low byte ignored"), (_HIGH, "exact"), (_HIGH, "any")):
            bench.post(a.endpoint.tsend, b"x", tag, a.addresses[b])
            got = bench.completion(b)
            assert (got.context, got.tag, got.flags & KINDS) == (context, tag, RECEIVED)
            assert bench.completion(a).flags & KINDS == SENT

    def test_receives_and_messages_are_searched_in_order(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """Random tags and masks, receives before and after messages: as one who does it by hand."""
        chance = random.Random(6)
        receives: list[tuple[int, int, int]] = []
        waiting: list[tuple[int, int]] = []
        wanted: dict[object, int] = {}
        got: dict[object, int] = {}
        number = 0
        for phase in range(12):
            for _ in range(10):
                number += 1
                tag = chance.randrange(4)
                if phase % 2:
                    found = next((r for r in receives if not (r[0] ^ tag) & ~r[1]), None)
                    if found is not None:
                        receives.remove(found)
                        wanted[found[2]] = number
                    else:
                        waiting.append((tag, number))
                    bench.post(a.endpoint.tsenddata, b"x", number, tag, a.addresses[b])
                else:
                    ignore = chance.choice((0, 0, 1, 3))
                    hit = next((m for m in waiting if not (m[0] ^ tag) & ~ignore), None)
                    if hit is not None:
                        waiting.remove(hit)
                        wanted[number] = hit[1]
                    else:
                        receives.append((tag, ignore, number))
                    b.endpoint.trecv(bytearray(4), tag, ignore, context=number)
            bench.settle()  # what was sent has arrived when the next receive is posted
            got.update(self._numbers(b))
        assert got == wanted
        assert len(wanted) > 20

    @staticmethod
    def _numbers(station: Station) -> dict[object, int]:
        taken = {}
        while station.entries:
            entry = station.entries.popleft()
            assert isinstance(entry, Completion), entry
            taken[entry.context] = entry.data
        return taken

    def test_plain_and_tagged_messages_do_not_meet(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """A receive of one kind takes no message of the other, not even with tag 0."""
        b.endpoint.trecv(bytearray(8), 0, _ALL, context="tagged")
        b.endpoint.recv(bytearray(8), context="plain")
        bench.post(a.endpoint.send, b"plain", a.addresses[b])
        assert bench.completion(b).context == "plain"
        bench.post(a.endpoint.send, b"plain", a.addresses[b])
        bench.post(a.endpoint.tsend, b"tagged", 0, a.addresses[b])
        assert bench.completion(b).context == "tagged"
        bench.nothing(b)
        b.endpoint.recv(bytearray(8), context="plain")
        assert bench.completion(b).length == 5

    def test_a_directed_tagged_receive(self, bench: Bench, a: Station, b: Station) -> None:
        """Tag and source both have to fit."""
        other = bench.station()
        bench.introduce(b, other)
        directed = bool(b.capabilities & Capability.DIRECTED_RECV)
        b.endpoint.trecv(bytearray(1), 5, 0, b.addresses[other], context="of other")
        b.endpoint.trecv(bytearray(1), 5, context="of any")
        bench.post(a.endpoint.tsend, b"x", 5, a.addresses[b])
        assert bench.completion(b).context == ("of any" if directed else "of other")
        bench.post(other.endpoint.tsend, b"x", 5, other.addresses[b])
        assert bench.completion(b).context == ("of other" if directed else "of any")

    def test_tags_are_numbers_of_64_bits(self, bench: Bench, a: Station, b: Station) -> None:
        """Others are refused."""
        for tag in (-1, _ALL + 1):
            with refuses(errno.EINVAL):
                a.endpoint.tsend(b"x", tag, a.addresses[b])
            with refuses(errno.EINVAL):
                b.endpoint.trecv(bytearray(1), tag)
        with refuses(errno.EINVAL):
            b.endpoint.trecv(bytearray(1), 0, _ALL + 1)
        bench.nothing()

    # --- every call ------------------------------------------------------------------------------

    def test_every_send_and_every_receive(self, bench: Bench, a: Station, b: Station) -> None:
        """They differ in what they are given, and in who hears of the end."""
        to, one, text, into = a.addresses[b], a.endpoint, [b"text"], bytearray(4)
        head, rest = memoryview(into)[:1], memoryview(into)[1:]
        sends: list[tuple[Callable[[], None], int | None, bool]] = [
            (lambda: one.tsend(b"text", 7, to, context="out"), None, True),
            (lambda: one.tsendv([b"te", b"xt"], 7, to, desc=[None] * 2, context="out"), None, True),
            (lambda: one.tsendmsg(Message(text, to, "out", tag=7)), None, True),
            (lambda: one.tsendmsg(Message(text, to, "out", 3, 7), Flag.REMOTE_CQ_DATA), 3, True),
            (lambda: one.tsendmsg(Message(text, to, "out", tag=7), Flag.INJECT), None, True),
            (lambda: one.tinject(b"text", 7, to), None, False),
            (lambda: one.tsenddata(b"text", 9, 7, to, context="out"), 9, True),
            (lambda: one.tinjectdata(b"text", 9, 7, to), 9, False),
        ]  # fmt: skip
        receives: list[Callable[[], None]] = [
            lambda: b.endpoint.trecv(into, 7, context="in"),
            lambda: b.endpoint.trecvv([head, rest], 7, context="in"),
            lambda: b.endpoint.trecvmsg(Message([into], context="in", tag=6, ignore=1)),
        ]  # fmt: skip
        for send, number, is_told in sends:
            for receive in receives:
                into[:] = bytes(4)
                receive()
                bench.post(send)
                got = bench.completion(b)
                assert (got.context, got.length, got.tag, got.data) == ("in", 4, 7, number or 0)
                assert bool(got.flags & Flag.REMOTE_CQ_DATA) == (number is not None)
                assert into == b"text"
                if is_told:
                    assert bench.completion(a).context == "out"
        bench.nothing()

    def test_limits_are_those_of_plain_messages(self, bench: Bench, a: Station, b: Station) -> None:
        """inject_size and iov_limit."""
        limits = a.endpoint.attributes
        with refuses(errno.EMSGSIZE):
            a.endpoint.tinject(bytes(limits.inject_size + 1), 1, a.addresses[b])
        with refuses(errno.EMSGSIZE):
            a.endpoint.tinjectdata(bytes(limits.inject_size + 1), 1, 1, a.addresses[b])
        with refuses(errno.EINVAL):
            a.endpoint.tsendv([b"x"] * (limits.iov_limit + 1), 1, a.addresses[b])
        with refuses(errno.EINVAL):
            b.endpoint.trecvv([bytearray(1)] * (limits.iov_limit + 1), 1)
        for flag in (Flag.MULTI_RECV, Flag.INJECT, Flag.FENCE):
            with refuses(*REFUSED):
                b.endpoint.trecvmsg(Message([bytearray(1)], tag=1), flag)
        with refuses(*REFUSED):
            a.endpoint.tsendmsg(Message([b"x"], a.addresses[b], tag=1), Flag.PEEK)
        bench.nothing()

    def test_truncation_tells_the_tag(self, bench: Bench, a: Station, b: Station) -> None:
        """ETRUNC as for plain messages."""
        b.endpoint.trecv(bytearray(3), 0, _ALL, context="short")
        bench.post(a.endpoint.tsend, b"0123456789", 77, a.addresses[b])
        error = bench.error(b, FabricErrno.ETRUNC)
        assert (error.context, error.length, error.olen, error.tag) == ("short", 3, 7, 77)
        assert error.flags & KINDS == RECEIVED

    def test_a_tagged_receive_is_cancelled(self, bench: Bench, a: Station, b: Station) -> None:
        """It takes nothing any more; the message goes to the next."""
        b.endpoint.trecv(bytearray(1), 5, context="gone")
        b.endpoint.trecv(bytearray(1), 5, context="next")
        assert b.endpoint.cancel("gone")
        error = bench.error(b, errno.ECANCELED)
        assert (error.context, error.flags & KINDS) == ("gone", RECEIVED)
        bench.post(a.endpoint.tsend, b"x", 5, a.addresses[b])
        assert bench.completion(b).context == "next"

    # --- peek, claim, discard --------------------------------------------------------------------

    def test_a_peek_that_finds_nothing(self, bench: Bench, a: Station, b: Station) -> None:
        """ENOMSG in an error entry; it does not stay queued."""
        b.endpoint.trecvmsg(Message(context="peek", tag=1), Flag.PEEK)
        assert bench.error(b, errno.ENOMSG).context == "peek"
        bench.post(a.endpoint.tsend, b"x", 1, a.addresses[b])
        bench.completion(a)
        bench.nothing(b)

    def test_a_peek_tells_of_a_message_that_stays(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """Length, tag, number and source, as often as one asks; then it is received."""
        bench.post(a.endpoint.tsenddata, b"0123456789", 42, 0x107, a.addresses[b])
        for _ in range(2):
            got = self._peek(bench, b, tag=0x100, ignore=0xFF)
            assert (got.length, got.tag, got.data) == (10, 0x107, 42)
            assert got.flags & Flag.REMOTE_CQ_DATA
            if b.capabilities & Capability.SOURCE:
                assert got.source == b.addresses[a]
        b.endpoint.trecvmsg(Message(tag=0x207), Flag.PEEK)
        bench.error(b, errno.ENOMSG)
        into = bytearray(10)
        b.endpoint.trecv(into, 0x107)
        assert bench.completion(b).length == 10
        assert into == b"0123456789"
        b.endpoint.trecvmsg(Message(tag=0x107), Flag.PEEK)
        bench.error(b, errno.ENOMSG)

    def test_a_peek_finds_the_oldest(self, bench: Bench, a: Station, b: Station) -> None:
        """In the order in which a receive would take them."""
        for number in (1, 2, 3):
            bench.post(a.endpoint.tsenddata, b"x" * number, number, number & 1, a.addresses[b])
        assert self._peek(bench, b, tag=0).data == 2
        assert self._peek(bench, b, tag=0, ignore=_ALL).data == 1

    def test_a_claimed_message_is_for_its_claim_alone(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """PEEK|CLAIM, then CLAIM with the same context; other receives do not see it."""
        bench.post(a.endpoint.tsend, b"claimed", 1, a.addresses[b])
        bench.post(a.endpoint.tsend, b"other", 1, a.addresses[b])
        mine = object()
        got = self._peek(bench, b, tag=1, context=mine, flags=Flag.CLAIM)
        assert (got.context, got.length) == (mine, 7)
        into = bytearray(7)
        b.endpoint.trecv(into, 0, _ALL, context="any")
        assert bench.completion(b).context == "any"
        assert into[:5] == b"other"
        b.endpoint.trecvmsg(Message(tag=1), Flag.PEEK)
        bench.error(b, errno.ENOMSG)
        self._claim_in_vain(bench, b, object())
        b.endpoint.trecvmsg(Message([into], context=mine, tag=1), Flag.CLAIM)
        got = bench.completion(b)
        assert (got.context, got.length, got.tag, bytes(into)) == (mine, 7, 1, b"claimed")
        self._claim_in_vain(bench, b, mine)

    def test_two_claims_at_once(self, bench: Bench, a: Station, b: Station) -> None:
        """Each is paired by its context, in any order."""
        for data in (b"1", b"2"):
            bench.post(a.endpoint.tsend, data, 1, a.addresses[b])
        for mark in ("first", "second"):
            self._peek(bench, b, tag=1, context=mark, flags=Flag.CLAIM)
        for mark, data in (("second", b"2"), ("first", b"1")):
            into = bytearray(1)
            b.endpoint.trecvmsg(Message([into], context=mark, tag=1), Flag.CLAIM)
            assert bench.completion(b).context == mark
            assert into == data

    def test_a_message_is_discarded(self, bench: Bench, a: Station, b: Station) -> None:
        """PEEK|DISCARD throws it away, and so does CLAIM|DISCARD of a claimed one."""
        for tag in (1, 2):
            bench.post(a.endpoint.tsend, b"unwanted", tag, a.addresses[b])
        assert self._peek(bench, b, tag=1, flags=Flag.DISCARD).tag == 1
        b.endpoint.trecvmsg(Message(tag=1), Flag.PEEK)
        bench.error(b, errno.ENOMSG)
        self._peek(bench, b, tag=2, context="mine", flags=Flag.CLAIM)
        b.endpoint.trecvmsg(Message(context="mine", tag=2), Flag.CLAIM | Flag.DISCARD)
        assert bench.completion(b).context == "mine"
        self._claim_in_vain(bench, b, "mine")
        b.endpoint.trecvmsg(Message(tag=0, ignore=_ALL), Flag.PEEK)
        bench.error(b, errno.ENOMSG)
        bench.completions(a, 2)
        bench.post(a.endpoint.tsend, b"wanted", 1, a.addresses[b])
        b.endpoint.trecv(bytearray(9), 1)
        assert bench.completion(b).length == 6

    def test_flags_of_peeks_that_make_no_sense(self, bench: Bench, a: Station, b: Station) -> None:
        """DISCARD goes with PEEK or CLAIM."""
        with refuses(*REFUSED, errno.EINVAL):
            b.endpoint.trecvmsg(Message([bytearray(1)], tag=1), Flag.DISCARD)
        bench.nothing()

    # --- inside ----------------------------------------------------------------------------------

    def _peek(
        self,
        bench: Bench,
        station: Station,
        tag: int,
        ignore: int = 0,
        context: object = "peek",
        flags: Flag = NO_FLAGS,
    ) -> Completion:
        """Look until there is a message; one that is on its way is not there yet."""

        def look() -> Completion | None:
            message = Message(context=context, tag=tag, ignore=ignore)
            station.endpoint.trecvmsg(message, Flag.PEEK | flags)
            entry = bench.entry(station)
            if isinstance(entry, Completion):
                assert entry.context == context
                return entry
            assert entry.err == errno.ENOMSG
            return None

        return bench.until(look, "a message to peek at")

    def _claim_in_vain(self, bench: Bench, station: Station, context: object) -> None:
        """Claim what nobody reserved under this context: refused at once, or by an entry."""
        try:
            station.endpoint.trecvmsg(Message([bytearray(9)], context=context, tag=1), Flag.CLAIM)
        except FabricError:
            return
        assert bench.error(station).context == context
