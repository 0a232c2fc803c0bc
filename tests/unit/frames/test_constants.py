# SPDX-License-Identifier: Apache-2.0
"""Every named value of the wire facts is a member of the enum of its chapter."""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag

import pytest
from unit.frames.frames_facts import FACTS

from i2o.frames import (
    adapter,
    block_storage,
    block_storage_groups,
    executive,
    executive_groups,
    functions,
    header,
    lan,
    lan_groups,
    params,
    private,
    scsi,
    sgl,
    tables,
    utility,
)

Names = type[IntEnum] | type[IntFlag]

# names of the facts that start with a digit or are one constant of a module
RENAMED = {
    "64bit_context": "CONTEXT_64BIT",
    "16bit_words": "WORDS_16BIT",
    "32bit_dwords": "DWORDS_32BIT",
    "32bit_transaction": "TRANSACTION_32BIT",
    "64bit_transaction": "TRANSACTION_64BIT",
    "32bit_local_address": "LOCAL_ADDRESS_32BIT",
    "64bit_address": "ADDRESS_64BIT",
    "32_bit": "BITS_32",
    "64_bit": "BITS_64",
    "32_or_64_bit": "BITS_32_OR_64",
    "32_and_64_bit": "BITS_32_AND_64",
    "100base_vg": "VG_100BASE",
}

# sets that mix the values of several fields: the class of a name, and the name in it
SPLIT: dict[str, list[tuple[str, Names]]] = {
    "event_data_codes": [
        ("STATE_CHANGE_", utility.StateChange),
        ("GEN_WARNING_", utility.GeneralWarning),
        ("CAPABILITY_", utility.CapabilityChange),
        ("SENSOR_", utility.SensorEvent),
        ("RESOURCE_LIMIT_", executive.ResourceLimit),
        ("CONNECTION_FAIL_", executive.ConnectionFail),
        ("RESET_PENDING_", executive.ResetPending),
        ("RESET_IMMINENT_", executive.ResetImminent),
        ("HARDWARE_FAIL_", executive.HardwareFail),
        ("DDM_AVAILIBILITY_", executive.DdmAvailability),
    ],
    "lan_flags": [
        ("TCW_", lan.LanTransmitControl),
        ("BD_", lan.LanPacketFlags),
        ("RESOURCE_", lan.LanResourceFlags),
    ],
    "scsi_port_connector": [
        ("GENDER_", scsi.ScsiConnectorGender),
        ("", scsi.ScsiPortConnector),
    ],
    "sgl_flags_v15": [
        ("!LAST_ELEMENT", sgl.SglFlags),
        ("!_ELEMENT", sgl.SglElementType),
        ("!CONTEXT", sgl.SglContextSize),
        ("", sgl.SglFlags),
    ],
}

CLASSES: dict[str, Names] = {
    "req_status": header.ReqStatus,
    "detailed_status_common": header.DetailedStatus,
    "failure_code": header.FailureCode,
    "failure_severity": header.FailureSeverity,
    "message_flags": header.MsgFlags,
    "trl_flags": header.TrlFlags,
    "special_tid": header.SpecialTid,
    "class_code": functions.DeviceClass,
    "ddm_subclass": functions.DdmSubclass,
    "org_id_seen": functions.OrganizationId,
    "claim_flags": utility.ClaimFlags,
    "claim_type": utility.ClaimType,
    "release_flags": utility.ReleaseFlags,
    "abort_type": utility.AbortType,
    "event_generic": utility.GenericEvent,
    "event_executive": executive.ExecutiveEvent,
    "sw_type": executive.SwType,
    "sw_download_flags": executive.SwDownloadFlags,
    "adapter_read_flags": executive.AdapterReadFlags,
    "iop_hw_capabilities": executive_groups.IopHwCapabilities,
    "iop_sw_capabilities": executive_groups.IopSwCapabilities,
    "iop_processor_type": executive_groups.IopProcessorType,
    "ddm_module_type": executive_groups.DdmModuleType,
    "iop_bus_attribute": executive_groups.IopBusAttribute,
    "iop_state": tables.IopState,
    "iop_capabilities": tables.IopCapabilities,
    "init_code": tables.InitCode,
    "messenger_type": tables.MessengerType,
    "iop_reset_status": tables.IopResetStatus,
    "outbound_init_status": tables.OutboundInitStatus,
    "bus_type": tables.BusType,
    "hrt_adapter_state": tables.HrtAdapterState,
    "lct_device_flags": tables.LctDeviceFlags,
    "serial_format": tables.SerialFormat,
    "module_context_support": tables.ModuleContextSupport,
    "module_table_type": tables.ModuleTableType,
    "sgl_attribute_flags": sgl.SglAttributeFlags,
    "param_operation": params.ParamOperation,
    "param_block_status": params.ParamBlockStatus,
    "group_properties": params.GroupProperties,
    "sensor_component": params.SensorComponent,
    "sensor_class": params.SensorClass,
    "sensor_type": params.SensorType,
    "sensor_state": params.SensorState,
    "sensor_event_enable": params.SensorEventEnable,
    "bsa_detailed_status": block_storage.BsaDetailedStatus,
    "bsa_read_flags": block_storage.BsaReadFlags,
    "bsa_write_flags": block_storage.BsaWriteFlags,
    "bsa_power_op": block_storage.BsaPowerOperation,
    "event_bsa": block_storage.BsaEvent,
    "bsa_device_type": block_storage_groups.BsaDeviceType,
    "bsa_capability": block_storage_groups.BsaCapability,
    "bsa_state": block_storage_groups.BsaState,
    "bsa_redundancy": block_storage_groups.BsaRedundancy,
    "bsa_spare_state": block_storage_groups.BsaSpareState,
    "bsa_association_type": block_storage_groups.BsaAssociationType,
    "bsa_association_object": block_storage_groups.BsaAssociationObject,
    "bsa_data_stripe_unit": block_storage_groups.BsaDataStripeUnit,
    "bsa_error_correction": block_storage_groups.BsaErrorCorrection,
    "bsa_write_policy": block_storage_groups.BsaWritePolicy,
    "bsa_read_policy": block_storage_groups.BsaReadPolicy,
    "scsi_device_status_low_byte": scsi.ScsiDeviceStatus,
    "scsi_hba_status_high_byte": scsi.ScsiHbaStatus,
    "scb_flags": scsi.ScbFlags,
    "scsi_device_type": scsi.ScsiDeviceType,
    "event_scsi": scsi.ScsiEvent,
    "scsi_port_phys": scsi.ScsiPortPhysical,
    "scsi_port_elec": scsi.ScsiPortElectrical,
    "hba_detailed_status": adapter.HbaDetailedStatus,
    "hba_bus_type": adapter.HbaBusType,
    "hba_quiesce_flags": adapter.HbaQuiesceFlags,
    "lan_detailed_status": lan.LanDetailedStatus,
    "lan_packet_status": lan.LanPacketStatus,
    "event_lan": lan.LanEvent,
    "lan_type": lan_groups.LanType,
    "lan_device_state": lan_groups.LanDeviceState,
}

# tested by hand below
BY_HAND = {"bsa_other", "event_hot_plug (v2.0)"}


def member_name(fact_name: str) -> str:
    """Turn `rta (v2.0)` into `RTA`."""
    bare = re.sub(r"\s*\(.*\)", "", fact_name).split(" / ")[0].strip()
    return RENAMED.get(bare, bare.upper())


def home_of(set_name: str, name: str) -> tuple[Names, str]:
    """Return the class that has a name, and the name without what its class says already."""
    for prefix, names in SPLIT.get(set_name, ()):
        if prefix.startswith("!") and prefix[1:] in name:
            return names, name
        if name.startswith(prefix):
            return names, name.removeprefix(prefix)
    return CLASSES[set_name], name


CASES = [
    (set_name, fact_name, value)
    for set_name, values in FACTS["constants"].items()
    if set_name not in BY_HAND
    for fact_name, value in values.items()
    if not value.startswith(">") and (set_name, fact_name) != ("bsa_redundancy", "group_no")
]


@pytest.mark.parametrize(
    ("set_name", "fact_name", "value"), CASES, ids=[f"{s}.{n}" for s, n, _ in CASES]
)
def test_constant_has_the_value_of_the_facts(set_name: str, fact_name: str, value: str) -> None:
    names, name = home_of(set_name, member_name(fact_name))
    assert int(names[name]) == int(value, 16)


def test_every_set_is_looked_at() -> None:
    assert CLASSES.keys() | SPLIT.keys() | BY_HAND == FACTS["constants"].keys()
    assert len(FACTS["constants"]) == 82


@pytest.mark.parametrize("set_name", CLASSES)
def test_no_class_has_a_name_that_the_facts_do_not_know(set_name: str) -> None:
    ours = {"PROGRESS_REPORT_FLAG"}  # a control flag of bsa_other that reads and writes have too
    known = {member_name(name) for name in FACTS["constants"][set_name]}
    assert CLASSES[set_name].__members__.keys() - ours <= known


def test_other_bsa_constants_are_with_the_field_they_belong_to() -> None:
    values = {
        "progress_report_flag (control flags)": block_storage.BsaControlFlags.PROGRESS_REPORT_FLAG,
        "hard_reset": block_storage.BsaResetFlags.HARD_RESET,
        "media_verify_error_correction": (
            block_storage.BsaVerifyFlags.MEDIA_VERIFY_ERROR_CORRECTION
        ),
        "media_id_current": block_storage.MEDIA_ID_CURRENT,
        "load_flag_media_lock": block_storage.BsaLoadFlags.MEDIA_LOCK,
    }
    assert {name: int(v, 16) for name, v in FACTS["constants"]["bsa_other"].items()} == values
    assert int(FACTS["constants"]["bsa_redundancy"]["group_no"], 16) == (
        block_storage_groups.BSA_REDUNDANCY.number
    )


def test_hot_plug_events_have_no_names() -> None:
    bits = FACTS["constants"]["event_hot_plug (v2.0)"]["bits"].split(",")
    assert [int(bit, 16) for bit in bits] == [int(event) for event in utility.HotPlugEvent]


def test_functions_are_those_of_the_facts() -> None:
    known: dict[str, int] = {}
    for chapter, codes in FACTS["functions"].items():
        if chapter == "unknown_in_sources":
            continue
        prefix = "HOT_PLUG_" if chapter.startswith("hot_plug") else ""
        known |= {prefix + name.upper(): int(code, 16) for code, name in codes.items()}
    known |= {
        fact["name"].upper(): fact["function"]
        for fact in FACTS["messages"]
        if fact["function"] is not None
    }
    known |= {"BSA_READ": 0x30, "BSA_WRITE": 0x31}
    assert {name: int(f) for name, f in functions.Function.__members__.items()} == known
    assert functions.Function(0xFF).name == "PRIVATE_MESSAGE"
    assert functions.Function.BSA_READ is functions.Function.BSA_BLOCK_READ


def test_scsi_detailed_status_names_both_halves() -> None:
    both = scsi.ScsiDetailedStatus(0x0402)
    assert both.name == "COMPLETE_WITH_ERROR|CHECK_CONDITION"
    assert both == 0x0402
    assert scsi.ScsiDetailedStatus(0).name == "SUCCESS"
    for wrong in (0x0C00, 0x0401, 0x10000, -1, "2"):
        with pytest.raises(ValueError, match="is not a valid"):
            scsi.ScsiDetailedStatus(wrong)


def test_dpt_functions_are_those_of_the_notes() -> None:
    notes = {
        fact["name"]: {int(n, 16) for n in re.findall(r"0x(0[0-9A-F]{3})\b", fact["note"])}
        for fact in FACTS["messages"]
        if fact["name"].startswith("dpt_private")
    }
    dpt = private.DptFunction
    assert notes == {
        "dpt_private_scsi_scb_exec": {0x1B, dpt.SCSI_SCB_EXEC},
        "dpt_private_flash_region": {
            0x1B,
            dpt.FLASH_SIZE,
            dpt.FLASH_READ,
            dpt.FLASH_WRITE,
            dpt.FLASH_CRC,
        },
        "dpt_private_driver_printf": {0x1B, dpt.DRIVER_PRINTF},
        "dpt_private_diag_enable": {0x1B, dpt.DIAG_ENABLE},
        "dpt_private_driver_getput": {0x1B, dpt.DRIVER_GET, dpt.DRIVER_PUT},
    }
    in_order = (dpt.FLASH_SIZE, dpt.FLASH_READ, dpt.FLASH_WRITE, dpt.FLASH_CRC)
    assert [int(function) for function in in_order] == [0x100, 0x101, 0x102, 0x103]
    assert (dpt.DRIVER_GET, dpt.DRIVER_PUT) == (0x300, 0x301)
    regions = ["FIRMWARE", "BIOS", "NVRAM_DEFAULTS", "SERIAL_NUMBER", "BOOT_FIRMWARE"]
    assert [(r.name, int(r)) for r in private.DptFlashRegion] == [
        (name, number) for number, name in enumerate(regions)
    ]


@pytest.mark.parametrize(
    "flags",
    [
        block_storage.BsaControlFlags,
        block_storage.BsaReadFlags,
        block_storage.BsaWriteFlags,
        block_storage.BsaResetFlags,
        block_storage.BsaVerifyFlags,
    ],
)
def test_every_bsa_request_can_ask_for_progress_reports(flags: type[IntFlag]) -> None:
    assert flags["PROGRESS_REPORT_FLAG"] == 0x80


def test_numbers_beside_the_layouts() -> None:
    assert (tables.SYNC_BYTE_DONE, tables.FREE_TID) == (0xFF, header.SpecialTid.NO_USER)
    assert tables.LCT_ENTRY.size == 4 * tables.ENTRY_WORDS_LCT
    assert tables.HRT_ENTRY.size == 4 * tables.ENTRY_WORDS_HRT
    assert tables.HRT_HEADER_SIZE + tables.HRT_ENTRY.size == tables.HRT_HEADER_AND_FIRST_ENTRY.size
    assert tables.LCT_HEADER_SIZE + tables.LCT_ENTRY.size == tables.LCT_HEADER.size
    assert executive.EXEC_STATUS_GET.new().reply_buffer_length == tables.STATUS_BLOCK.size
    assert (header.EMPTY_MFA, header.MAX_TID, header.HEADER_SIZE) == (0xFFFFFFFF, 0xFFF, 16)
    assert (header.FINAL_REPLY, header.FAIL_REPLY, header.VERSION_1_5) == (0xC0, 0xE0, 1)
    assert (params.ALL_FIELDS, params.FIRST_GENERIC_GROUP) == (0xFFFF, 0xF000)
    assert scsi.SENSE_SIZE == 40
