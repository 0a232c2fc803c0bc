# SPDX-License-Identifier: Apache-2.0
"""A peer made of a blocking socket, which does exactly what a test tells it, also what is wrong."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any

from i2o.closing import Closing
from i2o.transport.tcp import message_wire, wire
from i2o.transport.tcp.address import parse_address
from i2o.transport.tcp.handshake import Caller, Identity, Listener, Remote
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.wire import Answer, Kind, Purpose

PATIENCE_S = 20.0


class RawLink(Closing):
    """One connection; every call blocks until it is done."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(PATIENCE_S)
        self.socket = end

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frame(self, kind: int, payload: bytes = b"") -> None:
        self.write(wire.frame(kind, payload))

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError(f"the other end closed after {len(data)} of {count} bytes")
            data += more
        return data

    def take(self) -> tuple[int, bytes]:
        """Return kind and payload of the next frame."""
        length, kind, _, _ = wire.unpack_head(self.read(wire.HEAD_SIZE))
        return kind, self.read(length)

    def expect(self, kind: int) -> memoryview:
        """Return the payload of the next frame of a kind; keepalives are passed over."""
        while True:
            found, payload = self.take()
            if found == kind:
                return memoryview(payload)
            assert found in (Kind.PING, Kind.PONG), f"a frame of kind {found}, not {kind}"

    @property
    def is_closed_by_peer(self) -> bool:
        """Wait for the end of the link; what comes before it is thrown away."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(65536):
                pass
        return True

    def reset(self) -> None:
        """Close with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    # --- messages --------------------------------------------------------------------------------

    def resume(
        self, id: int = 7, peer_id: int = 0, received: int = 0, window: int = 1 << 20
    ) -> Any:
        """Exchange RESUME; return the other end's."""
        said = message_wire.RESUME.unpack_from(self.expect(Kind.DATA))
        self.frame(
            Kind.DATA,
            message_wire.RESUME.build(
                kind=3, id=id, peer_id=peer_id, received=received, credit=window, window=window
            ),
        )
        return said

    def message(self) -> tuple[Any, bytes]:
        """Return head and data of the next message; bare acknowledgements are passed over."""
        while True:
            payload = self.expect(Kind.DATA)
            if payload[0] == message_wire.MessageKind.MESSAGE:
                return message_wire.MESSAGE.unpack_from(payload), bytes(
                    payload[message_wire.MESSAGE_SIZE :]
                )

    def acknowledge(self, sequence: int, credit: int = 1 << 20) -> None:
        self.frame(Kind.DATA, message_wire.ACK.build(kind=2, ack=sequence, credit=credit))


class RawPeer(Closing):
    """A name, an incarnation, and a listening socket if it is asked for its address."""

    def __init__(
        self,
        name: PeerName,
        incarnation: int = 1,
        *,
        key: PeerKey | None = None,
        purpose: Purpose = Purpose.MESSAGES,
    ) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE_S)
        self.address = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.identity = Identity(name, incarnation, purpose, 1 << 20, self.address, False, key)
        self.serial = 0
        self.links: list[RawLink] = []

    def connect(self, address: str) -> RawLink:
        """Connect, and say nothing."""
        host, port = parse_address(address)
        link = RawLink(socket.create_connection((host, port), timeout=PATIENCE_S))
        self.links.append(link)
        return link

    def call(self, address: str, *, serial: int | None = None) -> tuple[RawLink, int]:
        """Connect and shake hands; return the link and the other end's answer."""
        self.serial = self.serial + 1 if serial is None else serial
        link = self.connect(address)
        caller = Caller(self.identity, ANYBODY, self.serial, os.urandom(32))
        link.write(caller.hello())
        _, proof = caller.challenge(link.expect(Kind.CHALLENGE))
        link.write(proof)
        answer, _, _ = caller.verdict(link.expect(Kind.VERDICT))
        return link, answer

    def accept(self) -> RawLink:
        """Accept a connection, and say nothing."""
        end, _ = self.listener.accept()
        link = RawLink(end)
        self.links.append(link)
        return link

    def challenge(self, link: RawLink) -> tuple[Listener, Remote]:
        """Answer HELLO, and take the proof."""
        listener = Listener(self.identity, os.urandom(32))
        remote, challenge = listener.hello(link.expect(Kind.HELLO))
        link.write(challenge)
        listener.proof(link.expect(Kind.PROOF))
        return listener, remote

    def admit(self, answer: Answer = Answer.ACCEPTED) -> tuple[RawLink, Remote]:
        """Accept a connection and shake hands."""
        link = self.accept()
        listener, remote = self.challenge(link)
        self.serial += 1
        link.write(listener.verdict(answer, serial=self.serial))
        return link, remote

    def close(self) -> None:
        self.listener.close()
        for link in self.links:
            link.close()
