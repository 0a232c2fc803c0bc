# SPDX-License-Identifier: Apache-2.0
"""Flags, capabilities and kinds of endpoints: libfabric's names and its numbers.

The numbers are those of `rdma/fabric.h`, `fi_domain.h` and `fi_endpoint.h`, so that a flag is the
same thing in software, in a capture and in the real library. Some numbers mean one thing for an
operation and another for an endpoint, hence three classes.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

ADDR_UNSPEC: Final = 0xFFFFFFFFFFFFFFFF
"""FI_ADDR_UNSPEC: any source, or the peer of a connected endpoint."""


class Flag(IntFlag):
    """Flags of operations and of completions."""

    MSG = 1 << 1
    TAGGED = 1 << 3
    MULTICAST = 1 << 5
    RECV = 1 << 10
    SEND = 1 << 11
    MULTI_RECV = 1 << 16
    REMOTE_CQ_DATA = 1 << 17
    MORE = 1 << 18
    PEEK = 1 << 19
    FENCE = 1 << 21
    COMPLETION = 1 << 24
    INJECT = 1 << 25
    INJECT_COMPLETE = 1 << 26
    TRANSMIT_COMPLETE = 1 << 27
    DELIVERY_COMPLETE = 1 << 28
    MATCH_COMPLETE = 1 << 31
    DISCARD = 1 << 58
    CLAIM = 1 << 59


class Bind(IntFlag):
    """What a completion queue is bound for."""

    RECV = 1 << 10
    TRANSMIT = 1 << 11
    SELECTIVE_COMPLETION = 1 << 59


class Capability(IntFlag):
    """What an endpoint can do."""

    MSG = 1 << 1
    TAGGED = 1 << 3
    MULTICAST = 1 << 5
    RECV = 1 << 10
    SEND = 1 << 11
    MULTI_RECV = 1 << 16
    FENCE = 1 << 21
    SOURCE = 1 << 57
    DIRECTED_RECV = 1 << 59


class EndpointType(IntEnum):
    """FI_EP_*: connected, datagram, reliable unconnected."""

    MSG = 1
    DGRAM = 2
    RDM = 3


class CqFormat(IntEnum):
    """FI_CQ_FORMAT_*: how much a completion tells. Fields beyond the format are zero."""

    CONTEXT = 1
    MSG = 2
    DATA = 3
    TAGGED = 4
