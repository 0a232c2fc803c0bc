# SPDX-License-Identifier: Apache-2.0
"""Both sides of the handshake, without sockets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from i2o.transport.tcp import wire
from i2o.transport.tcp.errors import ProtocolViolation
from i2o.transport.tcp.handshake import Caller, Identity, Listener, Rejected, objection_of
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.wire import Answer, Kind, Objection, Purpose

KEY, OTHER_KEY = PeerKey(b"k" * 16), PeerKey(b"o" * 16)
CALLER = Identity(PeerName(1, 2), 7, Purpose.FRAMES, 1000, "tcp://127.0.0.1:5", True, KEY)
LISTENER = Identity(PeerName(3, 4), 8, Purpose.FRAMES, 2000, "", False, KEY)


def payload(frame: bytes, kind: Kind) -> memoryview:
    length, found, reserved, more = wire.unpack_head(frame)
    assert (found, reserved, more) == (kind, 0, 0)
    assert len(frame) == wire.HEAD_SIZE + length
    return memoryview(frame)[wire.HEAD_SIZE :]


def changed(data: memoryview, place: int, value: int = 1) -> memoryview:
    copy = bytearray(data)
    copy[place] ^= value
    return memoryview(bytes(copy))


class Talk:
    """Caller and listener, as far as a test lets them go."""

    def __init__(
        self,
        caller: Identity = CALLER,
        listener: Identity = LISTENER,
        target: PeerName = ANYBODY,
        probe: bool = False,
    ) -> None:
        self.caller = Caller(caller, target, 11, b"c" * 32, probe=probe)
        self.listener = Listener(listener, b"l" * 32)

    def hello(self) -> memoryview:
        return payload(self.caller.hello(), Kind.HELLO)

    def challenge(self) -> memoryview:
        self.remote, frame = self.listener.hello(self.hello())
        return payload(frame, Kind.CHALLENGE)

    def proof(self) -> memoryview:
        self.listening, frame = self.caller.challenge(self.challenge())
        return payload(frame, Kind.PROOF)

    def verdict(self) -> memoryview:
        self.listener.proof(self.proof())
        frame = self.listener.verdict(Answer.ACCEPTED, serial=21, incarnation=6)
        return payload(frame, Kind.VERDICT)


@pytest.mark.parametrize("key", [None, KEY])
def test_both_learn_who_the_other_is(key: PeerKey | None) -> None:
    talk = Talk(replace(CALLER, key=key), replace(LISTENER, key=key))
    assert talk.caller.verdict(talk.verdict()) == (Answer.ACCEPTED, 21, 6)
    assert talk.remote == (PeerName(1, 2), 7, 1000, True, 11, "tcp://127.0.0.1:5", 1)
    assert talk.listening == (PeerName(3, 4), 8, 2000, False, 0, "", 1)


def test_a_listener_who_has_another_key_is_found_out() -> None:
    talk = Talk(listener=replace(LISTENER, key=OTHER_KEY))
    with pytest.raises(Rejected, match="key is another") as caught:
        talk.caller.challenge(talk.challenge())
    assert caught.value.is_ours


def test_a_caller_who_has_another_key_is_found_out() -> None:
    talk = Talk()
    proof = talk.proof()
    for place in range(32):
        with pytest.raises(Rejected, match="key is another"):
            talk.listener.proof(changed(proof, place))
    talk.listener.proof(proof)


def test_every_byte_that_was_said_counts_for_the_proof() -> None:
    """Whoever changes something on the way is found out by the proof over all of it."""
    reference = Talk()
    hello, challenge = bytes(reference.hello()), bytes(reference.challenge())
    for place in range(len(hello)):
        talk = Talk()
        try:
            talk.remote, frame = talk.listener.hello(changed(memoryview(hello), place, 0x10))
        except ProtocolViolation:
            continue
        answer = payload(frame, Kind.CHALLENGE)
        if talk.listener.is_probe:
            continue
        with pytest.raises(ProtocolViolation):
            talk.caller.challenge(answer)
    for place in range(len(challenge)):
        talk = Talk()
        talk.challenge()
        with pytest.raises(ProtocolViolation):
            talk.caller.challenge(changed(memoryview(challenge), place, 0x10))


def test_every_byte_of_a_verdict_counts() -> None:
    talk = Talk()
    verdict = talk.verdict()
    for place in range(len(verdict)):
        with pytest.raises(Rejected):
            talk.caller.verdict(changed(verdict, place))
    talk.caller.verdict(verdict)


def test_a_proof_serves_in_one_role_only() -> None:
    talk = Talk()
    challenge = talk.challenge()
    with pytest.raises(Rejected):
        talk.listener.proof(challenge[-32:])


def test_a_proof_serves_once() -> None:
    first = Talk()
    proof = first.proof()
    again = Listener(LISTENER, b"m" * 32)
    again.hello(first.hello())
    with pytest.raises(Rejected):
        again.proof(proof)


@pytest.mark.parametrize(
    ("caller", "listener", "target", "objection"),
    [
        (replace(CALLER, key=None), LISTENER, ANYBODY, Objection.NEEDS_KEY),
        (CALLER, replace(LISTENER, key=None), ANYBODY, Objection.NEEDS_NO_KEY),
        (CALLER, LISTENER, PeerName(3, 5), Objection.NOT_ME),
        (replace(CALLER, name=LISTENER.name), LISTENER, ANYBODY, Objection.SAME_NAME),
        (replace(CALLER, purpose=Purpose.MESSAGES), LISTENER, ANYBODY, Objection.PURPOSE),
    ],
)
def test_a_listener_objects(
    caller: Identity, listener: Identity, target: PeerName, objection: Objection
) -> None:
    talk = Talk(caller, listener, target)
    with pytest.raises(Rejected) as caught:
        talk.listener.hello(talk.hello())
    assert caught.value.is_ours
    told = objection_of(payload(caught.value.frame(), Kind.REJECT))
    assert (told.objection, told.is_ours) == (objection, False)
    assert str(told) == str(caught.value)


def test_a_caller_objects_to_whoever_is_not_meant() -> None:
    challenge = Talk().challenge()
    for caller, target, objection in (
        (CALLER, PeerName(3, 5), Objection.NOT_ME),
        (replace(CALLER, name=LISTENER.name), ANYBODY, Objection.SAME_NAME),
    ):
        with pytest.raises(Rejected) as caught:
            Caller(caller, target, 1, bytes(32)).challenge(challenge)
        assert caught.value.objection == objection


def test_a_probe_is_answered_also_for_other_purposes_and_by_namesakes() -> None:
    same = replace(CALLER, name=LISTENER.name, purpose=Purpose.MESSAGES)
    talk = Talk(same, probe=True)
    challenge = talk.challenge()
    assert talk.listener.is_probe
    remote = talk.caller.challenge(challenge)[0]
    assert remote.name == LISTENER.name


@pytest.mark.parametrize("count", [0, 1, 8, 87])
def test_what_is_too_short_or_too_long(count: int) -> None:
    talk = Talk()
    with pytest.raises(ProtocolViolation):
        talk.listener.hello(talk.hello()[:count])
    with pytest.raises(ProtocolViolation):
        talk.caller.challenge(talk.challenge()[:count])
    with pytest.raises(ProtocolViolation):
        talk.caller.challenge(memoryview(bytes(talk.challenge()) + b"x"))
    with pytest.raises(ProtocolViolation):
        talk.listener.proof(memoryview(bytes(33)))
    with pytest.raises(ProtocolViolation):
        talk.caller.verdict(memoryview(bytes(3)))
    with pytest.raises(ProtocolViolation):
        objection_of(memoryview(b"x"))


def test_what_makes_no_sense() -> None:
    hello = bytes(Talk().hello())
    for data, why in (
        (b"X" + hello[1:], "another protocol"),
        (hello + b"x", "address of"),
        (wire.HELLO.build(magic=wire.MAGIC, version=2, nonce=bytes(32)), "another version"),
    ):
        with pytest.raises(ProtocolViolation, match=why):
            Listener(LISTENER, bytes(32)).hello(memoryview(data))
    for identity, why in (
        (replace(CALLER, frame_limit=255), "frames of at most 255"),
        (replace(CALLER, name=ANYBODY), "is no name"),
    ):
        with pytest.raises(ProtocolViolation, match=why):
            Listener(LISTENER, bytes(32)).hello(Talk(identity).hello())
    assert "objection 77" in str(Rejected(77))


def test_layouts_are_what_the_documentation_says() -> None:
    sizes = {layout.name: layout.size for layout in wire.LAYOUTS}
    assert sizes == {
        "frame_head": 8,
        "hello": 88,
        "challenge": 96,
        "proof": 32,
        "verdict": 56,
        "reject": 4,
        "ping": 8,
    }
    longest = wire.HELLO.size + wire.MAX_ADDRESS_TEXT
    assert max(longest, *sizes.values()) <= wire.HANDSHAKE_LIMIT
