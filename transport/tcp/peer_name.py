# SPDX-License-Identifier: Apache-2.0
"""Names of peers: two numbers of 32 bits, as Open MPI's (jobid, vpid)."""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple, Self

from i2o.transport.tcp.errors import PeerError

_WORD: Final = 0xFFFFFFFF


class PeerName(NamedTuple):
    """Who a peer is, wherever it runs. Names are ordered: job first, then rank.

    Attributes:
        job: which program or installation, 0 to 0xFFFFFFFF.
        rank: which of its processes, 0 to 0xFFFFFFFF.
    """

    job: int
    rank: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `JOB.RANK`, decimal or 0x….

        Raises:
            PeerError: EINVAL, it is no name.
        """
        job, dot, rank = text.partition(".")
        try:
            name = cls(int(job, 0), int(rank, 0))
        except ValueError:
            name = cls(-1, -1)
        if not dot or not name.is_valid:
            raise PeerError(errno.EINVAL, f"{text!r} is no peer name; write JOB.RANK, as in 1.0")
        return name

    @property
    def is_valid(self) -> bool:
        """Whether both numbers are in range, and it is not the name that stands for anybody."""
        in_range = 0 <= self.job <= _WORD and 0 <= self.rank <= _WORD
        return in_range and self != ANYBODY

    def __str__(self) -> str:
        return f"{self.job}.{self.rank}"


def random_name() -> PeerName:
    """Return a name that nobody else has, for whoever needs none that others know."""
    bits = int.from_bytes(os.urandom(8), "little")
    return PeerName((bits >> 32) & 0x7FFFFFFF, bits & _WORD)


ANYBODY: Final = PeerName(_WORD, _WORD)
"""Stands for any peer: as a target of a handshake, and as the source of a receive."""
