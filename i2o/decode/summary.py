# SPDX-License-Identifier: Apache-2.0
"""One frame in a few words: what stands behind its name in a listing of one line a frame.

This is the hot path of `i2o dump`: what is looked up by name or enum is cached, and only the fixed
fields that are shown are read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final

from i2o.decode.conversation import DMA, MESSAGE, REQUEST, Traced
from i2o.decode.dma_summary import dma_summary
from i2o.decode.event_nodes import LCT_EVENTS, event_data_text, event_names
from i2o.decode.message_text import message_summary
from i2o.decode.scsi import cdb_text
from i2o.decode.values import names_text
from i2o.frames import catalog
from i2o.frames.functions import Function
from i2o.frames.header import (
    HEADER_SIZE,
    DetailedStatus,
    FailureCode,
    FailureSeverity,
    MsgFlags,
    ReqStatus,
)
from i2o.frames.host_ranges import host_ranges, sgl_start
from i2o.frames.layout import Field, Layout, MessageLayout
from i2o.frames.sgl_walk import SglError, sgl_elements

_FAIL, _REPLY = MsgFlags.FAIL.value, MsgFlags.REPLY.value
_64BIT: Final = MsgFlags.CONTEXT_64BIT.value
_EVENT_REGISTER: Final = Function.UTIL_EVENT_REGISTER.value
_PRIVATE: Final = Function.PRIVATE_MESSAGE.value
_WIDE_MARK: Final = " ! contexts of 64 bits: fields behind them are not decoded"
_MAX_FIELDS: Final = 5
_HEADER_FIELDS: Final = frozenset(
    (
        "version_offset",
        "msg_flags",
        "message_size",
        "target_address",
        "initiator_address",
        "function",
        "initiator_context",
        "transaction_context",
        "req_status",
        "detailed_status_code",
    )
)
_HEX_NAMES: Final = ("flags", "address", "mask", "mfa", "context", "identifier", "id", "indicator")
_read_transfer = struct.Struct("<I").unpack_from
_read_simple = struct.Struct("<II").unpack_from
_read_block = struct.Struct("<IQ").unpack_from


def summary(traced: Traced) -> str:
    """Return what a frame, a piece of DMA or a message says, in less than a line.

    Args:
        traced: the frame.
    """
    if traced.kind == REQUEST:
        return _request(traced)
    if traced.kind == DMA:
        return dma_summary(traced)
    if traced.kind == MESSAGE:
        return message_summary(traced.record, len(traced.packet.data), traced.payload)
    data = traced.packet.data
    if len(data) < HEADER_SIZE:
        return f"! only {len(data)} bytes of a frame"
    return _reply(traced, data)


def size_text(count: int) -> str:
    """Return a number of bytes: `512`, `64K`, `1M`, exactly."""
    if count and not count & 0xFFFFF:
        return f"{count >> 20}M"
    return f"{count >> 10}K" if count and not count & 0x3FF else str(count)


# --- requests ----------------------------------------------------------------------------------


def _request(traced: Traced) -> str:
    data = traced.packet.data
    size = 4 * traced.size_words
    if len(data) < HEADER_SIZE:
        return "" if size <= len(data) and len(data) >= 12 else f"! only {len(data)} bytes of it"
    if traced.flags & _64BIT:
        return f"{size} bytes{_WIDE_MARK}"
    special = _REQUESTS.get(traced.function)
    text = ""
    if special is not None:
        needed, words = special
        if len(data) >= needed <= size:
            text = words(traced, data)
    if not text:
        layout = traced.layout
        if layout is None:
            return f"{size} bytes, unknown function"
        text = _fields_text(layout, data, traced.device_class)
        if layout.sgl_word_offset and data[0] >> 4:
            text = f"{text}, {_sgl_text(traced)}" if text else _sgl_text(traced)
    if size > len(data):
        text += f" ! {size - len(data)} bytes short of its MessageSize"
    if traced.flags & _REPLY:
        text += " ! marked as a reply"
    return text


def _block_text(traced: Traced, data: bytes) -> str:
    count, place = _read_block(data, 20)
    return f"{size_text(count)} at {place:#x}{_memory_text(traced, data)}"


def _memory_text(traced: Traced, data: bytes) -> str:
    """Return where a list's bytes are; nothing if there is no list."""
    at = data[0] >> 4 << 2
    end = len(data)
    if not at:
        return ", no SGL"
    pieces = 0
    while at + 8 <= end:  # plain simple elements up to the last one: nearly all lists
        word, address = _read_simple(data, at)
        if word & 0x3B000000 != 0x10000000:
            break
        pieces += 1
        if word & 0x80000000:
            if address + (word & 0xFFFFFF) > 0x100000000 or end > 4 * traced.size_words:
                break
            return f", {pieces} pieces" if pieces > 1 else f", memory {address:#010x}"
        at += 8
    return f", {_sgl_text(traced)}"


def _sgl_text(traced: Traced) -> str:
    """Return a list in a few words, or what is wrong with it."""
    frame = traced.frame
    start = sgl_start(frame)
    elements = pieces = chains = 0
    sizes = [0]
    try:
        for element in sgl_elements(
            frame, start, len(frame), context_words64=bool(traced.flags & _64BIT)
        ):
            elements += 1
            if element.kind == "chain":
                chains += 1
            elif element.kind in _DATA_KINDS:
                pieces += max(1, len(element.pieces))
                sizes[-1] += element.count
                if element.end_of_buffer:
                    sizes.append(0)
            if elements > _MANY_ELEMENTS:
                break
    except SglError as error:
        return f"! {error}"
    shown = [size_text(size) for size in sizes if size]
    text = " + ".join(shown[:_MAX_FIELDS]) + (" + ..." if len(shown) > _MAX_FIELDS else "")
    if pieces > len(shown):
        text += f" in {pieces} pieces"
    words = [part for part in (text, "chained" if chains else "") if part]
    return f"SGL {', '.join(words) or 'empty'}"


_DATA_KINDS: Final = frozenset(("simple", "page_list", "immediate", "bit_bucket"))
_MANY_ELEMENTS: Final = 1000


def _register_text(traced: Traced, data: bytes) -> str:
    mask = _read_transfer(data, HEADER_SIZE)[0]
    return f"event_mask {event_names(mask, traced.device_class) or 0}"


def _scb_text(traced: Traced, data: bytes) -> str:
    return _cdb_and_memory(traced, data, 16)


def _private_text(traced: Traced, data: bytes) -> str:
    layout = traced.layout
    if layout is not None and layout.name == "dpt_private_scsi_scb_exec" and len(data) >= 48:
        device = int.from_bytes(data[20:22], "little")
        return f"device {device:#05x}, {_cdb_and_memory(traced, data, 24)}"
    code, organization = struct.unpack_from("<HH", data, 16)
    if layout is None or layout.name == "private_message":
        return f"organization {organization:#06x}, function {code:#06x}"
    return _fields_text(layout, data, traced.device_class)


def _cdb_and_memory(traced: Traced, data: bytes, at: int) -> str:
    """Return the text of a SCSI control block: CDB length at `at`, CDB four bytes behind."""
    cdb = data[at + 4 : at + 4 + min(data[at], 16)]
    count = _read_transfer(data, at + 20)[0]
    text = cdb_text(cdb)
    return f"{text}, {size_text(count)}{_memory_text(traced, data)}" if count else text


def _status_get_text(traced: Traced, data: bytes) -> str:
    ranges = host_ranges(traced.frame)
    return f"to memory {ranges[0].address:#010x}" if ranges else "to no memory"


_REQUESTS: Final[dict[int, tuple[int, Callable[[Traced, bytes], str]]]] = {
    Function.BSA_BLOCK_READ.value: (32, _block_text),
    Function.BSA_BLOCK_WRITE.value: (32, _block_text),
    Function.BSA_BLOCK_WRITE_VERIFY.value: (32, _block_text),
    Function.SCSI_SCB_EXEC.value: (40, _scb_text),
    Function.PRIVATE_MESSAGE.value: (20, _private_text),
    _EVENT_REGISTER: (HEADER_SIZE + 4, _register_text),
    Function.EXEC_STATUS_GET.value: (36, _status_get_text),
    Function.EXEC_IOP_RESET.value: (32, _status_get_text),
}
"""What is shown of frequent requests: the bytes that it needs, and the function that says it."""


@cache
def _shown_fields(layout: Layout) -> tuple[Field, ...]:
    """Return the fields of a layout that a line has room for."""
    return tuple(
        field
        for field in layout.fields
        if field.path not in _HEADER_FIELDS
        and "reserved" not in field.path
        and field.kind != "bytes"
    )


def _fields_text(layout: MessageLayout, data: bytes, device_class: int | None) -> str:
    """Return the fields of the body that are not zero."""
    parts = []
    for field in _shown_fields(layout):
        end = field.byte + (field.bit + field.width_bits + 7) // 8
        if end > len(data):
            break
        value = int.from_bytes(data[field.byte : end], "little") >> field.bit
        value &= (1 << field.width_bits) - 1
        if value:
            parts.append(f"{field.path} {_value_text(field, value)}")
        if len(parts) >= _MAX_FIELDS:
            break
    return ", ".join(parts)


def _value_text(field: Field, value: int) -> str:
    if field.enum is not None:
        name = _enum_name(field.enum, value)
        if name:
            return name
    if any(word in field.path.split("_") for word in _HEX_NAMES) or value > 0xFFFF:
        return f"{value:#x}"
    return str(value)


_enum_name = lru_cache(maxsize=4096)(names_text)


# --- replies -----------------------------------------------------------------------------------


def _reply(traced: Traced, data: bytes) -> str:
    flags = traced.flags
    if flags & _FAIL:
        text = _fail_text(data)
    elif flags & _64BIT:
        text = f"{4 * traced.size_words} bytes{_WIDE_MARK}"
    elif traced.function == _EVENT_REGISTER:
        text = _event_text(data, traced.device_class)
    elif len(data) < HEADER_SIZE + 4:
        text = "no status"
    else:
        status = _read_transfer(data, HEADER_SIZE)[0]
        function, device_class = traced.function, traced.device_class
        if function == _PRIVATE:
            function, device_class = traced.meant
        text, has_count = _status_text(function, device_class, status & 0xFF00FFFF)
        if has_count and len(data) >= 24:
            text = f"{text}, {size_text(_read_transfer(data, 20)[0])}"
    if 4 * traced.size_words > len(data):
        text += f" ! {4 * traced.size_words - len(data)} bytes short of its MessageSize"
    request = traced.request
    if request is None:
        text += " ! answers no request that was seen"
    elif traced.target != request.target:
        text += " ! TIDs are swapped"
    if not flags & _REPLY:
        text += " ! not marked as a reply"
    return text


def _event_text(data: bytes, device_class: int | None) -> str:
    """Return what happened, and the first word of the data where it says more."""
    if len(data) < HEADER_SIZE + 4:
        return "no event"
    indicator = _read_transfer(data, HEADER_SIZE)[0]
    text = f"event {event_names(indicator, device_class) or 'of no kind'}"
    if len(data) < HEADER_SIZE + 8:
        return text
    word = _read_transfer(data, HEADER_SIZE + 4)[0]
    if device_class == 0 and indicator & LCT_EVENTS:
        return f"{text}, TID {word >> 16 & 0xFFF:#05x}"
    more = event_data_text(indicator, word, device_class) or (f"data {word:#x}" if word else "")
    return f"{text}, {more}" if more else text


@lru_cache(maxsize=4096)
def _status_text(function: int, device_class: int | None, word: int) -> tuple[str, bool]:
    """Return the status word of a reply as names, and whether a transfer count follows."""
    status, detail = word >> 24, word & 0xFFFF
    try:
        text = ReqStatus(status).name
    except ValueError:
        text = f"status {status:#04x}"
    if detail:
        names = catalog.detailed_status(function, device_class)
        name = _enum_name(names, detail) or _enum_name(DetailedStatus, detail)
        text += f", {name or f'detail {detail:#06x}'}"
    layout = catalog.reply_layout(function, device_class, req_status=status)
    has_count = any(field.path == "transfer_count" and field.byte == 20 for field in layout.fields)
    return text, has_count


def _fail_text(data: bytes) -> str:
    if len(data) < 32:
        return "FAIL"
    severity, code = data[18], data[19]
    name = _enum_name(FailureCode, code) or f"code {code:#04x}"
    kind = _enum_name(FailureSeverity, severity) or f"severity {severity:#x}"
    return f"FAIL {name} ({kind}), frame {_read_transfer(data, 28)[0]:#x} preserved"
