# SPDX-License-Identifier: Apache-2.0
"""Parameter groups of random block storage devices, byte packed.

I2O 1.5 chapter 6 (random block storage class), as written in the SIG's i2omstor.h 1.5.1. Disk
drivers read 0x0000; NetBSD refuses a disk without 0x0003 and writes to 0x0001.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul

from i2o.frames.block_storage import BsaDetailedStatus
from i2o.frames.functions import Function
from i2o.frames.layout import ParameterGroup, group


class BsaDeviceType(IntEnum):
    """DeviceType of group 0x0000."""

    DIRECT = 0x00
    WORM = 0x04
    CDROM = 0x05
    OPTICAL = 0x07


class BsaCapability(IntFlag):
    """DeviceCapabilitySupport of group 0x0000."""

    CACHING = 0x0001
    MULTI_PATH = 0x0002
    DYNAMIC_CAPACITY = 0x0004
    REMOVABLE_MEDIA = 0x0008
    REMOVABLE_DEVICE = 0x0010
    READ_ONLY = 0x0020
    LOCKOUT = 0x0040
    BOOT_BYPASS = 0x0080
    COMPRESSION = 0x0100
    DATA_SECURITY = 0x0200
    RAID = 0x0400


class BsaState(IntFlag):
    """DeviceState of group 0x0000."""

    CACHING = 0x0001
    POWERED_ON = 0x0002
    READY = 0x0004
    MEDIA_LOADED = 0x0008
    DEVICE_LOADED = 0x0010
    READ_ONLY = 0x0020
    LOCKOUT = 0x0040
    BOOT_BYPASS = 0x0080
    COMPRESSION = 0x0100
    DATA_SECURITY = 0x0200
    RAID = 0x0400


class BsaWritePolicy(IntEnum):
    """WritePolicy of group 0x0003."""

    NONE = 0x00
    WRITE_TO_CACHE = 0x01
    WRITE_THRU_CACHE = 0x02


class BsaReadPolicy(IntEnum):
    """ReadPolicy of group 0x0003."""

    NONE = 0x00
    READ_CACHE = 0x01
    READ_AHEAD = 0x02
    BOTH = 0x03


class BsaErrorCorrection(IntEnum):
    """ErrorCorrection of group 0x0003."""

    NONE = 0x00
    UNKNOWN = 0x01
    OTHER = 0x02
    PARITY = 0x03
    SINGLE_BIT_ECC = 0x04
    MULTI_BIT_ECC = 0x05


class BsaDataStripeUnit(IntEnum):
    """DataStripeGranularity of group 0x0201."""

    OTHER = 0x00
    UNKNOWN = 0x01
    BITS = 0x02
    BYTES = 0x03
    WORDS_16BIT = 0x04
    DWORDS_32BIT = 0x05
    BLOCKS = 0x06


class BsaRedundancy(IntEnum):
    """RedundancyType of group 0x0205."""

    OTHER = 0x0000
    UNKNOWN = 0x0001
    NONE = 0x0002
    COPY = 0x0003
    XOR = 0x0004
    P_Q = 0x0005
    S = 0x0006
    P_S = 0x0007


class BsaSpareState(IntEnum):
    """SpareFunctioningState of group 0x0206."""

    OTHER = 0x00
    UNKNOWN = 0x01
    INACTIVE = 0x02
    ACTIVE = 0x03
    LOAD_BALANCE = 0x04


class BsaAssociationType(IntEnum):
    """Type of group 0x0207."""

    PHYSICAL = 0x00
    LOGICAL = 0x01
    LOG_TO_PHYS = 0x02
    PROTECTION = 0x03
    SPARE = 0x04
    CACHE = 0x05
    SOFTWARE = 0x06


class BsaAssociationObject(IntEnum):
    """Object types of group 0x0207."""

    CONTROLLER = 0x00
    DEVICE = 0x01
    BUS_PORT = 0x02
    VOLUME_SET = 0x03
    PROT_SPACE_EXT = 0x04
    AGG_PROT_SPACE_EXT = 0x05
    PHYSICAL_EXT = 0x06
    AGG_PHYSICAL_EXT = 0x07
    REDUNDANCY = 0x08
    CACHE = 0x09
    SOFTWARE = 0x0A


BSA_DEVICE_INFO: Final = group(
    "device_info",
    0x0000,
    "device_type" / Int8ul,
    "number_of_paths" / Int8ul,
    "power_state" / Int16ul,
    "block_size" / Int32ul,
    "device_capacity" / Int64ul,
    "device_capability_support" / Int32ul,
    "device_state" / Int32ul,
    chapter="bsa",
    enums={
        "device_type": BsaDeviceType,
        "device_capability_support": BsaCapability,
        "device_state": BsaState,
    },
)
BSA_OPERATIONAL_CONTROL: Final = group(
    "operational_control",
    0x0001,
    "auto_reassign" / Int8ul,
    "reassign_tolerance" / Int8ul,
    "retry_attempts" / Int8ul,
    "reserved1" / Int8ul,
    "reassign_size" / Int32ul,
    "expected_timeout" / Int32ul,
    "rwv_timeout" / Int32ul,
    "rwv_timeout_base" / Int32ul,
    "timeout_base" / Int32ul,
    "ordered_request_depth" / Int32ul,
    "atomic_write_size" / Int32ul,
    chapter="bsa",
)
BSA_POWER_CONTROL: Final = group(
    "power_control",
    0x0002,
    "powerdown_timeout" / Int32ul,
    "on_access" / Int32ul,
    chapter="bsa",
)
BSA_CACHE_CONTROL: Final = group(
    "cache_control",
    0x0003,
    "total_cache_size" / Int32ul,
    "read_cache_size" / Int32ul,
    "write_cache_size" / Int32ul,
    "write_policy" / Int8ul,
    "read_policy" / Int8ul,
    "error_correction" / Int8ul,
    "reserved1" / Int8ul,
    chapter="bsa",
    enums={
        "write_policy": BsaWritePolicy,
        "read_policy": BsaReadPolicy,
        "error_correction": BsaErrorCorrection,
    },
)
BSA_MEDIA_INFO: Final = group(
    "media_info",
    0x0004,
    "capacity" / Int64ul,
    "block_size" / Int32ul,
    chapter="bsa",
)
BSA_ERROR_LOG: Final = group(
    "error_log",
    0x0005,
    "error_data_index" / Int16ul,
    "function" / Int8ul,
    "retry_count" / Int8ul,
    "detailed_error_code" / Int16ul,
    "reserved2" / Int16ul,
    "time_stamp" / Int64ul,
    "user_info" / Int32ul,
    chapter="bsa",
    table=True,
    enums={"function": Function, "detailed_error_code": BsaDetailedStatus},
)
BSA_HISTORICAL_STATS_CONTROL: Final = group(
    "historical_stats_control",
    0x0180,
    "statistics_control" / Int8ul,
    "reserved1" / Int8ul,
    "reserved2" / Int16ul,
    "storage_statistics" / Int32ul,
    "cache_statistics" / Int32ul,
    chapter="bsa",
)
BSA_STORAGE_HISTORICAL_STATS: Final = group(
    "storage_historical_stats",
    0x0181,
    "read_commands" / Int64ul,
    "write_commands" / Int64ul,
    "data_unit" / Int8ul,
    "reserved1" / Int8ul,
    "reserved2" / Int16ul,
    "io_range1_read" / Int64ul,
    "io_range2_read" / Int64ul,
    "io_range3_read" / Int64ul,
    "io_range4_read" / Int64ul,
    "io_range1_write" / Int64ul,
    "io_range2_write" / Int64ul,
    "io_range3_write" / Int64ul,
    "io_range4_write" / Int64ul,
    "number_seeks" / Int64ul,
    chapter="bsa",
)
BSA_CACHE_HISTORICAL_STATS: Final = group(
    "cache_historical_stats",
    0x0182,
    "cache_access" / Int64ul,
    "cache_hit" / Int64ul,
    "partial_cache_hit" / Int64ul,
    "hit_data_size" / Int64ul,
    "valid_usage" / Int32ul,
    "dirty_usage" / Int32ul,
    "time_last_fault" / Int32ul,
    "last_fault_failure" / Int32ul,
    chapter="bsa",
)
BSA_VOLUME_SET_INFORMATION: Final = group(
    "volume_set_information",
    0x0200,
    "name" / Bytes(64),
    "total_storage_capacity" / Int64ul,
    "stripe_length" / Int64ul,
    "interleave_depth" / Int64ul,
    chapter="bsa",
)
BSA_PROTECTED_SPACE_EXTENT: Final = group(
    "protected_space_extent",
    0x0201,
    "start_address" / Int64ul,
    "number_blocks" / Int64ul,
    "block_size" / Int32ul,
    "data_stripe_granularity" / Int32ul,
    "data_stripe_length" / Int32ul,
    chapter="bsa",
    enums={"data_stripe_granularity": BsaDataStripeUnit},
)
BSA_AGGREGATE_PROTECTED_SPACE_EXTENT: Final = group(
    "aggregate_protected_space_extent",
    0x0202,
    "number_blocks" / Int64ul,
    chapter="bsa",
)
BSA_PHYSICAL_EXTENT: Final = group(
    "physical_extent",
    0x0203,
    "start_address" / Int64ul,
    "number_blocks" / Int64ul,
    "block_size" / Int32ul,
    "granularity_unit" / Int32ul,
    "check_data_interleave" / Int64ul,
    "check_data" / Int64ul,
    "user_data" / Int64ul,
    chapter="bsa",
)
BSA_AGGREGATE_PHYSICAL_EXTENT: Final = group(
    "aggregate_physical_extent",
    0x0204,
    "number_blocks" / Int64ul,
    "check_data" / Int64ul,
    chapter="bsa",
)
BSA_REDUNDANCY: Final = group(
    "redundancy",
    0x0205,
    "redundancy_type" / Int8ul,
    "reserved1" / Int8ul,
    "reserved2" / Int16ul,
    chapter="bsa",
    enums={"redundancy_type": BsaRedundancy},
)
BSA_COMPONENT_SPARES: Final = group(
    "component_spares",
    0x0206,
    "row_number" / Int8ul,
    "spare_type" / Int8ul,
    "to_be_spared_index" / Int8ul,
    "spared_index" / Int8ul,
    "spare_functioning_state" / Int8ul,
    "reserved1" / Int8ul,
    "reserved2" / Int16ul,
    chapter="bsa",
    table=True,
    enums={"spare_functioning_state": BsaSpareState},
)
BSA_ASSOCIATION_TABLE: Final = group(
    "association_table",
    0x0207,
    "row_number" / Int8ul,
    "type" / Int8ul,
    "object1_type" / Int8ul,
    "object1_index" / Int8ul,
    "object2_type" / Int8ul,
    "object2_index" / Int8ul,
    "reserved2" / Int16ul,
    chapter="bsa",
    table=True,
    enums={
        "type": BsaAssociationType,
        "object1_type": BsaAssociationObject,
        "object2_type": BsaAssociationObject,
    },
)

GROUPS: Final[tuple[ParameterGroup, ...]] = (
    BSA_DEVICE_INFO,
    BSA_OPERATIONAL_CONTROL,
    BSA_POWER_CONTROL,
    BSA_CACHE_CONTROL,
    BSA_MEDIA_INFO,
    BSA_ERROR_LOG,
    BSA_HISTORICAL_STATS_CONTROL,
    BSA_STORAGE_HISTORICAL_STATS,
    BSA_CACHE_HISTORICAL_STATS,
    BSA_VOLUME_SET_INFORMATION,
    BSA_PROTECTED_SPACE_EXTENT,
    BSA_AGGREGATE_PROTECTED_SPACE_EXTENT,
    BSA_PHYSICAL_EXTENT,
    BSA_AGGREGATE_PHYSICAL_EXTENT,
    BSA_REDUNDANCY,
    BSA_COMPONENT_SPARES,
    BSA_ASSOCIATION_TABLE,
)
