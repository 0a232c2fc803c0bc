# SPDX-License-Identifier: Apache-2.0
"""Which endpoint a URI of an IOP means: the server's, and the one that a host needs to reach it."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import unquote_plus

from i2o.errors import TransportUnavailable, UriError
from i2o.transport.uri import Uri

_INSECURE: Final = "insecure"
_OPTIONS: Final = {
    "tcp": frozenset({"key", _INSECURE, "cert", "cert_key", "ca"}),
    "ofi": frozenset({"type", "caps", "connect_ms"}),
    "serial": frozenset({"type", "baud", "rtscts", "frame_limit"}),
    "usb": frozenset({"detach"}),
}
_ANY_OPTION: Final[frozenset[str]] = frozenset().union(*_OPTIONS.values())


def host_options(scheme: str) -> frozenset[str]:
    """Return the options of a host's URI that are its endpoint's; of foreign kinds any of ours."""
    return _OPTIONS.get(scheme, _ANY_OPTION)


def server_options(scheme: str) -> frozenset[str]:
    """Return the options of a server's URI that say where it is and who may come."""
    return host_options(scheme) | {_INSECURE}


def check_exposure(uri: Uri) -> None:
    """Refuse to serve everybody by mistake: libfabric asks nobody for a key.

    TCP has a check of its own, when the endpoint is opened.

    Raises:
        UriError: `insecure` is neither 0 nor 1.
        TransportUnavailable: others than this machine can reach it, and no option allows that.
    """
    if uri.scheme != "ofi" or uri.integer(_INSECURE, 0, 0, 1):
        return
    provider, address = _provider(uri)
    if provider != "shm" and not is_loopback(address):
        raise TransportUnavailable(
            "ofi",
            f"{address or 'every address'!r} is not on this machine alone, and libfabric lets in "
            "whoever reaches it",
            remedy="serve at 127.0.0.1:0, or over tcp: with a key; write ?insecure=1 behind the "
            "address if the network takes care of it",
        )


def own_endpoint(uri: Uri) -> Uri:
    """Return the endpoint at the address of a URI, without options that are not its own."""
    return _with_address(uri, uri.address)


def host_endpoint(uri: Uri) -> Uri:
    """Return an endpoint from which the one of a URI can be reached."""
    if uri.scheme == "tcp":
        return _with_address(uri, "//127.0.0.1:0")  # it calls, and is not called
    if uri.scheme == "usb":
        return _with_address(uri, "")  # of all devices, it is told which one is meant
    if uri.scheme == "ofi":
        provider, address = _provider(uri)
        is_near = provider != "shm" and is_loopback(address)
        return _with_address(uri, f"//{provider}/" + ("127.0.0.1:0" if is_near else ""))
    return own_endpoint(uri)


def server_name(uri: Uri) -> str:
    """Return what an endpoint calls the one at the address of a URI."""
    if uri.scheme == "ofi":
        return _provider(uri)[1]
    return f"{uri.scheme}:{uri.address}"


def served_uri(uri: Uri, name: str) -> str:
    """Return the URI to reach a server by whose endpoint has this name."""
    if uri.scheme == "tcp":
        return name
    if uri.scheme == "ofi":
        return f"ofi://{_provider(uri)[0]}/{name}"
    return f"{uri.scheme}:{uri.address}"


def _with_address(uri: Uri, address: str) -> Uri:
    pairs = uri.text.partition("?")[2].split("&")
    known = host_options(uri.scheme)  # the endpoint does not know what a server adds
    kept = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) in known]
    return Uri.parse(f"{uri.scheme}:{address}" + ("?" + "&".join(kept) if kept else ""))


def is_loopback(address: str) -> bool:
    """Tell if nobody but this machine can reach HOST or HOST:PORT."""
    host = address.rpartition(":")[0] or address
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _provider(uri: Uri) -> tuple[str, str]:
    provider, slash, address = uri.address.removeprefix("//").partition("/")
    if not provider or not slash:
        raise UriError(f"{uri.text!r}: expected ofi://PROVIDER/ADDRESS")
    return provider, address
