# SPDX-License-Identifier: Apache-2.0
"""Checks of the ports that other distributions bring along."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Final

from i2o.tools.checks.finding import Check, Finding, note, ok, problem
from i2o.tools.checks.machine import Machine
from i2o.transport.registry import ENTRY_POINT_GROUP, own_schemes


def _ports(machine: Machine) -> Iterator[Finding]:
    own = own_schemes()
    yield ok(f"our own: {', '.join(own)}")
    seen: set[str] = set()
    for point in machine.ports():
        source = point.dist.name if point.dist is not None else point.value
        if point.name in own or point.name in seen:
            yield note(
                f"{point.name}: of {source} is never used: the name is taken",
                f"uninstall {source}, or have it rename its port",
            )
        elif not point.name.isidentifier():
            yield problem(
                f"{point.name!r} of {source} can be in no URI",
                f"have {source} name its port with letters, digits and underscores",
            )
        else:
            yield _load(point, source)
        seen.add(point.name)


def _load(point: EntryPoint, source: str) -> Finding:
    try:
        backend = point.load()
    except Exception as error:  # somebody else's module may raise anything
        return problem(
            f"{point.name}: of {source} does not load: {type(error).__name__}: {error}",
            f"reinstall {source}",
        )
    if not callable(getattr(backend, "from_uri", None)):
        return problem(
            f"{point.name}: of {source} is no port: {point.value} has no from_uri",
            f"have {source} name a class with from_uri in the group {ENTRY_POINT_GROUP}",
        )
    return ok(f"{point.name}: of {source}")


CHECKS: Final[tuple[Check[Machine], ...]] = (Check("ports", _ports),)
