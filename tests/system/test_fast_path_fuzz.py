# SPDX-License-Identifier: Apache-2.0
"""The same random conversations with an IOP in shared memory, with its fast path and without.

Whatever is asked, in whatever state, however many reply frames there are, and whatever happens to
the IOP in between: replies, their order, where frames are, counters and complaints are the same.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

import pytest

from fakes.shm_pair import needs_rings
from fakes.shm_serving import Serving, count_fast_requests
from i2o.errors import LocalFrameError
from i2o.frames import block_storage as bsa
from i2o.frames import executive, utility
from i2o.frames.functions import Function
from i2o.frames.header import FAILURE_REPLY, MsgFlags
from i2o.frames.layout import MessageLayout
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.faults import FaultPlan
from i2o.message_layer import MessageLayer
from i2o.requester import Requester
from i2o.transport.port import EMPTY
from i2o.transport.registry import open_port
from i2o.transport.shm.unit import ShmUnit

pytestmark = needs_rings
CONVERSATIONS = 1000 if os.environ.get("I2O_TESTS_FULL") == "1" else 40
STEPS = 120
DISK, OTHER_DISK, DDM = 0x010, 0x011, 0x008
PLAN = """
[[fault]]
every = 3
action = "delay"
ms = 5
[[fault]]
every = 4
action = "drop"
[[fault]]
every = 2
action = "stall"
ms = 1
"""
_REPLY_BYTES = 128


class Conversation:
    """A host and an IOP that is run by hand.

    Args:
        seed: same seed, same conversation.
        is_timed: time is a number, and faults delay requests; else it is the machine's.
        serving: the IOP; its loop has ended.
        layer: of the host, which has brought the IOP up.
        number: of the IOP.

    Attributes:
        log: everything that could be seen.
    """

    def __init__(
        self, seed: int, is_timed: bool, serving: Serving, layer: MessageLayer, number: int
    ) -> None:
        self._rng, self._is_timed = random.Random(seed), is_timed
        self._server, self._iop, self._unit = serving.server, serving.iop.soft_iop, serving.iop.unit
        self._iop.replies._limit = self._rng.choice((2, 8, 64))
        self._port = layer.port(number)
        self._now_ns = 10**12
        self._address = self._port.memory.allocate(8192).bus_address
        self._context = 0
        self._statics: list[int] = []
        self._preserved: list[int] = []
        self._held: list[int] = []
        self._to_hold = 0
        self.log: list[object] = []

    def go(self) -> None:
        for _ in range(STEPS):
            for _ in range(self._rng.choice((1, 1, 1, 2, 5, 20))):
                self._post()
            self._happen()
            self._now_ns += self._rng.choice((0, 1000, 10**6, 10**9))
            for _ in range(2):
                self._run()
                self._reap()
            self._look()

    def _run(self) -> None:
        for _ in range(50):
            now_ns = self._now_ns if self._is_timed else time.monotonic_ns()
            due_ns = self._server.run(now_ns)
            if due_ns is None or due_ns > now_ns:
                return

    def _post(self) -> None:
        port = self._port
        if self._statics and self._rng.random() < 0.1:
            mfa = self._rng.choice(self._statics)
        else:
            mfa = self._preserved.pop() if self._preserved else port.alloc()
            if mfa == EMPTY:
                self.log.append("no frame")
                return
            try:
                port.write(mfa, self._spoilt(self._frame()))
            except LocalFrameError as error:  # a reset took it, which the host does not heed
                self.log.append(str(error))
        port.post(mfa)
        self.log.append(("post", mfa))

    def _frame(self) -> bytes:
        """Return a request of those that nearly all are, or of any other kind."""
        rng = self._rng
        tid = rng.choice((DISK,) * 30 + (DDM,) * 4 + (OTHER_DISK,))
        check = bsa.BSA_STATUS_CHECK.build(target_address=tid)
        read = bsa.BSA_BLOCK_READ.build(target_address=tid, transfer_byte_count=512)
        if rng.random() < 0.8:
            good = read + simple_sgl([(self._address, 512)], out=False)
            return rng.choice((check, check, good))
        others: list[Callable[[], bytes]] = [
            lambda: read + simple_sgl([(0x10, 512)], out=False),  # no memory of the host's
            lambda: _any_of(rng, tid, utility.UTIL_LOCK, utility.UTIL_LOCK_RELEASE),
            lambda: _any_of(rng, tid, utility.UTIL_CLAIM, utility.UTIL_CLAIM_RELEASE),
            lambda: utility.UTIL_NOP.build(target_address=tid),
            lambda: utility.UTIL_ABORT.build(target_address=tid, abort_type=rng.randrange(9)),
            lambda: utility.UTIL_EVENT_REGISTER.build(target_address=tid, event_mask=0xFFFFFFFF),
            lambda: bsa.BSA_MEDIA_VERIFY.build(
                target_address=tid, byte_count=rng.choice((512, 1 << 20))
            ),
            lambda: check[:1] + bytes([rng.choice((0x40, 0x10, 0x50, 1, 2))]) + check[2:],
            lambda: _any_of(rng, 0, executive.EXEC_SYS_ENABLE, executive.EXEC_SYS_QUIESCE),
            lambda: executive.EXEC_DDM_QUIESCE.build(device_tid=tid),
            lambda: executive.EXEC_DDM_ENABLE.build(device_tid=tid),
            lambda: executive.EXEC_DDM_ENABLE.build(device_tid=DDM),
        ]
        if rng.random() < 0.02:
            others = [
                lambda: (
                    executive.EXEC_STATIC_MF_CREATE.build(
                        max_outstanding=2, static_message_frame=_sized(check)[:12]
                    )
                    + check[12:]
                ),
                lambda: executive.EXEC_DDM_DESTROY.build(ddm_tid=DDM),
                lambda: executive.EXEC_DDM_SUSPEND.build(ddm_tid=DDM),
                executive.EXEC_IOP_CLEAR.build,
            ]
        return rng.choice(others)()

    def _spoilt(self, frame: bytes) -> bytes:
        """Return a frame with the next context, and now and then with a header that is wrong."""
        spoilt = bytearray(_sized(frame))
        self._context += 1
        spoilt[12:16] = self._context.to_bytes(4, "little")
        if self._rng.random() < 0.04:
            spoilt[0] |= 8
        if self._rng.random() < 0.04:
            spoilt[2:4] = self._rng.randrange(40).to_bytes(2, "little")
        return bytes(spoilt)

    def _reap(self) -> None:
        port = self._port
        while (address := port.reap()) != EMPTY:
            reply = bytes(port.outbound(address, _REPLY_BYTES))
            reply = reply[: 4 * int.from_bytes(reply[2:4], "little")]
            self.log.append(reply)
            if reply[1] & MsgFlags.FAIL:
                mfa = FAILURE_REPLY.unpack_from(reply).preserved_mfa_low
                self._preserved += [mfa] if mfa != EMPTY else []
            elif reply[7] == Function.EXEC_STATIC_MF_CREATE and not reply[19]:
                self._statics.append(int.from_bytes(reply[20:24], "little"))
            if self._to_hold:
                self._to_hold -= 1
                self._held.append(address)
            else:
                port.release(address)

    def _happen(self) -> None:
        """Let something happen, seldom: to the host's reply frames, or to the IOP."""
        chance = self._rng.random()
        iop = self._iop
        if chance < 0.03:
            self._to_hold = self._rng.randrange(400)
        elif chance < 0.08:
            self._to_hold = 0
            while self._held:
                self._port.release(self._held.pop())
        elif chance < 0.085:
            is_good = self._rng.random() < 0.8 or not self._is_timed
            iop.misbehave(None if is_good else FaultPlan.from_toml(PLAN, seed=1))
        elif chance < 0.092:
            if DISK in iop.lct.devices:
                iop.bay.remove(DISK).close()
            else:
                iop.bay.add(MemoryDisk(1 << 20))
        elif chance < 0.093 and iop.state not in (IopState.FAULTED, IopState.FAILED):
            iop.fail()
        elif chance < 0.0935:
            iop.reset()

    def _look(self) -> None:
        unit, iop = self._unit, self._iop
        frames = unit.idle_inbound(), unit.idle_outbound(), unit.posted_inbound()
        waiting = len(iop._stuck), len(iop.replies.backlog)
        told = iop.state.name, tuple(iop.complaints)
        self.log.append((astuple(iop.counters), frames, waiting, told))


def _any_of(rng: random.Random, tid: int, *layouts: MessageLayout) -> bytes:
    return rng.choice(layouts).build(target_address=tid)


def _sized(frame: bytes) -> bytes:
    return frame[:2] + (len(frame) // 4).to_bytes(2, "little") + frame[4:]


@contextmanager
def conversation(seed: int, spin_s: float, *, is_timed: bool) -> Iterator[Conversation]:
    with Serving("frames=48&frame_size=128", spin_s=spin_s) as serving:
        layer = MessageLayer()
        number = layer.attach(open_port("shm:test"))
        Requester(layer, number).close()
        serving.vanish_from_loop()
        try:
            yield Conversation(seed, is_timed, serving, layer, number)
        finally:
            serving.server.host.close()
            layer.close()


@pytest.mark.parametrize("spin_s", [0.0, 50e-6])
def test_the_fast_path_leads_where_the_other_does(
    spin_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    fast = count_fast_requests(monkeypatch)
    for seed in range(CONVERSATIONS):
        with conversation(seed, spin_s, is_timed=not spin_s) as one:
            one.go()
        with monkeypatch.context() as patched:
            patched.setattr(ShmUnit, "use", lambda unit, path: None)
            with conversation(seed, 0.0, is_timed=not spin_s) as other:
                other.go()
        for step, (here, there) in enumerate(zip(one.log, other.log, strict=False)):
            assert here == there, f"entry {step} of seed {seed}"
        assert len(one.log) == len(other.log)
    assert sum(fast) > 10 * CONVERSATIONS
