# SPDX-License-Identifier: Apache-2.0
"""An IOP that is up, as a program uses it: its tables, parameters, events and devices."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from i2o import config_dialog, parameters
from i2o.block import BlockDevice
from i2o.bring_up import EXECUTIVE_TID
from i2o.closing import Closing
from i2o.config_dialog import Form
from i2o.errors import I2OError, InvalidArgument, ParameterError
from i2o.event_registrations import EventRegistrations
from i2o.events import ALL_EVENTS, EventStream
from i2o.frames import catalog, utility
from i2o.frames.functions import DeviceClass, OrganizationId
from i2o.frames.layout import ParameterGroup
from i2o.frames.params import GROUP_DESCRIPTORS
from i2o.frames.utility import ClaimType
from i2o.lct_watch import LctWatch
from i2o.message_layer import MessageLayer
from i2o.parameters import Value
from i2o.recovery import Ladder, Recovery, ended_early
from i2o.replies import raise_for_status
from i2o.requester import Requester
from i2o.resources import HrtEntry, IopStatus, Lct, LctEntry
from i2o.scsi import ScsiDevice, Via
from i2o.software import Software

if TYPE_CHECKING:
    from i2o.transport.host_memory import HostMemory

logger = logging.getLogger(__name__)

_SCSI_CLASSES: Final = (DeviceClass.SCSI_PERIPHERAL,)
_DPT_CLASSES: Final = (
    DeviceClass.EXECUTIVE,
    DeviceClass.RANDOM_BLOCK_STORAGE,
    DeviceClass.FIBRE_CHANNEL_PERIPHERAL,
    DeviceClass.SCSI_PERIPHERAL,
)
"""Classes of the devices that DPT's private message reaches."""


class Iop(Closing):
    """One IOP of a message layer, brought up.

    Args:
        layer: the message layer.
        number: the IOP's number on it.
        owns_layer: close the whole layer with this object.
        timeout_s: how long a request may take.
        recovery: what to do about one that takes longer; None for nothing.
    """

    def __init__(
        self,
        layer: MessageLayer,
        number: int,
        *,
        owns_layer: bool = False,
        timeout_s: float = 30.0,
        recovery: Recovery | None = None,
    ) -> None:
        self.layer, self.number = layer, number
        self._owns_layer = owns_layer
        self.requester = Requester(layer, number, timeout_s=timeout_s)
        if recovery is not None:
            ladder = Ladder(layer, number, recovery, on_revived=self._claim_again)
            self.requester.on_late = lambda pending: ladder.climb(self.requester, pending)
            self.requester.is_usable = lambda reply: not ended_early(reply)
            self.requester.on_gone = self._come_back
        self._registrations = EventRegistrations(layer, number)
        self._opened: list[BlockDevice | ScsiDevice] = []
        self._claims: dict[int, int] = {}  # claim flags by TID
        self._closed = False

    @property
    def status(self) -> IopStatus:
        """The status block, as last read."""
        return self.layer.result(self.number).status

    @property
    def hrt(self) -> tuple[HrtEntry, ...]:
        """The hardware resource table, as last read."""
        return self.layer.result(self.number).hrt

    @property
    def lct(self) -> Lct:
        """The logical configuration table, as last read."""
        return self.layer.result(self.number).lct

    @property
    def devices(self) -> tuple[LctEntry, ...]:
        """The devices of the table."""
        return self.lct.devices

    @property
    def memory(self) -> HostMemory:
        """Where buffers for this IOP come from."""
        return self.layer.port(self.number).memory

    def refresh(self) -> None:
        """Read status, HRT and LCT again."""
        self.layer.refresh(self.number)

    def device(self, tid: int) -> LctEntry:
        """Return the table entry of a device.

        Raises:
            InvalidArgument: no device has that TID; says which exist.
        """
        for entry in self.devices:
            if entry.tid == tid:
                return entry
        known = ", ".join(f"{entry.tid:#05x} ({entry.class_name})" for entry in self.devices)
        raise InvalidArgument(f"no device has TID {tid:#05x}; there are {known or 'none'}")

    def of_class(self, device_class: int) -> tuple[LctEntry, ...]:
        """Return the devices of one class."""
        return tuple(entry for entry in self.devices if entry.class_id == device_class)

    # --- parameters ----------------------------------------------------------------------------

    def group(self, tid: int, group: int | str | ParameterGroup) -> ParameterGroup:
        """Find the layout of a parameter group by number or name, for the class of a device.

        Raises:
            ParameterError: no layout is known; says which are.
        """
        if isinstance(group, ParameterGroup):
            return group
        device_class = self.device_class(tid)
        if isinstance(group, int):
            found = catalog.group_layout(group, device_class)
            if found is not None:
                return found
        known = self.known_groups(tid)
        for layout in known:
            if group in (layout.name, layout.qualified_name):
                return layout
        shown = f"{group:#06x}" if isinstance(group, int) else repr(group)
        names = ", ".join(f"{layout.number:#06x} {layout.name}" for layout in known)
        raise ParameterError(f"no layout of group {shown} for TID {tid:#05x}; known: {names}")

    def known_groups(self, tid: int) -> tuple[ParameterGroup, ...]:
        """Return every group whose layout applies to the class of a device."""
        device_class = self.device_class(tid)
        return tuple(
            layout
            for layout in catalog.parameter_groups()
            if catalog.group_layout(layout.number, device_class) is layout
        )

    def device_class(self, tid: int) -> int:
        """Return the class of a TID; the Executive's for TID 0."""
        return int(DeviceClass.EXECUTIVE) if tid == EXECUTIVE_TID else self.device(tid).class_id

    def params_get(
        self, tid: int, group: int | str | ParameterGroup, field: str | int | None = None
    ) -> dict[str, Value] | list[dict[str, Value]] | Value:
        """Read parameters.

        Args:
            tid: the device; 0 is the IOP itself.
            group: number, name or layout.
            field: one field of a scalar group, by name or index.

        Returns:
            A dictionary of all fields, a list of them for a table, or the field's value.

        Raises:
            ParameterError: no such group or field on the device.
            RequestFailed, RequestTimeout: the message failed.
        """
        layout = self.group(tid, group)
        if field is not None:
            return parameters.get_field(self.requester, self.memory, tid, layout, field)
        if layout.is_table:
            return parameters.get_table(self.requester, self.memory, tid, layout)
        return parameters.get_group(self.requester, self.memory, tid, layout)

    def params_set(
        self,
        tid: int,
        group: int | str | ParameterGroup,
        values: Mapping[str | int, Value],
    ) -> None:
        """Write fields of a scalar group.

        Raises:
            ParameterError: no such group or field, a value that does not fit, or read-only.
        """
        layout = self.group(tid, group)
        parameters.set_fields(self.requester, self.memory, tid, layout, values)

    def params_groups(self, tid: int) -> list[int]:
        """Return the group numbers that a device says it has (group 0xF000)."""
        rows = parameters.get_table(self.requester, self.memory, tid, GROUP_DESCRIPTORS)
        numbers = (row["group_number"] for row in rows)
        return [number for number in numbers if isinstance(number, int)]

    def config_page(self, tid: int, page: int = 0, form: Form | None = None) -> bytes:
        """Read a page of a device's configuration dialog; see `i2o.config_dialog.fetch_page`."""
        return config_dialog.fetch_page(self.requester, self.memory, tid, page, form)

    def events(
        self,
        tids: Iterable[int] | None = None,
        mask: int = ALL_EVENTS,
        *,
        timeout_s: float | None = None,
    ) -> EventStream:
        """Listen to events; see `i2o.events.EventStream`.

        Args:
            tids: the devices to listen to; None for the executive and every device, new ones
                included.
            mask: the events wanted.
            timeout_s: how long iterating waits for the next event; None for ever.

        Raises:
            InvalidArgument: no event bits or no TIDs are wanted, or the IOP is detached.
            OutOfFrames: the registrations could not be sent.
        """
        return self._registrations.listen(tids, mask, timeout_s=timeout_s)

    def lct_changes(self, *, timeout_s: float | None = None) -> LctWatch:
        """Watch the device table; see `i2o.lct_watch.LctWatch`.

        Args:
            timeout_s: how long iterating waits for the next change; None for ever.
        """
        return LctWatch(self.layer, self.number, self.memory, timeout_s=timeout_s)

    @property
    def software(self) -> Software:
        """The modules that the IOP has stored: list, download, upload and remove them."""
        return Software(self.requester, self.memory)

    # --- devices -------------------------------------------------------------------------------

    def claim(self, tid: int, *, claim_flags: int = 0) -> None:
        """Become the primary user of a device; raises RequestFailed if it has one."""
        message = utility.UTIL_CLAIM.build(
            target_address=tid, claim_flags=claim_flags, claim_type=ClaimType.PRIMARY_USER
        )
        raise_for_status(self.requester.call(message), f"UtilClaim of TID {tid:#05x}")
        self._claims[tid] = claim_flags

    def release(self, tid: int) -> None:
        """Give a claimed device back."""
        self._claims.pop(tid, None)
        message = utility.UTIL_CLAIM_RELEASE.build(
            target_address=tid, claim_type=ClaimType.PRIMARY_USER
        )
        raise_for_status(self.requester.call(message), f"UtilClaimRelease of TID {tid:#05x}")

    def revive(self) -> None:
        """Reset the IOP, bring it up again, and claim what was claimed.

        Requests that are outstanding end with a FAIL reply. For an IOP that reset itself, failed
        or died (`MessageLayer.check` tells).

        Raises:
            IopDead, RequestTimeout, RequestFailed: it does not come up.
        """
        self.layer.revive(self.number)
        self._claim_again()

    def _come_back(self) -> bool:
        """Revive an IOP whose link broke, if its transport can reach it again.

        What was outstanding has its final reply by then. Not from a callback, which cannot wait.
        """
        if not self.layer.may_revive(self.number):
            return False
        logger.warning("IOP %d: it was gone: reviving it", self.number)
        self.revive()
        return True

    def _claim_again(self) -> None:
        """Claim what the reset of the IOP has given back; a device may be gone."""
        for tid, claim_flags in tuple(self._claims.items()):
            try:
                self.claim(tid, claim_flags=claim_flags)
            except I2OError as error:
                logger.warning("IOP %d: TID %#05x is not ours again: %s", self.number, tid, error)

    def _give_back(self, tid: int) -> None:
        """Release a claim; that it is gone already (a reset ends claims) is no error."""
        try:
            self.release(tid)
        except I2OError as error:
            logger.info("IOP %d: claim of TID %#05x: %s", self.number, tid, error)

    def block(self, tid: int | None = None, *, claim: bool = True) -> BlockDevice:
        """Open a block device.

        Args:
            tid: its TID; the first block device if None.
            claim: become its primary user, and give it back on close.

        Raises:
            InvalidArgument: there is no such block device.
            RequestFailed: it has a primary user already, or does not tell its size.
        """
        if tid is None:
            disks = self.of_class(DeviceClass.RANDOM_BLOCK_STORAGE)
            if not disks:
                raise InvalidArgument("the IOP has no block device")
            tid = disks[0].tid
        entry = self.device(tid)
        if entry.class_id != DeviceClass.RANDOM_BLOCK_STORAGE:
            raise InvalidArgument(
                f"TID {tid:#05x} is a {entry.class_name}, not a random_block_storage device"
            )
        if claim:
            self.claim(tid)
        try:
            device = BlockDevice(
                self.requester,
                self.memory,
                tid,
                frame_size=self.layer.inbound_frame_size(self.number),
                limits=self.layer.request_limits(self.number),
                on_close=(lambda: self._give_back(tid)) if claim else None,
            )
        except BaseException:
            if claim:
                self._give_back(tid)
            raise
        self._opened.append(device)
        return device

    def scsi(
        self, tid: int | None = None, *, via: Via | None = None, claim: bool = True
    ) -> ScsiDevice:
        """Open a SCSI device.

        Args:
            tid: its TID; the first SCSI peripheral if None. 0 is the board of a DPT card.
            via: how commands go: `scb` for ScsiScbExec, `private` for DPT's private message; the
                one that fits the organization of the device if None.
            claim: become its primary user, and give it back on close.

        Raises:
            InvalidArgument: there is no such device, or it has no SCSI commands.
            RequestFailed: it has a primary user already.
        """
        if tid is None:
            peripherals = self.of_class(DeviceClass.SCSI_PERIPHERAL)
            if not peripherals:
                raise InvalidArgument("the IOP has no SCSI peripheral")
            tid = peripherals[0].tid
        device_class = self.device_class(tid)
        organization = self.status.organization_id
        if tid != EXECUTIVE_TID:
            organization = self.device(tid).organization_id or organization
        if via is None:
            via = "private" if organization == OrganizationId.DPT_ADAPTEC else "scb"
        if device_class not in (_SCSI_CLASSES if via == "scb" else _DPT_CLASSES):
            raise InvalidArgument(f"TID {tid:#05x} takes no SCSI commands as {via} messages")
        is_claimed = claim and tid != EXECUTIVE_TID
        if is_claimed:
            self.claim(tid)
        device = ScsiDevice(
            self.requester,
            self.memory,
            tid,
            via=via,
            frame_size=self.layer.inbound_frame_size(self.number),
            on_close=(lambda: self._give_back(tid)) if is_claimed else None,
        )
        self._opened.append(device)
        return device

    def close(self) -> None:
        """Close its devices, detach the IOP, and close the layer if it was made for this."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as stack:  # last in, first out, whatever raises
            stack.callback(self.requester.close)
            stack.callback(self._registrations.close)
            stack.callback(
                self.layer.close if self._owns_layer else lambda: self.layer.detach(self.number)
            )
            for device in self._opened:
                stack.callback(device.close)
