# SPDX-License-Identifier: Apache-2.0
"""What every device of an IOP answers: utility messages, claims, locks, generic parameters.

A device class is a subclass with more `@handles` methods and more groups. Handlers return the
reply, or None when there is none yet (the IOP's `send` takes later ones).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from i2o.errors import DmaFault, RemoteFrameError
from i2o.frames import params, utility
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import DetailedStatus, ReqStatus, SpecialTid
from i2o.frames.sgl_walk import SglError
from i2o.frames.tables import LCT_ENTRY, LctDeviceFlags, SerialFormat
from i2o.frames.utility import AbortType, ClaimType, GenericEvent, ReleaseFlags
from i2o.iop_emulator import sgl_data
from i2o.iop_emulator.cards import Card
from i2o.iop_emulator.ddm.config_dialog import ConfigDialog
from i2o.iop_emulator.events import EventBook
from i2o.iop_emulator.handlers import bind_handlers, handles
from i2o.iop_emulator.parameter_groups import Group, Row, ScalarGroup, TableGroup, describe
from i2o.iop_emulator.parameters import MAX_OPERATIONS_SIZE, ParameterEngine
from i2o.iop_emulator.request import Request
from i2o.iop_emulator.scheduler import Scheduler
from i2o.transport.device_unit import DmaSpace

Handler = Callable[[Request], bytes | None]

MAX_USERS: Final = 16
MAX_CHAIN_BYTES: Final = 1 << 16
"""Longest chained scatter/gather list that group 0xF103 promises."""
MAX_FRAGMENTS: Final = 1024
"""Elements of a scatter/gather list that group 0xF103 promises."""
GENERIC_EVENTS: Final = (
    GenericEvent.LOCK_RELEASE
    | GenericEvent.DEVICE_RESET
    | GenericEvent.EVENT_MASK_MODIFIED
    | GenericEvent.FIELD_MODIFIED
)
_CLASS_VERSION_1_5: Final = 1
_CLEAN_ABORT: Final = 0x04  # of an abort type: what has begun may finish
_ABORT_SCOPE: Final = 0x03


class IopServices(Protocol):
    """What a device may ask of its IOP."""

    dma: DmaSpace
    page_size: int
    events: EventBook
    scheduler: Scheduler
    card: Card

    def send(self, reply: bytes) -> None:
        """Send a reply, now or when a reply frame is free."""

    def complain(self, sentence: str) -> None:
        """Tell the driver's author what was wrong."""

    def adapters_of(self, tid: int) -> list[int]:
        """Return the AdapterIDs that a DDM controls."""


@dataclass(slots=True)
class Claim:
    """One user of a device.

    Attributes:
        tid: who.
        claim_type: a `ClaimType`.
        flags: claim flags.
    """

    tid: int
    claim_type: int
    flags: int


class Ddm:
    """A device without a class of its own: it answers utility messages.

    Args:
        iop: the IOP it is part of.
        tid: its TID.
        parent_tid: TID of what it is connected through.
        name: what it is, for the identity groups.
        serial: serial number, ASCII.
        sub_class: SubClassInfo of its LCT entry.
    """

    device_class: int = DeviceClass.DDM.value
    is_remote: ClassVar[bool] = False
    class_events: ClassVar[int] = 0

    def __init__(
        self,
        iop: IopServices,
        tid: int,
        *,
        parent_tid: int = SpecialTid.IOP_EXECUTIVE,
        name: str = "",
        serial: str = "",
        organization_id: int = 0,
        sub_class: int = 0,
    ) -> None:
        self.iop, self.tid, self.parent_tid = iop, tid, parent_tid
        self.name, self.serial = name, serial
        self.organization_id, self.sub_class = organization_id, sub_class
        self.change_indicator = 0
        self.bios_info = 0
        self.claims: list[Claim] = []
        self.authorized: list[int] = []
        self.lock_holder: int | None = None
        self.reserve_holder: int | None = None
        self.user_information: dict[str, int | bytes] = {"device_name": _text(name, 64)}
        self.parameters = ParameterEngine(self._with_descriptors(self.groups()))
        self.dispatch: dict[int, Handler] = bind_handlers(self)
        for chapter in self.chapters():
            self.dispatch.update(bind_handlers(chapter))

    # --- what subclasses add to ----------------------------------------------------------------

    def chapters(self) -> list[object]:
        """Return the objects whose `@handles` methods serve this device besides its own."""
        return [ConfigDialog(self)]

    def groups(self) -> list[Group]:
        """Return the parameter groups, those of the class included."""
        return [
            TableGroup(
                params.PHYSICAL_DEVICE_TABLE,
                lambda: [{"adapter_id": adapter} for adapter in self.iop.adapters_of(self.tid)],
            ),
            TableGroup(params.CLAIMED_TABLE, tuple),
            TableGroup(params.USER_TABLE, self._user_rows),
            TableGroup(params.PRIVATE_MESSAGE_EXTENSIONS, self._private_rows),
            TableGroup(
                params.AUTHORIZED_USER_TABLE,
                lambda: [{"alternate_tid": tid} for tid in self.authorized],
                add=self._authorize,
                delete=self._withdraw,
                clear=lambda: self.authorized.clear(),
            ),
            ScalarGroup(params.DEVICE_IDENTITY, self._identity),
            ScalarGroup(
                params.USER_INFORMATION,
                lambda: self.user_information,
                write=self.user_information.__setitem__,
                writeable=("device_name", "service_name", "physical_location"),
            ),
            ScalarGroup(params.DDM_IDENTITY, self._ddm_identity),
            ScalarGroup(params.SGL_OPERATING_LIMITS, _sgl_limits),
            TableGroup(params.SENSORS, tuple),
        ]

    def private_extensions(self) -> Iterable[Row]:
        """Return the private messages that this device understands."""
        return ()

    def reset_state(self) -> None:
        """Forget everything the host did: claims, locks, places in tables."""
        self.claims.clear()
        self.authorized.clear()
        self.lock_holder = self.reserve_holder = None
        self.parameters.forget_cursors()

    def forget_user(self, tid: int) -> None:
        """End the claims, lock, reservation and place in a table of an initiator that is gone."""
        self.claims = [claim for claim in self.claims if claim.tid != tid]
        self.lock_holder = None if self.lock_holder == tid else self.lock_holder
        self.reserve_holder = None if self.reserve_holder == tid else self.reserve_holder
        self.parameters.set_cursor(tid, None)

    def error(self, request: Request, req_status: int, detail: int) -> bytes:
        """Return an error reply in the form of this class."""
        return request.status(req_status, detail)

    def unsupported(self, request: Request) -> bytes:
        """Answer a function that this device does not have."""
        self.iop.complain(
            f"function {request.function:#04x} was sent to TID {self.tid:#05x}, "
            f"which does not have it"
        )
        return self.error(
            request, ReqStatus.ERROR_NO_DATA_TRANSFER, DetailedStatus.UNSUPPORTED_FUNCTION
        )

    def malformed(self, request: Request, error: RemoteFrameError) -> bytes:
        """Answer a request whose scatter/gather list cannot be used, and complain."""
        self.iop.complain(
            f"function {request.function:#04x} to TID {self.tid:#05x} "
            f"(transaction context {request.transaction_context:#010x}): {error}"
        )
        if isinstance(error, DmaFault):
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        offset = error.offset if isinstance(error, SglError) else None
        if offset is None:
            offset = request.frame[0] >> 2 & 0x3C  # where the header says that the list is
        return request.transaction_error(offset, DetailedStatus.INVALID_OFFSET)

    # --- the LCT entry -------------------------------------------------------------------------

    @property
    def user_tid(self) -> int:
        """UserTID of the LCT entry: the primary user, or nobody."""
        for claim in self.claims:
            if claim.claim_type == ClaimType.PRIMARY_USER:
                return claim.tid
        return SpecialTid.NO_USER

    @property
    def device_flags(self) -> int:
        """DeviceFlags of the LCT entry."""
        return LctDeviceFlags.MORE_THAN_1_USER.value if len(self.claims) > 1 else 0

    @property
    def event_capabilities(self) -> int:
        """Events that can be registered for."""
        return int(GENERIC_EVENTS) | self.class_events

    @property
    def class_id(self) -> int:
        """The ClassID word."""
        return self.device_class | _CLASS_VERSION_1_5 << 12 | self.organization_id << 16

    def lct_entry(self) -> bytes:
        """Return the LCT entry."""
        return LCT_ENTRY.build(
            local_tid=self.tid,
            change_indicator=self.change_indicator,
            device_flags=self.device_flags,
            class_id_class=self.device_class,
            class_id_version=_CLASS_VERSION_1_5,
            class_id_organization_id=self.organization_id,
            sub_class_info=self.sub_class,
            user_tid=self.user_tid,
            parent_tid=self.parent_tid,
            bios_info=self.bios_info,
            identity_tag=self.identity_tag,
            event_capabilities=self.event_capabilities,
        )

    @property
    def identity_tag(self) -> bytes:
        """8 bytes that tell devices apart."""
        return _text(self.serial or self.name, 8)

    # --- utility messages ----------------------------------------------------------------------

    @handles(Function.UTIL_NOP)
    def nop(self, request: Request) -> None:
        """Do nothing: the frame went home already."""

    @handles(Function.UTIL_ABORT)
    def abort(self, request: Request) -> bytes:
        """Take back requests that are not answered yet, and say how many those were."""
        asked = request.fields(utility.UTIL_ABORT)
        if asked.abort_type > AbortType.CLEAN_WILD_ABORT:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        kind = asked.abort_type & _ABORT_SCOPE
        function, context = asked.function_to_abort, asked.transaction_context_to_abort

        def matches(other: Request) -> bool:
            if other.target != self.tid or other.initiator != request.initiator:
                return False
            same_function = other.function == function
            same_context = other.transaction_context == context
            return (
                (same_function and same_context)
                if kind == AbortType.EXACT_ABORT
                else same_function
                if kind == AbortType.FUNCTION_ABORT
                else same_context
                if kind == AbortType.TRANSACTION_ABORT
                else True
            )

        count = self.abort_requests(
            matches,
            ReqStatus.ABORT_NO_DATA_TRANSFER,
            may_be_begun=not asked.abort_type & _CLEAN_ABORT,
        )
        return request.answer(utility.UTIL_ABORT_REPLY, count_of_aborted_messages=count)

    def abort_requests(
        self,
        matches: Callable[[Request], bool],
        req_status: int,
        *,
        may_be_begun: bool = True,
    ) -> int:
        """Take back matching requests, answer each as aborted, and return how many.

        Args:
            matches: says which.
            req_status: what they are answered with.
            may_be_begun: also those whose operation has begun already.
        """
        taken = self.iop.scheduler.take_back(matches, may_be_begun=may_be_begun)
        for request in taken:
            self.forget(request)
            if request.wants_reply:
                self.iop.send(self.aborted(request, req_status))
        return len(taken)

    def forget(self, request: Request) -> None:
        """A request that waited is gone, and this device is not to answer it any more."""

    def aborted(self, request: Request, req_status: int) -> bytes:
        """Return the reply to a request that was taken back."""
        return request.status(req_status, DetailedStatus.SUCCESS)

    @handles(Function.UTIL_PARAMS_GET)
    def params_get(self, request: Request) -> bytes:
        """Read parameters."""
        return self._params(request, may_set=False)

    @handles(Function.UTIL_PARAMS_SET)
    def params_set(self, request: Request) -> bytes:
        """Change parameters."""
        return self._params(request, may_set=True)

    def _params(self, request: Request, *, may_set: bool) -> bytes:
        iop = self.iop
        word = utility.UTIL_PARAMS_GET.sgl_word_offset
        buffers = sgl_data.buffers(request, word, iop.dma, iop.page_size)
        if not buffers or (len(buffers) < 2 and not may_set):
            what = "operation list" if not buffers else "result buffer"
            iop.complain(f"parameters of TID {self.tid:#05x}: the request has no {what}")
            return request.refuse(DetailedStatus.MISSING_PARAMETER)
        operations = sgl_data.gather(iop.dma, buffers[0], MAX_OPERATIONS_SIZE)
        results = buffers[1] if len(buffers) > 1 else None
        capacity = results.length if results is not None else 0
        outcome = self.parameters.run(operations, capacity, request.initiator, may_set=may_set)
        if results is not None:
            sgl_data.scatter(iop.dma, results, outcome.results)
        for number in outcome.modified:
            iop.events.post(self.tid, GenericEvent.FIELD_MODIFIED, number.to_bytes(4, "little"))
        return request.status(outcome.req_status, outcome.detail)

    @handles(Function.UTIL_CLAIM)
    def claim(self, request: Request) -> bytes:
        """Register a user; there is one primary user, and an exclusive one is alone."""
        asked = request.fields(utility.UTIL_CLAIM)
        claim_type = asked.claim_type or ClaimType.PRIMARY_USER.value
        if claim_type == ClaimType.PRIMARY_USER and self.user_tid != SpecialTid.NO_USER:
            self.iop.complain(
                f"TID {self.tid:#05x} is claimed by TID {self.user_tid:#05x} already: two drivers "
                "for one device, or a claim without a release"
            )
            return request.refuse(DetailedStatus.DEVICE_BUSY)
        if len(self.claims) >= MAX_USERS:
            return request.refuse(DetailedStatus.INSUFFICIENT_RESOURCE_SOFT)
        self.claims.append(Claim(request.initiator, claim_type, asked.claim_flags))
        return request.success()

    @handles(Function.UTIL_CLAIM_RELEASE)
    def claim_release(self, request: Request) -> bytes:
        """Remove a user."""
        asked = request.fields(utility.UTIL_CLAIM_RELEASE)
        claim_type = asked.claim_type or ClaimType.PRIMARY_USER.value
        if asked.release_flags & ReleaseFlags.CONDITIONAL and self._is_busy(request.initiator):
            return request.refuse(DetailedStatus.DEVICE_BUSY)
        for claim in self.claims:
            if (claim.tid, claim.claim_type) == (request.initiator, claim_type):
                self.claims.remove(claim)
                return request.success()
        self.iop.complain(
            f"TID {request.initiator:#05x} releases TID {self.tid:#05x}, which it did not claim"
        )
        return request.refuse(DetailedStatus.INVALID_REQUEST)

    def _is_busy(self, initiator: int) -> bool:
        """Whether requests of an initiator are not answered yet."""
        return self.iop.scheduler.any(
            lambda other: (other.target, other.initiator) == (self.tid, initiator)
        )

    @handles(Function.UTIL_EVENT_REGISTER)
    def event_register(self, request: Request) -> None:
        """Put an event mask in force. There is no answer but the events."""
        asked = request.fields(utility.UTIL_EVENT_REGISTER)
        self.iop.events.register(request, asked.event_mask & self.event_capabilities)

    @handles(Function.UTIL_EVENT_ACK)
    def event_ack(self, request: Request) -> bytes:
        """Repeat the indicator and its data."""
        asked = request.fields(utility.UTIL_EVENT_ACK)
        return request.answer(
            utility.UTIL_EVENT_ACK_REPLY,
            event_indicator=asked.event_indicator,
            event_data=asked.event_data,
        )

    @handles(Function.UTIL_LOCK)
    def lock(self, request: Request) -> bytes:
        """Lock the device for one initiator."""
        if self.lock_holder not in (None, request.initiator):
            return request.refuse(DetailedStatus.DEVICE_LOCKED)
        self.lock_holder = request.initiator
        return request.success()

    @handles(Function.UTIL_LOCK_RELEASE)
    def lock_release(self, request: Request) -> bytes:
        """Unlock the device and tell those who wait for it."""
        if self.lock_holder == request.initiator:
            self.lock_holder = None
            self.iop.events.post(self.tid, GenericEvent.LOCK_RELEASE, b"")
        return request.success()

    @handles(Function.UTIL_DEVICE_RESERVE)
    def reserve(self, request: Request) -> bytes:
        """Reserve the device for one initiator."""
        if self.reserve_holder not in (None, request.initiator):
            return request.refuse(DetailedStatus.DEVICE_NOT_AVAILABLE)
        self.reserve_holder = request.initiator
        return request.success()

    @handles(Function.UTIL_DEVICE_RELEASE)
    def release(self, request: Request) -> bytes:
        """End a reservation."""
        if self.reserve_holder == request.initiator:
            self.reserve_holder = None
        return request.success()

    @handles(Function.UTIL_REPLY_FAULT_NOTIFY)
    def reply_fault_notify(self, request: Request) -> bytes:
        """Take note that a reply could not be delivered on the host's side."""
        told = request.fields(utility.UTIL_REPLY_FAULT_NOTIFY)
        self.iop.complain(
            f"the host could not deliver a reply of TID {self.tid:#05x}: failure code "
            f"{told.failure_code:#04x}"
        )
        return request.success()

    # --- generic parameter groups --------------------------------------------------------------

    def _with_descriptors(self, own: list[Group]) -> list[Group]:
        descriptors = TableGroup(
            params.GROUP_DESCRIPTORS,
            lambda: (
                [describe(group) for group in self.parameters.groups if group is not descriptors]
                + [self._descriptors_row(len(self.parameters.groups))]
            ),
        )
        return [*own, descriptors]

    @staticmethod
    def _descriptors_row(count: int) -> Row:
        layout = params.GROUP_DESCRIPTORS
        return {
            "group_number": layout.number,
            "field_count": len(layout.fields),
            "row_count": count,
            "properties": params.GroupProperties.GROUP_TABLE.value,
        }

    def _user_rows(self) -> Iterable[Row]:
        return [
            {"instance": number, "user_tid": claim.tid, "claim_type": claim.claim_type}
            for number, claim in enumerate(self.claims)
        ]

    def _private_rows(self) -> Iterable[Row]:
        return [
            {"ext_instance": number, **row} for number, row in enumerate(self.private_extensions())
        ]

    def _authorize(self, row: Row) -> None:
        tid = row["alternate_tid"]
        if not isinstance(tid, int) or tid > 0xFFF or tid in self.authorized:
            raise ValueError(tid)
        if len(self.authorized) >= MAX_USERS:
            raise ValueError("too many users")
        self.authorized.append(tid)

    def _withdraw(self, key: int | bytes) -> None:
        self.authorized = [tid for tid in self.authorized if tid != key]

    def _identity(self) -> Row:
        return {
            "class_id": self.class_id,
            "owner_tid": self.tid,
            "parent_tid": self.parent_tid,
            "vendor_info": _text(self.iop.card.vendor, 16),
            "product_info": _text("software IOP", 16),
            "description": _text(self.name, 16),
            "product_rev_level": _text("1", 8),
            "sn_format": (SerialFormat.ASCII if self.serial else SerialFormat.UNKNOWN).value,
            "serial_number": self.serial.encode("ascii").ljust(256, b"\0"),
        }

    def _ddm_identity(self) -> Row:
        """The DDM behind the device: itself, or what it is connected through."""
        is_module = self.device_class in (DeviceClass.EXECUTIVE, DeviceClass.DDM)
        return {
            "ddm_tid": self.tid if is_module else self.parent_tid,
            "module_name": _text(self.name if is_module else "", 24),
            "module_rev_level": _text("1", 8),
            "sn_format": SerialFormat.UNKNOWN.value,
        }


def _sgl_limits() -> Row:
    chain = dict.fromkeys(
        ("sgl_chain_size", "sgl_chain_size_max", "sgl_chain_size_target"), MAX_CHAIN_BYTES
    )
    fragments = dict.fromkeys(
        ("sgl_frag_count", "sgl_frag_count_max", "sgl_frag_count_target"), MAX_FRAGMENTS
    )
    return {**chain, **fragments}


def _text(text: str, size: int) -> bytes:
    """Return text as a field of a fixed size: ASCII, cut or padded with spaces."""
    return text.encode("ascii", "replace")[:size].ljust(size)
