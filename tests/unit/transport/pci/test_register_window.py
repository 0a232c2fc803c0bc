# SPDX-License-Identifier: Apache-2.0
"""Register windows: bounds, byte order, order of the words. Bus accesses are traced elsewhere."""

from __future__ import annotations

import mmap
import os

import pytest

from i2o.errors import LocalFrameError, TransportUnavailable
from i2o.transport.pci import register_window
from i2o.transport.pci.register_window import FileWindow, MappedWindow, native_accessors

SIZE = 4096
needs_native = pytest.mark.skipif(
    native_accessors() is None, reason="there was no C compiler when i2o was installed"
)


@pytest.fixture
def memory():
    descriptor = os.memfd_create("bar", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, 2 * SIZE)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=[pytest.param("mapped", marks=needs_native), "file"])
def window(request, memory):
    if request.param == "file":
        yield FileWindow(memory, SIZE, SIZE)
        return
    window = MappedWindow(native_accessors(), mmap.mmap(memory, SIZE, offset=SIZE))
    yield window
    window.close()


def test_words_are_little_endian(window, memory):
    window.write32(0x40, 0x11223344)
    assert os.pread(memory, 8, SIZE + 0x40) == b"\x44\x33\x22\x11\0\0\0\0"
    os.pwrite(memory, b"\xef\xbe\xad\xde", SIZE + 0xFFC)
    assert window.read32(0xFFC) == 0xDEADBEEF


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_frames_are_copied_whole(window, memory, kind):
    data = os.urandom(48)
    window.write_words(0x100, kind(data))
    assert os.pread(memory, 56, SIZE + 0xFC) == bytes(4) + data + bytes(4)
    assert window.read_words(0x100, 48) == data
    assert window.read_words(0x100, 0) == b""


@pytest.mark.parametrize("offset", [-4, 1, 2, SIZE, SIZE - 2, 1 << 40])
def test_what_is_no_word_of_the_window(window, offset):
    for access in (
        lambda: window.read32(offset),
        lambda: window.write32(offset, 0),
        lambda: window.read_words(offset, 4),
        lambda: window.write_words(offset, bytes(4)),
    ):
        with pytest.raises(LocalFrameError):
            access()


def test_copies_end_inside_and_are_whole_words(window):
    for size in (8, 5):
        with pytest.raises(LocalFrameError):
            window.write_words(SIZE - 4, bytes(size))
        with pytest.raises(LocalFrameError):
            window.read_words(SIZE - 4, size)


@needs_native
def test_a_window_is_closed_twice(memory):
    window = MappedWindow(native_accessors(), mmap.mmap(memory, SIZE))
    window.close()
    window.close()


def test_without_the_extension_mapped_bars_are_refused(monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(register_window, "import_module", missing)
    assert native_accessors() is None
    with pytest.raises(TransportUnavailable, match=r"sysfs: the compiled.*\(install a C compiler"):
        register_window.require_native("sysfs")
