# SPDX-License-Identifier: Apache-2.0
"""The executive's chapter on software: modules are downloaded, uploaded, removed and started.

A module comes in fragments, numbered from 1, in order; the first one starts over. Fragments of a
download may have any size. An upload counts in fragments of 8 KiB, as drivers do. A DDM that is
complete is started: it gets a TID and a place in the LCT, though all it does is answer utility
messages. What is stored permanently is started again after a reset.
"""

from __future__ import annotations

from typing import Final

from i2o.frames import executive as messages
from i2o.frames.codec import Record
from i2o.frames.executive import ExecutiveEvent, SwDownloadFlags, SwType
from i2o.frames.functions import Function
from i2o.frames.header import DetailedStatus, ReqStatus
from i2o.iop_emulator import sgl_data
from i2o.iop_emulator.ddm.base import Ddm
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.iop_control import ExecutiveServices, IopControl
from i2o.iop_emulator.lct import BUILT_IN_DDM
from i2o.iop_emulator.request import Request
from i2o.iop_emulator.software_store import MAX_SIZE, Module, ModuleName, SoftwareStore

FRAGMENT_SIZE: Final = 8192
"""Bytes of a fragment of an upload."""
FIRST_TID: Final = BUILT_IN_DDM + 1
LAST_TID: Final = 0x00F
"""TIDs that started DDMs get, before those of disks."""
_MAX_INCOMING: Final = 4
_TYPES: Final = frozenset(kind.value for kind in SwType)


class _Incoming:
    """A download that is not complete."""

    def __init__(self, size: int, fragments: int) -> None:
        self.size, self.fragments = size, fragments
        self.parts: list[bytes] = []

    @property
    def received(self) -> int:
        return sum(map(len, self.parts))


class Software:
    """What the host has loaded.

    Args:
        iop: the IOP.
        executive: its executive.
        store: where modules are kept.

    Attributes:
        store: where modules are kept.
        running: TIDs of started DDMs.
    """

    def __init__(self, iop: IopControl, executive: ExecutiveServices, store: SoftwareStore) -> None:
        self._iop, self._executive, self.store = iop, executive, store
        self.running: dict[ModuleName, int] = {}
        self._incoming: dict[ModuleName, _Incoming] = {}

    def reset_state(self) -> None:
        """Forget what is not permanent, and start what is."""
        self._incoming.clear()
        self.store.forget_volatile()
        for tid in self.running.values():
            self._iop.lct.remove(tid)
        self.running.clear()
        for module in self.store:
            self._start(module)

    @handles(Function.EXEC_SW_DOWNLOAD)
    def sw_download(self, request: Request) -> bytes:
        """Take a fragment; with the last one the module is stored, and started if it is a DDM."""
        asked = request.fields(messages.EXEC_SW_DOWNLOAD)
        word = messages.EXEC_SW_DOWNLOAD.sgl_word_offset
        buffers = sgl_data.buffers(request, word, self._iop.dma, self._iop.page_size)
        if not buffers:
            return request.refuse(DetailedStatus.MISSING_PARAMETER)
        name = _name(asked)
        if (
            asked.sw_type not in _TYPES
            or not 0 < asked.sw_size <= MAX_SIZE
            or not 1 <= asked.current_fragment <= asked.total_fragments
        ):
            return self._give_up(request, name, DetailedStatus.INVALID_PARAMETER)
        if asked.current_fragment == 1:
            obstacle = self._obstacle(name, asked.download_flags)
            if obstacle is not None:
                return self._give_up(request, name, obstacle)
            self._incoming[name] = _Incoming(asked.sw_size, asked.total_fragments)
        incoming = self._incoming.get(name)
        if (
            incoming is None
            or (incoming.size, incoming.fragments) != (asked.sw_size, asked.total_fragments)
            or asked.current_fragment != len(incoming.parts) + 1
        ):
            self._iop.complain(
                f"SwDownload: fragment {asked.current_fragment} of {asked.total_fragments} does "
                "not follow the one before: start again with fragment 1"
            )
            return self._give_up(request, name, DetailedStatus.INVALID_REQUEST)
        incoming.parts.append(sgl_data.gather(self._iop.dma, buffers[0], incoming.size + 1))
        is_last = asked.current_fragment == asked.total_fragments
        if incoming.received > incoming.size or (is_last and incoming.received < incoming.size):
            self._iop.complain(
                f"SwDownload: {incoming.received} bytes came of a module that says it has "
                f"{incoming.size}"
            )
            return self._give_up(request, name, DetailedStatus.INVALID_PARAMETER)
        if not is_last:
            return request.success()
        del self._incoming[name]
        is_permanent = bool(asked.download_flags & SwDownloadFlags.PERMANENT_STORE)
        return self._finish(request, Module(name, b"".join(incoming.parts), is_permanent))

    def _obstacle(self, name: ModuleName, flags: int) -> DetailedStatus | None:
        """Return why a module cannot be taken."""
        is_stored = self.store.find(name) is not None
        if is_stored and not flags & SwDownloadFlags.OVERRIDE:
            return DetailedStatus.DEVICE_BUSY
        if len({*self._incoming, name}) > _MAX_INCOMING:
            return DetailedStatus.INSUFFICIENT_RESOURCE_SOFT
        if is_stored:
            return None
        if self.store.is_full:
            return DetailedStatus.INSUFFICIENT_RESOURCE_SOFT
        if name.sw_type == SwType.DDM and self._free_tid() is None:
            return DetailedStatus.INSUFFICIENT_RESOURCE_SOFT
        return None

    def _give_up(self, request: Request, name: ModuleName, detail: DetailedStatus) -> bytes:
        self._incoming.pop(name, None)
        return request.refuse(detail)

    def _finish(self, request: Request, module: Module) -> bytes:
        try:
            self.store.add(module)
        except OSError as error:
            self._iop.complain(f"SwDownload: the store cannot be written: {error}")
            return request.refuse(DetailedStatus.PERMANENT_STORE_ERROR)
        self._stop(module.name)
        device = self._start(module)
        if device is not None:
            device.change_indicator = self._iop.lct.changed()
            self._executive.tell_lct_change(ExecutiveEvent.NEW_LCT_ENTRY, device)
        return request.success()

    @handles(Function.EXEC_SW_UPLOAD)
    def sw_upload(self, request: Request) -> bytes:
        """Give a fragment of a module; in one fragment, all that the buffer takes."""
        asked = request.fields(messages.EXEC_SW_UPLOAD)
        module = self.store.find(_name(asked))
        if module is None or not 1 <= asked.current_fragment <= asked.total_fragments:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        start = (asked.current_fragment - 1) * FRAGMENT_SIZE
        if start >= len(module.data):
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        word = messages.EXEC_SW_UPLOAD.sgl_word_offset
        buffers = sgl_data.buffers(request, word, self._iop.dma, self._iop.page_size)
        if not buffers:
            return request.refuse(DetailedStatus.MISSING_PARAMETER)
        end = len(module.data) if asked.total_fragments == 1 else start + FRAGMENT_SIZE
        sgl_data.scatter(self._iop.dma, buffers[0], module.data[start:end])
        return request.success()

    @handles(Function.EXEC_SW_REMOVE)
    def sw_remove(self, request: Request) -> bytes:
        """Stop a module and remove it from the store."""
        name = _name(request.fields(messages.EXEC_SW_REMOVE))
        if self.store.find(name) is None:
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        try:
            self.store.remove(name)
        except OSError as error:
            self._iop.complain(f"SwRemove: the store cannot be changed: {error}")
            return request.refuse(DetailedStatus.PERMANENT_STORE_ERROR)
        self._stop(name)
        return request.success()

    # --- started DDMs ----------------------------------------------------------------------------

    def _free_tid(self) -> int | None:
        lct = self._iop.lct
        free = (tid for tid in range(FIRST_TID, LAST_TID + 1) if tid not in lct)
        return next(free, None)

    def _start(self, module: Module) -> Ddm | None:
        """Give a DDM a TID; anything else, and one too many, is only stored."""
        tid = self._free_tid()
        if module.name.sw_type != SwType.DDM or tid is None:
            return None
        device = Ddm(
            self._iop,
            tid,
            name=module.title,
            organization_id=module.name.organization_id,
        )
        self._iop.lct.add(device)
        self.running[module.name] = tid
        return device

    def _stop(self, name: ModuleName) -> None:
        """Take a started DDM out of the LCT, and end what it has going on."""
        tid = self.running.pop(name, None)
        if tid is None:
            return
        lct = self._iop.lct
        device = lct.devices.get(tid)
        if device is not None:
            device.abort_requests(
                lambda request: request.target == tid, ReqStatus.PROCESS_ABORT_NO_DATA_TRANSFER
            )
        self._iop.events.forget(tid)
        lct.remove(tid)
        if device is not None:  # DdmDestroy has told of it already
            lct.changed()
            self._executive.tell_lct_change(ExecutiveEvent.MODIFIED_LCT, device)


def _name(asked: Record) -> ModuleName:
    return ModuleName(asked.sw_type, asked.sw_id_organization_id, asked.sw_id_module_id)
