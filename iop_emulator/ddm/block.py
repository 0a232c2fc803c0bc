# SPDX-License-Identifier: Apache-2.0
"""A random block storage device (BSA, class 0x010) over a `BlockStore`.

A request is checked as a whole before a byte moves: state, address, length, the complete
scatter/gather list. Data then goes straight between the store and host memory. Detail codes stay
at 0x0D or below and an error reply has 8 words, as Linux 2.4 and pst expect.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import struct
from typing import Final

from i2o.errors import DmaFault, LocalFrameError, RemoteFrameError
from i2o.frames import block_storage as bsa
from i2o.frames import utility
from i2o.frames.block_storage import (
    BsaDetailedStatus,
    BsaEvent,
    BsaLoadFlags,
    BsaPowerOperation,
    BsaVerifyFlags,
    BsaWriteFlags,
)
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import ReqStatus
from i2o.frames.layout import MessageLayout
from i2o.frames.sgl_walk import Piece, SglError, lone_simple
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator import sgl_data
from i2o.iop_emulator.bad_blocks import FlawedDisk
from i2o.iop_emulator.block_store import BlockStore, StoreError
from i2o.iop_emulator.ddm import block_data
from i2o.iop_emulator.ddm.base import IopServices
from i2o.iop_emulator.ddm.block_data import CHUNK
from i2o.iop_emulator.ddm.block_parameters import BlockState, block_groups
from i2o.iop_emulator.ddm.disk import Disk
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.parameter_groups import Group
from i2o.iop_emulator.request import PROGRESS_REPLY, Request
from i2o.iop_emulator.scheduler import Job

_LOG: Final = logging.getLogger(__name__)

PROGRESS_STEPS: Final = 10
MAX_JOBS: Final = 64
"""Long operations that may be under way in an IOP; their frames are free and bound nothing."""
MAX_REASSIGN: Final = 1 << 16
"""Bytes of the longest list of blocks to reassign."""

_SGL_WORD: Final = bsa.BSA_BLOCK_READ.sgl_word_offset
_PLAIN_START: Final = _SGL_WORD << 4 | 0xF  # VersionOffset: the list is no later than there
_POWER_BYTE: Final = 19  # of the message: where Linux puts the operation
_SUCCESS_START: Final = bsa.BSA_SUCCESS_REPLY.build()[:4]
_READ_SIZE: Final = bsa.BSA_BLOCK_READ.size
_WRITE_FLUSH: Final = int(BsaWriteFlags.DONT_CACHE | BsaWriteFlags.WRITE_THRU)
_ADDRESS: Final = struct.Struct("<Q")
_success_tail = struct.Struct("<II").pack
_COUNT_PLACE: Final = next(
    field.byte for field in bsa.BSA_BLOCK_READ.fields if field.path == "transfer_byte_count"
)
_count_and_address = struct.Struct("<IQ").unpack_from  # `bsa.ADDRESS_PARTS`, without a record
_write_fields = bsa.BSA_BLOCK_WRITE.record.unpack_from
_POWERED_DOWN: Final = BsaPowerOperation.QUIESCE_DEVICE.value
_KNOWN_POWER: Final = frozenset(operation.value for operation in BsaPowerOperation)
_BSA_FUNCTIONS: Final = frozenset(
    function.value for name, function in Function.__members__.items() if name.startswith("BSA_")
)


class BlockDevice(Disk):
    """One disk.

    Args:
        iop: the IOP it is part of.
        tid: its TID.
        store: its blocks.
        parent_tid: TID of the DDM that drives it.
        organization_id: organization in its ClassID.
    """

    device_class = DeviceClass.RANDOM_BLOCK_STORAGE.value
    class_events = int(
        BsaEvent.VOLUME_LOAD
        | BsaEvent.VOLUME_UNLOAD
        | BsaEvent.VOLUME_UNLOAD_REQUEST
        | BsaEvent.CAPACITY_CHANGE
    )

    def __init__(
        self,
        iop: IopServices,
        tid: int,
        store: BlockStore,
        *,
        parent_tid: int,
        organization_id: int = 0,
    ) -> None:
        self.state = BlockState(store)
        self.store = store
        name = store.description.rpartition("/")[2]
        super().__init__(
            iop,
            tid,
            parent_tid=parent_tid,
            name=name,
            serial=store.serial,
            organization_id=organization_id,
        )

    def groups(self) -> list[Group]:
        """Return the generic groups and those of the class."""
        return [*super().groups(), *block_groups(self.state)]

    def reset_state(self) -> None:
        """Forget claims and locks, load the medium, power up."""
        super().reset_state()
        self.state.reset()

    def error(self, request: Request, req_status: int, detail: int) -> bytes:
        """Return an error reply: of 8 words for this class's own functions."""
        if request.function in _BSA_FUNCTIONS:
            address = 0
            if request.function in _WITH_ADDRESS:
                address = request.fields(_WITH_ADDRESS[request.function]).logical_byte_address
            return self._error(request, detail, address, req_status=req_status)
        return super().error(request, req_status, detail)

    def malformed(self, request: Request, error: RemoteFrameError) -> bytes:
        """Answer a request whose data cannot be reached, with codes of this class."""
        reply = super().malformed(request, error)
        if request.function not in _BSA_FUNCTIONS:
            return reply
        if isinstance(error, SglError) and error.offset is not None:
            return request.transaction_error(error.offset, BsaDetailedStatus.PROTOCOL_FAILURE)
        detail = (
            BsaDetailedStatus.BUS_FAILURE
            if isinstance(error, DmaFault)
            else BsaDetailedStatus.PROTOCOL_FAILURE
        )
        return self.error(request, ReqStatus.ERROR_NO_DATA_TRANSFER, detail)

    # --- what is done to it by hand --------------------------------------------------------------

    @property
    def is_removable(self) -> bool:
        """Whether the medium can be taken out."""
        return self.state.is_removable

    @property
    def is_loaded(self) -> bool:
        """Whether a medium is in."""
        return self.state.is_loaded

    @property
    def is_locked(self) -> bool:
        """Whether the host wants the medium to stay in."""
        return self.state.is_locked

    @property
    def is_changed(self) -> bool:
        """Whether there is another medium, which the host has not taken note of yet."""
        return self.state.is_changed

    def put_in(self, store: BlockStore) -> None:
        """Have other blocks from now on."""
        self.store = store
        self.state.put_in(store)

    def resized(self) -> None:
        """Do nothing: an event tells the host."""

    def unlock(self) -> None:
        """Let the medium out, whatever the host wants."""
        self.state.is_locked = False

    def load(self, is_loaded: bool = True) -> None:
        """Load the medium if there is one, or unload it."""
        self.state.load(is_loaded)

    def require_note(self, is_changed: bool) -> None:
        """Have the host take note of another medium before anything else, or end that."""
        self.state.change(is_changed)

    def ask_for_medium(self) -> None:
        """Do nothing: an event tells the host."""

    # --- status --------------------------------------------------------------------------------

    @handles(Function.BSA_STATUS_CHECK)
    def status_check(self, request: Request) -> bytes:
        """Say whether the device can work."""
        if self.state.is_up:
            return request.success()
        return self._error(request, self.state.obstacle, 0)

    @handles(Function.BSA_DEVICE_RESET)
    def device_reset(self, request: Request) -> bytes:
        """Take back everything that is not answered yet and tell those who registered."""
        aborted = self.abort_requests(
            lambda other: other.target == self.tid, ReqStatus.ABORT_NO_DATA_TRANSFER
        )
        self.state.change(False)
        self.iop.events.post(self.tid, GenericEvent.DEVICE_RESET, aborted.to_bytes(4, "little"))
        return request.success()

    @handles(Function.UTIL_EVENT_ACK)
    def event_ack(self, request: Request) -> bytes:
        """Repeat the indicator and its data; the medium that was put in may be used now."""
        if request.fields(utility.UTIL_EVENT_ACK).event_indicator & BsaEvent.VOLUME_LOAD:
            self.state.change(False)
        return super().event_ack(request)

    # --- data ----------------------------------------------------------------------------------

    @handles(Function.BSA_BLOCK_READ)
    def block_read(self, request: Request) -> bytes:
        """Read from the store straight into host memory."""
        frame = request.frame
        if len(frame) < _READ_SIZE:
            return self._too_short(request)
        count, address = _count_and_address(frame, _COUNT_PLACE)
        state = self.state
        if (
            address + count > state.size or (count | address) & state.block_mask or not state.is_up
        ) and (refusal := self._obstacle(request, count, address)) is not None:
            return refusal
        views = self._views(request, count, writable=True)
        try:
            if views is None:
                block_data.read_by_copy(self.store, self.iop.dma, self._pieces(request), address)
            else:
                self.store.read_into(address, views)
        except OSError as error:
            return self._store_error(request, error, address)
        state.count_read(count)
        return _SUCCESS_START + frame[4:16] + _success_tail(0, count)

    @handles(Function.BSA_BLOCK_WRITE)
    def block_write(self, request: Request) -> bytes:
        """Write host memory straight to the store."""
        return self._write(request, is_verified=False)

    @handles(Function.BSA_BLOCK_WRITE_VERIFY)
    def block_write_verify(self, request: Request) -> bytes:
        """Write, make it durable, read it back and compare."""
        return self._write(request, is_verified=True)

    def _write(self, request: Request, *, is_verified: bool) -> bytes:
        frame = request.frame
        if len(frame) < _READ_SIZE:
            return self._too_short(request)
        asked = _write_fields(frame)
        count, address = asked.transfer_byte_count, asked.logical_byte_address
        state = self.state
        if (refusal := self._obstacle(request, count, address, is_write=True)) is not None:
            return refusal
        views = self._views(request, count, writable=False)
        if state.control["auto_reassign"]:
            with contextlib.suppress(LocalFrameError):  # without a spare the block stays bad
                self._reassign(address, count)
        try:
            if views is None:
                block_data.write_by_copy(self.store, self.iop.dma, self._pieces(request), address)
            else:
                self.store.write_from(address, views)
            if is_verified or asked.control_flags & _WRITE_FLUSH or state.writes_through:
                self.store.flush()
        except OSError as error:
            return self._store_error(request, error, address, is_write=True)
        place = None
        if is_verified:
            place = block_data.first_difference(
                self.store, self.iop.dma, self._pieces(request), address
            )
        if place is not None:
            self.iop.complain(f"TID {self.tid:#05x}: byte {place} reads back differently")
            return self._error(request, BsaDetailedStatus.MEDIA_ERROR, place, done=place - address)
        state.count_write(count)
        return _SUCCESS_START + frame[4:16] + _success_tail(0, count)

    @handles(Function.BSA_MEDIA_VERIFY)
    def media_verify(self, request: Request) -> bytes | None:
        """Read a range without giving it away: a long operation, in steps."""
        asked = request.fields(bsa.BSA_MEDIA_VERIFY)
        count, address = asked.byte_count, asked.logical_byte_address
        if (refusal := self._obstacle(request, count, address)) is not None:
            return refusal
        scheduler = self.iop.scheduler
        if scheduler.job_count >= MAX_JOBS:
            return self._error(request, BsaDetailedStatus.DEVICE_NOT_READY, address)
        reports = bool(asked.control_flags & BsaVerifyFlags.PROGRESS_REPORT_FLAG)
        scheduler.start(request, self._verify(request, address, count, reports=reports))
        return None

    def _verify(self, request: Request, address: int, count: int, *, reports: bool) -> Job:
        """Read chunk by chunk; tell every tenth of the way if asked to."""
        done, told = 0, 0
        state = self.state
        loads = state.loads
        while done < count:
            length = min(CHUNK, count - done)
            detail = None
            if not state.is_loaded:
                detail = BsaDetailedStatus.MEDIA_NOT_PRESENT
            elif state.loads != loads:
                detail = BsaDetailedStatus.VOLUME_CHANGED
            elif address + done + length > state.size:  # the disk has become smaller
                detail = BsaDetailedStatus.ACCESS_ERROR
            if detail is not None:
                return self._error(request, detail, address + done, done=done)
            try:
                self.store.read_into(address + done, [memoryview(bytearray(length))])
            except OSError as error:
                return self._store_error(request, error, address + done, before=done)
            done += length
            percent = 100 * done // count
            if reports and done < count and percent >= told + 100 // PROGRESS_STEPS:
                told = percent
                yield self._progress(request, percent)
            else:
                yield None
        return _SUCCESS_START + request.frame[4:16] + _success_tail(0, count)

    @handles(Function.BSA_CACHE_FLUSH)
    def cache_flush(self, request: Request) -> bytes:
        """Answer when everything written is durable."""
        if (refusal := self._obstacle(request, 0, 0)) is not None:
            return refusal
        return self._flush(request) or request.success()

    @handles(Function.BSA_BLOCK_REASSIGN)
    def block_reassign(self, request: Request) -> bytes:
        """Make the blocks at a list of 64-bit byte addresses good; all of them are checked first.

        It ends where the disk could not note any more which blocks are still bad.
        """
        if (refusal := self._obstacle(request, 0, 0, is_write=True)) is not None:
            return refusal
        iop = self.iop
        word = bsa.BSA_BLOCK_REASSIGN.sgl_word_offset
        listed = b"".join(
            sgl_data.gather(iop.dma, buffer, MAX_REASSIGN + 1)
            for buffer in sgl_data.buffers(request, word, iop.dma, iop.page_size)
        )
        if len(listed) % _ADDRESS.size or len(listed) > MAX_REASSIGN:
            iop.complain(
                f"TID {self.tid:#05x}: {len(listed)} bytes are no list of up to "
                f"{MAX_REASSIGN // _ADDRESS.size} addresses of 8 bytes"
            )
            return self._error(request, BsaDetailedStatus.PROTOCOL_FAILURE, 0)
        addresses = [address for (address,) in _ADDRESS.iter_unpack(listed)]
        for address in addresses:
            if address >= self.state.size:
                return self._error(request, BsaDetailedStatus.ACCESS_ERROR, address)
        for address in addresses:
            try:
                self._reassign(address, 1)
            except LocalFrameError:
                return self._error(request, BsaDetailedStatus.MEDIA_ERROR, address)
        return request.success()

    def _reassign(self, address: int, count: int) -> None:
        """Make every block good that has one of these bytes; raises LocalFrameError."""
        if isinstance(self.store, FlawedDisk) and count:
            size = self.store.block_size
            self.store.bad.remove(address // size, (address + count - 1) // size)

    @handles(Function.BSA_MEDIA_FORMAT)
    def media_format(self, request: Request) -> bytes:
        """Refuse: the message has no published layout."""
        return self._error(request, BsaDetailedStatus.PROTOCOL_FAILURE, 0)

    # --- the medium ----------------------------------------------------------------------------

    @handles(Function.BSA_MEDIA_MOUNT)
    def media_mount(self, request: Request) -> bytes:
        """Load the medium; a fixed disk always has it."""
        asked = request.fields(bsa.BSA_MEDIA_MOUNT)
        state = self.state
        if not state.size:
            return self._error(request, BsaDetailedStatus.MEDIA_NOT_PRESENT, 0)
        state.change(False)
        if not state.is_loaded:
            state.load()
            self.iop.events.post(self.tid, BsaEvent.VOLUME_LOAD, b"")
        if asked.load_flags & BsaLoadFlags.MEDIA_LOCK:
            state.is_locked = True
        return request.success()

    @handles(Function.BSA_MEDIA_EJECT)
    def media_eject(self, request: Request) -> bytes:
        """Take the medium out, unless it is locked or fixed."""
        state = self.state
        if not state.is_removable:
            return self._error(request, BsaDetailedStatus.PROTOCOL_FAILURE, 0)
        if not state.is_loaded:
            return self._error(request, BsaDetailedStatus.MEDIA_NOT_PRESENT, 0)
        if state.is_locked:
            self.iop.events.post(self.tid, BsaEvent.VOLUME_UNLOAD_REQUEST, b"")
            return self._error(request, BsaDetailedStatus.MEDIA_LOCKED, 0)
        if (failure := self._flush(request)) is not None:
            return failure
        self._unload()
        return request.success()

    @handles(Function.BSA_MEDIA_LOCK)
    def media_lock(self, request: Request) -> bytes:
        """Keep the medium in."""
        if not self.state.is_loaded:
            return self._error(request, BsaDetailedStatus.MEDIA_NOT_PRESENT, 0)
        self.state.is_locked = True
        return request.success()

    @handles(Function.BSA_MEDIA_UNLOCK)
    def media_unlock(self, request: Request) -> bytes:
        """Let the medium out again."""
        self.state.is_locked = False
        return request.success()

    @handles(Function.BSA_POWER_MANAGEMENT)
    def power_management(self, request: Request) -> bytes:
        """Change the power state. Powering down makes everything durable first."""
        state = self.state
        operation = self._power_operation(request)
        if operation not in _KNOWN_POWER:
            return self._error(request, BsaDetailedStatus.PROTOCOL_FAILURE, 0)
        if operation >= _POWERED_DOWN and (failure := self._flush(request)) is not None:
            return failure
        state.set_power(operation)
        if operation in _UNLOADING and state.is_removable and not state.is_locked:
            self._unload()
        elif operation == BsaPowerOperation.POWER_UP_LOAD:
            state.load()
        return request.success()

    @staticmethod
    def _power_operation(request: Request) -> int:
        """Find the operation: Linux puts it into the byte before, and counts only 4 words.

        With 4 words it is out of reach; the device is powered up then, which harms nobody.
        """
        if len(request.frame) <= _POWER_BYTE:
            return BsaPowerOperation.POWER_UP
        asked = request.fields(bsa.BSA_POWER_MANAGEMENT)
        return int(asked.operation or asked.reply_type)

    def _unload(self) -> None:
        if self.state.is_loaded:
            self.state.load(False)
            self.iop.events.post(self.tid, BsaEvent.VOLUME_UNLOAD, b"")

    # --- checks --------------------------------------------------------------------------------

    def _obstacle(
        self, request: Request, count: int, address: int, *, is_write: bool = False
    ) -> bytes | None:
        """Return the error reply to a request that this device cannot serve, or None."""
        state = self.state
        state.power_up_on_access()
        if not state.is_up:
            return self._error(request, state.obstacle, address)
        if is_write and self.store.read_only:
            return self._error(request, BsaDetailedStatus.WRITE_PROTECTED, address)
        if (count | address) & state.block_mask:
            self.iop.complain(
                f"TID {self.tid:#05x}: {count} bytes at byte {address} are not whole blocks of "
                f"{self.store.block_size}"
            )
            return self._error(request, BsaDetailedStatus.PROTOCOL_FAILURE, address)
        if address + count > state.size:
            self.iop.complain(
                f"TID {self.tid:#05x}: {count} bytes at byte {address} reach past the end at "
                f"{state.size}"
            )
            return self._error(request, BsaDetailedStatus.ACCESS_ERROR, address)
        return None

    def _too_short(self, request: Request) -> bytes:
        self.iop.complain(
            f"TID {self.tid:#05x}: function {request.function:#04x} has {len(request.frame) // 4} "
            f"words, {_READ_SIZE // 4} at least are needed"
        )
        return self._error(request, BsaDetailedStatus.PROTOCOL_FAILURE, 0)

    def _views(self, request: Request, count: int, *, writable: bool) -> list[memoryview] | None:
        """Return direct views of the request's whole buffer, all of it checked.

        Returns:
            The views, or None where host memory has to be copied.

        Raises:
            SglError: the list makes no sense, or has another length than the request.
            DmaFault: a fragment is outside host memory.
        """
        iop = self.iop
        frame = request.frame
        if frame[0] <= _PLAIN_START:
            lone = lone_simple(frame, 4 * _SGL_WORD, len(frame))
            if lone is not None and lone[1] == count:
                return iop.dma.windows((lone,), writable=writable)
        found = sgl_data.buffers(request, _SGL_WORD, iop.dma, iop.page_size)
        if len(found) == 1:
            pieces, length = found[0].pieces, found[0].length
        else:
            pieces = [piece for buffer in found for piece in buffer.pieces]
            length = sum(buffer.length for buffer in found)
        if length != count:
            raise SglError(
                f"the scatter/gather list has {length} bytes, TransferByteCount says {count}", None
            )
        fragments = [piece for piece in pieces if type(piece) is tuple]
        views = iop.dma.windows(fragments, writable=writable)
        if views is None or len(fragments) == len(pieces):
            return views
        return block_data.mixed_views(pieces, views, writable=writable)

    def _pieces(self, request: Request) -> list[Piece]:
        """Return the pieces of all buffers, in order."""
        iop = self.iop
        found = sgl_data.buffers(request, _SGL_WORD, iop.dma, iop.page_size)
        return [piece for buffer in found for piece in buffer.pieces]

    # --- replies -------------------------------------------------------------------------------

    def _flush(self, request: Request) -> bytes | None:
        """Make everything durable; return the error reply if that fails."""
        try:
            self.store.flush()
        except OSError as error:
            return self._store_error(request, error, 0, detail=BsaDetailedStatus.MEDIA_FAILURE)
        return None

    def _store_error(
        self,
        request: Request,
        error: OSError,
        address: int,
        *,
        before: int = 0,
        is_write: bool = False,
        detail: int | None = None,
    ) -> bytes:
        """Turn an error of the store into an error reply."""
        done = error.done if isinstance(error, StoreError) else 0
        if detail is None:
            detail = _DETAILS.get(error.errno or 0, BsaDetailedStatus.DEVICE_FAILURE)
        self.state.log_error(request.function, detail, request.now_ns)
        _LOG.error("%s: function %#04x: %s", self.store.description, request.function, error)
        status = None
        if is_write and not done:
            status = ReqStatus.ERROR_DIRTY  # nobody knows what reached the medium
        return self._error(request, detail, address + done, done=before + done, req_status=status)

    def _error(
        self,
        request: Request,
        detail: int,
        address: int,
        *,
        done: int = 0,
        req_status: int | None = None,
    ) -> bytes:
        if req_status is None:
            req_status = (
                ReqStatus.ERROR_PARTIAL_TRANSFER if done else ReqStatus.ERROR_NO_DATA_TRANSFER
            )
        return request.answer(
            bsa.BSA_ERROR_REPLY,
            req_status=int(req_status),
            detailed_status_code=detail,
            transfer_count=done,
            logical_byte_address=address,
        )

    @staticmethod
    def _progress(request: Request, percent: int) -> bytes:
        return request.answer(
            bsa.BSA_PROGRESS_REPLY,
            flags=PROGRESS_REPLY,
            req_status=ReqStatus.PROGRESS_REPORT.value,
            percent_complete=percent,
        )


_WITH_ADDRESS: Final[dict[int, MessageLayout]] = {
    layout.function: layout
    for layout in (
        bsa.BSA_BLOCK_READ,
        bsa.BSA_BLOCK_WRITE,
        bsa.BSA_BLOCK_WRITE_VERIFY,
        bsa.BSA_MEDIA_VERIFY,
    )
    if layout.function is not None
}
_DETAILS: Final = {
    errno.EIO: BsaDetailedStatus.MEDIA_ERROR,
    errno.EROFS: BsaDetailedStatus.WRITE_PROTECTED,
    errno.EBUSY: BsaDetailedStatus.DEVICE_NOT_READY,
}
_UNLOADING: Final = frozenset(
    {
        BsaPowerOperation.PARTIAL_POWER_DOWN_UNLOAD.value,
        BsaPowerOperation.POWER_DOWN_UNLOAD.value,
    }
)
