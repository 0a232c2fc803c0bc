# SPDX-License-Identifier: Apache-2.0
"""Copies what can be read of a disk that fails: large reads first, small ones where they fail.

Only what the device says it delivered goes into the image. An area where a large read failed is
left for later, so that the good parts are safe before the bad ones are worked on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol

from i2o.errors import RequestFailed, RequestTimeout
from i2o.frames.block_storage import BsaDetailedStatus
from i2o.tools.rescue_map import Phase, RescueMap, Status

MAX_SILENCE: Final = 3
"""Reads in a row without an answer after which a rescue stops."""
_GONE: Final = (
    BsaDetailedStatus.DEVICE_NOT_READY.value,
    BsaDetailedStatus.MEDIA_NOT_PRESENT.value,
    BsaDetailedStatus.VOLUME_CHANGED.value,
)


class Source(Protocol):
    """What is read of a block device; see `i2o.block.BlockDevice`."""

    block_size: int

    @property
    def max_transfer(self) -> int:
        """Bytes of the largest request."""

    @property
    def queue_depth(self) -> int:
        """Requests in flight."""

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer."""


class Rescue:
    """One run over a disk.

    Args:
        source: the disk.
        image: descriptor of the image, which has the disk's size already.
        found: the map, which is kept up to date.
        on_step: called after every read with the bytes that it brought.

    Attributes:
        position: the byte that was worked on last.
        phase: what was done there.
        turn: how often that was done, from 1 on.
    """

    def __init__(
        self, source: Source, image: int, found: RescueMap, on_step: Callable[[int], object]
    ) -> None:
        self._source, self._image, self._map, self._on_step = source, image, found, on_step
        self._span = source.max_transfer * source.queue_depth
        self._buffer = memoryview(bytearray(self._span))
        self._silent = 0
        self.position, self.phase, self.turn = 0, Phase.COPYING, 1

    def run(self, retries: int) -> None:
        """Do all of it.

        Args:
            retries: how often blocks that could not be read are tried again.

        Raises:
            RequestFailed: the device is gone, or serves nothing.
            RequestTimeout: it does not answer any more.
        """
        for area in self._map.areas(Status.NON_TRIED):
            self._copy(area.start, area.end)
        self.phase = Phase.SCRAPING
        for area in self._map.areas(Status.NON_TRIMMED, Status.NON_SCRAPED):
            self._scrape(area.start, area.end)
        self.phase = Phase.RETRYING
        for self.turn in range(1, retries + 1):
            for area in self._map.areas(Status.BAD_SECTOR):
                for position in range(area.start, area.end, self._source.block_size):
                    self._read(position, min(self._source.block_size, area.end - position))
        self.phase, self.turn = Phase.FINISHED, 1

    def _copy(self, position: int, end: int) -> None:
        """Read an area with several large requests in flight; leave out those that fail."""
        request = self._source.max_transfer
        while position < end:
            size = min(self._span, end - position)
            good = self._read(position, size)
            if good < size:
                behind = min(size, (good // request + 1) * request)
                self._map.mark(position + good, position + behind, Status.NON_TRIMMED)
                good = behind
            position += good

    def _scrape(self, position: int, end: int) -> None:
        """Read an area where a large read failed: single blocks, and more while they are good."""
        block = size = self._source.block_size
        while position < end:
            size = min(size, end - position)
            good = self._read(position, size)
            if good == size:
                size = min(2 * size, self._source.max_transfer)
            else:
                if not good and size <= block:
                    self._map.mark(position, position + size, Status.BAD_SECTOR)
                    good = size
                size = block
            position += good

    def _read(self, position: int, size: int) -> int:
        """Read into the image as far as it goes; return how many bytes are there, whole blocks."""
        self.position = position
        gone: RequestFailed | None = None
        try:
            self._source.readinto(position, self._buffer[:size])
            good = size
        except RequestFailed as error:
            if error.req_status is None or error.detail in _GONE:
                gone = error
            good = error.delivered // self._source.block_size * self._source.block_size
        except RequestTimeout:
            self._silent += 1
            if self._silent >= MAX_SILENCE:
                raise
            self._buffer = memoryview(bytearray(self._span))  # late data may still come into it
            self._on_step(0)
            return 0
        self._silent = 0
        data = self._buffer[:good]
        while data:
            data = data[os.pwrite(self._image, data, position + good - len(data)) :]
        self._map.mark(position, position + good, Status.FINISHED)
        self._on_step(good)
        if gone is not None:
            raise gone
        return good
