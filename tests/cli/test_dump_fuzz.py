# SPDX-License-Identifier: Apache-2.0
"""Damaged captures through the whole of `i2o dump`: no traceback, no hang, and a reason given."""

from __future__ import annotations

import random
import time

import pytest

from i2o.tools.cli import main

from .conftest import CHECKOUT

TRACE = CHECKOUT / "tests" / "data" / "linux-5.10-dpt_i2o.jsonl"
FORMS = (
    (), ("-v",), ("-vv", "-x"), ("--json",), ("--stats",), ("--follow", "0"), ("-t", "a", "-n"),
    ("-T", "fields", "-e", "t", "-e", "name", "-e", "cdb", "-e", "address", "-e", "problem"),
    ("--color", "always", "opcode == 0x28 or latency > 1us or problem"),
)  # fmt: skip
ROUNDS = 40
PACKETS = 120


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The beginning of the trace as text and as pcapng."""
    folder = tmp_path_factory.mktemp("seeds")
    lines = TRACE.read_text().splitlines(keepends=True)
    text = folder / "trace.jsonl"
    text.write_text("".join(lines[:60] + lines[300 : 300 + PACKETS - 60]))
    packed = folder / "trace.pcapng"
    assert main(["dump", "-r", str(text), "-q", "-w", str(packed)]) == 0
    return text.read_bytes(), packed.read_bytes()


def _mutated(rng, data):
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 30, 300))):
        at = rng.randrange(len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x00\x00\x00\x80"))
        elif kind == 3:
            del changed[at : at + rng.randrange(1, 40)]
        else:
            changed[at:at] = changed[: rng.randrange(1, 40)]
        if not changed:
            break
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.2 else changed)


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
@pytest.mark.parametrize("kind", [0, 1], ids=["jsonl", "pcapng"])
def test_damaged_captures(seeds, tmp_path, capsys, form, kind):
    rng = random.Random(f"{form}{kind}")
    path = tmp_path / "damaged"
    for _ in range(ROUNDS):
        path.write_bytes(_mutated(rng, seeds[kind]))
        start = time.thread_time()
        code = main(["dump", "-r", str(path), *form])
        assert time.thread_time() - start < 10
        err = capsys.readouterr().err
        assert code in (0, 1)
        assert "Traceback" not in err
        assert (code == 1) == ("i2o: " in err)
        assert all(len(line) < 600 for line in err.splitlines())
