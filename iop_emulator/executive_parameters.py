# SPDX-License-Identifier: Apache-2.0
"""Parameter groups of TID 0, read off the IOP as it is now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from i2o.frames import executive_groups as groups
from i2o.frames.codec import Record
from i2o.frames.executive_groups import (
    DdmModuleType,
    IopBusAttribute,
    IopHwCapabilities,
    IopProcessorType,
    IopSwCapabilities,
)
from i2o.frames.functions import DeviceClass
from i2o.frames.header import SpecialTid
from i2o.frames.tables import BusType
from i2o.iop_emulator.executive_assignments import Assignments
from i2o.iop_emulator.executive_software import Software
from i2o.iop_emulator.iop_control import IopControl
from i2o.iop_emulator.lct import adapter_state
from i2o.iop_emulator.parameter_groups import Group, Row, ScalarGroup, TableGroup
from i2o.iop_emulator.peers import Peers
from i2o.iop_emulator.software_store import MAX_MODULES, MAX_SIZE
from i2o.iop_emulator.static_frames import MAX_INSTANCES, StaticFrames

_MEMORY: Final = 64 << 20
_EMBEDDED: Final = DdmModuleType.EMBEDDED.value
_DOWNLOADED: Final = DdmModuleType.DOWNLOAD.value
_NO_USER: Final = SpecialTid.NO_USER.value
_MIN_FRAME: Final = 64
_MAX_FRAME: Final = 0xFFFF * 4


class ExecutiveState(Protocol):
    """What the groups show of an executive."""

    control: IopControl
    assignments: Assignments
    software: Software
    static_frames: StaticFrames
    peers: Peers
    init_code: int
    system_table: tuple[Record, ...]


def executive_groups(executive: ExecutiveState) -> list[Group]:
    """Return the groups 0x0000 to 0x0007 and 0x0100 to 0x0104."""
    values = _Values(executive)
    return [
        ScalarGroup(groups.EXEC_IOP_HARDWARE, values.hardware),
        ScalarGroup(
            groups.EXEC_IOP_MESSAGE_INTERFACE,
            values.message_interface,
            write=values.set_target,
            writeable=("inbound_size_target", "inbound_target", "outbound_max_target"),
        ),
        ScalarGroup(groups.EXEC_EXECUTING_ENVIRONMENT, values.environment),
        TableGroup(groups.EXEC_EXECUTING_DDM_TABLE, values.ddms),
        ScalarGroup(groups.EXEC_DRIVER_STORE, values.store),
        TableGroup(groups.EXEC_DRIVER_STORE_TABLE, values.stored),
        TableGroup(groups.EXEC_IOP_BUS_ATTRIBUTES, values.buses),
        ScalarGroup(groups.EXEC_IOP_SW_ATTRIBUTES, values.software),
        TableGroup(groups.EXEC_HARDWARE_RESOURCE_TABLE, values.hardware_resources),
        ScalarGroup(groups.EXEC_LCT_SCALAR, values.lct_header),
        TableGroup(groups.EXEC_LCT_TABLE, values.lct_rows),
        TableGroup(groups.EXEC_SYSTEM_TABLE, values.system_table),
        TableGroup(groups.EXEC_EXTERNAL_CONNECTION_TABLE, executive.peers.rows),
    ]


class _Values:
    """Reads the groups' values off an executive."""

    def __init__(self, executive: ExecutiveState) -> None:
        self._executive, self._control = executive, executive.control
        unit, options = self._control.unit, self._control.options
        self._targets: dict[str, int] = {
            "inbound_size_target": unit.frame_size,
            "inbound_target": unit.frame_count,
            "outbound_max_target": options.outbound_frames,
        }

    def hardware(self) -> Row:
        return {
            "i2o_vendor_id": self._control.options.organization_id,
            "processor_memory": _MEMORY,
            "perm_memory": MAX_MODULES * MAX_SIZE,
            "hw_capabilities": (
                IopHwCapabilities.DOWNLOADABLE_DDM | IopHwCapabilities.INSTALLABLE_DDM
            ).value,
            "processor_type": IopProcessorType.OTHER.value,
        }

    def message_interface(self) -> Row:
        control = self._control
        unit = control.unit
        free = unit.idle_inbound()
        statics = self._executive.static_frames
        return {
            **self._targets,
            "inbound_frame_size": unit.frame_size,
            "inbound_max": unit.frame_count,
            "inbound_pool_count": unit.frame_count - len(statics.by_mfa),
            "inbound_current_free": free,
            "inbound_current_post": unit.posted_inbound(),
            "static_count": len(statics.by_mfa),
            "static_instance_count": statics.instances,
            "static_limit": statics.limit,
            "static_instance_limit": MAX_INSTANCES,
            "outbound_frame_size": control.replies.frame_size,
            "outbound_max": control.options.outbound_frames,
            "outbound_current_free": unit.idle_outbound(),
            "outbound_current_post": unit.posted_outbound(),
            "init_code": self._executive.init_code,
        }

    def set_target(self, name: str, value: Any) -> None:
        """Keep a wish for the next reboot of the IOP."""
        if name == "inbound_size_target" and (
            not _MIN_FRAME <= value <= _MAX_FRAME or value & value - 1
        ):
            raise ValueError(value)
        self._targets[name] = value

    def environment(self) -> Row:
        return {
            "mem_total": _MEMORY,
            "mem_free": _MEMORY // 2,
            "page_size": 4096,
            "event_q_max": self._control.options.backlog,
        }

    def ddms(self) -> Iterable[Row]:
        software = self._executive.software
        loaded = {tid: software.store.find(name) for name, tid in software.running.items()}
        rows: list[Row] = []
        for device in self._control.lct:
            if device.device_class != DeviceClass.DDM:
                continue
            module = loaded.get(device.tid)
            rows.append(
                {
                    "ddm_tid": device.tid,
                    "module_type": _EMBEDDED if module is None else _DOWNLOADED,
                    "i2o_vendor_id": device.organization_id,
                    "module_id": 1 if module is None else module.name.module_id,
                    "module_name": _module_name(device.name),
                    "module_version": 1 if module is None else module.version,
                    "code_size": 0 if module is None else len(module.data),
                }
            )
        return rows

    def store(self) -> Row:
        store = self._executive.software.store
        return {
            "module_limit": MAX_MODULES,
            "module_count": len(store),
            "current_space": store.used,
            "free_space": MAX_MODULES * MAX_SIZE - store.used,
        }

    def stored(self) -> Iterable[Row]:
        return [
            {
                "stored_ddm_index": index,
                "module_type": _DOWNLOADED,
                "i2o_vendor_id": module.name.organization_id,
                "module_id": module.name.module_id,
                "module_name": _module_name(module.title),
                "module_version": module.version,
                "module_size": len(module.data),
                "module_flags": module.is_permanent,
            }
            for index, module in enumerate(self._executive.software.store)
        ]

    def buses(self) -> Iterable[Row]:
        return [
            {
                "bus_id": 0,
                "bus_type": BusType.LOCAL.value,
                "max_adapters": len(self._executive.assignments.adapters),
                "adapter_count": len(self._executive.assignments.adapters),
                "bus_attributes": IopBusAttribute.PRIVATE.value,
            }
        ]

    def software(self) -> Row:
        return {
            "i2o_vendor_id": self._control.options.organization_id,
            "sw_capabilities": (
                IopSwCapabilities.IRTOS_I2O_COMPLIANT
                | IopSwCapabilities.DOWNLOADABLE_DDM
                | IopSwCapabilities.INSTALLABLE_DDM
            ).value,
        }

    def hardware_resources(self) -> Iterable[Row]:
        return [
            {
                "adapter_id": adapter,
                "state_info": (_NO_USER if tid is None else tid) | adapter_state(tid) << 12,
                "bus_type": BusType.LOCAL.value,
            }
            for adapter, tid in self._executive.assignments.adapters.items()
        ]

    def lct_header(self) -> Row:
        lct = self._control.lct
        return {"boot_device": lct.boot_tid, "current_change_indicator": lct.indicator}

    def lct_rows(self) -> Iterable[Row]:
        return [
            {
                "local_tid": device.tid,
                "user_tid": device.user_tid,
                "parent_tid": device.parent_tid,
                "ddm_tid": device.parent_tid,
                "change_indicator": device.change_indicator,
                "device_flags": device.device_flags,
                "class_id": device.class_id,
                "sub_class": device.sub_class,
                "identity_tag": device.identity_tag,
                "event_capabilities": device.event_capabilities,
                "bios_info": device.bios_info,
            }
            for device in self._control.lct
        ]

    def system_table(self) -> Iterable[Row]:
        return [
            {
                "iop_id": entry.iop_id,
                "organization_id": entry.organization_id,
                "segment_number": entry.segment_number,
                "version": entry.i2o_version,
                "iop_state": entry.iop_state,
                "messenger_type": entry.messenger_type,
                "inbound_message_port_address": (
                    entry.messenger_info_inbound_message_port_address_low
                ),
                "inbound_message_frame_size": entry.inbound_message_frame_size,
                "iop_capabilities": entry.iop_capabilities,
                "messenger_info": (
                    entry.messenger_info_inbound_message_port_address_low
                    | entry.messenger_info_inbound_message_port_address_high << 32
                ).to_bytes(8, "little"),
            }
            for entry in self._executive.system_table
        ]


def _module_name(text: str) -> bytes:
    return text.encode("ascii", "replace").ljust(24)
