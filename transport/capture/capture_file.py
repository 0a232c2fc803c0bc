# SPDX-License-Identifier: Apache-2.0
"""Captures traffic to pcapng without getting in its way.

Packets are formatted where they happen and put into a queue that is bounded in bytes; a thread
writes them. If it cannot keep up, or the disk fails, packets are dropped and counted: traffic
never waits and never sees an error. Every file is complete by itself: section header, interfaces,
packets, and statistics with the drops at its end.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import platform
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import BinaryIO, Final

from i2o._version import __version__
from i2o.closing import Closing
from i2o.errors import CaptureError
from i2o.transport.capture import pcapng_writer
from i2o.transport.capture.capture_target import open_target
from i2o.transport.capture.endpoint_recorder import PAYLOAD_BYTES
from i2o.transport.capture.file_endpoint import FileEndpoint
from i2o.transport.capture.packet import (
    DMA_HEADER_SIZE,
    LINKTYPE_DMA,
    LINKTYPE_FRAME,
    Channel,
    Packet,
)
from i2o.transport.capture.pcapng_writer import (
    INBOUND,
    MAX_SNAP_LENGTH,
    OUTBOUND,
    InterfaceCounts,
    PacketShapes,
)
from i2o.transport.capture.recorder import DMA_SNAP, TABLE_BYTES

logger = logging.getLogger(__name__)

QUEUE_BYTES: Final = 8 << 20
LINGER_S: Final = 0.05
"""How long packets are collected before they are written."""
MIN_FILE_BYTES: Final = 4096
MIN_SNAP_LENGTH: Final = 16

_CLOSE_S: Final = 5.0
_BATCH: Final = 1 << 14  # blocks written at once: every write may cost a switch of threads
_STATISTICS_SIZE: Final = 92
_STATISTICS_PAUSE_NS: Final = 1_000_000_000
_LOW: Final = 0xFFFF_FFFF
_NO_SUCH_NUMBER: Final = 1 << 63
_FLAGS: Final = (OUTBOUND, INBOUND, OUTBOUND, INBOUND)
"""`epb_flags` by `Channel`."""
_INTERFACES: Final = (
    ("in", LINKTYPE_FRAME),
    ("out", LINKTYPE_FRAME),
    ("dma", LINKTYPE_DMA),
    ("dma", LINKTYPE_DMA),
)
"""Name and link type of an interface, by `Channel`."""
_FIRST_INTERFACES: Final = 1 << 8
_low_byte_of_interface = itemgetter(8)


class CaptureFile(Closing):
    """A capture of any number of IOPs and endpoints.

    Args:
        destination: a path, `-` for standard output, or a binary stream, which stays open.
            What is no regular file is written to as the packets come. A FIFO must have a reader.
        snap_length: bytes of any packet to keep.
        dma: whether to capture the host memory that requests point to.
        dma_snap: bytes to keep of a packet of bulk data, its address included.
        payload_bytes: bytes to keep of an endpoint's message, its header not included.
        max_file_bytes: start another file before one gets larger than this; files are then called
            `NAME-00001.EXT` and so on.
        max_file_seconds: start another file when one is this old.
        max_files: keep only that many, the latest.
        queue_bytes: packets that wait to be written; more are dropped.
        waits_when_full: wait for room instead of dropping, for conversions.
        linger_s: seconds for which packets are collected before they are written.

    Raises:
        CaptureError: it cannot be written there, or the options contradict each other.
    """

    def __init__(
        self,
        destination: str | os.PathLike[str] | BinaryIO,
        *,
        snap_length: int = MAX_SNAP_LENGTH,
        dma: bool = True,
        dma_snap: int = DMA_SNAP,
        payload_bytes: int = PAYLOAD_BYTES,
        max_file_bytes: int | None = None,
        max_file_seconds: float | None = None,
        max_files: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
        waits_when_full: bool = False,
        linger_s: float = LINGER_S,
    ) -> None:
        rotates = max_file_bytes is not None or max_file_seconds is not None
        _check_limits(
            snap_length,
            dma_snap,
            payload_bytes,
            max_file_bytes,
            max_file_seconds,
            max_files,
            queue_bytes,
        )
        if max_files is not None and not rotates:
            raise CaptureError("a number of files needs a size or a time at which to start another")
        self.wants_dma = dma
        self._snap_length, self._dma_snap = snap_length, dma_snap
        self._payload_bytes = payload_bytes
        self._max_bytes, self._max_seconds = max_file_bytes, max_file_seconds
        self._waits, self._linger_s = waits_when_full, linger_s
        # shared with those who record, under the lock; re-entrant, as a signal handler may record
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._queue: deque[bytes] = deque()
        self._queued = 0  # bytes in the queue and in the batch that is being written
        self._limit = self._queue_bytes = queue_bytes
        self._finished = 0  # bytes that were written or lost, since the beginning
        self._descriptions: list[bytes] = []
        self._names: list[str] = []
        self._drops: list[int] = []
        self._iops: dict[int, FileIop] = {}
        self._endpoints: dict[int, FileEndpoint] = {}
        self._is_closing = False
        # the writing thread's own
        self._counts: Counter[int] = Counter()
        self._described = 0
        self._drops_before: list[int] = []
        self._drops_told: list[int] = []
        self._told_ns = self._start_ns = 0
        self._has_section = self._needs_next = self._has_complained = False
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._pid = os.getpid()
        self._target = open_target(destination, rotates=rotates, max_files=max_files)
        self._thread = threading.Thread(target=self._run, name="i2o-capture", daemon=True)
        self._wake.set()  # for the section header
        self._thread.start()
        _survive_forks(self)
        atexit.register(self.close)

    # --- what may be asked -----------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The file that is written now, which may not be the one that was asked for."""
        return self._target.name

    @property
    def dropped(self) -> int:
        """Packets that were dropped since the beginning."""
        return sum(self._drops)

    @property
    def dropped_by_interface(self) -> dict[str, int]:
        """Packets dropped since the beginning, by name of the interface."""
        return dict(zip(self._names, self._drops, strict=False))

    @property
    def is_closed(self) -> bool:
        """Whether nothing is recorded any more."""
        return self._is_closing

    # --- recording -------------------------------------------------------------------------------

    def add_iop(self, description: str = "", *, number: int | None = None) -> FileIop:
        """Add the interfaces of an IOP and return what records its traffic.

        Args:
            description: what it is, such as its URI; written to the file.
            number: the N of `iopN.in`; the next free one by default.
        """
        with self._lock:
            if number is None:
                number = max(self._iops, default=-1) + 1
            iop = FileIop(
                self,
                number,
                description,
                snap_length=self._snap_length,
                dma_snap=self._dma_snap,
            )
            self._iops[number] = iop
            return iop

    def add_endpoint(
        self, description: str = "", *, endpoint_type: int = 0, number: int | None = None
    ) -> FileEndpoint:
        """Add the interface of an endpoint and return what records its messages.

        Args:
            description: what it is, such as its URI; written to the file.
            endpoint_type: an `EndpointType`, 0 for what is no endpoint, such as a table of peers.
            number: the N of `epN`; the next free one by default.
        """
        with self._lock:
            if number is None:
                number = max(self._endpoints, default=-1) + 1
            endpoint = FileEndpoint(
                self,
                number,
                description,
                endpoint_type=endpoint_type,
                snap_length=self._snap_length,
                payload_bytes=self._payload_bytes,
            )
            self._endpoints[number] = endpoint
            return endpoint

    def add_packet(self, packet: Packet, description: str = "") -> None:
        """Record a packet of another capture, with its own time.

        Args:
            packet: what to record; DMA is left out if this capture does not want it.
            description: of its IOP or endpoint, if it is the first packet of that.
        """
        number = packet.iop
        if packet.channel == Channel.MESSAGE:
            endpoint = self._endpoints.get(number)
            if endpoint is None:
                endpoint = self.add_endpoint(description, number=number)
            endpoint.packet(packet)
            return
        iop = self._iops.get(number) or self.add_iop(description, number=number)
        iop.packet(packet)

    def flush(self, timeout_s: float = _CLOSE_S) -> bool:
        """Wait until what was recorded so far is written; False if that took too long."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            target = self._finished + self._queued
            self._hurry.set()
            self._wake.set()
            while self._finished < target:
                left = deadline - time.monotonic()
                if left <= 0 or os.getpid() != self._pid or not self._thread.is_alive():
                    return False
                self._room.wait(min(left, 0.1))
        return True

    def close(self) -> None:
        """Write what is left and the statistics, and close; a second call does nothing.

        If the other side does not take it within some seconds, the rest is lost.
        """
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
            self._limit = -1
            self._room.notify_all()
        atexit.unregister(self.close)
        if os.getpid() != self._pid:
            return  # the thread and the file are the parent's
        self._hurry.set()
        self._wake.set()
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            logger.warning("capture %s: nobody takes what is left; it is lost", self.name)
        elif self.dropped:
            logger.warning("capture %s: %d packets were dropped", self.name, self.dropped)

    # --- for FileIop and FileEndpoint ------------------------------------------------------------

    def add_interface(self, name: str, link_type: int, snap_length: int, description: str) -> int:
        """Add an interface and return its index. The lock is held or taken."""
        with self._lock:
            self._descriptions.append(
                pcapng_writer.interface_description(
                    name, link_type=link_type, snap_length=snap_length, description=description
                )
            )
            self._names.append(name)
            self._drops.append(0)
            self._wake.set()
            return len(self._descriptions) - 1

    def frame_recorder(self, interface: int, flags: int) -> Callable[[int, int, bytes], None]:
        """Return the function that records frames of an interface: (time, MFA, frame)."""
        shapes = PacketShapes(interface, flags, self._snap_length)
        lock, queue, wake = self._lock, self._queue, self._wake.set
        append = queue.append

        def record(time_ns: int, mfa: int, frame: bytes) -> None:
            pack, head, lengths, middle, tail = shapes[len(frame)]
            block = pack(head, time_ns >> 32, time_ns & _LOW, lengths, frame, middle, mfa, tail)
            with lock:
                queued = self._queued + len(block)
                if queued > self._limit:
                    self._overflow(interface, block)
                    return
                if not queue:
                    wake()
                self._queued = queued
                append(block)

        return record

    def put(self, interface: int, block: bytes) -> None:
        """Queue a block of any kind for an interface."""
        with self._lock:
            queued = self._queued + len(block)
            if queued > self._limit:
                self._overflow(interface, block)
                return
            if not self._queue:
                self._wake.set()
            if queued > self._queue_bytes // 2:
                self._hurry.set()
            self._queued = queued
            self._queue.append(block)

    def _overflow(self, interface: int, block: bytes) -> None:
        """Drop a block, or wait for room. The lock is held."""
        if self._waits:
            while self._limit >= 0 and self._queued and self._queued + len(block) > self._limit:
                self._hurry.set()
                self._wake.set()
                self._room.wait(1.0)
            if self._limit >= 0:
                self._queued += len(block)
                self._queue.append(block)
                self._wake.set()
                return
        self._drops[interface] += 1

    # --- the writing thread ----------------------------------------------------------------------

    def _run(self) -> None:
        is_last = False
        try:
            while not is_last:
                self._wake.wait()
                if not self._is_closing:
                    self._hurry.wait(self._linger_s)
                with self._lock:
                    is_last = self._is_closing
                    blocks = list(self._queue)
                    self._queue.clear()
                    self._wake.clear()
                    self._hurry.clear()
                self._write_blocks(blocks)
        finally:
            self._finish()

    def _write_blocks(self, blocks: list[bytes]) -> None:
        now_ns = time.time_ns()
        if blocks and self._is_old(now_ns):
            self._end_section(now_ns)
        for first in range(0, max(1, len(blocks)), _BATCH):  # once even if there are none
            batch = blocks[first : first + _BATCH]
            size = sum(map(len, batch))
            if self._fits(size):
                self._write_batch(batch)
            else:
                self._write_in_parts(batch)
            with self._lock:
                self._queued -= size
                self._finished += size
                self._room.notify_all()
        self._tell_drops(now_ns)

    def _write_in_parts(self, batch: list[bytes]) -> None:
        """Write blocks to as many files as they need, at least one to each."""
        part: list[bytes] = []
        size = 0
        for block in batch:
            size += len(block)
            if not self._fits(size) and (part or self._counts):
                self._write_batch(part)
                self._end_section(time.time_ns())
                part, size = [], len(block)
            part.append(block)
        self._write_batch(part)

    def _write_batch(self, batch: list[bytes]) -> None:
        """Write blocks behind all that must stand in front of them, or count them as dropped."""
        try:
            self._prepare()
            if batch:
                self._target.write(b"".join(batch))
        except Exception as error:  # whatever a stream may raise: traffic goes on
            if len(batch) > 1 and self._target.can_recover and not self._has_complained:
                middle = len(batch) // 2  # a part may still fit; only the first time is it tried
                self._write_batch(batch[:middle])
                self._write_batch(batch[middle:])
            else:
                self._failed(batch, error)
        else:
            few = len(self._names) <= _FIRST_INTERFACES  # one byte tells, at half the price
            self._counts.update(map(_low_byte_of_interface if few else _interface_of, batch))

    def _prepare(self) -> None:
        """Write the section header and the interfaces that are not there yet."""
        if self._needs_next:
            self._target.start_next()
            self._needs_next = False
        if not self._has_section:
            self._target.write(_section_header())
            self._has_section, self._described = True, 0
            self._start_ns = time.time_ns()
        known = len(self._descriptions)
        if self._described < known:
            self._target.write(b"".join(self._descriptions[self._described : known]))
            self._described = known

    def _failed(self, batch: list[bytes], error: Exception) -> None:
        """Count blocks as dropped, and give up if there is no hope."""
        if not self._has_complained:
            self._has_complained = True
            reason = error.strerror if isinstance(error, OSError) else None
            logger.warning(
                "capture %s: %s; packets are dropped from here on", self.name, reason or repr(error)
            )
        lost = list(batch)
        with self._lock:
            if not self._target.can_recover:
                self._limit = -1
                size = sum(map(len, self._queue))
                lost += self._queue
                self._queue.clear()
                self._queued -= size
                self._finished += size
            for block in lost:
                self._drops[_interface_of(block)] += 1

    def _is_old(self, now_ns: int) -> bool:
        return (
            self._max_seconds is not None
            and bool(self._counts)
            and now_ns - self._start_ns >= self._max_seconds * 1e9
        )

    def _fits(self, size: int) -> bool:
        """Whether blocks have room in the file, with all that goes around them."""
        if self._max_bytes is None:
            return True
        known = len(self._descriptions)
        size += _STATISTICS_SIZE * known
        if self._has_section:
            size += self._target.size + sum(map(len, self._descriptions[self._described : known]))
        else:
            size += len(_section_header()) + sum(map(len, self._descriptions[:known]))
        return size <= self._max_bytes

    def _end_section(self, now_ns: int) -> None:
        """Complete a file, so that another can begin."""
        if self._has_section:
            self._write_statistics(range(self._described), now_ns)
        self._has_section, self._needs_next = False, True
        self._counts.clear()
        self._drops_before = list(self._drops)

    def _tell_drops(self, now_ns: int) -> None:
        """Tell live readers of drops, now and then; files to come have their own count."""
        if (
            self._drops_told == self._drops[: self._described]
            or not self._has_section
            or self._target.can_rotate
            or now_ns - self._told_ns < _STATISTICS_PAUSE_NS
        ):
            return
        told = self._drops_told + [0] * (self._described - len(self._drops_told))
        changed = [i for i in range(self._described) if self._drops[i] != told[i]]
        self._told_ns, self._drops_told = now_ns, self._drops[: self._described]
        self._write_statistics(changed, now_ns)

    def _write_statistics(self, interfaces: Iterable[int], now_ns: int) -> None:
        blocks = []
        for interface in interfaces:
            before = self._drops_before[interface : interface + 1] or [0]
            counts = InterfaceCounts(
                self._counts[interface],
                self._drops[interface] - before[0],
            )
            blocks.append(
                pcapng_writer.interface_statistics(
                    interface, counts, start_ns=self._start_ns, end_ns=now_ns
                )
            )
        with contextlib.suppress(Exception):  # the packets before are there all the same
            self._target.write(b"".join(blocks))

    def _finish(self) -> None:
        if self._has_section:
            self._write_statistics(range(self._described), time.time_ns())
        self._target.close()

    # --- forks -----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let nobody be in the middle of recording."""
        self._lock.acquire()

    def after_fork(self) -> None:
        """Go on in the parent."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave the file to the parent: here, nothing is recorded any more."""
        self._limit = -1
        self._queue.clear()
        self._target.close()
        self._lock.release()


class FileIop:
    """Records the traffic of one IOP to a `CaptureFile`; an `IopRecorder`.

    Made by `CaptureFile.add_iop`.

    Attributes:
        capture: the capture.
        number: the N of `iopN.in`.
        wants_dma: whether DMA is captured.
        bulk_bytes: bytes to keep of a piece of bulk data.
        table_bytes: bytes to keep of a piece of anything else.
        request: records a request: (nanoseconds since 1970, MFA, frame).
        reply: records a reply.
    """

    def __init__(
        self,
        capture: CaptureFile,
        number: int,
        description: str,
        *,
        snap_length: int,
        dma_snap: int,
    ) -> None:
        self.capture, self.number, self.wants_dma = capture, number, capture.wants_dma
        self._description, self._snap_length = description, snap_length
        self.bulk_bytes = max(0, min(snap_length, dma_snap) - DMA_HEADER_SIZE)
        whole = min(snap_length, TABLE_BYTES + DMA_HEADER_SIZE)
        self.table_bytes = max(0, whole - DMA_HEADER_SIZE)
        self._dma_snap = max(whole, DMA_HEADER_SIZE)
        self._interfaces: dict[int, int] = {}
        add, record = self._add_interface, capture.frame_recorder
        self.request = record(add(Channel.IN.value), OUTBOUND)
        self.reply = record(add(Channel.OUT.value), INBOUND)
        if self.wants_dma:
            add(Channel.TO_DEVICE.value)

    def dma(
        self, time_ns: int, channel: int, mfa: int, address: int, data: bytes, length: int
    ) -> None:
        """Record a piece of host memory that the IOP read or wrote."""
        self.packet(Packet(time_ns, self.number, channel, data, length, mfa, address))

    def remark(self, time_ns: int, channel: int, mfa: int, frame: bytes, comment: str) -> None:
        """Record a frame that something is to be said about."""
        self.packet(Packet(time_ns, self.number, channel, frame, len(frame), mfa, comment=comment))

    def packet(self, packet: Packet) -> None:
        """Record a packet with all that it says."""
        channel, data, length = packet.channel, packet.data, packet.length
        snap_length = self._snap_length
        if channel in (Channel.TO_DEVICE, Channel.FROM_DEVICE):
            if not self.wants_dma:
                return
            data = packet.address.to_bytes(DMA_HEADER_SIZE, "little") + data
            length += DMA_HEADER_SIZE
            snap_length = self._dma_snap
        interface = self._interfaces.get(channel)
        if interface is None:
            interface = self._add_interface(channel)
        self.capture.put(
            interface,
            pcapng_writer.enhanced_packet(
                interface,
                packet.time_ns,
                data[:snap_length],
                length,
                flags=_FLAGS[channel],
                packet_id=packet.mfa,
                comment=packet.comment,
            ),
        )

    def _add_interface(self, channel: int) -> int:
        suffix, link_type = _INTERFACES[channel]
        snap_length = self._dma_snap if link_type == LINKTYPE_DMA else self._snap_length
        index = self.capture.add_interface(
            f"iop{self.number}.{suffix}", link_type, snap_length, self._description
        )
        self._interfaces[channel] = index
        if link_type == LINKTYPE_DMA:  # one interface for both ways
            for other in (Channel.TO_DEVICE, Channel.FROM_DEVICE):
                self._interfaces[other.value] = index
        return index


def _interface_of(block: bytes) -> int:
    return int.from_bytes(block[8:12], "little")


def _section_header() -> bytes:
    system = platform.uname()
    return pcapng_writer.section_header(
        application=f"i2o {__version__}",
        operating_system=f"{system.system} {system.release}",
        hardware=system.machine,
    )


def _check_limits(
    snap_length: int,
    dma_snap: int,
    payload_bytes: int,
    max_file_bytes: int | None,
    max_file_seconds: float | None,
    max_files: int | None,
    queue_bytes: int,
) -> None:
    """Refuse what makes no sense; raises CaptureError."""
    for what, value, low, high in (
        ("snap length", snap_length, MIN_SNAP_LENGTH, MAX_SNAP_LENGTH),
        ("snap length of DMA", dma_snap, MIN_SNAP_LENGTH, MAX_SNAP_LENGTH),
        ("snap length of messages", payload_bytes, 0, MAX_SNAP_LENGTH),
        ("size of a file", max_file_bytes, MIN_FILE_BYTES, 1 << 62),
        ("time of a file in seconds", max_file_seconds, 0.001, 1e9),
        ("number of files", max_files, 1, 1_000_000),
        ("number of bytes of the queue", queue_bytes, 0, 1 << 62),
    ):
        if value is not None and not low <= value <= high:
            shown = max(min(value, _NO_SUCH_NUMBER), -_NO_SUCH_NUMBER)  # a float can hold it
            raise CaptureError(f"a {what} of {shown:g}: expected {low:g} to {high:g}")


def _survive_forks(capture: CaptureFile) -> None:
    """Keep children from writing to the parent's file, and from waiting for its locks."""
    found = weakref.ref(capture)

    def call(method: Callable[[CaptureFile], None]) -> Callable[[], None]:
        def hook() -> None:
            alive = found()
            if alive is not None:
                method(alive)

        return hook

    os.register_at_fork(
        before=call(CaptureFile.before_fork),
        after_in_parent=call(CaptureFile.after_fork),
        after_in_child=call(CaptureFile.after_fork_in_child),
    )
