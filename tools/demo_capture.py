# SPDX-License-Identifier: Apache-2.0
"""What the demo sees of its own traffic: a capture that it leaves behind, and frames to show."""

from __future__ import annotations

from typing import Final, NamedTuple

from i2o.closing import Closing
from i2o.errors import CaptureError
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.recorder import IopRecorder, PacketRecorder

CAPTURE_NAME: Final = "i2o-demo.pcapng"
"""The capture, in the working folder."""


class Recorded(NamedTuple):
    """A frame that passed.

    Attributes:
        time_ns: when, since 1970.
        is_request: host to IOP.
        frame: the bytes.
    """

    time_ns: int
    is_request: bool
    frame: bytes


class DemoRecorder(Closing):
    """Records to a file in the working folder, if there can be one, and keeps frames on demand.

    Args:
        description: what the IOP is.

    Attributes:
        file: the capture, None if it cannot be written.
        problem: why not.
    """

    def __init__(self, description: str) -> None:
        self.file: CaptureFile | None = None
        self.problem = ""
        inner: IopRecorder
        try:
            self.file = CaptureFile(CAPTURE_NAME)
            inner = self.file.add_iop(description)
        except CaptureError as error:
            self.problem = str(error)
            inner = PacketRecorder(lambda packet: None, wants_dma=False)
        self._inner, self.dma, self.remark = inner, inner.dma, inner.remark
        self.wants_dma = inner.wants_dma
        self.bulk_bytes, self.table_bytes = inner.bulk_bytes, inner.table_bytes
        self._kept: list[Recorded] | None = None

    def keep(self) -> None:
        """Keep the frames that pass from now on."""
        self._kept = []

    def kept(self) -> list[Recorded]:
        """Stop keeping frames, and return them."""
        kept, self._kept = self._kept, None
        return kept or []

    def request(self, time_ns: int, mfa: int, frame: bytes) -> None:
        """Take a request."""
        self._inner.request(time_ns, mfa, frame)
        if self._kept is not None:
            self._kept.append(Recorded(time_ns, True, frame))

    def reply(self, time_ns: int, mfa: int, frame: bytes) -> None:
        """Take a reply."""
        self._inner.reply(time_ns, mfa, frame)
        if self._kept is not None:
            self._kept.append(Recorded(time_ns, False, frame))

    def close(self) -> None:
        """Complete the file."""
        if self.file is not None:
            self.file.close()
