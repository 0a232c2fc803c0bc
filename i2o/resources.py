# SPDX-License-Identifier: Apache-2.0
"""What an IOP says about itself: status block, hardware resource table, logical config table.

Decoding only. Sizes and counts in these tables come from the other side: they are bounded by the
buffer, and a table that contradicts itself is a RemoteFrameError.
"""

from __future__ import annotations

from dataclasses import dataclass

from i2o.errors import RemoteFrameError
from i2o.frames import tables
from i2o.frames.functions import DeviceClass
from i2o.frames.tables import HRT_HEADER_SIZE, LCT_HEADER_SIZE, BusType, IopState


@dataclass(frozen=True, slots=True)
class IopStatus:
    """The status block, as far as a host needs it. Frame sizes are in bytes."""

    organization_id: int
    iop_id: int
    host_unit_id: int
    i2o_version: int
    state: int
    inbound_frame_size: int
    max_inbound_frames: int
    current_inbound_frames: int
    max_outbound_frames: int
    product_id: str
    expected_lct_size: int
    capabilities: int
    desired_private_mem_size: int
    desired_private_io_size: int
    segment_number: int
    messenger_type: int

    @property
    def state_name(self) -> str:
        """The state's name in the specification."""
        try:
            return IopState(self.state).name
        except ValueError:
            return f"UNKNOWN_{self.state:#04x}"


@dataclass(frozen=True, slots=True)
class HrtEntry:
    """One adapter of the hardware resource table."""

    adapter_id: int
    controlling_tid: int
    adapter_state: int
    bus_number: int
    bus_type: int
    bus_info: bytes

    @property
    def bus_name(self) -> str:
        """The bus type's name."""
        try:
            return BusType(self.bus_type).name.lower()
        except ValueError:
            return f"bus {self.bus_type:#04x}"

    @property
    def location(self) -> str:
        """Where the adapter sits, as far as its bus type tells."""
        if self.bus_type != BusType.PCI:
            return self.bus_info.hex()
        info = tables.HRT_BUS_INFO_PCI.unpack_from(self.bus_info)
        return (
            f"{info.pci_bus_number:02x}:{info.pci_device_number:02x}.{info.pci_function_number} "
            f"[{info.pci_vendor_id:04x}:{info.pci_device_id:04x}]"
        )


@dataclass(frozen=True, slots=True)
class LctEntry:
    """One device of the logical configuration table."""

    tid: int
    change_indicator: int
    device_flags: int
    class_id: int
    class_version: int
    organization_id: int
    sub_class: int
    user_tid: int
    parent_tid: int
    bios_info: int
    identity_tag: bytes
    event_capabilities: int

    @property
    def class_name(self) -> str:
        """The device class's name."""
        try:
            return DeviceClass(self.class_id).name.lower()
        except ValueError:
            return f"class {self.class_id:#05x}"

    @property
    def is_free(self) -> bool:
        """Whether no OSM or DDM is the primary user."""
        return self.user_tid == tables.FREE_TID


@dataclass(frozen=True, slots=True)
class Lct:
    """The logical configuration table."""

    change_indicator: int
    boot_device_tid: int
    iop_flags: int
    devices: tuple[LctEntry, ...]


@dataclass(frozen=True, slots=True)
class BringUpResult:
    """What bring-up learned."""

    status: IopStatus
    hrt: tuple[HrtEntry, ...]
    lct: Lct


def parse_status(block: bytes) -> IopStatus:
    """Decode a status block (88 bytes; raises RemoteFrameError when shorter)."""
    record = tables.STATUS_BLOCK.unpack_from(block)
    return IopStatus(
        organization_id=record.organization_id,
        iop_id=record.iop_id,
        host_unit_id=record.host_unit_id,
        i2o_version=record.i2o_version,
        state=record.iop_state,
        inbound_frame_size=4 * record.inbound_msg_frame_size,
        max_inbound_frames=record.max_inbound_msg_frames,
        current_inbound_frames=record.current_inbound_msg_frames,
        max_outbound_frames=record.max_outbound_msg_frames,
        product_id=text(record.product_id_string),
        expected_lct_size=record.expected_lct_size,
        capabilities=record.iop_capabilities,
        desired_private_mem_size=record.desired_private_mem_size,
        desired_private_io_size=record.desired_private_io_size,
        segment_number=record.segment_number,
        messenger_type=record.messenger_type,
    )


def hrt_size(data: bytes) -> int:
    """Return the bytes that the whole table needs, as its header says."""
    count = int.from_bytes(data[0:2], "little")
    return HRT_HEADER_SIZE + count * 4 * data[2]


def parse_hrt(data: bytes) -> tuple[HrtEntry, ...]:
    """Decode a hardware resource table.

    Raises:
        RemoteFrameError: the table is cut short, or its entries are too small.
    """
    if len(data) < HRT_HEADER_SIZE:
        raise RemoteFrameError(f"HRT of {len(data)} bytes: the header alone has {HRT_HEADER_SIZE}")
    count, entry_size = int.from_bytes(data[0:2], "little"), 4 * data[2]
    if count and entry_size < tables.HRT_ENTRY.size:
        raise RemoteFrameError(f"HRT entries of {entry_size} bytes: expected 16 or more")
    if hrt_size(data) > len(data):
        raise RemoteFrameError(f"HRT needs {hrt_size(data)} bytes, {len(data)} came")
    entries = []
    for index in range(count):
        record = tables.HRT_ENTRY.unpack_from(data, HRT_HEADER_SIZE + index * entry_size)
        entries.append(
            HrtEntry(
                adapter_id=record.adapter_id,
                controlling_tid=record.controlling_tid,
                adapter_state=record.adapter_state,
                bus_number=record.bus_number,
                bus_type=record.bus_type,
                bus_info=bytes(record.bus_info),
            )
        )
    return tuple(entries)


def lct_size(data: bytes) -> int:
    """Return the bytes that the whole table needs, as its header says."""
    return 4 * int.from_bytes(data[0:2], "little")


def parse_lct(data: bytes) -> Lct:
    """Decode a logical configuration table.

    Raises:
        RemoteFrameError: the table is cut short, or an entry's size is not 9 words.
    """
    size = lct_size(data)
    if len(data) < LCT_HEADER_SIZE or size > len(data) or size < LCT_HEADER_SIZE:
        raise RemoteFrameError(f"LCT claims {size} bytes, {len(data)} came")
    header = int.from_bytes(data[0:4], "little")
    entry_size = tables.LCT_ENTRY.size
    offsets = range(LCT_HEADER_SIZE, size - entry_size + 1, entry_size)
    return Lct(
        change_indicator=int.from_bytes(data[8:12], "little"),
        boot_device_tid=header >> 16 & 0xFFF,
        iop_flags=int.from_bytes(data[4:8], "little"),
        devices=tuple(parse_lct_entry(data, offset) for offset in offsets),
    )


def parse_lct_entry(data: bytes, offset: int = 0) -> LctEntry:
    """Decode one entry of a logical configuration table.

    Raises:
        RemoteFrameError: it is cut short, or does not say that it has 9 words.
    """
    record = tables.LCT_ENTRY.unpack_from(data, offset)
    if 4 * record.table_entry_size != tables.LCT_ENTRY.size:
        raise RemoteFrameError(
            f"LCT entry at byte {offset} claims {record.table_entry_size} words: expected 9"
        )
    return LctEntry(
        tid=record.local_tid,
        change_indicator=record.change_indicator,
        device_flags=record.device_flags,
        class_id=record.class_id_class,
        class_version=record.class_id_version,
        organization_id=record.class_id_organization_id,
        sub_class=record.sub_class_info,
        user_tid=record.user_tid,
        parent_tid=record.parent_tid,
        bios_info=record.bios_info,
        identity_tag=bytes(record.identity_tag),
        event_capabilities=record.event_capabilities,
    )


def text(raw: bytes) -> str:
    """Decode a fixed text field: up to the first NUL, without the padding, printable."""
    shown = raw.split(b"\0", 1)[0].decode("ascii", "replace").strip()
    return "".join(char if char.isprintable() else "?" for char in shown)
