# SPDX-License-Identifier: Apache-2.0
"""Finds the backend that a URI names, and imports it only then.

Our own backends are listed here; other distributions add theirs as entry points of the group
`i2o.ports` (name = scheme, value = a class with `from_uri`).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Protocol

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.errors import TransportUnavailable, UriError
from i2o.transport.found import Found, Obstacle
from i2o.transport.port import Port
from i2o.transport.uri import Uri

ENTRY_POINT_GROUP: Final = "i2o.ports"

_OWN_PORTS: Final = {
    "devmem": "i2o.transport.pci.backends:DevmemBackend",
    "emu": "i2o.iop_emulator.emu_port:EmuPort",
    "pci": "i2o.transport.pci.backends:PciBackend",
    "shm": "i2o.transport.shm.port:ShmPort",
    "sysfs": "i2o.transport.pci.backends:SysfsBackend",
    "uio": "i2o.transport.pci.backends:UioBackend",
    "vfio": "i2o.transport.pci.backends:VfioBackend",
}


_OWN_FINDERS: Final = (
    "i2o.transport.pci.discovery",
    "i2o.transport.shm.discovery",
    "i2o.iop_emulator.discovery",
)
"""Modules with a function `find`; buses that are searched later get theirs here."""


class PortBackend(Protocol):
    """What a backend class offers to the registry.

    One of another distribution may also have a class method `find()` that yields `Found`.
    """

    def from_uri(self, uri: Uri, clock: Clock) -> Port:
        """Open a port; raises UriError for a bad option, TransportUnavailable if it cannot."""


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


def _backend(uri: Uri) -> PortBackend:
    target = _OWN_PORTS.get(uri.scheme)
    if target is not None:
        module, _, name = target.partition(":")
        own: PortBackend = getattr(import_module(module), name)
        return own
    for point in entry_points(group=ENTRY_POINT_GROUP, name=uri.scheme):
        try:
            foreign: PortBackend = point.load()
        except ImportError as error:
            raise TransportUnavailable(
                uri.scheme,
                f"its module does not import: {error}",
                remedy=f"reinstall the distribution that provides {point.value}",
            ) from error
        return foreign
    raise UriError(
        f"{uri.text!r}: no backend called {uri.scheme!r}; known are {', '.join(port_schemes())}"
    )
