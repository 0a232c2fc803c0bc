# SPDX-License-Identifier: Apache-2.0
"""A SCSI device as a program uses it: any command, and the common ones by name.

Commands go as ScsiScbExec, or as DPT's private message, which is the only way that its cards and
Linux's driver for them use, and which also reaches the disks behind their arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from i2o.closing import Closing
from i2o.errors import InvalidArgument, RemoteFrameError, RequestFailed
from i2o.frames.functions import DeviceClass
from i2o.frames.header import ReqStatus
from i2o.frames.layout import MessageLayout
from i2o.frames.private import DPT_PRIVATE_SCSI_SCB_EXEC
from i2o.frames.scsi import (
    SCSI_DEVICE_RESET,
    SCSI_SCB_EXEC,
    SCSI_SUCCESS_REPLY,
    SENSE_SIZE,
    ScbFlags,
    ScsiDetailedStatus,
    ScsiDeviceStatus,
)
from i2o.frames.scsi_command import MAX_CDB, READ_CAPACITY_16_ACTION, ScsiOpcode
from i2o.frames.sgl import simple_sgl
from i2o.message_frames import ReplyFrame
from i2o.replies import raise_for_status, status_of
from i2o.requester import Requester
from i2o.scsi_sense import Sense
from i2o.transport.host_memory import HostBuffer, HostMemory

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

Via = Literal["scb", "private"]
MAX_TRANSFER: Final = 64 << 10
"""Bytes of the largest READ and WRITE."""
_CLASS: Final = int(DeviceClass.SCSI_PERIPHERAL)
_ATTENTIONS: Final = 8
"""Unit attentions that the named commands take note of before they give up."""
_SENSE_START: Final = 28
_SHORTEST: Final = SCSI_SUCCESS_REPLY.size
_ELEMENT_SIZE: Final = 8
_LAST_SHORT: Final = 0xFFFF_FFFF
_INQUIRY_SIZE: Final = 36
_PAGE_SIZE: Final = 252
_MAX_BLOCK_SIZE: Final = 1 << 20
_FLAGS: Final = int(
    ScbFlags.ENABLE_DISCONNECT | ScbFlags.SIMPLE_QUEUE_TAG | ScbFlags.SENSE_DATA_IN_MESSAGE
)
_IN: Final = ScbFlags.XFER_FROM_DEVICE.value
_OUT: Final = ScbFlags.XFER_TO_DEVICE.value


class ScsiResult(NamedTuple):
    """What came of a command.

    Attributes:
        status: the SCSI status; see `ScsiDeviceStatus`.
        adapter_status: the adapter's status, in place; see `ScsiHbaStatus`.
        transferred: bytes that were moved.
        data: what the device returned, if bytes were asked for.
        sense: sense data, None if there are none.
        req_status: the ReqStatus of the reply; see `ReqStatus`.
    """

    status: int
    adapter_status: int
    transferred: int
    data: bytes
    sense: Sense | None
    req_status: int

    @property
    def is_good(self) -> bool:
        """Whether the command was done."""
        return not (self.status or self.adapter_status or self.req_status)


class Inquiry(NamedTuple):
    """Who a device says that it is.

    Attributes:
        device_type: see `ScsiDeviceType`.
        is_removable: its medium can be taken out.
        vendor: who made it.
        product: what it is.
        revision: its firmware.
        raw: all of the data.
    """

    device_type: int
    is_removable: bool
    vendor: str
    product: str
    revision: str
    raw: bytes


class Capacity(NamedTuple):
    """How much a disk holds.

    Attributes:
        blocks: how many.
        block_size: bytes of each.
    """

    blocks: int
    block_size: int

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self.blocks * self.block_size


class ScsiError(RequestFailed):
    """A SCSI command was not done.

    Args:
        message: which, and why.
        result: what came of it.
    """

    def __init__(self, message: str, result: ScsiResult) -> None:
        super().__init__(
            message,
            req_status=result.req_status,
            detail=result.adapter_status | result.status,
            transfer_count=result.transferred,
        )
        self.result, self.sense = result, result.sense


class ScsiDevice(Closing):
    """One SCSI device of an IOP.

    Args:
        requester: sends the messages.
        memory: where buffers come from.
        tid: the device; 0 with `private` is the board.
        via: how commands go.
        frame_size: bytes of an inbound frame; bounds the scatter/gather list.
        on_close: called once when the device is closed (gives the claim back).

    Attributes:
        via: how commands go.
    """

    def __init__(
        self,
        requester: Requester,
        memory: HostMemory,
        tid: int,
        *,
        via: Via,
        frame_size: int,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._requester, self._memory, self.tid, self.via = requester, memory, tid, via
        self._on_close, self._closed = on_close, False
        self._layout = DPT_PRIVATE_SCSI_SCB_EXEC if via == "private" else SCSI_SCB_EXEC
        self._max_elements = (frame_size - self._layout.size) // _ELEMENT_SIZE
        self._capacity: Capacity | None = None

    # --- any command -----------------------------------------------------------------------------

    def execute(
        self,
        cdb: bytes,
        *,
        data_in: int | WriteableBuffer = 0,
        data_out: ReadableBuffer = b"",
        timeout_s: float | None = None,
    ) -> ScsiResult:
        """Do a command; what the device thinks of it is in the result.

        Args:
            cdb: the command.
            data_in: how many bytes it returns, or the memory for them.
            data_out: what it is given.
            timeout_s: how long it may take; the IOP's own limit if None.

        Raises:
            InvalidArgument: no CDB, or data in both directions.
            RequestFailed: the IOP did not deliver it, or not as a SCSI command.
            RequestTimeout: there was no answer.
        """
        if self._closed:
            raise InvalidArgument(f"SCSI device {self.tid:#05x} is closed")
        if not 1 <= len(cdb) <= MAX_CDB:
            raise InvalidArgument(f"a CDB has 1 to {MAX_CDB} bytes, not {len(cdb)}")
        target = memoryview(bytearray(data_in) if isinstance(data_in, int) else data_in).cast("B")
        source = memoryview(data_out).cast("B")
        if len(target) and len(source):
            raise InvalidArgument("a command moves data in one direction, not in both")
        if target.readonly:
            raise InvalidArgument("a read-only buffer cannot be read into")
        view, direction = (target, _IN) if len(target) else (source, _OUT if len(source) else 0)
        reply = self._send(cdb, view, direction, timeout_s)
        is_about_message = reply.failed or len(reply) < _SHORTEST
        if is_about_message or reply[19] == ReqStatus.TRANSACTION_ERROR:
            raise_for_status(reply, self._what(cdb), _CLASS)
            raise RemoteFrameError(f"{self._what(cdb)}: a reply of {len(reply)} bytes")
        result = _result(reply, len(view))
        if isinstance(data_in, int) and direction == _IN:
            result = result._replace(data=bytes(target[: result.transferred]))
        return result

    def run(
        self,
        cdb: bytes,
        *,
        data_in: int | WriteableBuffer = 0,
        data_out: ReadableBuffer = b"",
        timeout_s: float | None = None,
    ) -> ScsiResult:
        """Do a command, and insist: unit attentions are taken note of, and it is sent again.

        Raises:
            ScsiError: the command was not done.
            InvalidArgument, RequestFailed, RequestTimeout: as `execute`.
        """
        for _ in range(_ATTENTIONS):
            result = self.execute(cdb, data_in=data_in, data_out=data_out, timeout_s=timeout_s)
            if result.sense is None or not result.sense.is_attention:
                break
        if not result.is_good:
            raise self._error(cdb, result)
        return result

    def _send(
        self, cdb: bytes, view: memoryview, direction: int, timeout_s: float | None
    ) -> ReplyFrame:
        """Send an SCB with the data of a view, and take its reply."""
        if not direction:
            return self._requester.call(self._message(cdb, b"", 0, 0), timeout_s)
        buffer = self._memory.map(view)
        is_copy = buffer is None
        if buffer is None:
            buffer = self._memory.allocate(len(view))
            if direction == _OUT:
                buffer.view[: len(view)] = view
                buffer.to_device()
        try:
            sgl = self._sgl(buffer, len(view), direction)
            message = self._message(cdb, sgl, len(view), direction)
        except BaseException:
            buffer.free()
            raise
        pending = self._requester.start(message, buffers=(buffer,))
        try:
            reply = self._requester.finish(pending, timeout_s)
            if is_copy and direction == _IN:
                buffer.from_device()
                view[:] = buffer.view[: len(view)]
            return reply
        finally:
            pending.release()

    def _sgl(self, buffer: HostBuffer, size: int, direction: int) -> bytes:
        pieces, rest = [], size
        for address, length in buffer.segments:
            if rest:
                pieces.append((address, min(length, rest)))
                rest -= pieces[-1][1]
        if len(pieces) > self._max_elements:
            raise InvalidArgument(
                f"{size} bytes in {len(pieces)} pieces: a frame takes {self._max_elements}; move "
                "less with one command"
            )
        return simple_sgl(pieces, out=direction == _OUT)

    def _message(self, cdb: bytes, sgl: bytes, size: int, direction: int) -> bytes:
        layout: MessageLayout = self._layout
        private = {"tid": self.tid, "interpret": not self.tid} if self.via == "private" else {}
        head: bytes = layout.build(
            target_address=self.tid,
            message_size=(layout.size + len(sgl)) // 4,
            cdb_length=len(cdb),
            scb_flags=_FLAGS | direction,
            cdb=cdb.ljust(MAX_CDB, b"\0"),
            byte_count=size,
            **private,
        )
        return head + sgl

    # --- commands by name ------------------------------------------------------------------------

    def test_unit_ready(self) -> None:
        """Ask whether the device is ready; raises ScsiError if it is not."""
        self.run(bytes(6))

    def inquiry(self) -> Inquiry:
        """Ask who the device is."""
        raw = self.run(_cdb6(ScsiOpcode.INQUIRY, _INQUIRY_SIZE), data_in=_INQUIRY_SIZE).data
        if len(raw) < _INQUIRY_SIZE:
            raise RemoteFrameError(f"TID {self.tid:#05x}: INQUIRY data of {len(raw)} bytes")
        vendor, product, revision = (
            raw[start:end].decode("ascii", "replace").strip(" \0")
            for start, end in ((8, 16), (16, 32), (32, 36))
        )
        return Inquiry(raw[0] & 0x1F, bool(raw[1] & 0x80), vendor, product, revision, raw)

    def vital_product_data(self, page: int) -> bytes:
        """Return a page of vital product data, without its header; see `VpdPage`."""
        cdb = bytes((ScsiOpcode.INQUIRY, 1, page, 0, _PAGE_SIZE, 0))
        raw = self.run(cdb, data_in=_PAGE_SIZE).data
        return raw[4 : 4 + int.from_bytes(raw[2:4], "big")]

    def capacity(self) -> Capacity:
        """Ask how much the disk holds."""
        raw = self.run(bytes((ScsiOpcode.READ_CAPACITY_10,)) + bytes(9), data_in=8).data
        last, size = int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:8], "big")
        if last == _LAST_SHORT:
            cdb = bytes((ScsiOpcode.SERVICE_ACTION_IN_16, READ_CAPACITY_16_ACTION)) + bytes(8)
            raw = self.run(cdb + (32).to_bytes(4, "big") + bytes(2), data_in=32).data
            last, size = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:12], "big")
        if not 1 <= size <= _MAX_BLOCK_SIZE:
            raise RemoteFrameError(f"TID {self.tid:#05x} claims blocks of {size} bytes")
        self._capacity = Capacity(last + 1, size)
        return self._capacity

    def read(self, lba: int, count: int) -> bytes:
        """Read blocks.

        Args:
            lba: the first.
            count: how many.

        Raises:
            InvalidArgument: they are not all on the disk.
            ScsiError: one cannot be read; `sense` says which.
        """
        size = self._check(lba, count)
        data = bytearray(count * size)
        view = memoryview(data)
        for start, blocks in self._parts(count, size):
            part = view[start * size : (start + blocks) * size]
            self.run(_transfer_cdb(lba + start, blocks, is_write=False), data_in=part)
        return bytes(data)

    def write(self, lba: int, data: ReadableBuffer) -> None:
        """Write whole blocks. They are on the medium after `flush`; raises like `read`."""
        view = memoryview(data).cast("B")
        size = (self._capacity or self.capacity()).block_size
        if len(view) % size:
            raise InvalidArgument(f"{len(view)} bytes are no whole number of blocks of {size}")
        count = len(view) // size
        self._check(lba, count)
        for start, blocks in self._parts(count, size):
            part = view[start * size : (start + blocks) * size]
            self.run(_transfer_cdb(lba + start, blocks, is_write=True), data_out=part)

    def flush(self) -> None:
        """Have everything written so far put on the medium (SYNCHRONIZE CACHE)."""
        self.run(bytes((ScsiOpcode.SYNCHRONIZE_CACHE_10,)) + bytes(9))

    def reset(self) -> None:
        """Reset the device (ScsiDeviceReset): what it has going on is aborted."""
        reply = self._requester.call(SCSI_DEVICE_RESET.build(target_address=self.tid))
        raise_for_status(reply, f"ScsiDeviceReset of TID {self.tid:#05x}", _CLASS)

    def close(self) -> None:
        """Give the device back; again does nothing."""
        if not self._closed:
            self._closed = True
            if self._on_close is not None:
                self._on_close()

    # ---------------------------------------------------------------------------------------------

    def _check(self, lba: int, count: int) -> int:
        """Refuse blocks that are not there; return the size of one."""
        capacity = self._capacity or self.capacity()
        if lba < 0 or count < 0 or lba + count > capacity.blocks:
            raise InvalidArgument(
                f"blocks {lba} to {lba + count} are not inside the device's {capacity.blocks}"
            )
        return capacity.block_size

    def _parts(self, count: int, size: int) -> list[tuple[int, int]]:
        step = max(1, MAX_TRANSFER // size)
        return [(start, min(step, count - start)) for start in range(0, count, step)]

    def _what(self, cdb: bytes) -> str:
        try:
            name = ScsiOpcode(cdb[0]).name
        except ValueError:
            name = f"SCSI command {cdb[0]:#04x}"
        return f"{name} of TID {self.tid:#05x}"

    def _error(self, cdb: bytes, result: ScsiResult) -> ScsiError:
        detail = result.adapter_status | result.status
        try:
            text = ScsiDetailedStatus(detail).name
        except ValueError:
            text = f"status {detail:#06x}"
        if result.sense is not None:
            text = result.sense.text
        return ScsiError(f"{self._what(cdb)}: {text}", result)


def _result(reply: ReplyFrame, size: int) -> ScsiResult:
    """Read a reply; numbers from the other side are bounded."""
    status = status_of(reply)
    sense = None
    if status.detail & 0xFF == ScsiDeviceStatus.CHECK_CONDITION and len(reply) > _SENSE_START:
        sense = Sense.parse(bytes(reply[_SENSE_START : _SENSE_START + SENSE_SIZE]))
    return ScsiResult(
        status.detail & 0xFF,
        status.detail & 0xFF00,
        min(status.transfer_count, size),
        b"",
        sense,
        status.req_status,
    )


def _cdb6(opcode: int, allocation: int) -> bytes:
    return bytes((opcode, 0, 0, 0, allocation, 0))


def _transfer_cdb(lba: int, count: int, *, is_write: bool) -> bytes:
    if lba + count <= _LAST_SHORT and count <= 0xFFFF:
        opcode = ScsiOpcode.WRITE_10 if is_write else ScsiOpcode.READ_10
        return (
            bytes((opcode, 0)) + lba.to_bytes(4, "big") + b"\0" + count.to_bytes(2, "big") + b"\0"
        )
    opcode = ScsiOpcode.WRITE_16 if is_write else ScsiOpcode.READ_16
    return bytes((opcode, 0)) + lba.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(2)
