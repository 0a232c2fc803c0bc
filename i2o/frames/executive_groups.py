# SPDX-License-Identifier: Apache-2.0
"""Parameter groups of the IOP itself (TID 0), byte packed.

I2O 1.5 chapter 4, as written in the SIG's i2oexec.h 1.5.4. Clients that compile the header with
natural alignment see groups 0x0000, 0x0001 and 0x0102 shifted behind their odd fields.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul

from i2o.frames.functions import OrganizationId
from i2o.frames.layout import ParameterGroup, group
from i2o.frames.tables import (
    BusType,
    InitCode,
    IopCapabilities,
    IopState,
    LctDeviceFlags,
    MessengerType,
)


class IopHwCapabilities(IntFlag):
    """HwCapabilities of group 0x0000."""

    SELF_BOOT = 0x01
    IRTOS_UPGRADEABLE = 0x02
    DOWNLOADABLE_DDM = 0x04
    INSTALLABLE_DDM = 0x08
    BATTERY_BACKUP_RAM = 0x10


class IopProcessorType(IntEnum):
    """ProcessorType of group 0x0000."""

    INTEL_80960 = 0x00
    AMD_29000 = 0x01
    MOTOROLA_68000 = 0x02
    ARM = 0x03
    MIPS = 0x04
    SPARC = 0x05
    POWER_PC = 0x06
    ALPHA = 0x07
    INTEL_X86 = 0x08
    OTHER = 0xFF


class IopSwCapabilities(IntFlag):
    """SwCapabilities of group 0x0007."""

    IRTOS_I2O_COMPLIANT = 0x01
    IRTOS_UPGRADEABLE = 0x02
    DOWNLOADABLE_DDM = 0x04
    INSTALLABLE_DDM = 0x08


class DdmModuleType(IntEnum):
    """ModuleType of groups 0x0003 and 0x0005."""

    OTHER = 0x00
    DOWNLOAD = 0x01
    EMBEDDED = 0x22


class IopBusAttribute(IntEnum):
    """BusAttributes of group 0x0006."""

    SYSTEM_BUS = 0x00
    BRIDGED_SYSTEM_BUS = 0x01
    PRIVATE = 0x02


EXEC_IOP_HARDWARE: Final = group(
    "iop_hardware",
    0x0000,
    "i2o_vendor_id" / Int16ul,
    "product_id" / Int16ul,
    "processor_memory" / Int32ul,
    "perm_memory" / Int32ul,
    "hw_capabilities" / Int32ul,
    "processor_type" / Int8ul,
    "processor_version" / Int8ul,
    chapter="executive",
    enums={
        "i2o_vendor_id": OrganizationId,
        "hw_capabilities": IopHwCapabilities,
        "processor_type": IopProcessorType,
    },
)
EXEC_IOP_MESSAGE_INTERFACE: Final = group(
    "iop_message_interface",
    0x0001,
    "inbound_frame_size" / Int32ul,
    "inbound_size_target" / Int32ul,
    "inbound_max" / Int32ul,
    "inbound_target" / Int32ul,
    "inbound_pool_count" / Int32ul,
    "inbound_current_free" / Int32ul,
    "inbound_current_post" / Int32ul,
    "static_count" / Int16ul,
    "static_instance_count" / Int16ul,
    "static_limit" / Int16ul,
    "static_instance_limit" / Int16ul,
    "outbound_frame_size" / Int32ul,
    "outbound_max" / Int32ul,
    "outbound_max_target" / Int32ul,
    "outbound_current_free" / Int32ul,
    "outbound_current_post" / Int32ul,
    "init_code" / Int8ul,
    chapter="executive",
    enums={"init_code": InitCode},
)
EXEC_EXECUTING_ENVIRONMENT: Final = group(
    "executing_environment",
    0x0002,
    "mem_total" / Int32ul,
    "mem_free" / Int32ul,
    "page_size" / Int32ul,
    "event_q_max" / Int32ul,
    "event_q_current" / Int32ul,
    "ddm_load_max" / Int32ul,
    chapter="executive",
)
EXEC_EXECUTING_DDM_TABLE: Final = group(
    "executing_ddm_table",
    0x0003,
    "ddm_tid" / Int16ul,
    "module_type" / Int8ul,
    "reserved" / Int8ul,
    "i2o_vendor_id" / Int16ul,
    "module_id" / Int16ul,
    "module_name" / Bytes(24),
    "module_version" / Int32ul,
    "data_size" / Int32ul,
    "code_size" / Int32ul,
    chapter="executive",
    table=True,
    enums={"module_type": DdmModuleType, "i2o_vendor_id": OrganizationId},
)
EXEC_DRIVER_STORE: Final = group(
    "driver_store",
    0x0004,
    "module_limit" / Int32ul,
    "module_count" / Int32ul,
    "current_space" / Int32ul,
    "free_space" / Int32ul,
    chapter="executive",
)
EXEC_DRIVER_STORE_TABLE: Final = group(
    "driver_store_table",
    0x0005,
    "stored_ddm_index" / Int16ul,
    "module_type" / Int8ul,
    "reserved" / Int8ul,
    "i2o_vendor_id" / Int16ul,
    "module_id" / Int16ul,
    "module_name" / Bytes(24),
    "module_version" / Int32ul,
    "date_day" / Int16ul,
    "date_month" / Int16ul,
    "date_year" / Int32ul,
    "module_size" / Int32ul,
    "mpb_size" / Int32ul,
    "module_flags" / Int32ul,
    chapter="executive",
    table=True,
    enums={"module_type": DdmModuleType, "i2o_vendor_id": OrganizationId},
)
EXEC_IOP_BUS_ATTRIBUTES: Final = group(
    "iop_bus_attributes",
    0x0006,
    "bus_id" / Int32ul,
    "bus_type" / Int8ul,
    "max_adapters" / Int8ul,
    "adapter_count" / Int8ul,
    "bus_attributes" / Int8ul,
    chapter="executive",
    table=True,
    enums={"bus_type": BusType, "bus_attributes": IopBusAttribute},
)
EXEC_IOP_SW_ATTRIBUTES: Final = group(
    "iop_sw_attributes",
    0x0007,
    "i2o_vendor_id" / Int16ul,
    "product_id" / Int16ul,
    "code_size" / Int32ul,
    "sw_capabilities" / Int32ul,
    chapter="executive",
    enums={"i2o_vendor_id": OrganizationId, "sw_capabilities": IopSwCapabilities},
)
EXEC_HARDWARE_RESOURCE_TABLE: Final = group(
    "hardware_resource_table",
    0x0100,
    "adapter_id" / Int32ul,
    "state_info" / Int16ul,
    "bus_number" / Int8ul,
    "bus_type" / Int8ul,
    "physical_location" / Int64ul,
    "memory_space" / Int32ul,
    "io_space" / Int32ul,
    chapter="executive",
    table=True,
    enums={"bus_type": BusType},
)
EXEC_LCT_SCALAR: Final = group(
    "lct_scalar",
    0x0101,
    "boot_device" / Int16ul,
    "iop_flags" / Int32ul,
    "current_change_indicator" / Int32ul,
    chapter="executive",
)
EXEC_LCT_TABLE: Final = group(
    "lct_table",
    0x0102,
    "local_tid" / Int16ul,
    "user_tid" / Int16ul,
    "parent_tid" / Int16ul,
    "ddm_tid" / Int16ul,
    "change_indicator" / Int32ul,
    "device_flags" / Int32ul,
    "class_id" / Int32ul,
    "sub_class" / Int32ul,
    "identity_tag" / Bytes(8),
    "event_capabilities" / Int32ul,
    "bios_info" / Int8ul,
    chapter="executive",
    table=True,
    enums={"device_flags": LctDeviceFlags},
)
EXEC_SYSTEM_TABLE: Final = group(
    "system_table",
    0x0103,
    "iop_id" / Int16ul,
    "organization_id" / Int16ul,
    "segment_number" / Int16ul,
    "version" / Int8ul,
    "iop_state" / Int8ul,
    "messenger_type" / Int8ul,
    "reserved" / Int8ul,
    "inbound_message_port_address" / Int32ul,
    "inbound_message_frame_size" / Int16ul,
    "iop_capabilities" / Int32ul,
    "messenger_info" / Bytes(8),
    chapter="executive",
    table=True,
    enums={
        "organization_id": OrganizationId,
        "iop_state": IopState,
        "messenger_type": MessengerType,
        "iop_capabilities": IopCapabilities,
    },
)
EXEC_EXTERNAL_CONNECTION_TABLE: Final = group(
    "external_connection_table",
    0x0104,
    "local_alias_tid" / Int16ul,
    "remote_tid" / Int16ul,
    "remote_iop" / Int16ul,
    "remote_unit_id" / Int16ul,
    "flags" / Int8ul,
    "reserved" / Int8ul,
    chapter="executive",
    table=True,
)

GROUPS: Final[tuple[ParameterGroup, ...]] = (
    EXEC_IOP_HARDWARE,
    EXEC_IOP_MESSAGE_INTERFACE,
    EXEC_EXECUTING_ENVIRONMENT,
    EXEC_EXECUTING_DDM_TABLE,
    EXEC_DRIVER_STORE,
    EXEC_DRIVER_STORE_TABLE,
    EXEC_IOP_BUS_ATTRIBUTES,
    EXEC_IOP_SW_ATTRIBUTES,
    EXEC_HARDWARE_RESOURCE_TABLE,
    EXEC_LCT_SCALAR,
    EXEC_LCT_TABLE,
    EXEC_SYSTEM_TABLE,
    EXEC_EXTERNAL_CONNECTION_TABLE,
)
