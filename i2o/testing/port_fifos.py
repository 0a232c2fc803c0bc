# SPDX-License-Identifier: Apache-2.0
"""Conformance of ports: the calls of `i2o.transport.port.Port`, one by one."""

from __future__ import annotations

import select
from contextlib import ExitStack
from pathlib import Path

import pytest

from i2o.clock import SYSTEM_CLOCK
from i2o.errors import DmaFault, IopDead, LocalFrameError
from i2o.frames.block_storage import BSA_BLOCK_READ, BSA_STATUS_CHECK
from i2o.frames.header import FAILURE_REPLY, FailureCode, MsgFlags
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.frames.utility import UTIL_NOP
from i2o.testing.bare_host import PATIENCE_S, BareHost, transaction_context
from i2o.testing.port_backend import PortBackend
from i2o.transport.port import EMPTY, Port

_NOBODY = 0x7F7  # a TID that no device has
_MIN_FRAMES, _MIN_FRAME_SIZE = 16, 128
_FAIL = int(MsgFlags.FAIL)


class PortFifos(PortBackend):
    """Frames: who holds them, where they go, and what is told of them."""

    def check(self, context: int = 0) -> bytes:
        """Return a StatusCheck for the disk: the shortest request that has an answer."""
        return BSA_STATUS_CHECK.build(target_address=self.disk_tid, transaction_context=context)

    # --- what a port is --------------------------------------------------------------------------

    def test_a_port_says_what_it_is(self, port: Port) -> None:
        """It has a name for messages, and knows how much a frame takes."""
        assert port.name
        assert port.inbound_size >= _MIN_FRAME_SIZE
        assert port.inbound_size % 4 == 0

    # --- inbound frames --------------------------------------------------------------------------

    def test_alloc_gives_each_frame_once_and_then_empty(self, host: BareHost) -> None:
        """Every frame is another; when there is none, EMPTY comes at once and again."""
        frames = host.all_free()
        assert len(frames) >= _MIN_FRAMES
        assert len(set(frames)) == len(frames)
        assert not any(mfa % 4 for mfa in frames)
        assert host.port.alloc() == host.port.alloc() == EMPTY
        for mfa in frames:
            host.send_back(mfa)
        host.everything_is_home(len(frames))

    def test_a_frame_takes_its_size_and_no_more(self, host: BareHost) -> None:
        """Writing more than `inbound_size` is an error, and the frame is still the caller's."""
        mfa = host.alloc()
        with pytest.raises(LocalFrameError):
            host.port.write(mfa, bytes(host.port.inbound_size + 4))
        full = bytearray(host.port.inbound_size)
        full[:16] = UTIL_NOP.build(message_size=host.port.inbound_size // 4)
        for frame in (bytes(full), full, memoryview(full)):
            host.port.write(mfa, frame)
        host.port.post(mfa)
        assert host.call(self.check(7))[19] == 0

    def test_only_a_frame_that_is_held_can_be_written(self, host: BareHost) -> None:
        """An address that is no frame, or a frame that was not taken, is an error."""
        frames = host.all_free()
        for mfa in frames:
            host.send_back(mfa)
        host.everything_is_home(len(frames))
        for mfa in (frames[0], frames[0] + 4, EMPTY - 3, 0):
            with pytest.raises(LocalFrameError):
                host.port.write(mfa, self.check())

    def test_every_request_is_answered_and_every_frame_comes_home(self, host: BareHost) -> None:
        """Ten rounds of as many requests as there are frames: one reply each, by its context."""
        frames = host.all_free()
        for mfa in frames:
            host.send_back(mfa)
        context = 0
        for _ in range(10):
            wanted = set()
            for _ in frames[:_MIN_FRAMES]:
                context += 1
                wanted.add(context)
                host.post(self.check(context))
            got = [transaction_context(host.answer()) for _ in wanted]
            assert sorted(got) == sorted(wanted)
        assert host.port.reap() == EMPTY
        host.everything_is_home(len(frames))

    def test_requests_of_one_disk_are_answered_in_order(self, host: BareHost) -> None:
        """Frames are fetched in the order in which they were posted."""
        for context in range(1, 13):
            host.post(self.check(context))
        got = [transaction_context(host.answer()) for _ in range(12)]
        assert got == list(range(1, 13))

    def test_posting_a_frame_that_is_not_held_changes_nothing(self, host: BareHost) -> None:
        """Posted twice, or made up: nothing comes of it, and the IOP goes on."""
        frames = host.all_free()
        for mfa in frames:
            host.send_back(mfa)
        mfa = host.post(self.check(1))
        for wrong in (mfa, 0, 4, EMPTY, frames[0] + 2):
            host.port.post(wrong)
        assert transaction_context(host.answer()) == 1
        host.post(self.check(2))
        assert transaction_context(host.answer()) == 2
        assert host.port.reap() == EMPTY
        host.everything_is_home(len(frames))

    def test_a_frame_that_fails_is_preserved(self, host: BareHost) -> None:
        """Nobody has that TID: the reply names the frame, which can be read, and sent back."""
        frames = host.all_free()
        for mfa in frames:
            host.send_back(mfa)
        lost = BSA_STATUS_CHECK.build(target_address=_NOBODY, transaction_context=0x1234)
        posted = host.post(lost)
        reply = host.answer()
        assert reply[1] & _FAIL
        failure = FAILURE_REPLY.unpack_from(reply)
        assert failure.failure_code in list(FailureCode)
        preserved = int(failure.preserved_mfa_low)
        assert preserved == posted
        assert host.port.read_inbound(preserved, len(lost)) == lost
        with pytest.raises(LocalFrameError):
            host.port.read_inbound(preserved, host.port.inbound_size + 4)
        with pytest.raises(LocalFrameError):
            host.port.read_inbound(EMPTY, 16)
        host.send_back(preserved)
        host.everything_is_home(len(frames))

    # --- replies ---------------------------------------------------------------------------------

    def test_reap_is_empty_when_nothing_was_asked(self, host: BareHost) -> None:
        """No reply without a request, however often one looks."""
        assert [host.port.reap() for _ in range(4)] == [EMPTY] * 4

    def test_a_reply_is_in_a_frame_that_the_host_gave(self, host: BareHost) -> None:
        """`outbound` shows it; addresses that are no buffer of the host's are refused."""
        host.post(self.check(9))
        mfa = host.take()
        assert mfa in host.reply_frames
        view = host.port.outbound(mfa, 20)
        assert len(view) == 20
        assert transaction_context(bytes(view)) == 9
        with pytest.raises(DmaFault):
            host.port.outbound(0x10, 20)
        del view
        host.port.release(mfa)

    def test_replies_wait_for_frames(self, port: Port) -> None:
        """With one reply frame there is one reply at a time, and none is lost."""
        host = BareHost(port)
        host.init_outbound(replies=1)
        for context in range(12):
            host.post(self.check(context))
        held = host.take()
        assert [port.reap() for _ in range(3)] == [EMPTY] * 3
        got = [transaction_context(bytes(port.outbound(held, 16)))]
        port.release(held)
        got += [transaction_context(host.answer()) for _ in range(11)]
        assert got == list(range(12))

    def test_a_reply_frame_is_released_once(self, host: BareHost) -> None:
        """What is released twice, or is no frame, is not handed out twice."""
        count = len(host.reply_frames)
        host.post(self.check(1))
        mfa = host.take()
        for wrong in (mfa, mfa, EMPTY, mfa + 1):
            host.port.release(wrong)
        for context in range(count):
            host.post(self.check(context))
        held = [host.take() for _ in range(count)]
        assert sorted(held) == host.reply_frames
        host.post(self.check(count))
        host.port.wait(0.01)
        assert host.port.reap() == EMPTY, "a frame that the host holds was used"
        for mfa in held:
            host.port.release(mfa)
        assert transaction_context(host.answer()) == count

    def test_a_reply_that_is_held_does_not_change(self, host: BareHost) -> None:
        """A frame is the host's from `reap` to `release`."""
        host.post(self.check(0xAAAA))
        held = host.take()
        before = bytes(host.port.outbound(held, 20))
        for context in range(100):
            host.call(self.check(context))
        assert bytes(host.port.outbound(held, 20)) == before
        host.port.release(held)

    # --- waiting ---------------------------------------------------------------------------------

    def test_waiting_for_nothing_ends(self, host: BareHost) -> None:
        """`wait` returns when its time is over: nothing happened, which it says sooner or later."""
        for _ in range(20):
            if not host.port.wait(0.01):
                break
        else:
            pytest.fail("an idle IOP has always done something")
        assert not host.port.wait(0)
        assert not host.port.wait(-1)

    def test_waiting_ends_with_a_reply(self, host: BareHost) -> None:
        """A reply that is there already ends it at once."""
        host.post(self.check(3))
        mfa = host.take()
        host.port.release(mfa)
        host.post(self.check(4))
        host.post(self.check(5))
        assert host.port.wait(PATIENCE_S)
        host.answer()
        host.answer()

    def test_the_descriptor_tells_of_replies(self, host: BareHost) -> None:
        """Readable while a reply may wait, and not when all are taken."""
        host.port.fileno()
        for _ in range(3):
            host.post(self.check())
            assert _becomes_readable(host.port)
            host.answer()
            _drain(host.port)
            assert not _is_readable(host.port)

    def test_who_follows_the_descriptor_and_the_deadline_gets_everything(
        self, host: BareHost
    ) -> None:
        """An event loop needs nothing else: sleep until either, then reap until EMPTY."""
        for context in range(50):
            host.post(self.check(context))
            end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
            while (mfa := host.port.reap()) == EMPTY:
                assert SYSTEM_CLOCK.monotonic() < end, "no reply"
                _sleep(host.port)
            assert transaction_context(bytes(host.port.outbound(mfa, 16))) == context
            host.port.release(mfa)

    def test_a_masked_interrupt_does_not_make_it_readable(self, host: BareHost) -> None:
        """Replies come all the same; what came is told when the mask is lifted."""
        host.port.fileno()
        host.port.mask_interrupt(True)
        host.call(self.check(1))
        _drain(host.port)
        assert not _is_readable(host.port)
        host.post(self.check(2))
        for _ in range(5):
            host.port.wait(0.02)
        host.port.mask_interrupt(True)  # an IOP in the caller's thread had to run first
        assert not _is_readable(host.port)
        host.port.mask_interrupt(False)
        assert _becomes_readable(host.port)
        host.port.mask_interrupt(True)
        assert not _is_readable(host.port)
        host.port.mask_interrupt(False)
        assert _becomes_readable(host.port)
        assert transaction_context(host.answer()) == 2
        host.port.mask_interrupt(True)
        host.port.mask_interrupt(True)
        host.port.mask_interrupt(False)
        host.call(self.check(3))

    # --- reset and close -------------------------------------------------------------------------

    def test_memory_is_written_while_a_reply_waits(self, host: BareHost) -> None:
        """An answer that goes to memory does not wait for a reply to be taken."""
        before = host.state()
        host.post(BSA_STATUS_CHECK.build(target_address=self.disk_tid))
        host.until(lambda: True if host.port.wait(0.05) else None, "a reply")
        assert host.state() == before
        host.answer()

    def test_a_reset_leaves_a_fresh_iop(self, host: BareHost) -> None:
        """All frames are free, nothing is answered any more, and it can be brought up again."""
        frames = host.all_free()
        for mfa in frames:
            host.send_back(mfa)
        for context in range(8):
            host.post(self.check(context))
        held = host.alloc()
        assert _becomes_readable(host.port)
        host.port.wait(PATIENCE_S)  # replies are there, and nobody takes them
        host.port.reset()
        assert host.port.reap() == EMPTY
        assert host.state() == IopState.RESET
        host.everything_is_home(len(frames))
        assert held in frames
        host.init_outbound()
        for context in range(2 * len(host.reply_frames)):
            host.post(self.check(context))
            mfa = host.take()
            assert mfa in host.reply_frames, "that frame was given before the reset"
            assert transaction_context(bytes(host.port.outbound(mfa, 16))) == context
            host.port.release(mfa)

    def test_after_a_reset_no_host_memory_is_written(self, host: BareHost) -> None:
        """What a read had moved when the reset returned is all that it ever moves."""
        size = 64 << 10
        buffers = [host.port.memory.allocate(size) for _ in range(4)]
        for buffer in buffers:
            address, _ = buffer.segments[0]
            sgl = simple_sgl([(address, size)], out=False)
            read = BSA_BLOCK_READ.build(
                target_address=self.disk_tid,
                message_size=(BSA_BLOCK_READ.size + len(sgl)) // 4,
                transfer_byte_count=size,
            )
            host.post(read + sgl)
        host.port.reset()
        for buffer in buffers:
            buffer.view[:] = b"\x5a" * size
        assert host.state() == IopState.RESET
        host.init_outbound()
        host.call(self.check(1))
        for buffer in buffers:
            assert set(buffer.view) == {0x5A}
            buffer.free()

    def test_closing_twice(self, image: Path) -> None:
        """The second time does nothing, and nothing is left behind."""
        with ExitStack() as resources:
            port = self.open(image, resources)
            assert port.fileno() >= 0
            port.close()
            port.close()
            assert port.fileno() == -1
            with pytest.raises(IopDead):
                port.wait(0)

    def test_closing_with_work_and_memory_outstanding(self, image: Path) -> None:
        """Frames, replies and buffers that are still out do not stop it."""
        with ExitStack() as resources, self.open(image, resources) as port:
            host = BareHost(port)
            host.init_outbound()
            host.alloc()
            for context in range(6):
                host.post(self.check(context))
            host.take()
            port.memory.allocate(100)
        assert port.fileno() == -1

    def test_one_opened_and_closed_after_another(self, image: Path, content: bytes) -> None:
        """The disk is let go of: the next one can have it."""
        for _ in range(2):
            with ExitStack() as resources, self.open(image, resources) as port:
                host = BareHost(port)
                host.init_outbound()
                assert host.call(self.check())[19] == 0
        assert image.read_bytes() == content

    # --- the end of the other side ---------------------------------------------------------------

    def test_a_dead_iop_is_told_by_its_calls(self, host: BareHost) -> None:
        """They raise `IopDead` sooner or later, and those that clean up never do."""
        port = host.port
        port.fileno()
        buffer = port.memory.allocate(64)
        is_dead = self.kill(port)
        if is_dead:
            with pytest.raises(IopDead):
                _until_it_raises(host, self.check())
            for call in (port.alloc, port.reap, lambda: port.wait(0)):
                with pytest.raises(IopDead):
                    call()
            assert _becomes_readable(port), "who sleeps on it would never hear of it"
        else:  # there is nobody who could die
            host.call(self.check())
        port.next_deadline_ns()
        port.mask_interrupt(True)
        port.mask_interrupt(False)
        port.reset()
        buffer.free()
        port.close()
        port.close()


def _until_it_raises(host: BareHost, frame: bytes) -> None:
    """Use a port until it raises an error; fails the test when it goes on."""
    end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
    while SYSTEM_CLOCK.monotonic() < end:
        mfa = host.port.alloc()
        if mfa != EMPTY:
            host.port.write(mfa, frame)
            host.port.post(mfa)
        while host.port.reap() != EMPTY:
            pass
        host.port.wait(0.05)


def _drain(port: Port) -> None:
    while port.reap() != EMPTY:
        pass


def _is_readable(port: Port) -> bool:
    return bool(select.select([port.fileno()], [], [], 0)[0])


def _becomes_readable(port: Port) -> bool:
    return bool(select.select([port.fileno()], [], [], PATIENCE_S)[0])


def _sleep(port: Port) -> None:
    """Sleep until the descriptor is readable or the deadline is there."""
    timeout = PATIENCE_S
    deadline_ns = port.next_deadline_ns()
    if deadline_ns is not None:
        timeout = max(0.0, (deadline_ns - SYSTEM_CLOCK.monotonic_ns()) / 1e9)
    if not select.select([port.fileno()], [], [], timeout)[0]:
        port.wait(0)
