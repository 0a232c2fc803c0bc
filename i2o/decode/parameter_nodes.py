# SPDX-License-Identifier: Apache-2.0
"""Parameter operation and result lists as nodes, with the names of groups, fields and values.

Results do not repeat what was asked: which group and which fields a result block holds stands in
the operation list of the same request, so `results_node` takes both.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from i2o.decode.fields import (
    MAX_ITEMS,
    Buffer,
    bytes_node,
    field_node,
    field_nodes,
    group_node,
    list_node,
    number_node,
    problem,
    text_node,
)
from i2o.decode.tree import Node
from i2o.decode.values import names_text
from i2o.frames import params
from i2o.frames.catalog import group_layout
from i2o.frames.layout import Field, ParameterGroup
from i2o.frames.params import ALL_FIELDS, ParamBlockStatus, ParamOperation

_HEADER: Final = params.PARAM_OPERATION_LIST_HEADER.size
_BLOCK_HEADER: Final = params.PARAM_MODIFY_RESULT.size
_ROW_OPERATIONS: Final = frozenset(
    {
        ParamOperation.TABLE_GET.value,
        ParamOperation.LIST_GET.value,
        ParamOperation.MORE_GET.value,
    }
)
_WITHOUT_FIELDS: Final = frozenset(
    {ParamOperation.ROW_DELETE.value, ParamOperation.TABLE_CLEAR.value}
)


class Operation(NamedTuple):
    """What a result block answers.

    Attributes:
        code: a ParamOperation.
        number: group number.
        group: the group, None if it is not known.
        fields: the fields asked for, in order; None if one of them is not known.
    """

    code: int
    number: int
    group: ParameterGroup | None
    fields: tuple[Field, ...] | None

    @property
    def text(self) -> str:
        """The operation on one line: `field_get 0xF100 device_identity`."""
        return f"{operation_name(self.code)} {_group_text(self.number, self.group)}"


class _End(Exception):
    """The list ends here, or cannot be read further; says why."""


def operation_name(code: int) -> str:
    """Return the name of an operation in snake case, or its number."""
    return names_text(ParamOperation, code).lower() or f"operation {code:#06x}"


def operations_node(data: Buffer, device_class: int | None, start: int = 0) -> Node:
    """Return `operations`: the list's header and its `entries`.

    Args:
        data: the start of the buffer, or the frame that holds the list as immediate data.
        device_class: class of the device addressed, whose groups apply.
        start: byte where the list starts.
    """
    return _Reader(data, device_class, start).node()


def operations_of(data: Buffer, device_class: int | None) -> list[Operation]:
    """Return the operations of a list, as far as it can be read."""
    reader = _Reader(data, device_class, 0)
    reader.node()
    return reader.operations


class _Reader:
    """Reads an operation list from front to back."""

    def __init__(self, data: Buffer, device_class: int | None, start: int) -> None:
        self.data, self.at, self.device_class = data, start, device_class
        self.start = start
        self.operations: list[Operation] = []
        self.items = 0

    def node(self) -> Node:
        nodes, missing = field_nodes(params.PARAM_OPERATION_LIST_HEADER, self.data, self.at)
        if missing:
            nodes.append(problem(f"the operation list ends before {missing}", self.at))
            return group_node("operations", nodes)
        count = int.from_bytes(self.data[self.at : self.at + 2], "little")
        self.at += _HEADER
        entries: list[Node] = []
        nodes.append(list_node("entries", entries, offset=self.at))
        while len(entries) < count:
            entry = group_node(str(len(entries)), [])
            entry.offset = self.at
            before = self.at
            try:
                self._operation(entry)
            except _End as end:
                if self.at > before or entry.children:
                    entries.append(entry)
                nodes.append(problem(f"operation {len(self.operations)} of {count}: {end}"))
                if self.at < len(self.data):
                    rest = bytes(self.data[self.at : self.at + MAX_ITEMS])
                    nodes.append(bytes_node("rest", rest, self.at))
                break
            entries.append(entry)
        meaning = ", ".join(operation.text for operation in self.operations[:3])
        return group_node("operations", nodes, meaning)

    def _operation(self, entry: Node) -> None:
        self._count_item()
        code = self._number(entry, "operation", 2)
        entry.children[-1].meaning = names_text(ParamOperation, code)
        number = self._number(entry, "group_number", 2)
        group = group_layout(number, self.device_class)
        if group is not None:
            entry.children[-1].meaning = group.name
            entry.children.append(text_node("group", group.name))
        fields: tuple[Field, ...] | None = group.fields if group else None
        self.operations.append(Operation(code, number, group, fields))
        entry.meaning = self.operations[-1].text
        if not names_text(ParamOperation, code):
            raise _End(f"{code:#06x} is none of the ten operations")
        if code not in _WITHOUT_FIELDS:
            fields = self._field_indexes(entry, group)
            self.operations[-1] = Operation(code, number, group, fields)
        if code == ParamOperation.FIELD_SET:
            values = group_node("values", [])
            entry.children.append(values)
            self._values(values, group, fields)
        elif code == ParamOperation.ROW_ADD:
            self._rows(entry, "row_count", group, fields, with_key=False)
        elif code == ParamOperation.LIST_SET:
            self._rows(entry, "key_count", group, fields, with_key=True)
        elif code == ParamOperation.LIST_GET:
            self._keys(entry, "key_count", group)
        elif code == ParamOperation.ROW_DELETE:
            self._keys(entry, "row_count", group)
        self.at += (self.at - self.start) & 1

    def _field_indexes(self, entry: Node, group: ParameterGroup | None) -> tuple[Field, ...] | None:
        count = self._number(entry, "field_count", 2)
        every = group.fields if group else None
        if count == ALL_FIELDS:
            entry.children[-1].meaning = "all fields"
            return every
        items: list[Node] = []
        entry.children.append(list_node("field_indexes", items, offset=self.at))
        indexes = []
        for _ in range(count):
            self._count_item()
            index = self._number(None, "field_idx", 2)
            name = every[index].path if every and index < len(every) else ""
            if index == ALL_FIELDS:
                name = "all fields"
            items.append(Node(str(len(items)), index, name, self.at - 2, 0, 16))
            indexes.append(index)
        if indexes == [ALL_FIELDS]:  # some Linux drivers say "all" that way
            return every
        if every is None or any(index >= len(every) for index in indexes):
            return None
        return tuple(every[index] for index in indexes)

    def _rows(
        self,
        entry: Node,
        count_name: str,
        group: ParameterGroup | None,
        fields: tuple[Field, ...] | None,
        *,
        with_key: bool,
    ) -> None:
        count = self._number(entry, count_name, 2)
        rows: list[Node] = []
        entry.children.append(list_node("rows", rows, offset=self.at))
        for _ in range(count):
            self._count_item()
            row = group_node(str(len(rows)), [])
            row.offset = self.at
            rows.append(row)
            if with_key:
                key = self._key(group)
                key.name, key.meaning = "key", key.name
                row.children.append(key)
            values = group_node("values", [])
            row.children.append(values)
            self._values(values, group, fields)

    def _keys(self, entry: Node, count_name: str, group: ParameterGroup | None) -> None:
        count = self._number(entry, count_name, 2)
        keys: list[Node] = []
        entry.children.append(
            list_node("keys", keys, group.fields[0].path if group else "", self.at)
        )
        for _ in range(count):
            self._count_item()
            key = self._key(group)
            key.name = str(len(keys))
            keys.append(key)

    def _key(self, group: ParameterGroup | None) -> Node:
        if group is None:
            raise _End("the group is not known, nor how wide its keys are")
        return self._value(group.fields[0])

    def _values(
        self, into: Node, group: ParameterGroup | None, fields: tuple[Field, ...] | None
    ) -> None:
        if fields is None:
            why = "the group is not known" if group is None else "it has no such field"
            raise _End(f"{why}, nor how wide the values are")
        into.offset = self.at
        for field in fields:
            into.children.append(self._value(field))

    def _value(self, field: Field) -> Node:
        size = field.width_bits // 8
        if self.at + size > len(self.data):
            raise _End(f"the list ends before {field.path}")
        node = field_node(field, self.data[self.at : self.at + size], self.at)
        self.at += size
        return node

    def _number(self, entry: Node | None, name: str, size: int) -> int:
        if self.at + size > len(self.data):
            raise _End(f"the list ends before {name}")
        node = number_node(name, self.data, self.at, size)
        self.at += size
        if entry is not None:
            entry.children.append(node)
        assert isinstance(node.value, int)
        return node.value

    def _count_item(self) -> None:
        self.items += 1
        if self.items > MAX_ITEMS:
            raise _End(f"more than {MAX_ITEMS} fields, keys and rows: the rest is not shown")


def results_node(
    data: Buffer, operations: list[Operation] | None, *, is_whole: bool = True
) -> Node:
    """Return `results`: the list's header and its `entries`.

    Args:
        data: the start of the buffer.
        operations: what was asked, None if it was not captured.
        is_whole: the capture has all that the IOP wrote; else a cut list is no problem.
    """
    nodes, missing = field_nodes(params.PARAM_RESULT_LIST_HEADER, data)
    if missing:
        nodes.append(_end(f"the result list ends before {missing}", is_whole))
        return group_node("results", nodes)
    count = int.from_bytes(data[:2], "little")
    entries: list[Node] = []
    nodes.append(list_node("entries", entries, offset=_HEADER))
    at = _HEADER
    while len(entries) < count:
        if len(entries) >= MAX_ITEMS:
            nodes.append(text_node("note", f"{count} results, more than {MAX_ITEMS} not shown"))
            break
        if at + _BLOCK_HEADER > len(data):
            nodes.append(_end(f"the list ends after {len(entries)} of {count} results", is_whole))
            break
        index = len(entries)
        operation = operations[index] if operations and index < len(operations) else None
        entry, size = _result(index, data, at, operation, is_whole=is_whole)
        entries.append(entry)
        if not size:
            break
        at += size
    if operations is None:
        nodes.append(text_node("note", "the operation list was not captured"))
    elif count > len(operations):
        nodes.append(problem(f"{count} results of {len(operations)} operations", 0))
    return group_node("results", nodes, ", ".join(entry.meaning for entry in entries[:3]))


def _end(text: str, is_whole: bool) -> Node:
    return problem(text) if is_whole else text_node("note", text)


def _result(
    index: int, data: Buffer, at: int, operation: Operation | None, *, is_whole: bool
) -> tuple[Node, int]:
    """Return one block and its size, 0 if nothing behind it can be found."""
    nodes, _ = field_nodes(
        params.PARAM_MODIFY_RESULT,
        data,
        at,
        meanings={
            "block_size": lambda words: f"{4 * words} bytes",
            "error_info_size": lambda words: f"{4 * words} bytes" if words else "",
        },
    )
    words, status, info_words = (
        int.from_bytes(data[at : at + 2], "little"),
        data[at + 2],
        data[at + 3],
    )
    size = 4 * words
    status_text = names_text(ParamBlockStatus, status) or f"status {status:#04x}"
    what = _group_text(operation.number, operation.group) if operation else "result"
    node = group_node(str(index), nodes, f"{what} {'ok' if not status else status_text}")
    if size < _BLOCK_HEADER + 4 * info_words:
        nodes.append(problem(f"block_size is {words} words: no room for what it holds", at))
        return node, 0
    end = min(at + size, len(data))
    place = at + _BLOCK_HEADER
    if operation is not None and operation.group is not None:
        nodes.append(text_node("group", operation.group.name))
    if info_words:
        info, _ = field_nodes(
            params.PARAM_ERROR_INFO, data, place, min(end, place + 4 * info_words)
        )
        nodes.append(group_node("error_info", info))
        place += 4 * info_words
    if place < end:
        _payload(nodes, data, place, end, operation)
    if at + size > len(data):
        nodes.append(
            _end(f"the list ends in this block, {at + size - len(data)} bytes short", is_whole)
        )
        return node, 0
    return node, size


def _payload(
    nodes: list[Node], data: Buffer, at: int, end: int, operation: Operation | None
) -> None:
    """Append what a block holds behind its header."""
    code = operation.code if operation else 0
    fields = operation.fields if operation else None
    if code == ParamOperation.SIZE_GET and end - at >= 4:
        nodes.append(number_node("size", data, at, 4, "bytes"))
        at += 4
    elif code in _ROW_OPERATIONS and end - at >= 4:
        at = _table(nodes, data, at, end, fields)
    elif code == ParamOperation.FIELD_GET and fields is not None:
        values, at = _row("values", fields, data, at, end)
        nodes.append(values)
        if len(values.children) < len(fields):
            rest = len(fields) - len(values.children)
            nodes.append(text_node("note", f"{rest} of {len(fields)} fields are not there"))
            at = max(at, end - 3)  # what a cut left of a field stays in `data`
    if end - at > 3 or any(data[at:end]):
        nodes.append(bytes_node("data", bytes(data[at:end]), at))


def _table(
    nodes: list[Node], data: Buffer, at: int, end: int, fields: tuple[Field, ...] | None
) -> int:
    count = int.from_bytes(data[at : at + 2], "little")
    nodes += [number_node("row_count", data, at, 2), number_node("more_flag", data, at + 2, 2)]
    at += 4
    if fields is None:
        return at
    rows: list[Node] = []
    nodes.append(list_node("rows", rows, offset=at))
    size = sum(field.width_bits // 8 for field in fields)
    while len(rows) < min(count, MAX_ITEMS) and size and at + size <= end:
        row, at = _row(str(len(rows)), fields, data, at, end)
        rows.append(row)
    if len(rows) < count:
        nodes.append(text_node("note", f"{len(rows)} of {count} rows are here"))
    return at


def _row(name: str, fields: tuple[Field, ...], data: Buffer, at: int, end: int) -> tuple[Node, int]:
    """Return the values of some fields, packed one behind the other, as far as they go."""
    leaves = []
    for field in fields:
        size = field.width_bits // 8
        if at + size > end:
            break
        leaves.append(field_node(field, data[at : at + size], at))
        at += size
    return group_node(name, leaves), at


def _group_text(number: int, group: ParameterGroup | None) -> str:
    return f"0x{number:04X}" + (f" {group.name}" if group else "")
