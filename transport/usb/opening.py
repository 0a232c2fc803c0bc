# SPDX-License-Identifier: Apache-2.0
"""Endpoints of USB hosts by URI: `usb:VID:PID[:SERIAL]`, or `usb:` for one that is told later.

Options: `type` is `rdm` or `msg`; `detach=1` takes interfaces from drivers of the kernel.
"""

from __future__ import annotations

from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.errors import UriError
from i2o.transport.fabric.connections import SoftwareListener
from i2o.transport.fabric.flags import EndpointType
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on
from i2o.transport.uri import Uri
from i2o.transport.usb.address import UsbAddress
from i2o.transport.usb.carrier import UsbCarrier

_YES_OR_NO: Final = {"1": True, "0": False}
_TYPES: Final = {"rdm": EndpointType.RDM, "msg": EndpointType.MSG}


def open_endpoint(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> SoftwareEndpoint:
    """Open an active endpoint: nothing is bound, and it is not enabled.

    Args:
        uri: the first device to look for, for example `usb:1209:0001`.
        clock: for waiting and for deadlines.

    Raises:
        UriError: the address makes no sense, or an option is unknown.
    """
    parsed = uri if isinstance(uri, Uri) else Uri.parse(uri)
    parsed.require_known(("type", "detach"))
    kind = _TYPES.get(parsed.one("type", "rdm"))
    if kind is None:
        raise UriError(f"{parsed.text!r}: type is rdm or msg")
    return SoftwareEndpoint(_carrier(parsed, clock), kind, provider="usb", clock=clock)


def open_passive(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> SoftwareListener:
    """Open a passive endpoint, which does not listen yet; raises as `open_endpoint`."""
    parsed = uri if isinstance(uri, Uri) else Uri.parse(uri)
    parsed.require_known(("detach",))
    return listen_on(_carrier(parsed, clock), provider="usb", clock=clock)


def _carrier(uri: Uri, clock: Clock) -> UsbCarrier:
    detach = _YES_OR_NO.get(given := uri.one("detach", "0"))
    if detach is None:
        raise UriError(f"{uri.text!r}: detach is 1 or 0, not {given!r}")
    address = UsbAddress.parse(f"usb:{uri.address}") if uri.address else None
    carrier = UsbCarrier(detach=detach, clock=clock)
    if address is not None:
        carrier.resolve(str(address))
    return carrier
