# SPDX-License-Identifier: Apache-2.0
"""What INQUIRY returns: standard data, and pages of vital product data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from i2o.frames.scsi import ScsiDeviceType

NO_SUCH_UNIT: Final = 0x7F
"""First byte of INQUIRY data for a LUN that is not there."""
_REMOVABLE: Final = 0x80
_SPC_3: Final = 0x05
_FORMAT_2: Final = 0x02
_COMMAND_QUEUEING: Final = 0x02
_STANDARD_SIZE: Final = 36
_ASCII: Final = 2
_BINARY: Final = 1
_T10_VENDOR_ID: Final = 1
_NAA: Final = 3
_LOCALLY_ASSIGNED: Final = 0x3 << 60


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a logical unit says that it is.

    Attributes:
        vendor: up to 8 characters.
        product: up to 16 characters.
        revision: up to 4 characters.
        device_type: what kind of device it is.
        is_removable: its medium can be taken out.
    """

    vendor: str
    product: str
    revision: str = "1"
    device_type: ScsiDeviceType = ScsiDeviceType.DIRECT
    is_removable: bool = False


def standard_inquiry(identity: Identity) -> bytes:
    """Return what INQUIRY returns without EVPD."""
    head = bytes(
        (
            identity.device_type,
            _REMOVABLE if identity.is_removable else 0,
            _SPC_3,
            _FORMAT_2,
            _STANDARD_SIZE - 5,
            0,
            0,
            _COMMAND_QUEUEING,
        )
    )
    return (
        head + _text(identity.vendor, 8) + _text(identity.product, 16) + _text(identity.revision, 4)
    )


def vpd_page(identity: Identity, page: int, body: bytes) -> bytes:
    """Return a page of vital product data with its header."""
    return bytes((identity.device_type, page)) + len(body).to_bytes(2, "big") + body


def serial_number(serial: str) -> bytes:
    """Return the body of page 0x80."""
    return serial.encode("ascii", "replace")


def device_identification(identity: Identity, serial: str) -> bytes:
    """Return the body of page 0x83: a name by vendor, product and serial, and one of 8 bytes."""
    name = _text(identity.vendor, 8) + _text(identity.product, 16) + serial_number(serial)
    number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 4
    designators = (
        (_ASCII, _T10_VENDOR_ID, name),
        (_BINARY, _NAA, (_LOCALLY_ASSIGNED | number).to_bytes(8, "big")),
    )
    return b"".join(
        bytes((code_set, kind, 0, len(value))) + value for code_set, kind, value in designators
    )


def _text(text: str, size: int) -> bytes:
    return text.encode("ascii", "replace")[:size].ljust(size)
