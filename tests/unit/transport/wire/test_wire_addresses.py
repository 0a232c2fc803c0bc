# SPDX-License-Identifier: Apache-2.0
"""Which endpoint a URI means."""

from __future__ import annotations

import pytest

from i2o.errors import TransportUnavailable, UriError
from i2o.transport.registry import open_port
from i2o.transport.uri import Uri
from i2o.transport.wire.addresses import (
    check_exposure,
    host_endpoint,
    host_options,
    own_endpoint,
    served_uri,
    server_name,
    server_options,
)


@pytest.mark.parametrize(
    ("uri", "own", "host", "server"),
    [
        (
            "tcp://a:5?timeout=3&key=k",
            "tcp://a:5?key=k",
            "tcp://127.0.0.1:0?key=k",
            "tcp://a:5",
        ),
        (
            "ofi://tcp;ofi_rxm/127.0.0.1:5",
            "ofi://tcp;ofi_rxm/127.0.0.1:5",
            "ofi://tcp;ofi_rxm/127.0.0.1:0",
            "127.0.0.1:5",
        ),
        (
            "ofi://tcp;ofi_rxm/127.evil.example:5?connect_ms=9&insecure=1",
            "ofi://tcp;ofi_rxm/127.evil.example:5?connect_ms=9",
            "ofi://tcp;ofi_rxm/?connect_ms=9",
            "127.evil.example:5",
        ),
        ("ofi://verbs/10.0.0.1:5", "ofi://verbs/10.0.0.1:5", "ofi://verbs/", "10.0.0.1:5"),
        ("ofi://shm/localhost", "ofi://shm/localhost", "ofi://shm/", "localhost"),
        ("serial:/dev/ttyS0", "serial:/dev/ttyS0", "serial:/dev/ttyS0", "serial:/dev/ttyS0"),
    ],
)
def test_endpoints_of_uris(uri: str, own: str, host: str, server: str) -> None:
    parsed = Uri.parse(uri)
    assert own_endpoint(parsed).text == own
    assert host_endpoint(parsed).text == host
    assert server_name(parsed) == server


def test_where_a_server_is() -> None:
    assert served_uri(Uri.parse("tcp://h:0?key=k"), "tcp://1.2.3.4:5") == "tcp://1.2.3.4:5"
    assert served_uri(Uri.parse("ofi://verbs/h:0"), "1.2.3.4:5") == "ofi://verbs/1.2.3.4:5"
    assert served_uri(Uri.parse("serial:/dev/ttyS0"), "x") == "serial:/dev/ttyS0"


@pytest.mark.parametrize("uri", ["ofi:verbs", "ofi:///h:1"])
def test_libfabric_wants_a_provider(uri: str) -> None:
    with pytest.raises(UriError, match="expected ofi://PROVIDER/ADDRESS"):
        server_name(Uri.parse(uri))


@pytest.mark.parametrize("option", ["type=rdm", "caps=msg", "connect_ms=5"])
def test_options_of_no_use_over_tcp_are_refused(option: str) -> None:
    with pytest.raises(UriError, match="tcp: knows ca, cert, cert_key, insecure, key, timeout"):
        open_port(f"tcp://127.0.0.1:1?{option}")


def test_which_options_an_endpoint_has() -> None:
    assert "insecure" not in host_options("ofi")
    assert "insecure" in server_options("ofi")
    assert "baud" in host_options("serial")
    assert host_options("usb") == {"detach"}
    assert host_options("foreign") > host_options("tcp") | host_options("ofi")


@pytest.mark.parametrize(
    "uri",
    [
        "tcp://0.0.0.0:0",  # its endpoint checks that itself
        "ofi://shm/name",
        "ofi://tcp;ofi_rxm/127.0.0.1:0",
        "ofi://tcp;ofi_rxm/127.1.2.3:0",
        "ofi://tcp;ofi_rxm/[::1]:0",
        "ofi://tcp;ofi_rxm/localhost:0",
        "ofi://tcp;ofi_rxm/0.0.0.0:0?insecure=1",
    ],
)
def test_who_may_serve(uri: str) -> None:
    check_exposure(Uri.parse(uri))


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:0", "[::]:0", "10.0.0.1:5", "127.evil.example:5", ":0", "", "0.0.0.0:0?insecure=0"],
)
def test_serving_everybody_has_to_be_asked_for(address: str) -> None:
    with pytest.raises(TransportUnavailable, match=r"lets in .* write \?insecure=1"):
        check_exposure(Uri.parse(f"ofi://tcp;ofi_rxm/{address}"))
