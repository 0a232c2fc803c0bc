# SPDX-License-Identifier: Apache-2.0
"""A cable that is pulled in the middle of requests: each ends once, and plugged in it is used."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

import i2o
from fakes.noisy_line import Noise
from fakes.pty_cable import PtyCable
from fakes.wire_station import UriStation
from i2o.errors import IopDead, RequestFailed
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.message_frames import ReplyFrame

BAUD = "baud=10000000"
FAST = "baud=60000000"


def test_unplugged_in_the_middle_of_100_requests(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(1 << 18))
    with ExitStack() as stack:
        cable = stack.enter_context(PtyCable(tmp_path, names=("card", "host")))
        card, host = cable.devices
        stack.enter_context(UriStation(f"serial:{card}?{BAUD}", f"emu:?disk={image}"))
        iop = stack.enter_context(i2o.open(f"serial:{host}?{BAUD}&timeout=20"))
        disk = stack.enter_context(iop.block())
        ends: Counter[int] = Counter()

        def ended(number: int):  # type: ignore[no-untyped-def]
            def note(reply: ReplyFrame) -> None:
                ends[number] += 1

            return note

        message = BSA_STATUS_CHECK.build(target_address=disk.tid)
        for number in range(100):
            iop.requester.start(message, on_reply=ended(number))
        assert iop.layer.run_until(lambda: len(ends) > 20, 30)
        cable.unplug()
        assert iop.layer.run_until(lambda: len(ends) == 100, 30)
        assert iop.layer.outstanding(iop.number) == 0
        cable.plug()
        for _ in range(2):
            try:
                assert disk.read(0, 1 << 18) == image.read_bytes()
                break
            except (RequestFailed, IopDead):
                continue
        assert disk.read(512, 4096) == image.read_bytes()[512 : 512 + 4096]
        assert ends == Counter(range(100)), "each once"


@pytest.mark.untraced
def test_a_disk_is_read_by_hash(tmp_path: Path) -> None:
    """16 MiB over a line with errors."""
    size = 16 << 20
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(size))
    wanted = hashlib.sha256(image.read_bytes()).hexdigest()
    noise = Noise(bit_errors=1e-6, dropped=1e-6, doubled=1e-6, lost_frames=0.002, garbage=0.002)
    with ExitStack() as stack:
        cable = stack.enter_context(PtyCable(tmp_path, noise, names=("card", "host")))
        card, host = cable.devices
        stack.enter_context(UriStation(f"serial:{card}?{FAST}", f"emu:?disk={image}"))
        iop = stack.enter_context(i2o.open(f"serial:{host}?{FAST}&timeout=20"))
        disk = stack.enter_context(iop.block())
        found = hashlib.sha256()
        for start in range(0, size, 64 << 10):
            found.update(disk.read(start, 64 << 10))
        assert found.hexdigest() == wanted
