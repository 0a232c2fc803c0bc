# SPDX-License-Identifier: Apache-2.0
"""Conformance of endpoints: how one comes into being, what it knows, and how it ends.

Source: fi_endpoint(3), fi_av(3).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack

from i2o.testing.endpoint_backend import EndpointBackend
from i2o.testing.endpoint_messages import refuses
from i2o.testing.stations import BOTH, Bench, Station
from i2o.transport.fabric.completion import CompletionError
from i2o.transport.fabric.endpoint import Endpoint, Message
from i2o.transport.fabric.errors import FabricErrno, TryAgain
from i2o.transport.fabric.flags import Bind, Capability, EndpointType


class EndpointLife(EndpointBackend):
    """Made, bound, enabled, used, closed."""

    def test_it_says_what_it_is(self, a: Station) -> None:
        """Attributes that a caller can rely on."""
        attributes = a.endpoint.attributes
        assert attributes.type == EndpointType.RDM
        assert attributes.provider
        for capability in (Capability.MSG, Capability.SEND, Capability.RECV):
            assert attributes.capabilities & capability
        assert 0 < attributes.inject_size <= attributes.max_msg_size
        assert attributes.iov_limit >= 1
        assert attributes.cq_data_size in (0, 4, 8)
        assert min(attributes.tx_size, attributes.rx_size) >= 0

    def test_no_more_is_granted_than_was_wanted(self, bench: Bench) -> None:
        """What was not asked for is not there, unless the provider gives it to everybody."""
        everything = bench.station().capabilities
        wanted = Capability.MSG | Capability.SEND | Capability.RECV
        granted = bench.station(wanted).capabilities
        assert granted & wanted == wanted
        assert granted & ~everything == Capability(0)

    # --- before it is enabled --------------------------------------------------------------------

    def test_nothing_is_posted_before_it_is_enabled(self, bench: Bench) -> None:
        """EOPBADSTATE, for every kind of operation."""
        with bench.endpoint() as endpoint:
            cq = endpoint.open_cq()
            endpoint.bind(cq, BOTH)
            to = endpoint.insert(endpoint.name)
            for call in self._operations(endpoint, to):
                with refuses(FabricErrno.EOPBADSTATE):
                    call()
        cq.close()

    def test_a_queue_must_be_bound_for_each_direction(self, bench: Bench) -> None:
        """ENOCQ."""
        for flags in (None, Bind.RECV, Bind.TRANSMIT):
            with bench.endpoint() as endpoint:
                cq = endpoint.open_cq()
                if flags is not None:
                    endpoint.bind(cq, flags)
                with refuses(FabricErrno.ENOCQ):
                    endpoint.enable()
            cq.close()

    def test_binding_makes_sense_or_is_refused(self, bench: Bench) -> None:
        """Once for each direction, before it is enabled."""
        with bench.endpoint() as endpoint:
            cq, second = endpoint.open_cq(), endpoint.open_cq()
            for nothing in (Bind(0), Bind.SELECTIVE_COMPLETION):
                with refuses(errno.EINVAL):
                    endpoint.bind(cq, nothing)
            endpoint.bind(cq, Bind.RECV)
            for again in (cq, second):
                with refuses(errno.EINVAL):
                    endpoint.bind(again, Bind.RECV)
            endpoint.bind(cq, Bind.TRANSMIT)
            endpoint.enable()
            with refuses(FabricErrno.EOPBADSTATE):
                endpoint.bind(second, BOTH)
        cq.close()
        second.close()

    def test_options_are_set_before_it_is_enabled(self, a: Station) -> None:
        """The minimum of multi-receive buffers afterwards is refused."""
        with refuses(FabricErrno.EOPBADSTATE, errno.ENOTSUP):
            a.endpoint.set_min_multi_recv(100)

    # --- names -----------------------------------------------------------------------------------

    def test_names(self, bench: Bench, a: Station, b: Station) -> None:
        """A name is inserted, and an fi_addr leads back to it."""
        assert a.endpoint.name
        assert a.endpoint.name != b.endpoint.name
        assert a.endpoint.address_of(a.addresses[b]) == b.endpoint.name
        again = a.endpoint.insert(b.endpoint.name)
        bench.post(a.endpoint.send, b"x", again)
        b.endpoint.recv(bytearray(1))
        bench.completion(b)

    def test_names_and_addresses_that_are_none(self, a: Station) -> None:
        """EINVAL."""
        with refuses(errno.EINVAL):
            a.endpoint.insert("")
        for address in (-1, 1 << 40):
            with refuses(errno.EINVAL):
                a.endpoint.address_of(address)
            with refuses(errno.EINVAL):
                a.endpoint.remove(address)

    def test_nothing_is_sent_when_a_name_is_inserted(
        self, bench: Bench, a: Station, resources: ExitStack
    ) -> None:
        """Names come before links: that nobody is there is found out by a send."""
        name = self.nobody(resources)
        if name is not None:
            assert a.endpoint.address_of(a.endpoint.insert(name)) == name
        bench.nothing()

    def test_an_address_is_forgotten(self, bench: Bench, a: Station, b: Station) -> None:
        """What is outstanding to it ends; sends are refused; it can be inserted again."""
        b.endpoint.recv(bytearray(4))
        bench.post(a.endpoint.send, b"link", a.addresses[b])
        bench.completion(a)
        bench.completion(b)
        a.endpoint.remove(a.addresses[b])
        with refuses(errno.EINVAL):
            a.endpoint.send(b"x", a.addresses[b])
        with refuses(errno.EINVAL):
            a.endpoint.address_of(a.addresses[b])
        bench.introduce(a, b)
        b.endpoint.recv(bytearray(1))
        bench.post(a.endpoint.send, b"x", a.addresses[b])
        assert bench.completion(b).length == 1

    # --- the end ---------------------------------------------------------------------------------

    def test_closing_ends_what_is_posted_once(self, bench: Bench, a: Station) -> None:
        """Receives of every kind: ECANCELED."""
        b = bench.station()
        bench.introduce(a, b)
        for number in range(5):
            b.endpoint.recv(bytearray(8), context=number)
        if b.capabilities & Capability.TAGGED:
            for number in range(5, 10):
                b.endpoint.trecv(bytearray(8), number, context=number)
        count = 10 if b.capabilities & Capability.TAGGED else 5
        b.endpoint.close()
        b.endpoint.close()
        errors = [bench.error(b, errno.ECANCELED) for _ in range(count)]
        assert sorted(error.context for error in errors) == list(range(count))  # type: ignore[type-var]
        bench.nothing(b)

    def test_closing_ends_sends_once(self, bench: Bench, a: Station, b: Station) -> None:
        """Whether they arrived or not; what had arrived stays."""
        posted = 0
        for number in range(10):
            try:
                a.endpoint.send(bytes(2000), a.addresses[b], context=number)
            except TryAgain:
                break
            posted += 1
        a.endpoint.close()
        ended = []
        for _ in range(posted):
            entry = bench.entry(a)
            assert not isinstance(entry, CompletionError) or entry.err
            ended.append(entry.context)
        assert ended == sorted(ended, key=str)
        assert len(set(ended)) == posted
        bench.nothing(a)

    def test_a_closed_endpoint_takes_nothing(self, bench: Bench, a: Station, b: Station) -> None:
        """Everything is refused, and nothing is left over."""
        to = a.addresses[b]
        a.endpoint.close()
        for call in self._operations(a.endpoint, to):
            with refuses(FabricErrno.EOPBADSTATE):
                call()
        assert not a.endpoint.cancel("nothing")
        a.endpoint.progress()
        bench.nothing()

    def test_the_others_go_on(self, bench: Bench, a: Station, b: Station) -> None:
        """An endpoint that is closed disturbs only those who talk to it."""
        c = bench.station()
        bench.introduce(a, b, c)
        for sender, receiver in ((a, b), (a, c), (b, c)):
            receiver.endpoint.recv(bytearray(1))
            bench.post(sender.endpoint.send, b"x", sender.addresses[receiver])
            bench.completion(receiver)
            bench.completion(sender)
        c.endpoint.close()
        b.endpoint.recv(bytearray(1), context="goes on")
        bench.post(a.endpoint.send, b"x", a.addresses[b])
        assert bench.completion(b).context == "goes on"

    def test_an_endpoint_that_was_never_used(self, bench: Bench) -> None:
        """Enabled or not, bound or not."""
        bench.endpoint().close()
        endpoint = bench.endpoint()
        cq = endpoint.open_cq()
        endpoint.bind(cq, BOTH)
        endpoint.close()
        cq.close()
        cq.close()

    @staticmethod
    def _operations(endpoint: Endpoint, to: int) -> list[Callable[[], None]]:
        plain: list[Callable[[], None]] = [
            lambda: endpoint.send(b"x", to),
            lambda: endpoint.sendv([b"x"], to),
            lambda: endpoint.sendmsg(Message([b"x"], to)),
            lambda: endpoint.inject(b"x", to),
            lambda: endpoint.senddata(b"x", 1, to),
            lambda: endpoint.injectdata(b"x", 1, to),
            lambda: endpoint.recv(bytearray(1)),
            lambda: endpoint.recvv([bytearray(1)]),
            lambda: endpoint.recvmsg(Message([bytearray(1)])),
        ]
        if not endpoint.attributes.capabilities & Capability.TAGGED:
            return plain
        return [
            *plain,
            lambda: endpoint.tsend(b"x", 1, to),
            lambda: endpoint.tsendv([b"x"], 1, to),
            lambda: endpoint.tsendmsg(Message([b"x"], to, tag=1)),
            lambda: endpoint.tinject(b"x", 1, to),
            lambda: endpoint.tsenddata(b"x", 1, 1, to),
            lambda: endpoint.tinjectdata(b"x", 1, 1, to),
            lambda: endpoint.trecv(bytearray(1), 1),
            lambda: endpoint.trecvv([bytearray(1)], 1),
            lambda: endpoint.trecvmsg(Message([bytearray(1)], tag=1)),
        ]
