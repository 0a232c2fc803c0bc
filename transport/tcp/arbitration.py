# SPDX-License-Identifier: Apache-2.0
"""Which of two links between the same peers stays: a pure decision, made by who is called.

Every attempt to connect has a serial number of its side, and so has every acceptance. Whoever asks
with a number above the one that he gave for the present link has lost that link, though this side
may not know it yet; with a number below, he asked before he had the link.
"""

from __future__ import annotations

from typing import NamedTuple

from i2o.transport.tcp.peer_name import PeerName
from i2o.transport.tcp.wire import Answer


class Standing(NamedTuple):
    """How this end stands with the peer that calls.

    Attributes:
        me: this end's name.
        incarnation: the newest of the peer that is known, 0 for none.
        serial: the peer's number of the link that is up, or None if none is.
        confirming: the incarnation of the peer to which our own attempt has sent its proof, so
            that the peer may accept it at any moment; 0 if there is no such attempt.
    """

    me: PeerName
    incarnation: int = 0
    serial: int | None = None
    confirming: int = 0


class Offer(NamedTuple):
    """The link that the peer asks for."""

    name: PeerName
    incarnation: int
    serial: int


def judge(standing: Standing, offer: Offer) -> Answer:
    """Decide about a link whose other end has proved who it is.

    ACCEPTED also means that a link that is up is replaced, and an own attempt given up.
    """
    newest = max(standing.incarnation, standing.confirming)
    if offer.incarnation < newest:
        return Answer.STALE
    if offer.incarnation > newest:
        return Answer.ACCEPTED
    if standing.serial is not None and offer.incarnation == standing.incarnation:
        return Answer.ACCEPTED if offer.serial > standing.serial else Answer.NACK
    # both may be about to accept the other's attempt: that of the higher name stays
    if standing.confirming and standing.me > offer.name:
        return Answer.NACK
    return Answer.ACCEPTED
