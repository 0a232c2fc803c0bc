# SPDX-License-Identifier: Apache-2.0
"""Debian's own ibmasm: an unmodified driver that talks through a message unit in private frames."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from vm.guest import Machine
from vm.guests import Guests
from vm.initramfs import Job
from vm.inventory import DEBIAN_13
from vm.served import ServedIop

JOB = Path(__file__).with_name("ibmasm_job.py")
MARK = "7fff"
VPD = b"Lin32 6.08"
EVENT = b"it is hot in here"


class Operator(threading.Thread):
    """Somebody at the service processor, who waits for the guest's mark and sends an event."""

    def __init__(self, processor: ServedIop) -> None:
        super().__init__(name="operator")
        self._processor, self._is_over = processor, threading.Event()
        self.was_up = False

    def run(self) -> None:
        while not self._is_over.wait(0.2):
            status = self._processor.ask("status")
            if MARK in status["kept"]:
                self.was_up = status["up"]
                self._processor.ask("heartbeat")
                self._processor.ask("event", EVENT.hex())
                return

    def stop(self) -> None:
        self._is_over.set()
        self.join()


def test_a_command_gets_its_reply_through_the_message_unit(guests: Guests, tmp_path: Path) -> None:
    job = Job(
        "#!/bin/sh\nexec python3 /job/ibmasm_job.py\n",
        modules=["ibmasm"],
        files={"/job/ibmasm_job.py": JOB},
    )
    with ServedIop(tmp_path, "personality=ibmasm") as processor:
        operator = Operator(processor)
        operator.start()
        try:
            out = guests.boot(DEBIAN_13, job, Machine(processor.device), deadline_s=120)
        finally:
            operator.stop()
        status = processor.ask("status")
    told: dict[str, Any] = {}
    for line in out.output.splitlines():
        told |= json.loads(line)
    assert "0/command" in told["files"]
    assert "ibmasm" in out.kernel_log
    # a response is a command of type 4 with the same path
    assert told["written"].startswith("0402 0000 00 00 0807".replace(" ", ""))
    assert told["read"].startswith("0402 0500 00 00 0807".replace(" ", "") + b"hello".hex())
    assert told["vpd"].startswith("0404 1000 00 00 0403050a".replace(" ", "") + VPD.hex())
    assert told["large"]
    assert told["event"].startswith("0500 1100 00 00".replace(" ", "") + EVENT.hex())
    assert told["removed"]
    assert operator.was_up
    assert status["heartbeats"] == 1
    # what it says when it comes, two lines above, the large one, 50, the mark, heartbeat, farewell
    assert status["commands"] == 2 + 3 + 2 + 50 + 1 + 1 + 1
    assert status["complaints"] == []
