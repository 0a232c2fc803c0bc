# SPDX-License-Identifier: Apache-2.0
"""Brings an IOP to OPERATIONAL, the way the drivers of five operating systems do it.

Mask interrupts, StatusGet, IopReset unless the IOP is in RESET already, turn the first free frame
into a NOP, OutboundInit and the reply frames, HrtGet, SysTabSet with every attached IOP,
SysEnable, LctNotify, unmask. Every step has a time limit and says which one failed.

The three messages that the IOP answers through memory (StatusGet, IopReset, OutboundInit) are
sent on the port itself; everything else goes through the message layer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from i2o.clock import Clock
from i2o.errors import I2OError, IopDead, MessageLayerError, RemoteFrameError
from i2o.frames import executive, executive_groups, tables
from i2o.frames.header import ReqStatus
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import InitCode, IopResetStatus, IopState, OutboundInitStatus
from i2o.iop_table import IopEntry
from i2o.message_frames import ReplyFrame
from i2o.parameters import set_field
from i2o.replies import raise_for_status
from i2o.requester import Requester, RequestLayer
from i2o.resources import (
    BringUpResult,
    HrtEntry,
    IopStatus,
    Lct,
    hrt_size,
    lct_size,
    parse_hrt,
    parse_lct,
    parse_status,
)
from i2o.transport.host_memory import HostBuffer

EXECUTIVE_TID: Final = 0
_ALL_CLASSES: Final = 0xFFFF_FFFF
_ALREADY_ENABLED: Final = 0x12
_HOST_PAGE_SIZE: Final = 4096
_TABLE_TRIES: Final = 4  # a table may grow between asking for its size and reading it
_MAX_TABLE: Final = 1 << 20
_PAUSE_S: Final = 0.001
_LOOK_S: Final = 0.05  # longest wait between two looks at memory the IOP writes to


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds, and how many reply frames of which size the IOP gets.

    The defaults are the longest that a driver allows for the step.
    """

    status_s: float = 5.0
    reset_status_s: float = 5.0
    reset_frame_s: float = 30.0
    initializing_s: float = 30.0
    outbound_init_s: float = 10.0
    request_s: float = 60.0
    reply_frames: int = 128
    reply_frame_size: int = 128


class Layer(RequestLayer, Protocol):
    """What bring-up needs of the message layer."""

    clock: Clock

    def system_table(self, iop: int, status: IopStatus) -> bytes:
        """Return the table of all IOPs; this one's status is new."""


def bring_up(
    layer: Layer, entry: IopEntry, limits: Limits, *, after_reset: Callable[[], object]
) -> BringUpResult:
    """Bring an IOP to OPERATIONAL.

    Args:
        layer: the message layer that the IOP is attached to.
        entry: the IOP.
        limits: time limits and frame counts.
        after_reset: called once the IOP no longer writes to host memory.

    Raises:
        IopDead: the IOP does not answer, is faulted, refuses, or is of an unknown version.
        RequestTimeout, RequestFailed: a message got no reply, or a bad one.
        RemoteFrameError: a table contradicts itself.
    """
    step = _Step()
    try:
        return _bring_up(layer, entry, limits, after_reset, step)
    except MessageLayerError as error:
        error.explain(f"bring-up stopped at {step.name}; {_advice(entry, limits, layer, error)}")
        raise


class _Step:
    """Where a bring-up is."""

    name = "StatusGet"


def _advice(entry: IopEntry, limits: Limits, layer: Layer, error: MessageLayerError) -> str:
    """Say how the IOP is after a bring-up that failed, and what to do."""
    if entry.is_dead:
        return "the IOP is gone for good: attach it again"
    if isinstance(error, IopDead):  # tells of the status block already
        return "revive it, which cycles its power if messages fail"
    try:
        state = read_status(entry, limits, layer.clock).state_name
    except (I2OError, MemoryError):
        return "the IOP does not answer: revive it, which cycles its power if messages fail"
    return f"the IOP is {state}: revive it, which resets it"


def _bring_up(
    layer: Layer,
    entry: IopEntry,
    limits: Limits,
    after_reset: Callable[[], object],
    step: _Step,
) -> BringUpResult:
    entry.port.mask_interrupt(True)
    entry.refusing = "is being reset"
    try:
        status = _reset_and_init(layer, entry, limits, after_reset, step)
    finally:
        if not entry.is_dead:
            entry.refusing = ""
    with Requester(layer, entry.number, timeout_s=limits.request_s) as requester:
        step.name = "HrtGet"
        hrt = _read_hrt(requester, entry)
        step.name = "SysTabSet"
        _set_system_table(layer, requester, entry, status)
        step.name = "SysEnable"
        _enable(requester)
        status = read_status(entry, limits, layer.clock)
        if status.state != IopState.OPERATIONAL:
            raise IopDead(f"after SysEnable the IOP is {status.state_name}, not OPERATIONAL")
        step.name = "LctNotify"
        lct = _read_lct(requester, entry, status.expected_lct_size)
    entry.port.mask_interrupt(False)
    return BringUpResult(status, hrt, lct)


def _reset_and_init(
    layer: Layer,
    entry: IopEntry,
    limits: Limits,
    after_reset: Callable[[], object],
    step: _Step,
) -> IopStatus:
    """Go from any state to HOLD, while nobody else may send."""
    status = read_status(entry, limits, layer.clock)
    if status.i2o_version > 1:
        raise IopDead(
            f"the IOP speaks I2O version code {status.i2o_version}; 0 (1.0) and 1 (1.5) are known"
        )
    step.name = "IopReset"
    # in RESET already: frames that were taken since are given back by another reset only
    _reset(entry, limits, layer.clock, status, always=entry.holds_frames)
    entry.forget_frames()
    after_reset()
    status = read_status(entry, limits, layer.clock)
    if status.desired_private_mem_size or status.desired_private_io_size:
        raise IopDead(
            "the IOP wants private address space "
            f"({status.desired_private_mem_size:#x} bytes of memory, "
            f"{status.desired_private_io_size:#x} of I/O), which nothing here can give it"
        )
    entry.inbound_size = min(status.inbound_frame_size or 64, entry.port.inbound_size)
    entry.size_at_next_reboot = entry.inbound_size
    step.name = "OutboundInit"
    _init_outbound(entry, limits, layer.clock, status)
    return status


def read_tables(layer: Layer, entry: IopEntry, limits: Limits) -> BringUpResult:
    """Read status block, HRT and LCT of an IOP that is up."""
    status = read_status(entry, limits, layer.clock)
    with Requester(layer, entry.number, timeout_s=limits.request_s) as requester:
        return BringUpResult(
            status,
            _read_hrt(requester, entry),
            _read_lct(requester, entry, status.expected_lct_size),
        )


def reset(entry: IopEntry, limits: Limits, clock: Clock) -> None:
    """Reset an IOP by message; afterwards it writes to no host memory.

    Raises:
        IopDead: it does not answer, or refuses.
    """
    _reset(entry, limits, clock, read_status(entry, limits, clock), always=True)


def read_status(entry: IopEntry, limits: Limits, clock: Clock) -> IopStatus:
    """Ask for the status block and wait for its sync byte (StatusGet has no reply).

    Raises:
        IopDead: the block did not come in time.
    """
    size = tables.STATUS_BLOCK.size
    block = entry.lend(size)
    _post(
        entry,
        executive.EXEC_STATUS_GET.build(
            reply_buffer_address_low=block.bus_address, reply_buffer_length=size
        ),
        limits.status_s,
        clock,
    )
    last = size - 1
    if not _watch(
        entry, block, lambda: block.view[last] == tables.SYNC_BYTE_DONE, limits.status_s, clock
    ):
        # the IOP may still write: the buffer stays mapped until it was reset
        raise IopDead(f"no status block within {limits.status_s:g} s (sync byte never came)")
    data = bytes(block.view)
    entry.take_back(block)
    status = parse_status(data)
    if status.state == IopState.FAULTED:
        raise IopDead("the IOP is FAULTED: only a power cycle or a new firmware helps")
    return status


def set_inbound_size_target(layer: RequestLayer, entry: IopEntry, size: int) -> None:
    """Tell the IOP which inbound frame size it should have after its next reboot."""
    with Requester(layer, entry.number) as requester:
        set_field(
            requester,
            entry.port.memory,
            EXECUTIVE_TID,
            executive_groups.EXEC_IOP_MESSAGE_INTERFACE,
            "inbound_size_target",
            size,
        )


def _post(entry: IopEntry, message: bytes, timeout_s: float, clock: Clock) -> None:
    """Put a message on the port, waiting for a free frame."""
    mfa = _take_frame(entry, timeout_s, clock, "no inbound frame came free within {:g} s")
    with entry.lock:
        entry.port.write(mfa, message)
        entry.with_iop.add(mfa)
        entry.has_posted = True
        entry.port.post(mfa)


def _take_frame(entry: IopEntry, timeout_s: float, clock: Clock, complaint: str) -> int:
    """Wait for a free inbound frame; raises IopDead."""
    deadline = clock.monotonic() + timeout_s
    while (mfa := entry.alloc()) is None:
        left = deadline - clock.monotonic()
        if left <= 0:
            raise IopDead(complaint.format(timeout_s))
        if entry.port.wait(min(left, _LOOK_S)):
            clock.sleep(_PAUSE_S)  # it did something, but gave no frame back
    return mfa


def _watch(
    entry: IopEntry,
    buffer: HostBuffer,
    done: Callable[[], bool],
    timeout_s: float,
    clock: Clock,
) -> bool:
    """Look at memory that the IOP writes to until a condition holds."""
    deadline = clock.monotonic() + timeout_s
    has_acted = False
    while True:
        buffer.from_device()
        if done():
            return True
        left = deadline - clock.monotonic()
        if left <= 0:
            return False
        if has_acted:
            clock.sleep(_PAUSE_S)  # it did something, but not this: no clock may hang here
        has_acted = entry.port.wait(min(left, _LOOK_S))


def _reset(
    entry: IopEntry, limits: Limits, clock: Clock, status: IopStatus, *, always: bool = False
) -> None:
    """Bring the IOP to RESET, from whatever state it is in."""
    if status.state == IopState.INITIALIZING:
        status = _await_reset_state(entry, limits, clock)
    if status.state == IopState.RESET and not always:
        return
    word = entry.lend(4)
    _post(
        entry,
        executive.EXEC_IOP_RESET.build(status_word_low_address=word.bus_address),
        limits.reset_status_s,
        clock,
    )
    if not _watch(entry, word, lambda: word.view[0] != 0, limits.reset_status_s, clock):
        raise IopDead(f"IopReset was not accepted within {limits.reset_status_s:g} s")
    accepted = word.view[0]
    entry.take_back(word)
    if accepted != IopResetStatus.IN_PROGRESS:
        raise IopDead(f"the IOP rejected IopReset (status {accepted})")
    entry.with_iop.clear()
    mfa = _take_frame(
        entry, limits.reset_frame_s, clock, "no inbound frame within {:g} s of IopReset"
    )
    with entry.lock:
        entry.post_nop(mfa)
    status = _await_reset_state(entry, limits, clock)
    if status.state != IopState.RESET:
        raise IopDead(f"after IopReset the IOP is {status.state_name}, not RESET")


def _await_reset_state(entry: IopEntry, limits: Limits, clock: Clock) -> IopStatus:
    """Ask for the status until it is no longer INITIALIZING."""
    deadline = clock.monotonic() + limits.initializing_s
    while (status := read_status(entry, limits, clock)).state == IopState.INITIALIZING:
        if clock.monotonic() >= deadline:
            raise IopDead(f"the IOP is still INITIALIZING after {limits.initializing_s:g} s")
        clock.sleep(_LOOK_S)
    return status


def _init_outbound(entry: IopEntry, limits: Limits, clock: Clock, status: IopStatus) -> None:
    """Initialise the outbound queue and hand in the reply frames."""
    memory = entry.port.memory
    word = entry.lend(4)
    words = limits.reply_frame_size // 4
    _post(
        entry,
        executive.EXEC_OUTBOUND_INIT.build(
            host_page_frame_size=_HOST_PAGE_SIZE,
            init_code=InitCode.OS,
            outbound_msg_frame_size=words,
            message_size=8,
        )
        + simple_sgl(((word.bus_address, 4),), out=False),
        limits.outbound_init_s,
        clock,
    )

    def finished() -> bool:
        return word.view[0] >= OutboundInitStatus.REJECTED

    if not _watch(entry, word, finished, limits.outbound_init_s, clock):
        raise IopDead(f"OutboundInit did not finish within {limits.outbound_init_s:g} s")
    outcome = word.view[0]
    entry.take_back(word)
    if outcome != OutboundInitStatus.COMPLETE:
        raise IopDead(f"OutboundInit failed (status {outcome})")
    count = max(1, min(limits.reply_frames, status.max_outbound_frames or limits.reply_frames))
    pool = memory.allocate(count * limits.reply_frame_size)
    entry.adopt_reply_pool(pool, limits.reply_frame_size)
    for mfa in sorted(entry.reply_frames):
        entry.port.release(mfa)
    status = read_status(entry, limits, clock)
    if status.state != IopState.HOLD:
        raise IopDead(f"after OutboundInit the IOP is {status.state_name}, not HOLD")


def _read_table(
    requester: Requester,
    entry: IopEntry,
    what: str,
    request: Callable[[bytes], bytes],
    needed: Callable[[bytes], int],
    first_size: int,
) -> bytes:
    """Read a table of unknown size: once, and again as long as it says that it is larger."""
    size = first_size
    for _ in range(_TABLE_TRIES):
        buffer = entry.port.memory.allocate(size)
        pending = requester.start(
            request(simple_sgl(((buffer.bus_address, size),), out=False)), buffers=(buffer,)
        )
        try:
            raise_for_status(requester.finish(pending), what)
            buffer.from_device()
            data = bytes(buffer.view)
        finally:
            pending.release()
        want = needed(data)
        if want <= size:
            return data
        if want > _MAX_TABLE:
            raise RemoteFrameError(f"{what}: a table of {want} bytes is not believable")
        size = want
    raise RemoteFrameError(f"{what}: the table grew {_TABLE_TRIES} times while it was read")


def _read_hrt(requester: Requester, entry: IopEntry) -> tuple[HrtEntry, ...]:
    layout = executive.EXEC_HRT_GET

    def request(sgl: bytes) -> bytes:
        return layout.build(message_size=(layout.size + len(sgl)) // 4) + sgl

    return parse_hrt(_read_table(requester, entry, "HrtGet", request, hrt_size, 256))


def _read_lct(requester: Requester, entry: IopEntry, expected: int) -> Lct:
    layout = executive.EXEC_LCT_NOTIFY

    def request(sgl: bytes) -> bytes:
        return (
            layout.build(
                message_size=(layout.size + len(sgl)) // 4,
                class_identifier=_ALL_CLASSES,
                last_reported_change_indicator=0,
            )
            + sgl
        )

    first = min(max(expected, 48), _MAX_TABLE)
    return parse_lct(_read_table(requester, entry, "LctNotify", request, lct_size, first))


def _set_system_table(
    layer: Layer, requester: Requester, entry: IopEntry, status: IopStatus
) -> None:
    """Send the table of all attached IOPs, with two empty buffers for private memory and I/O."""
    data = layer.system_table(entry.number, status)
    table = entry.port.memory.allocate(len(data))
    table.view[:] = data
    table.to_device()
    empty = struct.pack("<II", 0x5400_0000, 0)
    sgl = (
        simple_sgl(((table.bus_address, len(data)),), out=True, last=False)
        + empty
        + struct.pack("<II", 0xD400_0000, 0)
    )
    layout = executive.EXEC_SYS_TAB_SET
    reply = requester.call(
        layout.build(
            iop_id=entry.iop_id,
            host_unit_id=0,
            segment_number=0,
            message_size=(layout.size + len(sgl)) // 4,
        )
        + sgl,
        buffers=(table,),
    )
    raise_for_status(reply, "SysTabSet")


def _enable(requester: Requester) -> None:
    reply = requester.call(executive.EXEC_SYS_ENABLE.build())
    if _is_already_enabled(reply):
        return
    raise_for_status(reply, "SysEnable")


def _is_already_enabled(reply: ReplyFrame) -> bool:
    return (
        not reply.failed
        and reply[19] == ReqStatus.ERROR_NO_DATA_TRANSFER
        and int.from_bytes(reply[16:18], "little") == _ALREADY_ENABLED
    )
