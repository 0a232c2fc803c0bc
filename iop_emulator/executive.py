# SPDX-License-Identifier: Apache-2.0
"""TID 0: the IOP's executive. Life cycle, tables, and what it knows about itself.

Three messages have no reply frame: StatusGet, IopReset and OutboundInit answer by writing to host
memory. Chapters have the rest: who is served, assignments, software, static frames, other IOPs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from i2o.errors import DmaFault, RemoteFrameError
from i2o.frames import executive as messages
from i2o.frames import tables
from i2o.frames.codec import Record
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import VERSION_1_5, DetailedStatus
from i2o.frames.sgl_walk import SglBuffer
from i2o.frames.tables import IopCapabilities, IopResetStatus, IopState, OutboundInitStatus
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator import sgl_data
from i2o.iop_emulator.ddm.base import Ddm
from i2o.iop_emulator.ddm.dpt import EXTENSIONS, DptBoard
from i2o.iop_emulator.executive_assignments import Assignments
from i2o.iop_emulator.executive_parameters import executive_groups
from i2o.iop_emulator.executive_service import Service
from i2o.iop_emulator.executive_software import Software
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.iop_control import IopControl
from i2o.iop_emulator.iop_system import IopSystem
from i2o.iop_emulator.lct import hardware_resource_table
from i2o.iop_emulator.parameter_groups import Group, Row
from i2o.iop_emulator.peers import PeerIop, Peers
from i2o.iop_emulator.reply_queue import DEFAULT_REPLY_WORDS
from i2o.iop_emulator.request import Request
from i2o.iop_emulator.software_store import SoftwareStore
from i2o.iop_emulator.static_frames import StaticFrames

TID: Final = 0
MIN_REPLY_WORDS: Final = 5
DEFAULT_PAGE_SIZE: Final = 4096
MAX_NOTIFIES: Final = 16
_MAX_SYSTEM_TABLE: Final = 255
_PEER_SUPPORT: Final = int(
    IopCapabilities.INBOUND_PEER_SUPPORT
    | IopCapabilities.OUTBOUND_PEER_SUPPORT
    | IopCapabilities.PEER_TO_PEER_SUPPORT
)
_PAD: Final = tables.LCT_ENTRY.size


class Executive(Ddm):
    """The device at TID 0.

    Args:
        iop: the IOP.
        system: the IOPs it can reach, None for none.

    Attributes:
        iop_id: the id in force.
        host_unit_id: HostUnitID of the last SysTabSet.
        segment_number: SegmentNumber of the last SysTabSet.
        init_code: InitCode of the last OutboundInit.
        system_table: entries of the last SysTabSet or SysModify.
        assignments: who controls adapters and drives devices.
        software: what the host has loaded.
        static_frames: messages that stay with the IOP.
        peers: connections with other IOPs.
    """

    device_class = DeviceClass.EXECUTIVE.value
    class_events = int(
        ExecutiveEvent.RESET_IMMINENT
        | ExecutiveEvent.NEW_LCT_ENTRY
        | ExecutiveEvent.MODIFIED_LCT
        | ExecutiveEvent.XCT_CHANGE
        | ExecutiveEvent.CONNECTION_FAIL
    ) | int(GenericEvent.STATE_CHANGE)

    def __init__(self, iop: PeerIop, system: IopSystem | None = None) -> None:
        self.control: IopControl = iop
        self.iop_id = iop.options.iop_id
        self.host_unit_id = self.segment_number = self.init_code = 0
        self.system_table: tuple[Record, ...] = ()
        self.assignments = Assignments(iop, self)
        self.software = Software(iop, self, SoftwareStore(iop.options.store))
        self.static_frames = StaticFrames(iop)
        self.peers = Peers(iop, self, self, system)
        self._is_in_system = system is not None
        self._service = Service(iop, self)
        self._board = DptBoard(iop, self) if iop.card.has_dpt_messages else None
        super().__init__(
            iop, TID, name=iop.options.product, organization_id=iop.options.organization_id
        )

    def chapters(self) -> list[object]:
        """Return what has handlers of its own."""
        return [
            *super().chapters(),
            self._service,
            self.assignments,
            self.software,
            self.static_frames,
            self.peers,
            *([] if self._board is None else [self._board]),
        ]

    def groups(self) -> list[Group]:
        """Return the generic groups and those of the executive."""
        own = [] if self._board is None else self._board.groups()
        return [*super().groups(), *executive_groups(self), *own]

    def private_extensions(self) -> Iterable[Row]:
        """Return the private messages of the card."""
        return () if self._board is None else EXTENSIONS

    def reset_state(self) -> None:
        """Forget what the host set up."""
        super().reset_state()
        self.peers.reset_state()
        self.iop_id = self.control.options.iop_id
        self.host_unit_id = self.segment_number = self.init_code = 0
        self.system_table = ()
        self.assignments.reset_state()
        self.software.reset_state()

    # --- messages answered through memory --------------------------------------------------------

    @handles(Function.EXEC_STATUS_GET)
    def status_get(self, request: Request) -> None:
        """Write the status block, its sync byte last. Works in every state."""
        asked = request.fields(messages.EXEC_STATUS_GET)
        address = asked.reply_buffer_address_low | asked.reply_buffer_address_high << 32
        block = self.status_block()
        length = min(asked.reply_buffer_length, len(block))
        if length < len(block):
            self.control.complain(
                f"StatusGet: a buffer of {length} bytes has no room for the sync byte: "
                f"{len(block)} are needed"
            )
        try:
            self.control.dma.write(address, block[: len(block) - 1][:length])
            if length == len(block):
                self.control.dma.write(address + length - 1, block[-1:])
        except DmaFault as fault:
            self.control.complain(f"StatusGet: {fault}")

    @handles(Function.EXEC_IOP_RESET)
    def iop_reset(self, request: Request) -> None:
        """Lose everything and come back in RESET."""
        asked = request.fields(messages.EXEC_IOP_RESET)
        address = asked.status_word_low_address | asked.status_word_high_address << 32
        self.control.reset(hold_ns=round(self.control.options.reset_ms * 1e6))
        self._write_status(
            "IopReset",
            address,
            tables.IOP_RESET_STATUS.build(reset_status=IopResetStatus.IN_PROGRESS.value),
        )

    @handles(Function.EXEC_OUTBOUND_INIT)
    def outbound_init(self, request: Request) -> None:
        """Take the size of the reply frames; those handed in before are forgotten."""
        control = self.control
        asked = request.fields(messages.EXEC_OUTBOUND_INIT)
        try:
            word = messages.EXEC_OUTBOUND_INIT.sgl_word_offset
            buffers = sgl_data.leading_buffers(request, word, control.dma, control.page_size)
            place = _first_piece(buffers)
        except RemoteFrameError as error:
            control.complain(f"OutboundInit: {error}")
            return
        if place is None:
            control.complain("OutboundInit: it has no buffer for the status")
            return
        address, length = place
        if length < tables.OUTBOUND_INIT_STATUS.size:
            control.complain(
                f"OutboundInit: {length} bytes in one piece have no room for the status word"
            )
            return
        words = asked.outbound_msg_frame_size or DEFAULT_REPLY_WORDS
        page_size = asked.host_page_frame_size or DEFAULT_PAGE_SIZE
        status = OutboundInitStatus.COMPLETE
        if words < MIN_REPLY_WORDS:
            control.complain(f"OutboundInit: no reply fits in frames of {words} words")
            status = OutboundInitStatus.REJECTED
        elif page_size & page_size - 1:
            control.complain(f"OutboundInit: a page size of {page_size} is no power of two")
            status = OutboundInitStatus.REJECTED
        else:
            control.init_outbound(words, page_size)
            self.init_code = asked.init_code
        self._write_status(
            "OutboundInit", address, tables.OUTBOUND_INIT_STATUS.build(init_status=status.value)
        )

    def _write_status(self, what: str, address: int, status: bytes) -> None:
        """Write a status word in one go: some hosts take the first value they see."""
        try:
            self.control.dma.write(address, status)
        except DmaFault as fault:
            self.control.complain(f"{what}: the status word: {fault}")

    def status_block(self) -> bytes:
        """Return the 88 bytes of the status block."""
        control = self.control
        unit, options = control.unit, control.options
        return tables.STATUS_BLOCK.build(
            organization_id=options.organization_id,
            iop_id=self.iop_id,
            host_unit_id=self.host_unit_id,
            segment_number=self.segment_number,
            i2o_version=VERSION_1_5,
            iop_state=int(control.state),
            inbound_msg_frame_size=unit.frame_size // 4,
            init_code=self.init_code,
            max_inbound_msg_frames=unit.frame_count,
            current_inbound_msg_frames=unit.frame_count - len(self.static_frames.by_mfa),
            max_outbound_msg_frames=options.outbound_frames,
            product_id_string=options.product.encode("ascii").ljust(24),
            expected_lct_size=control.lct.size,
            iop_capabilities=_PEER_SUPPORT if self._is_in_system else 0,
            sync_byte=tables.SYNC_BYTE_DONE,
        )

    # --- tables --------------------------------------------------------------------------------

    @handles(Function.EXEC_HRT_GET)
    def hrt_get(self, request: Request) -> bytes:
        """Write as much of the hardware resource table as fits."""
        return self._give_table(request, messages.EXEC_HRT_GET.sgl_word_offset, self.hrt())

    def hrt(self) -> bytes:
        """Return the hardware resource table."""
        return hardware_resource_table(self.assignments.adapters, self.control.lct.indicator)

    @handles(Function.EXEC_LCT_NOTIFY)
    def lct_notify(self, request: Request) -> bytes | None:
        """Give the LCT now, or when its change indicator has reached the value asked for."""
        asked = request.fields(messages.EXEC_LCT_NOTIFY)
        if self.control.lct.indicator >= asked.last_reported_change_indicator:
            return self._give_lct(request)
        waiting = [r for r in self.control.scheduler.parked if r.function == request.function]
        if len(waiting) >= MAX_NOTIFIES:
            return request.refuse(DetailedStatus.INSUFFICIENT_RESOURCE_SOFT)
        self.control.scheduler.park(request)
        return None

    def lct_changed(self) -> None:
        """Answer the LctNotifys that have waited for this change."""
        control = self.control
        for request in control.scheduler.parked:
            if request.target != self.tid:
                continue
            asked = request.fields(messages.EXEC_LCT_NOTIFY)
            if control.lct.indicator >= asked.last_reported_change_indicator:
                control.scheduler.unpark(request)
                try:
                    reply = self._give_lct(request)
                except RemoteFrameError as error:
                    reply = self.malformed(request, error)
                control.send(reply)

    def fit_adapter(self, adapter_id: int) -> None:
        """Have one more adapter in the HRT."""
        self.assignments.fit(adapter_id)

    def tell_lct_change(self, event: ExecutiveEvent, device: Ddm) -> None:
        """Tell everybody who waits for a change of the LCT, which is in the table already.

        Args:
            event: NEW_LCT_ENTRY or MODIFIED_LCT.
            device: whose entry it is about.
        """
        self.lct_changed()
        self.control.events.post(self.tid, event, device.lct_entry())

    def _give_lct(self, request: Request) -> bytes:
        asked = request.fields(messages.EXEC_LCT_NOTIFY)
        table = self.control.lct.table(asked.class_identifier)
        # pst walks on until an entry size is not 9, so room behind the table is zeroed
        return self._give_table(
            request, messages.EXEC_LCT_NOTIFY.sgl_word_offset, table, padding=_PAD
        )

    def _give_table(self, request: Request, word: int, table: bytes, *, padding: int = 0) -> bytes:
        control = self.control
        buffers = sgl_data.buffers(request, word, control.dma, control.page_size)
        if not buffers:
            control.complain(f"function {request.function:#04x}: there is no buffer for the table")
            return request.refuse(DetailedStatus.MISSING_PARAMETER)
        sgl_data.scatter(control.dma, buffers[0], table + bytes(padding))
        return request.success()

    @handles(Function.EXEC_SYS_TAB_SET)
    def sys_tab_set(self, request: Request) -> bytes:
        """Take the system table. The buffers behind it come in any shape and are ignored."""
        asked = request.fields(messages.EXEC_SYS_TAB_SET)
        refusal = self._take_system_table(request, messages.EXEC_SYS_TAB_SET.sgl_word_offset)
        if refusal is not None:
            return refusal
        if asked.iop_id:  # NetBSD, OpenBSD and dpt_i2o leave it 0
            self.iop_id = asked.iop_id
        self.host_unit_id, self.segment_number = asked.host_unit_id, asked.segment_number
        if self.control.state == IopState.HOLD:
            self.control.enter(IopState.READY)
        return request.success()

    @handles(Function.EXEC_SYS_MODIFY)
    def sys_modify(self, request: Request) -> bytes:
        """Take another system table while everything goes on."""
        refusal = self._take_system_table(request, messages.EXEC_SYS_MODIFY.sgl_word_offset)
        return request.success() if refusal is None else refusal

    def _take_system_table(self, request: Request, word: int) -> bytes | None:
        """Read the system table of a message; return a refusal if it has none."""
        control = self.control
        buffers = sgl_data.leading_buffers(request, word, control.dma, control.page_size)
        if not buffers:
            control.complain(f"function {request.function:#04x}: there is no system table")
            return request.refuse(DetailedStatus.MISSING_PARAMETER)
        limit = tables.SYSTAB_HEADER.size + _MAX_SYSTEM_TABLE * tables.SYSTAB_IOP_ENTRY.size
        data = sgl_data.gather(control.dma, buffers[0], limit)
        if len(data) < tables.SYSTAB_HEADER.size:
            control.complain(
                f"function {request.function:#04x}: a system table of {len(data)} bytes has no "
                "header"
            )
            return request.refuse(DetailedStatus.MISSING_PARAMETER)
        header = tables.SYSTAB_HEADER.unpack_from(data)
        size = tables.SYSTAB_IOP_ENTRY.size
        entries = range(tables.SYSTAB_HEADER.size, len(data) - size + 1, size)
        if len(entries) < header.number_entries:
            control.complain(
                f"function {request.function:#04x}: the system table says "
                f"{header.number_entries} entries, {len(entries)} fit"
            )
        self.system_table = tuple(
            tables.SYSTAB_IOP_ENTRY.unpack_from(data, place)
            for place in entries[: header.number_entries]
        )
        self.peers.system_table_changed()
        return None

    # --- states --------------------------------------------------------------------------------

    @handles(Function.EXEC_SYS_ENABLE)
    def sys_enable(self, request: Request) -> bytes:
        """Go OPERATIONAL, also without a system table: some drivers never send one."""
        if self.control.state == IopState.OPERATIONAL:
            return request.refuse(DetailedStatus.INVALID_REQUEST)
        self.control.enter(IopState.OPERATIONAL)
        return request.success()

    @handles(Function.EXEC_SYS_QUIESCE)
    def sys_quiesce(self, request: Request) -> bytes:
        """Go back to READY."""
        if self.control.state == IopState.OPERATIONAL:
            self.control.enter(IopState.READY)
        return request.success()

    @handles(Function.EXEC_IOP_CLEAR)
    def iop_clear(self, request: Request) -> bytes:
        """Go back to HOLD; reply frames and the LCT stay."""
        self.control.clear()
        return request.success()

    @handles(Function.EXEC_CONFIG_VALIDATE)
    def config_validate(self, request: Request) -> bytes:
        """Succeed: the configuration is the one that is in force."""
        return request.success()

    # --- the boot device -------------------------------------------------------------------------

    @handles(Function.EXEC_BIOS_INFO_SET)
    def bios_info_set(self, request: Request) -> bytes:
        """Keep the BIOS's note on a device, for its LCT entry."""
        asked = request.fields(messages.EXEC_BIOS_INFO_SET)
        device = self.control.lct.devices.get(asked.device_tid)
        if device is None:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        device.bios_info = asked.bios_info
        return request.success()

    @handles(Function.EXEC_BOOT_DEVICE_SET)
    def boot_device_set(self, request: Request) -> bytes:
        """Keep which device is booted from, for the LCT header."""
        asked = request.fields(messages.EXEC_BOOT_DEVICE_SET)
        if asked.boot_device not in self.control.lct.devices:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        self.control.lct.boot_tid = asked.boot_device
        return request.success()


def _first_piece(buffers: Iterable[SglBuffer]) -> tuple[int, int] | None:
    """Return bus address and length of the first piece of memory."""
    for buffer in buffers:
        for piece in buffer.pieces:
            if isinstance(piece, tuple):
                return piece
    return None
