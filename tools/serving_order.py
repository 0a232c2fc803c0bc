# SPDX-License-Identifier: Apache-2.0
"""What a command line asks to be served: one IOP, and the way in to it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import unquote_plus

from i2o.capture import I2O_RULES
from i2o.errors import UriError
from i2o.iop_emulator.options import EmuOptions
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.unit_tap import TapUnit
from i2o.transport.device_unit import DeviceUnit
from i2o.transport.uri import Uri


@dataclass(frozen=True, slots=True)
class Order:
    """One IOP to be served.

    Attributes:
        uri: where, and what it is like.
        shared: options that stood outside of the URI, as a URI has them.
        file: where its traffic is captured, if it is.
        opened: closes what is opened for it, last things first, when serving ends.
        is_stopped: whether serving is to end.
    """

    uri: Uri
    shared: str
    file: CaptureFile | None
    opened: ExitStack
    is_stopped: Callable[[], bool] = lambda: False

    def iop_uri(self, own: Collection[str] = ()) -> Uri:
        """Return the `emu:` URI of the IOP itself.

        Args:
            own: options that are the way in's and not the IOP's.

        Raises:
            UriError: it asks for a process or a thread of its own.
        """
        if self.uri.all("run"):
            raise UriError(
                f"{self.uri.text!r}: run= is for emu: URIs; a served IOP runs in this program"
            )
        pairs = self.uri.text.partition("?")[2].split("&")
        words = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) not in own]
        query = "&".join(filter(None, (*words, self.shared)))
        return Uri.parse(f"emu:?{query}" if query else "emu:")

    def options(self, own: Collection[str] = ()) -> EmuOptions:
        """Return what the IOP is like; raises UriError."""
        return EmuOptions.from_uri(self.iop_uri(own))

    def tap(self) -> Callable[[DeviceUnit], DeviceUnit]:
        """Return what puts a capture between the IOP and its queue pair, if there is one."""
        file = self.file
        if file is None:
            return lambda unit: unit
        recorder = file.add_iop(self.uri.text)
        return lambda unit: TapUnit(unit, recorder, I2O_RULES)
