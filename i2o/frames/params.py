# SPDX-License-Identifier: Apache-2.0
"""Parameters: the lists that UtilParamsGet and UtilParamsSet carry, and the groups of every TID.

An operation list is a header and operations, packed; a result list is a header and one block per
operation, each padded to 4 bytes. Groups are byte packed and their fields are numbered in order,
reserved ones too. I2O 1.5 chapter 3 (parameter groups), as written in the SIG's i2omsg.h 1.5.4.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Bytes, Int8sl, Int8ul, Int16ul, Int32sl, Int32ul

from i2o.frames.functions import OrganizationId
from i2o.frames.layout import Layout, ParameterGroup, Part, group, structure
from i2o.frames.tables import SerialFormat
from i2o.frames.utility import ClaimType


class ParamOperation(IntEnum):
    """Operation of an operation block."""

    FIELD_GET = 0x01
    LIST_GET = 0x02
    MORE_GET = 0x03
    SIZE_GET = 0x04
    TABLE_GET = 0x05
    FIELD_SET = 0x06
    LIST_SET = 0x07
    ROW_ADD = 0x08
    ROW_DELETE = 0x09
    TABLE_CLEAR = 0x0A


class ParamBlockStatus(IntEnum):
    """BlockStatus of a result block."""

    SUCCESS = 0x00
    BAD_KEY_ABORT = 0x01
    BAD_KEY_CONTINUE = 0x02
    BUFFER_FULL = 0x03
    BUFFER_TOO_SMALL = 0x04
    FIELD_UNREADABLE = 0x05
    FIELD_UNWRITEABLE = 0x06
    INSUFFICIENT_FIELDS = 0x07
    INVALID_GROUP_ID = 0x08
    INVALID_OPERATION = 0x09
    NO_KEY_FIELD = 0x0A
    NO_SUCH_FIELD = 0x0B
    NON_DYNAMIC_GROUP = 0x0C
    OPERATION_ERROR = 0x0D
    SCALAR_ERROR = 0x0E
    TABLE_ERROR = 0x0F
    WRONG_GROUP_TYPE = 0x10


class GroupProperties(IntFlag):
    """Properties in group 0xF000."""

    GROUP_TABLE = 0x01
    ROW_ADDITION = 0x02
    ROW_DELETION = 0x04
    CLEAR_OPERATION = 0x08


class SensorComponent(IntEnum):
    """Component of group 0xF200."""

    OTHER = 0x00
    PLANAR_LOGIC_BOARD = 0x01
    CPU = 0x02
    CHASSIS = 0x03
    POWER_SUPPLY = 0x04
    STORAGE = 0x05
    EXTERNAL = 0x06


class SensorClass(IntEnum):
    """SensorClass of group 0xF200."""

    ANALOG = 0x00
    DIGITAL = 0x01


class SensorType(IntEnum):
    """SensorType of group 0xF200."""

    OTHER = 0x00
    THERMAL = 0x01
    DC_VOLTAGE = 0x02
    AC_VOLTAGE = 0x03
    DC_CURRENT = 0x04
    AC_CURRENT = 0x05
    DOOR_OPEN = 0x06
    FAN_OPERATIONAL = 0x07


class SensorState(IntEnum):
    """SensorState of group 0xF200."""

    NORMAL = 0x00
    ABNORMAL = 0x01
    UNKNOWN = 0x02
    LOW_CAT = 0x03
    LOW = 0x04
    LOW_WARNING = 0x05
    HIGH_WARNING = 0x06
    HIGH = 0x07
    HIGH_CAT = 0x08


class SensorEventEnable(IntFlag):
    """EventEnable of group 0xF200."""

    STATE_CHANGE = 0x01
    LOW_CATASTROPHIC = 0x02
    LOW_READING = 0x04
    LOW_WARNING = 0x08
    CHANGE_TO_NORMAL = 0x10
    HIGH_WARNING = 0x20
    HIGH_READING = 0x40
    HIGH_CATASTROPHIC = 0x80


ALL_FIELDS: Final = 0xFFFF
"""FieldCount of an operation on every field of a group."""
FIRST_GENERIC_GROUP: Final = 0xF000
"""Groups from here on mean the same for every class."""

OPERATION_PARTS: Final[tuple[Part, ...]] = (
    "operation" / Int16ul,
    "group_number" / Int16ul,
)
"""The start of every operation."""

FIELD_OPERATION_PARTS: Final[tuple[Part, ...]] = (*OPERATION_PARTS, "field_count" / Int16ul)

RESULT_PARTS: Final[tuple[Part, ...]] = (
    "block_size" / Int16ul,
    "block_status" / Int8ul,
    "error_info_size" / Int8ul,
)
"""The start of every result block; BlockSize counts words, padding included."""

OPERATION_ENUMS: Final = {"operation": ParamOperation}
RESULT_ENUMS: Final = {"block_status": ParamBlockStatus}

PARAM_OPERATION_LIST_HEADER: Final = structure(
    "param_operation_list_header",
    "operation_count" / Int16ul,
    "reserved" / Int16ul,
    chapter="params",
)
PARAM_RESULT_LIST_HEADER: Final = structure(
    "param_result_list_header",
    "result_count" / Int16ul,
    "reserved" / Int16ul,
    chapter="params",
)
PARAM_OP_FIELD: Final = structure(
    "param_op_field",
    *FIELD_OPERATION_PARTS,
    "field_idx" / Int16ul,
    chapter="params",
    enums=OPERATION_ENUMS,
    note="field_idx repeats field_count times; a set operation has the packed values behind them.",
)
PARAM_OP_ALL_FIELDS: Final = structure(
    "param_op_all_fields",
    *FIELD_OPERATION_PARTS,
    chapter="params",
    enums=OPERATION_ENUMS,
    defaults={"field_count": ALL_FIELDS},
)
PARAM_OP_ALL_LIST: Final = structure(
    "param_op_all_list",
    *FIELD_OPERATION_PARTS,
    "key_count" / Int16ul,
    "key_value" / Int8ul,
    chapter="params",
    enums=OPERATION_ENUMS,
    defaults={"field_count": ALL_FIELDS},
    note="key_value is the first byte of key_count keys, as wide as the key field of the group.",
)
PARAM_OP_ROW_DELETE: Final = structure(
    "param_op_row_delete",
    *OPERATION_PARTS,
    "row_count" / Int16ul,
    "key_value" / Int8ul,
    chapter="params",
    enums=OPERATION_ENUMS,
    note="key_value is the first byte of row_count keys, as wide as the key field of the group.",
)
PARAM_OP_TABLE_CLEAR: Final = structure(
    "param_op_table_clear", *OPERATION_PARTS, chapter="params", enums=OPERATION_ENUMS
)
PARAM_READ_RESULT: Final = structure(
    "param_read_result", *RESULT_PARTS, chapter="params", enums=RESULT_ENUMS
)
PARAM_TABLE_READ_RESULT: Final = structure(
    "param_table_read_result",
    *RESULT_PARTS,
    "row_count" / Int16ul,
    "more_flag" / Int16ul,
    chapter="params",
    enums=RESULT_ENUMS,
)
PARAM_MODIFY_RESULT: Final = structure(
    "param_modify_result", *RESULT_PARTS, chapter="params", enums=RESULT_ENUMS
)
PARAM_ERROR_INFO: Final = structure(
    "param_error_info",
    "operation_code" / Int16ul,
    "group_number" / Int16ul,
    "field_idx" / Int16ul,
    "additional_status" / Int8ul,
    "number_keys" / Int8ul,
    chapter="params",
    enums={"operation_code": ParamOperation, "additional_status": ParamBlockStatus},
)

GROUP_DESCRIPTORS: Final = group(
    "group_descriptors",
    0xF000,
    "group_number" / Int16ul,
    "field_count" / Int16ul,
    "row_count" / Int16ul,
    "properties" / Int8ul,
    "reserved" / Int8ul,
    chapter="any",
    table=True,
    enums={"properties": GroupProperties},
)
PHYSICAL_DEVICE_TABLE: Final = group(
    "physical_device_table",
    0xF001,
    "adapter_id" / Int32ul,
    chapter="any",
    table=True,
)
CLAIMED_TABLE: Final = group(
    "claimed_table",
    0xF002,
    "claimed_tid" / Int16ul,
    chapter="any",
    table=True,
)
USER_TABLE: Final = group(
    "user_table",
    0xF003,
    "instance" / Int16ul,
    "user_tid" / Int16ul,
    "claim_type" / Int8ul,
    "reserved1" / Int8ul,
    "reserved2" / Int16ul,
    chapter="any",
    table=True,
    enums={"claim_type": ClaimType},
    note="v2.0 calls field 3 claim_flags.",
)
PRIVATE_MESSAGE_EXTENSIONS: Final = group(
    "private_message_extensions",
    0xF005,
    "ext_instance" / Int16ul,
    "organization_id" / Int16ul,
    "x_function_code" / Int16ul,
    chapter="any",
    table=True,
    enums={"organization_id": OrganizationId},
)
AUTHORIZED_USER_TABLE: Final = group(
    "authorized_user_table",
    0xF006,
    "alternate_tid" / Int16ul,
    chapter="any",
    table=True,
)
DEVICE_CONFIG_CONTROL: Final = group(
    "device_config_control",
    0xF007,
    "nv_update_required" / Int8ul,
    "nv_update_mode" / Int8ul,
    "nv_update_action" / Int8ul,
    chapter="any",
    note="v2.0 only.",
)
DEVICE_IDENTITY: Final = group(
    "device_identity",
    0xF100,
    "class_id" / Int32ul,
    "owner_tid" / Int16ul,
    "parent_tid" / Int16ul,
    "vendor_info" / Bytes(16),
    "product_info" / Bytes(16),
    "description" / Bytes(16),
    "product_rev_level" / Bytes(8),
    "sn_format" / Int8ul,
    "serial_number" / Bytes(256),
    chapter="any",
    enums={"sn_format": SerialFormat},
    note="Linux reads the start of serial_number as format, length and data.",
)
DDM_IDENTITY: Final = group(
    "ddm_identity",
    0xF101,
    "ddm_tid" / Int16ul,
    "module_name" / Bytes(24),
    "module_rev_level" / Bytes(8),
    "sn_format" / Int8ul,
    "serial_number" / Bytes(256),
    chapter="any",
    enums={"sn_format": SerialFormat},
)
USER_INFORMATION: Final = group(
    "user_information",
    0xF102,
    "device_name" / Bytes(64),
    "service_name" / Bytes(64),
    "physical_location" / Bytes(64),
    "instance_number" / Int32ul,
    chapter="any",
)
SGL_OPERATING_LIMITS: Final = group(
    "sgl_operating_limits",
    0xF103,
    "sgl_chain_size" / Int32ul,
    "sgl_chain_size_max" / Int32ul,
    "sgl_chain_size_target" / Int32ul,
    "sgl_frag_count" / Int16ul,
    "sgl_frag_count_max" / Int16ul,
    "sgl_frag_count_target" / Int16ul,
    chapter="any",
    note="v2.0 appends sgl_data_alignment (16 bits), sgl_addr_limit and sgl_unit_addr_field "
    "(8 bits each).",
)
SENSORS: Final = group(
    "sensors",
    0xF200,
    "sensor_instance" / Int16ul,
    "component" / Int8ul,
    "component_instance" / Int16ul,
    "sensor_class" / Int8ul,
    "sensor_type" / Int8ul,
    "scaling_exponent" / Int8sl,
    "actual_reading" / Int32sl,
    "minimum_reading" / Int32sl,
    "low2_low_cat_threshold" / Int32sl,
    "low_cat2_low_threshold" / Int32sl,
    "low_warn2_low_threshold" / Int32sl,
    "low2_low_warn_threshold" / Int32sl,
    "norm2_low_warn_threshold" / Int32sl,
    "low_warn2_norm_threshold" / Int32sl,
    "nominal_reading" / Int32sl,
    "hi_warn2_norm_threshold" / Int32sl,
    "norm2_hi_warn_threshold" / Int32sl,
    "high2_hi_warn_threshold" / Int32sl,
    "hi_warn2_high_threshold" / Int32sl,
    "hi_cat2_high_threshold" / Int32sl,
    "hi2_hi_cat_threshold" / Int32sl,
    "maximum_reading" / Int32sl,
    "sensor_state" / Int8ul,
    "event_enable" / Int16ul,
    chapter="any",
    table=True,
    enums={
        "component": SensorComponent,
        "sensor_class": SensorClass,
        "sensor_type": SensorType,
        "sensor_state": SensorState,
        "event_enable": SensorEventEnable,
    },
    note="v2.0 puts component_instance in front of component; Linux expects natural alignment.",
)

GROUPS: Final[tuple[ParameterGroup, ...]] = (
    GROUP_DESCRIPTORS,
    PHYSICAL_DEVICE_TABLE,
    CLAIMED_TABLE,
    USER_TABLE,
    PRIVATE_MESSAGE_EXTENSIONS,
    AUTHORIZED_USER_TABLE,
    DEVICE_CONFIG_CONTROL,
    DEVICE_IDENTITY,
    DDM_IDENTITY,
    USER_INFORMATION,
    SGL_OPERATING_LIMITS,
    SENSORS,
)
STRUCTURES: Final[tuple[Layout, ...]] = (
    PARAM_OPERATION_LIST_HEADER,
    PARAM_RESULT_LIST_HEADER,
    PARAM_OP_FIELD,
    PARAM_OP_ALL_FIELDS,
    PARAM_OP_ALL_LIST,
    PARAM_OP_ROW_DELETE,
    PARAM_OP_TABLE_CLEAR,
    PARAM_READ_RESULT,
    PARAM_TABLE_READ_RESULT,
    PARAM_MODIFY_RESULT,
    PARAM_ERROR_INFO,
)
