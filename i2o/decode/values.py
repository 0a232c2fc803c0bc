# SPDX-License-Identifier: Apache-2.0
"""What the value of a field says: names of numbers and flags, sizes, TIDs, versions, text."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from functools import lru_cache
from typing import Final

from i2o.decode.text import human_size, printable
from i2o.frames import catalog
from i2o.frames.functions import DeviceClass
from i2o.frames.header import MsgFlags, SpecialTid
from i2o.frames.layout import Field, ValueNames
from i2o.frames.scsi import ScsiDetailedStatus, ScsiDeviceStatus, ScsiHbaStatus

Value = int | bytes

_SIZE_WORDS: Final = ("size", "capacity", "memory", "space", "mem_total", "mem_free")
_NO_SIZES: Final = ("word", "count", "index")
_HEX_FIELDS: Final = ("class_id", "group_number", "adapter_id", "event_capabilities")
_HEX_BEFORE: Final = 1 << 16  # larger numbers without another meaning are flags or addresses
_NO_TEXTS: Final = ("address", "reserved", "cdb", "sense_data", "bus_info", "lun")
_HEX_WORDS: Final = ("offset", "flags", "address", "context", "mfa", "severity", "code", "status")


def names_text(names: ValueNames, value: int) -> str:
    """Return what a class of names calls a value, `A|B` for flags; empty if it has no name.

    Of flags that are small numbers in several bits the widest that fits is taken; bits without
    a name are added as a number.
    """
    if issubclass(names, IntFlag):
        found, rest = [], value
        for number, name in _flags(names):
            if rest & number == number:
                found.append((number, name))
                rest &= ~number
        if not found:
            return ""
        text = "|".join(name for _, name in sorted(found))
        return text + (f"|{rest:#x}" if rest > 0 else "")
    if names is ScsiDetailedStatus:
        return scsi_status_text(value)
    return _numbers(names).get(value, "")


def scsi_status_text(value: int) -> str:
    """Return the adapter's and the device's status of a SCSI DetailedStatusCode."""
    if not value:
        return "SUCCESS"
    parts = []
    for part, names in ((value & 0xFF00, ScsiHbaStatus), (value & 0xFF, ScsiDeviceStatus)):
        if part:
            parts.append(_numbers(names).get(part) or f"{part:#06x}")
    return "|".join(parts)


def enum_text(field: Field, value: int) -> str:
    """Return the names of an enumerated value, `A|B` for flags; empty if it has none."""
    return "" if field.enum is None else names_text(field.enum, value)


def is_text(raw: bytes) -> bool:
    """Whether bytes read as ASCII text, padded with zeros or spaces, and are not empty."""
    body = raw.rstrip(b"\0 ")
    return bool(body) and all(0x20 <= byte < 0x7F for byte in body)


def bytes_text(field: Field, raw: bytes) -> str:
    """Return a bytes field as text where it is text, else in hexadecimal without zero padding."""
    if not raw.strip(b"\0 "):
        return ""
    if is_text(raw) and "address" not in field.path:
        return raw.rstrip(b"\0 ").decode("ascii")
    return "0x" + (raw.rstrip(b"\0") or b"\0").hex()


def value_text(field: Field, value: Value, *, brief: bool = False) -> str:
    """Return a value with its meaning: `DIRECT (0x00)`, `33554432 (32 MiB)`, `text`.

    Args:
        field: its field.
        value: the value.
        brief: one of both only, for tables.
    """
    if isinstance(value, bytes):
        return printable(bytes_text(field, value)) or "-"
    digits = field.width_bits // 4
    if name := enum_text(field, value):
        return name if brief else f"{name} ({value:#0{2 + digits}x})"
    if field.enum is not None or field.path in _HEX_FIELDS:
        return f"{value:#0{2 + digits}x}"
    if value >= 1024 and is_size(field.path) and not brief:
        return f"{value} ({human_size(value)})"
    if "tid" in field.path.split("_"):
        return f"{value:#05x}"
    if value >= _HEX_BEFORE:
        return f"{value:#x}" if brief else f"{value} ({value:#x})"
    return str(value)


def json_value(field: Field, value: Value) -> str | int:
    """Return a value for JSON: numbers as they are, bytes as text or 0x…."""
    return bytes_text(field, value) if isinstance(value, bytes) else value


def is_size(path: str) -> bool:
    """Whether a field's name says that it counts bytes."""
    return any(word in path for word in _SIZE_WORDS) and not any(no in path for no in _NO_SIZES)


def number_text(path: str, width_bits: int, value: int) -> str:
    """Return a number as people want that field: addresses, flags and codes in hexadecimal.

    Args:
        path: name of the field.
        width_bits: its width.
        value: the number.
    """
    last = path.rpartition(".")[2]
    if any(word in last for word in _HEX_WORDS) and "count" not in last:
        return f"{value:#0{2 + min(width_bits, 32) // 4}x}"
    return str(value) if value < _HEX_BEFORE else f"{value:#x}"


def class_name(number: int) -> str:
    """Return the name of a device class, or its number."""
    return _numbers(DeviceClass).get(number) or f"class {number:#05x}"


def tid_text(tid: int) -> str:
    """Return the name of a TID with a fixed meaning; empty for any other."""
    return _numbers(SpecialTid).get(tid, "")


def flags_text(flags: int) -> str:
    """Return the names of MsgFlags; `request` if none is set."""
    return names_text(MsgFlags, flags) or (f"{flags:#x}" if flags else "request")


def version_text(value: int) -> str:
    """Return what VersionOffset says."""
    return f"{_VERSIONS.get(value & 0xF, f'version {value & 0xF}')}, " + (
        f"SGL at word {value >> 4}" if value >> 4 else "no SGL"
    )


def meaning_of(field: Field, device_class: int | None = None) -> Callable[[Value], str] | None:
    """Return the function that says what a value of a field means, None if there is nothing to say.

    Args:
        field: a field of a layout.
        device_class: whose function codes apply.
    """
    path = field.path
    last = path.rpartition(".")[2]
    if field.kind == "bytes":
        return None if any(word in last for word in _NO_TEXTS) else _text
    if path == "function":
        return lambda value: catalog.function_name(_int(value), device_class)
    special = _SPECIAL.get(last)
    if special is not None:
        return lambda value: special(_int(value))
    if field.enum is not None:
        names = field.enum
        return lambda value: names_text(names, _int(value))
    if "tid" in last.split("_"):
        return lambda value: tid_text(_int(value))
    if is_size(last) or "byte_count" in last or last == "transfer_count":
        return lambda value: human_size(_int(value)) if _int(value) >= 1024 else ""
    return None


def _int(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _text(value: Value) -> str:
    if isinstance(value, int) or not is_text(value):
        return ""
    return value.rstrip(b"\0 ").decode("ascii")


def _words(words: int) -> str:
    return human_size(4 * words)


_VERSIONS: Final = {0: "I2O 1.0", 1: "I2O 1.5"}
_SPECIAL: Final[dict[str, Callable[[int], str]]] = {
    "version_offset": version_text,
    "msg_flags": flags_text,
    "message_size": _words,
    "table_size": _words,
    "table_entry_size": _words,
    "entry_length": _words,
    "inbound_msg_frame_size": _words,
    "outbound_msg_frame_size": _words,
    "inbound_message_frame_size": _words,
    "iop1_inbound_msg_frame_size": _words,
    "iop2_inbound_msg_frame_size": _words,
    "target_address": tid_text,
    "initiator_address": tid_text,
    "class_id": lambda value: class_name(value & 0xFFF),
    "logical_byte_address": lambda place: f"from byte {place}",
}


@lru_cache(maxsize=256)
def _flags(names: type[IntFlag]) -> tuple[tuple[int, str], ...]:
    """Return number and name of every flag, those of most bits first."""
    found = [(member.value, name) for name, member in names.__members__.items() if member.value]
    return tuple(sorted(found, key=lambda flag: -flag[0].bit_count()))


@lru_cache(maxsize=256)
def _numbers(names: ValueNames) -> dict[int, str]:
    """Return the name of every number."""
    found: dict[int, str] = {}
    for name, member in names.__members__.items():
        found.setdefault(member.value, name)
    return found
