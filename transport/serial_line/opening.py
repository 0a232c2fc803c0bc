# SPDX-License-Identifier: Apache-2.0
"""Endpoints over serial lines by URI: `serial:DEVICE?option=value`.

DEVICE is a device, or an address of pyserial (`serial:socket://HOST:PORT`; a ? in it is written
%3F). Options: `baud` (115200); `rtscts=1` for the wires that hold the other side back;
`frame_limit`, bytes of the largest frame, the same at both ends (4096); `type` is `rdm` or `msg`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.errors import UriError
from i2o.transport.fabric.connections import SoftwareListener
from i2o.transport.fabric.engine import SMALLEST_FRAME
from i2o.transport.fabric.flags import EndpointType
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on
from i2o.transport.serial_line.carrier import SerialCarrier
from i2o.transport.serial_line.line import DEFAULT_BAUD, LineSettings
from i2o.transport.serial_line.link_options import LinkOptions
from i2o.transport.uri import Uri

_TYPES: Final = {"rdm": EndpointType.RDM, "msg": EndpointType.MSG}
_OPTIONS: Final = ("type", "baud", "rtscts", "frame_limit")
_MOST_BAUD: Final = 1 << 26
_MOST_FRAME: Final = 1 << 20
_PROVIDER: Final = "serial"


def open_endpoint(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> SoftwareEndpoint:
    """Open an active endpoint: nothing is bound, and it is not enabled.

    Args:
        uri: for example `serial:/dev/ttyUSB0?baud=921600`.
        clock: for waiting and for deadlines.

    Raises:
        UriError: there is no device, or an option is unknown or wrong.
        TransportUnavailable: the line cannot be opened.
    """
    parsed = _parse(uri)
    kind = _TYPES.get(parsed.one("type", "rdm"))
    if kind is None:
        raise UriError(f"{parsed.text!r}: type is rdm or msg")
    return SoftwareEndpoint(
        open_carrier(parsed, clock=clock), kind, provider=_PROVIDER, clock=clock
    )


def open_passive(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> SoftwareListener:
    """Open a passive endpoint, which does not listen yet; raises as `open_endpoint`."""
    return listen_on(open_carrier(_parse(uri), clock=clock), provider=_PROVIDER, clock=clock)


def open_carrier(uri: Uri, *, clock: Clock = SYSTEM_CLOCK) -> SerialCarrier:
    """Open the carrier that a URI names; raises as `open_endpoint`."""
    device = unquote(uri.address)
    if not device or "\0" in device:
        raise UriError(f"{uri.text!r}: which line? For example serial:/dev/ttyUSB0?baud=115200")
    settings = LineSettings(
        device,
        baud=uri.integer("baud", DEFAULT_BAUD, 50, _MOST_BAUD),
        rtscts=bool(uri.integer("rtscts", 0, 0, 1)),
    )
    default = LinkOptions()
    limit = uri.integer("frame_limit", default.frame_limit, SMALLEST_FRAME, _MOST_FRAME)
    options = LinkOptions(frame_limit=limit, queue_limit=max(default.queue_limit, 2 * limit))
    return SerialCarrier(settings, options=options, clock=clock)


def _parse(uri: str | Uri) -> Uri:
    parsed = uri if isinstance(uri, Uri) else Uri.parse(uri)
    parsed.require_known(_OPTIONS)
    return parsed
