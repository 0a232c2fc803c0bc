# SPDX-License-Identifier: Apache-2.0
"""A medium in memory, and endpoints with what came out of their queues."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fakes.endpoint_end import Ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    with Ends() as made:
        yield made
