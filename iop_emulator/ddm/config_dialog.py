# SPDX-License-Identifier: Apache-2.0
"""UtilConfigDialog: a device's settings as HTML pages with forms.

The headers leave the data open; it is done as Linux's i2o_config does it. Buffer 1 takes the page,
a string that ends at a zero byte or with the buffer. An optional buffer 2 holds the fields of a
submitted form as `application/x-www-form-urlencoded`. A page that does not fit is cut, and the
reply says partial transfer with REPLY_BUFFER_FULL; what the form changed stays changed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import parse_qsl

from i2o.frames import params, utility
from i2o.frames.functions import Function
from i2o.frames.header import DetailedStatus, ReqStatus
from i2o.frames.layout import Field
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator import sgl_data
from i2o.iop_emulator.ddm import dialog_pages
from i2o.iop_emulator.ddm.dialog_pages import FORM_PAGES, OVERVIEW, FormPage, Input, Told
from i2o.iop_emulator.events import EventBook
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.parameter_groups import ScalarGroup, TableGroup, Value
from i2o.iop_emulator.parameters import ParameterEngine
from i2o.iop_emulator.request import Request
from i2o.transport.device_unit import DmaSpace

MAX_QUERY: Final = 64 << 10
"""Bytes of a submitted form."""
MAX_FIELDS: Final = 64
MAX_PAGE: Final = 1 << 20
"""Bytes of the page buffer that are used."""
_RESULT_ROOM: Final = 64


class DialogServices(Protocol):
    """What the dialog needs of the IOP."""

    @property
    def dma(self) -> DmaSpace:
        """Host memory."""

    @property
    def page_size(self) -> int:
        """The host's page size."""

    @property
    def events(self) -> EventBook:
        """Where changed groups are told."""

    def complain(self, sentence: str) -> None:
        """Tell the driver's author what was wrong."""


class DialogDevice(Protocol):
    """What the dialog needs of its device."""

    @property
    def iop(self) -> DialogServices:
        """The IOP it is part of."""

    @property
    def tid(self) -> int:
        """Its TID."""

    @property
    def name(self) -> str:
        """What it is."""

    @property
    def parameters(self) -> ParameterEngine:
        """Its parameter groups."""


class ConfigDialog:
    """The configuration dialog of one device.

    Args:
        device: whose parameter groups the pages show and change.
    """

    def __init__(self, device: DialogDevice) -> None:
        self._device = device

    @handles(Function.UTIL_CONFIG_DIALOG)
    def config_dialog(self, request: Request) -> bytes:
        """Take the form, if one came, and give the page."""
        iop, tid = self._device.iop, self._device.tid
        number = request.fields(utility.UTIL_CONFIG_DIALOG).page_number
        page = self._page(number)
        if page is None and number != OVERVIEW:
            return request.refuse(DetailedStatus.NO_SUCH_PAGE)
        word = utility.UTIL_CONFIG_DIALOG.sgl_word_offset
        buffers = sgl_data.buffers(request, word, iop.dma, iop.page_size)
        if not buffers or not buffers[0].length:
            iop.complain(f"UtilConfigDialog of TID {tid:#05x}: there is no buffer for the page")
            return request.refuse(DetailedStatus.MISSING_PARAMETER)
        capacity = min(buffers[0].length, MAX_PAGE)
        # before anything is changed: memory that cannot be written to refuses the whole request
        sgl_data.scatter(iop.dma, buffers[0], bytes(capacity))
        query = b""
        if len(buffers) > 1:
            query = sgl_data.gather(iop.dma, buffers[1], MAX_QUERY + 1)
        html = self.page(number, query, request.initiator).encode()
        sgl_data.scatter(iop.dma, buffers[0], html[:capacity])
        if len(html) > capacity:
            return request.status(
                ReqStatus.ERROR_PARTIAL_TRANSFER, DetailedStatus.REPLY_BUFFER_FULL
            )
        return request.success()

    def page(self, number: int, query: bytes, initiator: int) -> str:
        """Return a page as HTML.

        Args:
            number: one that the device has.
            query: the fields of a submitted form; empty if none was.
            initiator: who submits it.
        """
        title = f"{self._device.name or 'Device'} (TID {self._device.tid:#05x})"
        page = self._page(number)
        if page is None:
            return self._overview(title, "This page has no form." if query else "")
        told = self._submit(page, query, initiator) if query else Told()
        return dialog_pages.form(title, page, self._values(page), told)

    # --- what the device has -------------------------------------------------------------------

    def _page(self, number: int) -> FormPage | None:
        return next((page for page in self._pages() if page.number == number), None)

    def _pages(self) -> list[FormPage]:
        layouts = {group.layout for group in self._device.parameters.groups}
        return [page for page in FORM_PAGES if page.group in layouts]

    def _values(self, page: FormPage) -> dict[str, Value]:
        group = self._device.parameters.group(page.group.number)
        assert isinstance(group, ScalarGroup)
        return dict(_row(page.group.fields, group.packed()))

    def _overview(self, title: str, notice: str) -> str:
        values: list[tuple[Field, Value]] = []
        tables: list[tuple[list[Field], list[list[Value]]]] = []
        for group in self._device.parameters.groups:
            layout = group.layout
            if isinstance(group, ScalarGroup) and layout in dialog_pages.SHOWN:
                row = _row(layout.fields, group.packed())
                shown = dialog_pages.SHOWN[layout]
                values += [
                    (field, row[field.path]) for field in layout.fields if field.path in shown
                ]
            elif isinstance(group, TableGroup) and layout in dialog_pages.TABLES:
                columns = [f for f in layout.fields if f.path in dialog_pages.TABLES[layout]]
                rows = [_row(columns, packed) for packed in group.packed()]
                tables.append((columns, [list(row.values()) for row in rows]))
        return dialog_pages.overview(title, values, tables, self._pages(), notice)

    # --- a submitted form ------------------------------------------------------------------------

    def _submit(self, page: FormPage, query: bytes, initiator: int) -> Told:
        try:
            entered = _parse(page, query)
        except ValueError as error:
            return Told(f"Nothing was changed: {error}.", is_error=True)
        before = self._values(page)
        changes: dict[str, Value] = {}
        errors: dict[str, str] = {}
        for wanted in page.inputs:
            if wanted.path not in entered:
                continue
            try:
                value = _read(page, wanted, entered[wanted.path])
            except ValueError as error:
                errors[wanted.path] = str(error)
                continue
            layout = page.field(wanted.path)[1]
            text = dialog_pages.entry_of(layout, value)
            if text != dialog_pages.entry_of(layout, before[wanted.path]):
                changes[wanted.path] = value
        if changes and not errors:
            refused = self._set(page, changes, initiator)
            if refused:
                self._set(page, {path: before[path] for path in changes}, initiator)
                errors[refused] = "The device does not take this value."
        if errors:
            return Told("Nothing was changed.", is_error=True, errors=errors, entered=entered)
        if not changes:
            return Told("It is so already.")
        number = page.group.number.to_bytes(4, "little")
        self._device.iop.events.post(self._device.tid, GenericEvent.FIELD_MODIFIED, number)
        return Told("Saved.")

    def _set(self, page: FormPage, changes: Mapping[str, Value], initiator: int) -> str:
        """Set fields through the parameter engine; return the one that is refused, or nothing."""
        fields = [page.field(path) for path in changes]
        operations = params.PARAM_OPERATION_LIST_HEADER.build(operation_count=1)
        head = (params.ParamOperation.FIELD_SET, page.group.number, len(fields))
        operations += struct.pack("<3H", *head)
        operations += struct.pack(f"<{len(fields)}H", *(index for index, _ in fields))
        for (_, layout), value in zip(fields, changes.values(), strict=True):
            operations += (
                value
                if isinstance(value, bytes)
                else value.to_bytes(layout.width_bits // 8, "little")
            )
        engine = self._device.parameters
        outcome = engine.run(operations, _RESULT_ROOM, initiator, may_set=True)
        if outcome.req_status == ReqStatus.SUCCESS:
            return ""
        block = params.PARAM_RESULT_LIST_HEADER.size + params.PARAM_MODIFY_RESULT.size
        index = params.PARAM_ERROR_INFO.unpack_from(outcome.results, block).field_idx
        refused: Field = page.group.fields[index]
        return refused.path


def _parse(page: FormPage, query: bytes) -> dict[str, str]:
    """Read the fields of a form; raises ValueError with half a sentence."""
    if len(query) > MAX_QUERY:
        raise ValueError(f"the form has more than {MAX_QUERY} bytes")
    text = query.split(b"\0", 1)[0]
    try:
        pairs = parse_qsl(
            text.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise ValueError("what came is no form (name=value, joined by &)") from None
    if any("\0" in value for _, value in pairs):
        raise ValueError("a field has a NUL, which would end the page")
    known = {wanted.path for wanted in page.inputs}
    entered = dict(pairs)
    if len(entered) < len(pairs):
        raise ValueError("a field came twice")
    if not known.issuperset(entered):
        raise ValueError(f"the fields of this form are {', '.join(sorted(known))}")
    return entered


def _read(page: FormPage, wanted: Input, text: str) -> Value:
    """Read what was typed into a field; raises ValueError with a sentence."""
    layout = page.field(wanted.path)[1]
    size = layout.width_bits // 8
    if layout.kind == "bytes":
        if len(text) > size or not (text.isascii() and (text.isprintable() or not text)):
            raise ValueError(f"At most {size} letters, digits and signs of ASCII.")
        return text.encode("ascii").ljust(size)
    choices = page.choices(wanted)
    limit = (1 << layout.width_bits) - 1
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(limit))):
        raise ValueError(f"A number from 0 to {limit} is needed.")
    value = int(text)
    if value > limit or (choices and value not in choices):
        known = ", ".join(map(str, choices)) or f"0 to {limit}"
        raise ValueError(f"It can be {known}.")
    return value


def _row(fields: Sequence[Field], packed: bytes) -> dict[str, Value]:
    """Take a packed row apart."""
    row: dict[str, Value] = {}
    for field in fields:
        raw = packed[field.byte : field.byte + field.width_bits // 8]
        row[field.path] = raw if field.kind == "bytes" else int.from_bytes(raw, "little")
    return row
