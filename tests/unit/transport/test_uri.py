# SPDX-License-Identifier: Apache-2.0
"""URIs and the registry: what they say about nonsense."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from i2o.clock import SYSTEM_CLOCK
from i2o.errors import TransportUnavailable, UriError
from i2o.transport import Uri, open_port, registry


def test_parts():
    uri = Uri.parse("tcp://host:1?key=a%26b&key=c&x=")
    assert (uri.scheme, uri.address) == ("tcp", "//host:1")
    assert uri.all("key") == ("a&b", "c")
    assert uri.one("x", "default") == ""
    assert uri.one("y", "default") == "default"
    assert Uri.parse("emu:").options == ()


@pytest.mark.parametrize("text", ["", "emu", ":x", "a b:c", "1emu:", "emu:?disk", "emu:?=&"])
def test_what_is_no_uri(text):
    with pytest.raises(UriError):
        uri = Uri.parse(text)
        uri.require_known(())


def test_unknown_options_are_listed():
    with pytest.raises(UriError, match="unknown option 'c'; emu: knows a, b"):
        Uri.parse("emu:?a=1&c=2").require_known(["b", "a"])
    with pytest.raises(UriError, match="knows none"):
        Uri.parse("emu:?a=1").require_known([])
    with pytest.raises(UriError, match="2 times"):
        Uri.parse("emu:?a=1&a=2").one("a", "")


def test_integers_are_bounded():
    uri = Uri.parse("emu:?n=0x10&bad=ten")
    assert uri.integer("n", 1, 0, 16) == 16
    assert uri.integer("m", 7, 0, 16) == 7
    with pytest.raises(UriError, match="not between 0 and 15"):
        uri.integer("n", 1, 0, 15)
    with pytest.raises(UriError, match="not an integer"):
        uri.integer("bad", 1, 0, 15)


def test_seconds_may_be_fractions():
    uri = Uri.parse("tcp:?n=0.5&whole=3&zero=0&nan=nan&bad=soon&inf=inf&below=-1")
    assert uri.seconds("n", 1, 10) == 0.5
    assert uri.seconds("whole", 1, 3) == 3.0
    assert uri.seconds("none", 7, 10) == 7.0
    for name in ("zero", "nan", "bad", "inf", "below"):
        with pytest.raises(UriError, match=rf"{name}=.* is no number of seconds, .* up to 3600"):
            uri.seconds(name, 1, 3600)
    with pytest.raises(UriError, match="up to 2"):
        uri.seconds("whole", 1, 2)


def test_unknown_schemes_are_listed():
    with pytest.raises(UriError, match=r"no backend called 'nope'; known are .*emu"):
        open_port("nope:")


class FakePort:
    @classmethod
    def from_uri(cls, uri, clock):
        assert clock is SYSTEM_CLOCK
        return ("opened", uri.text)


def foreign(value: str) -> tuple[EntryPoint, ...]:
    return (EntryPoint("mine", value, registry.ENTRY_POINT_GROUP),)


def test_other_distributions_add_backends(monkeypatch):
    points = foreign(f"{__name__}:FakePort")
    monkeypatch.setattr(registry, "entry_points", lambda **_: points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: FakePort)
    assert open_port("mine:7") == ("opened", "mine:7")
    assert registry.port_schemes() == tuple(sorted((*registry.own_schemes(), "mine")))


def test_a_foreign_backend_that_does_not_import_says_so(monkeypatch):
    points = foreign("i2o_no_such_module:Port")
    monkeypatch.setattr(registry, "entry_points", lambda **_: points)
    with pytest.raises(TransportUnavailable, match="does not import") as caught:
        open_port("mine:")
    assert "i2o_no_such_module" in caught.value.remedy
    assert caught.value.backend == "mine"
