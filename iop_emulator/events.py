# SPDX-License-Identifier: Apache-2.0
"""Event registrations: who wants to hear what from which device.

One registration per (device, initiator). A new one replaces the old and, when the initiator asked
for it before or asks for it now, is answered with event-mask-modified: NetBSD waits for that.
Registrations end at reset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.request import Request


class Registration(NamedTuple):
    """One EventRegister that is in force.

    Attributes:
        request: the request that every event is a reply to.
        mask: the events wanted.
    """

    request: Request
    mask: int


class EventBook:
    """All registrations of an IOP.

    Args:
        send: takes a finished reply.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._registrations: dict[tuple[int, int], Registration] = {}

    def register(self, request: Request, mask: int) -> None:
        """Put a registration in force; a mask of zero ends it."""
        key = request.target, request.initiator
        replaced = self._registrations.pop(key, None)
        if mask:
            self._registrations[key] = Registration(request, mask)
        if replaced is not None:
            self._send(event_reply(request, GenericEvent.EVENT_MASK_MODIFIED, _word(mask)))

    def post(self, tid: int, indicator: int, data: bytes) -> int:
        """Tell everybody who registered for this event of this device.

        Args:
            tid: the device.
            indicator: one event bit.
            data: event data, whole words.

        Returns:
            How many replies were sent.
        """
        told = 0
        for (owner, _), registration in tuple(self._registrations.items()):
            if owner == tid and registration.mask & indicator:
                self._send(event_reply(registration.request, indicator, data))
                told += 1
        return told

    def mask(self, tid: int, initiator: int) -> int:
        """Return the mask in force, 0 for none."""
        registration = self._registrations.get((tid, initiator))
        return 0 if registration is None else registration.mask

    def forget(self, tid: int) -> None:
        """End the registrations with one device."""
        for key in [key for key in self._registrations if key[0] == tid]:
            del self._registrations[key]

    def forget_initiator(self, initiator: int) -> None:
        """End the registrations of one initiator."""
        for key in [key for key in self._registrations if key[1] == initiator]:
            del self._registrations[key]

    def clear(self) -> None:
        """End all registrations."""
        self._registrations.clear()

    def __len__(self) -> int:
        return len(self._registrations)


def event_reply(registered: Request, indicator: int, data: bytes) -> bytes:
    """Return the reply that tells an event: indicator at word 4, data from word 5."""
    return registered.answer_with(_word(indicator) + (data or _word(0)))


def _word(value: int) -> bytes:
    return value.to_bytes(4, "little")
