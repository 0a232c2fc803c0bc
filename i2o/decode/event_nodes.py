# SPDX-License-Identifier: Apache-2.0
"""Events: the names of indicator bits by class, and what the data of an event say."""

from __future__ import annotations

from typing import Final

from i2o.decode.fields import MAX_ITEMS, list_node, number_node
from i2o.decode.table_nodes import lct_entry_node
from i2o.decode.tree import Node
from i2o.decode.values import names_text
from i2o.frames import executive, utility
from i2o.frames.block_storage import BsaEvent
from i2o.frames.catalog import group_layout
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.functions import DeviceClass
from i2o.frames.lan import LanEvent
from i2o.frames.layout import ValueNames
from i2o.frames.scsi import ScsiEvent
from i2o.frames.tables import LCT_ENTRY
from i2o.frames.utility import GenericEvent, HotPlugEvent

_EXECUTIVE: Final = DeviceClass.EXECUTIVE.value
OF_CLASS: Final[dict[int, ValueNames]] = {
    _EXECUTIVE: ExecutiveEvent,
    DeviceClass.RANDOM_BLOCK_STORAGE.value: BsaEvent,
    DeviceClass.LAN.value: LanEvent,
    DeviceClass.SCSI_PERIPHERAL.value: ScsiEvent,
    DeviceClass.FIBRE_CHANNEL_PERIPHERAL.value: ScsiEvent,
    DeviceClass.HOT_PLUG_CONTROLLER.value: HotPlugEvent,
}
DATA: Final[dict[int, ValueNames]] = {
    GenericEvent.STATE_CHANGE.value: utility.StateChange,
    GenericEvent.GENERAL_WARNING.value: utility.GeneralWarning,
    GenericEvent.CAPABILITY_CHANGE.value: utility.CapabilityChange,
    GenericEvent.DEVICE_STATE.value: utility.SensorEvent,
}
EXECUTIVE_DATA: Final[dict[int, ValueNames]] = {
    ExecutiveEvent.RESOURCE_LIMIT.value: executive.ResourceLimit,
    ExecutiveEvent.CONNECTION_FAIL.value: executive.ConnectionFail,
    ExecutiveEvent.RESET_PENDING.value: executive.ResetPending,
    ExecutiveEvent.RESET_IMMINENT.value: executive.ResetImminent,
    ExecutiveEvent.HARDWARE_FAIL.value: executive.HardwareFail,
    ExecutiveEvent.DDM_AVAILABILITY.value: executive.DdmAvailability,
}
LCT_EVENTS: Final = int(ExecutiveEvent.NEW_LCT_ENTRY | ExecutiveEvent.MODIFIED_LCT)
_GENERIC: Final = int(sum(GenericEvent))
_ALL: Final = 0xFFFFFFFF
_DATA_START: Final = 20


def event_names(mask: int, device_class: int | None) -> str:
    """Return the names of event indicator bits, as a device of a class means them.

    Args:
        mask: indicator or mask.
        device_class: class of the device, None if not known.
    """
    if mask == _ALL:
        return "all events"
    names = OF_CLASS.get(device_class) if device_class is not None else None
    own = mask & ~_GENERIC
    parts = [names_text(GenericEvent, mask & _GENERIC)]
    if own:
        parts.append((names_text(names, own) if names else "") or f"{own:#x}")
    return "|".join(part for part in parts if part)


def event_data_text(indicator: int, word: int, device_class: int | None) -> str:
    """Return what the first data word of an event says.

    Args:
        indicator: the event; of several at once nothing is said.
        word: first word of its data.
        device_class: class of the device, None if not known.
    """
    if indicator == GenericEvent.FIELD_MODIFIED:
        group = group_layout(word & 0xFFFF, device_class)
        return f"group 0x{word & 0xFFFF:04X}" + (f" {group.name}" if group else "")
    names = DATA.get(indicator)
    if names is None and device_class == _EXECUTIVE:
        names = EXECUTIVE_DATA.get(indicator)
    return names_text(names, word) if names else ""


def event_nodes(frame: bytes, device_class: int | None) -> list[Node]:
    """Return the data of an event that are more than the layout's one word.

    Args:
        frame: an event reply or an acknowledgement.
        device_class: class of the device, None if not known.
    """
    if len(frame) <= _DATA_START:
        return []
    indicator = int.from_bytes(frame[16:20], "little")
    end = len(frame)
    if device_class == _EXECUTIVE and indicator & LCT_EVENTS and end > _DATA_START + 4:
        entry = lct_entry_node(frame, _DATA_START)
        end_of_entry = _DATA_START + LCT_ENTRY.size
        return [entry, *_words(frame, end_of_entry, end)]
    return _words(frame, _DATA_START + 4, end)


def _words(frame: bytes, start: int, end: int) -> list[Node]:
    if start >= end:
        return []
    places = range(start, min(end, start + 4 * MAX_ITEMS), 4)
    items = [number_node(str(n), frame, at, min(4, end - at)) for n, at in enumerate(places)]
    return [list_node("event_words", items)]
