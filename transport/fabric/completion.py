# SPDX-License-Identifier: Apache-2.0
"""What a completion queue tells of an operation: fi_cq_tagged_entry and fi_cq_err_entry."""

from __future__ import annotations

from typing import NamedTuple

from i2o.transport.fabric.flags import ADDR_UNSPEC, Flag


class Completion(NamedTuple):
    """An operation that succeeded.

    Attributes:
        context: what was given when it was posted; None for a bare release of a multi-receive
            buffer of which nothing else is known.
        flags: what kind of operation it was: SEND or RECV, MSG or TAGGED; REMOTE_CQ_DATA when
            `data` counts; MULTI_RECV when the buffer is the caller's again.
        length: bytes received; of a peek, bytes of the message. Without meaning for sends.
        buffer: where the message is in a multi-receive buffer, else None.
        data: what the sender sent along.
        tag: of a tagged message, the sender's.
        source: the sender's address, where the endpoint has SOURCE, else ADDR_UNSPEC.
    """

    context: object
    flags: Flag
    length: int = 0
    buffer: memoryview | None = None
    data: int = 0
    tag: int = 0
    source: int = ADDR_UNSPEC


class CompletionError(NamedTuple):
    """An operation that failed.

    Attributes:
        context: as in `Completion`.
        flags: as in `Completion`.
        length: bytes that were received all the same.
        buffer: as in `Completion`.
        data: as in `Completion`.
        tag: as in `Completion`.
        olen: bytes of the message that found no place (ETRUNC).
        err: the code, an errno or a `FabricErrno`.
        prov_errno: the carrier's own code, 0 if it has none.
        reason: why, in words.
        source: as in `Completion`.
    """

    context: object
    flags: Flag
    length: int = 0
    buffer: memoryview | None = None
    data: int = 0
    tag: int = 0
    olen: int = 0
    err: int = 0
    prov_errno: int = 0
    reason: str = ""
    source: int = ADDR_UNSPEC
