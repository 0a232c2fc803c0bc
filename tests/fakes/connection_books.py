# SPDX-License-Identifier: Apache-2.0
"""What both halves of a connection between software IOPs must agree on, at rest."""

from __future__ import annotations

from i2o.frames.header import SpecialTid
from i2o.iop_emulator.soft_iop import SoftIop


def users(iop: SoftIop) -> set[int | None]:
    """Return who may send requests to an IOP: its host, and those behind aliases."""
    connections = iop.executive.peers._connections.values()
    return {SpecialTid.HOST.value, *(tid for one in connections for tid in one.initiators)}


def disagreement(one: SoftIop, other: SoftIop) -> str:
    """Say what is wrong with a connection of two IOPs, or nothing."""
    return _half(one, other) or _half(other, one)


def _half(here: SoftIop, there: SoftIop) -> str:
    peers = here.executive.peers
    for connection in peers._connections.values():
        if peers not in connection.peer._connections:
            return "one IOP has a connection that the other one does not have"
        for forward in connection.forwards:
            is_parked = forward.request in here.scheduler.parked
            if not is_parked or not there.scheduler.has(forward.remote):
                what = "the request" if is_parked else "what the other IOP does"
                return f"only {what} is left: {forward.request.frame.hex()}"
    asked = list(here.scheduler._unanswered())
    foreign = [one for one in asked if one.initiator != SpecialTid.HOST]
    peer = there.executive.peers._connections.get(peers)
    known = [] if peer is None else [forward.remote for forward in peer.forwards]
    if any(request not in known for request in foreign):
        return "an IOP works for another one that does not wait for it"
    targets = {owner for owner, _ in here.events._registrations}
    lost = (targets | {request.target for request in asked}) - here.lct.devices.keys()
    if lost:
        return f"devices {lost} are gone, and something of theirs is not"
    tids = {request.initiator for request in asked}
    for device in here.lct:
        tids |= {claim.tid for claim in device.claims} | {*device.parameters._cursors}
        tids |= {device.lock_holder, device.reserve_holder} - {None}
    tids |= {initiator for _, initiator in here.events._registrations}
    gone = tids - users(here)
    return f"initiators {gone} are gone, and something of theirs is not" if gone else ""
