# SPDX-License-Identifier: Apache-2.0
"""Message frames as an OSM holds them: plain host memory with the fields' names on it.

A frame is a bytearray, so it can be sliced, hashed and handed to any codec; the derived field
names of the header, and of the message that its function code names, read and write it in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from i2o.frames import catalog
from i2o.frames.codec import View
from i2o.frames.header import (
    FAILURE_REPLY,
    HEADER_SIZE,
    MSG_HEADER,
    SINGLE_TRANSACTION_REPLY,
    MsgFlags,
)
from i2o.frames.layout import Layout

_FAIL, _LAST = int(MsgFlags.FAIL), int(MsgFlags.LAST)
_HEADER_FIELDS = frozenset(field.attribute for field in MSG_HEADER.fields)


class MessageFrame(bytearray):
    """A message frame in host memory."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            return getattr(self._view_of(name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._view_of(name), name, value)

    def view(self, layout: Layout) -> View:
        """Return the fields of one layout in place (the fast way, and the exact one)."""
        return layout.view(self)

    @property
    def size_bytes(self) -> int:
        """MessageSize in bytes."""
        return 4 * (self[2] | self[3] << 8)

    def layouts(self) -> tuple[Layout, ...]:
        """Return the layouts that this frame's header allows, the likeliest first."""
        return catalog.request_layouts(self[7])

    def _view_of(self, name: str) -> View:
        if name in _HEADER_FIELDS:
            return MSG_HEADER.view(self)
        if len(self) >= HEADER_SIZE and not name.startswith("__"):
            for layout in self.layouts():
                if any(field.attribute == name for field in layout.fields):
                    return layout.view(self)
            raise AttributeError(f"a message with function {self[7]:#04x} has no field {name!r}")
        raise AttributeError(f"a frame of {len(self)} bytes has no field {name!r}")


class RequestFrame(MessageFrame):
    """A request frame that the message layer handed out."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class ReplyFrame(MessageFrame):
    """A reply frame, the callback's until it frees it."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @property
    def failed(self) -> bool:
        """Whether the FAIL flag is set: the message was never processed by its target."""
        return bool(self[1] & _FAIL)

    @property
    def final(self) -> bool:
        """Whether the LAST flag is set."""
        return bool(self[1] & _LAST)

    def layouts(self) -> tuple[Layout, ...]:
        """Return the reply layouts that flags, function and size allow."""
        if self.failed:
            return (FAILURE_REPLY,)
        same_function = [
            layout
            for layout in catalog.messages()
            if layout.direction == "reply"
            and layout.function in (self[7], None)
            and layout is not FAILURE_REPLY
            and layout.size <= len(self)
        ]
        same_function.sort(key=lambda layout: layout.function is None)
        return (*same_function, SINGLE_TRANSACTION_REPLY)
