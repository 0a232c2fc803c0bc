# SPDX-License-Identifier: Apache-2.0
"""What tests of USB have in common: the function of a device, which is open for a host."""

from __future__ import annotations

import pytest

from i2o.transport.usb.interface import device_spec
from i2o.transport.usb.link_function import LinkFunction


@pytest.fixture
def link() -> LinkFunction:
    made = LinkFunction(device_spec("1"), lambda: None)
    made.is_open = True
    return made
