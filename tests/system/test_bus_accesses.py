# SPDX-License-Identifier: Apache-2.0
"""Every register operation is exactly one 32-bit access, as the CPU does it."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

import pytest

from fakes import access_tracer
from fakes.access_tracer import Access, AccessTracer
from i2o.clock import ManualClock
from i2o.transport.pci.cards import Card
from i2o.transport.pci.dma_memory import HUGE_PAGE, HugePageMemory
from i2o.transport.pci.pci_port import PciPort
from i2o.transport.pci.register_window import MappedWindow, native_accessors

pytestmark = [
    pytest.mark.skipif(bool(access_tracer.missing()), reason=access_tracer.missing()),
    pytest.mark.skipif(
        native_accessors() is None, reason="there was no C compiler when i2o was installed"
    ),
]


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return access_tracer.build(tmp_path_factory.mktemp("tracer"))


@pytest.fixture
def tracer(module):
    tracer = AccessTracer(module)
    yield tracer
    tracer.close()


class TracedArea:
    """Stands for the mapping of a BAR: the tracer's page."""

    closed = False

    def __init__(self, tracer: AccessTracer) -> None:
        self._tracer = tracer

    def __len__(self) -> int:
        return access_tracer.SIZE

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def window(tracer, monkeypatch):
    native = native_accessors()

    class Native:
        """The extension, but a mapping is the tracer's page."""

        lib = native.lib

        class ffi:  # noqa: N801
            @staticmethod
            def from_buffer(buffer):
                if isinstance(buffer, TracedArea):
                    return native.ffi.cast("void *", int(tracer.ffi.cast("uintptr_t", tracer.base)))
                return native.ffi.from_buffer(buffer)

            @staticmethod
            def release(_):
                pass

    return MappedWindow(Native, TracedArea(tracer))


def words(direction: str, offset: int, count: int) -> list[Access]:
    return [Access(direction, offset + 4 * place, 4) for place in range(count)]


def test_a_register_is_read_once(tracer, window):
    with tracer:
        window.read32(0x40)
    assert tracer.accesses == words("r", 0x40, 1)


def test_a_register_is_written_once_and_never_read(tracer, window):
    with tracer:
        window.write32(0x40, 0x12345678)
    assert tracer.accesses == words("w", 0x40, 1)
    assert bytes(tracer.buffer[0x40:0x44]) == b"\x78\x56\x34\x12"


@pytest.mark.parametrize("size", [4, 16, 48, 128, 512])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_frame_is_ascending_32_bit_stores(tracer, window, size, kind):
    data = kind(os.urandom(size))
    with tracer:
        window.write_words(0x1000, data)
    assert tracer.accesses == words("w", 0x1000, size // 4)
    assert bytes(tracer.buffer[0x1000 : 0x1000 + size]) == bytes(data)


def test_a_frame_is_read_by_ascending_32_bit_loads(tracer, window):
    with tracer:
        window.read_words(0x1000, 64)
    assert tracer.accesses == words("r", 0x1000, 16)


@pytest.fixture
def port(window):
    pages = HugePageMemory(1, "uio", lambda _: 1 << 30, lambda: mmap.mmap(-1, HUGE_PAGE))
    with PciPort(
        "traced",
        registers=window,
        frames=window,
        memory=pages,
        card=Card(),
        interrupt=None,
        reset=lambda: None,
        release=lambda: pages.close(),
        clock=ManualClock(),
    ) as port:
        yield port


def test_every_operation_of_a_port(tracer, port):
    tracer.buffer[0x40:0x48] = struct.pack("<II", 0x1000, 0xFFFFFFFF)
    for operation, wanted in (
        (port.alloc, words("r", 0x40, 1)),
        (lambda: port.post(0x1000), words("w", 0x40, 1)),
        (port.reap, words("r", 0x44, 1)),
        (lambda: port.release(0x40000000), words("w", 0x44, 1)),
        (lambda: port.mask_interrupt(True), words("w", 0x34, 1)),
        (lambda: port.write(0x1000, bytes(48)), words("w", 0x1000, 12)),
        (lambda: port.read_inbound(0x1000, 16), words("r", 0x1000, 4)),
        (lambda: port.wait(0), words("r", 0x30, 1)),
    ):
        tracer.buffer[0x40:0x48] = struct.pack("<II", 0x1000, 0xFFFFFFFF)
        with tracer:
            operation()
        assert tracer.accesses == wanted


# --- the tracer sees what is wrong --------------------------------------------------------------


def test_it_sees_a_double_store(tracer):
    with tracer:
        tracer.lib.store_twice(tracer.base, 0x40, 1)
    assert tracer.accesses == words("w", 0x40, 1) * 2


def test_it_sees_other_widths(tracer):
    with tracer:
        tracer.lib.store_16(tracer.base, 0x40, 1)
        tracer.lib.store_64(tracer.base, 0x40, 1)
        tracer.lib.copy_by_bytes(tracer.base, 0x40, b"ab", 2)
        tracer.lib.copy_by_vectors(tracer.base, 0x40, bytes(16))
    assert tracer.accesses == [
        Access("w", 0x40, 2),
        Access("w", 0x40, 8),
        Access("w", 0x40, 1),
        Access("w", 0x41, 1),
        Access("w", 0x40, 16),
    ]


def test_it_sees_that_a_cffi_pointer_stores_twice(tracer):
    pointer = tracer.ffi.cast("uint32_t *", tracer.base)
    with tracer:
        pointer[16] = 1
    assert tracer.accesses == words("w", 0x40, 1) * 2


def test_it_sees_that_ctypes_reads_before_it_writes(tracer):
    address = int(tracer.ffi.cast("uintptr_t", tracer.base))
    word = ctypes.c_uint32.from_address(address + 0x40)
    with tracer:
        word.value = 1
    assert [access.direction for access in tracer.accesses] == ["r", "w"]
