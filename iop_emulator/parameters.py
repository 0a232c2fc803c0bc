# SPDX-License-Identifier: Apache-2.0
"""The parameter engine: runs an operation list over the groups of a device.

All ten operations of I2O 1.5 are served, on the groups of `parameter_groups`. What the
specification's headers leave open is decided so:

* Operations are packed one behind the other, on 16-bit boundaries, values included.
* ListGet answers like TableGet: row count, more flag, rows.
* SizeGet answers with one 32-bit number: the bytes that reading the same fields gives.
* TableGet stops at the end of the host's buffer and sets MoreFlag; MoreGet goes on from there.
* A scalar read that the buffer cuts short keeps its success and its first bytes; the reply then
  says partial transfer with detail 0x18, which NetBSD takes for success. Missing padding is no
  cut.
* ErrorInfoSize counts words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from i2o.errors import LocalFrameError
from i2o.frames.header import DetailedStatus, ReqStatus
from i2o.frames.layout import Field
from i2o.frames.params import (
    ALL_FIELDS,
    PARAM_ERROR_INFO,
    PARAM_MODIFY_RESULT,
    PARAM_OPERATION_LIST_HEADER,
    PARAM_RESULT_LIST_HEADER,
    PARAM_TABLE_READ_RESULT,
    ParamBlockStatus,
    ParamOperation,
)
from i2o.iop_emulator.parameter_groups import Group, ScalarGroup, TableGroup, Value

MAX_OPERATIONS_SIZE: Final = 1 << 16
"""Bytes of an operation list that are looked at."""

_GETS: Final = frozenset(
    {
        ParamOperation.FIELD_GET,
        ParamOperation.LIST_GET,
        ParamOperation.MORE_GET,
        ParamOperation.SIZE_GET,
        ParamOperation.TABLE_GET,
    }
)


class Outcome(NamedTuple):
    """What an operation list came to.

    Attributes:
        results: the result list, as much as fits.
        req_status: ReqStatus of the reply.
        detail: DetailedStatusCode of the reply.
        modified: numbers of the groups that were changed.
    """

    results: bytes
    req_status: int
    detail: int
    modified: tuple[int, ...]


class _Refused(Exception):
    """An operation that cannot be done: becomes the block status of its result."""

    def __init__(self, status: ParamBlockStatus, field_index: int = 0) -> None:
        self.status, self.field_index = status, field_index


class _Unreadable(Exception):
    """The operation list ends in the middle of an operation."""


class _Cursor:
    """Where the next MoreGet goes on."""

    __slots__ = ("group", "row")

    def __init__(self, group: int, row: int) -> None:
        self.group, self.row = group, row


class _Reader:
    """Reads an operation list from front to back."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def take(self, length: int) -> bytes:
        """Return the next bytes."""
        end = self._place + length
        if end > len(self._data):
            raise _Unreadable
        taken = self._data[self._place : end]
        self._place = end
        return taken

    def u16(self) -> int:
        """Return the next 16-bit number."""
        return int.from_bytes(self.take(2), "little")

    def align(self) -> None:
        """Go to the next 16-bit boundary."""
        self._place += self._place & 1


class ParameterEngine:
    """The parameter groups of one device.

    Args:
        groups: all of them.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        self._groups = {group.layout.number: group for group in groups}
        self._cursors: dict[int, _Cursor] = {}

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups, by number."""
        return tuple(self._groups[number] for number in sorted(self._groups))

    def run(self, operations: bytes, capacity: int, initiator: int, *, may_set: bool) -> Outcome:
        """Run an operation list.

        Args:
            operations: the list; everything behind the last operation is ignored.
            capacity: bytes of the host's result buffer.
            initiator: who asks (MoreGet goes on where this initiator stopped).
            may_set: the message is UtilParamsSet, which sets and does not get.

        Returns:
            The results and the reply's status. A list that lies about itself gets a status.
        """
        run = _Run(self, operations, capacity, initiator, may_set=may_set)
        return run.outcome()

    def group(self, number: int) -> Group:
        """Return a group, or refuse the operation."""
        group = self._groups.get(number)
        if group is None:
            raise _Refused(ParamBlockStatus.INVALID_GROUP_ID)
        return group

    def cursor(self, initiator: int) -> _Cursor | None:
        """Return where this initiator's last TableGet stopped."""
        return self._cursors.get(initiator)

    def set_cursor(self, initiator: int, cursor: _Cursor | None) -> None:
        """Remember where a TableGet stopped, or that it reached the end."""
        if cursor is None:
            self._cursors.pop(initiator, None)
        else:
            self._cursors[initiator] = cursor

    def forget_cursors(self) -> None:
        """Forget where anybody stopped (reset)."""
        self._cursors.clear()


_SUCCESS: Final = (ReqStatus.SUCCESS.value, DetailedStatus.SUCCESS.value)
_PARTIAL: Final = (ReqStatus.ERROR_PARTIAL_TRANSFER.value, DetailedStatus.UNKNOWN_ERROR.value)
_REFUSED: Final = (
    ReqStatus.ERROR_NO_DATA_TRANSFER.value,
    DetailedStatus.INVALID_PARAMETER.value,
)


class _Run:
    """One operation list on its way."""

    def __init__(
        self,
        engine: ParameterEngine,
        operations: bytes,
        capacity: int,
        initiator: int,
        *,
        may_set: bool,
    ) -> None:
        self._engine = engine
        self._reader = _Reader(operations)
        self._capacity, self._initiator, self._may_set = capacity, initiator, may_set
        self._blocks: list[bytes] = []
        self._used = PARAM_RESULT_LIST_HEADER.size
        self._status = _SUCCESS
        self._modified: list[int] = []
        self._is_read = False

    def outcome(self) -> Outcome:
        """Run every operation and put the result list together."""
        try:
            count = self._reader.u16()
            self._reader.take(PARAM_OPERATION_LIST_HEADER.size - 2)
        except _Unreadable:
            return Outcome(b"", _REFUSED[0], DetailedStatus.MISSING_PARAMETER.value, ())
        for _ in range(count):
            if self._capacity and self._used >= self._capacity:
                self._fail(_PARTIAL)
                break
            try:
                self._operation()
            except _Unreadable:
                self._fail((_REFUSED[0], DetailedStatus.MISSING_PARAMETER.value))
                break
        header = PARAM_RESULT_LIST_HEADER.build(result_count=len(self._blocks))
        results = header + b"".join(self._blocks)
        return Outcome(results[: self._capacity], *self._status, tuple(self._modified))

    def _operation(self) -> None:
        code, number = self._reader.u16(), self._reader.u16()
        serve = _OPERATIONS.get(code)
        self._is_read = False
        try:
            if serve is None or self._may_set == (code in _GETS):
                raise _Refused(ParamBlockStatus.INVALID_OPERATION)
            self._append(serve(self, number))
        except _Refused as refused:
            self._refuse(code, number, refused)
            if not self._is_read:  # how long the operation is was not found out
                raise _Unreadable from None

    def _refuse(self, code: int, number: int, refused: _Refused) -> None:
        info = PARAM_ERROR_INFO.build(
            operation_code=code,
            group_number=number,
            field_idx=refused.field_index,
            additional_status=0,
        )
        self._append(_block(b"", refused.status.value, info))
        self._fail(_REFUSED)

    def _fail(self, status: tuple[int, int]) -> None:
        if self._status == _SUCCESS:  # the first failure is the one that is told
            self._status = status

    def _append(self, block: bytes) -> None:
        self._blocks.append(block)
        self._used += len(block)

    def _room(self) -> int:
        """Bytes of the host's buffer that are left; below 0 if it is too small already."""
        return self._capacity - self._used

    # --- parts of operations -------------------------------------------------------------------

    def _field_indexes(self, *, is_last: bool = False) -> tuple[int, ...] | None:
        """Read FieldCount and the indexes; None means all fields."""
        count = self._reader.u16()
        indexes = () if count == ALL_FIELDS else tuple(self._reader.u16() for _ in range(count))
        if is_last:
            self._finish_reading()
        if count == ALL_FIELDS or indexes == (ALL_FIELDS,):  # Linux 2.6 writes "all" that way
            return None
        return indexes

    def _finish_reading(self) -> None:
        """Note that the whole operation is read: what is behind it can be, whatever it comes to."""
        self._reader.align()
        self._is_read = True

    def _fields(self, group: Group, indexes: tuple[int, ...] | None) -> tuple[Field, ...]:
        fields = group.layout.fields
        if indexes is None:
            return fields
        for index in indexes:
            if index >= len(fields):
                raise _Refused(ParamBlockStatus.NO_SUCH_FIELD, index)
        return tuple(fields[index] for index in indexes)

    def _table(self, number: int) -> TableGroup:
        group = self._engine.group(number)
        if not isinstance(group, TableGroup):
            raise _Refused(ParamBlockStatus.WRONG_GROUP_TYPE)
        return group

    def _scalar(self, number: int) -> ScalarGroup:
        group = self._engine.group(number)
        if not isinstance(group, ScalarGroup):
            raise _Refused(ParamBlockStatus.WRONG_GROUP_TYPE)
        return group

    def _keys(self, group: TableGroup) -> list[bytes]:
        """Read KeyCount and the keys."""
        count = self._reader.u16()
        keys = [self._reader.take(_size(group.key)) for _ in range(count)]
        self._finish_reading()
        return keys

    # --- reading -------------------------------------------------------------------------------

    def _field_get(self, number: int) -> bytes:
        indexes = self._field_indexes(is_last=True)
        group = self._scalar(number)
        packed = group.packed()
        data = b"".join(_slice(packed, field) for field in self._fields(group, indexes))
        room = self._room() - PARAM_MODIFY_RESULT.size
        if len(data) > room:  # cut at the end of the buffer, by `outcome`
            self._fail(_PARTIAL)
        return _block(data)

    def _table_get(self, number: int) -> bytes:
        return self._rows_from(number, 0, self._field_indexes(is_last=True))

    def _more_get(self, number: int) -> bytes:
        indexes = self._field_indexes(is_last=True)
        cursor = self._engine.cursor(self._initiator)
        if cursor is None or cursor.group != number:
            raise _Refused(ParamBlockStatus.OPERATION_ERROR)
        return self._rows_from(number, cursor.row, indexes)

    def _rows_from(self, number: int, first: int, indexes: tuple[int, ...] | None) -> bytes:
        group = self._table(number)
        fields = self._fields(group, indexes)
        return self._table_block(number, fields, group.packed(), first)

    def _list_get(self, number: int) -> bytes:
        indexes = self._field_indexes()
        group = self._table(number)
        keys = self._keys(group)
        fields = self._fields(group, indexes)
        rows = {_slice(row, group.key): row for row in group.packed()}
        missing = [key for key in keys if key not in rows]
        if missing:
            raise _Refused(ParamBlockStatus.BAD_KEY_ABORT)
        return self._table_block(number, fields, [rows[key] for key in keys], 0)

    def _table_block(
        self, number: int, fields: tuple[Field, ...], rows: Sequence[bytes], first: int
    ) -> bytes:
        """Return the block with the rows from `first` on, as many as fit."""
        row_size = sum(map(_size, fields))
        room = self._room() - PARAM_TABLE_READ_RESULT.size
        rest = rows[first:]
        fitting = rest[: max(0, room) // row_size] if row_size else rest
        if rest and not fitting:
            raise _Refused(ParamBlockStatus.BUFFER_TOO_SMALL)
        has_more = len(fitting) < len(rest)
        self._engine.set_cursor(
            self._initiator, _Cursor(number, first + len(fitting)) if has_more else None
        )
        counts = len(fitting).to_bytes(2, "little") + int(has_more).to_bytes(2, "little")
        data = b"".join(_slice(row, field) for row in fitting for field in fields)
        return _block(counts + data)

    def _size_get(self, number: int) -> bytes:
        indexes = self._field_indexes(is_last=True)
        group = self._engine.group(number)
        size = sum(map(_size, self._fields(group, indexes)))
        if isinstance(group, TableGroup):
            size *= len(group.packed())
        return _block(size.to_bytes(4, "little"))

    # --- changing ------------------------------------------------------------------------------

    def _values(
        self, group: Group, indexes: tuple[int, ...] | None
    ) -> list[tuple[int, Field, Value]]:
        """Read the values behind the indexes."""
        fields = group.layout.fields
        wanted = tuple(range(len(fields))) if indexes is None else indexes
        values = []
        for index in wanted:
            if index >= len(fields):  # its width is not known: nothing behind can be read
                raise _Refused(ParamBlockStatus.NO_SUCH_FIELD, index)
            values.append((index, fields[index], _decode(self._reader, fields[index])))
        return values

    def _field_set(self, number: int) -> bytes:
        indexes = self._field_indexes()
        group = self._scalar(number)
        values = self._values(group, indexes)
        self._finish_reading()
        packed = group.packed()
        changes = _changes(group, values, packed, is_whole=indexes is None)
        if group.write is not None:
            for index, field, value in changes:
                _try(index, group.write, field.path, value)
        self._note(number)
        return _block(b"")

    def _list_set(self, number: int) -> bytes:
        indexes = self._field_indexes()
        group = self._table(number)
        count = self._reader.u16()
        rows = {_slice(row, group.key): row for row in group.packed()}
        planned: list[tuple[Value, list[tuple[int, Field, Value]]]] = []
        for _ in range(count):
            raw = self._reader.take(_size(group.key))
            values = self._values(group, indexes)
            if raw not in rows:
                raise _Refused(ParamBlockStatus.BAD_KEY_ABORT)
            changes = _changes(group, values, rows[raw], is_whole=indexes is None)
            planned.append((_value(raw, group.key), changes))
        self._finish_reading()
        write = group.write
        if write is not None:
            for key, changes in planned:
                for index, field, value in changes:
                    _try(index, lambda name, new, key=key: write(key, name, new), field.path, value)
        self._note(number)
        return _block(b"")

    def _row_add(self, number: int) -> bytes:
        indexes = self._field_indexes()
        group = self._table(number)
        count = self._reader.u16()
        rows = [self._values(group, indexes) for _ in range(count)]
        self._finish_reading()
        if group.add is None:
            raise _Refused(ParamBlockStatus.NON_DYNAMIC_GROUP)
        for values in rows:
            if not any(field is group.key for _, field, _ in values):
                raise _Refused(ParamBlockStatus.NO_KEY_FIELD)
        for values in rows:
            _try(0, group.add, {field.path: value for _, field, value in values})
        self._note(number)
        return _block(b"")

    def _row_delete(self, number: int) -> bytes:
        group = self._table(number)
        keys = self._keys(group)
        if group.delete is None:
            raise _Refused(ParamBlockStatus.NON_DYNAMIC_GROUP)
        known = {_slice(row, group.key) for row in group.packed()}
        if not known.issuperset(keys):
            raise _Refused(ParamBlockStatus.BAD_KEY_ABORT)
        for key in dict.fromkeys(keys):
            group.delete(_value(key, group.key))
        self._note(number)
        return _block(b"")

    def _table_clear(self, number: int) -> bytes:
        self._finish_reading()
        group = self._table(number)
        if group.clear is None:
            raise _Refused(ParamBlockStatus.NON_DYNAMIC_GROUP)
        group.clear()
        self._note(number)
        return _block(b"")

    def _note(self, number: int) -> None:
        if number not in self._modified:
            self._modified.append(number)


_OPERATIONS: Final[Mapping[int, Callable[[_Run, int], bytes]]] = {
    ParamOperation.FIELD_GET: _Run._field_get,
    ParamOperation.LIST_GET: _Run._list_get,
    ParamOperation.MORE_GET: _Run._more_get,
    ParamOperation.SIZE_GET: _Run._size_get,
    ParamOperation.TABLE_GET: _Run._table_get,
    ParamOperation.FIELD_SET: _Run._field_set,
    ParamOperation.LIST_SET: _Run._list_set,
    ParamOperation.ROW_ADD: _Run._row_add,
    ParamOperation.ROW_DELETE: _Run._row_delete,
    ParamOperation.TABLE_CLEAR: _Run._table_clear,
}


def _block(data: bytes, status: int = 0, error_info: bytes = b"") -> bytes:
    """Return one result block, padded to words."""
    body = data + bytes(-len(data) % 4)
    size = PARAM_MODIFY_RESULT.size + len(error_info) + len(body)
    start = PARAM_MODIFY_RESULT.build(
        block_size=min(size // 4, 0xFFFF), block_status=status, error_info_size=len(error_info) // 4
    )
    return start + error_info + body


def _size(field: Field) -> int:
    return field.width_bits // 8


def _slice(packed: bytes, field: Field) -> bytes:
    return packed[field.byte : field.byte + _size(field)]


def _value(raw: bytes, field: Field) -> Value:
    if field.kind == "bytes":
        return raw
    return int.from_bytes(raw, "little", signed=field.kind == "sint")


def _decode(reader: _Reader, field: Field) -> Value:
    return _value(reader.take(_size(field)), field)


def _changes(
    group: Group, values: list[tuple[int, Field, Value]], packed: bytes, *, is_whole: bool
) -> list[tuple[int, Field, Value]]:
    """Return what may be written; nothing is if anything may not.

    A whole group may carry fields that cannot be written if their value stays the same (OpenBSD
    reads a group and writes all of it back).
    """
    changes = []
    for index, field, value in values:
        if field.path in group.writeable:
            changes.append((index, field, value))
        elif not is_whole or _value(_slice(packed, field), field) != value:
            raise _Refused(ParamBlockStatus.FIELD_UNWRITEABLE, index)
    return changes


def _try(index: int, change: Callable[..., None], *arguments: Any) -> None:
    try:
        change(*arguments)
    except (ValueError, LocalFrameError):
        raise _Refused(ParamBlockStatus.OPERATION_ERROR, index) from None
