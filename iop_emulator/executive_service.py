# SPDX-License-Identifier: Apache-2.0
"""The executive's chapter on who is served: devices and paths are quiesced, enabled, taken away.

A device that is quiesced, or whose DDM is suspended, gets no requests: they fail with service
suspended, and what it has already is finished. After DdmDestroy a DDM and its devices are out of
the LCT, and requests to them fail with service terminated until the IOP is reset.

This IOP has one path, the host's. Whichever IOP a message names is therefore the whole path, and it
must be one that exists: this IOP, or one of the system table.
"""

from __future__ import annotations

from i2o.frames import executive as messages
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import DetailedStatus, FailureCode, ReqStatus
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.ddm.base import Ddm
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.iop_control import ExecutiveServices, IopControl
from i2o.iop_emulator.request import Request

SUSPENDED = FailureCode.SERVICE_SUSPENDED.value


class Service:
    """Which devices requests reach.

    Args:
        iop: the IOP.
        executive: its executive.
    """

    def __init__(self, iop: IopControl, executive: ExecutiveServices) -> None:
        self._iop, self._executive = iop, executive

    @handles(Function.EXEC_DDM_QUIESCE)
    def ddm_quiesce(self, request: Request) -> bytes:
        """Hold requests back from a device, or from a DDM and all its devices."""
        devices = self._affected(request.fields(messages.EXEC_DDM_QUIESCE).device_tid)
        if not devices:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        for device in devices:
            self._iop.lct.withhold(device.tid, SUSPENDED)
        return request.success()

    @handles(Function.EXEC_DDM_ENABLE)
    def ddm_enable(self, request: Request) -> bytes:
        """Let requests through again."""
        devices = self._affected(request.fields(messages.EXEC_DDM_ENABLE).device_tid)
        if not devices:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        for device in devices:
            self._iop.lct.serve(device.tid)
        return request.success()

    @handles(Function.EXEC_DDM_RESET)
    def ddm_reset(self, request: Request) -> bytes:
        """Take a device, or a DDM with all of its devices, back to how it started."""
        devices = self._affected(request.fields(messages.EXEC_DDM_RESET).device_tid)
        if not devices:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        for device in devices:
            aborted = self._abort(device)
            device.reset_state()
            self._iop.lct.serve(device.tid)
            self._iop.events.post(
                device.tid, GenericEvent.DEVICE_RESET, aborted.to_bytes(4, "little")
            )
        return request.success()

    @handles(Function.EXEC_DDM_SUSPEND)
    def ddm_suspend(self, request: Request) -> bytes:
        """Hold requests back from a DDM and all its devices."""
        devices = self._of_ddm(request.fields(messages.EXEC_DDM_SUSPEND).ddm_tid)
        if not devices:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        for device in devices:
            self._iop.lct.withhold(device.tid, SUSPENDED)
        return request.success()

    @handles(Function.EXEC_DDM_DESTROY)
    def ddm_destroy(self, request: Request) -> bytes:
        """Unload a DDM: it and its devices leave the LCT, and what they have going on ends."""
        devices = self._of_ddm(request.fields(messages.EXEC_DDM_DESTROY).ddm_tid)
        if not devices:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        lct = self._iop.lct
        for device in devices:
            self._abort(device)
            self._iop.events.forget(device.tid)
            lct.retire(device.tid)
        lct.changed()
        for device in devices:
            self._executive.tell_lct_change(ExecutiveEvent.MODIFIED_LCT, device)
        return request.success()

    @handles(
        Function.EXEC_PATH_QUIESCE,
        Function.EXEC_PATH_ENABLE,
        Function.EXEC_PATH_RESET,
    )
    def path(self, request: Request) -> bytes:
        """Succeed for an IOP that exists: there is nothing on a path but what it has here."""
        asked = request.fields(messages.EXEC_PATH_QUIESCE)
        known = {self._executive.iop_id, *(entry.iop_id for entry in self._executive.system_table)}
        if asked.iop_id not in known:
            self._iop.complain(
                f"function {request.function:#04x} names IOP {asked.iop_id:#05x}, which is neither "
                "this one nor in the system table"
            )
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        return request.success()

    def _affected(self, tid: int) -> list[Ddm]:
        """Return a device, or a DDM and its devices; nothing if there is none such."""
        device = self._iop.lct.devices.get(tid)
        if device is None or device.device_class == DeviceClass.EXECUTIVE:
            return []
        if device.device_class == DeviceClass.DDM and not device.is_remote:
            return self._of_ddm(tid)
        return [device]

    def _of_ddm(self, tid: int) -> list[Ddm]:
        """Return a DDM and the devices behind it; nothing if there is no such DDM."""
        ddm = self._iop.lct.devices.get(tid)
        if ddm is None or ddm.device_class != DeviceClass.DDM or ddm.is_remote:
            return []
        found = [ddm]
        for above in found:  # what is on a bus is behind its port
            found += [
                device
                for device in self._iop.lct
                if device.parent_tid == above.tid and device not in found
            ]
        return found

    @staticmethod
    def _abort(device: Ddm) -> int:
        return device.abort_requests(
            lambda request: request.target == device.tid,
            ReqStatus.PROCESS_ABORT_NO_DATA_TRANSFER,
        )
