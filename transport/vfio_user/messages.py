# SPDX-License-Identifier: Apache-2.0
"""Messages of the vfio-user protocol, version 0.0, declared once.

Everything is in the byte order of the host, which is little-endian wherever this runs. Source:
the vfio-user protocol specification, and `linux/vfio.h` for the structures that it borrows.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Int16ul, Int32ul, Int64ul

from i2o.frames.layout import Layout, Part, structure

MAJOR: Final = 0
MINOR: Final = 0
MAX_TRANSFER: Final = 1 << 20
"""The most bytes of one region access: the protocol's own default."""
MAX_MESSAGE: Final = MAX_TRANSFER + 4096
"""The largest message that is taken: a region access with its headers."""
MAX_DESCRIPTORS: Final = 8
"""File descriptors that one message may carry."""
MAX_DMA_MAPS: Final = 4096


class Command(IntEnum):
    """Commands of a client, and two of a server."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


class MessageFlags(IntFlag):
    """Flags of the header; the lowest four bits are the type."""

    REPLY = 0x01
    NO_REPLY = 0x10
    ERROR = 0x20


TYPE_MASK: Final = 0x0F


class DmaFlags(IntFlag):
    """Flags of DMA_MAP."""

    READ = 1
    WRITE = 2


class DmaUnmapFlags(IntFlag):
    """Flags of DMA_UNMAP."""

    GET_DIRTY_BITMAP = 1
    ALL = 2


class DeviceFlags(IntFlag):
    """Flags of DEVICE_GET_INFO."""

    RESET = 1
    PCI = 2


class RegionFlags(IntFlag):
    """Flags of DEVICE_GET_REGION_INFO."""

    READ = 1
    WRITE = 2
    MMAP = 4
    CAPS = 8


class IrqInfoFlags(IntFlag):
    """Flags of DEVICE_GET_IRQ_INFO."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


class IrqSetFlags(IntFlag):
    """Flags of DEVICE_SET_IRQS."""

    DATA_NONE = 0x01
    DATA_BOOL = 0x02
    DATA_EVENTFD = 0x04
    ACTION_MASK = 0x08
    ACTION_UNMASK = 0x10
    ACTION_TRIGGER = 0x20


class RegionIndex(IntEnum):
    """Regions of a PCI device."""

    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


class IrqIndex(IntEnum):
    """Interrupt types of a PCI device."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERROR = 3
    REQUEST = 4


SPARSE_MMAP_CAPABILITY: Final = 1
"""VFIO_REGION_INFO_CAP_SPARSE_MMAP."""


def _layout(name: str, *parts: Part) -> Layout:
    return structure(name, *parts, chapter="vfio_user", reference="vfio-user protocol")


HEADER: Final = _layout(
    "header",
    "message_id" / Int16ul,
    "command" / Int16ul,
    "message_size" / Int32ul,
    "flags" / Int32ul,
    "error" / Int32ul,
)
VERSION: Final = _layout("version", "major" / Int16ul, "minor" / Int16ul)
DMA_MAP: Final = _layout(
    "dma_map",
    "argsz" / Int32ul,
    "flags" / Int32ul,
    "offset" / Int64ul,
    "address" / Int64ul,
    "size" / Int64ul,
)
DMA_UNMAP: Final = _layout(
    "dma_unmap",
    "argsz" / Int32ul,
    "flags" / Int32ul,
    "address" / Int64ul,
    "size" / Int64ul,
)
DEVICE_INFO: Final = _layout(
    "device_info",
    "argsz" / Int32ul,
    "flags" / Int32ul,
    "num_regions" / Int32ul,
    "num_irqs" / Int32ul,
)
REGION_INFO: Final = _layout(
    "region_info",
    "argsz" / Int32ul,
    "flags" / Int32ul,
    "index" / Int32ul,
    "cap_offset" / Int32ul,
    "size" / Int64ul,
    "offset" / Int64ul,
)
SPARSE_MMAP: Final = _layout(
    "sparse_mmap",
    "id" / Int16ul,
    "version" / Int16ul,
    "next" / Int32ul,
    "nr_areas" / Int32ul,
    "reserved" / Int32ul,
)
SPARSE_AREA: Final = _layout("sparse_area", "offset" / Int64ul, "size" / Int64ul)
IRQ_INFO: Final = _layout(
    "irq_info",
    "argsz" / Int32ul,
    "flags" / Int32ul,
    "index" / Int32ul,
    "count" / Int32ul,
)
IRQ_SET: Final = _layout(
    "irq_set",
    "argsz" / Int32ul,
    "flags" / Int32ul,
    "index" / Int32ul,
    "start" / Int32ul,
    "count" / Int32ul,
)
REGION_ACCESS: Final = _layout(
    "region_access", "offset" / Int64ul, "region" / Int32ul, "count" / Int32ul
)
WRITE_COUNT: Final = _layout("write_count", "wr_cnt" / Int64ul)
