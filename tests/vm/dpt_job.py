#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest whose kernel has loaded dpt_i2o: uses its disks, and tells in JSON.

Arguments: how many disks to expect, and MiB to write to each.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

BLOCKS = Path("/sys/block")
SIGNATURE_SIZE = 0x51
DPT_SIGNATURE = 2 << 30 | SIGNATURE_SIZE << 16 | ord("D") << 8 | 67
"""The driver's ioctl that says who it is."""
CHUNK = 1 << 20


def tell(**what):
    print(json.dumps(what), flush=True)


def wait_for_disks(count):
    """Return the names of the SCSI disks, once there are so many."""
    for _ in range(600):
        names = sorted(path.name for path in BLOCKS.glob("sd*"))
        if len(names) >= count:
            return names
        time.sleep(0.1)
    return names


def identity(name):
    device = BLOCKS / name / "device"
    return {
        what: (device / what).read_text().strip() for what in ("vendor", "model", "rev", "type")
    } | {"size": 512 * int((BLOCKS / name / "size").read_text())}


def use(name, mebibytes, salt):
    """Make ext4 on a disk, write a file to it, and read it back past the cache."""
    device, place = f"/dev/{name}", Path(f"/mnt/{name}")
    place.mkdir(parents=True)
    made = subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", device], capture_output=True)
    if made.returncode:
        return {"error": made.stderr.decode()}
    subprocess.run(["mount", "-t", "ext4", device, str(place)], check=True)
    wanted, began = hashlib.sha256(), time.monotonic()
    with open(place / "data", "wb") as file:
        for number in range(mebibytes):
            chunk = hashlib.shake_128(f"{salt} {number}".encode()).digest(4096) * (CHUNK // 4096)
            wanted.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    written = time.monotonic()
    subprocess.run(["umount", str(place)], check=True)
    subprocess.run(["mount", "-t", "ext4", device, str(place)], check=True)
    got, read_from = hashlib.sha256(), time.monotonic()
    with open(place / "data", "rb") as file:
        while chunk := file.read(CHUNK):
            got.update(chunk)
    done = time.monotonic()
    subprocess.run(["umount", str(place)], check=True)
    return {
        "sha256": got.hexdigest(),
        "same": got.digest() == wanted.digest(),
        "write_s": round(written - began, 2),
        "read_s": round(done - read_from, 2),
    }


def dpti():
    """Ask the driver itself: /dev/dpti0 gives its signature."""
    signature = bytearray(SIGNATURE_SIZE)
    with open("/dev/dpti0", "rb", buffering=0) as file:
        fcntl.ioctl(file, DPT_SIGNATURE, signature)
    return signature.rstrip(b"\0").decode("latin-1")


def main():
    count, mebibytes = int(sys.argv[1]), int(sys.argv[2])
    names = wait_for_disks(count)
    tell(disks={name: identity(name) for name in names})
    for salt, name in enumerate(names):
        tell(used=name, **use(name, mebibytes, salt))
    try:
        tell(dpti=dpti())
    except OSError as error:
        tell(dpti_error=str(error))


main()
