# SPDX-License-Identifier: Apache-2.0
"""Finds the layout of a frame, a parameter group or a name, over all chapters.

A function code alone does not name a message: codes between the utility and the executive range
belong to the class of the device addressed, and several classes share some. So the lookups take
the class number of the LCT entry; without one they answer only what is unambiguous.
Private messages (0xFF) are told apart by what is in word 4, which no lookup here sees.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final

from i2o.frames import (
    adapter,
    block_storage,
    block_storage_groups,
    executive,
    executive_groups,
    header,
    lan,
    lan_groups,
    network_message,
    params,
    private,
    scsi,
    sgl,
    tables,
    utility,
)
from i2o.frames.functions import DeviceClass, Function, OrganizationId
from i2o.frames.header import DetailedStatus, MsgFlags, ReqStatus
from i2o.frames.layout import Layout, MessageLayout, ParameterGroup, ValueNames

_CLASSLESS: Final = ("utility", "executive", "private")
"""Chapters whose function codes mean the same for every class."""

_CHAPTERS: Final = {
    DeviceClass.EXECUTIVE.value: "executive",
    DeviceClass.RANDOM_BLOCK_STORAGE.value: "bsa",
    DeviceClass.LAN.value: "lan",
    DeviceClass.FIBRE_CHANNEL_PERIPHERAL.value: "scsi_peripheral",  # so do DPT's drivers
    DeviceClass.SCSI_PERIPHERAL.value: "scsi_peripheral",
    DeviceClass.BUS_ADAPTER_PORT.value: "hba_bus_port",
    DeviceClass.HOT_PLUG_CONTROLLER.value: "hot_plug",
}

_CLASS_OF_CHAPTER: Final = {
    "bsa": DeviceClass.RANDOM_BLOCK_STORAGE.value,
    "lan": DeviceClass.LAN.value,
    "scsi_peripheral": DeviceClass.SCSI_PERIPHERAL.value,
    "hba_bus_port": DeviceClass.BUS_ADAPTER_PORT.value,
    "hot_plug": DeviceClass.HOT_PLUG_CONTROLLER.value,
}
"""The usual class of a chapter's devices."""

_PREFIXES: Final = {
    "UTIL": "utility",
    "EXEC": "executive",
    "BSA": "bsa",
    "LAN": "lan",
    "SCSI": "scsi_peripheral",
    "HBA": "hba_bus_port",
    "HOT": "hot_plug",
    "PRIVATE": "private",
}
"""Chapter by the first word of a `Function` member."""

_DPT_GROUPS: Final = {
    DeviceClass.EXECUTIVE.value: private.DPT_IOP_BUFFERS,
    DeviceClass.RANDOM_BLOCK_STORAGE.value: private.DPT_DEVICE_INFO,
    DeviceClass.SCSI_PERIPHERAL.value: private.DPT_DEVICE_INFO,
    DeviceClass.FIBRE_CHANNEL_PERIPHERAL.value: private.DPT_DEVICE_INFO,
}

_ABORTED: Final = frozenset(status.value for status in ReqStatus if "ABORT" in status.name)


@cache
def messages() -> tuple[MessageLayout, ...]:
    """Return every message layout."""
    return (
        *header.MESSAGES,
        *utility.MESSAGES,
        *executive.MESSAGES,
        *block_storage.MESSAGES,
        *scsi.MESSAGES,
        *adapter.MESSAGES,
        *lan.MESSAGES,
        *private.MESSAGES,
        *network_message.MESSAGES,
    )


@cache
def structures() -> tuple[Layout, ...]:
    """Return the layout of everything that is neither a message nor a parameter group."""
    return (
        *header.STRUCTURES,
        *tables.STRUCTURES,
        *sgl.STRUCTURES,
        *params.STRUCTURES,
        *lan.STRUCTURES,
        *network_message.STRUCTURES,
    )


@cache
def parameter_groups() -> tuple[ParameterGroup, ...]:
    """Return every parameter group."""
    return (
        *params.GROUPS,
        *executive_groups.GROUPS,
        *block_storage_groups.GROUPS,
        *scsi.GROUPS,
        *adapter.GROUPS,
        *lan_groups.GROUPS,
        *private.GROUPS,
    )


def layout(qualified_name: str) -> Layout:
    """Return a layout by its `qualified_name`, such as `bsa.bsa_block_read.request`.

    Raises:
        KeyError: there is none.
    """
    return _by_name()[qualified_name]


def request_layouts(function: int) -> tuple[MessageLayout, ...]:
    """Return the requests with a function code, one per class (or private user) that has it."""
    return _requests().get(function, ())


def request_layout(function: int, device_class: int | None) -> MessageLayout | None:
    """Return the request with a function code, as a device of a class understands it.

    Args:
        function: the function code.
        device_class: class number of the LCT entry, None if not known. Utility, executive and
            private codes do not depend on it; for 0xFF the answer is `PRIVATE_MESSAGE`.

    Returns:
        The layout; None if the class has no such function, or if the class is not known and
        several have one.
    """
    chapter = _chapter(function, device_class)
    for found in request_layouts(function):
        if found.chapter == chapter:
            return found
    return None


def layout_of_request(frame: bytes | bytearray, device_class: int | None) -> MessageLayout | None:
    """Return the layout of a request, private ones told apart by their word 4.

    Args:
        frame: the request, at least its first two words.
        device_class: see `request_layout`.

    Returns:
        The layout, None if its function is not known.
    """
    function = frame[7]
    if function == Function.PRIVATE_MESSAGE and len(frame) >= 20:
        found = private_requests().get(int.from_bytes(frame[16:20], "little"))
        if found is not None:
            return found
    return request_layout(function, device_class)


@cache
def class_of_function(function: int) -> int | None:
    """Return the device class that a function code gives away, None if several classes have it."""
    chapter = _chapter(function, None)
    return None if chapter in _CLASSLESS else _CLASS_OF_CHAPTER.get(chapter)


def reply_layout(
    function: int,
    device_class: int | None,
    msg_flags: int = header.FINAL_REPLY,
    req_status: int = 0,
    size_words: int | None = None,
) -> MessageLayout:
    """Return the layout of a reply.

    Args:
        function: the function code, which a reply repeats.
        device_class: class number of the device that answers, None if not known.
        msg_flags: the reply's MsgFlags.
        req_status: byte 19 of the reply; ignored for the few replies that have no status there.
        size_words: the reply's MessageSize; a reply too short for what its status promises gets
            the longest layout that fits. None: as long as it should be.

    Returns:
        The layout; the single transaction reply when nothing better is known.
    """
    if msg_flags & MsgFlags.FAIL:
        return header.FAILURE_REPLY
    own = _own_replies().get((function, _chapter(function, device_class)))
    if own is not None and not any(field.path == "req_status" for field in own.fields):
        return own
    for candidate in _candidates(function, device_class, msg_flags, req_status, own):
        if size_words is None or candidate.size <= 4 * size_words:
            return candidate
    return header.SINGLE_TRANSACTION_REPLY


def private_reply_layout(
    request: MessageLayout | None, msg_flags: int, req_status: int, size_words: int
) -> MessageLayout | None:
    """Return the layout of the reply to a private request that has replies of its own.

    Args:
        request: the request's layout.
        msg_flags: the reply's MsgFlags.
        req_status: byte 19 of the reply.
        size_words: the reply's MessageSize.

    Returns:
        The layout; None if `reply_layout` knows.
    """
    if request is None or msg_flags & MsgFlags.FAIL or req_status:
        return None
    own = network_message.REPLIES.get(request.name)
    return own if own is not None and own.size <= 4 * size_words else None


def detailed_status(function: int, device_class: int | None) -> ValueNames:
    """Return the class that names the DetailedStatusCode of replies to a function.

    Bus adapter ports and LAN ports answer some requests with the single transaction reply of
    all classes, yet with codes of their own.
    """
    own: dict[str, ValueNames] = {
        "bsa": block_storage.BsaDetailedStatus,
        "scsi_peripheral": scsi.ScsiDetailedStatus,
        "hba_bus_port": adapter.HbaDetailedStatus,
        "lan": lan.LanDetailedStatus,
    }
    return own.get(_chapter(function, device_class), DetailedStatus)


def group_layout(group_number: int, device_class: int | None) -> ParameterGroup | None:
    """Return a parameter group, as a device of a class has it.

    Args:
        group_number: the number; 0xF000 and up are the same for every class.
        device_class: class number of the LCT entry, `DeviceClass.EXECUTIVE` for TID 0.

    Returns:
        The group, or None.
    """
    if group_number >= params.FIRST_GENERIC_GROUP:
        return _groups().get(("any", group_number))
    if device_class is None:
        return None
    if group_number == private.DPT_DEVICE_INFO.number:
        return _DPT_GROUPS.get(device_class)
    return _groups().get((_CHAPTERS.get(device_class, ""), group_number))


@lru_cache(maxsize=1024)
def function_name(function: int, device_class: int | None = None) -> str:
    """Return the spec's name of a function in snake case, such as `bsa_block_read`.

    Args:
        function: the function code.
        device_class: class number of the device addressed. Without it a code that several
            classes share gives all their names, joined by `|`.

    Returns:
        The name; `unknown_0x5c` if no name is known.
    """
    names = _function_names().get(function, {})
    chapter = _chapter(function, device_class)
    if chapter in names:
        return names[chapter]
    if device_class is None and names:
        return "|".join(names.values())
    return f"unknown_{function:#04x}"


def _candidates(
    function: int,
    device_class: int | None,
    msg_flags: int,
    req_status: int,
    own: MessageLayout | None,
) -> tuple[MessageLayout, ...]:
    """Return what a reply may be, the best first."""
    chapter = _chapter(function, device_class)
    if req_status == ReqStatus.TRANSACTION_ERROR:
        return (header.TRANSACTION_ERROR_REPLY,)
    if own is not None:
        return (own,)
    if chapter == "bsa":
        if req_status == ReqStatus.SUCCESS:
            return (block_storage.BSA_SUCCESS_REPLY,)
        if req_status == ReqStatus.PROGRESS_REPORT:
            return (block_storage.BSA_PROGRESS_REPLY,)
        if req_status in _ABORTED:
            return (block_storage.BSA_ABORT_REPLY,)
        return (
            block_storage.BSA_ERROR_REPLY,
            block_storage.BSA_SUCCESS_REPLY,
            block_storage.BSA_ABORT_REPLY,
        )
    if chapter == "scsi_peripheral":
        if req_status == ReqStatus.SUCCESS:
            return (scsi.SCSI_SUCCESS_REPLY,)
        return scsi.SCSI_ERROR_REPLY, scsi.SCSI_SUCCESS_REPLY
    if msg_flags & MsgFlags.MULTIPLE:
        return (header.MULTIPLE_TRANSACTION_REPLY,)
    return ()


def _chapter(function: int, device_class: int | None) -> str:
    """Return the chapter that defines a function for a class, or an empty string."""
    chapters = _function_names().get(function, {})
    for chapter in _CLASSLESS:
        if chapter in chapters:
            return chapter
    if device_class is not None:
        return _CHAPTERS.get(device_class, "")
    return next(iter(chapters)) if len(chapters) == 1 else ""


@cache
def _function_names() -> dict[int, dict[str, str]]:
    """Return names by function code and chapter; of two members for one, the first counts."""
    names: dict[int, dict[str, str]] = {}
    for name, member in Function.__members__.items():
        chapter = _PREFIXES.get(name.split("_")[0])
        if chapter is not None:
            names.setdefault(member.value, {}).setdefault(chapter, name.lower())
    return names


@cache
def _by_name() -> dict[str, Layout]:
    every: tuple[Layout, ...] = (*messages(), *structures(), *parameter_groups())
    return {found.qualified_name: found for found in every}


@cache
def _requests() -> dict[int, tuple[MessageLayout, ...]]:
    table: dict[int, tuple[MessageLayout, ...]] = {}
    for found in messages():
        if found.direction == "request" and found.function is not None:
            table[found.function] = (*table.get(found.function, ()), found)
    return table


@cache
def private_requests() -> dict[int, MessageLayout]:
    """Return the private messages by word 4: organization and function code."""
    dpt, own = OrganizationId.DPT_ADAPTEC.value << 16, network_message.ORGANIZATION << 16
    return {
        **{dpt | function.value: found for function, found in private.DPT_REQUESTS.items()},
        **{own | function.value: found for function, found in network_message.REQUESTS.items()},
    }


@cache
def _own_replies() -> dict[tuple[int, str], MessageLayout]:
    """Return the replies that belong to one function."""
    return {
        (found.function, found.chapter): found
        for found in messages()
        if found.direction == "reply" and found.function is not None
    }


@cache
def _groups() -> dict[tuple[str, int], ParameterGroup]:
    return {(found.chapter, found.number): found for found in parameter_groups()}
