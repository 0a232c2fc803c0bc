# SPDX-License-Identifier: Apache-2.0
"""A vfio-user client for tests: the messages of QEMU's side, and a server in the same thread."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from i2o.transport.vfio_user import Server
from i2o.transport.vfio_user.messages import Command, DmaFlags, IrqSetFlags, RegionIndex

ALL_CAPABILITIES = {
    "max_msg_fds": 8,
    "max_data_xfer_size": 1 << 20,
    "pgsizes": 4096,
    "max_dma_maps": 65535,
    "twin_socket": {"supported": True},
    "write_multiple": True,
}


class ClientError(Exception):
    """The server answered with an errno."""

    def __init__(self, code: int) -> None:
        super().__init__(os.strerror(code))
        self.code = code


def packed(number: int, command: int, payload: bytes, flags: int = 0, error: int = 0) -> bytes:
    return struct.pack("<HHIII", number, command, 16 + len(payload), flags, error) + payload


def memory_file(size: int, *, sealed: bool = True) -> int:
    """Return the descriptor of a piece of guest memory."""
    descriptor = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    if sealed:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor


class Client:
    """One connection. `pump` lets the server work while the client waits for its reply."""

    def __init__(self, path: Path, pump: Callable[[], object]) -> None:
        self.end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.end.connect(str(path))
        self.end.setblocking(False)
        self._pump, self._number = pump, 0

    @classmethod
    def of(cls, server: Server, *, greet: bool = True) -> Client:
        client = cls(server.path, server.handle)
        if greet:
            client.version()
        return client

    def close(self) -> None:
        self.end.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- messages ------------------------------------------------------------------------------

    def send(
        self, command: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0
    ) -> int:
        self._number = self._number + 1 & 0xFFFF
        socket.send_fds(self.end, [packed(self._number, command, payload, flags)], fds)
        return self._number

    def receive(self) -> tuple[int, int, int, bytes, list[int]]:
        """Return id, flags, errno, payload and descriptors of the next reply."""
        data, fds = b"", []
        wanted = 16
        for _ in range(10_000):
            if len(data) == wanted:
                if wanted > 16 or struct.unpack_from("<I", data, 4)[0] == 16:
                    break
                wanted = struct.unpack_from("<I", data, 4)[0]
            self._pump()
            try:
                more, new, _, _ = socket.recv_fds(self.end, wanted - len(data), 8)
            except BlockingIOError:
                continue
            if not more:
                raise ConnectionResetError("the server hung up")
            data, fds = data + more, fds + new
        assert len(data) == wanted, "no reply came"
        number, _, _, flags, error = struct.unpack_from("<HHIII", data)
        return number, flags, error, data[16:], fds

    def call(
        self, command: int, payload: bytes = b"", fds: Sequence[int] = ()
    ) -> tuple[bytes, list[int]]:
        number = self.send(command, payload, fds)
        answered, flags, error, data, got = self.receive()
        assert answered == number
        assert flags & 0x0F == 1
        if flags & 0x20:
            assert not data
            raise ClientError(error)
        return data, got

    # --- what QEMU does ------------------------------------------------------------------------

    def version(self, major: int = 0, minor: int = 0) -> dict[str, object]:
        text = json.dumps({"capabilities": ALL_CAPABILITIES}).encode() + b"\0"
        data, _ = self.call(Command.VERSION, struct.pack("<HH", major, minor) + text)
        assert data[-1] == 0
        return dict(json.loads(data[4:-1])["capabilities"])

    def dma_map(
        self,
        address: int,
        size: int,
        descriptor: int | None,
        *,
        offset: int = 0,
        flags: int = DmaFlags.READ | DmaFlags.WRITE,
    ) -> None:
        payload = struct.pack("<IIQQQ", 32, int(flags), offset, address, size)
        self.call(Command.DMA_MAP, payload, () if descriptor is None else (descriptor,))

    def dma_unmap(self, address: int, size: int, flags: int = 0) -> bytes:
        return self.call(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, flags, address, size))[0]

    def region_info(self, index: int, argsz: int = 32) -> tuple[tuple[int, ...], bytes, list[int]]:
        data, fds = self.call(
            Command.DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0)
        )
        return struct.unpack_from("<IIIIQQ", data), data[32:], fds

    def read(self, index: int, offset: int, size: int) -> bytes:
        head = struct.pack("<QII", offset, index, size)
        data, _ = self.call(Command.REGION_READ, head)
        assert data[:16] == head
        return data[16:]

    def write(self, index: int, offset: int, data: bytes) -> None:
        head = struct.pack("<QII", offset, index, len(data))
        assert self.call(Command.REGION_WRITE, head + data)[0] == head

    def read32(self, offset: int, index: int = RegionIndex.BAR0) -> int:
        return int.from_bytes(self.read(index, offset, 4), "little")

    def write32(self, offset: int, value: int, index: int = RegionIndex.BAR0) -> None:
        self.write(index, offset, value.to_bytes(4, "little"))

    def config_word(self, offset: int, value: int | None = None) -> int:
        if value is not None:
            self.write(RegionIndex.CONFIG, offset, value.to_bytes(2, "little"))
        return int.from_bytes(self.read(RegionIndex.CONFIG, offset, 2), "little")

    def set_irqs(
        self,
        index: int,
        flags: IrqSetFlags | int,
        start: int = 0,
        count: int = 1,
        data: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        payload = struct.pack("<IIIII", 20 + len(data), int(flags), index, start, count) + data
        self.call(Command.DEVICE_SET_IRQS, payload, fds)


class Guest:
    """Guest memory that a client shares: one sealed file, mapped here too."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.size = size
        self.descriptor = memory_file(size)
        self._map = mmap.mmap(self.descriptor, size)
        self.view = memoryview(self._map)

    def close(self) -> None:
        self.view.release()
        self._map.close()
        os.close(self.descriptor)
