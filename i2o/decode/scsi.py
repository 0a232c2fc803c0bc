# SPDX-License-Identifier: Apache-2.0
"""SCSI by name: commands and the places of their fields, sense keys, additional sense codes.

Numbers as in the T10 standards SPC, SBC, SSC and MMC; only what adapters of the I2O era and today's
kernels send. CDBs and sense data are big-endian.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class CdbField(NamedTuple):
    """A field of a CDB.

    Attributes:
        name: its name.
        byte: byte of its highest bits.
        size: bytes that it touches.
        bit: its lowest bit within the last of them.
        width_bits: its width.
    """

    name: str
    byte: int
    size: int
    bit: int
    width_bits: int


class Command(NamedTuple):
    """A SCSI command.

    Attributes:
        name: its name in snake case, with the CDB's size where there are several.
        fields: its fields, in order; the opcode and the control byte are left out.
    """

    name: str
    fields: tuple[CdbField, ...] = ()


SENSE_KEYS: Final = (
    "no_sense",
    "recovered_error",
    "not_ready",
    "medium_error",
    "hardware_error",
    "illegal_request",
    "unit_attention",
    "data_protect",
    "blank_check",
    "vendor_specific",
    "copy_aborted",
    "aborted_command",
    "equal",
    "volume_overflow",
    "miscompare",
    "completed",
)
"""Names of the sense keys, by number."""

DEVICE_TYPES: Final = {
    0x00: "direct_access",
    0x01: "sequential_access",
    0x02: "printer",
    0x03: "processor",
    0x04: "write_once",
    0x05: "cd_dvd",
    0x06: "scanner",
    0x07: "optical_memory",
    0x08: "medium_changer",
    0x09: "communications",
    0x0C: "storage_array",
    0x0D: "enclosure_services",
    0x0E: "simplified_direct_access",
    0x11: "object_storage",
    0x14: "zoned_block",
    0x1E: "well_known_lun",
    0x1F: "unknown",
}
"""Peripheral device types."""

VPD_PAGES: Final = {
    0x00: "supported_vpd_pages",
    0x80: "unit_serial_number",
    0x83: "device_identification",
    0x86: "extended_inquiry",
    0x89: "ata_information",
    0xB0: "block_limits",
    0xB1: "block_device_characteristics",
    0xB2: "logical_block_provisioning",
}
"""Vital product data pages."""

MODE_PAGES: Final = {
    0x00: "vendor_specific",
    0x01: "error_recovery",
    0x02: "disconnect_reconnect",
    0x03: "format_device",
    0x04: "rigid_disk_geometry",
    0x05: "flexible_disk",
    0x07: "verify_error_recovery",
    0x08: "caching",
    0x0A: "control",
    0x0D: "power_condition_obsolete",
    0x0E: "cd_audio_control",
    0x0F: "data_compression",
    0x10: "device_configuration",
    0x18: "logical_unit",
    0x19: "port",
    0x1A: "power_condition",
    0x1C: "informational_exceptions",
    0x2A: "cd_capabilities",
    0x3F: "all_pages",
}
"""Mode pages."""


def _field(name: str, byte: int, size: int = 1, bit: int = 0, width: int = 0) -> CdbField:
    return CdbField(name, byte, size, bit, width or 8 * size)


def _bit(name: str, byte: int, bit: int) -> CdbField:
    return CdbField(name, byte, 1, bit, 1)


_LBA6: Final = CdbField("lba", 1, 3, 0, 21)
_LBA32: Final = _field("lba", 2, 4)
_LBA64: Final = _field("lba", 2, 8)
_DPO_FUA: Final = (_bit("dpo", 1, 4), _bit("fua", 1, 3))
_ACTION: Final = _field("service_action", 1, width=5)
_IMMED: Final = _bit("immed", 1, 0)


def _allocation(byte: int, size: int) -> CdbField:
    return _field("allocation_length", byte, size)


def _parameters(byte: int, size: int) -> CdbField:
    return _field("parameter_list_length", byte, size)


def _transfer(byte: int, size: int) -> CdbField:
    return _field("transfer_length", byte, size)


def _blocks(byte: int, size: int) -> CdbField:
    return _field("number_of_blocks", byte, size)


_RW6: Final = (_LBA6, _transfer(4, 1))
_RW10: Final = (*_DPO_FUA, _LBA32, _field("group_number", 6, width=5), _transfer(7, 2))
_RW12: Final = (*_DPO_FUA, _LBA32, _transfer(6, 4))
_RW16: Final = (*_DPO_FUA, _LBA64, _transfer(10, 4), _field("group_number", 14, width=5))
_VERIFY: Final = (_bit("dpo", 1, 4), _field("byte_check", 1, bit=1, width=2))
_MODE_PAGE: Final = (
    _bit("dbd", 1, 3),
    _field("page_control", 2, bit=6, width=2),
    _field("page_code", 2, width=6),
    _field("subpage_code", 3),
)
_MODE_SELECT: Final = (_bit("page_format", 1, 4), _bit("save_pages", 1, 0))
_RESERVATION: Final = (_field("scope", 2, bit=4, width=4), _field("type", 2, width=4))
_BUFFER: Final = (
    _field("mode", 1, width=5),
    _field("buffer_id", 2),
    _field("buffer_offset", 3, 3),
)
_ATA: Final = (_field("protocol", 1, bit=1, width=4),)
_TAPE: Final = (_bit("fixed", 1, 0), _field("transfer_length", 2, 3))

INQUIRY: Final = 0x12
REQUEST_SENSE: Final = 0x03
READ_CAPACITY_10: Final = 0x25
SERVICE_ACTION_IN_16: Final = 0x9E
MODE_SENSE_6: Final = 0x1A
MODE_SENSE_10: Final = 0x5A
MODE_SELECT_6: Final = 0x15
MODE_SELECT_10: Final = 0x55
REPORT_LUNS: Final = 0xA0

COMMANDS: Final[dict[int, Command]] = {
    0x00: Command("test_unit_ready"),
    0x01: Command("rezero_unit"),
    0x03: Command("request_sense", (_bit("desc", 1, 0), _allocation(4, 1))),
    0x04: Command("format_unit", (_bit("fmtdata", 1, 4), _bit("cmplist", 1, 3))),
    0x05: Command("read_block_limits"),
    0x07: Command("reassign_blocks"),
    0x08: Command("read_6", _RW6),
    0x0A: Command("write_6", _RW6),
    0x0B: Command("seek_6", (_LBA6,)),
    0x0F: Command("read_reverse_6", _TAPE),
    0x10: Command("write_filemarks_6", (_field("count", 2, 3),)),
    0x11: Command("space_6", (_field("code", 1, width=4), _field("count", 2, 3))),
    0x12: Command("inquiry", (_bit("evpd", 1, 0), _field("page_code", 2), _allocation(3, 2))),
    0x13: Command("verify_6", _TAPE),
    0x14: Command("recover_buffered_data"),
    0x15: Command("mode_select_6", (*_MODE_SELECT, _parameters(4, 1))),
    0x16: Command("reserve_6"),
    0x17: Command("release_6"),
    0x18: Command("copy"),
    0x19: Command("erase_6"),
    0x1A: Command("mode_sense_6", (*_MODE_PAGE, _allocation(4, 1))),
    0x1B: Command(
        "start_stop_unit",
        (
            _IMMED,
            _field("power_condition", 4, bit=4, width=4),
            _bit("load_eject", 4, 1),
            _bit("start", 4, 0),
        ),
    ),
    0x1C: Command("receive_diagnostic_results", (_field("page_code", 2), _allocation(3, 2))),
    0x1D: Command("send_diagnostic", (_bit("self_test", 1, 2), _parameters(3, 2))),
    0x1E: Command("prevent_allow_medium_removal", (_field("prevent", 4, width=2),)),
    0x23: Command("read_format_capacities", (_allocation(7, 2),)),
    0x25: Command("read_capacity_10", (_LBA32, _bit("pmi", 8, 0))),
    0x28: Command("read_10", _RW10),
    0x2A: Command("write_10", _RW10),
    0x2B: Command("seek_10", (_LBA32,)),
    0x2C: Command("erase_10"),
    0x2E: Command("write_and_verify_10", (*_VERIFY, _LBA32, _transfer(7, 2))),
    0x2F: Command("verify_10", (*_VERIFY, _LBA32, _field("verification_length", 7, 2))),
    0x33: Command("set_limits_10", (_LBA32, _blocks(7, 2))),
    0x34: Command("pre_fetch_10", (_LBA32, _transfer(7, 2))),
    0x35: Command("synchronize_cache_10", (_bit("immed", 1, 1), _LBA32, _blocks(7, 2))),
    0x36: Command("lock_unlock_cache_10", (_bit("lock", 1, 1), _LBA32, _blocks(7, 2))),
    0x37: Command("read_defect_data_10", (_allocation(7, 2),)),
    0x3B: Command("write_buffer", (*_BUFFER, _field("parameter_list_length", 6, 3))),
    0x3C: Command("read_buffer", (*_BUFFER, _allocation(6, 3))),
    0x3E: Command("read_long_10", (_LBA32, _field("byte_transfer_length", 7, 2))),
    0x3F: Command("write_long_10", (_LBA32, _field("byte_transfer_length", 7, 2))),
    0x40: Command("change_definition"),
    0x41: Command("write_same_10", (_bit("unmap", 1, 3), _LBA32, _blocks(7, 2))),
    0x42: Command("unmap", (_parameters(7, 2),)),
    0x43: Command(
        "read_toc",
        (_bit("msf", 1, 1), _field("format", 2, width=4), _field("track", 6), _allocation(7, 2)),
    ),
    0x44: Command("read_header", (_LBA32, _allocation(7, 2))),
    0x46: Command("get_configuration", (_field("starting_feature", 2, 2), _allocation(7, 2))),
    0x4A: Command("get_event_status_notification", (_allocation(7, 2),)),
    0x4C: Command("log_select", (_parameters(7, 2),)),
    0x4D: Command(
        "log_sense",
        (
            _field("page_control", 2, bit=6, width=2),
            _field("page_code", 2, width=6),
            _field("parameter_pointer", 5, 2),
            _allocation(7, 2),
        ),
    ),
    0x51: Command("read_disc_information", (_allocation(7, 2),)),
    0x55: Command("mode_select_10", (*_MODE_SELECT, _parameters(7, 2))),
    0x56: Command("reserve_10"),
    0x57: Command("release_10"),
    0x5A: Command("mode_sense_10", (*_MODE_PAGE, _allocation(7, 2))),
    0x5E: Command("persistent_reserve_in", (_ACTION, _allocation(7, 2))),
    0x5F: Command("persistent_reserve_out", (_ACTION, *_RESERVATION, _parameters(5, 4))),
    0x7F: Command(
        "variable_length_cdb",
        (_field("additional_cdb_length", 7), _field("service_action", 8, 2)),
    ),
    0x83: Command("extended_copy", (_ACTION, _parameters(10, 4))),
    0x84: Command("receive_copy_results", (_ACTION, _allocation(10, 4))),
    0x85: Command("ata_pass_through_16", (*_ATA, _field("ata_command", 14))),
    0x88: Command("read_16", _RW16),
    0x89: Command("compare_and_write", (*_DPO_FUA, _LBA64, _field("number_of_blocks", 13))),
    0x8A: Command("write_16", _RW16),
    0x8E: Command("write_and_verify_16", (*_VERIFY, _LBA64, _transfer(10, 4))),
    0x8F: Command("verify_16", (*_VERIFY, _LBA64, _field("verification_length", 10, 4))),
    0x90: Command("pre_fetch_16", (_LBA64, _transfer(10, 4))),
    0x91: Command("synchronize_cache_16", (_bit("immed", 1, 1), _LBA64, _blocks(10, 4))),
    0x93: Command("write_same_16", (_bit("unmap", 1, 3), _LBA64, _blocks(10, 4))),
    0x9E: Command("service_action_in_16", (_ACTION, _LBA64, _allocation(10, 4))),
    0x9F: Command("service_action_out_16", (_ACTION,)),
    0xA0: Command("report_luns", (_field("select_report", 2), _allocation(6, 4))),
    0xA1: Command("ata_pass_through_12", (*_ATA, _field("ata_command", 9))),
    0xA3: Command("maintenance_in", (_ACTION, _allocation(6, 4))),
    0xA4: Command("maintenance_out", (_ACTION, _parameters(6, 4))),
    0xA5: Command("move_medium"),
    0xA8: Command("read_12", _RW12),
    0xAA: Command("write_12", _RW12),
    0xAE: Command("write_and_verify_12", (*_VERIFY, _LBA32, _transfer(6, 4))),
    0xAF: Command("verify_12", (*_VERIFY, _LBA32, _field("verification_length", 6, 4))),
    0xB7: Command("read_defect_data_12", (_allocation(6, 4),)),
    0xB8: Command("read_element_status", (_allocation(7, 3),)),
    0xBB: Command("set_cd_speed"),
    0xBE: Command("read_cd", (_LBA32, _field("transfer_length", 6, 3))),
}
"""Commands by opcode."""

SERVICE_ACTIONS: Final = {
    (0x9E, 0x10): "read_capacity_16",
    (0x9E, 0x11): "read_long_16",
    (0x9E, 0x12): "get_lba_status",
    (0x9F, 0x11): "write_long_16",
    (0xA3, 0x05): "report_identifying_information",
    (0xA3, 0x0A): "report_target_port_groups",
    (0xA3, 0x0C): "report_supported_operation_codes",
    (0xA4, 0x0A): "set_target_port_groups",
    (0x5E, 0x00): "persistent_reserve_in_read_keys",
    (0x5E, 0x01): "persistent_reserve_in_read_reservation",
    (0x5E, 0x02): "persistent_reserve_in_report_capabilities",
    (0x5F, 0x00): "persistent_reserve_out_register",
    (0x5F, 0x01): "persistent_reserve_out_reserve",
    (0x5F, 0x02): "persistent_reserve_out_release",
    (0x5F, 0x03): "persistent_reserve_out_clear",
    (0x5F, 0x04): "persistent_reserve_out_preempt",
}
"""Commands that are told apart by their service action, by opcode and action."""

READ_CAPACITY_16_ACTION: Final = 0x10

_SHOWN: Final = frozenset(
    (
        "lba",
        "page_code",
        "service_action",
        "transfer_length",
        "number_of_blocks",
        "verification_length",
    )
)
"""Fields that a line has room for."""

_SIZES: Final = (6, 10, 10, 0, 16, 12, 0, 0)
_FIRST_VENDOR: Final = 0xC0

ADDITIONAL_SENSE: Final = {
    0x0000: "no additional sense information",
    0x0001: "filemark detected",
    0x0002: "end of partition or medium detected",
    0x0003: "setmark detected",
    0x0004: "beginning of partition or medium detected",
    0x0005: "end of data detected",
    0x0006: "I/O process terminated",
    0x0011: "audio play operation in progress",
    0x0016: "operation in progress",
    0x0017: "cleaning requested",
    0x001D: "ATA pass-through information available",
    0x0100: "no index or sector signal",
    0x0200: "no seek complete",
    0x0300: "peripheral device write fault",
    0x0301: "no write current",
    0x0302: "excessive write errors",
    0x0400: "logical unit not ready, cause not reportable",
    0x0401: "logical unit is in process of becoming ready",
    0x0402: "logical unit not ready, initializing command required",
    0x0403: "logical unit not ready, manual intervention required",
    0x0404: "logical unit not ready, format in progress",
    0x0405: "logical unit not ready, rebuild in progress",
    0x0406: "logical unit not ready, recalculation in progress",
    0x0407: "logical unit not ready, operation in progress",
    0x0408: "logical unit not ready, long write in progress",
    0x0409: "logical unit not ready, self-test in progress",
    0x040A: "logical unit not accessible, asymmetric access state transition",
    0x040B: "logical unit not accessible, target port in standby state",
    0x040C: "logical unit not accessible, target port in unavailable state",
    0x0411: "logical unit not ready, notify (enable spinup) required",
    0x0412: "logical unit not ready, offline",
    0x041B: "logical unit not ready, sanitize in progress",
    0x0500: "logical unit does not respond to selection",
    0x0600: "no reference position found",
    0x0700: "multiple peripheral devices selected",
    0x0800: "logical unit communication failure",
    0x0801: "logical unit communication time-out",
    0x0802: "logical unit communication parity error",
    0x0803: "logical unit communication CRC error",
    0x0900: "track following error",
    0x0902: "focus servo failure",
    0x0A00: "error log overflow",
    0x0B00: "warning",
    0x0B01: "warning, specified temperature exceeded",
    0x0B02: "warning, enclosure degraded",
    0x0C00: "write error",
    0x0C01: "write error, recovered with auto reallocation",
    0x0C02: "write error, auto reallocation failed",
    0x0C03: "write error, recommend reassignment",
    0x0C0D: "write error, not enough unsolicited data",
    0x1000: "ID CRC or ECC error",
    0x1001: "logical block guard check failed",
    0x1002: "logical block application tag check failed",
    0x1003: "logical block reference tag check failed",
    0x1100: "unrecovered read error",
    0x1101: "read retries exhausted",
    0x1102: "error too long to correct",
    0x1103: "multiple read errors",
    0x1104: "unrecovered read error, auto reallocate failed",
    0x1105: "L-EC uncorrectable error",
    0x1106: "CIRC unrecovered error",
    0x110B: "unrecovered read error, recommend reassignment",
    0x110C: "unrecovered read error, recommend rewrite the data",
    0x1114: "read error, logical block marked bad by application client",
    0x1200: "address mark not found for ID field",
    0x1300: "address mark not found for data field",
    0x1400: "recorded entity not found",
    0x1401: "record not found",
    0x1402: "filemark or setmark not found",
    0x1403: "end of data not found",
    0x1500: "random positioning error",
    0x1501: "mechanical positioning error",
    0x1502: "positioning error detected by read of medium",
    0x1600: "data synchronization mark error",
    0x1700: "recovered data with no error correction applied",
    0x1701: "recovered data with retries",
    0x1702: "recovered data with positive head offset",
    0x1703: "recovered data with negative head offset",
    0x1705: "recovered data using previous sector ID",
    0x1706: "recovered data without ECC, data auto-reallocated",
    0x1707: "recovered data without ECC, recommend reassignment",
    0x1708: "recovered data without ECC, recommend rewrite",
    0x1800: "recovered data with error correction applied",
    0x1801: "recovered data with error correction and retries applied",
    0x1802: "recovered data, data auto-reallocated",
    0x1805: "recovered data, recommend reassignment",
    0x1900: "defect list error",
    0x1901: "defect list not available",
    0x1902: "defect list error in primary list",
    0x1903: "defect list error in grown list",
    0x1A00: "parameter list length error",
    0x1B00: "synchronous data transfer error",
    0x1C00: "defect list not found",
    0x1D00: "miscompare during verify operation",
    0x1E00: "recovered ID with ECC correction",
    0x2000: "invalid command operation code",
    0x2100: "logical block address out of range",
    0x2101: "invalid element address",
    0x2200: "illegal function",
    0x2400: "invalid field in CDB",
    0x2500: "logical unit not supported",
    0x2600: "invalid field in parameter list",
    0x2601: "parameter not supported",
    0x2602: "parameter value invalid",
    0x2603: "threshold parameters not supported",
    0x2604: "invalid release of persistent reservation",
    0x2700: "write protected",
    0x2701: "hardware write protected",
    0x2702: "logical unit software write protected",
    0x2707: "space allocation failed write protect",
    0x2800: "not ready to ready change, medium may have changed",
    0x2801: "import or export element accessed",
    0x2900: "power on, reset, or bus device reset occurred",
    0x2901: "power on occurred",
    0x2902: "SCSI bus reset occurred",
    0x2903: "bus device reset function occurred",
    0x2904: "device internal reset",
    0x2905: "transceiver mode changed to single-ended",
    0x2906: "transceiver mode changed to LVD",
    0x2907: "I_T nexus loss occurred",
    0x2A00: "parameters changed",
    0x2A01: "mode parameters changed",
    0x2A02: "log parameters changed",
    0x2A03: "reservations preempted",
    0x2A04: "reservations released",
    0x2A05: "registrations preempted",
    0x2A06: "asymmetric access state changed",
    0x2A09: "capacity data has changed",
    0x2B00: "copy cannot execute since initiator cannot disconnect",
    0x2C00: "command sequence error",
    0x2D00: "overwrite error on update in place",
    0x2F00: "commands cleared by another initiator",
    0x3000: "incompatible medium installed",
    0x3001: "cannot read medium, unknown format",
    0x3002: "cannot read medium, incompatible format",
    0x3003: "cleaning cartridge installed",
    0x3100: "medium format corrupted",
    0x3101: "format command failed",
    0x3200: "no defect spare location available",
    0x3201: "defect list update failure",
    0x3500: "enclosure services failure",
    0x3700: "rounded parameter",
    0x3807: "thin provisioning soft threshold reached",
    0x3900: "saving parameters not supported",
    0x3A00: "medium not present",
    0x3A01: "medium not present, tray closed",
    0x3A02: "medium not present, tray open",
    0x3B00: "sequential positioning error",
    0x3B0D: "medium destination element full",
    0x3B0E: "medium source element empty",
    0x3D00: "invalid bits in identify message",
    0x3E00: "logical unit has not self-configured yet",
    0x3E01: "logical unit failure",
    0x3E02: "timeout on logical unit",
    0x3F00: "target operating conditions have changed",
    0x3F01: "microcode has been changed",
    0x3F02: "changed operating definition",
    0x3F03: "inquiry data has changed",
    0x3F05: "device identifier changed",
    0x3F0E: "reported LUNs data has changed",
    0x4100: "data path failure",
    0x4200: "power-on or self-test failure",
    0x4300: "message error",
    0x4400: "internal target failure",
    0x4500: "select or reselect failure",
    0x4600: "unsuccessful soft reset",
    0x4700: "SCSI parity error",
    0x4701: "data phase CRC error detected",
    0x4703: "information unit iuCRC error detected",
    0x4800: "initiator detected error message received",
    0x4900: "invalid message error",
    0x4A00: "command phase error",
    0x4B00: "data phase error",
    0x4C00: "logical unit failed self-configuration",
    0x4E00: "overlapped commands attempted",
    0x5000: "write append error",
    0x5100: "erase failure",
    0x5200: "cartridge fault",
    0x5300: "media load or eject failed",
    0x5302: "medium removal prevented",
    0x5500: "system resource failure",
    0x5501: "system buffer full",
    0x5700: "unable to recover table of contents",
    0x5A01: "operator medium removal request",
    0x5B00: "log exception",
    0x5D00: "failure prediction threshold exceeded",
    0x5DFF: "failure prediction threshold exceeded (false)",
    0x5E00: "low power condition on",
    0x6300: "end of user area encountered on this track",
    0x6400: "illegal mode for this track",
    0x6500: "voltage fault",
    0x6700: "configuration failure",
    0x6800: "logical unit not configured",
    0x6900: "data loss on logical unit",
    0x6A00: "informational, refer to log",
    0x6B00: "state change has occurred",
    0x6C00: "rebuild failure occurred",
    0x6D00: "recalculate failure occurred",
    0x7200: "session fixation error",
    0x7300: "CD control error",
    0x7400: "security error",
}
"""Text of additional sense codes, by code << 8 | qualifier."""

_DIAGNOSTIC_FAILURE: Final = 0x40
_TAGGED_OVERLAP: Final = 0x4D


def command_name(opcode: int, service_action: int | None = None) -> str:
    """Return what a command is called; `vendor_specific_0xc0`, `unknown_0x77` if it has no name.

    Args:
        opcode: first byte of the CDB.
        service_action: for the commands that have one.
    """
    if service_action is not None:
        name = SERVICE_ACTIONS.get((opcode, service_action))
        if name is not None:
            return name
    command = COMMANDS.get(opcode)
    if command is not None:
        return command.name
    return f"{'vendor_specific' if opcode >= _FIRST_VENDOR else 'unknown'}_{opcode:#04x}"


def cdb_size(opcode: int) -> int:
    """Return the bytes of a CDB by its opcode, 0 if the opcode does not tell."""
    return 0 if opcode == 0x7F else _SIZES[opcode >> 5]


def page_name(cdb: bytes, page: int) -> str:
    """Return what a command's page code means: a mode page or vital product data; or nothing."""
    if cdb[0] in (MODE_SENSE_6, MODE_SENSE_10):
        return MODE_PAGES.get(page, "")
    if cdb[0] == INQUIRY and cdb[1] & 1:
        return VPD_PAGES.get(page, "")
    return ""


def cdb_text(cdb: bytes) -> str:
    """Return a CDB in a few words, such as `read_10 lba 2048, 8 blocks`; empty for no bytes."""
    if not cdb:
        return ""
    command = COMMANDS.get(cdb[0])
    if command is None:
        return command_name(cdb[0])
    name, words = command.name, []
    for field, byte, size, bit, width in command.fields:
        if byte + size > len(cdb):
            break
        if field not in _SHOWN:
            continue
        value = int.from_bytes(cdb[byte : byte + size], "big") >> bit & (1 << width) - 1
        if field == "service_action":
            name = SERVICE_ACTIONS.get((cdb[0], value), name)
        elif field == "lba":
            words.append(f"lba {value}")
        elif field == "page_code":
            page = page_name(cdb, value)
            if page or (cdb[0] == INQUIRY and cdb[1] & 1):
                words.append(page or f"page {value:#04x}")
        else:
            if field == "transfer_length" and size == 1:
                value = value or 256
            words.append(f"{value} blocks")
    return f"{name} {', '.join(words)}" if words else name


def additional_sense_text(code: int, qualifier: int) -> str:
    """Return what an additional sense code and its qualifier say; never empty."""
    found = ADDITIONAL_SENSE.get(code << 8 | qualifier)
    if found is not None:
        return found
    if code == _DIAGNOSTIC_FAILURE:
        return f"diagnostic failure on component {qualifier:#04x}"
    if code == _TAGGED_OVERLAP:
        return f"tagged overlapped commands, tag {qualifier:#04x}"
    if code >= 0x80 or qualifier >= 0x80:
        return f"vendor specific {code:#04x}/{qualifier:#04x}"
    general = ADDITIONAL_SENSE.get(code << 8)
    if general is not None:
        return f"{general} (qualifier {qualifier:#04x})"
    return f"unknown {code:#04x}/{qualifier:#04x}"
