# SPDX-License-Identifier: Apache-2.0
"""The wire facts, and every layout beside them: what the tests of this folder are run over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from i2o.frames import catalog
from i2o.frames.layout import Layout

FACTS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "i2o-facts.json").read_text()
)

ALL_LAYOUTS: Final[tuple[Layout, ...]] = (
    *catalog.messages(),
    *catalog.structures(),
    *catalog.parameter_groups(),
)

STRUCTURE_CHAPTERS: Final = {"trl_control_word": "common", "serial_info": "tables"}
"""The facts do not say which chapter a structure is in; these do not show it in their name."""


def message_facts() -> dict[str, dict[str, Any]]:
    """Return the facts of every message that has a layout, by qualified name."""
    return {
        f"{fact['class']}.{fact['name']}.{fact['direction']}": fact
        for fact in FACTS["messages"]
        if fact["fields"] is not None
    }


def group_facts() -> dict[str, dict[str, Any]]:
    """Return the facts of every parameter group, by qualified name."""
    return {
        f"{'private' if 'DPT' in fact['class'] else fact['class']}.{fact['name']}": fact
        for fact in FACTS["parameter_groups"]
    }


def structure_facts() -> dict[str, dict[str, Any]]:
    """Return the facts of every structure, by qualified name."""
    chapters = {"sge": "sgl", "param": "params", "lan": "lan"}
    return {
        f"{STRUCTURE_CHAPTERS.get(name) or chapters.get(name.split('_')[0], 'tables')}.{name}": fact
        for name, fact in FACTS["structures"].items()
    }
