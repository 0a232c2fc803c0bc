# SPDX-License-Identifier: Apache-2.0
"""Endpoints over shared memory by URI: `shm://NAME`, or `shm://` for a name that is free."""

from __future__ import annotations

from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.errors import TransportUnavailable, UriError
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.flags import EndpointType
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on
from i2o.transport.shm.carrier import ShmCarrier, name_is_taken
from i2o.transport.uri import Uri

_TYPES: Final = {"rdm": EndpointType.RDM, "msg": EndpointType.MSG}


def open_endpoint(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> Endpoint:
    """Open an endpoint; `?type=msg` makes it one that connects.

    Raises:
        UriError: the name or an option is wrong.
        TransportUnavailable: the folder of the sockets cannot be used.
        FabricError: EADDRINUSE, somebody has that name.
    """
    parsed = uri if isinstance(uri, Uri) else Uri.parse(uri)
    parsed.require_known(("type",))
    kind = _TYPES.get(parsed.one("type", "rdm"))
    if kind is None:
        raise UriError(f"{parsed.text!r}: type is rdm or msg")
    return SoftwareEndpoint(_carrier(parsed, clock), kind, provider="shm", clock=clock)


def open_passive(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> PassiveEndpoint:
    """Open a passive endpoint, which does not listen yet; raises as `open_endpoint`."""
    parsed = uri if isinstance(uri, Uri) else Uri.parse(uri)
    parsed.require_known(())
    return listen_on(_carrier(parsed, clock), provider="shm", clock=clock)


def _carrier(uri: Uri, clock: Clock) -> ShmCarrier:
    name = uri.address.removeprefix("//")
    try:
        return ShmCarrier(name, clock=clock)
    except TransportUnavailable as error:
        if name and "somebody listens" in error.reason:
            raise name_is_taken(error) from None
        raise
