# SPDX-License-Identifier: Apache-2.0
"""What a guest's driver says is captured while it runs, and makes sense to the last field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from i2o.frames.functions import UNANSWERED, Function
from i2o.transport.capture.reader import open_capture
from i2o.transport.child_process import module_environment
from i2o.transport.pci.register_window import native_accessors
from vm.guest import Machine
from vm.guests import Guests
from vm.initramfs import Job
from vm.inventory import DEBIAN_13
from vm.project import project_files
from vm.served import ServedIop

SCRIPT = Path(__file__).with_name("block_job.py")

needs_extension = pytest.mark.skipif(
    native_accessors() is None, reason="there was no C compiler when i2o was installed"
)


def dumped(capture: Path, *words: str) -> list[dict[str, Any]]:
    """Return what `i2o dump` says of a capture."""
    done = subprocess.run(
        [sys.executable, "-m", "i2o", "dump", "-r", str(capture), "--json", *words],
        capture_output=True,
        text=True,
        env=module_environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(capture: Path) -> list[dict[str, Any]]:
    """Check that nothing in a capture is lost or unknown, and return it."""
    with open_capture(str(capture)) as packets:
        assert sum(1 for _ in packets) > 0
        assert (packets.problems, packets.dropped) == ([], 0)
    found = dumped(capture)
    requests = {packet["index"]: packet for packet in found if packet["type"] == "request"}
    replies = [packet for packet in found if packet["type"] == "reply"]
    known = {int(function) for function in Function}
    for packet in found:
        assert not packet["problems"], packet
        assert packet["function"] in known, packet
        assert "unknown" not in json.dumps(packet).lower(), packet
    for reply in replies:
        request = requests[reply["reply_to"]]
        assert (request["function"], request["target"]) == (reply["function"], reply["target"])
        assert reply["latency"] > 0
    answered = {reply["reply_to"] for reply in replies}
    open_ = [
        request["name"]
        for index, request in requests.items()
        if index not in answered and request["function"] not in UNANSWERED
    ]
    assert set(open_) <= {"util_event_register", "exec_lct_notify"}, (
        open_
    )  # answered when it happens
    for piece in found:
        if piece["type"] == "dma":
            assert piece["request"] in requests, piece
            assert piece["buffer"] is not None, piece
    return found


@needs_extension
def test_traffic_of_our_own_host_side_in_a_guest(guests: Guests, tmp_path: Path) -> None:
    capture = tmp_path / "trace.pcapng"
    job = Job(
        "#!/bin/sh\nexec python3 /job/block_job.py vfio 'vfio?irq=off'\n",
        modules=("vfio_iommu_type1", "vfio-pci"),
        files={**project_files(), "/job/block_job.py": SCRIPT},
    )
    with ServedIop(tmp_path, f"disk={tmp_path}/disk.img,create=16M", capture=capture) as iop:
        out = guests.boot(DEBIAN_13, job, Machine(iop.device, iommu=True), deadline_s=300)
    results = [json.loads(line) for line in out.output.splitlines() if line.startswith("{")]
    assert [result["same"] for result in results] == [True, True]
    found = check(capture)
    names = {packet["name"] for packet in found if packet["type"] == "request"}
    assert {
        "exec_status_get", "exec_outbound_init", "exec_hrt_get", "exec_lct_notify",
        "exec_sys_tab_set", "exec_sys_enable", "util_params_get", "bsa_block_read",
        "bsa_block_write", "bsa_cache_flush",
    } <= names  # fmt: skip
    moved = sum(
        packet["length"]
        for packet in found
        if packet["type"] == "dma" and packet["name"] == "bsa_block_write"
    )
    assert moved >= 2 * (2 << 20)
