# SPDX-License-Identifier: Apache-2.0
"""Conformance of endpoints: completion queues, as fi_cq(3) has them."""

from __future__ import annotations

import errno
import math
import select
import threading
from collections.abc import Callable

import pytest

from i2o.clock import SYSTEM_CLOCK
from i2o.testing.bare_host import PATIENCE_S
from i2o.testing.endpoint_backend import EndpointBackend
from i2o.testing.endpoint_messages import refuses
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.completion import Completion
from i2o.transport.fabric.errors import ErrorAvailable, FabricErrno, FabricError, TryAgain
from i2o.transport.fabric.flags import Bind, Capability, CqFormat

_SLICE_S = 0.005


class EndpointQueues(EndpointBackend):
    """Reading: how much, in which order, with and without waiting, and errors."""

    def test_an_empty_queue(self, a: Station) -> None:
        """read and readerr say EAGAIN; a read of none only moves things on."""
        with pytest.raises(TryAgain) as caught:
            a.cq.read()
        assert caught.value.errno == errno.EAGAIN
        with pytest.raises(TryAgain):
            a.cq.readerr()
        assert a.cq.read(0) == []

    def test_as_many_as_asked_for_and_as_there_are(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """One to `count`, in the order in which they ended."""
        for number in range(6):
            b.endpoint.recv(bytearray(1), context=number)
            bench.post(a.endpoint.send, b"x", a.addresses[b])
        self._ready(bench, a, b, 6)
        got = [b.cq.read(1), b.cq.read(2), b.cq.read(100)]
        assert [len(part) for part in got] == [1, 2, 3]
        assert [entry.context for part in got for entry in part] == list(range(6))
        with pytest.raises(TryAgain):
            b.cq.read(100)

    def test_reading_none_takes_none(self, bench: Bench, a: Station, b: Station) -> None:
        """A count of 0 leaves entries where they are."""
        b.endpoint.recv(bytearray(1), context="kept")
        bench.post(a.endpoint.send, b"x", a.addresses[b])
        self._ready(bench, a, b, 1)
        for _ in range(3):
            assert b.cq.read(0) == []
        assert b.cq.read(5)[0].context == "kept"

    def test_an_error_is_in_its_place(self, bench: Bench, a: Station, b: Station) -> None:
        """EAVAIL until readerr has taken it; what came before it is read before."""
        for context, size in (("first", 4), ("short", 1), ("last", 4)):
            b.endpoint.recv(bytearray(size), context=context)
        for _ in range(3):
            bench.post(a.endpoint.send, b"1234", a.addresses[b])
        self._ready(bench, a, b, 3)
        entries: list[object] = []
        while len(entries) < 3:
            try:
                entries += [entry.context for entry in b.cq.read(10)]
            except ErrorAvailable:
                with refuses(FabricErrno.EAVAIL):
                    b.cq.read(10)
                with pytest.raises(ErrorAvailable):
                    b.cq.sread(10, 0)
                entries.append(b.cq.readerr().context)
                with pytest.raises(TryAgain):
                    b.cq.readerr()
            except TryAgain:
                _progress(a, b)
        assert entries == ["first", "short", "last"]

    @pytest.mark.parametrize("format", CqFormat, ids=lambda format: format.name)
    def test_a_format_tells_what_it_has(self, bench: Bench, a: Station, format: CqFormat) -> None:
        """Fields beyond it are zero."""
        b = bench.station(format=format)
        bench.introduce(a, b)
        assert b.cq.format == format
        tagged = bool(b.capabilities & a.capabilities & Capability.TAGGED)
        if tagged:
            b.endpoint.trecv(bytearray(4), 77, context="in")
            bench.post(a.endpoint.tsenddata, b"1234", 5, 77, a.addresses[b])
        else:
            b.endpoint.recv(bytearray(4), context="in")
            bench.post(a.endpoint.senddata, b"1234", 5, a.addresses[b])
        got = bench.completion(b)
        assert got.context == "in"
        assert bool(got.flags) == (format >= CqFormat.MSG)
        assert got.length == (4 if format >= CqFormat.MSG else 0)
        assert got.data == (5 if format >= CqFormat.DATA else 0)
        assert got.tag == (77 if tagged and format >= CqFormat.TAGGED else 0)
        b.endpoint.recv(bytearray(1), context="gone")
        assert b.endpoint.cancel("gone")
        assert bench.error(b, errno.ECANCELED).context == "gone"

    # --- waiting ---------------------------------------------------------------------------------

    def test_waiting_for_nothing_ends(self, a: Station) -> None:
        """sread says EAGAIN when its time is over."""
        for timeout_s in (0.0, 0.01):
            with pytest.raises(TryAgain):
                a.cq.sread(1, timeout_s)

    def test_waiting_has_an_end_or_none(self, a: Station) -> None:
        """A limit that is not a number would never be over: it is refused."""
        with refuses(errno.EINVAL):
            a.cq.sread(1, math.nan)

    def test_waiting_returns_what_is_there(self, bench: Bench, a: Station, b: Station) -> None:
        """At once, as read would."""
        for number in range(3):
            b.endpoint.recv(bytearray(1), context=number)
            bench.post(a.endpoint.send, b"x", a.addresses[b])
        self._ready(bench, a, b, 3)
        assert [entry.context for entry in b.cq.sread(2, PATIENCE_S)] == [0, 1]
        assert b.cq.sread(2, None)[0].context == 2

    def test_who_waits_is_woken_by_a_message(self, bench: Bench, a: Station, b: Station) -> None:
        """While another thread does nothing but what a sender has to do."""
        b.endpoint.recv(bytearray(5), context="woken")
        got: list[Completion] = []
        waiter = threading.Thread(
            target=lambda: got.extend(b.cq.sread(1, PATIENCE_S)), name="i2o-test-waiter"
        )
        waiter.start()
        self._until(lambda: self._sent(a, b), "room for a send")
        self._until(lambda: self._moved(a, waiter), "the end of the wait")
        waiter.join()
        assert [entry.context for entry in got] == ["woken"]

    def test_who_waits_is_woken_by_a_signal(self, a: Station) -> None:
        """sread returns with EAGAIN although its time is not over, also when it has none."""
        outcome: list[object] = []

        def wait() -> None:
            try:
                outcome.extend(a.cq.sread(1, None))
            except FabricError as error:
                outcome.append(error)

        waiter = threading.Thread(target=wait, name="i2o-test-waiter")
        waiter.start()
        self._until(lambda: self._signalled(a, waiter), "the end of the wait")
        waiter.join()
        assert isinstance(outcome[0], TryAgain)

    def test_the_descriptor_says_when_to_read(self, bench: Bench, a: Station, b: Station) -> None:
        """Who sleeps on the descriptors of both ends and reads when one is readable gets all."""
        for number in range(20):
            b.endpoint.recv(bytearray(1), context=number)
            bench.post(a.endpoint.send, b"x", a.addresses[b])
            end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
            while not (a.entries and b.entries):
                assert SYSTEM_CLOCK.monotonic() < end, "the descriptors stay silent"
                if not (a.pump() | b.pump()):
                    select.select([a.cq.fileno(), b.cq.fileno()], [], [], PATIENCE_S)
            assert bench.completion(b).context == number
            bench.completion(a)

    def test_a_closed_queue_has_no_descriptor(self, bench: Bench) -> None:
        """-1, as anything that is closed."""
        station = bench.station()
        assert station.cq.fileno() >= 0
        station.close()
        assert station.cq.fileno() == -1

    # --- life ------------------------------------------------------------------------------------

    def test_a_queue_in_use_is_not_closed(self, bench: Bench) -> None:
        """EBUSY until the endpoint is."""
        station = bench.station()
        with refuses(errno.EBUSY):
            station.cq.close()
        station.endpoint.close()
        station.cq.close()

    def test_entries_outlive_their_endpoint(self, bench: Bench, a: Station, b: Station) -> None:
        """What had ended before it was closed is read afterwards, then what closing ended."""
        b.endpoint.recv(bytearray(1), context="done")
        b.endpoint.recv(bytearray(1), context="open")
        bench.post(a.endpoint.send, b"x", a.addresses[b])
        bench.settle()
        b.endpoint.close()
        assert bench.completion(b).context == "done"
        assert bench.error(b, errno.ECANCELED).context == "open"
        with pytest.raises(TryAgain):
            b.cq.read()

    def test_a_queue_of_two_endpoints(self, bench: Bench, a: Station) -> None:
        """Endpoints of one domain share it; an endpoint of another is refused."""
        endpoint = bench.endpoint()
        is_shared, flags = True, Bind.RECV | Bind.TRANSMIT
        try:
            endpoint.bind(a.cq, flags)
        except FabricError:
            is_shared = False
        if not is_shared:
            with endpoint, refuses(FabricErrno.EDOMAIN):
                endpoint.bind(a.cq, flags)
            return
        endpoint.enable()
        other = bench.adopt(Station(endpoint, cq=a.cq, enable=False))
        bench.introduce(a, other)
        other.endpoint.recv(bytearray(1), context="in")
        bench.post(a.endpoint.send, b"x", a.addresses[other], context="out")
        got: set[object] = set()
        while len(got) < 2:
            station = bench.until(lambda: self._with_entries(a, other), "an entry")
            got.add(bench.completion(station).context)
        assert got == {"in", "out"}

    def test_two_queues_of_one_endpoint(self, bench: Bench, a: Station) -> None:
        """Sends end in one, receives in the other."""
        endpoint = bench.endpoint()
        sends, receives = endpoint.open_cq(), endpoint.open_cq()
        endpoint.bind(sends, Bind.TRANSMIT)
        endpoint.bind(receives, Bind.RECV)
        endpoint.enable()
        station = bench.adopt(Station(endpoint, cq=receives, enable=False))
        bench.introduce(a, station)
        station.endpoint.recv(bytearray(1), context="in")
        bench.post(a.endpoint.send, b"x", a.addresses[station])
        assert bench.completion(station).context == "in"
        a.endpoint.recv(bytearray(1))
        bench.post(endpoint.send, b"x", station.addresses[a], context="out")

        def look() -> Completion | None:
            try:
                return sends.read()[0]
            except TryAgain:
                return None

        assert bench.until(look, "the end of a send").context == "out"
        assert not station.entries
        endpoint.close()
        sends.close()
        receives.close()

    def test_a_small_queue_loses_nothing(self, bench: Bench, a: Station) -> None:
        """Who does not read is refused (EAGAIN), and finds everything later."""
        endpoint = bench.endpoint()
        b = bench.adopt(Station(endpoint, cq=endpoint.open_cq(4)))
        bench.introduce(a, b)
        posted = ended = 0
        while ended < 100:
            try:
                if posted < 100:
                    b.endpoint.recv(bytearray(1), context=posted)
                    posted += 1
                    bench.post(a.endpoint.send, b"x", a.addresses[b])
                    continue
            except TryAgain:
                pass
            assert bench.completion(b).context == ended
            ended += 1
        bench.completions(a, 100)
        bench.nothing()
        endpoint.close()
        b.cq.close()

    # --- inside ----------------------------------------------------------------------------------

    @staticmethod
    def _ready(bench: Bench, a: Station, b: Station, sent: int) -> None:
        """Wait until that many sends are done, and leave what was received in the queue."""
        bench.stations.remove(b)
        done: list[Completion] = []
        end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
        while len(done) < sent:
            assert SYSTEM_CLOCK.monotonic() < end, "the sends do not end"
            _progress(b)
            a.pump(_SLICE_S)
            while a.entries:
                done.append(bench.completion(a))
        for _ in range(20):
            _progress(a, b)
            select.select([b.cq.fileno()], [], [], _SLICE_S / 5)
        bench.stations.append(b)

    @staticmethod
    def _with_entries(*stations: Station) -> Station | None:
        return next((station for station in stations if station.entries), None)

    @staticmethod
    def _sent(a: Station, b: Station) -> bool:
        try:
            a.endpoint.send(b"hello", a.addresses[b])
        except TryAgain:
            a.pump()
            return False
        return True

    @staticmethod
    def _moved(a: Station, waiter: threading.Thread) -> bool:
        a.pump(_SLICE_S)
        return not waiter.is_alive()

    @staticmethod
    def _signalled(a: Station, waiter: threading.Thread) -> bool:
        a.cq.signal()
        waiter.join(_SLICE_S)
        return not waiter.is_alive()

    @staticmethod
    def _until(look: Callable[[], bool], what: str) -> None:
        end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
        while not look():
            assert SYSTEM_CLOCK.monotonic() < end, f"{what} did not come"


def _progress(*stations: Station) -> None:
    """Move endpoints on without reading their queues."""
    for station in stations:
        station.endpoint.progress()
