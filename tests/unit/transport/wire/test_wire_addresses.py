# SPDX-License-Identifier: Apache-2.0
"""Which endpoint a URI means."""

from __future__ import annotations

import pytest

from i2o.errors import UriError
from i2o.transport.uri import Uri
from i2o.transport.wire.addresses import host_endpoint, own_endpoint, served_uri, server_name


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
