# SPDX-License-Identifier: Apache-2.0
"""Unpacks kernel images beforehand: in an emulated guest, unpacking takes longer than booting."""

from __future__ import annotations

import lzma
import struct

_SETUP_SECTORS_AT = 0x1F1
_MAGIC_AT = 0x202
_PAYLOAD_AT = 0x248
_SECTOR = 512
_XZ = b"\xfd7zXZ\0"


def uncompressed(image: bytes) -> bytes | None:
    """Return the ELF file in a kernel image for x86, or none if it is not packed with xz.

    Images that are packed with anything else are quick to unpack, and stay as they are.

    Args:
        image: what a boot loader loads, a `bzImage`.
    """
    if image[_MAGIC_AT : _MAGIC_AT + 4] != b"HdrS":
        return None
    setup_sectors = image[_SETUP_SECTORS_AT] or 4
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
    start = (1 + setup_sectors) * _SECTOR + offset
    payload = image[start : start + length]
    if not payload.startswith(_XZ):
        return None
    return lzma.LZMADecompressor().decompress(payload)  # the size stands behind it
