# SPDX-License-Identifier: Apache-2.0
"""What the messages of endpoints contain, where that can be told: protocols by their signature.

A `PayloadDecoder` is asked for every message, so `knows` must be quick and sure: a tag that nobody
else uses, or a magic number. What nobody knows is shown as bytes.
"""

from __future__ import annotations

from typing import Final, Protocol

from i2o.decode.tree import Node
from i2o.transport.capture.message_record import Kind, MessageRecord

_WITH_PAYLOAD: Final = (Kind.SEND.value, Kind.RECEIVED.value)


class PayloadDecoder(Protocol):
    """Reads the messages of one protocol; nothing here raises, whatever the bytes are."""

    name: str
    """What JSON and trees call it."""

    def knows(self, record: MessageRecord) -> bool:
        """Whether a message is of this protocol, beyond doubt."""

    def text(self, record: MessageRecord) -> str:
        """Return what a message says, in less than a line."""

    def nodes(self, record: MessageRecord) -> list[Node]:
        """Return a message as nodes; offsets count from its start."""


PAYLOADS: Final[tuple[PayloadDecoder, ...]] = ()
"""Every protocol that is known."""


def payload_decoder(record: MessageRecord) -> PayloadDecoder | None:
    """Return who can read the payload of a message, None if nobody can."""
    if record.kind not in _WITH_PAYLOAD or not record.payload:
        return None
    return next((found for found in PAYLOADS if found.knows(record)), None)


def payload_text(record: MessageRecord) -> str:
    """Return what the payload of a message says, in less than a line; perhaps nothing."""
    decoder = payload_decoder(record)
    return "" if decoder is None else decoder.text(record)
