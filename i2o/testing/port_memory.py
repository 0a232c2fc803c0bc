# SPDX-License-Identifier: Apache-2.0
"""Conformance of ports: `HostMemory`, the buffers that an IOP reads and writes."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest

from i2o.errors import DmaFault, LocalFrameError
from i2o.frames.block_storage import BSA_BLOCK_READ, BSA_BLOCK_WRITE
from i2o.frames.layout import MessageLayout
from i2o.frames.sgl import simple_sgl
from i2o.testing.bare_host import BareHost
from i2o.testing.port_backend import PortBackend
from i2o.transport.host_memory import HostBuffer
from i2o.transport.port import Port


class PortMemory(PortBackend):
    """Buffers: where they are, who sees what, and that they come back."""

    def test_a_buffer_is_zeroed_and_has_its_size(self, port: Port) -> None:
        """`allocate` returns that many zero bytes, writable, and where they are on the bus."""
        for size in (1, 4, 511, 4096, 4097, 1 << 20, (1 << 20) + 1):
            buffer = port.memory.allocate(size)
            assert (len(buffer.view), buffer.view.readonly) == (size, False)
            assert bytes(buffer.view) == bytes(size)
            assert buffer.segments[0][0] == buffer.bus_address
            assert sum(length for _, length in buffer.segments) == size
            last, length = buffer.segments[-1]
            assert 0 < buffer.bus_address < 1 << 32
            assert last + length <= 1 << 32
            buffer.free()

    def test_a_bus_address_is_a_multiple_of_what_was_asked(self, port: Port) -> None:
        """`align` is kept, whatever was allocated before."""
        for align in (1, 4, 4096, 1 << 16, 1 << 22):
            first, second = port.memory.allocate(3), port.memory.allocate(5, align)
            assert second.bus_address % align == 0
            first.free()
            second.free()

    def test_sizes_that_are_none(self, port: Port) -> None:
        """A buffer has a byte at least, and is aligned to a power of two."""
        for size, align in ((0, 4096), (-1, 4096), (4, 0), (4, 3)):
            with pytest.raises(LocalFrameError):
                port.memory.allocate(size, align)

    def test_buffers_do_not_overlap(self, port: Port) -> None:
        """Each bus address belongs to one buffer."""
        buffers = [port.memory.allocate(size) for size in (1, 4096, 5000, 70_000) * 8]
        ranges = sorted(segment for buffer in buffers for segment in buffer.segments)
        for (start, length), (after, _) in pairwise(ranges):
            assert start + length <= after
        for number, buffer in enumerate(buffers):
            buffer.view[:] = bytes([number]) * len(buffer.view)
        for number, buffer in enumerate(buffers):
            assert set(buffer.view) == {number}
            buffer.free()

    def test_freed_memory_is_used_again(self, port: Port) -> None:
        """A program that frees what it allocates never runs out, and gets zeroed memory."""
        for _ in range(400):
            buffer = port.memory.allocate(1 << 20)
            assert not any(buffer.view[:: 1 << 16])
            buffer.view[:: 1 << 16] = b"\xff" * 16
            buffer.free()

    def test_a_buffer_is_freed_once(self, port: Port) -> None:
        """Freeing twice is an error."""
        buffer = port.memory.allocate(16)
        buffer.free()
        with pytest.raises(LocalFrameError):
            buffer.free()

    def test_the_window_of_a_buffer(self, port: Port) -> None:
        """`window` shows the bytes of a buffer, or of a part of it."""
        buffer = port.memory.allocate(300)
        buffer.view[100:104] = b"here"
        assert bytes(port.memory.window(buffer.bus_address + 100, 4)) == b"here"
        port.memory.window(buffer.bus_address, 2)[:] = b"ab"
        assert bytes(buffer.view[:2]) == b"ab"
        buffer.free()

    def test_there_is_no_window_beside_the_buffers(self, port: Port) -> None:
        """An address that the other side made up is a `DmaFault`."""
        buffer = port.memory.allocate(4096)
        start = buffer.bus_address
        for address, length in ((start, 4097), (start + 4096, 1), (start, -1), (0, 4)):
            with pytest.raises(DmaFault):
                port.memory.window(address, length)
        buffer.free()
        with pytest.raises(DmaFault):
            port.memory.window(start, 4)

    def test_the_callers_own_memory(self, host: BareHost, content: bytes) -> None:
        """`map` gives the caller's bytes a bus address, or says that it cannot."""
        own = bytearray(4096)
        mapped = host.port.memory.map(memoryview(own))
        if mapped is None:  # then buffers of the port's own are the way
            mapped = host.port.memory.allocate(4096)
        self._move(host, BSA_BLOCK_READ, mapped, 4096, 512)
        mapped.from_device()
        assert bytes(mapped.view) == content[512 : 512 + 4096]
        assert own == mapped.view or not any(own)
        mapped.free()

    def test_what_the_device_writes_is_seen_after_from_device(
        self, host: BareHost, content: bytes
    ) -> None:
        """A read of 64 KiB arrives, and nothing in front of or behind it changes."""
        size = 64 << 10
        buffer = host.port.memory.allocate(size + 8192)
        buffer.view[:] = b"\xee" * len(buffer.view)
        buffer.to_device()
        self._move(host, BSA_BLOCK_READ, buffer, size, 4096, start=4096)
        buffer.from_device(4096, size)
        digest = hashlib.sha256(buffer.view[4096 : 4096 + size]).digest()
        assert digest == hashlib.sha256(content[4096 : 4096 + size]).digest()
        buffer.from_device()
        assert set(buffer.view[:4096]) == set(buffer.view[4096 + size :]) == {0xEE}
        buffer.free()

    def test_what_the_host_writes_is_seen_after_to_device(self, host: BareHost) -> None:
        """Only ranges that were handed over count; here they are handed over in two parts."""
        data = bytes(range(256)) * 32
        buffer = host.port.memory.allocate(len(data))
        buffer.view[:] = data
        buffer.to_device(0, 4096)
        buffer.to_device(4096)
        self._move(host, BSA_BLOCK_WRITE, buffer, len(data), 0)
        back = host.port.memory.allocate(len(data))
        self._move(host, BSA_BLOCK_READ, back, len(data), 0)
        back.from_device()
        assert bytes(back.view) == data
        back.free()
        buffer.free()

    def test_memory_that_is_not_the_hosts_is_not_written(self, host: BareHost) -> None:
        """DMA beside all buffers is an error of that request, and the IOP goes on."""
        beside = host.port.memory.allocate(4096)
        address = beside.bus_address
        beside.free()
        sgl = simple_sgl([(address, 4096)], out=False)
        reply = host.call(self._transfer(BSA_BLOCK_READ, sgl, 4096, 0))
        assert reply[1] & 0x20 or reply[19], "a read to nowhere was said to be a success"
        buffer = host.port.memory.allocate(512)
        self._move(host, BSA_BLOCK_READ, buffer, 512, 0)
        buffer.free()

    # --- inside ----------------------------------------------------------------------------------

    def _move(
        self,
        host: BareHost,
        layout: MessageLayout,
        buffer: HostBuffer,
        size: int,
        offset: int,
        start: int = 0,
    ) -> None:
        """Read or write the disk; the part of the buffer must be one segment."""
        out = layout is BSA_BLOCK_WRITE
        address, length = buffer.segments[0]
        assert length >= start + size, "buffers of this suite are contiguous"
        sgl = simple_sgl([(address + start, size)], out=out)
        reply = host.call(self._transfer(layout, sgl, size, offset))
        assert (reply[1] & 0x20, reply[19]) == (0, 0), reply.hex(" ", 4)

    def _transfer(self, layout: MessageLayout, sgl: bytes, size: int, offset: int) -> bytes:
        head: bytes = layout.build(
            target_address=self.disk_tid,
            message_size=(layout.size + len(sgl)) // 4,
            transfer_byte_count=size,
            logical_byte_address=offset,
        )
        return head + sgl
