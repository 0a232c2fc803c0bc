# SPDX-License-Identifier: Apache-2.0
"""Asks who listens at an address, without becoming a peer."""

from __future__ import annotations

import errno
import os
import socket
import ssl

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.transport.tcp.address import Address, check_exposure, find_addresses
from i2o.transport.tcp.errors import PeerError, ProtocolViolation, Unreachable
from i2o.transport.tcp.frame_stream import FrameStream
from i2o.transport.tcp.handshake import Caller, Identity, Remote, objection_of
from i2o.transport.tcp.key import PeerKey, check_key
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.wire import NONCE_SIZE, Kind, Purpose


def probe(
    address: str,
    *,
    key: PeerKey | None = None,
    insecure: bool = False,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = 5.0,
    clock: Clock = SYSTEM_CLOCK,
) -> Remote:
    """Return who listens at an address: name, incarnation, and what it takes.

    With a key, who answers has proved that it has the same one.

    Args:
        address: for example `tcp://127.0.0.1:5000`.
        key: shared with whoever listens, if it has one.
        insecure: whether addresses other than loopback may be used without a key.
        tls: for calling.
        timeout_s: for everything together.
        clock: for the deadline.

    Raises:
        Unreachable: nobody answers, or it answers something else.
        PeerError: EINVAL, the address makes no sense; EACCES, it is not loopback and there is no
            key.
    """
    check_key(key)
    deadline = clock.monotonic() + timeout_s
    error = Unreachable(f"{address}: no such host")
    for found in find_addresses(address):
        check_exposure(found, is_allowed=insecure or key is not None)
        try:
            return _ask(found, key, tls, deadline, clock)
        except (OSError, ProtocolViolation) as failure:
            code = failure.errno if isinstance(failure, OSError) else errno.EPROTO
            text = failure.strerror if isinstance(failure, OSError) else None
            error = Unreachable(f"{found}: {text or failure}", code or errno.ETIMEDOUT)
    raise error


def _ask(
    address: Address,
    key: PeerKey | None,
    tls: ssl.SSLContext | None,
    deadline: float,
    clock: Clock,
) -> Remote:
    def left_s() -> float:
        left = deadline - clock.monotonic()
        if left <= 0:
            raise PeerError(errno.ETIMEDOUT, "no answer in time")
        return left

    me = Identity(PeerName(0, 0), 0, Purpose.MESSAGES, 1 << 20, key=key)
    caller = Caller(me, ANYBODY, 0, os.urandom(NONCE_SIZE), probe=True)
    answers: list[Remote] = []

    def take(kind: int, payload: memoryview) -> bool:
        if kind == Kind.REJECT:
            raise objection_of(payload)
        if kind != Kind.CHALLENGE:
            raise ProtocolViolation(f"a frame of kind {kind} instead of an answer")
        answers.append(caller.challenge(payload)[0])
        return False

    end = socket.create_connection((address.host, address.port), timeout=left_s())
    if tls is not None:
        end = tls.wrap_socket(end)
    with end:
        end.sendall(caller.hello())
        stream = FrameStream(take)
        while not answers:
            end.settimeout(left_s())
            if not stream.read(end.recv_into):
                raise PeerError(errno.ECONNRESET, "it closed the link without an answer")
    return answers[0]
