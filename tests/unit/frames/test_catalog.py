# SPDX-License-Identifier: Apache-2.0
"""Looking layouts up by function, class, group number and name."""

from __future__ import annotations

import pytest

from i2o.frames import (
    adapter,
    block_storage,
    catalog,
    executive,
    header,
    lan,
    params,
    private,
    scsi,
    utility,
)
from i2o.frames.block_storage_groups import BSA_DEVICE_INFO
from i2o.frames.executive_groups import EXEC_IOP_HARDWARE
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import ReqStatus
from i2o.frames.lan_groups import LAN_DEVICE_INFO
from i2o.frames.layout import Layout, MessageLayout
from i2o.frames.tables import STATUS_BLOCK

BSA, SCSI = DeviceClass.RANDOM_BLOCK_STORAGE.value, DeviceClass.SCSI_PERIPHERAL.value
LAN, BUS = DeviceClass.LAN.value, DeviceClass.BUS_ADAPTER_PORT.value
TAPE, FIBRE = DeviceClass.SEQUENTIAL_STORAGE.value, DeviceClass.FIBRE_CHANNEL_PERIPHERAL.value
LAST_REPLY, FAIL, MULTIPLE = 0xC0, 0xE0, 0xD0


def test_tables_are_made_once() -> None:
    assert catalog.messages() is catalog.messages()
    assert catalog.structures() is catalog.structures()
    assert catalog.parameter_groups() is catalog.parameter_groups()


def test_qualified_names_are_unique() -> None:
    every: list[Layout] = [
        *catalog.messages(),
        *catalog.structures(),
        *catalog.parameter_groups(),
    ]
    assert len({layout.qualified_name for layout in every}) == len(every) == 235
    for layout in every:
        assert catalog.layout(layout.qualified_name) is layout


def test_layout_by_name() -> None:
    assert catalog.layout("bsa.bsa_block_read.request") is block_storage.BSA_BLOCK_READ
    assert catalog.layout("tables.status_block") is STATUS_BLOCK
    with pytest.raises(KeyError, match="no_such"):
        catalog.layout("bsa.no_such.request")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (0x30, (block_storage.BSA_BLOCK_READ,)),
        (0x27, (block_storage.BSA_DEVICE_RESET, scsi.SCSI_DEVICE_RESET)),
        (0x35, (block_storage.BSA_MEDIA_VERIFY, lan.LAN_RESET)),
        (0x13, (utility.UTIL_EVENT_REGISTER,)),
        (0x5C, ()),
    ],
)
def test_request_layouts(function: int, expected: tuple[MessageLayout, ...]) -> None:
    assert catalog.request_layouts(function) == expected


def test_private_requests_start_with_the_one_all_share() -> None:
    first, *others = catalog.request_layouts(0xFF)
    assert first is private.PRIVATE_MESSAGE
    assert len(others) == 11


@pytest.mark.parametrize(
    ("function", "device_class", "expected"),
    [
        (0x27, BSA, block_storage.BSA_DEVICE_RESET),
        (0x27, SCSI, scsi.SCSI_DEVICE_RESET),
        (0x27, FIBRE, scsi.SCSI_DEVICE_RESET),
        (0x27, LAN, None),
        (0x27, None, None),
        (0x30, None, block_storage.BSA_BLOCK_READ),
        (0x30, BSA, block_storage.BSA_BLOCK_READ),
        (0x30, TAPE, None),
        (0x37, LAN, lan.LAN_SUSPEND),
        (0x89, BUS, adapter.HBA_BUS_SCAN),
        (0x06, BSA, utility.UTIL_PARAMS_GET),
        (0x06, None, utility.UTIL_PARAMS_GET),
        (0x06, TAPE, utility.UTIL_PARAMS_GET),
        (0xA0, None, executive.EXEC_STATUS_GET),
        (0xA0, 0, executive.EXEC_STATUS_GET),
        (0xFF, BSA, private.PRIVATE_MESSAGE),
        (0xFF, None, private.PRIVATE_MESSAGE),
        (0x45, BSA, None),
        (0x5C, BSA, None),
        (0x5C, None, None),
    ],
)
def test_request_layout(
    function: int, device_class: int | None, expected: MessageLayout | None
) -> None:
    assert catalog.request_layout(function, device_class) is expected


OK, ERROR, ABORTED = ReqStatus.SUCCESS, ReqStatus.ERROR_NO_DATA_TRANSFER, ReqStatus.ABORT_DIRTY
PROGRESS, BAD_FIELD = ReqStatus.PROGRESS_REPORT, ReqStatus.TRANSACTION_ERROR
SINGLE = header.SINGLE_TRANSACTION_REPLY


@pytest.mark.parametrize(
    ("function", "device_class", "flags", "status", "size", "expected"),
    [
        (0x30, BSA, LAST_REPLY, OK, 6, block_storage.BSA_SUCCESS_REPLY),
        (0x30, None, LAST_REPLY, OK, None, block_storage.BSA_SUCCESS_REPLY),
        (0x30, BSA, LAST_REPLY, OK, 5, SINGLE),
        (0x30, BSA, LAST_REPLY, ERROR, 8, block_storage.BSA_ERROR_REPLY),
        (0x30, BSA, LAST_REPLY, ERROR, None, block_storage.BSA_ERROR_REPLY),
        (0x30, BSA, LAST_REPLY, ERROR, 7, block_storage.BSA_SUCCESS_REPLY),
        (0x30, BSA, LAST_REPLY, ERROR, 5, block_storage.BSA_ABORT_REPLY),
        (0x30, BSA, LAST_REPLY, ABORTED, 5, block_storage.BSA_ABORT_REPLY),
        (0x30, BSA, LAST_REPLY, ReqStatus.PROCESS_ABORT_DIRTY, 8, block_storage.BSA_ABORT_REPLY),
        (0x30, BSA, 0x80, PROGRESS, 6, block_storage.BSA_PROGRESS_REPLY),
        (0x30, BSA, LAST_REPLY, BAD_FIELD, 7, header.TRANSACTION_ERROR_REPLY),
        (0x30, BSA, LAST_REPLY, BAD_FIELD, 5, SINGLE),
        (0x30, BSA, FAIL, OK, 9, header.FAILURE_REPLY),
        (0x30, TAPE, LAST_REPLY, OK, 6, SINGLE),
        (0x27, None, LAST_REPLY, ERROR, 8, SINGLE),
        (0x81, SCSI, LAST_REPLY, OK, 6, scsi.SCSI_SUCCESS_REPLY),
        (0x81, SCSI, LAST_REPLY, OK, 17, scsi.SCSI_SUCCESS_REPLY),
        (0x81, SCSI, LAST_REPLY, OK, None, scsi.SCSI_SUCCESS_REPLY),
        (0x81, SCSI, LAST_REPLY, ERROR, 17, scsi.SCSI_ERROR_REPLY),
        (0x81, SCSI, LAST_REPLY, ERROR, 6, scsi.SCSI_SUCCESS_REPLY),
        (0x81, SCSI, LAST_REPLY, ERROR, 5, SINGLE),
        (0x89, BUS, LAST_REPLY, OK, 5, SINGLE),
        (0x09, BSA, LAST_REPLY, ERROR, 5, SINGLE),
        (0x13, BSA, LAST_REPLY, BAD_FIELD, 6, utility.UTIL_EVENT_REGISTER_REPLY),
        (0x13, BSA, FAIL, OK, 9, header.FAILURE_REPLY),
        (0x01, None, LAST_REPLY, OK, 5, utility.UTIL_ABORT_REPLY),
        (0x14, None, LAST_REPLY, OK, 6, utility.UTIL_EVENT_ACK_REPLY),
        (0xCA, 0, LAST_REPLY, OK, 7, executive.EXEC_CONN_SETUP_REPLY),
        (0xC9, 0, LAST_REPLY, OK, 7, executive.EXEC_IOP_CONNECT_REPLY),
        (0xC9, 0, LAST_REPLY, ERROR, 5, SINGLE),
        (0xC9, 0, LAST_REPLY, BAD_FIELD, 7, header.TRANSACTION_ERROR_REPLY),
        (0xDD, 0, LAST_REPLY, OK, 6, executive.EXEC_STATIC_MF_CREATE_REPLY),
        (0xA2, 0, LAST_REPLY, OK, 5, SINGLE),
        (0x3B, LAN, MULTIPLE, OK, 6, lan.LAN_PACKET_SEND_REPLY),
        (0x3E, LAN, MULTIPLE, OK, 9, lan.LAN_RECEIVE_POST_REPLY),
        (0x35, LAN, LAST_REPLY, OK, 5, SINGLE),
        (0x35, BSA, LAST_REPLY, OK, 6, block_storage.BSA_SUCCESS_REPLY),
        (0xFF, SCSI, LAST_REPLY, OK, 6, SINGLE),
        (0xFF, None, MULTIPLE, OK, 6, header.MULTIPLE_TRANSACTION_REPLY),
        (0x5C, BSA, LAST_REPLY, OK, 5, SINGLE),
    ],
)
def test_reply_layout(
    function: int,
    device_class: int | None,
    flags: int,
    status: int,
    size: int | None,
    expected: MessageLayout,
) -> None:
    assert catalog.reply_layout(function, device_class, flags, status, size) is expected


def test_reply_layout_needs_no_more_than_the_function() -> None:
    assert catalog.reply_layout(Function.EXEC_HRT_GET, None) is SINGLE
    assert catalog.reply_layout(Function.BSA_BLOCK_READ, BSA) is block_storage.BSA_SUCCESS_REPLY


@pytest.mark.parametrize(
    ("function", "device_class", "expected"),
    [
        (0x30, BSA, block_storage.BsaDetailedStatus),
        (0x30, None, block_storage.BsaDetailedStatus),
        (0x81, SCSI, scsi.ScsiDetailedStatus),
        (0x89, BUS, adapter.HbaDetailedStatus),
        (0x35, LAN, lan.LanDetailedStatus),
        (0x06, BSA, header.DetailedStatus),
        (0xA2, 0, header.DetailedStatus),
        (0x27, None, header.DetailedStatus),
    ],
)
def test_detailed_status(function: int, device_class: int | None, expected: type) -> None:
    assert catalog.detailed_status(function, device_class) is expected


@pytest.mark.parametrize(
    ("number", "device_class", "expected"),
    [
        (0x0000, 0, EXEC_IOP_HARDWARE),
        (0x0000, BSA, BSA_DEVICE_INFO),
        (0x0000, SCSI, scsi.SCSI_DEVICE_INFO),
        (0x0000, BUS, adapter.HBA_CONTROLLER_INFO),
        (0x0000, LAN, LAN_DEVICE_INFO),
        (0x0000, TAPE, None),
        (0x0000, None, None),
        (0x0777, BSA, None),
        (0xF000, None, params.GROUP_DESCRIPTORS),
        (0xF100, None, params.DEVICE_IDENTITY),
        (0xF101, BSA, params.DDM_IDENTITY),
        (0xF999, BSA, None),
        (0x8000, 0, private.DPT_IOP_BUFFERS),
        (0x8000, BSA, private.DPT_DEVICE_INFO),
        (0x8000, SCSI, private.DPT_DEVICE_INFO),
        (0x8000, FIBRE, private.DPT_DEVICE_INFO),
        (0x8000, LAN, None),
        (0x8000, None, None),
    ],
)
def test_group_layout(number: int, device_class: int | None, expected: Layout | None) -> None:
    assert catalog.group_layout(number, device_class) is expected


@pytest.mark.parametrize(
    ("function", "device_class", "name"),
    [
        (0x00, None, "util_nop"),
        (0x30, None, "bsa_block_read"),
        (0x31, BSA, "bsa_block_write"),
        (0x27, None, "bsa_device_reset|scsi_device_reset"),
        (0x27, SCSI, "scsi_device_reset"),
        (0x35, LAN, "lan_reset"),
        (0x45, BSA, "bsa_media_format"),
        (0x90, DeviceClass.HOT_PLUG_CONTROLLER.value, "hot_plug_power_on"),
        (0xA0, None, "exec_status_get"),
        (0xFF, BSA, "private_message"),
        (0x30, TAPE, "unknown_0x30"),
        (0x5C, None, "unknown_0x5c"),
        (0x02, BSA, "unknown_0x02"),
    ],
)
def test_function_name(function: int, device_class: int | None, name: str) -> None:
    assert catalog.function_name(function, device_class) == name


@pytest.mark.parametrize("layout", catalog.messages(), ids=lambda layout: layout.qualified_name)
def test_every_message_can_be_found_and_named(layout: MessageLayout) -> None:
    classes = {"executive": 0, "bsa": BSA, "scsi_peripheral": SCSI, "hba_bus_port": BUS, "lan": LAN}
    if layout.function is None:
        return
    device_class = classes.get(layout.chapter)
    name = catalog.function_name(layout.function, device_class)
    if layout.chapter == "private":
        assert name == "private_message"
        assert layout in catalog.request_layouts(0xFF)
        return
    assert name == layout.name
    if layout.direction == "request":
        assert catalog.request_layout(layout.function, device_class) is layout
    else:
        assert catalog.reply_layout(layout.function, device_class) is layout
