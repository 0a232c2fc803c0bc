# SPDX-License-Identifier: Apache-2.0
"""Parameter groups as a device offers them: a layout, and functions that read and change values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from i2o.frames.layout import Field, ParameterGroup
from i2o.frames.params import GroupProperties

Value = int | bytes
Row = Mapping[str, Value]


class ScalarGroup:
    """One set of values.

    Args:
        layout: names, widths and order of the fields.
        read: returns the values; fields it leaves out are zero.
        write: changes one value (ValueError refuses it), None if nothing can be written.
        writeable: fields that `write` takes.
    """

    def __init__(
        self,
        layout: ParameterGroup,
        read: Callable[[], Row],
        *,
        write: Callable[[str, Any], None] | None = None,
        writeable: Collection[str] = (),
    ) -> None:
        self.layout, self._read, self.write = layout, read, write
        self.writeable = frozenset(writeable) if write is not None else frozenset()

    def packed(self) -> bytes:
        """Return all fields, packed."""
        return self.layout.build(**self._read())


class TableGroup:
    """Rows of values; the first field is the key.

    Args:
        layout: names, widths and order of the fields.
        rows: returns the rows.
        write: changes one value of the row with a key (ValueError refuses it).
        writeable: fields that `write` takes.
        add: adds a row (ValueError refuses it), None if rows cannot be added.
        delete: deletes the row with a key, None if rows cannot be deleted.
        clear: deletes all rows, None if that cannot be done.
    """

    def __init__(
        self,
        layout: ParameterGroup,
        rows: Callable[[], Iterable[Row]],
        *,
        write: Callable[[Value, str, Any], None] | None = None,
        writeable: Collection[str] = (),
        add: Callable[[Row], None] | None = None,
        delete: Callable[[Value], None] | None = None,
        clear: Callable[[], None] | None = None,
    ) -> None:
        self.layout, self._rows, self.write = layout, rows, write
        self.writeable = frozenset(writeable) if write is not None else frozenset()
        self.add, self.delete, self.clear = add, delete, clear

    def packed(self) -> list[bytes]:
        """Return all rows, packed."""
        return [self.layout.build(**row) for row in self._rows()]

    @property
    def key(self) -> Field:
        """The key field."""
        return self.layout.fields[0]


Group = ScalarGroup | TableGroup


def describe(group: Group) -> Row:
    """Return the row of group 0xF000 for a group."""
    properties = 0
    rows = 1
    if isinstance(group, TableGroup):
        rows = len(group.packed())
        properties = GroupProperties.GROUP_TABLE.value
        for able, flag in (
            (group.add, GroupProperties.ROW_ADDITION),
            (group.delete, GroupProperties.ROW_DELETION),
            (group.clear, GroupProperties.CLEAR_OPERATION),
        ):
            properties |= flag.value if able is not None else 0
    return {
        "group_number": group.layout.number,
        "field_count": len(group.layout.fields),
        "row_count": rows,
        "properties": properties,
    }
