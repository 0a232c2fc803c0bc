# SPDX-License-Identifier: Apache-2.0
"""The key that peers share, and the proofs made with it.

It comes from a file or the environment, never from a command line, which every user can read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from i2o.errors import TransportUnavailable
from i2o.transport.tcp.wire import NO_PROOF

KEY_VARIABLE: Final = "I2O_PEER_KEY"
"""The key itself."""
KEY_FILE_VARIABLE: Final = "I2O_PEER_KEY_FILE"
"""The path of a file with the key."""
MIN_KEY: Final = 16
MAX_KEY: Final = 4096


class PeerKey:
    """A pre-shared key: what proves that somebody belongs to us.

    Args:
        secret: 16 to 4096 bytes, best 32 random ones.

    Raises:
        TransportUnavailable: it is too short or too long.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if not MIN_KEY <= len(secret) <= MAX_KEY:
            raise TransportUnavailable(
                "tcp",
                f"a key of {len(secret)} bytes; {MIN_KEY} to {MAX_KEY} are allowed",
                remedy="make one: (umask 077; openssl rand -hex 32 > peers.key)",
            )
        self._secret = secret

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a key; white space at its end does not count.

        Raises:
            TransportUnavailable: it cannot be read, or others can read it, too.
        """
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                secret = file.read(MAX_KEY + 2)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            why = error.strerror if isinstance(error, OSError) else error
            raise TransportUnavailable(
                "tcp", f"key file {str(path)!r}: {why}", remedy="name a readable file"
            ) from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise TransportUnavailable(
                "tcp",
                f"key file {str(path)!r} can be read or written by others",
                remedy=f"chmod 600 {path}",
            )
        return cls(secret.rstrip())

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self | None:
        """Return the key that `I2O_PEER_KEY` or `I2O_PEER_KEY_FILE` names, or None.

        Raises:
            TransportUnavailable: as for `from_file`.
        """
        variables = os.environ if environment is None else environment
        if text := variables.get(KEY_VARIABLE):
            return cls(os.fsencode(text))
        if path := variables.get(KEY_FILE_VARIABLE):
            return cls.from_file(path)
        return None

    def proof(self, role: bytes, transcript: bytes) -> bytes:
        """Return the proof for one role in one handshake.

        Args:
            role: who makes it: no proof serves in another role.
            transcript: everything that was said before it.
        """
        digest = hashlib.sha256(transcript).digest()
        return hmac.digest(self._secret, b"i2o-peer-1 " + role + b"\0" + digest, "sha256")

    def __repr__(self) -> str:
        return "<PeerKey>"


def check_key(key: object) -> None:
    """Raise TypeError for what is neither a key nor None; bytes alone are none."""
    if key is not None and not isinstance(key, PeerKey):
        raise TypeError(
            "a key is a PeerKey, as PeerKey.from_file(path) or PeerKey(secret) make them, "
            f"not {type(key).__name__}"
        )


def make_proof(key: PeerKey | None, role: bytes, transcript: bytes) -> bytes:
    """Return the proof, or what stands for it between peers without a key."""
    return NO_PROOF if key is None else key.proof(role, transcript)


def is_proof(key: PeerKey | None, role: bytes, transcript: bytes, proof: bytes) -> bool:
    """Compare a proof, in a time that does not depend on where it differs."""
    return hmac.compare_digest(make_proof(key, role, transcript), proof)
