# SPDX-License-Identifier: Apache-2.0
"""The pages of the configuration dialog: which groups they show and change, and their HTML.

A device has a page for each of `FORM_PAGES` whose parameter group it has. Links and forms name
pages by their number alone, as in `<a href="2">`; whoever shows the pages makes addresses of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from html import escape
from typing import Final

from i2o.frames import block_storage_groups as bsa
from i2o.frames import executive_groups as executive
from i2o.frames import params
from i2o.frames.functions import DeviceClass
from i2o.frames.layout import Field, ParameterGroup
from i2o.iop_emulator.parameter_groups import Value

OVERVIEW: Final = 0


@dataclass(frozen=True)
class Input:
    """One field of a form.

    Attributes:
        path: the field of the group.
        label: what it is called.
        hint: unit or limits, in a few words.
        choices: names of the values it can have; those of the layout, if there are any.
    """

    path: str
    label: str
    hint: str = ""
    choices: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FormPage:
    """One page with a form.

    Attributes:
        number: PageNumber.
        title: its heading.
        group: the parameter group that it changes.
        inputs: the fields of the form.
    """

    number: int
    title: str
    group: ParameterGroup
    inputs: tuple[Input, ...]

    def field(self, path: str) -> tuple[int, Field]:
        """Return index and layout of a field of the group."""
        return next(
            (index, found) for index, found in enumerate(self.group.fields) if found.path == path
        )

    def choices(self, wanted: Input) -> Mapping[int, str]:
        """Return the values a field can have, empty if it is a free number or text."""
        names = self.field(wanted.path)[1].enum
        if wanted.choices or names is None:
            return wanted.choices
        return {member.value: _words(member.name or "") for member in names}


FORM_PAGES: Final = (
    FormPage(
        1,
        "Names",
        params.USER_INFORMATION,
        (
            Input("device_name", "Device name"),
            Input("service_name", "Service name"),
            Input("physical_location", "Where it is"),
        ),
    ),
    FormPage(
        2,
        "Write cache",
        bsa.BSA_CACHE_CONTROL,
        (Input("write_policy", "Writes"),),
    ),
    FormPage(
        3,
        "Time limits",
        bsa.BSA_OPERATIONAL_CONTROL,
        (
            Input("retry_attempts", "Retries"),
            Input("timeout_base", "Limit of a request", "microseconds"),
            Input("rwv_timeout_base", "Limit of a transfer", "microseconds"),
            Input("rwv_timeout", "Longer for each 64 KiB by", "microseconds"),
        ),
    ),
    FormPage(
        4,
        "Power",
        bsa.BSA_POWER_CONTROL,
        (
            Input("powerdown_timeout", "Power down when idle for", "milliseconds, 0 for never"),
            Input("on_access", "Power up on access", choices={0: "no", 1: "yes"}),
        ),
    ),
    FormPage(
        5,
        "Message frames",
        executive.EXEC_IOP_MESSAGE_INTERFACE,
        (Input("inbound_size_target", "Inbound frame size", "bytes, in force after a reset"),),
    ),
)
"""Pages by number. A number means the same for every device, and has one group."""

SHOWN: Final[Mapping[ParameterGroup, tuple[str, ...]]] = {
    params.DEVICE_IDENTITY: (
        "vendor_info",
        "product_info",
        "description",
        "product_rev_level",
        "serial_number",
    ),
    bsa.BSA_DEVICE_INFO: ("device_capacity", "block_size", "device_state"),
    bsa.BSA_CACHE_CONTROL: ("write_policy", "read_policy"),
    executive.EXEC_IOP_MESSAGE_INTERFACE: ("inbound_frame_size", "inbound_max", "outbound_max"),
}
"""What the overview shows of scalar groups."""

TABLES: Final[Mapping[ParameterGroup, tuple[str, ...]]] = {
    executive.EXEC_LCT_TABLE: ("local_tid", "class_id", "user_tid", "parent_tid", "identity_tag"),
}
"""What the overview shows of tables."""


@dataclass(frozen=True)
class Told:
    """What a submitted form came to.

    Attributes:
        notice: a sentence, empty if nothing was submitted.
        is_error: the sentence says that nothing was changed.
        errors: sentences by field.
        entered: what was typed, by field, to show it again.
    """

    notice: str = ""
    is_error: bool = False
    errors: Mapping[str, str] = field(default_factory=dict)
    entered: Mapping[str, str] = field(default_factory=dict)


def overview(
    title: str,
    values: Iterable[tuple[Field, Value]],
    tables: Iterable[tuple[Sequence[Field], Sequence[Sequence[Value]]]],
    pages: Iterable[FormPage],
    notice: str,
) -> str:
    """Return page 0.

    Args:
        title: the device's name.
        values: what is shown as a list.
        tables: columns and rows.
        pages: what it links to.
        notice: an error in words, if there is one.
    """
    parts = [_notice(notice, is_error=True)]
    rows = "".join(
        f"<tr><th>{escape(_words(shown.path))}</th><td>{escape(text_of(shown, value))}</td></tr>\n"
        for shown, value in values
    )
    parts.append(f"<table>\n{rows}</table>\n")
    for columns, lines in tables:
        head = "".join(f"<th>{escape(_words(column.path))}</th>" for column in columns)
        body = "".join(
            "<tr>"
            + "".join(
                f"<td>{escape(text_of(column, value))}</td>"
                for column, value in zip(columns, line, strict=True)
            )
            + "</tr>\n"
            for line in lines
        )
        parts.append(f"<h2>Devices</h2>\n<table>\n<tr>{head}</tr>\n{body}</table>\n")
    links = "".join(
        f'<li><a href="{page.number}">{escape(page.title)}</a></li>\n' for page in pages
    )
    parts.append(f"<h2>Settings</h2>\n<ul>\n{links}</ul>\n")
    return _document(title, "".join(parts))


def form(title: str, page: FormPage, values: Mapping[str, Value], told: Told) -> str:
    """Return a page with a form.

    Args:
        title: the device's name.
        page: which.
        values: the group's values as they are now.
        told: what became of the form that was submitted.
    """
    rows = []
    for wanted in page.inputs:
        layout = page.field(wanted.path)[1]
        shown = told.entered.get(wanted.path, entry_of(layout, values[wanted.path]))
        error = told.errors.get(wanted.path, "")
        rows.append(
            f'<tr><th><label for="{wanted.path}">{escape(wanted.label)}</label></th>'
            f"<td>{_control(page, wanted, layout, shown)} {escape(wanted.hint)}"
            + (f' <strong class="error">{escape(error)}</strong>' if error else "")
            + "</td></tr>\n"
        )
    body = (
        f"<h2>{escape(page.title)}</h2>\n{_notice(told.notice, is_error=told.is_error)}"
        f'<form method="post" action="{page.number}">\n<table>\n{"".join(rows)}</table>\n'
        f'<p><input type="submit" value="Save"></p>\n</form>\n'
        f'<p><a href="{OVERVIEW}">Overview</a></p>\n'
    )
    return _document(title, body)


def text_of(layout: Field, value: Value) -> str:
    """Return a value in words."""
    if isinstance(value, bytes):
        return value.split(b"\0", 1)[0].decode("ascii", "replace").rstrip()
    if layout.path == "class_id":
        try:
            return _words(DeviceClass(value & 0xFFF).name)
        except ValueError:
            return f"class {value & 0xFFF:#05x}"
    if layout.path.endswith("tid"):
        return f"{value:#05x}"
    if layout.enum is None:
        return f"{value:,}"
    if issubclass(layout.enum, IntFlag):
        flags = [_words(flag.name or "") for flag in layout.enum if value & flag]
        return ", ".join(flags) or "-"
    return next((_words(name.name) for name in layout.enum if name == value), str(value))


def entry_of(layout: Field, value: Value) -> str:
    """Return a value as it stands in a form."""
    return text_of(layout, value) if isinstance(value, bytes) else str(value)


def _control(page: FormPage, wanted: Input, layout: Field, shown: str) -> str:
    name = f'id="{wanted.path}" name="{wanted.path}"'
    choices = {str(value): text for value, text in page.choices(wanted).items()}
    if choices:
        if shown not in choices:
            choices[shown] = shown
        options = "".join(
            f'<option value="{escape(value)}"{" selected" if value == shown else ""}>'
            f"{escape(text)}</option>"
            for value, text in choices.items()
        )
        return f"<select {name}>{options}</select>"
    if layout.kind == "bytes":
        size = layout.width_bits // 8
        return f'<input {name} type="text" maxlength="{size}" size="40" value="{escape(shown)}">'
    return f'<input {name} type="text" maxlength="20" size="12" value="{escape(shown)}">'


def _notice(sentence: str, *, is_error: bool) -> str:
    if not sentence:
        return ""
    return f'<p class="{"error" if is_error else "notice"}">{escape(sentence)}</p>\n'


def _document(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html>\n<head><meta charset="utf-8">'
        f"<title>{escape(title)}</title></head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}</body>\n</html>\n"
    )


def _words(name: str) -> str:
    return name.replace("_", " ").lower().removesuffix(" info")
