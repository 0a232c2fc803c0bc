# SPDX-License-Identifier: Apache-2.0
"""Cuts messages into packets, and puts them together again.

A message is gathered from buffers and scattered into buffers, and nothing is copied but once. Who
puts a message together knows its packets by a key, such as (source, message id), so that packets
of several senders never mix, and both the messages under way and their bytes are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from i2o.errors import RemoteFrameError

Buffer: TypeAlias = bytes | bytearray | memoryview
Key = TypeVar("Key", bound=Hashable)


def byte_view(buffer: Buffer) -> memoryview:
    """Return any contiguous buffer as a view of bytes; raises TypeError if it is not contiguous."""
    view = memoryview(buffer)
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    return view.cast("B")


class Packet(NamedTuple):
    """A piece of a message.

    Attributes:
        offset: where in the message it begins.
        parts: views of the sender's buffers.
        length: bytes in all parts.
        is_last: whether the message ends with it.
    """

    offset: int
    parts: list[memoryview]
    length: int
    is_last: bool


class Gather:
    """Buffers that together are one message.

    Args:
        buffers: one after another; they are not copied.
    """

    __slots__ = ("_views", "length")

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._views = [byte_view(buffer) for buffer in buffers]
        self.length = sum(map(len, self._views))

    def slice(self, offset: int, length: int) -> list[memoryview]:
        """Return views of the bytes from `offset`, at most `length` of them; none is empty."""
        if len(self._views) == 1:
            piece = self._views[0][offset : offset + length]
            return [piece] if piece else []
        found = []
        for view in self._views:
            if length <= 0:
                break
            if offset >= len(view):
                offset -= len(view)
                continue
            piece = view[offset : offset + length]
            found.append(piece)
            offset, length = 0, length - len(piece)
        return found

    def packets(self, size: int, *, first: int | None = None) -> Iterator[Packet]:
        """Yield the packets of the message; an empty message is one empty packet.

        Args:
            size: most bytes of a packet.
            first: most bytes of the first one, if that is another number.
        """
        offset, limit = 0, size if first is None else first
        while True:
            parts = self.slice(offset, limit)
            length = sum(map(len, parts))
            end = offset + length
            yield Packet(offset, parts, length, end == self.length)
            if end == self.length:
                return
            offset, limit = end, size


class Scatter:
    """Buffers that one message fills one after another.

    Args:
        buffers: writable ones.

    Raises:
        ValueError: a buffer is read-only.
    """

    __slots__ = ("_views", "room")

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._views = [byte_view(buffer) for buffer in buffers]
        for number, view in enumerate(self._views):
            if view.readonly:
                raise ValueError(f"buffer {number} is read-only: give a bytearray")
        self.room = sum(map(len, self._views))

    @property
    def views(self) -> tuple[memoryview, ...]:
        """The buffers, as views of bytes."""
        return tuple(self._views)

    def write(self, offset: int, data: Buffer) -> int:
        """Store what fits of the bytes that belong at `offset`; return how many that were."""
        if len(self._views) == 1:
            view = self._views[0]
            fits = min(len(data), len(view) - offset)
            if fits <= 0:
                return 0
            view[offset : offset + fits] = data if fits == len(data) else data[:fits]
            return fits
        stored, rest = 0, memoryview(data)
        for view in self._views:
            if not rest:
                break
            if offset >= len(view):
                offset -= len(view)
                continue
            fits = min(len(rest), len(view) - offset)
            view[offset : offset + fits] = rest[:fits]
            stored, rest, offset = stored + fits, rest[fits:], 0
        return stored


class Assembly:
    """A message of which packets are missing.

    Args:
        total: bytes that will come.
        target: where they go; bytes beyond its room are counted and dropped.
        owner: whatever belongs to it.

    Attributes:
        target: as given.
        owner: as given.
        received: bytes that came, in order and without a gap.
        stored: of these, bytes that found room.
    """

    __slots__ = ("owner", "received", "stored", "target", "total")

    def __init__(self, total: int, target: Scatter, owner: object = None) -> None:
        self.target, self.total, self.owner = target, total, owner
        self.received = self.stored = 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self.received == self.total

    def add(self, offset: int, data: Buffer) -> bool:
        """Store a packet; return whether the message is complete.

        Raises:
            RemoteFrameError: it is not the packet that comes next, is empty, or is too long.
        """
        if offset != self.received:
            raise RemoteFrameError(f"a packet at {offset}, expected was one at {self.received}")
        if not data or len(data) > self.total - offset:
            raise RemoteFrameError(
                f"a packet of {len(data)} bytes, expected were 1 to {self.total - offset}"
            )
        self.stored += self.target.write(offset, data)
        self.received += len(data)
        return self.received == self.total


class Reassembler(Generic[Key]):
    """The messages of which packets are missing.

    Args:
        max_messages: how many there may be.
        max_bytes: of how many bytes in all.
    """

    __slots__ = ("_assemblies", "_bytes", "_max_bytes", "_max_messages")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._assemblies: dict[Key, Assembly] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._assemblies)

    def __contains__(self, key: Key) -> bool:
        return key in self._assemblies

    def begin(
        self, key: Key, total: int, target: Scatter | None = None, owner: object = None
    ) -> Assembly:
        """Expect a message.

        Args:
            key: whose packets it will be, as in (source, message id).
            total: its bytes.
            target: where they go; a new buffer by default.
            owner: whatever belongs to it.

        Raises:
            RemoteFrameError: it is under way already, or there is no room for it.
        """
        if key in self._assemblies:
            raise RemoteFrameError(f"message {key} begins twice")
        if len(self._assemblies) >= self._max_messages:
            raise RemoteFrameError(f"more than {self._max_messages} messages are under way")
        if total > self._max_bytes - self._bytes:
            raise RemoteFrameError(
                f"message {key} of {total} bytes; there is room for {self._max_bytes - self._bytes}"
            )
        if target is None:
            target = Scatter([bytearray(total)])
        assembly = self._assemblies[key] = Assembly(total, target, owner)
        self._bytes += total
        return assembly

    def add(self, key: Key, offset: int, data: Buffer) -> Assembly:
        """Store a packet. When that was the last one, `is_complete`, and the key is free again.

        Raises:
            RemoteFrameError: no such message is under way, or it is not the packet that is next.
        """
        assembly = self._assemblies.get(key)
        if assembly is None:
            raise RemoteFrameError(f"a packet of message {key}, which is not under way")
        if assembly.add(offset, data):
            self.forget(key)
        return assembly

    def forget(self, key: Key) -> Assembly | None:
        """Expect a message no longer; return what there is of it."""
        assembly = self._assemblies.pop(key, None)
        if assembly is not None:
            self._bytes -= assembly.total
        return assembly

    def forget_all(self, is_meant: Callable[[Key], bool] = lambda _: True) -> list[Assembly]:
        """Expect no longer what is meant, say all messages of a source that is gone."""
        keys = [key for key in self._assemblies if is_meant(key)]
        return [gone for key in keys if (gone := self.forget(key)) is not None]
