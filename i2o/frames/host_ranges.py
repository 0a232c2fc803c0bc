# SPDX-License-Identifier: Apache-2.0
"""Which host memory a request points to: its scatter/gather list, and the few bare addresses.

Used by captures (what to record beside a frame) and by decoders (what a piece of DMA is).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from i2o.frames.functions import Function, OrganizationId
from i2o.frames.header import HEADER_SIZE, MsgFlags
from i2o.frames.private import DptFunction
from i2o.frames.sgl_walk import Buffer, ReadHost, SglError, sgl_elements
from i2o.frames.tables import STATUS_BLOCK

MAX_RANGES: Final = 4096
"""Ranges of one request that are looked at."""


class HostRange(NamedTuple):
    """A contiguous piece of one logical buffer of a request.

    Attributes:
        buffer: which of the request's buffers, from 0; -1 for a chained list.
        offset: where in that buffer the piece starts.
        address: bus address.
        length: bytes.
        to_device: True if the device reads it, False if it writes it.
    """

    buffer: int
    offset: int
    address: int
    length: int
    to_device: bool


_READS_ALL: Final = frozenset(
    {
        Function.BSA_BLOCK_WRITE.value,
        Function.BSA_BLOCK_WRITE_VERIFY.value,
        Function.BSA_BLOCK_REASSIGN.value,
        Function.EXEC_SYS_TAB_SET.value,
        Function.EXEC_SYS_MODIFY.value,
        Function.EXEC_SW_DOWNLOAD.value,
        Function.LAN_PACKET_SEND.value,
        Function.LAN_SDU_SEND.value,
    }
)
"""Functions whose every buffer the device reads, whatever the elements say."""

_WRITES_ALL: Final = frozenset(
    {
        Function.BSA_BLOCK_READ.value,
        Function.EXEC_HRT_GET.value,
        Function.EXEC_LCT_NOTIFY.value,
        Function.EXEC_OUTBOUND_INIT.value,
        Function.EXEC_SW_UPLOAD.value,
        Function.LAN_RECEIVE_POST.value,
    }
)
"""Functions whose every buffer the device writes."""

_READS_FIRST: Final = frozenset({Function.UTIL_PARAMS_GET.value, Function.UTIL_PARAMS_SET.value})
"""Functions with an operation list in the first buffer and room for results in the second."""

_STATUS_GET: Final = Function.EXEC_STATUS_GET.value
_IOP_RESET: Final = Function.EXEC_IOP_RESET.value
_OUTBOUND_INIT: Final = Function.EXEC_OUTBOUND_INIT.value
_CONFIG_DIALOG: Final = Function.UTIL_CONFIG_DIALOG.value
_PRIVATE: Final = Function.PRIVATE_MESSAGE.value
_SCB_EXEC: Final = Function.SCSI_SCB_EXEC.value
_DPT_SCB: Final = DptFunction.SCSI_SCB_EXEC.value | OrganizationId.DPT_ADAPTEC.value << 16
_XFER_TO_DEVICE, _XFER_FROM_DEVICE = 0x8000, 0x4000
_SGL_WORDS: Final = {_OUTBOUND_INIT: 6}
_64BIT: Final = MsgFlags.CONTEXT_64BIT.value


def sgl_start(frame: Buffer) -> int:
    """Return the byte at which a request's scatter/gather list starts, 0 if it has none.

    Hosts that say 0 or 4 for OutboundInit mean word 6.
    """
    if len(frame) < 8:
        return 0
    return 4 * max(frame[0] >> 4, _SGL_WORDS.get(frame[7], 0))


def host_ranges(frame: Buffer, *, read_host: ReadHost | None = None) -> list[HostRange]:
    """Return the host memory that a request points to, in the order of its list.

    Args:
        frame: the request, cut at its MessageSize.
        read_host: reads chained lists; without it they are not followed.

    Returns:
        The ranges in front of the first thing that makes no sense; none for a frame without
        a header. Memory of the IOP's own is left out.
    """
    if len(frame) < HEADER_SIZE:
        return []
    function = frame[7]
    if function == _STATUS_GET:
        address, length = _word(frame, 24), _word(frame, 32)
        size = min(length or STATUS_BLOCK.size, STATUS_BLOCK.size)
        return [HostRange(0, 0, address, size, False)] if address else []
    if function == _IOP_RESET:
        address = _word(frame, 24)
        return [HostRange(0, 0, address, 4, False)] if address else []
    start = sgl_start(frame)
    if not start:
        return []
    found: list[HostRange] = []
    buffer = offset = 0
    try:
        for element in sgl_elements(
            frame,
            start,
            len(frame),
            read_host=read_host,
            context_words64=bool(frame[1] & _64BIT),
        ):
            kind = element.kind
            if kind in ("simple", "page_list"):
                way = _to_device(frame, function, buffer, element.out or False)
                for address, length in element.pieces:
                    if not element.local and length:
                        found.append(HostRange(buffer, offset, address, length, way))
                    offset += length
            elif kind in ("immediate", "bit_bucket"):
                offset += element.count
            elif kind == "chain" and not element.local:
                address, length = element.pieces[0]
                found.append(HostRange(-1, 0, address, length, True))
            if element.end_of_buffer:
                buffer, offset = buffer + 1, 0
            if len(found) >= MAX_RANGES:
                break
    except SglError:
        pass
    return found[:MAX_RANGES]


def _to_device(frame: Buffer, function: int, buffer: int, stated: bool) -> bool:
    """Return whether the device reads a buffer: the function knows better than the element."""
    if function in _WRITES_ALL:
        return False
    if function in _READS_ALL:
        return True
    if function in _READS_FIRST:
        return buffer == 0
    if function == _CONFIG_DIALOG:
        return buffer == 1
    place = 0
    if function == _SCB_EXEC:
        place = 18
    elif function == _PRIVATE and len(frame) >= 24 and _word(frame, 16) == _DPT_SCB:
        place = 26
    if place and len(frame) >= place + 2 and buffer == 0:
        flags = frame[place] | frame[place + 1] << 8
        if flags & (_XFER_TO_DEVICE | _XFER_FROM_DEVICE):
            return flags & _XFER_TO_DEVICE != 0
    return stated


def _word(frame: Buffer, offset: int) -> int:
    return int.from_bytes(frame[offset : offset + 4], "little")
