# SPDX-License-Identifier: Apache-2.0
"""Conformance of ports: an IOP as the message layer sees it, from its bring-up to its end."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

import pytest

from i2o.aio import AsyncDriver
from i2o.dispatcher import Dispatcher
from i2o.errors import InvalidArgument, IopDead, RequestFailed
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.executive import EXEC_LCT_NOTIFY
from i2o.frames.functions import DeviceClass
from i2o.frames.header import FailureCode
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import LCT_ENTRY, LCT_HEADER, IopState
from i2o.frames.utility import UTIL_LOCK, UTIL_LOCK_RELEASE, GenericEvent
from i2o.iop import Iop
from i2o.message_frames import ReplyFrame
from i2o.opening import open as open_iop
from i2o.recovery import ended_early
from i2o.requester import Pending, Requester
from i2o.testing.bare_host import PATIENCE_S
from i2o.testing.port_backend import PortBackend
from i2o.transport.port import Port

_NOBODY = 0x7F7
_ALL_CLASSES = 0xFFFF_FFFF


class PortRequests(PortBackend):
    """Bring-up, tables, parameters, requests, events, resets, and the death of an IOP."""

    def status_check(self, tid: int | None = None) -> bytes:
        """Return a request for the disk, or for another device."""
        return BSA_STATUS_CHECK.build(target_address=self.disk_tid if tid is None else tid)

    def test_it_comes_up(self, iop: Iop) -> None:
        """StatusGet, HRT and LCT: it is OPERATIONAL, and its disk is there."""
        assert iop.status.state == IopState.OPERATIONAL
        assert iop.layer.iop_valid(iop.number)
        assert iop.device(self.disk_tid).class_id == DeviceClass.RANDOM_BLOCK_STORAGE
        iop.refresh()
        assert iop.layer.check(iop.number).state == IopState.OPERATIONAL

    def test_frames_may_come_from_the_fifo(self, port: Port) -> None:
        """A request frame may be a real one from the start."""
        with open_iop(port, frame_source="fifo") as iop:
            for _ in range(300):
                iop.requester.call(self.status_check())

    def test_parameters(self, iop: Iop) -> None:
        """They are read and written through buffers of the port's memory."""
        size = iop.params_get(self.disk_tid, "device_info", "device_capacity")
        assert size == self.disk_size
        assert len(iop.params_groups(self.disk_tid)) > 3
        for name in (b"mine", b"somebody's"):
            iop.params_set(self.disk_tid, "user_information", {"device_name": name})
            told = iop.params_get(self.disk_tid, "user_information", "device_name")
            assert isinstance(told, bytes)
            assert told.rstrip(b"\0 ") == name

    def test_requests_in_flight_find_their_replies(self, iop: Iop) -> None:
        """Four times as many requests as one would post at once: each gets its own reply."""
        pending: list[Pending] = []
        for number in range(64):
            tid = self.disk_tid if number % 3 else _NOBODY
            pending.append(iop.requester.start(self.status_check(tid)))
        for number, one in enumerate(pending):
            assert iop.requester.finish(one, drain=True).failed == (number % 3 == 0)
        assert iop.requester.in_flight == iop.layer.outstanding(iop.number) == 0

    def test_callbacks_run_in_polls_and_nowhere_else(self, iop: Iop) -> None:
        """A reply is never there before its doorbell has returned."""
        layer, ran_in_send = iop.layer, []
        is_sending = False

        def replied(number: int, reply: ReplyFrame) -> None:
            ran_in_send.append(is_sending)
            layer.free_reply(number, reply)

        base, (cookie,) = layer.register([replied])
        frame = bytearray(self.status_check())
        frame[8:12] = cookie.to_bytes(4, "little")
        for _ in range(40):
            is_sending = True
            layer.submit(iop.number, bytes(frame), 1_000_000, 0)
            is_sending = False
        assert layer.run_until(lambda: len(ran_in_send) == 40, PATIENCE_S)
        assert not any(ran_in_send)
        layer.deregister(base)

    def test_a_failed_request_costs_no_frame(self, iop: Iop) -> None:
        """FAIL, a thousand times: each preserved frame goes home."""
        for _ in range(1000):
            assert iop.requester.call(self.status_check(_NOBODY)).failed
        assert not iop.requester.call(self.status_check()).failed

    def test_events_arrive(self, iop: Iop) -> None:
        """What a device tells reaches who listens, in order, and each once."""
        release = GenericEvent.LOCK_RELEASE.value
        with iop.events([self.disk_tid], release) as stream:
            for _ in range(20):
                for message in (UTIL_LOCK, UTIL_LOCK_RELEASE):
                    iop.requester.call(message.build(target_address=self.disk_tid))
            for _ in range(20):
                event = stream.take(PATIENCE_S)
                assert event is not None
                assert (event.tid, event.indicator) == (self.disk_tid, release)
            assert stream.take(0) is None

    def test_a_dispatcher_drives_it(self, iop: Iop) -> None:
        """Replies reach callbacks on a thread that sleeps on the descriptor."""
        done = threading.Event()
        replies: list[int] = []

        def replied(reply: ReplyFrame) -> None:
            replies.append(reply[19])
            if len(replies) == 100:
                done.set()

        with Dispatcher(iop.layer):
            for _ in range(100):
                iop.requester.start(self.status_check(), on_reply=replied)
            assert done.wait(PATIENCE_S)
        assert replies == [0] * 100

    def test_an_event_loop_drives_it(self, iop: Iop) -> None:
        """Replies reach callbacks on an asyncio loop."""

        async def work() -> None:
            loop = asyncio.get_running_loop()
            async with AsyncDriver(iop.layer), asyncio.timeout(PATIENCE_S):
                for _ in range(50):
                    replied: asyncio.Future[ReplyFrame] = loop.create_future()
                    iop.requester.start(self.status_check(), on_reply=replied.set_result)
                    assert not (await replied).failed

        asyncio.run(work())

    def test_several_threads_use_it(self, iop: Iop) -> None:
        """Each thread waits for its own replies; none is taken away or lost."""
        wrong: list[object] = []

        def work() -> None:
            try:
                requester = Requester(iop.layer, iop.number)
                for _ in range(60):
                    assert not requester.call(self.status_check()).failed
                requester.close()
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, name=f"i2o-test-{n}") for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    # --- resets and the end ----------------------------------------------------------------------

    def test_a_reset_ends_what_is_outstanding_once(self, iop: Iop) -> None:
        """Each request gets one final reply, a FAIL for what was not done; then all goes on."""
        ends, pending = self._outstanding(iop)
        iop.revive()
        assert ends == Counter(range(len(pending)))
        self._each_ended_early(pending)
        assert iop.status.state == IopState.OPERATIONAL
        assert not iop.requester.call(self.status_check()).failed
        assert ends == Counter(range(len(pending)))

    def test_reset_and_brought_up_again_and_again(self, iop: Iop) -> None:
        """No frame and no memory is lost on the way."""
        for _ in range(5):
            iop.revive()
            for _ in range(20):
                assert not iop.requester.call(self.status_check()).failed

    def test_detaching_ends_what_is_outstanding_once(self, port: Port) -> None:
        """The same for an IOP that is let go of."""
        with open_iop(port) as iop:
            ends, pending = self._outstanding(iop)
        assert ends == Counter(range(len(pending)))
        self._each_ended_early(pending)

    def test_the_death_of_an_iop_ends_what_is_outstanding_once(self, iop: Iop, port: Port) -> None:
        """Whoever waits is told, each request ends once, and nothing can be sent any more."""
        ends, pending = self._outstanding(iop)
        if not self.kill(port):  # nobody can die here: then it is let go of
            iop.close()
        else:
            is_over = iop.layer.run_until(lambda: len(ends) == len(pending), PATIENCE_S)
            assert is_over, "the layer has not heard of it"
            assert not iop.layer.iop_valid(iop.number)
            with pytest.raises((InvalidArgument, IopDead)):
                iop.requester.start(self.status_check())
            with pytest.raises(IopDead):
                iop.revive()
        assert ends == Counter(range(len(pending)))
        self._each_ended_early(pending)

    def test_one_host_after_another(self, image: Path, iop: Iop) -> None:
        """An IOP that was used by a layer that went away serves the next."""
        number, layer = iop.number, iop.layer
        layer.bring_up(number)
        layer.bring_up(number)
        assert not iop.requester.call(self.status_check()).failed
        assert image.exists()

    def test_a_refusal_is_told_with_its_reason(self, iop: Iop) -> None:
        """What the IOP says in a FAIL reply reaches the caller as an error."""
        with pytest.raises(RequestFailed, match=r"(?i)target"):
            iop.claim(_NOBODY)

    # --- inside ----------------------------------------------------------------------------------

    def _outstanding(self, iop: Iop) -> tuple[Counter[int], list[Pending]]:
        """Send requests that nothing answers while the device table stays as it is."""
        ends: Counter[int] = Counter()
        pending: list[Pending] = []
        size = LCT_HEADER.size + LCT_ENTRY.size
        for number in range(8):
            buffer = iop.memory.allocate(size)
            sgl = simple_sgl([(buffer.bus_address, size)], out=False)
            notify = EXEC_LCT_NOTIFY.build(
                message_size=(EXEC_LCT_NOTIFY.size + len(sgl)) // 4,
                class_identifier=_ALL_CLASSES,
                last_reported_change_indicator=iop.lct.change_indicator + 1,
            )

            def ended(reply: ReplyFrame, number: int = number) -> None:
                ends[number] += 1

            pending.append(iop.requester.start(notify + sgl, buffers=(buffer,), on_reply=ended))
        assert not iop.requester.call(self.status_check()).failed  # all before it were fetched
        assert not ends
        for one in pending:
            one.release()
        return ends, pending

    def _each_ended_early(self, pending: list[Pending]) -> None:
        for one in pending:
            assert one.reply is not None
            assert ended_early(one.reply)
            if one.reply.failed:
                assert one.reply[19] == FailureCode.SERVICE_TERMINATED
