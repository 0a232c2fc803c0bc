# SPDX-License-Identifier: Apache-2.0
"""Compares a reply with one that was recorded: status and transfer count, not contexts."""

from __future__ import annotations

from typing import Final

from i2o.decode.conversation import Traced
from i2o.frames import catalog
from i2o.frames.layout import Field

_STATUS: Final = 19
_MIN_FRAME: Final = 16
_COMPARED: Final = ("req_status", "detailed_status_code", "transfer_count", "failure_code")


def reply_differences(recorded: Traced, reply: bytes) -> list[str]:
    """Return in what a reply differs from the recorded one: status, transfer count.

    Args:
        recorded: the recorded reply; what was not captured of it is not compared.
        reply: the one that came now.
    """
    before, now = _facts(recorded, recorded.frame), _facts(recorded, reply)
    found = [
        f"{name} {value} recorded, {now[name]} now"
        for name, value in before.items()
        if name in now and now[name] != value
    ]
    lost = [f"{name} {value}" for name, value in before.items() if name not in now]
    if lost and not found:  # one is a FAIL frame or cut, the other is not
        there = ", ".join(f"{name} {value}" for name, value in now.items() if name not in before)
        found = [f"{', '.join(lost)} recorded, {there or 'nothing'} now"]
    return found


def _facts(recorded: Traced, reply: bytes) -> dict[str, str]:
    """Return what of a reply is compared, as text, as far as the reply has it."""
    if len(reply) < _MIN_FRAME:
        return {}
    function, device_class = recorded.meant
    status = reply[_STATUS] if len(reply) > _STATUS else 0
    layout = catalog.reply_layout(function, device_class, reply[1], status, len(reply) // 4)
    found = {}
    for place in layout.fields:
        end = place.byte + place.width_bits // 8
        if place.path in _COMPARED and end <= len(reply):
            value = int.from_bytes(reply[place.byte : end], "little")
            found[place.path] = _value_text(place, value)
    return found


def _value_text(place: Field, value: int) -> str:
    """Return a value by its name, as a number if it has none."""
    try:
        return (place.enum(value).name if place.enum is not None else None) or str(value)
    except ValueError:
        return f"{value:#x}"
