# SPDX-License-Identifier: Apache-2.0
"""The control endpoint of an I2O device behind functionfs: descriptors, and answers to requests.

Shows what a program on a board has to do; what it does with frames, which it reads from ep1 and
writes to ep2, is its own business. Argument: the folder of the endpoints.
"""

import os
import struct
import sys

DESCRIPTORS_V2, STRINGS = 3, 2
HAS_FULL_SPEED, HAS_HIGH_SPEED = 1, 2
UNBIND, DISABLE, SETUP = 1, 3, 4  # the last is the only event that wants an answer
MAGIC, VERSION, FRAME_LIMIT = 0x4F324955, 1, 65536
INFO, BEGIN, END = (0xC1, 1), (0x41, 2), (0x41, 3)


def descriptors(bulk_packet: int, interval: int) -> bytes:
    """Return an interface with its three endpoints."""
    interface = bytes((9, 4, 0, 0, 3, 0xFF, 0x49, 0x01, 1))
    ends = ((0x01, 2, bulk_packet, 0), (0x82, 2, bulk_packet, 0), (0x83, 3, 16, interval))
    return interface + b"".join(struct.pack("<BBBBHB", 7, 5, *each) for each in ends)


def main() -> None:
    """Describe the device, then answer requests for ever."""
    control = os.open(os.path.join(sys.argv[1], "ep0"), os.O_RDWR)
    body = struct.pack("<II", 4, 4) + descriptors(64, 1) + descriptors(512, 4)
    flags = HAS_FULL_SPEED | HAS_HIGH_SPEED
    os.write(control, struct.pack("<III", DESCRIPTORS_V2, 12 + len(body), flags) + body)
    body = struct.pack("<H", 0x0409) + b"I2O link\0"
    os.write(control, struct.pack("<IIII", STRINGS, 16 + len(body), 1, 1) + body)
    print("described", flush=True)

    incarnation, link = int.from_bytes(os.urandom(4), "little"), 0
    while True:
        event = os.read(control, 12)
        if event[8] in (UNBIND, DISABLE):  # the host is gone, or begins anew
            link = 0
        if event[8] != SETUP:
            continue
        kind, request, _, _, length = struct.unpack_from("<BBHHH", event)
        if (kind, request) == INFO:
            info = struct.pack("<IHHIII", MAGIC, VERSION, 0, FRAME_LIMIT, incarnation, link)
            os.write(control, info[:length])
        elif (kind, request) == BEGIN and length == 16:
            magic, version, _, limit, number = struct.unpack("<IHHII", os.read(control, 16))
            # reading the data has acknowledged them: what is wrong begins no link instead
            is_right = magic == MAGIC and version == VERSION and limit >= 128
            link = number if is_right else 0
        elif (kind, request) == END:
            os.read(control, 0)  # which acknowledges it
            link = 0
        else:
            refuse(control, kind)


def refuse(control: int, kind: int) -> None:
    """Answer with STALL: functionfs does so when data are moved the wrong way."""
    try:
        if kind & 0x80:
            os.read(control, 0)
        else:
            os.write(control, b"")
    except OSError:
        pass  # it says EL2HLT, which is what was wanted


main()
