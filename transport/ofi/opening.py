# SPDX-License-Identifier: Apache-2.0
"""Opens endpoints of libfabric by URI: `ofi://PROVIDER/ADDRESS?option=value`.

For example `ofi://tcp;ofi_rxm/127.0.0.1:0`, `ofi://shm/NAME`, `ofi://shm/`, `ofi://udp/127.0.0.1:0`,
and `ofi://tcp/127.0.0.1:0` for connected endpoints and their listeners.
"""

from __future__ import annotations

import errno
from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.errors import UriError
from i2o.transport.fabric.errors import FabricError
from i2o.transport.fabric.flags import Capability, EndpointType
from i2o.transport.ofi.addresses import AddressFormat, segment_name, split_host, to_bytes
from i2o.transport.ofi.connection import OfiPassiveEndpoint
from i2o.transport.ofi.domain import Domain
from i2o.transport.ofi.endpoint import CONNECT_TIMEOUT_S, OfiEndpoint
from i2o.transport.ofi.library import load
from i2o.transport.ofi.segments import is_dead_segment, owner_of, remove_stale_segments
from i2o.transport.ofi.selection import Selection, Wish, select
from i2o.transport.uri import Uri

SCHEME: Final = "ofi"
_TYPES: Final = {"msg": EndpointType.MSG, "dgram": EndpointType.DGRAM, "rdm": EndpointType.RDM}
_USUAL_TYPES: Final = {"tcp": EndpointType.MSG, "udp": EndpointType.DGRAM}
_LONGEST_TIMEOUT_MS: Final = 3_600_000


def open_endpoint(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> OfiEndpoint:
    """Open an active endpoint.

    Args:
        uri: `ofi://PROVIDER/ADDRESS` with the options `type` (msg, dgram, rdm; otherwise what the
            provider is for), `caps` (names of capabilities joined by commas; otherwise all that
            there are) and `connect_ms` (how long a peer may not be reached).
        clock: what it measures time with and waits on.

    Raises:
        UriError: it makes no sense.
        TransportUnavailable: there is no libfabric, or no such provider.
        FabricError: EADDRINUSE and others from libfabric; ENOTSUP, a capability is missing.
    """
    parsed = _parsed(uri, ("type", "caps", "connect_ms"))
    timeout_ms = parsed.integer(
        "connect_ms", round(CONNECT_TIMEOUT_S * 1000), 1, _LONGEST_TIMEOUT_MS
    )
    selection = _selected(parsed)
    domain = Domain(selection)
    domain.hold()
    try:
        return OfiEndpoint(domain, selection.info, clock=clock, connect_timeout_s=timeout_ms / 1000)
    finally:
        domain.release()


def open_passive(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> OfiPassiveEndpoint:
    """Open an endpoint that listens for connections; as `open_endpoint`, of type msg."""
    parsed = _parsed(uri, ("type",))
    selection = _selected(parsed)
    if selection.attributes.type is not EndpointType.MSG:
        raise UriError(f"{parsed.text!r}: only endpoints of type msg listen")
    return OfiPassiveEndpoint(selection, clock=clock)


def _parsed(uri: str | Uri, options: tuple[str, ...]) -> Uri:
    parsed = uri if isinstance(uri, Uri) else Uri.parse(uri)
    if parsed.scheme != SCHEME or not parsed.address.startswith("//"):
        raise UriError(f"{parsed.text!r} is no URI of libfabric: expected ofi://PROVIDER/ADDRESS")
    parsed.require_known(options)
    return parsed


def _selected(uri: Uri) -> Selection:
    provider, _, address = uri.address[2:].partition("/")
    if not provider:
        raise UriError(f"{uri.text!r}: a provider stands behind the slashes, for example shm")
    library = load()
    wish = Wish(provider, _type_of(uri, provider), capabilities=_capabilities_of(uri))
    if provider == "shm":
        return select(library, _shm_wish(wish, address))
    try:
        host, port = split_host(address)
    except FabricError as error:
        raise UriError(f"{uri.text!r}: {error.strerror}") from None
    if not host and not port:
        return select(library, wish)
    return select(
        library,
        Wish(wish.provider, wish.type, host or None, str(port), wish.capabilities),
    )


def _shm_wish(wish: Wish, address: str) -> Wish:
    """Name the segment, after those that nobody uses any more are gone."""
    remove_stale_segments()
    if not address:
        return wish
    to_bytes(address, AddressFormat.STR)
    name = segment_name(address)
    # libfabric would remove the segment from under the process that has it
    if (pid := owner_of(name)) is not None and not is_dead_segment(name):
        raise FabricError(errno.EADDRINUSE, f"process {pid} has the name {name!r}")
    return Wish(wish.provider, wish.type, None, name, wish.capabilities)


def _type_of(uri: Uri, provider: str) -> EndpointType:
    usual = _USUAL_TYPES.get(provider, EndpointType.RDM)
    text = uri.one("type", usual.name.lower())
    try:
        return _TYPES[text]
    except KeyError:
        raise UriError(f"{uri.text!r}: type={text!r} is none of {', '.join(_TYPES)}") from None


def _capabilities_of(uri: Uri) -> Capability | None:
    names = [name for name in uri.one("caps", "").split(",") if name]
    if not names:
        return None
    wanted = Capability(0)
    for name in names:
        try:
            wanted |= Capability[name.upper()]
        except KeyError:
            known = ", ".join(each.name.lower() for each in Capability if each.name)
            raise UriError(f"{uri.text!r}: no capability {name!r}; known are {known}") from None
    return wanted
