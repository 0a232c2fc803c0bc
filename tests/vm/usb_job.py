#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest: reads the disk of the IOP behind a USB device, and tells in JSON.

Arguments: `usbip HOST PORT` imports the device first, `plugged` finds it on a bus.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import i2o
from vm import vhci

URI = "usb:1209:0001"
DISK = 0x010
CHUNK = 256 << 10


def wait_for_device() -> str:
    """Wait until the kernel has enumerated the device; return its speed and product."""
    while True:
        for product in Path("/sys/bus/usb/devices").glob("*/product"):
            if (
                product.read_text().strip() == "I2O processor"
                and (product.parent / "bConfigurationValue").read_text().strip() == "1"
            ):
                return (product.parent / "speed").read_text().strip()
        time.sleep(0.05)


def main() -> None:
    end = vhci.attach(sys.argv[2], int(sys.argv[3])) if sys.argv[1] == "usbip" else None
    speed = wait_for_device()
    began = time.monotonic()
    with i2o.open(URI, timeout_s=120) as iop:
        with iop.block(DISK) as disk:
            digest = hashlib.sha256()
            for offset in range(0, disk.size, CHUNK):
                digest.update(disk.read(offset, CHUNK))
            data = hashlib.shake_128(b"written in a guest").digest(CHUNK)
            disk.write(0, data)
            disk.flush()
            is_same = disk.read(0, CHUNK) == data
        state = iop.status.state_name
    with i2o.open(URI, timeout_s=120) as iop:  # what was let go can be had again
        is_again = iop.status.state_name == state
    print(
        json.dumps(
            {
                "state": state,
                "sha256": digest.hexdigest(),
                "same": is_same,
                "again": is_again,
                "speed": speed,
                "seconds": round(time.monotonic() - began, 2),
            }
        )
    )
    if end is not None:
        vhci.detach()
        end.close()


main()
