# SPDX-License-Identifier: Apache-2.0
"""What the ends of a cable are called: the device `usb:VID:PID[:SERIAL]`, its host `usb:host`."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from i2o.errors import UriError

HOST_NAME: Final = "usb:host"
"""What a device calls the host that it is plugged into."""
_SHAPE: Final = re.compile(r"usb:([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})(?::([^:?]+))?")


class UsbAddress(NamedTuple):
    """A device.

    Attributes:
        vendor_id: who made it.
        product_id: what it is.
        serial_number: which of several; empty for the only one.
    """

    vendor_id: int
    product_id: int
    serial_number: str = ""

    @classmethod
    def parse(cls, text: str) -> UsbAddress:
        """Read an address.

        Raises:
            UriError: it is none.
        """
        found = _SHAPE.fullmatch(text)
        if found is None:
            raise UriError(
                f"{text!r} is no USB device: those are usb:VID:PID or usb:VID:PID:SERIAL"
            )
        return cls(int(found[1], 16), int(found[2], 16), found[3] or "")

    def __str__(self) -> str:
        serial = f":{self.serial_number}" if self.serial_number else ""
        return f"usb:{self.vendor_id:04x}:{self.product_id:04x}{serial}"
