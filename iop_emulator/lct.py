# SPDX-License-Identifier: Apache-2.0
"""The IOP's tables of what it has: logical configuration (LCT) and hardware resources (HRT)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from i2o.frames.functions import DeviceClass
from i2o.frames.header import FailureCode, SpecialTid
from i2o.frames.tables import (
    ENTRY_WORDS_HRT,
    HRT_ENTRY,
    HRT_HEADER_AND_FIRST_ENTRY,
    HRT_HEADER_SIZE,
    LCT_ENTRY,
    LCT_HEADER,
    LCT_HEADER_SIZE,
    BusType,
    HrtAdapterState,
)
from i2o.iop_emulator.ddm.base import Ddm

FIRST_INDICATOR: Final = 1
LAST_TID: Final = 0xFEF
"""The last TID for a device; fewer devices than TIDs are ever made."""
ADAPTER_ID: Final = 1
"""AdapterID of the one adapter that a software IOP has: itself."""
BUILT_IN_DDM: Final = 0x008
"""TID of the DDM that drives the disks."""


class Lct:
    """All devices of an IOP by TID, and the table the host sees of them.

    Claims change the UserTID of an entry but not the change indicator: a driver that looks at
    every change would otherwise answer its own claims for ever.

    Args:
        on_change: called whenever requests to a TID reach somebody else, or nobody.

    Attributes:
        devices: every device by TID.
        serving: those of this IOP that requests reach.
        withheld: why requests do not reach the others: a `FailureCode` by TID.
        retired: devices that are out of the table until the IOP is reset, by TID.
        boot_tid: what ExecBootDeviceSet said.
        indicator: CurrentChangeIndicator.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self.devices: dict[int, Ddm] = {}
        self.serving: dict[int, Ddm] = {}
        self.withheld: dict[int, int] = {}
        self.retired: dict[int, Ddm] = {}
        self.boot_tid = 0
        self.indicator = FIRST_INDICATOR
        self._spent: set[int] = set()

    def add(self, device: Ddm) -> None:
        """Put a device into the table; its entry says that it is new."""
        self.devices[device.tid] = device
        device.change_indicator = self.indicator
        self.serve(device.tid)

    def remove(self, tid: int) -> None:
        """Take a device out for good. Its TID is nobody's for a while: see `free_tid`."""
        self._spent.add(tid)
        if self.boot_tid == tid:
            self.boot_tid = 0
        for known in (self.devices, self.serving, self.withheld, self.retired):
            known.pop(tid, None)
        self._on_change()

    def withhold(self, tid: int, code: int) -> None:
        """Let requests to a device fail with a `FailureCode` from now on."""
        self.serving.pop(tid, None)
        self.withheld[tid] = code
        self._on_change()

    def serve(self, tid: int) -> None:
        """Let requests reach a device again."""
        device = self.devices[tid]
        if not device.is_remote:
            self.serving[tid] = device
        self.withheld.pop(tid, None)
        self._on_change()

    def retire(self, tid: int, code: int = FailureCode.SERVICE_TERMINATED.value) -> None:
        """Take a device out until `restore`; requests fail with a `FailureCode`."""
        self.retired[tid] = self.devices.pop(tid)
        self.withhold(tid, code)

    def restore(self) -> None:
        """Take every retired device back, and let requests reach all of them."""
        self.devices.update(self.retired)
        self.retired.clear()
        for tid in self.devices:
            self.serve(tid)

    def changed(self) -> int:
        """Raise the change indicator and return it."""
        self.indicator = self.indicator + 1 & 0xFFFFFFFF or FIRST_INDICATOR
        return self.indicator

    def reset(self) -> None:
        """Count changes from the beginning again; every free TID may be used again."""
        self._spent.clear()
        self.indicator = FIRST_INDICATOR
        for device in self.devices.values():
            device.change_indicator = FIRST_INDICATOR

    def free_tid(self, first: int) -> int:
        """Return the lowest free TID from `first` on.

        One that a device had since the last reset is the last choice: the host may have requests
        for that device on their way, and those are not for another.
        """
        tid = first
        while tid in self or tid in self._spent:
            tid += 1
        if tid > LAST_TID:
            self._spent.clear()
            return self.free_tid(first)
        return tid

    def __contains__(self, tid: object) -> bool:
        return tid in self.devices or tid in self.retired

    def __iter__(self) -> Iterator[Ddm]:
        return iter([self.devices[tid] for tid in sorted(self.devices)])

    @property
    def size(self) -> int:
        """Bytes of the whole table."""
        return LCT_HEADER_SIZE + LCT_ENTRY.size * len(self.devices)

    def table(self, class_identifier: int = DeviceClass.MATCH_ANYCLASS) -> bytes:
        """Return the table: all of it, or the entries of one class.

        Args:
            class_identifier: class in bits 11:0, or 0xFFFFFFFF for all.
        """
        entries = [
            device.lct_entry()
            for device in self
            if class_identifier == DeviceClass.MATCH_ANYCLASS
            or device.device_class == class_identifier & 0xFFF
        ]
        header = LCT_HEADER.build(
            table_size=(LCT_HEADER_SIZE + LCT_ENTRY.size * len(entries)) // 4,
            boot_device_tid=self.boot_tid,
            current_change_indicator=self.indicator,
        )
        return header[:LCT_HEADER_SIZE] + b"".join(entries)


def adapter_state(controlling_tid: int | None) -> int:
    """Return the AdapterState of an adapter that is there."""
    state = HrtAdapterState.PRESENT
    if controlling_tid is not None:
        state |= HrtAdapterState.CONTROLLED
    return state.value


def hardware_resource_table(adapters: Mapping[int, int | None], indicator: int) -> bytes:
    """Return the HRT: adapters on the IOP's own (local) bus.

    Args:
        adapters: the controlling DDM's TID, or None, by AdapterID.
        indicator: CurrentChangeIndicator.
    """
    entries = [
        HRT_ENTRY.build(
            adapter_id=adapter,
            controlling_tid=SpecialTid.NO_USER.value if tid is None else tid,
            adapter_state=adapter_state(tid),
            bus_type=BusType.LOCAL.value,
        )
        for adapter, tid in adapters.items()
    ]
    header = HRT_HEADER_AND_FIRST_ENTRY.build(
        number_entries=len(entries),
        entry_length=ENTRY_WORDS_HRT,
        current_change_indicator=indicator,
    )
    return header[:HRT_HEADER_SIZE] + b"".join(entries)
