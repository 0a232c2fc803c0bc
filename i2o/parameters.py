# SPDX-License-Identifier: Apache-2.0
"""Parameter groups: UtilParamsGet and UtilParamsSet for whole groups, fields and tables.

Field values are ints, or bytes for text and identifiers. Fields are named or numbered as in the
group's field table, reserved fields included.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from i2o.errors import ParameterError, RemoteFrameError
from i2o.frames import utility
from i2o.frames.layout import Field, MessageLayout, ParameterGroup
from i2o.frames.params import ParamBlockStatus, ParamOperation
from i2o.frames.sgl import simple_sgl
from i2o.message_frames import ReplyFrame
from i2o.replies import raise_for_status
from i2o.requester import Requester
from i2o.transport.host_memory import HostMemory

Value = int | bytes
ALL_FIELDS: Final = 0xFFFF
_RESULT_LIST_HEADER: Final = 4
_RESULT_HEADER: Final = 4
_TABLE_HEADER: Final = 8
_FIRST_TABLE_BUFFER: Final = 4096
_MAX_TABLE_BUFFER: Final = 1 << 20


def get_group(
    requester: Requester, memory: HostMemory, tid: int, group: ParameterGroup
) -> dict[str, Value]:
    """Read all fields of a scalar group (FieldGet, FieldCount -1).

    Returns:
        Field values by name; fewer than the layout has when the device knows an older version.

    Raises:
        ParameterError: the device does not have the group.
        RequestFailed, RequestTimeout: the message itself failed.
    """
    block = _get(
        requester,
        memory,
        tid,
        struct.pack("<HHH", ParamOperation.FIELD_GET, group.number, ALL_FIELDS),
        group.size,
        f"group {group.qualified_name} of TID {tid:#05x}",
    )
    return _decode_row(group.fields, block, lenient=True)


def get_field(
    requester: Requester, memory: HostMemory, tid: int, group: ParameterGroup, field: str | int
) -> Value:
    """Read one field of a scalar group; raises ParameterError if there is no such field."""
    index, layout = find_field(group, field)
    size = layout.width_bits // 8
    what = f"field {layout.path} of group {group.qualified_name} of TID {tid:#05x}"
    block = _get(
        requester,
        memory,
        tid,
        struct.pack("<HHHH", ParamOperation.FIELD_GET, group.number, 1, index),
        size,
        what,
    )
    if len(block) < size:
        raise RemoteFrameError(f"{what}: {len(block)} bytes came, expected {size}")
    return _decode(layout, block[:size])


def set_field(
    requester: Requester,
    memory: HostMemory,
    tid: int,
    group: ParameterGroup,
    field: str | int,
    value: Value,
) -> None:
    """Write one field of a scalar group."""
    set_fields(requester, memory, tid, group, {field: value})


def set_fields(
    requester: Requester,
    memory: HostMemory,
    tid: int,
    group: ParameterGroup,
    values: Mapping[str | int, Value],
) -> None:
    """Write fields of a scalar group in one FieldSet.

    Raises:
        ParameterError: no such group or field, a value that does not fit, or read-only.
    """
    found = [(*find_field(group, name), value) for name, value in values.items()]
    operation = struct.pack("<HHH", ParamOperation.FIELD_SET, group.number, len(found))
    operation += struct.pack(f"<{len(found)}H", *(index for index, _, _ in found))
    operation += b"".join(_encode(layout, value) for _, layout, value in found)
    _exchange(
        requester,
        memory,
        tid,
        utility.UTIL_PARAMS_SET,
        operation,
        _RESULT_HEADER + 8,
        f"group {group.qualified_name} of TID {tid:#05x}",
    )


def get_table(
    requester: Requester, memory: HostMemory, tid: int, group: ParameterGroup
) -> list[dict[str, Value]]:
    """Read all rows of a table group (TableGet).

    Raises:
        ParameterError: the device does not have the group, or it is no table.
        RemoteFrameError: the answer is larger than any table may be.
    """
    what = f"table {group.qualified_name} of TID {tid:#05x}"
    operation = struct.pack("<HHH", ParamOperation.TABLE_GET, group.number, ALL_FIELDS)
    size = _FIRST_TABLE_BUFFER
    while True:
        try:
            block = _exchange(
                requester, memory, tid, utility.UTIL_PARAMS_GET, operation, size, what
            )
        except ParameterError as error:
            full = (ParamBlockStatus.BUFFER_FULL, ParamBlockStatus.BUFFER_TOO_SMALL)
            if error.block_status not in full or size >= _MAX_TABLE_BUFFER:
                raise
            size *= 4
            continue
        if len(block) < _TABLE_HEADER:
            raise RemoteFrameError(f"{what}: a result of {len(block)} bytes has no row count")
        rows, more = struct.unpack_from("<HH", block, 4)
        if more and size < _MAX_TABLE_BUFFER:
            size *= 4
            continue
        if _TABLE_HEADER + rows * group.size > len(block):
            raise RemoteFrameError(f"{what}: {rows} rows do not fit {len(block)} bytes")
        return [
            _decode_row(group.fields, block[start : start + group.size], lenient=False)
            for start in range(_TABLE_HEADER, _TABLE_HEADER + rows * group.size, max(1, group.size))
        ]


def find_field(group: ParameterGroup, field: str | int) -> tuple[int, Field]:
    """Return index and layout of a field, named or numbered.

    Raises:
        ParameterError: the group has no such field.
    """
    for index, layout in enumerate(group.fields):
        if field in (layout.path, index):
            return index, layout
    names = ", ".join(layout.path for layout in group.fields)
    raise ParameterError(f"group {group.qualified_name} has no field {field!r}: it has {names}")


def _get(
    requester: Requester,
    memory: HostMemory,
    tid: int,
    operation: bytes,
    size: int,
    what: str,
) -> bytes:
    """Run one get operation and return the values behind the result block's header."""
    block = _exchange(
        requester, memory, tid, utility.UTIL_PARAMS_GET, operation, _RESULT_HEADER + size, what
    )
    return block[_RESULT_HEADER:]


def _exchange(
    requester: Requester,
    memory: HostMemory,
    tid: int,
    layout: MessageLayout,
    operation: bytes,
    result_size: int,
    what: str,
) -> bytes:
    """Send a list of one operation; return its result block, header included."""
    operations = struct.pack("<HH", 1, 0) + operation
    operations += bytes(-len(operations) % 4)
    result_room = _RESULT_LIST_HEADER + result_size + -result_size % 4 + 4
    out = memory.allocate(len(operations))
    into = memory.allocate(result_room)
    out.view[:] = operations
    out.to_device()
    sgl = simple_sgl(((out.bus_address, len(operations)),), out=True, last=False)
    sgl += simple_sgl(((into.bus_address, result_room),), out=False)

    pending = requester.start(
        layout.build(target_address=tid, message_size=(layout.size + len(sgl)) // 4) + sgl,
        buffers=(out, into),
    )
    try:
        reply = requester.finish(pending)
        into.from_device()
        return _result_block(reply, bytes(into.view), what)
    finally:
        pending.release()


def _result_block(reply: ReplyFrame, results: bytes, what: str) -> bytes:
    """Return the only result block, or raise what it says."""
    count, _ = struct.unpack_from("<HH", results)
    if count:
        words, status, _ = struct.unpack_from("<HBB", results, _RESULT_LIST_HEADER)
        if status:
            try:
                name = ParamBlockStatus(status).name
            except ValueError:
                name = f"block status {status:#04x}"
            raise ParameterError(f"{what}: {name}", status)
    raise_for_status(reply, what)
    if not count:
        raise RemoteFrameError(f"{what}: the result list is empty")
    end = _RESULT_LIST_HEADER + 4 * words
    if words < 1 or end > len(results):
        raise RemoteFrameError(f"{what}: a result block of {words} words in {len(results)} bytes")
    return results[_RESULT_LIST_HEADER:end]


def _decode_row(fields: Sequence[Field], data: bytes, *, lenient: bool) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for field in fields:
        raw = data[field.byte : field.byte + field.width_bits // 8]
        if len(raw) < field.width_bits // 8 and lenient:
            break
        values[field.path] = _decode(field, raw)
    return values


def _decode(field: Field, raw: bytes) -> Value:
    if field.kind == "bytes":
        return raw
    return int.from_bytes(raw, "little", signed=field.kind == "sint")


def _encode(field: Field, value: Value) -> bytes:
    size = field.width_bits // 8
    if field.kind == "bytes":
        if not isinstance(value, bytes) or len(value) > size:
            raise ParameterError(f"{field.path}: {value!r} is not {size} bytes or less")
        return value.ljust(size, b"\0")
    if not isinstance(value, int):
        raise ParameterError(f"{field.path}: {value!r} is no integer")
    try:
        return value.to_bytes(size, "little", signed=field.kind == "sint")
    except OverflowError:
        raise ParameterError(f"{field.path}: {value} does not fit {size} bytes") from None
