# SPDX-License-Identifier: Apache-2.0
"""The three ways to drive a message layer: poll, a dispatcher thread, an asyncio loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

import i2o
from i2o.aio import AsyncDriver
from i2o.dispatcher import Dispatcher
from i2o.errors import InvalidArgument, OutOfFrames, RequestTimeout
from i2o.frames.block_storage import BSA_STATUS_CHECK
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

    def test_run_until_gives_up_while_a_dispatcher_runs(self):
        with i2o.open("emu:") as iop, Dispatcher(iop.layer):
            assert not iop.layer.run_until(lambda: False, 0.02)


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

    def test_contexts_wrap_around(self):
        with i2o.open("emu:") as iop:
            iop.requester._next_context = 0xFFFFFFFF
            for _ in range(3):
                assert iop.requester.call(check()).req_status == 0
            assert iop.requester._next_context == 3
