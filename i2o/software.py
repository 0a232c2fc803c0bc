# SPDX-License-Identifier: Apache-2.0
"""Software of an IOP: modules are listed, downloaded, uploaded and removed.

A module goes over in fragments of 8 KiB, numbered from 1 in order, as drivers send them. One byte
counts them, so the largest module has 255. Neither direction tells how many bytes really moved:
who wants to know compares what an upload brings with what was downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from i2o import parameters
from i2o.bring_up import EXECUTIVE_TID
from i2o.errors import InvalidArgument, ParameterError, RemoteFrameError
from i2o.frames.executive import (
    EXEC_SW_DOWNLOAD,
    EXEC_SW_REMOVE,
    EXEC_SW_UPLOAD,
    SwDownloadFlags,
    SwType,
)
from i2o.frames.executive_groups import (
    EXEC_DRIVER_STORE,
    EXEC_DRIVER_STORE_TABLE,
    EXEC_EXECUTING_DDM_TABLE,
)
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import MODULE_HEADER
from i2o.replies import raise_for_status
from i2o.requester import Requester
from i2o.resources import text

if TYPE_CHECKING:
    from i2o.flight import Progress
    from i2o.frames.layout import MessageLayout, ParameterGroup
    from i2o.parameters import Value
    from i2o.transport.host_memory import HostBuffer, HostMemory

FRAGMENT_SIZE: Final = 8192
MAX_FRAGMENTS: Final = 0xFF
MAX_SIZE: Final = MAX_FRAGMENTS * FRAGMENT_SIZE
"""Bytes of the largest module that can be moved."""


class ModuleId(NamedTuple):
    """What tells modules apart.

    Attributes:
        sw_type: an `SwType`.
        organization_id: who made it.
        module_id: which of theirs it is.
    """

    sw_type: int
    organization_id: int
    module_id: int

    def __str__(self) -> str:
        return f"{type_name(self.sw_type)} {self.organization_id:04x}:{self.module_id:04x}"


@dataclass(frozen=True, slots=True)
class StoredModule:
    """A row of the driver store table. It does not tell the type.

    Attributes:
        index: its number in the store.
        organization_id: who made it.
        module_id: which of theirs it is.
        name: what it calls itself.
        version: ModuleVersion.
        size: bytes.
        flags: ModuleFlags.
        tid: the device that it runs as, None if it does not run.
    """

    index: int
    organization_id: int
    module_id: int
    name: str
    version: int
    size: int
    flags: int
    tid: int | None


@dataclass(frozen=True, slots=True)
class StoreSpace:
    """How full the driver store is: modules, and bytes."""

    module_limit: int
    module_count: int
    current_space: int
    free_space: int


class Software:
    """The software of one IOP.

    Args:
        requester: sends the messages.
        memory: where buffers come from.
    """

    def __init__(self, requester: Requester, memory: HostMemory) -> None:
        self._requester, self._memory = requester, memory

    def modules(self) -> tuple[StoredModule, ...]:
        """Return what the IOP has stored.

        Raises:
            ParameterError: it has no driver store table.
            RequestFailed, RequestTimeout: the message failed.
        """
        try:
            ddms = self._table(EXEC_EXECUTING_DDM_TABLE)
        except ParameterError:
            ddms = []  # it does not tell what runs
        running = {
            (_number(row, "i2o_vendor_id"), _number(row, "module_id")): _number(row, "ddm_tid")
            for row in ddms
        }
        found = []
        for row in self._table(EXEC_DRIVER_STORE_TABLE):
            key = _number(row, "i2o_vendor_id"), _number(row, "module_id")
            found.append(
                StoredModule(
                    index=_number(row, "stored_ddm_index"),
                    organization_id=key[0],
                    module_id=key[1],
                    name=_text(row, "module_name"),
                    version=_number(row, "module_version"),
                    size=_number(row, "module_size"),
                    flags=_number(row, "module_flags"),
                    tid=running.get(key),
                )
            )
        return tuple(found)

    def space(self) -> StoreSpace:
        """Return how full the driver store is; raises as `modules`."""
        row = parameters.get_group(self._requester, self._memory, EXECUTIVE_TID, EXEC_DRIVER_STORE)
        return StoreSpace(
            *(
                _number(row, name)
                for name in ("module_limit", "module_count", "current_space", "free_space")
            )
        )

    def size_of(self, module: ModuleId) -> int:
        """Return the size of a stored module, as the store table tells it.

        Raises:
            InvalidArgument: it is not stored, or several are that differ in type and size.
            RemoteFrameError: the size is none that a module can have.
        """
        wanted = (module.organization_id, module.module_id)
        stored = self.modules()
        sizes = {one.size for one in stored if (one.organization_id, one.module_id) == wanted}
        if not sizes:
            names = sorted({f"{one.organization_id:04x}:{one.module_id:04x}" for one in stored})
            raise InvalidArgument(
                f"module {wanted[0]:04x}:{wanted[1]:04x} is not stored; "
                f"there are {', '.join(names) or 'none'}"
            )
        if len(sizes) > 1:
            shown = ", ".join(map(str, sorted(sizes)))
            raise InvalidArgument(f"{module}: modules of {shown} bytes have its numbers: say which")
        (size,) = sizes
        if not 0 < size <= MAX_SIZE:
            raise RemoteFrameError(
                f"{module}: the IOP says it has {size} bytes, expected 1 to {MAX_SIZE}"
            )
        return size

    def download(
        self,
        module: ModuleId,
        data: bytes,
        *,
        permanent: bool = False,
        override: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Send a module to the IOP.

        Args:
            module: its name.
            data: all of it.
            permanent: it is to outlive a reset.
            override: it may replace one of the same name.
            progress: called as it goes on.

        Raises:
            InvalidArgument: it is empty or too large.
            RequestFailed: the IOP refused a fragment; says which, and why.
            RequestTimeout: no answer came.
        """
        _check_size(module, len(data))
        flags = (SwDownloadFlags.PERMANENT_STORE if permanent else 0) | (
            SwDownloadFlags.OVERRIDE if override else 0
        )
        for number, part in enumerate(_fragments(len(data)), 1):
            buffer = self._memory.allocate(part.stop - part.start)
            buffer.view[:] = data[part]
            buffer.to_device()
            fields = {"download_flags": int(flags)}
            self._move(EXEC_SW_DOWNLOAD, module, len(data), number, buffer, fields, progress)

    def upload(
        self, module: ModuleId, size: int | None = None, *, progress: Progress | None = None
    ) -> bytes:
        """Fetch a module from the IOP.

        Args:
            module: its name.
            size: its bytes; what the store table says if None.
            progress: called as it goes on.

        Raises:
            InvalidArgument: it is not stored, or the size is none that a module can have.
            RemoteFrameError: the store table says nonsense.
            RequestFailed: the IOP refused a fragment; says which, and why.
            RequestTimeout: no answer came.
        """
        if size is None:
            size = self.size_of(module)
        _check_size(module, size)
        parts = []
        for number, part in enumerate(_fragments(size), 1):
            buffer = self._memory.allocate(part.stop - part.start)
            parts.append(self._move(EXEC_SW_UPLOAD, module, size, number, buffer, {}, progress))
        return b"".join(parts)

    def remove(self, module: ModuleId) -> None:
        """Have the IOP forget a module, and stop it if it runs.

        Raises:
            RequestFailed: there is none, or it cannot be removed.
            RequestTimeout: no answer came.
        """
        message = EXEC_SW_REMOVE.build(target_address=EXECUTIVE_TID, **_words(module, 0))
        raise_for_status(self._requester.call(message), f"SwRemove of {module}")

    def _move(
        self,
        layout: MessageLayout,
        module: ModuleId,
        size: int,
        number: int,
        buffer: HostBuffer,
        fields: dict[str, int],
        progress: Progress | None,
    ) -> bytes:
        """Move one fragment, either way; return what the buffer holds then, if it came."""
        total = len(_fragments(size))
        is_out = layout is EXEC_SW_DOWNLOAD
        verb = "SwDownload" if is_out else "SwUpload"
        sgl = simple_sgl(buffer.segments, out=is_out)
        message = layout.build(
            target_address=EXECUTIVE_TID,
            message_size=(layout.size + len(sgl)) // 4,
            current_fragment=number,
            total_fragments=total,
            **_words(module, size),
            **fields,
        )
        pending = self._requester.start(message + sgl, buffers=(buffer,))
        try:
            reply = self._requester.finish(pending)
            raise_for_status(reply, f"{verb} of {module}, fragment {number} of {total}")
            data = b""
            if not is_out:
                buffer.from_device()
                data = bytes(buffer.view)
        finally:
            pending.release()
        if progress is not None:
            progress(min(number * FRAGMENT_SIZE, size), size)
        return data

    def _table(self, group: ParameterGroup) -> list[dict[str, Value]]:
        return parameters.get_table(self._requester, self._memory, EXECUTIVE_TID, group)


def name_in_header(data: bytes) -> tuple[int, int] | None:
    """Return organization and module number of the header that a module begins with.

    There is no signature: it is believed if its sizes are possible.
    """
    if len(data) < MODULE_HEADER.size:
        return None
    header = MODULE_HEADER.unpack_from(data)
    is_plausible = (
        MODULE_HEADER.size <= header.header_size <= len(data)
        and header.table_offset <= len(data)
        and header.code_size <= len(data)
    )
    return (header.org_id, header.module_id) if is_plausible else None


def type_name(sw_type: int) -> str:
    """Return the name of an SwType in small letters."""
    try:
        return SwType(sw_type).name.lower()
    except ValueError:
        return f"type {sw_type:#04x}"


def _fragments(size: int) -> list[slice]:
    return [
        slice(start, min(start + FRAGMENT_SIZE, size)) for start in range(0, size, FRAGMENT_SIZE)
    ]


def _check_size(module: ModuleId, size: int) -> None:
    if not 0 < size <= MAX_SIZE:
        raise InvalidArgument(
            f"{module} of {size} bytes: expected 1 to {MAX_SIZE}, "
            f"{MAX_FRAGMENTS} fragments of {FRAGMENT_SIZE} bytes"
        )


def _words(module: ModuleId, size: int) -> dict[str, int]:
    """Return the fields that name a module."""
    return {
        "sw_type": module.sw_type,
        "sw_size": size,
        "sw_id_organization_id": module.organization_id,
        "sw_id_module_id": module.module_id,
    }


def _number(row: dict[str, Value], name: str) -> int:
    """Return a number; 0 for a field that an older IOP does not have."""
    value = row.get(name, 0)
    return value if isinstance(value, int) else 0


def _text(row: dict[str, Value], name: str) -> str:
    value = row.get(name, b"")
    return text(value) if isinstance(value, bytes) else ""
