# SPDX-License-Identifier: Apache-2.0
"""Fixtures that boot guests out of the cache that `prepare.py` fills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vm.cache import Cache
from vm.guests import Guests


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let guests boot first where several processes share the tests: they take longest."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "guests" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def vm_cache() -> Cache:
    return Cache.of_user()


@pytest.fixture
def guests(vm_cache: Cache, tmp_path: Path) -> Iterator[Guests]:
    with Guests(vm_cache, tmp_path) as guests:
        yield guests
