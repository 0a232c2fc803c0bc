# SPDX-License-Identifier: Apache-2.0
"""What the network messages of an IOP and its parked requests have to say of one another."""

from __future__ import annotations

from collections import Counter

from i2o.iop_emulator.ddm.network_message import MAX_WAITING, NetworkMessageDdm
from i2o.iop_emulator.request import Request
from i2o.transport.fabric.mailbox import OVERHEAD


def network_disagreement(device: NetworkMessageDdm) -> str:
    """Say what is wrong, or nothing.

    Every request to the device that waits is known there, once: as a receiver, as the sender of a
    message that waits to be taken, or as a sender who waits for room. And nobody else is.
    """
    mailbox = device._mailbox
    letters = list(mailbox._matcher.messages())
    offers = [letter for letter in letters if isinstance(letter.origin, Request)]
    known = Counter(
        [
            *(id(want.owner) for want in mailbox.wants()),
            *(id(letter.origin) for letter in offers),
            *(id(request) for request, _ in device._senders),
        ]
    )
    parked = Counter(
        id(request) for request in device.iop.scheduler.parked if request.target == device.tid
    )
    if known != parked:
        return f"{known.total()} network messages wait, and {parked.total()} requests for them"
    if parked.total() > MAX_WAITING:
        return f"{parked.total()} network messages wait, {MAX_WAITING} at most are expected"
    if mailbox.used != sum(letter.cost for letter in letters):
        return f"network messages take {mailbox.used} bytes, as the device thinks"
    if mailbox.used - OVERHEAD * len(offers) > mailbox.space:
        return f"network messages take {mailbox.used} bytes of {mailbox.space}"
    if device._senders and mailbox.has_room(device._senders[0][1].cost):
        return "a sender waits for room that is there"
    return ""
