# SPDX-License-Identifier: Apache-2.0
"""The three ways to drive a message layer: poll, a dispatcher thread, an asyncio loop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

import i2o
from fakes.bare_iop import BareIop
from i2o.aio import AsyncDriver
from i2o.dispatcher import Dispatcher
from i2o.errors import InvalidArgument, IopDead, OutOfFrames, RequestTimeout
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.header import FailureCode
from i2o.frames.utility import UTIL_NOP
from i2o.message_layer import MessageLayer
from i2o.requester import Requester

RUNS = pytest.mark.parametrize("run", ["inline", "thread"])
DISK = 0x10
SLOW = '[[fault]]\non = "bsa_status_check"\naction = "delay"\nms = 30\n'
LOST = '[[fault]]\non = "bsa_status_check"\naction = "drop"\n'


@pytest.fixture
def plan(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "plan.toml"
        path.write_text(text)
        return f"&faults={path}"

    return write


def check() -> bytes:
    return BSA_STATUS_CHECK.build(target_address=DISK)


class TestDispatcher:
    @RUNS
    @pytest.mark.parametrize("slow", [False, True])
    def test_callbacks_run_on_its_thread(self, run, slow, plan):
        with MessageLayer() as layer:
            iop = layer.attach(f"emu:?run={run}" + (plan(SLOW) if slow else ""))
            threads: list[str] = []
            done = threading.Event()

            def replied(number, reply):
                threads.append(threading.current_thread().name)
                layer.free_reply(number, reply)
                if len(threads) == 20:
                    done.set()

            base, (cookie,) = layer.register([replied])
            with Dispatcher(layer):
                for _ in range(20):
                    frame = layer.request_frame(iop)
                    frame[:16] = BSA_STATUS_CHECK.build(
                        target_address=DISK, initiator_context=cookie
                    )
                    layer.send(iop, frame)
                assert done.wait(10)
            assert set(threads) == {"i2o-dispatcher"}
            layer.deregister(base)

    @RUNS
    def test_waiting_elsewhere_works_meanwhile(self, run):
        with i2o.open(f"emu:?run={run}") as iop, Dispatcher(iop.layer):
            disk = iop.block()
            disk.write(100, b"x" * 300_000)
            assert disk.read(100, 300_000) == b"x" * 300_000
            disk.flush()

    @RUNS
    def test_many_threads_share_an_iop(self, run):
        with i2o.open(f"emu:?run={run}") as iop, Dispatcher(iop.layer):
            disk = iop.block()
            errors: list[BaseException] = []

            def work(index: int) -> None:
                try:
                    for step in range(10):
                        data = bytes([index, step]) * 4096
                        disk.write(index << 20, data)
                        assert disk.read(index << 20, len(data)) == data
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert errors == []
            assert iop.layer.outstanding(iop.number) == 0

    def test_what_callbacks_raise_comes_out_of_close(self):
        with MessageLayer() as layer:
            iop = layer.attach("emu:")
            called = threading.Event()

            def fails(number, reply):
                called.set()
                raise ZeroDivisionError("osm bug")

            _, (cookie,) = layer.register([fails])
            dispatcher = Dispatcher(layer)
            for count in range(2):
                called.clear()
                frame = layer.request_frame(iop)
                frame[:16] = BSA_STATUS_CHECK.build(target_address=DISK, initiator_context=cookie)
                layer.send(iop, frame)
                assert called.wait(10), count
            with pytest.raises((ZeroDivisionError, ExceptionGroup)):
                dispatcher.close()
            dispatcher.close()
            assert len(dispatcher.errors) >= 1

    def test_a_callback_cannot_close_its_dispatcher(self):
        with MessageLayer() as layer:
            iop = layer.attach("emu:")
            refused: list[str] = []
            called = threading.Event()

            def closes(number, reply):
                layer.free_reply(number, reply)
                try:
                    dispatcher.close()
                except InvalidArgument as error:
                    refused.append(str(error))
                called.set()

            _, (cookie,) = layer.register([closes])
            dispatcher = Dispatcher(layer)
            for count in range(1, 3):
                called.clear()
                frame = layer.request_frame(iop)
                frame[:16] = BSA_STATUS_CHECK.build(target_address=DISK, initiator_context=cookie)
                layer.send(iop, frame)
                assert called.wait(10), "it still works"
                assert len(refused) == count
            dispatcher.close()
            assert dispatcher.errors == []

    def test_run_until_gives_up_while_a_dispatcher_runs(self):
        with i2o.open("emu:") as iop, Dispatcher(iop.layer):
            assert not iop.layer.run_until(lambda: False, 0.02)


class TestDeadProcess:
    """The IOP's process is killed while requests are outstanding."""

    @pytest.fixture
    def layer(self):
        with MessageLayer() as layer:
            yield layer

    def start(self, layer, plan, count: int = 3):
        """Attach, send requests that are never answered; return (IOP, what callbacks saw)."""
        iop = layer.attach("emu:?run=process" + plan(LOST))
        seen = []

        def replied(number, reply):
            original = layer.mfa_convert(number, reply.preserved_mfa_low)
            seen.append((reply[1], reply.failure_code, original.transaction_context))
            layer.free_reply(number, reply)

        _, (cookie,) = layer.register([replied])
        for context in range(count):
            frame = layer.request_frame(iop)
            frame[:16] = BSA_STATUS_CHECK.build(
                target_address=DISK, initiator_context=cookie, transaction_context=context
            )
            layer.send(iop, frame)
        assert layer.outstanding(iop) == count
        return iop, seen

    def kill(self, layer, iop) -> None:
        process = layer.port(iop).process
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def expected(self, count: int = 3):
        return [(0xE0, FailureCode.SERVICE_TERMINATED, context) for context in range(count)]

    def test_each_request_gets_one_fail(self, layer, plan):
        iop, seen = self.start(layer, plan)
        self.kill(layer, iop)
        assert layer.run_until(lambda: len(seen) == 3, 10)
        assert sorted(seen) == self.expected()
        assert not layer.iop_valid(iop)
        assert layer.outstanding(iop) == 0
        for _ in range(3):
            assert layer.poll() == 0
        assert not layer.run_until(lambda: False, 0.02)
        assert not layer.wait(0.01)
        layer.detach(iop)
        assert layer.iop_count() == 0
        assert sorted(seen) == self.expected(), "nobody is called twice"

    def test_killed_while_it_is_waited_on(self, layer, plan):
        iop, seen = self.start(layer, plan)
        killer = threading.Timer(0.1, os.kill, (layer.port(iop).process.pid, signal.SIGKILL))
        killer.start()
        try:
            assert layer.run_until(lambda: len(seen) == 3, 10)
        finally:
            killer.join()
        assert sorted(seen) == self.expected()

    @pytest.mark.parametrize("how", ["detach", "close"])
    def test_the_death_is_noticed_only_when_it_is_detached(self, layer, plan, how):
        iop, seen = self.start(layer, plan)
        self.kill(layer, iop)
        if how == "detach":
            layer.detach(iop)
        else:
            layer.close()
        assert sorted(seen) == self.expected()
        assert layer.iop_count() == 0

    def test_a_dispatcher_does_not_spin(self, layer, plan):
        iop, seen = self.start(layer, plan)
        polls = 0
        poll = layer.poll

        def counted(budget: int = 64) -> int:
            nonlocal polls
            polls += 1
            return poll(budget)

        layer.poll = counted
        with Dispatcher(layer) as dispatcher:
            self.kill(layer, iop)
            assert layer.run_until(lambda: len(seen) == 3, 10)
            before = polls
            time.sleep(0.3)
            assert polls - before <= 20
            assert dispatcher.errors == []
        assert sorted(seen) == self.expected()

    def test_a_requester_says_so(self, layer, plan):
        iop = layer.attach("emu:?run=process" + plan(LOST))
        with Requester(layer, iop, timeout_s=10) as requester:
            freed = []
            buffer = SimpleNamespace(free=lambda: freed.append(True))
            pending = requester.start(check(), buffers=(buffer,))
            self.kill(layer, iop)
            assert requester.finish(pending).failed
            assert freed == []
            pending.release()
            assert freed == [True]
            with pytest.raises((InvalidArgument, IopDead)):
                requester.start(check())
            assert requester.in_flight == 0


class TestAsyncio:
    @RUNS
    @pytest.mark.parametrize("slow", [False, True])
    def test_replies_are_awaited(self, run, slow, plan):
        async def main() -> None:
            with MessageLayer() as layer:
                iop = layer.attach(f"emu:?run={run}" + (plan(SLOW) if slow else ""))
                async with AsyncDriver(layer) as driver:
                    replies = await asyncio.gather(*(driver.call(iop, check()) for _ in range(50)))
                assert all(reply.req_status == 0 for reply in replies)
                assert layer.outstanding(iop) == 0

        asyncio.run(main())

    def test_other_osms_are_served_on_the_loop(self):
        async def main() -> None:
            with MessageLayer() as layer:
                iop = layer.attach("emu:?run=thread")
                seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

                def replied(number, reply):
                    layer.free_reply(number, reply)
                    seen.set_result(number)

                _, (cookie,) = layer.register([replied])
                async with AsyncDriver(layer):
                    frame = layer.request_frame(iop)
                    frame[:16] = BSA_STATUS_CHECK.build(
                        target_address=DISK, initiator_context=cookie
                    )
                    layer.send(iop, frame)
                    assert await asyncio.wait_for(seen, 10) == iop

        asyncio.run(main())

    def test_a_reply_that_never_comes_times_out(self, plan):
        async def main() -> None:
            with MessageLayer() as layer:
                iop = layer.attach("emu:?" + plan(LOST)[1:])
                async with AsyncDriver(layer) as driver:
                    with pytest.raises(RequestTimeout, match="bsa_status_check"):
                        await driver.call(iop, check(), timeout_s=0.05)

        asyncio.run(main())

    def test_no_frame_is_retried_and_then_refused(self):
        async def main() -> None:
            with MessageLayer() as layer:
                iop = layer.attach("emu:?run=thread")
                unit = layer.port(iop).soft_iop.unit
                async with AsyncDriver(layer) as driver:
                    unit.starve(True)
                    asyncio.get_running_loop().call_later(0.02, unit.starve, False)
                    assert (await driver.call(iop, check(), 5)).req_status == 0
                    unit.starve(True)
                    with pytest.raises(OutOfFrames):
                        await driver.call(iop, check(), timeout_s=0.05)
                    unit.starve(False)
                    with pytest.raises(InvalidArgument):
                        await driver.call(99, check())

        asyncio.run(main())


class TestRequester:
    def test_messages_that_are_no_frames(self):
        with i2o.open("emu:?frame_size=128") as iop:
            for message in (b"", bytes(15), bytes(132)):
                with pytest.raises(InvalidArgument):
                    iop.requester.start(message)
            assert iop.requester.in_flight == 0
            assert iop.layer._iops.entry(iop.number).held_requests == {}

    def test_progress_replies_are_passed_on(self):
        from i2o.frames.block_storage import BSA_MEDIA_VERIFY

        with i2o.open("emu:") as iop:
            seen = []
            with Requester(iop.layer, iop.number, on_progress=seen.append) as requester:
                reply = requester.call(
                    BSA_MEDIA_VERIFY.build(
                        target_address=DISK, control_flags=0x80, byte_count=16 << 20
                    )
                )
            assert reply.req_status == 0
            assert seen
            assert all(not progress.final for progress in seen)

    def test_without_a_listener_progress_is_ignored(self):
        from i2o.frames.block_storage import BSA_MEDIA_VERIFY

        with i2o.open("emu:") as iop:
            message = BSA_MEDIA_VERIFY.build(
                target_address=DISK, control_flags=0x80, byte_count=16 << 20
            )
            assert iop.requester.call(message).req_status == 0

    def test_fail_frames_find_their_request(self):
        with i2o.open("emu:") as iop:
            first = iop.requester.start(BSA_STATUS_CHECK.build(target_address=0x777))
            second = iop.requester.start(BSA_STATUS_CHECK.build(target_address=0x777))
            assert iop.requester.finish(second).failed
            assert iop.requester.finish(first).failed

    def test_a_fail_without_the_last_flag_is_final(self):
        iop = BareIop()
        before = iop.port.memory.buffer_count
        with Requester(iop.layer, iop.number) as requester:
            buffer = iop.port.memory.allocate(64)
            pending = requester.start(check(), buffers=(buffer,))
            request = iop.port.unit.fetch()
            iop.port.unit.preserve(request.mfa)
            iop.fail(request, flags=0xA0)
            assert requester.finish(pending).failed
            pending.release()
            assert requester.in_flight == 0
            assert iop.layer.outstanding(iop.number) == 0
            assert iop.port.memory.buffer_count == before
        assert iop.fetch().data[7] == UTIL_NOP.function

    def test_closed_with_a_request_in_flight_it_deregisters_after_the_late_reply(self):
        iop = BareIop()
        before = iop.port.memory.buffer_count
        requester = Requester(iop.layer, iop.number)
        pending = requester.start(check(), buffers=(iop.port.memory.allocate(64),))
        pending.release()
        requester.close()
        requester.close()
        assert iop.layer._cookies._registrations
        assert iop.port.memory.buffer_count == before + 1, "the IOP may still write to it"
        iop.answer(iop.fetch())
        iop.layer.poll()
        assert pending.is_done()
        assert iop.port.memory.buffer_count == before
        assert not iop.layer._cookies._registrations
        assert iop.entry.counters.unknown_cookie == 0

    def test_a_context_that_is_pending_is_never_used_again(self):
        iop = BareIop()
        with Requester(iop.layer, iop.number) as requester:
            pending = [requester.start(check()) for _ in range(2)]
            requester._next_context = 1
            pending.append(requester.start(check()))
            requests = [iop.fetch() for _ in range(3)]
            contexts = [int.from_bytes(request.data[12:16], "little") for request in requests]
            assert len(set(contexts)) == 3
            for request, waiting in zip(reversed(requests), reversed(pending), strict=True):
                iop.answer(request)
                iop.layer.poll()
                assert waiting.reply.transaction_context == int.from_bytes(
                    request.data[12:16], "little"
                )
            assert requester.in_flight == 0

    def test_contexts_wrap_around(self):
        with i2o.open("emu:") as iop:
            iop.requester._next_context = 0xFFFFFFFF
            for _ in range(3):
                assert iop.requester.call(check()).req_status == 0
            assert iop.requester._next_context == 3
