# SPDX-License-Identifier: Apache-2.0
"""Bus adapter ports (class 0x080): messages, status codes and parameter groups.

As written in the SIG's i2oadptr.h 1.5.4.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul

from i2o.frames.functions import Function
from i2o.frames.header import message
from i2o.frames.layout import MessageLayout, ParameterGroup, group
from i2o.frames.scsi import SCSI_PORT_ENUMS, SCSI_PORT_PARTS


class HbaDetailedStatus(IntEnum):
    """DetailedStatusCode of bus adapter port replies."""

    SUCCESS = 0x0000
    ADAPTER_BUSY = 0x0500
    COMMAND_TIMEOUT = 0x0B00
    COMPLETE_WITH_ERROR = 0x0400
    FUNCTION_UNAVAILABLE = 0x3A00
    NO_ADAPTER = 0x1100
    PARITY_ERROR_FAILURE = 0x0F00
    PATH_INVALID = 0x0700
    PROVIDE_FAILURE = 0x1600
    QUEUE_FROZEN = 0x4000
    REQUEST_ABORTED = 0x0200
    REQUEST_INVALID = 0x0600
    REQUEST_LENGTH_ERROR = 0x1500
    REQUEST_TERMINATED = 0x1800
    RESOURCE_UNAVAILABLE = 0x3400
    BUS_BUSY = 0x3F00
    BUS_RESET = 0x0E00
    ID_INVALID = 0x3900
    SEQUENCE_FAILURE = 0x1400
    UNABLE_TO_ABORT = 0x0300
    UNABLE_TO_TERMINATE = 0x0900
    UNACKNOWLEDGED_EVENT = 0x3500
    UNEXPECTED_BUS_FREE = 0x1300


class HbaBusType(IntEnum):
    """BusType of group 0x0000."""

    GENERIC = 0x00
    SCSI = 0x01
    FCA = 0x10


class HbaQuiesceFlags(IntEnum):
    """Flags of HbaBusQuiesce."""

    NORMAL = 0x00
    QUIESCE = 0x01


HBA_ADAPTER_RESET: Final = message(
    "hba_adapter_reset", chapter="hba_bus_port", function=Function.HBA_ADAPTER_RESET
)
HBA_BUS_RESET: Final = message(
    "hba_bus_reset", chapter="hba_bus_port", function=Function.HBA_BUS_RESET
)
HBA_BUS_SCAN: Final = message(
    "hba_bus_scan",
    chapter="hba_bus_port",
    function=Function.HBA_BUS_SCAN,
    note="Linux sends 5 words.",
)
HBA_BUS_QUIESCE: Final = message(
    "hba_bus_quiesce",
    "flags" / Int32ul,
    chapter="hba_bus_port",
    function=Function.HBA_BUS_QUIESCE,
    enums={"flags": HbaQuiesceFlags},
)

HBA_CONTROLLER_INFO: Final = group(
    "controller_info",
    0x0000,
    "bus_type" / Int8ul,
    "bus_state" / Int8ul,
    "reserved2" / Int16ul,
    "bus_name" / Bytes(12),
    chapter="hba_bus_port",
    enums={"bus_type": HbaBusType},
)
HBA_HISTORICAL_STATS: Final = group(
    "historical_stats",
    0x0100,
    "time_last_powered_up" / Int32ul,
    "time_last_reset" / Int32ul,
    chapter="hba_bus_port",
)
HBA_SCSI_CONTROLLER_INFO: Final = group(
    "scsi_controller_info",
    0x0200,
    "scsi_type" / Int8ul,
    "protection_management" / Int8ul,
    "settings" / Int8ul,
    "reserved1" / Int8ul,
    "initiator_id" / Int32ul,
    "scan_lun0_only" / Int64ul,
    "disable_device" / Int16ul,
    "max_offset" / Int8ul,
    "max_data_width" / Int8ul,
    "max_sync_rate" / Int64ul,
    chapter="hba_bus_port",
)
HBA_SCSI_BUS_PORT_INFO: Final = group(
    "scsi_bus_port_info",
    0x0201,
    *SCSI_PORT_PARTS,
    "device_id_begin" / Int32ul,
    "device_id_end" / Int32ul,
    "lun_begin" / Bytes(8),
    "lun_end" / Bytes(8),
    chapter="hba_bus_port",
    enums=SCSI_PORT_ENUMS,
    note="NetBSD looks for the start of this at group 0x0001.",
)
HBA_FCA_CONTROLLER_INFO: Final = group(
    "fca_controller_info",
    0x0300,
    "fca_type" / Int8ul,
    "reserved1" / Int8ul,
    "reserved2" / Int16ul,
    chapter="hba_bus_port",
)
HBA_FCA_PORT_INFO: Final = group(
    "fca_port_info",
    0x0301,
    "reserved4" / Int32ul,
    chapter="hba_bus_port",
)

GROUPS: Final[tuple[ParameterGroup, ...]] = (
    HBA_CONTROLLER_INFO,
    HBA_HISTORICAL_STATS,
    HBA_SCSI_CONTROLLER_INFO,
    HBA_SCSI_BUS_PORT_INFO,
    HBA_FCA_CONTROLLER_INFO,
    HBA_FCA_PORT_INFO,
)
MESSAGES: Final[tuple[MessageLayout, ...]] = (
    HBA_ADAPTER_RESET,
    HBA_BUS_RESET,
    HBA_BUS_SCAN,
    HBA_BUS_QUIESCE,
)
