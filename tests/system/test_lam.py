# SPDX-License-Identifier: Apache-2.0
"""The same script on real LAM and on ours, over nodes and over an IOP: what differs is a cure.

Needs Debian's lam-runtime and lam4-dev; is skipped where these are missing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import i2o
from fakes.lam import Lam, LamProcess, missing
from fakes.lam_like import OurProcess
from i2o.network_message import DFLT4MSG, DFLT8DATA, DINT4MSG, DRAWDATA, NOBUF, IopNode, Node
from i2o.network_message.descriptor import NREEL

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "LAM is here")

POUCH = "1 -2 3 4 5 6 7 2147483647"
PRIORITIES = {"low": 100, "middle": 500, "high": 900}
SETTLED = 25
"""Looks at a process in which it did nothing, after which it is taken to wait."""


class Step(NamedTuple):
    """One line for one process.

    Attributes:
        who: which process.
        line: what it does.
        waits: it blocks: its answer comes later, from `Answer`.
    """

    who: str
    line: str
    waits: bool = False


class Answer(NamedTuple):
    """Take the answer of a process that blocked."""

    who: str


Script = tuple[Step | Answer, ...]


def send(who: str, event: int, type: int = 0, flags: int = 0, length: int = 40, seed: int = 1,
         node: int = -2, word: str = "send", waits: bool = False) -> Step:  # fmt: skip
    line = f"{word} {node} {event} {type} {flags} {length} {seed} {POUCH}"
    return Step(who, line, waits)


def receive(who: str, event: int, type: int = 0, length: int = 40, *, word: str = "recv",
            waits: bool = False) -> Step:  # fmt: skip
    return Step(who, f"{word} {event} {type} {length}", waits)


NOBUF_FIRST = "NOBUF waits for the receiver"
OWN_NODE = "the own node by number"
"""Not for IOPs: those get their numbers from their hosts."""
SCRIPTS: dict[str, Script] = {
    "the man page's example": (
        send("low", 6, length=13),
        receive("middle", 6, length=16),
    ),
    "events must be equal": (
        send("low", 6),
        receive("low", 7, word="try_recv"),
        receive("low", 6, word="try_recv"),
    ),
    "types need a bit in common": (
        *(send("low", 6, type, seed=type) for type in (1, 2, 4)),
        receive("low", 6, 8, word="try_recv"),
        receive("low", 6, 6, word="try_recv"),
        receive("low", 6, 4, word="try_recv"),
        receive("low", 6, 1, word="try_recv"),
    ),
    "type 0 matches any, from both sides": (
        send("low", 6, 8),
        receive("low", 6, 0, word="try_recv"),
        send("low", 6, 0),
        receive("low", 6, 8, word="try_recv"),
    ),
    "the sign bit is a bit": (
        send("low", 6, -(1 << 31)),
        receive("low", 6, 1, word="try_recv"),
        receive("low", 6, -1, word="try_recv"),
    ),
    "messages of one event come in their order": (
        *(send("low", 6, length=seed, seed=seed) for seed in (3, 1, 2)),
        *(receive("middle", 6) for _ in range(3)),
    ),
    "the highest priority is served first": (
        receive("low", 6, waits=True),
        receive("high", 6, waits=True),
        receive("middle", 6, waits=True),
        send("sender", 6, length=1),
        Answer("high"),
        send("sender", 6, length=2),
        Answer("middle"),
        send("sender", 6, length=3),
        Answer("low"),
    ),
    "of equal priorities the one that waited first": (
        receive("middle", 6, waits=True),
        receive("other middle", 6, waits=True),
        send("sender", 6, length=1),
        Answer("middle"),
        send("sender", 6, length=2),
        Answer("other middle"),
    ),
    "the priority counts only where the type matches": (
        receive("low", 6, 1, waits=True),
        receive("high", 6, 2, waits=True),
        send("sender", 6, 1),
        Answer("low"),
        send("sender", 6, 2),
        Answer("high"),
    ),
    "the lesser length is transferred": (
        send("low", 6, length=100),
        receive("low", 6, length=60),
        send("low", 6, length=60),
        receive("low", 6, length=100),
    ),
    "what is not asked for is gone": (
        send("low", 6, length=20000),
        receive("low", 6, length=9000),
        receive("low", 6, word="try_recv"),
        send("low", 6, length=20000, seed=9),
        receive("low", 6, length=0),
        receive("low", 6, word="try_recv"),
    ),
    "packets": (
        *(
            step
            for length in (8191, 8192, 8193, 20000)
            for step in (send("low", 6, length=length), receive("low", 6, length=length))
        ),
    ),
    "the pouch alone": (send("low", 6, length=0), receive("low", 6, length=0)),
    "flags are carried and not changed": (
        *(
            step
            for flags in (DRAWDATA, DFLT8DATA, DINT4MSG, DFLT4MSG)
            for step in (send("low", 6, flags=flags), receive("low", 6))
        ),
    ),
    "a node that nobody knows": (send("low", 6, node=77), send("low", 6, node=77, word="try_send")),
    OWN_NODE: (
        send("low", 6, node=0),
        receive("low", 6),
        Step("low", "node"),
    ),
    "nothing to receive": (receive("low", 6, word="try_recv"), receive("low", 6, word="probe")),
    "a probe leaves the message": (
        send("low", 6, 5, length=50),
        receive("low", 6, 8, word="probe"),
        receive("low", 6, 4, word="probe"),
        receive("low", 6, 4, length=50),
    ),
    "try_send goes to the buffer": (send("low", 6, word="try_send"), receive("low", 6)),
    NOBUF_FIRST: (
        send("sender", 6, flags=NOBUF, waits=True),
        receive("low", 6),
        Answer("sender"),
    ),
    "NOBUF to a receiver that waits": (
        receive("low", 6, waits=True),
        send("sender", 6, flags=NOBUF),
        Answer("low"),
    ),
    "try_send with NOBUF and nobody there": (send("low", 6, flags=NOBUF, word="try_send"),),
    "sweep": (
        send("low", 6),
        send("low", 7),
        Step("low", "sweep 6"),
        receive("low", 6, word="try_recv"),
        receive("low", 7, word="try_recv"),
        send("low", 6),
        Step("low", "sweep -1"),
        receive("low", 6, word="try_recv"),
    ),
    "tsend and trecv": (
        send("sender", 6, length=20000, word="tsend", waits=True),
        receive("low", 6, length=20000, word="trecv"),
        Answer("sender"),
        receive("low", 6, length=10, word="trecv", waits=True),
        send("sender", 6, length=30, word="tsend"),
        Answer("low"),
    ),
    "conversions": tuple(
        Step("low", f"convert {unit} 000102030405060708090a0b0c0d0e0f") for unit in (2, 4, 5, 8)
    ),
    # what differs, and why
    "a long probe": (send("low", 6, length=20000), receive("low", 6, word="probe")),
    "NREEL": (send("low", 6, flags=NREEL, length=20000),),
    "a long try_send that would block": (
        send("low", 6, flags=NOBUF, length=20000, word="try_send"),
    ),
}

CURES = {
    NOBUF_FIRST: "in LAM a receiver that comes after such a sender never meets it",
    "a probe leaves the message": "LAM's nprobe tells two words of the pouch, ours all eight",
    "a long probe": "LAM's nprobe shows the packet: NMORE, and the length in the pouch",
    "NREEL": "LAM's nsend writes the number of packets to nh_data[6]; NREEL is refused here",
    "a long try_send that would block": "LAM's ntry_send leaves length and event in the header",
    "try_send with NOBUF and nobody there": "LAM sets nh_dl_event although nothing was sent",
}
"""Where ours differs from LAM on purpose."""


class Players:
    """Processes by name, started when they are needed."""

    def __init__(self, start: Callable[[int], LamProcess | OurProcess]) -> None:
        self._start = start
        self._players: dict[str, LamProcess | OurProcess] = {}

    def __getitem__(self, who: str) -> LamProcess | OurProcess:
        if who not in self._players:
            priority = PRIORITIES.get(who.split()[-1], 700)
            self._players[who] = self._start(priority)
        return self._players[who]

    def end(self) -> None:
        for player in self._players.values():
            player.end()


def play(script: Script, players: Players, settle: Callable[[LamProcess | OurProcess], None]):  # type: ignore[no-untyped-def]
    """Do a script; return what came of each step."""
    said = []
    for step in script:
        if isinstance(step, Answer):
            said.append(players[step.who].answer())
        elif step.waits:
            players[step.who].tell(step.line)
            settle(players[step.who])
        else:
            said.append(players[step.who].ask(step.line))
    return said


def settle_lam(player: LamProcess | OurProcess) -> None:
    """Return when a process of LAM's has begun to wait: it sleeps, and has done so for a while."""
    assert isinstance(player, LamProcess)
    status = Path(f"/proc/{player.pid}/status")
    seen, calm = "", 0
    while calm < SETTLED:
        text = status.read_text()
        now = "".join(re.findall(r"^(?:State|\w*voluntary_ctxt_switches):.*$", text, re.MULTILINE))
        calm = calm + 1 if now == seen and "S (sleeping)" in now else 0
        seen = now
        time.sleep(0.002)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What LAM says to each script."""
    said = {}
    with Lam(tmp_path_factory.mktemp("lam")) as lam:
        players = Players(lam.process)
        for name, script in SCRIPTS.items():
            if name != NOBUF_FIRST:
                said[name] = play(script, players, settle_lam)
                players["low"].ask("sweep -1")
        said[NOBUF_FIRST] = _meet(lam)
    return said


def _meet(lam: Lam) -> list[str]:
    """Return what comes of a receiver that follows a sender with NOBUF: nothing, in LAM."""
    sender, receiver = lam.process(700), lam.process(500)
    sender.tell(send("", 6, flags=NOBUF).line)
    settle_lam(sender)
    receiver.tell(receive("", 6).line)
    settle_lam(receiver)
    return [process.answer() for process in (sender, receiver) if process.has_answer()]


@pytest.mark.parametrize("name", SCRIPTS)
def test_node_against_lam(name: str, truth: dict[str, list[str]]) -> None:
    with Node(0) as node:
        players = Players(lambda priority: OurProcess(node, priority))
        try:
            ours = play(SCRIPTS[name], players, _settler(node))
        finally:
            players.end()
    _compare(name, truth[name], ours)


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - {OWN_NODE}))
def test_iop_against_lam(name: str, truth: dict[str, list[str]]) -> None:
    uri = "emu:?network_messages=1M&iop_id=0&run=thread"
    with i2o.open(uri) as iop, IopNode(iop) as node:
        players = Players(lambda priority: OurProcess(node, priority))
        try:
            ours = play(SCRIPTS[name], players, _settler(node))
        finally:
            players.end()
    _compare(name, truth[name], ours)


def _settler(node: Node | IopNode) -> Callable[[LamProcess | OurProcess], None]:
    """Return what waits until the process that was told last waits in the node."""

    def settle(player: LamProcess | OurProcess) -> None:
        assert isinstance(player, OurProcess)
        end = time.monotonic() + 20
        while not any(wait.process == player.name for wait in node.waits()):
            assert time.monotonic() < end, "it does not wait"
            time.sleep(0.001)

    return settle


def _compare(name: str, lams: list[str], ours: list[str]) -> None:
    if name in CURES:
        assert lams != ours, f"LAM does the same now: {CURES[name]}"
    else:
        assert lams == ours


def test_cures_are_named_after_scripts() -> None:
    assert set(CURES) <= set(SCRIPTS)
