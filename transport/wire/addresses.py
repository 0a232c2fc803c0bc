# SPDX-License-Identifier: Apache-2.0
"""Which endpoint a URI of an IOP means: the server's, and the one that a host needs to reach it."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_plus

from i2o.errors import UriError
from i2o.transport.uri import Uri

ENDPOINT_OPTIONS: Final = frozenset(
    {
        "type",
        *("key", "insecure", "cert", "cert_key", "ca"),
        *("caps", "connect_ms"),
        *("baud", "rtscts", "frame_limit"),
        "detach",
    }
)
"""Options that are the endpoint's own, of any kind."""
_LOOPBACK: Final = ("localhost", "127.", "[::1]", "::1")


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
        is_near = provider != "shm" and address.startswith(_LOOPBACK)
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
    kept = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) in ENDPOINT_OPTIONS]
    return Uri.parse(f"{uri.scheme}:{address}" + ("?" + "&".join(kept) if kept else ""))


def _provider(uri: Uri) -> tuple[str, str]:
    provider, slash, address = uri.address.removeprefix("//").partition("/")
    if not provider or not slash:
        raise UriError(f"{uri.text!r}: expected ofi://PROVIDER/ADDRESS")
    return provider, address
