# SPDX-License-Identifier: Apache-2.0
"""An image that is packed with xz is unpacked, and every other is left alone."""

from __future__ import annotations

import lzma
import struct

import pytest

from vm.kernel_image import uncompressed


def image(payload: bytes, setup_sectors: int = 3, offset: int = 40) -> bytes:
    head = bytearray((1 + (setup_sectors or 4)) * 512 + offset)
    head[0x1F1] = setup_sectors
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, offset, len(payload))
    return bytes(head) + payload + b"more"


@pytest.mark.parametrize("setup_sectors", [3, 0])  # none means four, as it always did
def test_xz(setup_sectors: int) -> None:
    packed = lzma.compress(b"\x7fELF kernel") + b"size"
    assert uncompressed(image(packed, setup_sectors)) == b"\x7fELF kernel"


@pytest.mark.parametrize("other", [image(b"(\xb5/\xfd zstd"), b"\x7fELF", b""])
def test_others(other: bytes) -> None:
    assert uncompressed(other) is None
