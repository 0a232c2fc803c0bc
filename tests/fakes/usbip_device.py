# SPDX-License-Identifier: Apache-2.0
"""A device that was imported over USB/IP, for `FakeBus`: what a kernel's vhci_hcd does."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from typing import Any

from fakes.usbip_client import IMPORT, IMPORTED, submit, unlink
from i2o.closing import Closing
from i2o.transport.usb.interface import device_spec
from i2o.transport.usb_device.transfers import Status, Transfer

_STATUS = {
    0: Status.OK,
    -errno.EPIPE: Status.STALL,
    -errno.EOVERFLOW: Status.OVERFLOW,
    -errno.ECONNRESET: Status.CANCELLED,
}


class ImportedDevice(Closing):
    """Has what `FakeBus` asks of a `UsbDevice`."""

    def __init__(self, host: str, port: int) -> None:
        self.spec = device_spec("1")
        self._end = socket.create_connection((host, port))
        self._end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._end.sendall(IMPORT)
        answer = self._receive(IMPORTED)
        assert answer[4:8] == bytes(4), answer[:8]
        self._lock = threading.Lock()
        self._sequence = 0
        self._transfers: dict[int, Transfer] = {}
        self._unlinks: dict[int, tuple[Transfer, threading.Event]] = {}
        self._thread = threading.Thread(target=self._listen, name="i2o-test-usbip")
        self._thread.start()

    def submit(self, transfer: Transfer) -> None:
        is_in = bool(transfer.endpoint & 0x80 or (transfer.setup and transfer.setup[0] & 0x80))
        with self._lock:
            self._sequence += 1
            self._transfers[self._sequence] = transfer
            words: dict[str, Any] = (
                {"length": transfer.length} if is_in else {"data": bytes(transfer.data)}
            )
            self._end.sendall(
                submit(
                    self._sequence,
                    transfer.endpoint & 0x0F,
                    setup=transfer.setup or bytes(8),
                    **words,
                )
            )

    def cancel(self, transfer: Transfer) -> bool:
        ended = threading.Event()
        with self._lock:
            found = [key for key, value in self._transfers.items() if value is transfer]
            if not found:
                return False
            self._sequence += 1
            self._unlinks[self._sequence] = transfer, ended
            self._end.sendall(unlink(self._sequence, found[0]))
        ended.wait()
        return transfer.status is Status.CANCELLED

    def unplug(self) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._end.shutdown(socket.SHUT_RDWR)
            self._thread.join()
        self._end.close()

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._end.recv(size - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return data

    def _listen(self) -> None:
        try:
            while True:
                head = self._receive(48)
                command, sequence = struct.unpack_from(">II", head)
                status, actual = struct.unpack_from(">ii", head, 20)
                if command == 4:
                    transfer, ended = self._unlinks.pop(sequence)
                    if status:
                        with self._lock:
                            for key, value in tuple(self._transfers.items()):
                                if value is transfer:
                                    del self._transfers[key]
                        transfer.end(Status.CANCELLED)
                    ended.set()
                    continue
                with self._lock:
                    transfer = self._transfers.pop(sequence)
                is_in = transfer.endpoint & 0x80 or (transfer.setup and transfer.setup[0] & 0x80)
                answer = self._receive(actual) if is_in else b""
                transfer.end(_STATUS.get(status, Status.GONE), answer, actual)
        except OSError:
            with self._lock:
                left = [*self._transfers.values(), *(each for each, _ in self._unlinks.values())]
                self._transfers.clear()
            for transfer in left:
                if transfer.status is None:
                    transfer.end(Status.GONE)
            for _, ended in self._unlinks.values():
                ended.set()
