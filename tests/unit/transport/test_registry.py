# SPDX-License-Identifier: Apache-2.0
"""The registry's endpoints: which module opens a URI, with what, and what nonsense is told."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from fakes.scripted_endpoint import ScriptedEndpoint, ScriptedListener
from i2o.clock import SYSTEM_CLOCK, Clock, ManualClock
from i2o.errors import TransportUnavailable, UriError
from i2o.transport import registry
from i2o.transport.registry import endpoint_schemes, open_endpoint, open_listener
from i2o.transport.uri import Uri


class Backend:
    """Opens scripted endpoints, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Uri, Clock]] = []

    def open_endpoint(self, uri: Uri, *, clock: Clock) -> ScriptedEndpoint:
        self.asked.append(("endpoint", uri, clock))
        return ScriptedEndpoint()

    def open_passive(self, uri: Uri, *, clock: Clock) -> ScriptedListener:
        self.asked.append(("listener", uri, clock))
        return ScriptedListener()


class Point:
    """An entry point of another distribution."""

    def __init__(self, name: str, backend: Backend) -> None:
        self.name, self.backend = name, backend

    def load(self) -> Backend:
        return self.backend


@pytest.fixture(autouse=True)
def _no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(registry.CAPTURE_VARIABLE, raising=False)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    made = Backend()
    install(monkeypatch, [Point("mine", made)])
    return made


def install(monkeypatch: pytest.MonkeyPatch, points: list[object]) -> None:
    """Stand in for what is installed."""

    def find(group: str, name: str | None = None) -> list[object]:
        assert group == registry.ENDPOINT_GROUP
        return [point for point in points if name in (None, point.name)]  # type: ignore[attr-defined]

    monkeypatch.setattr(registry, "entry_points", find)


def test_the_module_of_a_scheme_gets_the_uri_and_the_clock(backend: Backend) -> None:
    clock = ManualClock()
    assert isinstance(open_endpoint("mine://a?b=c", clock=clock), ScriptedEndpoint)
    assert isinstance(open_listener("mine://d"), ScriptedListener)
    parsed = Uri.parse("mine://e")
    open_endpoint(parsed)
    assert [(what, uri.text, clock) for what, uri, clock in backend.asked] == [
        ("endpoint", "mine://a?b=c", clock),
        ("listener", "mine://d", SYSTEM_CLOCK),
        ("endpoint", "mine://e", SYSTEM_CLOCK),
    ]
    assert backend.asked[-1][1] is parsed


def test_our_own_schemes_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Backend()
    install(monkeypatch, [Point("tcp", theirs), Point("mine", theirs)])
    assert endpoint_schemes() == ("mine", "ofi", "serial", "shm", "tcp", "usb")
    with open_endpoint("tcp://127.0.0.1:0") as endpoint:
        assert endpoint.attributes.provider == "tcp"
    assert not theirs.asked


@pytest.mark.parametrize("call", [open_endpoint, open_listener])
def test_schemes_that_nobody_knows(
    call: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, [])
    known = "ofi, serial, shm, tcp, usb"
    with pytest.raises(UriError, match=f"no endpoints called 'no'; known are {known}"):
        call("no://a")
    monkeypatch.setattr(registry, "_OWN_ENDPOINTS", {"ofi": "i2o.transport.no_package.opening"})
    with pytest.raises(UriError, match="known are none"):
        call("ofi://a")
    with pytest.raises(UriError):
        call("no uri at all")


@pytest.mark.parametrize("call", [open_endpoint, open_listener])
def test_a_module_that_does_not_import(
    call: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, [EntryPoint("mine", "no_such_module", registry.ENDPOINT_GROUP)])
    with pytest.raises(TransportUnavailable, match="does not import") as caught:
        call("mine://a")
    assert "no_such_module" in str(caught.value)
