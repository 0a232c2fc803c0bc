# SPDX-License-Identifier: Apache-2.0
"""The compiled extension that calls libfabric: loaded when it is asked for, and only then."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, create_string_buffer
from importlib import import_module
from typing import Any, Final, NamedTuple

from i2o.errors import TransportUnavailable
from i2o.transport.fabric.errors import FabricError
from i2o.transport.second_module import second_module

MODULE: Final = "i2o.transport.ofi._libfabric"
_BOOKS: Final = "i2o.transport.ofi._books"
"""A second module in the same file."""
REMEDY: Final = (
    "install libfabric and its headers (Debian: libfabric-dev, a C compiler), "
    "then reinstall: pip install --force-reinstall '.[ofi]' in a clone"
)
API_VERSION: Final = (1 << 16) | 17
"""The oldest libfabric that is known to work, 1.17: newer ones go on behaving like it."""


_SIGACTION_SIZE: Final = 512
"""More than a struct sigaction takes anywhere."""


class Library(NamedTuple):
    """The extension: cffi's `ffi`, and `lib` with libfabric's functions."""

    ffi: Any
    lib: Any

    @property
    def books(self) -> Any:
        """The module of the books of operations; `operation.py` says what is in it."""
        return sys.modules[_BOOKS]

    @property
    def version(self) -> str:
        """The version of the library that is loaded, for example 1.17."""
        number = self.lib.fi_version()
        return f"{number >> 16}.{number & 0xFFFF}"


class ProviderFound(NamedTuple):
    """A provider that could be opened here.

    Attributes:
        name: as in URIs, for example `tcp;ofi_rxm`.
        version: its own.
        types: the numbers of the kinds of endpoints that it has, ascending.
    """

    name: str
    version: str
    types: tuple[int, ...]


def load() -> Library:
    """Return the extension.

    Raises:
        TransportUnavailable: it was not built, or libfabric is gone.
    """
    try:
        with _handlers_kept():
            module = import_module(MODULE)
            second_module(_BOOKS, module.__file__)
    except ImportError as error:
        raise TransportUnavailable("ofi", f"no libfabric: {error}", remedy=REMEDY) from error
    return Library(module.ffi, module.lib)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put handlers of signals back that are taken meanwhile.

    libinfinipath, which Debian's libfabric is linked to, takes most of them when it is loaded, and
    ends the process at the first. Python's own calls cannot do that for handlers made in C, such
    as faulthandler's, nor in every thread.
    """
    sigaction = CDLL(None).sigaction
    numbers = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
    kept = {}
    for number in numbers:
        kept[number] = create_string_buffer(_SIGACTION_SIZE)
        sigaction(int(number), None, kept[number])
    try:
        yield
    finally:
        for number, action in kept.items():
            sigaction(int(number), action, None)


def providers(library: Library) -> Iterator[ProviderFound]:
    """Yield what libfabric says can be opened on this machine, by name."""
    ffi, lib = library
    out = ffi.new("struct fi_info **")
    code = lib.i2o_getinfo(API_VERSION, ffi.NULL, ffi.NULL, 0, ffi.NULL, out)
    if code == -errno.ENODATA:
        return
    check(library, code, "fi_getinfo")
    first = ffi.gc(out[0], lib.fi_freeinfo)
    found: dict[tuple[str, str], set[int]] = {}
    info = first
    while info != ffi.NULL:
        attributes = info.fabric_attr
        version = attributes.prov_version
        key = (ffi.string(attributes.prov_name).decode(), f"{version >> 16}.{version & 0xFFFF}")
        found.setdefault(key, set()).add(info.ep_attr.type)
        info = info.next
    for (name, version_text), types in sorted(found.items()):
        yield ProviderFound(name, version_text, tuple(sorted(types)))


def check(library: Library, code: int, what: str) -> None:
    """Raise the FabricError of a negative result; `what` names the call."""
    if code < 0:
        raise FabricError(-code, f"{what} refused; FI_LOG_LEVEL=warn makes libfabric say why")
