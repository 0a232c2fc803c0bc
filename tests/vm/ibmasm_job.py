#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest: talks to the service processor by the files of its driver."""

import json
import os
import subprocess
from pathlib import Path

MOUNT = Path("/run/sp")


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


def command(request: bytes) -> bytes:
    """Write a dot command and return its response: one file, opened once."""
    descriptor = os.open(MOUNT / "0/command", os.O_RDWR)
    try:
        os.write(descriptor, request)
        return os.pread(descriptor, 4096, 0)
    finally:
        os.close(descriptor)


def main() -> None:
    MOUNT.mkdir()
    subprocess.run(["mount", "-t", "ibmasmfs", "ibmasmfs", MOUNT], check=True)
    tell(files=sorted(str(path.relative_to(MOUNT)) for path in MOUNT.rglob("*")))
    # type, size of the path, size of the data, status, reserved; path; data
    tell(written=command(bytes.fromhex("00 02 0500 00 00 0807") + b"hello").hex())
    tell(read=command(bytes.fromhex("02 02 0000 00 00 0807") + bytes(16)).hex())
    tell(vpd=command(bytes.fromhex("02 04 0000 00 00 0403050a") + bytes(32)).hex())
    large = bytes(range(256)) * 15
    command(bytes.fromhex("00 02 000f 00 00 0808") + large)
    tell(large=command(bytes.fromhex("02 02 0000 00 00 0808") + bytes(4000))[8:3848] == large)
    for number in range(50):
        path = bytes.fromhex("09") + number.to_bytes(1, "little")
        command(bytes.fromhex("00 02 0100 00 00") + path + b"!")
    events = os.open(MOUNT / "0/event", os.O_RDWR)  # from now on they are kept for this reader
    command(bytes.fromhex("00 02 0000 00 00 7fff"))  # whoever waits for this sends one
    tell(event=os.read(events, 2048).hex())
    os.close(events)
    # the driver has returned the heartbeat by now: it came first
    for name in ("width", "height", "depth"):
        tell(**{name: (MOUNT / "0/remote_video" / name).read_text()})
    subprocess.run(["umount", MOUNT], check=True)
    subprocess.run(["rmmod", "ibmasm"], check=True)
    tell(removed=True)


main()
