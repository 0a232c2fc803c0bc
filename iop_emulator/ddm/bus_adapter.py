# SPDX-License-Identifier: Apache-2.0
"""A bus adapter port (class 0x080): a parallel SCSI bus, and who is on it."""

from __future__ import annotations

from typing import Final, Protocol

from i2o.frames import adapter
from i2o.frames.adapter import HbaBusType, HbaDetailedStatus, HbaQuiesceFlags
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.scsi import (
    SCSI_BUS_PORT_INFO,
    ScsiConnectorGender,
    ScsiPortConnector,
    ScsiPortElectrical,
    ScsiPortPhysical,
)
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.ddm.base import Ddm, IopServices
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.parameter_groups import Group, Row, ScalarGroup
from i2o.iop_emulator.request import Request
from i2o.iop_emulator.scsi.sense import AdditionalSense

INITIATOR_ID: Final = 7
IDS: Final = tuple(number for number in range(16) if number != INITIATOR_ID)
"""Addresses for peripherals, in the order in which they are given."""
LUN: Final = bytes(8)
"""The LUN of every peripheral: 0."""
QUEUE_DEPTH: Final = 64
_MAX_OFFSET: Final = 31
_WIDE: Final = 16
_MAX_RATE: Final = 80_000_000
_KNOWN_FLAGS: Final = frozenset(flag.value for flag in HbaQuiesceFlags)


class Peripheral(Protocol):
    """What a bus may do to a device on it."""

    def restart(self, code: AdditionalSense) -> None:
        """Be reset, and tell those who registered."""


class BusAdapter(Ddm):
    """One port.

    Args:
        iop: the IOP it is part of.
        tid: its TID.
        number: number of the bus.
        parent_tid: TID of the DDM that drives it.
        organization_id: organization in its ClassID.

    Attributes:
        number: number of the bus.
        peripherals: who is on it, by address.
        is_quiesced: commands to its peripherals are refused.
    """

    device_class = DeviceClass.BUS_ADAPTER_PORT.value

    def __init__(
        self,
        iop: IopServices,
        tid: int,
        number: int,
        *,
        parent_tid: int,
        organization_id: int,
    ) -> None:
        self.number, self.is_quiesced = number, False
        self.peripherals: dict[int, Peripheral] = {}
        self._last_reset_s = 0
        super().__init__(
            iop,
            tid,
            parent_tid=parent_tid,
            name=f"SCSI bus {number}",
            organization_id=organization_id,
        )

    def groups(self) -> list[Group]:
        """Return the generic groups and those of the class."""
        return [
            *super().groups(),
            ScalarGroup(adapter.HBA_CONTROLLER_INFO, self._controller_info),
            ScalarGroup(SCSI_BUS_PORT_INFO, port_row),  # where NetBSD looks for it
            ScalarGroup(
                adapter.HBA_HISTORICAL_STATS, lambda: {"time_last_reset": self._last_reset_s}
            ),
            ScalarGroup(adapter.HBA_SCSI_CONTROLLER_INFO, _scsi_controller_info),
            ScalarGroup(adapter.HBA_SCSI_BUS_PORT_INFO, _scsi_bus_port_info),
        ]

    def reset_state(self) -> None:
        """Forget claims and locks; the bus goes on."""
        super().reset_state()
        self.is_quiesced = False

    @property
    def identity_tag(self) -> bytes:
        """Number of the bus."""
        return f"SCSI{self.number}".encode("ascii")[:8].ljust(8)

    @property
    def free_id(self) -> int | None:
        """The lowest address that nobody has, or None."""
        return next((number for number in IDS if number not in self.peripherals), None)

    # --- messages --------------------------------------------------------------------------------

    @handles(Function.HBA_ADAPTER_RESET, Function.HBA_BUS_RESET, Function.SCSI_DEVICE_RESET)
    def bus_reset(self, request: Request) -> bytes:
        """Reset everybody on the bus. Linux 2.4 has the code of a device reset for it."""
        self._last_reset_s = request.now_ns // 10**9
        self.is_quiesced = False
        for peripheral in self.peripherals.values():
            peripheral.restart(AdditionalSense.SCSI_BUS_RESET_OCCURRED)
        self.iop.events.post(self.tid, GenericEvent.DEVICE_RESET, bytes(4))
        return request.success()

    @handles(Function.HBA_BUS_SCAN)
    def bus_scan(self, request: Request) -> bytes:
        """Succeed: who comes to the bus is in the LCT at once."""
        return request.success()

    @handles(Function.HBA_BUS_QUIESCE)
    def bus_quiesce(self, request: Request) -> bytes:
        """Refuse commands to the peripherals, or let them through again."""
        flags = request.fields(adapter.HBA_BUS_QUIESCE).flags
        if flags not in _KNOWN_FLAGS:
            return request.refuse(HbaDetailedStatus.REQUEST_INVALID)
        self.is_quiesced = flags == HbaQuiesceFlags.QUIESCE
        return request.success()

    # --- parameter groups ------------------------------------------------------------------------

    def _controller_info(self) -> Row:
        return {
            "bus_type": HbaBusType.SCSI.value,
            "bus_state": int(self.is_quiesced),
            "bus_name": self.name.encode("ascii")[:12].ljust(12),
        }


def port_row() -> Row:
    """Return how every bus here is wired."""
    return {
        "physical_interface": ScsiPortPhysical.PARALLEL.value,
        "electrical_interface": ScsiPortElectrical.LOW_VOLT_DIFF.value,
        "connector_type": ScsiPortConnector.UNSHIELDED_P_HD.value,
        "connector_gender": ScsiConnectorGender.FEMALE.value,
        "max_number_devices": len(IDS) + 1,
    }


def _scsi_controller_info() -> Row:
    return {
        "initiator_id": INITIATOR_ID,
        "max_offset": _MAX_OFFSET,
        "max_data_width": _WIDE,
        "max_sync_rate": _MAX_RATE,
    }


def _scsi_bus_port_info() -> Row:
    return {**port_row(), "device_id_end": IDS[-1], "lun_begin": LUN, "lun_end": LUN}
