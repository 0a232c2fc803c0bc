# SPDX-License-Identifier: Apache-2.0
"""Data representations: the pouch, the body, and LAM's families ltot and ttol.

"Local" is this machine's byte order, "Trollius" is big-endian, LAM's order between nodes. Messages
of this project are in the sender's order and say so; only a receiver whose order differs converts.
The functions are for bodies of mixed types, and for programs that were written for LAM.

The functions for one value take and return bytes. Those whose name begins with `m` convert an
array in place.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import TYPE_CHECKING, Final

from i2o.network_message.descriptor import (
    DFLT4DATA,
    DFLT4MSG,
    DFLT8DATA,
    DFLT8MSG,
    DINT2MSG,
    DINT4DATA,
    DINT4MSG,
    DMSKDATA,
    DMSKMSG,
    DRAWDATA,
    DRAWMSG,
    NO_WORDS,
    Pouch,
)
from i2o.network_message.errors import BadDescriptor
from i2o.transport.fabric.mailbox import POUCH_SIZE

if TYPE_CHECKING:
    from i2o.transport.fabric.endpoint import Buffer

IS_BIG_ENDIAN: Final = sys.byteorder == "big"
_UNITS: Final = {2: "H", 4: "I", 8: "Q"}
_BODY_UNITS: Final = {0: 1, DRAWMSG: 1, DINT2MSG: 2, DINT4MSG: 4, DFLT4MSG: 4, DFLT8MSG: 8}
_FORMATS: Final = {
    0: struct.Struct("=8i"),
    DINT4DATA: struct.Struct("=8i"),
    DFLT4DATA: struct.Struct("=8f"),
    DFLT8DATA: struct.Struct("=4d"),
}
_POUCH_UNITS: Final = {0: 4, DINT4DATA: 4, DFLT4DATA: 4, DFLT8DATA: 8, DRAWDATA: 1}
_WORDS: Final = _FORMATS[0]
_NO_POUCH: Final = bytes(POUCH_SIZE)
_NO_WORDS: Final = NO_WORDS


def pack_pouch(data: Pouch, flags: int) -> bytes:
    """Return `nh_data` as the 32 bytes that it is in this machine's memory.

    Raises:
        BadDescriptor: the flags name no type, or the values are not what they say.
    """
    if data == _NO_WORDS:
        return _NO_POUCH
    kind = flags & DMSKDATA
    if kind == DRAWDATA:
        if not isinstance(data, (bytes, bytearray)) or len(data) != POUCH_SIZE:
            raise BadDescriptor(f"DRAWDATA: nh_data must be {POUCH_SIZE} bytes, not {data!r}")
        return bytes(data)
    layout = _FORMATS.get(kind)
    if layout is None:
        raise BadDescriptor(f"nh_flags {flags:#x} give nh_data several types: name one")
    try:
        return layout.pack(*data)
    except (struct.error, OverflowError, TypeError):
        raise BadDescriptor(
            f"nh_data {data!r} are not what nh_flags {flags:#x} say: 8 integers of 32 bits, 8 or "
            "4 (DFLT8DATA) real numbers"
        ) from None


def unpack_pouch(raw: bytes, flags: int, *, is_swapped: bool = False) -> Pouch:
    """Return the values of a pouch, as the sender gave them.

    Args:
        raw: 32 bytes.
        flags: the sender's; a combination that names no type is read as integers.
        is_swapped: the bytes are in the other byte order.
    """
    kind = flags & DMSKDATA
    if not kind and raw == _NO_POUCH:
        return _NO_WORDS
    if kind == DRAWDATA:
        return bytes(raw)
    if is_swapped:
        raw = swapped(raw, _POUCH_UNITS.get(kind, 4))
    return _FORMATS.get(kind, _WORDS).unpack(raw)


def body_unit(flags: int) -> int:
    """Return how many bytes of a body belong together: 1, 2, 4 or 8.

    Raises:
        BadDescriptor: the flags name several types.
    """
    unit = _BODY_UNITS.get(flags & DMSKMSG)
    if unit is None:
        raise BadDescriptor(f"nh_flags {flags:#x} give the body several types: name one")
    return unit


def swapped(data: Buffer, unit: int) -> bytes:
    """Return data with the bytes of every unit reversed; a rest that is no unit stays."""
    if unit == 1:
        return bytes(data)
    whole = len(data) - len(data) % unit
    units = array(_UNITS[unit], bytes(data[:whole]))
    units.byteswap()
    return units.tobytes() + bytes(data[whole:])


def swap_in_place(view: memoryview, unit: int) -> None:
    """Reverse the bytes of every unit."""
    if unit > 1:
        view[:] = swapped(view, unit)


def _to_trollius(value: Buffer, unit: int) -> bytes:
    if len(value) != unit:
        raise BadDescriptor(f"a value of {unit} bytes is expected, not of {len(value)}")
    return bytes(value) if IS_BIG_ENDIAN else swapped(value, unit)


def _array_to_trollius(values: bytearray | memoryview, unit: int) -> None:
    view = memoryview(values).cast("B")
    if view.readonly:
        raise BadDescriptor("an array is converted in place: give a bytearray")
    if len(view) % unit:
        raise BadDescriptor(f"{len(view)} bytes are no whole number of values of {unit}")
    if not IS_BIG_ENDIAN:
        swap_in_place(view, unit)


def ltoti2(value: Buffer) -> bytes:
    """Convert an integer of 16 bits from local to Trollius order."""
    return _to_trollius(value, 2)


def ltoti4(value: Buffer) -> bytes:
    """Convert an integer of 32 bits from local to Trollius order."""
    return _to_trollius(value, 4)


def ltotf4(value: Buffer) -> bytes:
    """Convert a real number of 32 bits from local to Trollius order."""
    return _to_trollius(value, 4)


def ltotf8(value: Buffer) -> bytes:
    """Convert a real number of 64 bits from local to Trollius order."""
    return _to_trollius(value, 8)


def ttoli2(value: Buffer) -> bytes:
    """Convert an integer of 16 bits from Trollius to local order."""
    return _to_trollius(value, 2)


def ttoli4(value: Buffer) -> bytes:
    """Convert an integer of 32 bits from Trollius to local order."""
    return _to_trollius(value, 4)


def ttolf4(value: Buffer) -> bytes:
    """Convert a real number of 32 bits from Trollius to local order."""
    return _to_trollius(value, 4)


def ttolf8(value: Buffer) -> bytes:
    """Convert a real number of 64 bits from Trollius to local order."""
    return _to_trollius(value, 8)


def mltoti2(values: bytearray | memoryview) -> None:
    """Convert an array of integers of 16 bits from local to Trollius order."""
    _array_to_trollius(values, 2)


def mltoti4(values: bytearray | memoryview) -> None:
    """Convert an array of integers of 32 bits from local to Trollius order."""
    _array_to_trollius(values, 4)


def mltotf4(values: bytearray | memoryview) -> None:
    """Convert an array of real numbers of 32 bits from local to Trollius order."""
    _array_to_trollius(values, 4)


def mltotf8(values: bytearray | memoryview) -> None:
    """Convert an array of real numbers of 64 bits from local to Trollius order."""
    _array_to_trollius(values, 8)


def mttoli2(values: bytearray | memoryview) -> None:
    """Convert an array of integers of 16 bits from Trollius to local order."""
    _array_to_trollius(values, 2)


def mttoli4(values: bytearray | memoryview) -> None:
    """Convert an array of integers of 32 bits from Trollius to local order."""
    _array_to_trollius(values, 4)


def mttolf4(values: bytearray | memoryview) -> None:
    """Convert an array of real numbers of 32 bits from Trollius to local order."""
    _array_to_trollius(values, 4)


def mttolf8(values: bytearray | memoryview) -> None:
    """Convert an array of real numbers of 64 bits from Trollius to local order."""
    _array_to_trollius(values, 8)
