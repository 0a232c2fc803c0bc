# SPDX-License-Identifier: Apache-2.0
"""A SCSI peripheral (class 0x051): a SCSI disk at an address of a bus adapter port."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from i2o.errors import DmaFault, RemoteFrameError
from i2o.frames import scsi
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import DetailedStatus, ReqStatus
from i2o.frames.layout import MessageLayout
from i2o.frames.scsi import ScsiHbaStatus
from i2o.frames.sgl_walk import SglError
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.block_store import BlockStore
from i2o.iop_emulator.ddm.base import IopServices
from i2o.iop_emulator.ddm.bus_adapter import LUN, QUEUE_DEPTH, BusAdapter, port_row
from i2o.iop_emulator.ddm.disk import Disk
from i2o.iop_emulator.ddm.dpt import EXTENSIONS, DptDevice, device_group
from i2o.iop_emulator.ddm.scb import execute_scb, scb_reply
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.parameter_groups import Group, Row, ScalarGroup
from i2o.iop_emulator.request import Request
from i2o.iop_emulator.scsi.direct_access import MAX_BLOCKS, DirectAccessUnit
from i2o.iop_emulator.scsi.inquiry import Identity
from i2o.iop_emulator.scsi.sense import AdditionalSense

_SCSI_FUNCTIONS: Final = frozenset(
    (Function.SCSI_SCB_EXEC.value, Function.SCSI_SCB_ABORT.value, Function.PRIVATE_MESSAGE.value)
)
_WIDE: Final = 16
_OFFSET: Final = 31
_RATE: Final = 80_000_000


class ScsiPeripheral(Disk):
    """One disk.

    Args:
        iop: the IOP it is part of.
        tid: its TID.
        store: its blocks.
        port: the bus that it is on.
        scsi_id: its address there.
        organization_id: organization in its ClassID.

    Attributes:
        port: the bus that it is on.
        scsi_id: its address there.
        unit: what does the commands.
    """

    device_class = DeviceClass.SCSI_PERIPHERAL.value

    def __init__(
        self,
        iop: IopServices,
        tid: int,
        store: BlockStore,
        *,
        port: BusAdapter,
        scsi_id: int,
        organization_id: int,
    ) -> None:
        self.store, self.port, self.scsi_id, self._card = store, port, scsi_id, iop.card
        self.unit = DirectAccessUnit(
            Identity(
                vendor=iop.card.vendor.upper(),
                product="SOFTWARE DISK",
                is_removable=store.removable,
            ),
            store,
            max_blocks=iop.card.max_sectors or MAX_BLOCKS,
        )
        super().__init__(
            iop,
            tid,
            parent_tid=port.tid,
            name=store.description.rpartition("/")[2],
            serial=store.serial,
            organization_id=organization_id,
        )

    def chapters(self) -> list[object]:
        """Return what has handlers of its own."""
        own = super().chapters()
        return [*own, DptDevice(self, self)] if self._card.has_dpt_messages else own

    def groups(self) -> list[Group]:
        """Return the generic groups and those of the class."""
        own: list[Group] = [
            ScalarGroup(scsi.SCSI_DEVICE_INFO, self._device_info),
            ScalarGroup(scsi.SCSI_BUS_PORT_INFO, port_row),
        ]
        if self._card.has_dpt_messages:
            kind = self.unit.identity.device_type
            own.append(device_group(self.port.number, self.scsi_id, self.unit.lun, kind))
        return [*super().groups(), *own]

    def private_extensions(self) -> Iterable[Row]:
        """Return the private messages that it understands."""
        return EXTENSIONS if self._card.has_dpt_messages else ()

    def reset_state(self) -> None:
        """Forget claims and locks; the unit starts again."""
        super().reset_state()
        self.unit.reset(AdditionalSense.POWER_ON_OCCURRED)

    def error(self, request: Request, req_status: int, detail: int) -> bytes:
        """Return an error reply: of 6 words for an SCB."""
        is_known = detail != DetailedStatus.UNSUPPORTED_FUNCTION
        if request.function in _SCSI_FUNCTIONS and is_known:
            return scb_reply(request, detail & 0xFF00, detail & 0xFF, req_status=req_status)
        return super().error(request, req_status, detail)

    def malformed(self, request: Request, error: RemoteFrameError) -> bytes:
        """Answer an SCB whose data cannot be reached, with codes of this class."""
        reply = super().malformed(request, error)
        if request.function not in _SCSI_FUNCTIONS:
            return reply
        if isinstance(error, SglError) and error.offset is not None:
            return request.transaction_error(error.offset, ScsiHbaStatus.REQUEST_INVALID)
        is_fault = isinstance(error, DmaFault)
        return scb_reply(
            request,
            ScsiHbaStatus.PROVIDE_FAILURE if is_fault else ScsiHbaStatus.REQUEST_INVALID,
        )

    def aborted(self, request: Request, req_status: int) -> bytes:
        """Return the reply to a request that was taken back."""
        if request.function in _SCSI_FUNCTIONS:
            return scb_reply(request, ScsiHbaStatus.REQUEST_ABORTED, req_status=req_status)
        return super().aborted(request, req_status)

    # --- messages --------------------------------------------------------------------------------

    @handles(Function.SCSI_SCB_EXEC)
    def scb_exec(self, request: Request) -> bytes:
        """Do a SCSI command."""
        return self.execute(request, scsi.SCSI_SCB_EXEC)

    def execute(self, request: Request, layout: MessageLayout) -> bytes:
        """Do the SCSI command of a message with an SCB, unless the bus is quiesced."""
        if self.port.is_quiesced:
            return scb_reply(request, ScsiHbaStatus.QUEUE_FROZEN)
        return execute_scb(self.iop, request, self.unit, layout)

    @handles(Function.SCSI_SCB_ABORT)
    def scb_abort(self, request: Request) -> bytes:
        """Take one SCB back, and answer it as aborted."""
        context = request.fields(scsi.SCSI_SCB_ABORT).transaction_context_to_abort
        count = self.abort_requests(
            lambda other: (
                other.target == self.tid
                and other.initiator == request.initiator
                and other.transaction_context == context
                and other.function in _SCSI_FUNCTIONS
            ),
            ReqStatus.ABORT_NO_DATA_TRANSFER,
        )
        if not count:
            return scb_reply(request, ScsiHbaStatus.UNABLE_TO_ABORT)
        return request.success()

    @handles(Function.SCSI_DEVICE_RESET)
    def device_reset(self, request: Request) -> bytes:
        """Take back everything that is not answered yet; the unit starts again."""
        self.restart(AdditionalSense.BUS_DEVICE_RESET_OCCURRED)
        return request.success()

    def restart(self, code: AdditionalSense) -> None:
        """Be reset, and tell those who registered."""
        aborted = self.abort_requests(
            lambda other: other.target == self.tid, ReqStatus.ABORT_NO_DATA_TRANSFER
        )
        self.unit.reset(code)
        self.iop.events.post(self.tid, GenericEvent.DEVICE_RESET, aborted.to_bytes(4, "little"))

    # --- the medium ------------------------------------------------------------------------------

    @property
    def is_removable(self) -> bool:
        """Whether the medium can be taken out."""
        return self.unit.identity.is_removable

    @property
    def is_loaded(self) -> bool:
        """Whether a medium is in."""
        return self.unit.is_loaded

    @property
    def is_locked(self) -> bool:
        """Whether the host wants the medium to stay in."""
        return self.unit.is_prevented

    @property
    def is_changed(self) -> bool:
        """Never: the unit attention of the next command is how the host is told."""
        return False

    def put_in(self, store: BlockStore) -> None:
        """Have other blocks from now on, of another medium."""
        self.store = store
        self.unit.put_in(store)

    def resized(self) -> None:
        """Have the host told with the next command."""
        self.unit.attend(AdditionalSense.CAPACITY_DATA_HAS_CHANGED)

    def unlock(self) -> None:
        """Let the medium out, whatever the host wants."""
        self.unit.is_prevented = False

    def load(self, is_loaded: bool = True) -> None:
        """Load the medium if there is one, or unload it."""
        self.unit.load(is_loaded)

    def require_note(self, is_changed: bool) -> None:
        """Do nothing: loading a medium makes the unit attention."""

    def ask_for_medium(self) -> None:
        """Have the host told with the next command."""
        self.unit.attend(AdditionalSense.OPERATOR_MEDIUM_REMOVAL_REQUEST)

    # --- parameter groups ------------------------------------------------------------------------

    def _device_info(self) -> Row:
        return {
            "device_type": self.unit.identity.device_type.value,
            "identifier": self.scsi_id,
            "lun_info": LUN,
            "queue_depth": QUEUE_DEPTH,
            "neg_offset": _OFFSET,
            "neg_data_width": _WIDE,
            "neg_sync_rate": _RATE,
        }
