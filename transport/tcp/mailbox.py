# SPDX-License-Identifier: Apache-2.0
"""Messages that came, and receives that wait: matched by tag, origin and source, in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from i2o.transport.tcp.message_wire import ANY_TAG
from i2o.transport.tcp.peer_name import ANYBODY, PeerName


class Message(NamedTuple):
    """A message that came.

    Attributes:
        origin: who sent it.
        source: over whose link it came: the origin, or a relay.
        tag: its tag.
        data: its bytes.
        number: the origin's number of it, counted per destination.
    """

    origin: PeerName
    source: PeerName
    tag: int
    data: bytes
    number: int


class Receive:
    """A receive that waits.

    Args:
        tag: of the message, or ANY_TAG.
        origin: who sent it, or ANYBODY.
        source: over whose link it comes, or ANYBODY.
        callback: called with each message.
        is_persistent: whether it goes on after the first one.
    """

    __slots__ = ("callback", "is_over", "is_persistent", "origin", "source", "tag")

    def __init__(
        self,
        tag: int,
        origin: PeerName,
        source: PeerName,
        callback: Callable[[Message], None],
        is_persistent: bool = False,
    ) -> None:
        self.tag = tag
        self.origin = origin
        self.source = source
        self.callback = callback
        self.is_persistent = is_persistent
        self.is_over = False

    def takes(self, message: Message) -> bool:
        """Whether this message is one of those it waits for."""
        return (
            self.tag in (ANY_TAG, message.tag)
            and self.origin in (ANYBODY, message.origin)
            and self.source in (ANYBODY, message.source)
        )


class Mailbox:
    """First come, first served, on both sides.

    Attributes:
        kept: messages that nobody has asked for yet, by their tags.
    """

    def __init__(self) -> None:
        self._receives: list[Receive] = []
        self.kept: dict[int, deque[tuple[int, Message]]] = {}
        self._order = itertools.count()

    def __len__(self) -> int:
        """Messages that nobody has asked for yet."""
        return sum(map(len, self.kept.values()))

    def match(self, message: Message) -> Receive | None:
        """Return the receive that a message which came is for, or keep the message."""
        receives, tag = self._receives, message.tag
        for receive in receives:  # as `takes` does, without a call for each
            if (
                (receive.tag == tag or receive.tag == ANY_TAG)
                and (receive.origin is ANYBODY or receive.origin in (ANYBODY, message.origin))
                and (receive.source is ANYBODY or receive.source in (ANYBODY, message.source))
            ):
                if not receive.is_persistent:
                    receives.remove(receive)
                    receive.is_over = True
                return receive
        self.kept.setdefault(tag, deque()).append((next(self._order), message))
        return None

    def take(self, receive: Receive) -> Message | None:
        """Return the oldest kept message that a receive takes, and keep it no longer."""
        found = self._find(receive)
        if found is None:
            return None
        message = found[1]
        kept = self.kept[message.tag]
        if kept[0] is found:
            kept.popleft()
        else:
            kept.remove(found)
        if not kept:
            del self.kept[message.tag]
        return message

    def has_for(self, receive: Receive) -> bool:
        """Whether a kept message is there that a receive takes."""
        return self._find(receive) is not None

    def _find(self, receive: Receive) -> tuple[int, Message] | None:
        tags = self.kept if receive.tag == ANY_TAG else (receive.tag,)
        best: tuple[int, Message] | None = None
        for tag in tags:
            for entry in self.kept.get(tag, ()):
                if receive.takes(entry[1]):
                    if best is None or entry[0] < best[0]:
                        best = entry
                    break
        return best

    def post(self, receive: Receive) -> None:
        """Let a receive wait."""
        self._receives.append(receive)

    def cancel(self, receive: Receive) -> bool:
        """Take a receive back; return whether it was not over."""
        was_over, receive.is_over = receive.is_over, True
        if receive in self._receives:
            self._receives.remove(receive)
        return not was_over

    def clear(self) -> None:
        """Forget everything."""
        self._receives.clear()
        self.kept.clear()
