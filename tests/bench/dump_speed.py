# SPDX-License-Identifier: Apache-2.0
"""`i2o dump -r` of a million frames against `tshark -r` without a dissector, one line a frame.

The traffic is block reads and writes of one to sixteen pages in one or two pieces, status checks
and their replies. The commands run in turn; the peak memory of a dump of a tenth of the frames is
printed beside that of all of them.
Run: python tests/bench/dump_speed.py [FRAMES]
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import verdict

from i2o.frames import block_storage
from i2o.frames.sgl import simple_sgl
from i2o.transport.capture import pcapng_writer
from i2o.transport.capture.packet import LINKTYPE_FRAME

FRAMES = 1_000_000
ROUNDS = 3
BAR = 4.0


def write_capture(path: Path, frames: int) -> None:
    """Write requests and replies in turn."""
    rng = random.Random(1)
    kinds = [block_storage.BSA_BLOCK_READ] * 5 + [block_storage.BSA_BLOCK_WRITE] * 3
    with path.open("wb") as file:
        file.write(pcapng_writer.section_header(application="dump_speed"))
        for name in ("iop0.in", "iop0.out"):
            file.write(
                pcapng_writer.interface_description(
                    name, link_type=LINKTYPE_FRAME, snap_length=0x10000
                )
            )
        time_ns = 1_700_000_000_000_000_000
        for index in range(frames // 2):
            place = index % 10
            count = 0
            head = {"target_address": 0x10 + index % 3, "initiator_context": 0x80000000}
            head["transaction_context"] = index & 0xFFFFFFFF
            if place < len(kinds):
                count = 4096 * (1 + index % 16)
                half = count // 2
                memory = 0x900000 + index % 100 * 0x100000
                pieces = [(memory, count)] if index & 1 else [(memory, half), (memory + 99, half)]
                sgl = simple_sgl(pieces, out=place >= 5)
                request = kinds[place].build(
                    **head,
                    transfer_byte_count=count,
                    logical_byte_address=rng.randrange(1 << 30) & ~511,
                    message_size=8 + len(sgl) // 4,
                )
                request += sgl
            else:
                request = block_storage.BSA_STATUS_CHECK.build(**head)
            reply = block_storage.BSA_SUCCESS_REPLY.build(transfer_count=count)
            reply = reply[:4] + request[4:16] + reply[16:]
            for interface, frame, flags, mfa in (
                (0, request, pcapng_writer.OUTBOUND, 0x1000 + index % 128 * 512),
                (1, reply, pcapng_writer.INBOUND, 0x7800000 + index % 128 * 128),
            ):
                time_ns += 5000
                file.write(
                    pcapng_writer.enhanced_packet(
                        interface, time_ns, frame, len(frame), flags=flags, packet_id=mfa
                    )
                )


def run(command: list[str], output: Path) -> tuple[float, int]:
    """Run a command with its output in a file; return seconds and KiB of memory at its peak."""
    with output.open("wb") as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{command[0]} failed")
    return seconds, usage.ru_maxrss


def main() -> None:
    """Measure both and print the ratio."""
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else FRAMES
    tshark = shutil.which("tshark")
    if tshark is None:
        sys.exit("tshark is not installed (apt install tshark)")
    dump = [sys.executable, "-m", "i2o", "dump", "-r"]
    with tempfile.TemporaryDirectory() as folder:
        capture, small = Path(folder, "all.pcapng"), Path(folder, "tenth.pcapng")
        write_capture(capture, frames)
        write_capture(small, frames // 10)
        best = {"dump": float("inf"), "tshark": float("inf")}
        memory = 0
        for _ in range(ROUNDS):
            seconds, memory = run([*dump, str(capture)], Path(folder, "dump.txt"))
            best["dump"] = min(best["dump"], seconds)
            seconds, _ = run([tshark, "-r", str(capture)], Path(folder, "tshark.txt"))
            best["tshark"] = min(best["tshark"], seconds)
        _, memory_of_tenth = run([*dump, str(small)], Path(folder, "dump.txt"))
    for name, seconds in best.items():
        print(f"{name:8} {seconds:6.2f} s, {1e6 * seconds / frames:5.2f} us a frame")
    verdict("dump / tshark", best["dump"] / best["tshark"], BAR, at_least=False)
    print(f"  peak memory: {memory // 1024} MiB; for a tenth of it {memory_of_tenth // 1024} MiB")


if __name__ == "__main__":
    main()
