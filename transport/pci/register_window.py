# SPDX-License-Identifier: Apache-2.0
"""Registers and frames of a BAR: accesses of 32 bits, each of them one access on the bus.

There is no slice access on purpose. `MappedWindow` goes through compiled accessors. Where they
are missing, `FileWindow` asks the kernel, which makes one 32-bit access of each aligned four
bytes. A plain pointer store is never used: cffi stores twice, ctypes reads before it stores.
"""

from __future__ import annotations

import mmap
import os
import struct
from importlib import import_module
from typing import Any, Protocol

from i2o.errors import LocalFrameError, TransportUnavailable

_word = struct.Struct("<I")


class RegisterWindow(Protocol):
    """One BAR, or the part of it that is used."""

    size: int
    """Bytes."""

    def read32(self, offset: int) -> int:
        """Read a word: one 32-bit read."""

    def write32(self, offset: int, value: int) -> None:
        """Write a word: one 32-bit write, behind everything that was written before."""

    def write_words(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy whole words in: ascending 32-bit writes, nothing is read."""

    def read_words(self, offset: int, size: int) -> bytes:
        """Copy whole words out: ascending 32-bit reads."""

    def close(self) -> None:
        """Let go of it; a second call does nothing."""


def native_accessors() -> Any:
    """Return the compiled extension module, or None where it was not built."""
    try:
        return import_module("i2o.transport._native")
    except ImportError:
        return None


def require_native(backend: str) -> Any:
    """Return the compiled extension module.

    Raises:
        TransportUnavailable: it was not built.
    """
    native = native_accessors()
    if native is None:
        raise TransportUnavailable(
            backend,
            "the compiled register accessors are missing, and without them no access to a mapped "
            "BAR is safe",
            remedy="install a C compiler (Debian: apt install gcc python3-dev), then install i2o "
            "again; vfio: works without",
        )
    return native


class MappedWindow:
    """A mapped BAR.

    Args:
        native: the extension module.
        area: the mapping, which the window owns from now on.
    """

    def __init__(self, native: Any, area: mmap.mmap) -> None:
        self.size = len(area)
        self._area = area
        self._base = native.ffi.from_buffer(area)
        self._release = native.ffi.release
        lib = native.lib
        self._from_buffer = native.ffi.from_buffer
        self._read32, self._write32 = lib.i2o_read32, lib.i2o_write32
        self._write_words, self._read_words = lib.i2o_write_words, lib.i2o_read_words

    def read32(self, offset: int) -> int:
        """Read a word: one 32-bit read."""
        _check(self.size, offset, 4)
        value: int = self._read32(self._base, offset)
        return value

    def write32(self, offset: int, value: int) -> None:
        """Write a word: one 32-bit write."""
        _check(self.size, offset, 4)
        self._write32(self._base, offset, value)

    def write_words(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy whole words in."""
        _check(self.size, offset, len(data))
        self._write_words(self._base, offset, self._from_buffer(data), len(data) // 4)

    def read_words(self, offset: int, size: int) -> bytes:
        """Copy whole words out."""
        _check(self.size, offset, size)
        data = bytearray(size)
        if size:
            self._read_words(self._base, offset, self._from_buffer(data), size // 4)
        return bytes(data)

    def close(self) -> None:
        """Unmap the BAR."""
        if not self._area.closed:
            self._release(self._base)
            self._area.close()


class FileWindow:
    """A BAR as part of a file of the kernel's VFIO driver.

    Its driver splits an access of more than four bytes as it likes, some kernels into eight, so
    every word is a system call of its own.

    Args:
        descriptor: the device's file, which stays the caller's.
        offset: where the BAR begins in it.
        size: bytes.
    """

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor, self._offset, self.size = descriptor, offset, size

    def read32(self, offset: int) -> int:
        """Read a word: one 32-bit read by the kernel."""
        _check(self.size, offset, 4)
        value: int = _word.unpack(os.pread(self._descriptor, 4, self._offset + offset))[0]
        return value

    def write32(self, offset: int, value: int) -> None:
        """Write a word: one 32-bit write by the kernel."""
        _check(self.size, offset, 4)
        os.pwrite(self._descriptor, _word.pack(value), self._offset + offset)

    def write_words(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy whole words in."""
        _check(self.size, offset, len(data))
        words = memoryview(data)
        for place in range(0, len(words), 4):
            os.pwrite(self._descriptor, words[place : place + 4], self._offset + offset + place)

    def read_words(self, offset: int, size: int) -> bytes:
        """Copy whole words out."""
        _check(self.size, offset, size)
        start = self._offset + offset
        return b"".join(os.pread(self._descriptor, 4, start + place) for place in range(0, size, 4))

    def close(self) -> None:
        """Do nothing: the file is its owner's."""


def _check(size: int, offset: int, length: int) -> None:
    if offset % 4 or length % 4:
        raise LocalFrameError(f"{length} bytes at {offset:#06x} are no whole 32-bit words")
    if offset < 0 or offset + length > size:
        raise LocalFrameError(f"{length} bytes at {offset:#06x} are outside a BAR of {size:#x}")
