# SPDX-License-Identifier: Apache-2.0
"""Messengers for a test, closed at its end, with times that suit one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from fakes.raw_peer import RawPeer
from fakes.recording_sink import drive
from i2o.closing import Closing
from i2o.transport.tcp.errors import PeerError
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.options import MessengerOptions, PeerOptions
from i2o.transport.tcp.peer_name import PeerName

QUICK = PeerOptions(retry_delay_s=0.01, retry_delay_max_s=0.02, linger_s=0.2, accept_pause_s=0.02)
OPTIONS = MessengerOptions(peer=QUICK)


class Messengers(Closing):
    """Opens messengers and raw peers."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.all: list[Messenger] = []

    def open(
        self, job: int, rank: int, options: MessengerOptions = OPTIONS, **more: Any
    ) -> Messenger:
        messenger = Messenger(PeerName(job, rank), options=options, **more)
        self._stack.enter_context(messenger)
        self.all.append(messenger)
        return messenger

    def pair(self, **more: Any) -> tuple[Messenger, Messenger]:
        """Return two that know one another's addresses."""
        a, b = self.open(1, 0, **more), self.open(1, 1, **more)
        introduce(a, b)
        return a, b

    def raw(self, job: int, rank: int, incarnation: int = 1, **more: Any) -> RawPeer:
        return self._stack.enter_context(RawPeer(PeerName(job, rank), incarnation, **more))

    def close(self) -> None:
        self._stack.close()


def introduce(*messengers: Messenger) -> None:
    """Tell each where the others listen."""
    for one in messengers:
        for other in messengers:
            if one is not other:
                assert one.set_peer(other.name, [other.address]) == {}


class Ends:
    """Callbacks that write down how sends ended."""

    def __init__(self) -> None:
        self.errors: list[PeerError | None] = []

    def __call__(self, error: PeerError | None) -> None:
        self.errors.append(error)

    def __len__(self) -> int:
        return len(self.errors)


__all__ = ["OPTIONS", "QUICK", "Ends", "Messengers", "drive", "introduce", "replace"]
