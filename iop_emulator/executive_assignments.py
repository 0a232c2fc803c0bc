# SPDX-License-Identifier: Apache-2.0
"""The executive's chapter on what belongs to whom: adapters and devices, and their DDMs.

The IOP has one adapter, itself; each bus of a DPT card is one, too. A device that is released has
no driver: requests to it fail with service suspended until it is assigned again.
"""

from __future__ import annotations

from typing import Final

from i2o.frames import executive as messages
from i2o.frames.codec import Record
from i2o.frames.executive import AdapterReadFlags, ExecutiveEvent
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import DetailedStatus, FailureCode, SpecialTid
from i2o.iop_emulator import sgl_data
from i2o.iop_emulator.ddm.base import Ddm
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.iop_control import ExecutiveServices, IopControl
from i2o.iop_emulator.lct import ADAPTER_ID, BUILT_IN_DDM
from i2o.iop_emulator.request import Request

CONFIG_SPACE: Final = 256
_CLASS_CODE: Final = b"\x01\x01\x00\x0e"  # revision 1; an intelligent controller with FIFOs at 0x40


class Assignments:
    """Who controls the adapters, and who drives the devices.

    Args:
        iop: the IOP.
        executive: its executive.

    Attributes:
        adapters: TID of the DDM that controls each adapter, or None, by AdapterID.
    """

    def __init__(self, iop: IopControl, executive: ExecutiveServices) -> None:
        self._iop, self._executive = iop, executive
        self._fitted = [ADAPTER_ID]
        self.adapters: dict[int, int | None] = {ADAPTER_ID: BUILT_IN_DDM}
        self._released: dict[int, int] = {}  # TID of the DDM each device had, by its TID

    def reset_state(self) -> None:
        """Give everything back to the DDM that is built in."""
        self.adapters = dict.fromkeys(self._fitted, BUILT_IN_DDM)
        for tid, ddm in self._released.items():
            if tid in self._iop.lct.devices:
                self._iop.lct.devices[tid].parent_tid = ddm
        self._released.clear()

    def fit(self, adapter_id: int) -> None:
        """Have one more adapter, which the DDM that is built in controls."""
        self._fitted.append(adapter_id)
        self.adapters[adapter_id] = BUILT_IN_DDM

    # --- adapters --------------------------------------------------------------------------------

    @handles(Function.EXEC_ADAPTER_READ)
    def adapter_read(self, request: Request) -> bytes:
        """Read the adapter's configuration registers; it has no others."""
        asked = request.fields(messages.EXEC_ADAPTER_READ)
        if (
            asked.adapter_id not in self.adapters
            or asked.request_flags != AdapterReadFlags.CONFIG_REGISTER
            or asked.offset + asked.length > CONFIG_SPACE
        ):
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        word = messages.EXEC_ADAPTER_READ.sgl_word_offset
        buffers = sgl_data.buffers(request, word, self._iop.dma, self._iop.page_size)
        if not buffers:
            return request.refuse(DetailedStatus.MISSING_PARAMETER)
        if buffers[0].length < asked.length:
            return request.refuse(DetailedStatus.REPLY_BUFFER_FULL)
        registers = self._config_space()[asked.offset : asked.offset + asked.length]
        sgl_data.scatter(self._iop.dma, buffers[0], registers)
        return request.success()

    def _config_space(self) -> bytes:
        identity = self._iop.options.organization_id.to_bytes(2, "little") + bytes(2)
        return (identity + bytes(4) + _CLASS_CODE).ljust(CONFIG_SPACE, b"\0")

    @handles(Function.EXEC_ADAPTER_ASSIGN)
    def adapter_assign(self, request: Request) -> bytes:
        """Give an adapter that nobody controls to a DDM."""
        asked = request.fields(messages.EXEC_ADAPTER_ASSIGN)
        adapter = asked.hrt_entry_adapter_id
        if adapter not in self.adapters or not self._is_ddm(asked.ddm_tid):
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        if self.adapters[adapter] not in (None, asked.ddm_tid):
            return request.refuse(DetailedStatus.DEVICE_BUSY)
        self.adapters[adapter] = asked.ddm_tid
        return request.success()

    @handles(Function.EXEC_ADAPTER_RELEASE)
    def adapter_release(self, request: Request) -> bytes:
        """Take an adapter away from its DDM."""
        adapter = request.fields(messages.EXEC_ADAPTER_RELEASE).hrt_entry_adapter_id
        if adapter not in self.adapters:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        self.adapters[adapter] = None
        return request.success()

    # --- devices ---------------------------------------------------------------------------------

    @handles(Function.EXEC_DEVICE_ASSIGN)
    def device_assign(self, request: Request) -> bytes:
        """Give a device that no DDM drives to one."""
        asked = request.fields(messages.EXEC_DEVICE_ASSIGN)
        device = self._device(asked)
        if device is None or not self._is_ddm(asked.ddm_tid):
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        if device.tid not in self._released:
            if device.parent_tid == asked.ddm_tid:
                return request.success()
            return request.refuse(DetailedStatus.DEVICE_BUSY)
        device.parent_tid = asked.ddm_tid
        if asked.ddm_tid == self._released[device.tid]:
            del self._released[device.tid]
        self._iop.lct.serve(device.tid)
        self._tell(device)
        return request.success()

    @handles(Function.EXEC_DEVICE_RELEASE)
    def device_release(self, request: Request) -> bytes:
        """Take a device away from its DDM: nobody serves it."""
        asked = request.fields(messages.EXEC_DEVICE_RELEASE)
        device = self._device(asked)
        if device is None or asked.ddm_tid != device.parent_tid:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        self._released.setdefault(device.tid, device.parent_tid)
        device.parent_tid = SpecialTid.IOP_EXECUTIVE.value
        self._iop.lct.withhold(device.tid, FailureCode.SERVICE_SUSPENDED.value)
        self._tell(device)
        return request.success()

    def _device(self, asked: Record) -> Ddm | None:
        """Return the device that a message names, if it is one of this IOP's and no DDM."""
        if asked.iop_id not in (0, self._executive.iop_id):
            return None
        device = self._iop.lct.devices.get(asked.device_tid)
        if (
            device is None
            or device.is_remote
            or device.device_class in (DeviceClass.EXECUTIVE, DeviceClass.DDM)
        ):
            return None
        return device

    def _is_ddm(self, tid: int) -> bool:
        ddm = self._iop.lct.devices.get(tid)
        drives = (DeviceClass.DDM, DeviceClass.BUS_ADAPTER_PORT)
        return ddm is not None and ddm.device_class in drives and not ddm.is_remote

    def _tell(self, device: Ddm) -> None:
        device.change_indicator = self._iop.lct.changed()
        self._executive.tell_lct_change(ExecutiveEvent.MODIFIED_LCT, device)
