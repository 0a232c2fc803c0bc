# SPDX-License-Identifier: Apache-2.0
"""The configuration dialog of a device: pages of HTML, and the forms in them.

The headers leave the data open; they are sent as Linux's i2o_config does: one buffer takes the
page, a second one holds the fields of a form as `application/x-www-form-urlencoded`. What comes is
from the device and not to be trusted: `i2o config` takes everything active out before it shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlencode

from i2o.errors import InvalidArgument, RemoteFrameError
from i2o.frames.header import DetailedStatus, ReqStatus
from i2o.frames.sgl import simple_sgl
from i2o.frames.utility import UTIL_CONFIG_DIALOG
from i2o.replies import raise_for_status, status_of
from i2o.requester import Requester
from i2o.transport.host_memory import HostMemory

FIRST_BUFFER: Final = 16 << 10
Form = Mapping[str, str] | Sequence[tuple[str, str]]
"""Names and values of a form's fields; as pairs, a name may come more than once."""
MAX_PAGE: Final = 1 << 20
"""The longest page that is taken, in bytes."""
MAX_QUERY: Final = 64 << 10
"""The longest form that is sent, in bytes."""
_CUT: Final = (ReqStatus.ERROR_PARTIAL_TRANSFER, DetailedStatus.REPLY_BUFFER_FULL)


def fetch_page(
    requester: Requester,
    memory: HostMemory,
    tid: int,
    page: int = 0,
    form: Form | None = None,
) -> bytes:
    """Read a page of a device's configuration dialog, or submit the form of one.

    A page that does not fit is asked for again with a larger buffer. A form is sent once: if the
    page that answers it does not fit, the page is read again without the form.

    Args:
        requester: sends the messages.
        memory: where buffers come from.
        tid: the device; 0 is the IOP itself.
        page: page number; 0 is the first one.
        form: fields to submit.

    Returns:
        The page as the device made it: HTML in most cases, and never trusted.

    Raises:
        RequestFailed: there is no such page, or the device has no dialog.
        RequestTimeout: no answer came.
        RemoteFrameError: the page is longer than a mebibyte.
        InvalidArgument: the form is longer than 64 KiB.
    """
    what = f"page {page} of the configuration dialog of TID {tid:#05x}"
    query = urlencode(form).encode("ascii") if form else b""
    if len(query) > MAX_QUERY:
        raise InvalidArgument(f"a form of {len(query)} bytes: at most {MAX_QUERY} can be sent")
    size = FIRST_BUFFER
    while size <= MAX_PAGE:
        data = _ask(requester, memory, tid, page, query, size, what)
        if data is not None:
            return data
        query = b""
        size *= 4
    raise RemoteFrameError(f"{what} has more than {MAX_PAGE} bytes")


def _ask(
    requester: Requester,
    memory: HostMemory,
    tid: int,
    page: int,
    query: bytes,
    size: int,
    what: str,
) -> bytes | None:
    """Ask once; return the page, or None if it does not fit."""
    into = memory.allocate(size)
    buffers = [into]
    sgl = simple_sgl(((into.bus_address, size),), out=False, last=not query)
    if query:
        out = memory.allocate(len(query))
        buffers.append(out)
        out.view[:] = query
        out.to_device()
        sgl += simple_sgl(((out.bus_address, len(query)),), out=True)
    message_size = (UTIL_CONFIG_DIALOG.size + len(sgl)) // 4
    message = UTIL_CONFIG_DIALOG.build(
        target_address=tid, page_number=page, message_size=message_size
    )
    pending = requester.start(message + sgl, buffers=buffers)
    try:
        reply = requester.finish(pending)
        if not reply.failed and status_of(reply)[:2] == _CUT:
            return None
        raise_for_status(reply, what)
        into.from_device()
        data, end, _ = bytes(into.view).partition(b"\0")
        return data if end else None  # full to the last byte: perhaps there is more
    finally:
        pending.release()
