# SPDX-License-Identifier: Apache-2.0
"""Writes chosen packets of a capture to pcapng again, waiting for the disk instead of dropping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from i2o.closing import Closing
from i2o.decode.conversation import DMA, Traced
from i2o.errors import CaptureError
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.packet import Packet
from i2o.transport.capture.pcapng_writer import MAX_SNAP_LENGTH

_PATIENCE_S: Final = 1e6
"""How long to wait for who takes the capture: until somebody interrupts."""


class PacketFile(Closing):
    """A capture made of packets of another one; times, MFAs and comments are kept.

    Pieces of DMA whose MFA was not recorded get that of their request, as far as it is known.

    Args:
        destination: a path, or `-` for standard output.
        describe: tells what a packet's IOP or endpoint is, such as its URI.
        max_bytes: size of a file, after which the next one is started.
        max_seconds: time after which the next one is started.
        max_files: how many files are kept, the latest.

    Raises:
        CaptureError: it cannot be written to.
    """

    def __init__(
        self,
        destination: str,
        *,
        describe: Callable[[Packet], str],
        max_bytes: int | None = None,
        max_seconds: float | None = None,
        max_files: int | None = None,
    ) -> None:
        self._describe = describe
        self._file = CaptureFile(
            destination,
            dma_snap=MAX_SNAP_LENGTH,
            payload_bytes=MAX_SNAP_LENGTH,
            max_file_bytes=max_bytes,
            max_file_seconds=max_seconds,
            max_files=max_files,
            waits_when_full=True,
        )

    def keep(self, traced: Traced) -> None:
        """Write a packet.

        Raises:
            CaptureError: the file cannot be written any more.
        """
        packet = traced.packet
        if packet.mfa is None and traced.kind == DMA and traced.request is not None:
            packet = packet._replace(mfa=traced.request.packet.mfa)
        self._file.add_packet(packet, self._describe(packet))
        if self._file.dropped:
            raise self._failed()

    def close(self) -> None:
        """Write what is left.

        Raises:
            CaptureError: it cannot be written.
        """
        if not self._file.is_closed:
            try:
                self._file.flush(_PATIENCE_S)
            finally:
                self._file.close()
            if self._file.dropped:
                raise self._failed()

    def _failed(self) -> CaptureError:
        return CaptureError(f"{self._file.name}: packets cannot be written to it")
