# SPDX-License-Identifier: Apache-2.0
"""Checks of an IOP that is up: its tables, parameters, disks, interrupt, and frames that get lost.

They only read: nothing is claimed, written or reset.
"""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from i2o.bring_up import EXECUTIVE_TID
from i2o.errors import OutOfFrames, ParameterError, RemoteFrameError, RequestFailed
from i2o.frames.block_storage import BsaDetailedStatus
from i2o.frames.executive import EXEC_HRT_GET
from i2o.frames.functions import DeviceClass
from i2o.frames.header import SpecialTid
from i2o.frames.params import FIRST_GENERIC_GROUP
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import HRT_HEADER_SIZE, LCT_ENTRY, LCT_HEADER_SIZE, IopState
from i2o.iop import Iop
from i2o.message_frames import RequestFrame
from i2o.replies import raise_for_status
from i2o.requester import Pending
from i2o.resources import LctEntry
from i2o.tools.checks.finding import Check, Finding, note, ok, problem
from i2o.tools.failures import explain
from i2o.tools.output import plural, printable
from i2o.tools.params import read_rows, reported_groups
from i2o.tools.status import complaints_of
from i2o.waits import I2OTRANS_SLEEP

_SLOW_S: Final = 5.0
"""A bring-up that takes longer is told."""
_WAKE_MS: Final = 2000
_SHOWN: Final = 5
_MOST_PINGS: Final = 2048
_MOST_FRAMES: Final = 1 << 16
_FIRMWARE: Final = "the firmware is wrong: tell its maker, or keep a capture (I2O_CAPTURE) of it"
_FIXED_TIDS: Final = frozenset({int(SpecialTid.IOP_EXECUTIVE), int(SpecialTid.HOST)})
_NO_TID: Final = int(SpecialTid.NO_USER)
_NO_MEDIUM: Final = frozenset({BsaDetailedStatus.MEDIA_NOT_PRESENT, BsaDetailedStatus.MEDIA_LOCKED})
_TROUBLE: Final = {
    "fails": "requests that ended with a FAIL reply",
    "no_frame": "requests that found no free inbound frame",
    "unexpected": "replies that answered no request",
    "malformed": "replies that were no frames",
    "bad_frees": "frames that were freed twice",
    "lost": "times that the IOP left OPERATIONAL",
    "callback_errors": "callbacks that raised",
}
"""Counters of the message layer that are 0 when all is well, and what they count."""


class Patient(NamedTuple):
    """An IOP that was brought up to be looked at.

    Attributes:
        iop: the IOP, with frames from its FIFO (`frame_source="fifo"`).
        bring_up_s: how long that took.
    """

    iop: Iop
    bring_up_s: float


def _bring_up(patient: Patient) -> Iterator[Finding]:
    status = patient.iop.status
    text = f"{printable(status.product_id) or 'no name'}: {status.state_name}"
    took = f"after {1000 * patient.bring_up_s:.0f} ms"
    if status.state != IopState.OPERATIONAL:
        yield problem(f"{text} {took}", "reset it (i2o.Iop.revive) or cycle its power")
    elif patient.bring_up_s > _SLOW_S:
        yield note(f"{text}, but only {took}")
    else:
        yield ok(f"{text} {took}")


# --- tables --------------------------------------------------------------------------------------


def _lct(patient: Patient) -> Iterator[Finding]:
    devices = patient.iop.devices
    tids = {entry.tid for entry in devices}
    found = [
        *_told("TIDs are there more than once", _repeated(entry.tid for entry in devices)),
        *_told(
            "TIDs are reserved, but devices have them",
            sorted(tids & {int(SpecialTid.HOST), int(SpecialTid.RTA), _NO_TID}),
        ),
        *_told(
            "devices have a parent that is not there",
            [entry.tid for entry in devices if entry.parent_tid not in tids | _FIXED_TIDS],
        ),
        *_told(
            "devices have a user that is not there",
            [
                entry.tid
                for entry in devices
                if entry.user_tid not in tids | _FIXED_TIDS | {_NO_TID}
            ],
        ),
        *_told("devices are their own ancestors", _circles(devices)),
    ]
    boot = patient.iop.lct.boot_device_tid
    if boot and boot not in tids:
        found.append(problem(f"the boot device {boot:#05x} is not there", _FIRMWARE))
    size = LCT_HEADER_SIZE + LCT_ENTRY.size * len(devices)
    expected = patient.iop.status.expected_lct_size
    if expected != size:
        found.append(note(f"LCT of {size} bytes, the status block says {expected}"))
    yield from found or [ok(f"LCT: {plural(len(devices), 'device')}, {size} bytes")]


def _hrt(patient: Patient) -> Iterator[Finding]:
    adapters = patient.iop.hrt
    tids = {entry.tid for entry in patient.iop.devices} | {*_FIXED_TIDS, _NO_TID}
    found = [
        *_told(
            "adapters are there more than once", _repeated(entry.adapter_id for entry in adapters)
        ),
        *_told(
            "adapters are controlled by a device that is not there",
            [entry.adapter_id for entry in adapters if entry.controlling_tid not in tids],
        ),
    ]
    yield from found or [ok(f"HRT: {plural(len(adapters), 'adapter')}")]


def _told(what: str, numbers: list[int]) -> Iterator[Finding]:
    """Yield a problem that names the first few of those that have it."""
    if numbers:
        shown = ", ".join(f"{number:#05x}" for number in numbers[:_SHOWN])
        more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
        yield problem(f"{what}: {shown}{more}", _FIRMWARE)


def _repeated(numbers: Iterable[int]) -> list[int]:
    return sorted(number for number, count in Counter(numbers).items() if count > 1)


def _circles(devices: tuple[LctEntry, ...]) -> list[int]:
    """Return the devices from which the parents lead back to the device itself."""
    parents = {entry.tid: entry.parent_tid for entry in devices}
    found = []
    for start in parents:
        if start == EXECUTIVE_TID:
            continue
        seen, at = {start}, parents[start]
        while at in parents and at != EXECUTIVE_TID and at not in seen:
            seen.add(at)
            at = parents[at]
        if at == start:
            found.append(start)
    return sorted(found)


# --- devices -------------------------------------------------------------------------------------


def _parameters(patient: Patient) -> Iterator[Finding]:
    iop = patient.iop
    tids = sorted({EXECUTIVE_TID, *(entry.tid for entry in iop.devices)})
    count = 0
    for tid in tids:
        try:
            groups = reported_groups(iop, tid)
        except (ParameterError, RequestFailed, RemoteFrameError) as error:
            yield problem(
                f"TID {tid:#05x} does not tell its groups: {explain(error)}",
                "every device must have group 0xf000; " + _FIRMWARE,
            )
            continue
        for number, layout in groups:
            if number < FIRST_GENERIC_GROUP or layout is None:
                continue
            try:
                read_rows(iop, tid, layout)
                count += 1
            except (ParameterError, RequestFailed, RemoteFrameError) as error:
                yield problem(f"TID {tid:#05x} has a group in vain: {explain(error)}", _FIRMWARE)
    yield ok(f"{plural(count, 'generic group')} of {plural(len(tids), 'device')} read")


def _disks(patient: Patient) -> Iterator[Finding]:
    disks = patient.iop.of_class(DeviceClass.RANDOM_BLOCK_STORAGE)
    if not disks:
        yield note("the IOP has no disk")
    for entry in disks:
        try:
            with patient.iop.block(entry.tid, claim=False) as disk:
                disk.status_check()
                yield ok(f"TID {entry.tid:#05x}: {disk.size:,} bytes, ready")
        except RequestFailed as error:
            if error.req_status is not None and error.detail in _NO_MEDIUM:
                yield note(f"TID {entry.tid:#05x}: {explain(error)}", "insert a medium")
            else:
                yield problem(f"TID {entry.tid:#05x}: {explain(error)}", "look at the disk")
        except (ParameterError, RemoteFrameError) as error:
            yield problem(f"TID {entry.tid:#05x}: {explain(error)}", _FIRMWARE)


# --- frames --------------------------------------------------------------------------------------


def _interrupt(patient: Patient) -> Iterator[Finding]:
    """See whether a reply makes the port's descriptor readable."""
    iop = patient.iop
    poller = select.poll()
    poller.register(iop.layer.port(iop.number).fileno(), select.POLLIN)
    iop.layer.poll()
    if poller.poll(0):
        iop.layer.poll()  # the first one may have found what was there before
    is_noisy = bool(poller.poll(0))
    start = time.perf_counter()
    pending = _ping(iop)
    try:
        has_woken = bool(poller.poll(_WAKE_MS))
        woke_ms = 1000 * (time.perf_counter() - start)
        raise_for_status(iop.requester.finish(pending), "ExecHrtGet")
    finally:
        pending.release()
    if not has_woken:
        yield problem(
            f"a reply came, but no interrupt within {_WAKE_MS} ms",
            "look whether the card's interrupt is routed (/proc/interrupts); polling works",
        )
    elif is_noisy:
        yield note("the descriptor is readable although no reply is there: waiting takes CPU time")
    else:
        yield ok(f"a reply wakes the descriptor ({woke_ms:.2f} ms)")


def _frames(patient: Patient) -> Iterator[Finding]:
    """Use every frame twice, and count those that come home."""
    iop = patient.iop
    status = iop.status
    pings = min(_MOST_PINGS, 2 * max(status.max_inbound_frames, status.max_outbound_frames))
    for _ in range(pings):
        pending = _ping(iop)
        try:
            raise_for_status(iop.requester.finish(pending), "ExecHrtGet")
        finally:
            pending.release()
    counters = replace(iop.layer.counters(iop.number))
    found = []
    expected = min(status.current_inbound_frames, _MOST_FRAMES)
    free = _free_frames(iop, expected)
    if free < expected:
        lost = plural(expected - free, "inbound frame")
        found.append(problem(f"{lost} of {expected} did not come back", _FIRMWARE))
    elif free > expected:
        found.append(note(f"more inbound frames came than the {expected} of the status block"))
    owed = iop.layer.outstanding(iop.number)
    if owed:
        found.append(problem(f"{plural(owed, 'request')} got no reply", _FIRMWARE))
    for name, what in _TROUBLE.items():
        count: int = getattr(counters, name)
        if count:
            found.append(problem(f"{what}: {count}", _FIRMWARE))
    yield from found or [
        ok(f"all {expected} inbound frames came home from {plural(counters.requests, 'request')}")
    ]


def _free_frames(iop: Iop, expected: int) -> int:
    """Count the free inbound frames: take them all, as far as one too many, and give them back."""
    layer, number = iop.layer, iop.number
    frames: list[RequestFrame] = []
    try:
        while len(frames) <= expected:
            is_last = len(frames) == expected
            frames.append(
                layer.request_frame(number, 0 if is_last else layer.hz // 5, I2OTRANS_SLEEP)
            )
    except OutOfFrames:
        pass
    finally:
        for frame in frames:
            layer.free_request(number, frame)
    return len(frames)


def _ping(iop: Iop) -> Pending:
    """Send the cheapest request that every IOP answers: the header of its HRT, please."""
    size = HRT_HEADER_SIZE
    buffer = iop.memory.allocate(size)
    sgl = simple_sgl(buffer.segments, out=False)
    message = EXEC_HRT_GET.build(
        target_address=EXECUTIVE_TID, message_size=(EXEC_HRT_GET.size + len(sgl)) // 4
    )
    return iop.requester.start(message + sgl, buffers=(buffer,))


def _complaints(patient: Patient) -> Iterator[Finding]:
    complaints = complaints_of(patient.iop)
    if complaints is None:
        yield ok("it is no software IOP of this process: it keeps its complaints to itself")
        return
    for sentence in complaints[:_SHOWN]:
        yield problem(printable(sentence), "the host did something wrong: report it as a bug")
    if not complaints:
        yield ok("the software IOP has none")


CHECKS: Final[tuple[Check[Patient], ...]] = (
    Check("bring-up", _bring_up),
    Check("lct", _lct),
    Check("hrt", _hrt),
    Check("parameters", _parameters),
    Check("disks", _disks),
    Check("interrupt", _interrupt),
    Check("frames", _frames),
    Check("complaints", _complaints),
)
