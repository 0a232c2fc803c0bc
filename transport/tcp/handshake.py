# SPDX-License-Identifier: Apache-2.0
"""Both sides of the handshake: payloads in, frames out, no sockets.

The caller sends HELLO, the listener answers CHALLENGE with its proof, the caller sends PROOF, and
the listener decides with VERDICT. Each proof covers all that was said before, both names, both
incarnations and both nonces, and the role of who made it: none can be reflected or replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from i2o.errors import RemoteFrameError
from i2o.frames.layout import Layout
from i2o.transport.tcp import wire
from i2o.transport.tcp.errors import ProtocolViolation
from i2o.transport.tcp.key import PeerKey, is_proof, make_proof
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.wire import Answer, HelloFlag, Kind, Objection, Purpose

_CALLER: Final = b"caller"
_LISTENER: Final = b"listener"
_VERDICT: Final = b"verdict"
_MIN_FRAME_LIMIT: Final = 256
_PLEAS: Final = {
    Objection.VERSION: "it speaks another version of the protocol",
    Objection.NEEDS_KEY: "it wants a key: give the same key file to both",
    Objection.NEEDS_NO_KEY: "it has no key: give the same key file to both",
    Objection.WRONG_PROOF: "its key is another one",
    Objection.NOT_ME: "another peer listens there",
    Objection.SAME_NAME: "it has our own name",
    Objection.PURPOSE: "it carries something else (frames or messages)",
    Objection.BUSY: "it takes no more callers now",
}


class Rejected(ProtocolViolation):
    """The other side cannot be spoken with.

    Attributes:
        objection: what a REJECT frame says about it.
        is_ours: whether this side is the one that objects.
    """

    def __init__(self, objection: int, *, is_ours: bool = False) -> None:
        self.objection, self.is_ours = objection, is_ours
        known = objection in _PLEAS
        super().__init__(_PLEAS[Objection(objection)] if known else f"objection {objection}")

    def frame(self) -> bytes:
        """Return the REJECT frame that tells the other side."""
        return wire.frame(Kind.REJECT, wire.REJECT.build(objection=self.objection))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this end is.

    Attributes:
        name: its name.
        incarnation: grows with every start of whoever has this name.
        purpose: what its links carry.
        frame_limit: bytes of the longest frame that it takes.
        address: where it listens, as text; empty if it does not.
        answers: whether it answers a PING whatever its program does.
        key: shared with the peers, or None.
    """

    name: PeerName
    incarnation: int
    purpose: Purpose
    frame_limit: int
    address: str = ""
    answers: bool = False
    key: PeerKey | None = None

    @property
    def flags(self) -> int:
        """The flags of HELLO and CHALLENGE."""
        flags = HelloFlag.KEYED if self.key is not None else 0
        return int(flags | (HelloFlag.ANSWERS if self.answers else 0))


class Remote(NamedTuple):
    """Who the other end says it is; true once its proof was found to be right.

    Attributes:
        name: its name.
        incarnation: grows with every start.
        frame_limit: bytes of the longest frame that it takes.
        answers: whether it answers a PING whatever its program does.
        serial: the caller's number of this attempt; 0 of a listener.
        address: where it says it listens, or empty.
        purpose: what its links carry; see `Purpose`.
    """

    name: PeerName
    incarnation: int
    frame_limit: int
    answers: bool
    serial: int = 0
    address: str = ""
    purpose: int = Purpose.FRAMES


class Caller:
    """The side that connects.

    Args:
        me: who this end is.
        target: who must answer; ANYBODY for whoever listens there.
        serial: this end's number of the attempt.
        nonce: 32 random bytes, never used before.
        probe: only ask who is there.
    """

    def __init__(
        self,
        me: Identity,
        target: PeerName,
        serial: int,
        nonce: bytes,
        *,
        probe: bool = False,
    ) -> None:
        self._me, self._target, self._is_probe = me, target, probe
        address = me.address.encode()
        self._transcript = (
            wire.HELLO.build(
                magic=wire.MAGIC,
                version=wire.VERSION,
                flags=me.flags | (HelloFlag.PROBE if probe else 0),
                purpose=me.purpose,
                address_length=len(address),
                job=me.name.job,
                rank=me.name.rank,
                target_job=target.job,
                target_rank=target.rank,
                incarnation=me.incarnation,
                serial=serial,
                frame_limit=me.frame_limit,
                nonce=nonce,
            )
            + address
        )
        self._hello = wire.frame(Kind.HELLO, self._transcript)

    def hello(self) -> bytes:
        """Return the first frame."""
        return self._hello

    def challenge(self, payload: memoryview) -> tuple[Remote, bytes]:
        """Take CHALLENGE; return who listens, and the frame that answers.

        Raises:
            ProtocolViolation: it makes no sense.
            Rejected: it is somebody else, or its key is another one.
        """
        head = _unpack(wire.CHALLENGE, payload, exactly=True)
        _check_version(head, self._me, is_probe=self._is_probe)
        remote = _remote(head)
        if self._target not in (ANYBODY, remote.name):
            raise Rejected(Objection.NOT_ME, is_ours=True)
        if remote.name == self._me.name and not self._is_probe:
            raise Rejected(Objection.SAME_NAME, is_ours=True)
        said = bytes(payload[: -wire.PROOF_SIZE])
        self._transcript += said
        if not is_proof(self._me.key, _LISTENER, self._transcript, head.proof):
            raise Rejected(Objection.WRONG_PROOF, is_ours=True)
        proof = make_proof(self._me.key, _CALLER, self._transcript)
        return remote, wire.frame(Kind.PROOF, proof)

    def verdict(self, payload: memoryview) -> tuple[int, int, int]:
        """Take VERDICT; return the answer, the listener's serial, and the incarnation it knows.

        Raises:
            ProtocolViolation: it makes no sense.
            Rejected: the proof is wrong.
        """
        head = _unpack(wire.VERDICT, payload, exactly=True)
        said = bytes(payload[: -wire.PROOF_SIZE])
        if not is_proof(self._me.key, _VERDICT, self._transcript + said, head.proof):
            raise Rejected(Objection.WRONG_PROOF, is_ours=True)
        return head.answer, head.serial, head.incarnation


class Listener:
    """The side that is called.

    Args:
        me: who this end is.
        nonce: 32 random bytes, never used before.
    """

    def __init__(self, me: Identity, nonce: bytes) -> None:
        self._me, self._nonce = me, nonce
        self._transcript = b""
        self.is_probe = False

    def hello(self, payload: memoryview) -> tuple[Remote, bytes]:
        """Take HELLO; return who calls, as it says, and the frame that answers.

        Raises:
            ProtocolViolation: it makes no sense.
            Rejected: it cannot be spoken with.
        """
        head = _unpack(wire.HELLO, payload)
        if head.magic != wire.MAGIC:
            raise ProtocolViolation("the caller speaks another protocol")
        self.is_probe = bool(head.flags & HelloFlag.PROBE)
        _check_version(head, self._me, is_probe=self.is_probe)
        text = bytes(payload[wire.HELLO.size :])
        if len(text) != head.address_length or len(text) > wire.MAX_ADDRESS_TEXT:
            raise ProtocolViolation(f"an address of {len(text)} bytes")
        target = PeerName(head.target_job, head.target_rank)
        if target not in (ANYBODY, self._me.name):
            raise Rejected(Objection.NOT_ME, is_ours=True)
        remote = _remote(head)._replace(serial=head.serial, address=text.decode("ascii", "replace"))
        if remote.name == self._me.name and not self.is_probe:
            raise Rejected(Objection.SAME_NAME, is_ours=True)
        me = self._me
        said = wire.CHALLENGE.build(
            version=wire.VERSION,
            flags=me.flags,
            purpose=me.purpose,
            job=me.name.job,
            rank=me.name.rank,
            incarnation=me.incarnation,
            frame_limit=me.frame_limit,
            nonce=self._nonce,
            proof=wire.NO_PROOF,
        )[: -wire.PROOF_SIZE]
        self._transcript = bytes(payload) + said
        proof = make_proof(me.key, _LISTENER, self._transcript)
        return remote, wire.frame(Kind.CHALLENGE, said + proof)

    def proof(self, payload: memoryview) -> None:
        """Take PROOF: after this the caller is who it says it is.

        Raises:
            ProtocolViolation: it makes no sense.
            Rejected: the proof is wrong.
        """
        head = _unpack(wire.PROOF, payload, exactly=True)
        if not is_proof(self._me.key, _CALLER, self._transcript, head.proof):
            raise Rejected(Objection.WRONG_PROOF, is_ours=True)

    def verdict(self, answer: Answer, *, serial: int = 0, incarnation: int = 0) -> bytes:
        """Return the frame that ends the handshake."""
        said = wire.VERDICT.build(
            answer=answer, serial=serial, incarnation=incarnation, proof=wire.NO_PROOF
        )[: -wire.PROOF_SIZE]
        proof = make_proof(self._me.key, _VERDICT, self._transcript + said)
        return wire.frame(Kind.VERDICT, said + proof)


def objection_of(payload: memoryview) -> Rejected:
    """Return what a REJECT frame says; raises ProtocolViolation if it makes no sense."""
    return Rejected(_unpack(wire.REJECT, payload, exactly=True).objection)


def _unpack(layout: Layout, payload: memoryview, *, exactly: bool = False) -> Any:
    try:
        record = layout.unpack_from(payload)
    except RemoteFrameError as error:
        raise ProtocolViolation(f"{layout.name}: {error}") from None
    if exactly and len(payload) != layout.size:
        raise ProtocolViolation(f"{layout.name} has {len(payload)} bytes, not {layout.size}")
    return record


def _check_version(head: Any, me: Identity, *, is_probe: bool) -> None:
    if head.version != wire.VERSION:
        raise Rejected(Objection.VERSION, is_ours=True)
    if bool(head.flags & HelloFlag.KEYED) != (me.key is not None):
        raise Rejected(
            Objection.NEEDS_NO_KEY if me.key is None else Objection.NEEDS_KEY, is_ours=True
        )
    if head.purpose != me.purpose and not is_probe:
        raise Rejected(Objection.PURPOSE, is_ours=True)
    if head.frame_limit < _MIN_FRAME_LIMIT:
        raise ProtocolViolation(f"frames of at most {head.frame_limit} bytes")


def _remote(head: Any) -> Remote:
    name = PeerName(head.job, head.rank)
    if not name.is_valid:
        raise ProtocolViolation(f"{name} is no name")
    answers = bool(head.flags & HelloFlag.ANSWERS)
    return Remote(name, head.incarnation, head.frame_limit, answers, purpose=head.purpose)
