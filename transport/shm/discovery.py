# SPDX-License-Identifier: Apache-2.0
"""The IOPs that other processes of this user serve in shared memory."""

from __future__ import annotations

from collections.abc import Iterator

from i2o.errors import TransportUnavailable
from i2o.transport.found import Found, Obstacle
from i2o.transport.shm.greeting import Mode, Refusal, Refused, close_all, peer_of
from i2o.transport.shm.rendezvous import Meeting, connect, greet, names, path_of

ANSWER_S = 1.0
"""How long a server may take to say what it is."""


def find() -> Iterator[Found]:
    """Yield every IOP under a name. A server is asked, not connected to: nobody is disturbed."""
    for name in names(Meeting.IOP):
        yield _ask(name)


def _ask(name: str) -> Found:
    uri, path = f"shm:{name}", str(path_of(name, Meeting.IOP))
    try:
        with connect(name, Meeting.IOP, ANSWER_S) as end:
            pid = peer_of(end).pid
            answer = greet(end, Mode(0))
    except TransportUnavailable as error:
        obstacle = Obstacle(error.reason, error.remedy)
        return Found("shm", "IOP of another process", uri, "", path, obstacles=(obstacle,))
    obstacles: tuple[Obstacle, ...] = ()
    if not isinstance(answer, Refused):
        close_all(answer.descriptors)
        what = answer.text
    elif answer.code is Refusal.IDLE:
        what = answer.reason
    elif answer.code is Refusal.BUSY:
        what = answer.reason
        obstacles = (Obstacle(f"it is in use by PID {answer.pid}", answer.remedy),)
    else:
        what, obstacles = "", (Obstacle(answer.reason, answer.remedy),)
    return Found(
        kind="shm",
        name=what or "IOP of another process",
        uri=uri,
        why=f"process {pid} serves it",
        address=path,
        details={"pid": pid},
        obstacles=obstacles,
    )
