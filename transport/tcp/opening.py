# SPDX-License-Identifier: Apache-2.0
"""Endpoints over TCP by URI: `tcp://HOST:PORT?option=value`.

The address is where the endpoint can be reached; port 0 lets the system choose. Options: `type` is
`rdm` or `msg`; `key` names the file with the key that peers share (without it the environment may
name one); `insecure=1` allows addresses beyond loopback without a key; `cert`, `cert_key` and `ca`
name the files for TLS.
"""

from __future__ import annotations

from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.errors import UriError
from i2o.transport.fabric.connections import SoftwareListener
from i2o.transport.fabric.flags import EndpointType
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on
from i2o.transport.tcp.address import find_addresses
from i2o.transport.tcp.carrier import TcpCarrier
from i2o.transport.tcp.errors import PeerError
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.tls import TlsContexts
from i2o.transport.uri import Uri

_TYPES: Final = {"rdm": EndpointType.RDM, "msg": EndpointType.MSG}
_FILES: Final = ("key", "cert", "cert_key", "ca")
_OPTIONS: Final = ("type", "insecure", *_FILES)


def open_endpoint(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> SoftwareEndpoint:
    """Open an active endpoint: nothing is bound, and it is not enabled.

    Args:
        uri: for example `tcp://127.0.0.1:0?key=peers.key`.
        clock: for waiting and for deadlines.

    Raises:
        UriError: the address makes no sense, or an option is unknown.
        TransportUnavailable: the address cannot be had, a file cannot be used, or a key is missing.
    """
    parsed = _parse(uri)
    kind = _TYPES.get(parsed.one("type", "rdm"))
    if kind is None:
        raise UriError(f"{parsed.text!r}: type is rdm or msg")
    return SoftwareEndpoint(open_carrier(parsed, clock=clock), kind, provider="tcp", clock=clock)


def open_passive(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> SoftwareListener:
    """Open a passive endpoint, which does not listen yet; raises as `open_endpoint`."""
    return listen_on(open_carrier(_parse(uri), clock=clock), provider="tcp", clock=clock)


def open_carrier(uri: Uri, *, clock: Clock = SYSTEM_CLOCK) -> TcpCarrier:
    """Open the carrier that a URI names; raises as `open_endpoint`."""
    try:
        listen = find_addresses(uri.address.removeprefix("//"))[:1]
    except PeerError as error:
        raise UriError(f"{uri.text!r}: {error.strerror}") from None
    for name in _FILES:
        if "" in uri.all(name):  # an empty variable of a script must not open the door
            raise UriError(f"{uri.text!r}: {name} names no file")
    path = uri.one("key", "")
    files = [uri.one(name, "") for name in _FILES[1:]]
    if any(files) and not all(files):
        raise UriError(f"{uri.text!r}: cert, cert_key and ca go together")
    tls = TlsContexts.from_files(*files) if all(files) else None
    return TcpCarrier(
        listen,
        key=PeerKey.from_file(path) if path else PeerKey.from_environment(),
        insecure=bool(uri.integer("insecure", 0, 0, 1)),
        server_tls=None if tls is None else tls.server,
        client_tls=None if tls is None else tls.client,
        clock=clock,
    )


def _parse(uri: str | Uri) -> Uri:
    parsed = uri if isinstance(uri, Uri) else Uri.parse(uri)
    parsed.require_known(_OPTIONS)
    return parsed
