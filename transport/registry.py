# SPDX-License-Identifier: Apache-2.0
"""Finds the backend that a URI names, and imports it only then.

Our own backends are listed here; other distributions add theirs as entry points of the group
`i2o.ports` (name = scheme, value = a class with `from_uri`) and `i2o.endpoints` (name = scheme,
value = a module with `open_endpoint` and `open_passive`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Final, Protocol

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.errors import TransportUnavailable, UriError
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.found import Found, Obstacle
from i2o.transport.port import Port
from i2o.transport.uri import Uri

ENTRY_POINT_GROUP: Final = "i2o.ports"
ENDPOINT_GROUP: Final = "i2o.endpoints"
CAPTURE_VARIABLE: Final = "I2O_CAPTURE"
"""Where it is set, endpoints are captured; see `i2o.transport.capture.environment`."""

_OWN_PORTS: Final = {
    "devmem": "i2o.transport.pci.backends:DevmemBackend",
    "emu": "i2o.iop_emulator.emu_port:EmuPort",
    "ofi": "i2o.transport.wire.wire_port:WirePort",
    "pci": "i2o.transport.pci.backends:PciBackend",
    "serial": "i2o.transport.wire.wire_port:WirePort",
    "shm": "i2o.transport.shm.port:ShmPort",
    "sysfs": "i2o.transport.pci.backends:SysfsBackend",
    "tcp": "i2o.transport.wire.wire_port:WirePort",
    "uio": "i2o.transport.pci.backends:UioBackend",
    "usb": "i2o.transport.wire.wire_port:WirePort",
    "vfio": "i2o.transport.pci.backends:VfioBackend",
}

_OWN_ENDPOINTS: Final = {
    "ofi": "i2o.transport.ofi.opening",
    "serial": "i2o.transport.serial_line.opening",
    "shm": "i2o.transport.shm.opening",
    "tcp": "i2o.transport.tcp.opening",
    "usb": "i2o.transport.usb.opening",
}
"""Modules with `open_endpoint` and `open_passive`."""

_OWN_FINDERS: Final = (
    "i2o.transport.pci.discovery",
    "i2o.transport.serial_line.discovery",
    "i2o.transport.shm.discovery",
    "i2o.transport.usb.discovery",
    "i2o.iop_emulator.discovery",
)
"""Modules with a function `find`; buses that are searched later get theirs here."""


class PortBackend(Protocol):
    """What a backend class offers to the registry.

    One of another distribution may also have a class method `find()` that yields `Found`.
    """

    def from_uri(self, uri: Uri, clock: Clock) -> Port:
        """Open a port; raises UriError for a bad option, TransportUnavailable if it cannot."""


class EndpointBackend(Protocol):
    """What a module of endpoints offers to the registry."""

    def open_endpoint(self, uri: str | Uri, *, clock: Clock) -> Endpoint:
        """Open an active endpoint; raises as the registry's `open_endpoint`."""

    def open_passive(self, uri: str | Uri, *, clock: Clock) -> PassiveEndpoint:
        """Open a passive endpoint; raises as the registry's `open_endpoint`."""


def own_schemes() -> tuple[str, ...]:
    """Return the URI schemes of the backends that come with the project, sorted."""
    return tuple(sorted(_OWN_PORTS))


def port_schemes() -> tuple[str, ...]:
    """Return the URI schemes that can be opened, sorted."""
    foreign = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return tuple(sorted({*_OWN_PORTS, *foreign}))


def find_iops() -> Iterator[Found]:
    """Yield the IOPs that can be opened on this machine, or could be but for some obstacles."""
    for module in _OWN_FINDERS:
        yield from import_module(module).find()
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name not in _OWN_PORTS:
            yield from _foreign_iops(point)


def _foreign_iops(point: EntryPoint) -> Iterator[Found]:
    """Yield what a port of another distribution finds, or at least that there is such a port."""
    source = point.dist.name if point.dist is not None else point.value
    try:
        find = getattr(point.load(), "find", None)
        found = () if find is None else tuple(find())
    except Exception as error:  # somebody else's module may raise anything
        obstacle = Obstacle(f"{type(error).__name__}: {error}", f"reinstall {source}")
        yield Found(point.name, f"port of {source}", f"{point.name}:", "", obstacles=(obstacle,))
        return
    yield from found
    if find is None:
        why = f"{source} says what stands behind the colon"
        yield Found(point.name, f"port of {source}", f"{point.name}:", why)


def open_port(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> Port:
    """Open the host half of an IOP.

    Args:
        uri: for example `emu:?disk=array.img`.
        clock: what the backend asks for the time and waits on.

    Raises:
        UriError: unknown scheme or option.
        TransportUnavailable: the backend cannot run here; says why and what to do.
    """
    parsed = uri if isinstance(uri, Uri) else Uri.parse(uri)
    return _backend(parsed).from_uri(parsed, clock)


def endpoint_schemes() -> tuple[str, ...]:
    """Return the URI schemes of endpoints that can be opened, sorted."""
    foreign = {point.name for point in entry_points(group=ENDPOINT_GROUP)}
    return tuple(sorted({*_own_endpoints(), *foreign}))


def open_endpoint(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> Endpoint:
    """Open an active endpoint: nothing is bound, and it is not enabled.

    With `I2O_CAPTURE` in the environment, its messages are captured.

    Args:
        uri: for example `tcp://127.0.0.1:0`, where it can be reached.
        clock: what the backend asks for the time and waits on.

    Raises:
        UriError: unknown scheme or option.
        TransportUnavailable: the backend cannot run here; says why and what to do.
        FabricError: the address is taken, or a capability is missing.
        CaptureError: it cannot be captured as the environment asks.
    """
    parsed = uri if isinstance(uri, Uri) else Uri.parse(uri)
    endpoint = _endpoint_backend(parsed).open_endpoint(parsed, clock=clock)
    if not os.environ.get(CAPTURE_VARIABLE):
        return endpoint
    from i2o.transport.capture.environment import endpoint_by_environment

    try:
        return endpoint_by_environment(endpoint, parsed.text)
    except BaseException:
        endpoint.close()
        raise


def open_listener(uri: str | Uri, *, clock: Clock = SYSTEM_CLOCK) -> PassiveEndpoint:
    """Open a passive endpoint, which does not listen yet; raises as `open_endpoint`."""
    parsed = uri if isinstance(uri, Uri) else Uri.parse(uri)
    listener = _endpoint_backend(parsed).open_passive(parsed, clock=clock)
    if not os.environ.get(CAPTURE_VARIABLE):
        return listener
    from i2o.transport.capture.environment import listener_by_environment

    try:
        return listener_by_environment(listener, parsed.text)
    except BaseException:
        listener.close()
        raise


def _own_endpoints() -> dict[str, str]:
    """Return our modules of endpoints; not every installation has all of them."""
    found = {}
    for scheme, module in _OWN_ENDPOINTS.items():
        package = module.rpartition(".")[0]
        if find_spec(package) is not None and find_spec(module) is not None:
            found[scheme] = module
    return found


def _endpoint_backend(uri: Uri) -> EndpointBackend:
    module = _own_endpoints().get(uri.scheme)
    if module is not None:
        own: EndpointBackend = import_module(module)
        return own
    for point in entry_points(group=ENDPOINT_GROUP, name=uri.scheme):
        foreign: EndpointBackend = _loaded(point, uri.scheme)
        return foreign
    raise UriError(
        f"{uri.text!r}: no endpoints called {uri.scheme!r}; "
        f"known are {', '.join(endpoint_schemes()) or 'none'}"
    )


def _backend(uri: Uri) -> PortBackend:
    target = _OWN_PORTS.get(uri.scheme)
    if target is not None:
        module, _, name = target.partition(":")
        own: PortBackend = getattr(import_module(module), name)
        return own
    for point in entry_points(group=ENTRY_POINT_GROUP, name=uri.scheme):
        foreign: PortBackend = _loaded(point, uri.scheme)
        return foreign
    raise UriError(
        f"{uri.text!r}: no backend called {uri.scheme!r}; known are {', '.join(port_schemes())}"
    )


def _loaded(point: EntryPoint, scheme: str) -> Any:
    """Import what another distribution offers."""
    try:
        return point.load()
    except ImportError as error:
        raise TransportUnavailable(
            scheme,
            f"its module does not import: {error}",
            remedy=f"reinstall the distribution that provides {point.value}",
        ) from error
