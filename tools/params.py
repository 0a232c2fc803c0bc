# SPDX-License-Identifier: Apache-2.0
"""`i2o params`: shows the parameter groups of a device, and changes fields.

Without a TID it lists the TIDs, without a group it shows every group the device says it has.
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from i2o import opening, parameters
from i2o.bring_up import EXECUTIVE_TID
from i2o.decode.values import enum_text, json_value, value_text
from i2o.errors import ParameterError, RequestFailed
from i2o.frames.layout import ParameterGroup
from i2o.frames.params import FIRST_GENERIC_GROUP
from i2o.tools import output
from i2o.tools.arguments import SubParsers, UsageError, add_iop, add_json, number, tid, with_faults
from i2o.tools.failures import explain
from i2o.tools.field_text import parse_value

if TYPE_CHECKING:
    from i2o.iop import Iop
    from i2o.parameters import Value

Row = dict[str, "Value"]

_WIDE = 100  # a table with longer lines is shown row by row
_COLUMNS = 77  # the demo indents by three


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("params", help=summary, description=__doc__)
    parser.add_argument("tid", nargs="?", type=tid, metavar="TID", help="0 is the IOP itself")
    parser.add_argument("group", nargs="?", type=name_or_number, metavar="GROUP")
    parser.add_argument("field", nargs="?", type=name_or_number, metavar="FIELD")
    parser.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="change a field of GROUP: a number, value names (A|B), text, or 0x… for bytes",
    )
    add_iop(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def name_or_number(text: str) -> int | str:
    """Read the name or the number of a group or field."""
    return number(text) if text[:1].isdigit() else text


def run(args: argparse.Namespace) -> int:
    """Show or change parameters."""
    if args.set and (args.group is None or args.field is not None):
        raise UsageError(
            "--set needs TID and GROUP, and no FIELD beside it",
            remedy="for example: i2o params 0x010 cache_control --set write_policy=NONE",
        )
    with opening.open(with_faults(args.iop, args.faults)) as iop:
        if args.tid is None:
            _show_tids(iop, as_json=args.json)
            return 0
        if args.group is None:
            return _show_all(iop, args.tid, as_json=args.json)
        layout = iop.group(args.tid, args.group)
        if args.set:
            iop.params_set(args.tid, layout, _values(layout, args.set))
        if args.field is not None:
            _show_field(iop, args.tid, layout, args.field, as_json=args.json)
        else:
            _show_group(args.tid, layout, read_rows(iop, args.tid, layout), as_json=args.json)
    return 0


def group_lines(layout: ParameterGroup, rows: list[Row], *, indent: int = 2) -> list[str]:
    """Return a group's fields, or a table's rows, as lines."""
    pad = " " * indent
    fields = {field.path: field for field in layout.fields}
    shown = [
        [
            (path, value_text(fields[path], value, brief=layout.is_table))
            for path, value in row.items()
        ]
        for row in rows
    ]
    if not layout.is_table:
        width = max((len(path) for path in fields), default=0)
        return [
            line
            for row in shown
            for path, text in row
            for line in _field_lines(pad, path, width, text)
        ]
    if not shown:
        return [f"{pad}(no rows)"]
    cells = [[text for _, text in row] for row in shown]
    lines = output.table(tuple(fields), cells, indent=indent)
    if max(map(len, lines)) <= _WIDE:
        return lines
    width = max(map(len, fields))
    return [
        f"{pad}{f'row {number}' if at == 0 else '':8}{path:{width}}  {text}"
        for number, row in enumerate(shown)
        for at, (path, text) in enumerate(row)
    ]


def _field_lines(pad: str, path: str, width: int, text: str) -> list[str]:
    """Return a field and its value; a long list of flags goes on in the next lines."""
    room = _COLUMNS - len(pad) - width - 2
    lines = [""]
    for part in re.split(r"(?<=[|])", text):
        if lines[-1] and len(lines[-1]) + len(part) > room:
            lines.append("")
        lines[-1] += part
    head = f"{pad}{path:{width}}  "
    return [head + lines[0]] + [" " * len(head) + line for line in lines[1:]]


def json_group(layout: ParameterGroup, rows: list[Row]) -> dict[str, object]:
    """Return a group for JSON: `values` and their `meanings`, or the `rows` of a table."""
    head: dict[str, object] = {"group": layout.number, "name": layout.name}
    values = [_json_row(layout, row) for row in rows]
    if layout.is_table:
        return {**head, "rows": values}
    return {**head, "values": values[0], "meanings": _meanings(layout, rows[0])}


def group_title(layout: ParameterGroup) -> str:
    """Return a group's number and name."""
    return output.styled(f"{layout.number:#06x} {layout.name}", output.BOLD)


def reported_groups(iop: Iop, tid: int) -> list[tuple[int, ParameterGroup | None]]:
    """Return the groups a device says it has, by number, with their layouts where known."""
    found: list[tuple[int, ParameterGroup | None]] = []
    for group in sorted(set(iop.params_groups(tid))):
        try:
            found.append((group, iop.group(tid, group)))
        except ParameterError:
            found.append((group, None))
    return found


def read_rows(iop: Iop, tid: int, layout: ParameterGroup) -> list[Row]:
    """Read a table's rows, or the one row of a scalar group."""
    if layout.is_table:
        return parameters.get_table(iop.requester, iop.memory, tid, layout)
    return [parameters.get_group(iop.requester, iop.memory, tid, layout)]


def _values(layout: ParameterGroup, settings: list[str]) -> dict[str | int, Value]:
    values: dict[str | int, Value] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting!r} reads FIELD=VALUE")
        index, field = parameters.find_field(layout, name_or_number(name))
        values[index] = parse_value(layout, field, text)
    return values


def _show_tids(iop: Iop, *, as_json: bool) -> None:
    classes = {EXECUTIVE_TID: "executive"} | {entry.tid: entry.class_name for entry in iop.devices}
    known = sorted(classes.items())
    if as_json:
        for number, name in known:
            output.emit({"tid": number, "class_name": name})
        return
    output.show(
        *output.table(("TID", "class"), [(f"{number:#05x}", name) for number, name in known])
    )
    output.note("i2o params TID shows the parameters of one")


def _show_all(iop: Iop, tid: int, *, as_json: bool) -> int:
    """Show every group; 1 if one could not be read."""
    iop.device_class(tid)  # an unknown TID is an error before anything is sent
    code = 0
    for group, layout in reported_groups(iop, tid):
        if layout is None:
            if as_json:
                output.emit({"tid": tid, "group": group, "name": None})
            else:
                kind = "generic" if group >= FIRST_GENERIC_GROUP else "private"
                output.show(f"{group:#06x} (a {kind} group without a known layout)")
            continue
        try:
            rows = read_rows(iop, tid, layout)
        except (ParameterError, RequestFailed) as error:
            output.note(f"i2o: {explain(error)}")
            code = 1
            continue
        _show_group(tid, layout, rows, as_json=as_json)
    return code


def _show_group(tid: int, layout: ParameterGroup, rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        output.emit({"tid": tid, **json_group(layout, rows)})
    else:
        output.show(group_title(layout), *group_lines(layout, rows))


def _show_field(
    iop: Iop, tid: int, layout: ParameterGroup, name: int | str, *, as_json: bool
) -> None:
    """Show one field: its value alone; for a table, the column."""
    index, field = parameters.find_field(layout, name)
    if layout.is_table:
        values = [row[field.path] for row in read_rows(iop, tid, layout)]
    else:
        values = [parameters.get_field(iop.requester, iop.memory, tid, layout, index)]
    for value in values:
        if as_json:
            output.emit(
                {
                    "tid": tid,
                    "group": layout.number,
                    "name": layout.name,
                    "field": field.path,
                    "value": json_value(field, value),
                }
            )
        else:
            output.show(value_text(field, value))


def _json_row(layout: ParameterGroup, row: Row) -> dict[str, str | int]:
    fields = {field.path: field for field in layout.fields}
    return {path: json_value(fields[path], value) for path, value in row.items()}


def _meanings(layout: ParameterGroup, row: Row) -> dict[str, str]:
    names = {
        field.path: enum_text(field, value)
        for field in layout.fields
        if isinstance(value := row.get(field.path), int)
    }
    return {path: name for path, name in names.items() if name}
