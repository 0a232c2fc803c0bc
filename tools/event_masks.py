# SPDX-License-Identifier: Apache-2.0
"""Event masks as people write them: names and numbers, `volume_load,0x40000000`.

Bits of a class mean something to its devices only: a name of one class is a bit for that class
alone, a generic name and a number are one for all.
"""

from __future__ import annotations

import argparse
import difflib
from typing import Final

from i2o.decode.event_nodes import OF_CLASS
from i2o.events import ALL_EVENTS
from i2o.frames.utility import GenericEvent
from i2o.tools.arguments import number_up_to

ALL: Final = "all"


class EventMask:
    """The events wanted, by class.

    Args:
        everywhere: bits wanted of every device.
        of_class: bits wanted besides, by class code.
    """

    def __init__(self, everywhere: int = ALL_EVENTS, of_class: dict[int, int] | None = None):
        self._everywhere, self._of_class = everywhere, of_class or {}

    @property
    def bits(self) -> int:
        """Every bit that any class wants."""
        bits = self._everywhere
        for more in self._of_class.values():
            bits |= more
        return bits

    def wants(self, indicator: int, device_class: int) -> bool:
        """Whether an event of a device of a class is wanted."""
        return bool(indicator & (self._everywhere | self._of_class.get(device_class, 0)))


def event_mask(text: str) -> EventMask:
    """Read names and numbers, separated by commas or `|`.

    Raises:
        argparse.ArgumentTypeError: a name is not known, or no event is left.
    """
    everywhere, of_class = 0, dict.fromkeys(OF_CLASS, 0)
    for part in text.replace("|", ",").split(","):
        word = part.strip().lower()
        if word[:1].isdigit():
            everywhere |= number_up_to(0xFFFF_FFFF, word, "event mask")
        elif word == ALL:
            everywhere |= ALL_EVENTS
        elif word.upper() in GenericEvent.__members__:
            everywhere |= GenericEvent[word.upper()].value
        else:
            _add_class_event(of_class, word)
    mask = EventMask(everywhere & ALL_EVENTS, of_class)
    if not mask.bits:
        raise argparse.ArgumentTypeError(f"{text!r} leaves no event that a device tells")
    return mask


def event_name_list() -> list[str]:
    """Return every name that `event_mask` knows."""
    names = [name for names in (GenericEvent, *OF_CLASS.values()) for name in names.__members__]
    hidden = ("BIT", GenericEvent.EVENT_MASK_MODIFIED.name)
    return [ALL, *dict.fromkeys(name.lower() for name in names if not name.startswith(hidden))]


def _add_class_event(of_class: dict[int, int], word: str) -> None:
    is_known = False
    for device_class, names in OF_CLASS.items():
        if word.upper() in names.__members__:
            of_class[device_class] |= names[word.upper()].value
            is_known = True
    if not is_known:
        near = difflib.get_close_matches(word, event_name_list(), n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise argparse.ArgumentTypeError(f"{word!r} is no event{hint}")
