# SPDX-License-Identifier: Apache-2.0
"""Answers the commands of one client: a message in, a message out, no sockets.

Every command is checked as a whole before anything is done. One that cannot be done is answered
with an errno; nothing that a client sends raises. File descriptors belong to whoever took them
off the socket: what the session keeps of them are duplicates.
"""

from __future__ import annotations

import errno
import json
import logging
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from i2o.errors import RemoteFrameError
from i2o.transport.vfio_user import messages as wire
from i2o.transport.vfio_user.config_space import (
    COMMAND_INTX_DISABLE,
    ConfigSpace,
)
from i2o.transport.vfio_user.config_space import SIZE as CONFIG_SIZE
from i2o.transport.vfio_user.device import Device, Region
from i2o.transport.vfio_user.errors import ConnectionBroken, Refused
from i2o.transport.vfio_user.guest_memory import GuestMemory
from i2o.transport.vfio_user.interrupts import Interrupts
from i2o.transport.vfio_user.messages import (
    MAX_TRANSFER,
    TYPE_MASK,
    Command,
    DmaUnmapFlags,
    IrqIndex,
    MessageFlags,
    RegionFlags,
    RegionIndex,
)

logger = logging.getLogger(__name__)

HEADER_SIZE: Final = 16
_ACCESS_SIZE: Final = 16
# enumerations are slow where every message passes
_NO_REPLY, _REPLY = int(MessageFlags.NO_REPLY), int(MessageFlags.REPLY)
_ERROR_REPLY: Final = int(MessageFlags.REPLY | MessageFlags.ERROR)
_VERSION_COMMAND, _CONFIG = int(Command.VERSION), int(RegionIndex.CONFIG)
_read_header = struct.Struct("<HHIII").unpack_from
_pack_header = struct.Struct("<HHIII").pack
_read_access = struct.Struct("<QII").unpack_from


class Reply(NamedTuple):
    """What goes back to the client.

    Attributes:
        data: the whole message; empty if none is wanted.
        descriptors: files that go with it, which stay the device's.
    """

    data: bytes
    descriptors: tuple[int, ...] = ()


class _Body(NamedTuple):
    data: bytes = b""
    descriptors: tuple[int, ...] = ()


class Session:
    """A device as its clients see it, one client after another.

    Args:
        device: the device.

    Attributes:
        memory: what the client has mapped.
        interrupts: where they are signalled.
        config: the configuration space.
    """

    def __init__(self, device: Device) -> None:
        identity = device.identity
        self.device = device
        self.memory = GuestMemory()
        self.interrupts = Interrupts(msi=int(identity.msi), msix=identity.msix)
        self.config = ConfigSpace(identity, self._on_command, lambda: self.interrupts.is_pending)
        self._has_version = False
        self._handlers: dict[int, Callable[[bytes, Sequence[int]], _Body]] = {
            Command.VERSION: self._version,
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._device_info,
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info,
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.REGION_WRITE_MULTI: self._region_write_multi,
            Command.DEVICE_RESET: self._reset,
        }
        device.connect(self.memory, self.interrupts, self.config)

    def answer(self, message: bytes, descriptors: Sequence[int] = ()) -> Reply:
        """Do what a command asks for.

        Args:
            message: header and payload, exactly as many bytes as the header says.
            descriptors: file descriptors that came with it.

        Raises:
            ConnectionBroken: no command, or not the one a connection begins with.
        """
        number, command, _, flags, _ = _read_header(message)
        if flags & TYPE_MASK:
            raise ConnectionBroken(f"the client sent a message of type {flags & TYPE_MASK}")
        if not self._has_version and command != _VERSION_COMMAND:
            raise ConnectionBroken(f"the client began with command {command}, not with a version")
        body, code = _Body(), 0
        try:
            handler = self._handlers.get(command)
            if handler is None:
                raise Refused(errno.ENOTSUP, f"command {command}")
            body = handler(message[HEADER_SIZE:], descriptors)
        except Refused as error:
            logger.debug("command %d: %s", command, error)
            code = error.code
        except RemoteFrameError as error:  # too short for its structure
            logger.debug("command %d: %s", command, error)
            code = errno.EINVAL
        except OSError as error:
            logger.warning("command %d: %s", command, error)
            code = error.errno or errno.EIO
        if flags & _NO_REPLY:
            return Reply(b"")
        reply_flags = _ERROR_REPLY if code else _REPLY
        head = _pack_header(number, command, HEADER_SIZE + len(body.data), reply_flags, code)
        return Reply(head + body.data, body.descriptors)

    def client_gone(self) -> None:
        """Forget what the client set up: memory, interrupts, configuration space.

        What the device itself keeps is its own to say.
        """
        self._has_version = False
        self.device.client_gone()
        self.config.reset()
        self.memory.clear()
        self.interrupts.disconnect()

    # --- connection ----------------------------------------------------------------------------

    def _version(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        head = wire.VERSION.unpack_from(data)
        if head.major != wire.MAJOR:
            raise ConnectionBroken(f"the client speaks vfio-user {head.major}.{head.minor}")
        offered = _capabilities(data[wire.VERSION.size :])
        ours: dict[str, Any] = {
            "max_msg_fds": wire.MAX_DESCRIPTORS,
            "max_data_xfer_size": MAX_TRANSFER,
            "max_dma_maps": wire.MAX_DMA_MAPS,
            "pgsizes": 4096,
            "write_multiple": True,
        }
        accepted = {name: value for name, value in ours.items() if name in offered}
        self._has_version = True
        text = json.dumps({"capabilities": accepted}).encode() + b"\0"
        return _Body(wire.VERSION.build(major=wire.MAJOR, minor=wire.MINOR) + text)

    # --- memory --------------------------------------------------------------------------------

    def _dma_map(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        asked = wire.DMA_MAP.unpack_from(data)
        if len(descriptors) > 1:
            raise Refused(errno.EINVAL, f"{len(descriptors)} descriptors for one DMA range")
        descriptor = descriptors[0] if descriptors else None
        self.memory.map(asked.address, asked.size, asked.flags & 3, descriptor, asked.offset)
        return _Body()

    def _dma_unmap(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        asked = wire.DMA_UNMAP.unpack_from(data)
        if asked.flags & DmaUnmapFlags.GET_DIRTY_BITMAP:
            raise Refused(errno.ENOTSUP, "dirty pages are not tracked")
        if asked.flags & DmaUnmapFlags.ALL:
            if asked.address or asked.size:
                raise Refused(errno.EINVAL, "unmap of everything with an address")
            self.memory.clear()
        else:
            self.memory.unmap(asked.address, asked.size)
        return _Body(data[: wire.DMA_UNMAP.size])

    # --- what there is -------------------------------------------------------------------------

    def _device_info(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        wire.DEVICE_INFO.unpack_from(data)
        return _Body(
            wire.DEVICE_INFO.build(
                argsz=wire.DEVICE_INFO.size,
                flags=int(wire.DeviceFlags.RESET | wire.DeviceFlags.PCI),
                num_regions=len(RegionIndex),
                num_irqs=len(IrqIndex),
            )
        )

    def _region_info(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        asked = wire.REGION_INFO.unpack_from(data)
        if asked.index not in RegionIndex.__members__.values():
            raise Refused(errno.EINVAL, f"no region {asked.index}")
        flags, size, areas = 0, 0, b""
        shared: tuple[int, ...] = ()
        region = self.device.regions.get(asked.index)
        if asked.index == RegionIndex.CONFIG:
            flags, size = int(RegionFlags.READ | RegionFlags.WRITE), CONFIG_SIZE
        elif region is not None:
            flags, size = int(RegionFlags.READ | RegionFlags.WRITE), region.size
            if region.descriptor is not None:
                flags |= int(RegionFlags.MMAP | RegionFlags.CAPS)
                areas, shared = _sparse_areas(region), (region.descriptor,)
        head = wire.REGION_INFO.build(
            argsz=wire.REGION_INFO.size + len(areas),
            flags=flags,
            index=asked.index,
            cap_offset=wire.REGION_INFO.size if areas else 0,
            size=size,
        )
        # what does not fit is left out: the client sees by argsz that there is more
        fits = asked.argsz >= wire.REGION_INFO.size + len(areas)
        return _Body(head + (areas if fits else b""), shared)

    # --- interrupts ----------------------------------------------------------------------------

    def _irq_info(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        asked = wire.IRQ_INFO.unpack_from(data)
        flags, count = self.interrupts.info(asked.index)
        return _Body(
            wire.IRQ_INFO.build(
                argsz=wire.IRQ_INFO.size, flags=flags, index=asked.index, count=count
            )
        )

    def _set_irqs(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        asked = wire.IRQ_SET.unpack_from(data)
        self.interrupts.set(
            asked.index,
            asked.start,
            asked.count,
            asked.flags,
            data[wire.IRQ_SET.size :],
            descriptors,
        )
        return _Body()

    # --- regions -------------------------------------------------------------------------------

    def _region_read(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        offset, index, count = _access(data)
        return _Body(data[:_ACCESS_SIZE] + self._read(index, offset, count))

    def _region_write(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        offset, index, count = _access(data)
        if len(data) - _ACCESS_SIZE != count:
            raise Refused(errno.EINVAL, f"{len(data) - _ACCESS_SIZE} bytes for a write of {count}")
        self._write(index, offset, data[_ACCESS_SIZE:])
        return _Body(data[:_ACCESS_SIZE])

    def _region_write_multi(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        """Do several writes of up to 8 bytes each, in order; the first that fails is the last."""
        count = wire.WRITE_COUNT.unpack_from(data).wr_cnt
        entry = _ACCESS_SIZE + 8
        if len(data) != wire.WRITE_COUNT.size + count * entry:
            raise Refused(errno.EINVAL, f"{len(data)} bytes for {count} writes")
        for place in range(wire.WRITE_COUNT.size, len(data), entry):
            offset, index, size = _read_access(data, place)
            if not 1 <= size <= 8:
                raise Refused(errno.EINVAL, f"one of several writes with {size} bytes")
            self._write(index, offset, data[place + _ACCESS_SIZE : place + _ACCESS_SIZE + size])
        return _Body(data[: wire.WRITE_COUNT.size])

    def _read(self, index: int, offset: int, count: int) -> bytes:
        region = self._region(index, offset, count)
        if region is None:
            return self.config.read(offset, count)
        return region.read(offset, count)

    def _write(self, index: int, offset: int, data: bytes) -> None:
        region = self._region(index, offset, len(data))
        if region is None:
            self.config.write(offset, data)
        else:
            region.write(offset, data)

    def _region(self, index: int, offset: int, count: int) -> Region | None:
        """Return the region of an access that lies within it; None is configuration space."""
        region = self.device.regions.get(index)
        is_config = index == _CONFIG
        size = CONFIG_SIZE if is_config else 0 if region is None else region.size
        if not 1 <= count <= size - offset:
            raise Refused(
                errno.EINVAL, f"{count} bytes at {offset:#x} of region {index}, which has {size}"
            )
        return None if is_config else region

    def _on_command(self, command: int) -> None:
        self.interrupts.disable_intx(bool(command & COMMAND_INTX_DISABLE))

    def _reset(self, data: bytes, descriptors: Sequence[int]) -> _Body:
        self.device.reset()
        self.config.reset()
        return _Body()


def _access(data: bytes) -> tuple[int, int, int]:
    if len(data) < _ACCESS_SIZE:
        raise Refused(errno.EINVAL, f"a region access of {len(data)} bytes")
    offset, index, count = _read_access(data)
    if count > MAX_TRANSFER:
        raise Refused(errno.E2BIG, f"a region access for {count} bytes")
    return offset, index, count


def _sparse_areas(region: Region) -> bytes:
    """Return the capability that says which parts of a region can be mapped."""
    head = wire.SPARSE_MMAP.build(
        id=wire.SPARSE_MMAP_CAPABILITY, version=1, nr_areas=len(region.mappable)
    )
    return head + b"".join(
        wire.SPARSE_AREA.build(offset=offset, size=size) for offset, size in region.mappable
    )


def _capabilities(text: bytes) -> dict[str, Any]:
    """Return what a client says it can do; nonsense is nothing."""
    try:
        found = json.loads(text.split(b"\0", 1)[0] or b"{}")
        capabilities = found.get("capabilities", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return capabilities if isinstance(capabilities, dict) else {}
