# SPDX-License-Identifier: Apache-2.0
"""One client of USB/IP: bytes in, bytes out, no sockets.

A client lists what there is, or imports a device; from then on its connection is the cable.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, Protocol

from i2o.errors import RemoteFrameError
from i2o.transport.usb_device.byte_session import ByteSession
from i2o.transport.usb_device.device import UsbDevice
from i2o.transport.usb_device.transfers import SETUP, TO_HOST, Status, Transfer
from i2o.transport.usb_device.usbip.messages import (
    BUS_ID_SIZE,
    COMMAND_SIZE,
    HEADER,
    NO_PACKETS,
    OPERATION,
    RET_SUBMIT,
    RET_UNLINK,
    SUBMIT,
    UNLINK,
    VERSION,
    Command,
    Direction,
    Operation,
    OperationStatus,
    TransferFlags,
    device_record,
    interface_records,
)

MAX_TRANSFER: Final = 1 << 20
"""Bytes of the largest transfer that is taken."""
MAX_PENDING: Final = 16 << 20
"""Bytes of transfers that may be under way."""
MAX_URBS: Final = 512
"""Transfers that may be under way."""
_CODES: Final = {
    Status.OK: 0,
    Status.STALL: -errno.EPIPE,
    Status.OVERFLOW: -errno.EOVERFLOW,
    Status.CANCELLED: -errno.ECONNRESET,
    Status.GONE: -errno.ESHUTDOWN,
}
_ENDPOINTS: Final = 16


class Exports(Protocol):
    """What a server has."""

    def all(self) -> list[tuple[str, UsbDevice]]:
        """Return every device and its bus id."""

    def take(self, bus_id: str, session: Session) -> UsbDevice | OperationStatus:
        """Give a device to one client alone, or say why not."""

    def give_back(self, session: Session) -> None:
        """Let others have what a client had."""


class Session(ByteSession):
    """One client.

    Args:
        exports: what there is.
        wake: called when there is something to send.

    Attributes:
        device: what was imported.
    """

    def __init__(self, exports: Exports, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._exports = exports
        self.device: UsbDevice | None = None
        self._inbox = bytearray()
        self._urbs: dict[int, Transfer] = {}
        self._pending = 0

    @property
    def has_device(self) -> bool:
        """Whether the client has imported one."""
        return self.device is not None

    def receive(self, data: bytes) -> None:
        """Take bytes of the client's.

        Raises:
            RemoteFrameError: they make no sense; the client is to be sent away.
        """
        self._inbox += data
        while not self.is_finished:
            if self.device is None:
                used = self._operation()
            else:
                with self.device.lock:
                    used = self._command(self.device)
            if not used:
                return
            del self._inbox[:used]

    def close(self) -> None:
        """The client is gone: its device is unplugged."""
        self.shut()
        if self.device is not None:
            self.device.unplug()
            self._exports.give_back(self)
        self._urbs.clear()

    # --- before the import -----------------------------------------------------------------------

    def _operation(self) -> int:
        """Answer an operation; return the bytes it took, 0 if it is not complete."""
        if len(self._inbox) < OPERATION.size:
            return 0
        version, code, _ = OPERATION.unpack_from(self._inbox)
        if version != VERSION:
            raise RemoteFrameError(f"version {version:#06x} of USB/IP, not {VERSION:#06x}")
        if code == Operation.REQ_DEVLIST:
            self._list()
            return OPERATION.size
        if code != Operation.REQ_IMPORT:
            raise RemoteFrameError(f"operation {code:#06x}; expected a list or an import")
        if len(self._inbox) < OPERATION.size + BUS_ID_SIZE:
            return 0
        bus_id = bytes(self._inbox[OPERATION.size : OPERATION.size + BUS_ID_SIZE])
        self._import(bus_id.partition(b"\0")[0].decode(errors="replace"))
        return OPERATION.size + BUS_ID_SIZE

    def _list(self) -> None:
        devices = self._exports.all()
        answer = OPERATION.pack(VERSION, Operation.REP_DEVLIST, 0)
        answer += len(devices).to_bytes(4, "big")
        for number, (bus_id, device) in enumerate(devices, 2):
            answer += device_record(device.spec, bus_id, number) + interface_records(device.spec)
        self.put(answer)
        self.is_finished = True

    def _import(self, bus_id: str) -> None:
        found = self._exports.take(bus_id, self)
        if isinstance(found, OperationStatus):
            self.put(OPERATION.pack(VERSION, Operation.REP_IMPORT, found))
            self.is_finished = True
            return
        names = [name for name, _ in self._exports.all()]
        record = device_record(found.spec, bus_id, names.index(bus_id) + 2)
        self.put(OPERATION.pack(VERSION, Operation.REP_IMPORT, OperationStatus.OK) + record)
        self.device = found

    # --- once a device is imported ---------------------------------------------------------------

    def _command(self, device: UsbDevice) -> int:
        """Do a command; return the bytes it took, 0 if it is not complete."""
        if len(self._inbox) < COMMAND_SIZE:
            return 0
        command, sequence, _, direction, endpoint = HEADER.unpack_from(self._inbox)
        if command == Command.UNLINK:
            (other,) = UNLINK.unpack_from(self._inbox, HEADER.size)
            self._unlink(device, sequence, other)
            return COMMAND_SIZE
        if command != Command.SUBMIT:
            raise RemoteFrameError(f"command {command}; expected SUBMIT or UNLINK")
        flags, length, _, packets, _, setup = SUBMIT.unpack_from(self._inbox, HEADER.size)
        if packets not in NO_PACKETS:
            raise RemoteFrameError("an isochronous transfer, which no device here has")
        if not 0 <= length <= MAX_TRANSFER:
            raise RemoteFrameError(f"a transfer of {length} bytes; {MAX_TRANSFER} are taken")
        if direction not in (Direction.OUT, Direction.IN) or endpoint >= _ENDPOINTS:
            raise RemoteFrameError(f"endpoint {endpoint} in direction {direction}")
        if sequence in self._urbs:
            raise RemoteFrameError(f"two transfers have the number {sequence}")
        size = length if direction == Direction.OUT else 0
        if len(self._inbox) < COMMAND_SIZE + size:
            return 0
        data = bytes(memoryview(self._inbox)[COMMAND_SIZE : COMMAND_SIZE + size])
        address = endpoint | (TO_HOST if endpoint and direction == Direction.IN else 0)
        transfer = Transfer(
            address,
            length=0 if size else length,
            data=data,
            setup=setup if endpoint == 0 else b"",
            ends=bool(flags & TransferFlags.ZERO_PACKET),
            done=lambda ended: self._ended(sequence, length, ended),
        )
        if endpoint == 0:
            self._check_control(setup, direction)
        if len(self._urbs) >= MAX_URBS or self._pending + length > MAX_PENDING:
            self._return(sequence, -errno.ENOMEM, 0, b"")
        else:
            self._urbs[sequence] = transfer
            self._pending += length
            device.submit(transfer)
        return COMMAND_SIZE + size

    @staticmethod
    def _check_control(setup: bytes, direction: int) -> None:
        asked = SETUP.unpack_from(setup)
        is_in = bool(asked.request_type & TO_HOST)
        if asked.length and is_in != (direction == Direction.IN):
            raise RemoteFrameError("a control request in the other direction than its transfer")

    def _unlink(self, device: UsbDevice, sequence: int, other: int) -> None:
        transfer = self._urbs.pop(other, None)
        was_pending = transfer is not None and device.cancel(transfer)
        code = -errno.ECONNRESET if was_pending else 0
        header = HEADER.pack(Command.RET_UNLINK, sequence, 0, 0, 0)
        self.put(header + RET_UNLINK.pack(code))

    def _ended(self, sequence: int, length: int, transfer: Transfer) -> None:
        """A transfer has ended; of one that was unlinked, the client hears nothing more."""
        self._pending -= length
        if self._urbs.pop(sequence, None) is not None and transfer.status is not None:
            self._return(sequence, _CODES[transfer.status], transfer.actual, transfer.answer)

    def _return(self, sequence: int, code: int, actual: int, data: bytes | memoryview) -> None:
        header = HEADER.pack(Command.RET_SUBMIT, sequence, 0, 0, 0)
        self.put(header + RET_SUBMIT.pack(code, actual, 0, 0, 0) + data)
