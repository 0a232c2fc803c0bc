# SPDX-License-Identifier: Apache-2.0
"""What the Wireshark dissector knows about I2O, taken from the layouts and their catalog.

`tables` returns plain data: the names of all fields, every layout with its fields, the classes
that name values, and for each group of device classes which functions they have and what their
requests and replies look like. The Lua runtime only interprets it.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from enum import IntFlag
from functools import cache
from typing import Final

from i2o.decode import event_nodes, scsi
from i2o.decode.filter_fields import FILTER_ALIASES
from i2o.decode.message_text import KIND_NAMES, NOT_SAID, error_text
from i2o.decode.names import field_names, name_of
from i2o.frames import catalog
from i2o.frames.executive import SwType
from i2o.frames.functions import UNANSWERED, DeviceClass, Function
from i2o.frames.header import SINGLE_TRANSACTION_REPLY, MsgFlags, ReqStatus, SpecialTid
from i2o.frames.lan import LanPacketFlags
from i2o.frames.layout import Layout, MessageLayout, ValueNames
from i2o.frames.network_message import REPLIES, REQUESTS
from i2o.frames.params import FIRST_GENERIC_GROUP
from i2o.frames.scsi import ScsiDetailedStatus, ScsiDeviceStatus, ScsiHbaStatus
from i2o.frames.utility import GenericEvent
from i2o.tools.dissector_names import abbreviation, cdb_name, extra_names, label
from i2o.tools.lua_text import LuaTable, LuaValue
from i2o.transport.capture.message_record import (
    MESSAGE_HEADER,
    VERSION,
    EventCode,
    Kind,
    Present,
)
from i2o.transport.fabric.errors import FabricErrno
from i2o.transport.fabric.flags import EndpointType, Flag

_KINDS: Final = {"uint": "u", "sint": "s", "bytes": "b"}
_NO_CLASS: Final = 0x7FE
"""A class number that nothing has: how functions look to a class that defines none."""
_NO_STATUS: Final = 0x7F
"""A ReqStatus without a name."""
_UNKNOWN_FUNCTION: Final = 0x5C
_REPLY: Final = MsgFlags.REPLY.value | MsgFlags.LAST.value


def tables() -> dict[str, LuaTable]:
    """Return every table of the dissector by its name in Lua."""
    replies = _Replies()
    kinds, kind_of_class = _class_kinds(replies)
    return {
        "NAMES": _names(),
        "ALIASES": dict(FILTER_ALIASES),
        "LAYOUTS": {layout.qualified_name: _layout(layout) for layout in _all_layouts()},
        "VALUES": {_values_name(values): _values(values) for values in _all_values()},
        "KINDS": kinds,
        "KIND_OF_CLASS": kind_of_class,
        "REPLIES": replies.table(),
        "PRIVATE": _private(),
        "PRIVATE_REPLIES": _private_replies(),
        "SCSI": _scsi(),
        "EVENTS": _events(),
        "MESSAGE": _message(),
        "NUMBER": {"LAN_LAST_PACKET": LanPacketFlags.LAST_PACKET.value},
        "SOFTWARE_WITH_HEADER": dict.fromkeys(
            (SwType.DDM.value, SwType.IRTOS.value, SwType.IRTOS_PRIVATE_MODULE.value), True
        ),
        "UNANSWERED": dict.fromkeys(sorted(UNANSWERED), True),
        "FUNCTION": {name: member.value for name, member in Function.__members__.items()},
        "CLASS": {name: member.value for name, member in DeviceClass.__members__.items()},
    }


@cache
def _all_layouts() -> tuple[Layout, ...]:
    return (*catalog.messages(), *catalog.structures(), *catalog.parameter_groups())


def _names() -> dict[str, LuaValue]:
    """Return (kind, bits, label, text, values) of every name."""
    known = dict(field_names())
    labels: dict[str, str] = {}
    for layout in _all_layouts():
        for field in layout.fields:
            name = abbreviation(layout, field)
            labels[name] = field.spec_name
            if name != name_of(field):
                before = known.get(name, known[name_of(field)]._replace(width_bits=0))
                known[name] = before._replace(width_bits=max(before.width_bits, field.width_bits))
    for name in FILTER_ALIASES:
        known.pop(name, None)
    known |= extra_names()
    found: dict[str, LuaValue] = {}
    for name, one in known.items():
        values = None
        if len(one.value_names) == 1 and not issubclass(one.value_names[0], IntFlag):
            values = _values_name(one.value_names[0])
        found[name] = (one.kind, one.width_bits, labels.get(name) or label(name), one.text, values)
    return found


def _layout(layout: Layout) -> LuaValue:
    head: list[LuaValue] = [layout.name, layout.size]
    for field in layout.fields:
        row: list[LuaValue] = [
            abbreviation(layout, field),
            field.byte,
            field.bit,
            field.width_bits,
            _KINDS[field.kind],
            field.spec_name,
        ]
        if field.enum is not None:
            row.append(_values_name(field.enum))
        head.append(row)
    return head


@cache
def _all_values() -> tuple[ValueNames, ...]:
    found: list[ValueNames] = [
        ScsiHbaStatus,
        ScsiDeviceStatus,
        Function,
        DeviceClass,
        SpecialTid,
        MsgFlags,
        GenericEvent,
        FabricErrno,
        Kind,
        EventCode,
        EndpointType,
        Flag,
        *event_nodes.OF_CLASS.values(),
        *event_nodes.DATA.values(),
        *event_nodes.EXECUTIVE_DATA.values(),
    ]
    for layout in _all_layouts():
        found += [field.enum for field in layout.fields if field.enum is not None]
    for function in Function:
        found += [
            catalog.detailed_status(function, device_class.value) for device_class in DeviceClass
        ]
    return tuple(dict.fromkeys(found))


@cache
def _values_names() -> dict[ValueNames, str]:
    """Return a name for each class of value names, longer where two classes share theirs."""
    count: dict[str, int] = {}
    for values in _all_values():
        count[values.__name__] = count.get(values.__name__, 0) + 1
    return {
        values: values.__name__
        if count[values.__name__] == 1
        else f"{values.__module__.rpartition('.')[2]}.{values.__name__}"
        for values in _all_values()
    }


def _values_name(values: ValueNames) -> str:
    return _values_names()[values]


def _values(values: ValueNames) -> LuaValue:
    """Return (way, members): flags, numbers, or two halves that are named one by one."""
    if values is ScsiDetailedStatus:
        return ["halves", [_values_name(ScsiHbaStatus), _values_name(ScsiDeviceStatus)]]
    members = [(int(member), name) for name, member in values.__members__.items()]
    if not issubclass(values, IntFlag):
        return ["numbers", members]
    # flags of several bits first: of small numbers among flags the widest that fits is meant
    bits = [(value, name) for value, name in members if value]
    return ["flags", sorted(bits, key=lambda member: -member[0].bit_count())]


class _Replies:
    """The ways in which functions are answered; most share a few."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[tuple[str, ...], ...], ...], int] = {}

    def number(self, function: int, device_class: int | None) -> int:
        """Return the number of a function's way, counted from 1."""
        statuses = (_NO_STATUS, *(status.value for status in ReqStatus))
        way = tuple(
            tuple(_chain(function, device_class, flags, status) for status in statuses)
            for flags in (_REPLY, _REPLY | MsgFlags.MULTIPLE)
        )
        return self._known.setdefault(way, len(self._known) + 1)

    def table(self) -> dict[int, LuaValue]:
        """Return, by number, what is told apart by MULTIPLE and then by ReqStatus."""
        result: dict[int, LuaValue] = {}
        for way, number in self._known.items():
            result[number] = [
                {
                    "other": chains[0],
                    "by_status": {
                        status.value: chain
                        for status, chain in zip(ReqStatus, chains[1:], strict=True)
                        if chain != chains[0]
                    },
                }
                for chains in way
            ]
        return result


def _chain(function: int, device_class: int | None, flags: int, status: int) -> tuple[str, ...]:
    """Return what a reply may be: the first that fits its MessageSize, else the last."""
    found: list[MessageLayout] = []
    words: int | None = None
    while True:
        layout = catalog.reply_layout(function, device_class, flags, status, words)
        if found and layout is found[-1]:
            break
        found.append(layout)
        if layout is SINGLE_TRANSACTION_REPLY:
            break
        words = layout.size // 4 - 1
    return tuple(layout.qualified_name for layout in found)


def _class_kinds(replies: _Replies) -> tuple[dict[int, LuaValue], dict[int, LuaValue]]:
    """Return the kinds of classes, and for each class its kind; those not listed have kind 2."""
    kinds: list[LuaValue] = [_kind(None, replies), _kind(_NO_CLASS, replies)]
    kind_of_class: dict[int, LuaValue] = {}
    for device_class in DeviceClass:
        kind = _kind(device_class.value, replies)
        if kind not in kinds:
            kinds.append(kind)
        kind_of_class[device_class.value] = kinds.index(kind) + 1
    return dict(enumerate(kinds, start=1)), kind_of_class


def _kind(device_class: int | None, replies: _Replies) -> LuaValue:
    functions: dict[int, LuaValue] = {}
    for function in sorted({member.value for member in Function}):
        functions[function] = _function(function, device_class, replies)
    groups: dict[int, LuaValue] = {}
    for group in catalog.parameter_groups():
        if group.number >= FIRST_GENERIC_GROUP or device_class is not None:
            found = catalog.group_layout(group.number, device_class)
            if found is not None:
                groups[found.number] = [found.qualified_name, found.is_table]
    return {
        "functions": functions,
        "other": _function(_UNKNOWN_FUNCTION, device_class, replies),
        "groups": groups,
    }


def _function(function: int, device_class: int | None, replies: _Replies) -> LuaValue:
    request = catalog.request_layout(function, device_class)
    name = catalog.function_name(function, device_class)
    return {
        "name": None if name.startswith("unknown_") else name,
        "class": catalog.class_of_function(function) if device_class is None else None,
        "is_request": bool(catalog.request_layouts(function)) or None,
        "request": request.qualified_name if request is not None else None,
        "status": _values_name(catalog.detailed_status(function, device_class)),
        "replies": replies.number(function, device_class),
    }


def _private() -> dict[int, LuaValue]:
    """Return the private requests by word 4."""
    return {word: layout.qualified_name for word, layout in catalog.private_requests().items()}


def _private_replies() -> dict[str, LuaValue]:
    """Return the replies that belong to private requests, by those."""
    return {
        layout.qualified_name: REPLIES[layout.name].qualified_name for layout in REQUESTS.values()
    }


def _scsi() -> dict[str, LuaValue]:
    commands: dict[int, LuaValue] = {}
    for opcode, command in scsi.COMMANDS.items():
        fields = [(cdb_name(field.name), *field[1:]) for field in command.fields]
        commands[opcode] = [command.name, fields]
    return {
        "commands": commands,
        "actions": {
            opcode << 8 | action: name for (opcode, action), name in scsi.SERVICE_ACTIONS.items()
        },
        "sizes": [scsi.cdb_size(top << 5) for top in range(8)],
        "sense_keys": scsi.SENSE_KEYS,
        "additional_sense": scsi.ADDITIONAL_SENSE,
        "device_types": scsi.DEVICE_TYPES,
        "vpd_pages": scsi.VPD_PAGES,
        "mode_pages": scsi.MODE_PAGES,
    }


def _message() -> dict[str, LuaValue]:
    """Return what there is to know of messages of endpoints."""
    codes = sorted({*errno.errorcode, *(code.value for code in FabricErrno)})
    return {
        "version": VERSION,
        "size": MESSAGE_HEADER.size,
        "fields": {
            field.path: [
                field.path,
                field.byte,
                field.bit,
                field.width_bits,
                _KINDS[field.kind],
                label(field.path),
            ]
            for field in MESSAGE_HEADER.fields
        },
        "order": [field.path for field in MESSAGE_HEADER.fields],
        "present": {name.lower(): member.value for name, member in Present.__members__.items()},
        "kinds": {name: member.value for name, member in Kind.__members__.items()},
        "events": {member.value: member.name.lower() for member in EventCode},
        "names": dict(KIND_NAMES),
        "not_said": [flag.name for flag in NOT_SAID],
        "tagged": Flag.TAGGED.value,
        "errors": {code: error_text(code) for code in codes},
    }


def _events() -> dict[str, LuaValue]:
    """Return the names of events' bits and data, by class and by event."""

    def named(table: Mapping[int, ValueNames]) -> dict[int, LuaValue]:
        return {number: _values_name(values) for number, values in table.items()}

    return {
        "of_class": named(event_nodes.OF_CLASS),
        "data": named(event_nodes.DATA),
        "executive_data": named(event_nodes.EXECUTIVE_DATA),
        "generic": int(sum(GenericEvent)),
        "lct": event_nodes.LCT_EVENTS,
        "field_modified": GenericEvent.FIELD_MODIFIED.value,
    }
