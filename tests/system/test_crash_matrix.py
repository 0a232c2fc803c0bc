# SPDX-License-Identifier: Apache-2.0
"""An IOP that dies or is reset behind the host's back, at every message of everything that is done.

The messages are found by recording each job once, so that new ones are covered by themselves. Each
is hit before the IOP has it, while the IOP has it, and when its answer waits for the host. Whatever
happens, the job ends in time, says what happened, every request ends once, nothing is left behind,
and afterwards the disk holds what was acknowledged, and no torn block.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import i2o
from fakes.fateful_port import MOMENTS, FatefulPort, FatefulProcess, Moment
from fakes.stateful_station import BLOCK, BLOCKS, KeptDisk, pattern
from i2o.block import BlockDevice
from i2o.clock import SYSTEM_CLOCK, Clock, ManualClock
from i2o.errors import I2OError, RequestFailed, RequestTimeout
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.tables import IopState
from i2o.iop import Iop
from i2o.iop_emulator.disk_bay import FIRST_DISK_TID
from i2o.iop_emulator.emu_port import EmuPort
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.message_frames import ReplyFrame
from i2o.message_layer import MessageLayer
from i2o.recovery import Recovery
from i2o.transport.bus_space import BusSpace
from i2o.transport.local_unit import LocalUnit
from i2o.transport.registry import open_port

PATIENCE_S = 300.0
OUTSTANDING = 3
_STEP = re.compile(
    r"bring-up stopped at (StatusGet|IopReset|OutboundInit|HrtGet|SysTabSet|SysEnable|LctNotify)"
)
FATES: dict[str, Callable[[FatefulPort], Callable[[], None]]] = {
    "crash": lambda port: port.soft_iop.crash,
    "reset": lambda port: port.soft_iop.reset,
    "fail": lambda port: port.soft_iop.fail,
    "power cycle": lambda port: port.inner.reset,
    "port closed": lambda port: port.inner.close,
}


class Bench:
    """One disk, the IOP that it is in, and a host.

    Attributes:
        known: what each block is known to hold.
        maybe: what each block may hold instead, after a write that did not succeed.
        ended: how often each of the outstanding requests has ended.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.layer = MessageLayer(clock=self.clock)
        self.store = KeptDisk(BLOCK * BLOCKS)
        self.ports: list[FatefulPort] = []
        self.known = [pattern(0, block) for block in range(BLOCKS)]
        self.maybe: dict[int, bytes] = {}
        self.ended: Counter[int] = Counter()
        self.number = -1
        self.iop: Iop | None = None
        self.disk: BlockDevice | None = None
        self.port = self.new_port()

    def new_port(self) -> FatefulPort:
        """Make an IOP around the disk."""
        unit = LocalUnit(BusSpace(), frame_count=8, frame_size=128)
        iop = SoftIop(unit, None, [self.store])
        port = FatefulPort(EmuPort.of(iop, unit, clock=self.clock))
        self.ports.append(port)
        return port

    # --- jobs: what is done once before, and what is hit -----------------------------------

    def nothing(self) -> None:
        """Do nothing."""

    def attach(self) -> None:
        """Attach the IOP."""
        self.number = self.layer.attach(self.port)

    def attach_and_ask(self) -> None:
        """Attach the IOP, and have requests on their way."""
        self.attach()
        _, (cookie,) = self.layer.register([self._replied])
        for context in range(OUTSTANDING):
            message = BSA_STATUS_CHECK.build(
                target_address=FIRST_DISK_TID,
                initiator_context=cookie,
                transaction_context=context,
            )
            self.layer.submit(self.number, message)

    def bring_up(self) -> None:
        """Bring an IOP up again."""
        self.layer.bring_up(self.number)

    def revive(self) -> None:
        """Revive an IOP."""
        self.layer.revive(self.number)

    def refresh(self) -> None:
        """Read the tables again."""
        self.layer.refresh(self.number)

    def detach(self) -> None:
        """Detach the IOP."""
        self.layer.detach(self.number)

    def open(self, recovery: Recovery | None = None) -> None:
        """Open the IOP."""
        self.iop = i2o.open(self.port, layer=self.layer, timeout_s=1.0, recovery=recovery)
        self.number = self.iop.number

    def open_disk(self) -> None:
        """Open the disk."""
        assert self.iop is not None
        self.disk = self.iop.block()
        self.disk.max_transfer = BLOCK

    def open_all(self) -> None:
        """Open the IOP and its disk."""
        self.open()
        self.open_disk()
        self.write(0, 1, 6)

    def open_all_with_recovery(self) -> None:
        """The same, with the deadline ladder."""
        self.open(Recovery())
        self.open_disk()
        self.write(0, 1, 6)

    def transfer(self) -> None:
        """Write, flush and read, several requests in flight."""
        assert self.disk is not None
        self.write(2, 2, 6)
        self.disk.flush()
        self.check(self.disk.read(0, 8 * BLOCK))

    # --- afterwards ----------------------------------------------------------------------------

    def write(self, stamp: int, first: int, count: int) -> None:
        """Write blocks; they are known when that has succeeded."""
        assert self.disk is not None
        new = {block: pattern(stamp + 1, block) for block in range(first, first + count)}
        self.maybe.update(new)
        self.disk.write(first * BLOCK, b"".join(new.values()))
        for block, data in new.items():
            self.known[block] = data
            self.maybe.pop(block)

    def check(self, data: bytes) -> None:
        """Compare what was read from the beginning of the disk."""
        for block in range(len(data) // BLOCK):
            found = data[block * BLOCK : (block + 1) * BLOCK]
            assert found in (self.known[block], self.maybe.get(block)), f"block {block} is torn"

    def recover(self) -> None:
        """Revive the IOP, or attach another one that has the disk."""
        if self.number in self.layer.iop_numbers():
            with contextlib.suppress(I2OError):
                self.layer.revive(self.number)
            if self.layer.iop_valid(self.number):
                return
            self.layer.detach(self.number)
        self.port = self.new_port()
        self.attach()

    def check_disk(self) -> None:
        """Read the whole disk, and write to it."""
        iop = Iop(self.layer, self.number)
        with iop.block() as disk:
            self.check(disk.read(0, disk.size))
            disk.write(0, pattern(99, 0))
            assert disk.read(0, BLOCK) == pattern(99, 0)

    def close(self) -> None:
        """End everything; nothing is left."""
        self.layer.close()
        for port in self.ports:
            assert port.memory.buffer_count == 0, "host memory is left"
            if not port.is_dead:  # nobody can give a frame to a port that is closed
                assert port.unit.held_by_host() == 0, "inbound frames are left with the host"
            port.inner.close()

    def _replied(self, iop: int, reply: ReplyFrame) -> None:
        self.ended[self.context_of(iop, reply)] += 1
        self.layer.free_reply(iop, reply)

    def context_of(self, iop: int, reply: ReplyFrame) -> int:
        """Return the transaction context of a reply, or of the request that failed."""
        if not reply.failed:
            return int(reply.transaction_context)
        original = self.layer.mfa_convert(iop, reply.preserved_mfa_low)
        assert original is not None
        return int(original.transaction_context)


JOBS: dict[str, tuple[Callable[[Bench], None], Callable[[Bench], None]]] = {
    "attach": (Bench.nothing, Bench.attach),
    "bring up again": (Bench.attach_and_ask, Bench.bring_up),
    "revive": (Bench.attach_and_ask, Bench.revive),
    "refresh": (Bench.attach_and_ask, Bench.refresh),
    "detach": (Bench.attach_and_ask, Bench.detach),
    "open a disk": (Bench.open, Bench.open_disk),
    "transfer": (Bench.open_all, Bench.transfer),
    "transfer with recovery": (Bench.open_all_with_recovery, Bench.transfer),
}


@functools.cache
def steps_of(job: str) -> tuple[str, ...]:
    """Return the messages of a job, as a run without faults sends them."""
    prepare, work = JOBS[job]
    bench = Bench()
    prepare(bench)
    bench.port.seen.clear()
    work(bench)
    steps = tuple(bench.port.seen)
    bench.close()
    return steps


CASES = [
    pytest.param(job, index, fate, moment, id=f"{job}-{index}-{step}-{fate}-{moment}")
    for job in JOBS
    for index, step in enumerate(steps_of(job))
    for fate in FATES
    for moment in MOMENTS
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The log of so many faults is of use to nobody."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(("job", "index", "fate", "moment"), CASES)
def test_one_blow(job: str, index: int, fate: str, moment: Moment) -> None:
    prepare, work = JOBS[job]
    bench = Bench()
    prepare(bench)
    bench.port.arm(index, moment, FATES[fate](bench.port))
    bench.port.is_dead = fate == "port closed"
    start = bench.clock.monotonic()
    error: I2OError | None = None
    try:
        work(bench)
    except I2OError as caught:
        error = caught
    assert bench.clock.monotonic() - start < PATIENCE_S
    says_what_happened(job, fate, error)
    if job == "transfer with recovery" and isinstance(error, RequestTimeout):
        assert bench.layer.check(bench.number).state == IopState.OPERATIONAL
    bench.recover()
    if prepare is Bench.attach_and_ask:
        bench.layer.poll()
        assert bench.ended == Counter(range(OUTSTANDING)), "every request ends once"
    bench.check_disk()
    bench.close()
    if prepare is Bench.attach_and_ask:
        assert bench.ended == Counter(range(OUTSTANDING))


def says_what_happened(job: str, fate: str, error: I2OError | None) -> None:
    """Check that an error names the step, the IOP's state, and what helps."""
    if error is None:
        return
    text = str(error)
    assert job != "detach", f"detaching always works: {text}"
    assert job != "revive" or fate == "port closed", f"reviving helps: {text}"
    if job in ("attach", "bring up again"):
        assert _STEP.search(text), text
        assert re.search("revive it|attach it|power cycle", text), text
    if isinstance(error, RequestFailed) and error.req_status is None:
        assert re.search("STATE_ERROR.*: revive it|SERVICE_TERMINATED.*attach it again", text), text
    if isinstance(error, RequestTimeout):
        assert re.search(r"no reply to [\w|]+ for TID 0x\w{3} within", text), text
    if job == "transfer with recovery" and isinstance(error, RequestTimeout):
        told = {
            "reset": "RESET",
            "power cycle": "RESET",
            "fail": "FAILED",
            "crash": "status block|inbound frame",
        }
        if fate in told:
            assert re.search(told[fate], text), text
            assert error.steps[-1].outcome == "reset, and brought up again"


# --- an IOP in a process of its own -----------------------------

PROCESS_MOMENTS = MOMENTS if os.environ.get("I2O_TESTS_FULL") == "1" else None
PROCESS_CASES = [
    pytest.param(job, index, moment, id=f"{job}-{index}-{step}-{moment}")
    for job in ("attach", "transfer")
    for index, step in enumerate(steps_of(job))
    for moment in PROCESS_MOMENTS or (MOMENTS[index % 3],)
]


@pytest.mark.parametrize(("job", "index", "moment"), PROCESS_CASES)
def test_the_process_is_killed(tmp_path: Path, job: str, index: int, moment: Moment) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(BLOCK * BLOCKS))
    bench = Bench(SYSTEM_CLOCK)
    bench.close()
    bench.ports.clear()
    uri = f"emu:?run=process&frames=8&frame_size=128&disk={image}"
    prepare, work = JOBS[job]
    if moment == "fetched":
        plan = tmp_path / "plan.toml"
        after = 0 if job == "attach" else len(steps_before("transfer"))
        plan.write_text(
            f'[[fault]]\non = "*"\nafter = {after + index}\naction = "delay"\nms = 3600000\n'
        )
        uri += f"&faults={plan}"
    port = FatefulProcess(open_port(uri))  # type: ignore[arg-type]
    bench.port = port  # type: ignore[assignment]
    try:
        prepare(bench)
        port.arm(index, moment, lambda: kill(port))
        try:
            work(bench)
        except I2OError as error:
            assert re.search("process is gone|SERVICE_TERMINATED", str(error)), error
        else:
            assert (index, moment) == (len(steps_of(job)) - 1, "answered")
    finally:
        bench.layer.close()
    assert port.process.returncode == -signal.SIGKILL
    with i2o.open(f"emu:?disk={image}") as iop, iop.block() as disk:
        bench.check(disk.read(0, disk.size))


def kill(port: FatefulProcess) -> None:
    """End the child at once."""
    port.process.kill()
    port.process.wait()


@functools.cache
def steps_before(job: str) -> tuple[str, ...]:
    """Return the messages that prepare a job."""
    bench = Bench()
    JOBS[job][0](bench)
    steps = tuple(bench.port.seen)
    bench.close()
    return steps


def test_the_matrix_has_every_message_of_a_bring_up() -> None:
    assert {"EXEC_STATUS_GET", "EXEC_OUTBOUND_INIT", "EXEC_HRT_GET", "EXEC_LCT_NOTIFY"} <= set(
        steps_of("attach")
    )
    assert {"EXEC_IOP_RESET", "UTIL_NOP"} <= set(steps_of("bring up again"))
    assert "UTIL_PARAMS_GET" in steps_of("open a disk")
    assert Counter(steps_of("transfer")) == {
        "BSA_BLOCK_WRITE": 6,
        "BSA_CACHE_FLUSH": 1,
        "BSA_BLOCK_READ": 8,
    }
