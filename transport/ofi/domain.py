# SPDX-License-Identifier: Apache-2.0
"""Fabric, domain and address vector: kept until the last endpoint or queue lets go of them."""

from __future__ import annotations

import errno
from typing import Any, Final

from i2o.transport.fabric.errors import FabricError
from i2o.transport.ofi.addresses import to_bytes, to_text
from i2o.transport.ofi.library import check
from i2o.transport.ofi.segments import is_dead_segment
from i2o.transport.ofi.selection import Selection

_LONGEST_ADDRESS: Final = 256


class Domain:
    """A domain of libfabric and what belongs to it. Who uses it holds it.

    Args:
        selection: what to open.
        fabric: the fabric to open it in, of a passive endpoint; None opens one.
    """

    def __init__(self, selection: Selection, fabric: Fabric | None = None) -> None:
        self.selection = selection
        self._holders = 0
        self._vector: Any = None
        self.fabric = Fabric(selection) if fabric is None else fabric
        self.fabric.hold()
        library = selection.library
        out = library.ffi.new("struct fid_domain **")
        try:
            code = library.lib.fi_domain(self.fabric.handle, selection.info, out, library.ffi.NULL)
            check(library, code, "fi_domain")
        except FabricError:
            self.fabric.release()
            raise
        self.handle = out[0]

    @property
    def vector(self) -> Any:
        """The address vector, made when it is first needed."""
        if self._vector is None:
            library = self.selection.library
            attributes = library.ffi.new("struct fi_av_attr *", {"type": library.lib.FI_AV_TABLE})
            out = library.ffi.new("struct fid_av **")
            code = library.lib.fi_av_open(self.handle, attributes, out, library.ffi.NULL)
            check(library, code, "fi_av_open")
            self._vector = out[0]
        return self._vector

    def insert(self, text: str) -> int:
        """Return the fi_addr of an address (fi_av_insert).

        Raises:
            FabricError: EINVAL, it is none.
        """
        library = self.selection.library
        raw = to_bytes(text, self.selection.format)
        if self.selection.provider.needs_presence and is_dead_segment(text):
            raise FabricError(errno.EINVAL, f"nobody has the name {text!r} (yet)")
        out = library.ffi.new("fi_addr_t *")
        count = library.lib.fi_av_insert(self.vector, raw, 1, out, 0, library.ffi.NULL)
        check(library, count, "fi_av_insert")
        if count != 1:
            raise FabricError(errno.EINVAL, f"libfabric does not take the address {text!r}")
        return int(out[0])

    def remove(self, address: int) -> None:
        """Forget an fi_addr (fi_av_remove)."""
        library = self.selection.library
        place = library.ffi.new("fi_addr_t *", address)
        check(library, library.lib.fi_av_remove(self.vector, place, 1, 0), "fi_av_remove")

    def hold(self) -> None:
        """Keep it open."""
        self._holders += 1

    def release(self) -> None:
        """Let go of it; the last one closes it."""
        self._holders -= 1
        if self._holders:
            return
        close = self.selection.library.lib.fi_close
        if self._vector is not None:
            close(_fid(self.selection, self._vector))
        close(_fid(self.selection, self.handle))
        self.fabric.release()


class Fabric:
    """A fabric of libfabric. Who uses it holds it."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._holders = 0
        library = selection.library
        out = library.ffi.new("struct fid_fabric **")
        code = library.lib.fi_fabric(selection.info.fabric_attr, out, library.ffi.NULL)
        check(library, code, "fi_fabric")
        self.handle = out[0]

    def hold(self) -> None:
        """Keep it open."""
        self._holders += 1

    def release(self) -> None:
        """Let go of it; the last one closes it."""
        self._holders -= 1
        if not self._holders:
            self._selection.library.lib.fi_close(_fid(self._selection, self.handle))


def name_of(selection: Selection, fid: Any) -> str:
    """Return the address behind a `struct fid *` (fi_getname)."""
    library = selection.library
    size = library.ffi.new("size_t *", _LONGEST_ADDRESS)
    place = library.ffi.new("char []", _LONGEST_ADDRESS)
    check(library, library.lib.fi_getname(fid, place, size), "fi_getname")
    raw = bytes(library.ffi.buffer(place, min(size[0], _LONGEST_ADDRESS)))
    return to_text(raw, selection.format)


def _fid(selection: Selection, handle: Any) -> Any:
    return selection.library.ffi.addressof(handle, "fid")
