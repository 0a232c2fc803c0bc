# SPDX-License-Identifier: Apache-2.0
"""Millions of messages in one process: memory stays flat, and every frame comes home.

The mix is that of a disk at work, with a share of requests that are refused or cannot be delivered,
and with NOPs. After each million the resident memory is printed; at the end host and emulator must
agree on every count, and every inbound and outbound frame must be back where it started.
Run: python tests/bench/soak.py [--messages 50000000]
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from i2o.frames import block_storage as bsa
from i2o.frames import params, utility
from i2o.frames.header import MsgFlags
from i2o.frames.sgl import simple_sgl
from i2o.message_frames import ReplyFrame
from i2o.message_layer import MessageLayer

DISK = 0x010
NOBODY = 0x7FF
BATCH = 100
MOST_GROWTH = 1 << 20
"""Bytes of resident memory that the second half of a run may add."""


class Sample(NamedTuple):
    """How things stand after some messages.

    Attributes:
        messages: how many were sent.
        resident: bytes of resident memory.
        seconds: since the start.
    """

    messages: int
    resident: int
    seconds: float


class Soak:
    """One IOP under load.

    Args:
        uri: which; it must be a software IOP in this process, with a disk at 0x010.
    """

    def __init__(self, uri: str = "emu:") -> None:
        self.layer = MessageLayer()
        self.iop = self.layer.attach(uri)
        self.port = self.layer.port(self.iop)
        self.soft_iop = self.port.soft_iop  # type: ignore[attr-defined]
        self.sent = self.finished = self.failed = self.refused = 0
        _, (self.cookie,) = self.layer.register([self._replied])
        memory = self.port.memory
        block = memory.allocate(512)
        listed = (
            params.PARAM_OPERATION_LIST_HEADER.build(operation_count=1)
            + b"\x01\x00\x00\xf1\xff\xff\x00\x00"  # FieldGet of all of group 0xF100
        )
        operations = memory.allocate(len(listed))
        operations.view[:] = listed
        results = memory.allocate(512)
        self._kept = (block, operations, results)
        contexts = {"initiator_context": self.cookie}
        check = bsa.BSA_STATUS_CHECK.build(target_address=DISK, **contexts)
        read = self._with_list(
            bsa.BSA_BLOCK_READ.build(target_address=DISK, transfer_byte_count=512, **contexts),
            simple_sgl([(block.bus_address, 512)], out=False),
        )
        read_outside = self._with_list(
            bsa.BSA_BLOCK_READ.build(
                target_address=DISK,
                transfer_byte_count=512,
                logical_byte_address=1 << 50,
                **contexts,
            ),
            simple_sgl([(block.bus_address, 512)], out=False),
        )
        parameters = self._with_list(
            utility.UTIL_PARAMS_GET.build(target_address=DISK, **contexts),
            simple_sgl([(operations.bus_address, len(listed))], out=True, last=False)
            + simple_sgl([(results.bus_address, 512)], out=False),
        )
        acknowledge = utility.UTIL_EVENT_ACK.build(target_address=DISK, **contexts)
        lost = bsa.BSA_STATUS_CHECK.build(target_address=NOBODY, **contexts)
        nop = utility.UTIL_NOP.build().ljust(16, b"\0")
        mix = [check] * 55 + [read] * 30 + [acknowledge] * 5
        mix += [parameters] * 2 + [read_outside] * 2 + [lost] * 4 + [nop] * 2
        self.mix = [mix[index * 37 % BATCH] for index in range(BATCH)]

    @staticmethod
    def _with_list(head: bytes, sgl: bytes) -> bytes:
        message = bytearray(head + sgl)
        message[2:4] = (len(message) // 4).to_bytes(2, "little")
        return bytes(message)

    def _replied(self, iop: int, reply: ReplyFrame) -> None:
        self.finished += 1
        if reply[1] & MsgFlags.FAIL:
            self.failed += 1
        elif reply[19]:
            self.refused += 1
        self.layer.free_reply(iop, reply)

    def run(self, messages: int, every: int) -> Iterator[Sample]:
        """Send messages in batches; yield a sample now and then."""
        start = time.perf_counter()
        submit, poll, iop, mix = self.layer.submit, self.layer.poll, self.iop, self.mix
        answered = sum(message[7] != 0 for message in mix)
        goal = self.sent + messages
        told = self.sent
        while self.sent < goal:
            expected = self.finished + answered
            for message in mix:
                submit(iop, message)
            self.sent += len(mix)
            while self.finished < expected and poll(BATCH):
                pass
            if self.sent - told >= every:
                told = self.sent
                yield Sample(self.sent, resident(), time.perf_counter() - start)

    def problems(self, before: tuple[int, int, int, int]) -> list[str]:
        """Return what does not add up; `before` is `counts` from before the first message."""
        unit = self.soft_iop.unit
        host, device, idle, replies = (
            now - then for now, then in zip(self.counts(), before, strict=True)
        )
        share = self.sent // len(self.mix)
        checks = {
            "requests by the host": (host, self.sent),
            # a frame that cannot be delivered is no request there; the NOP that takes it home is
            "requests by the IOP": (device, self.sent),
            "final replies": (self.finished, 98 * share),
            "FAIL replies": (self.failed, 4 * share),
            "refusals": (self.refused, 2 * share),
            "idle inbound frames": (idle, 0),
            "idle reply frames": (replies, 0),
            "outstanding requests": (self.layer.outstanding(self.iop), 0),
            "frames held by the host": (unit.held_by_host(), 0),
        }
        return [
            f"{name}: {found}, expected {expected}"
            for name, (found, expected) in checks.items()
            if found != expected
        ]

    def counts(self) -> tuple[int, int, int, int]:
        """Return requests by the host and by the IOP, and idle frames of both directions."""
        unit = self.soft_iop.unit
        return (
            self.layer.counters(self.iop).requests,
            self.soft_iop.counters.requests,
            unit.idle_inbound(),
            unit.idle_outbound(),
        )


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Soak, print a table, and say what does not add up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=50_000_000)
    options = parser.parse_args()
    soak = Soak()
    before = soak.counts()
    samples = []
    print("    messages   resident KiB    seconds")
    for sample in soak.run(options.messages, max(BATCH, options.messages // 50)):
        samples.append(sample)
        print(f"{sample.messages:12} {sample.resident >> 10:14} {sample.seconds:10.1f}", flush=True)
    problems = soak.problems(before)
    growth = samples[-1].resident - samples[len(samples) // 2].resident
    if growth > MOST_GROWTH:
        problems.append(f"the second half added {growth} bytes of resident memory")
    print(
        f"{soak.sent} messages, {1e6 * samples[-1].seconds / soak.sent:.1f} us each; "
        f"{soak.failed} FAIL replies, {soak.refused} refusals; "
        f"memory of the second half {growth:+} bytes"
    )
    for problem in problems:
        print(f"PROBLEM: {problem}")
    soak.layer.close()
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
