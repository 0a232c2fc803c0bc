# SPDX-License-Identifier: Apache-2.0
"""The tap on the device's side records a request as long as it says that it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from i2o.frames.utility import UTIL_CLAIM, UTIL_NOP
from i2o.transport.bus_space import BusSpace
from i2o.transport.capture.unit_tap import TapUnit
from i2o.transport.local_unit import LocalUnit


@pytest.mark.parametrize(
    ("frame", "recorded"),
    [
        (UTIL_NOP.build(), 12),
        (UTIL_CLAIM.build(target_address=0x010, claim_type=1), 20),
        (b"\x01\x00\x00\x00" + bytes(12), 16),  # it says nothing, so all there is
    ],
)
def test_requests_are_recorded_as_long_as_they_say(frame, recorded):
    seen = []
    recorder = SimpleNamespace(
        wants_dma=False,
        table_bytes=0,
        bulk_bytes=0,
        request=lambda when, mfa, data: seen.append((mfa, bytes(data))),
    )
    unit = LocalUnit(BusSpace(), frame_count=1, frame_size=64)
    tap = TapUnit(unit, recorder, lambda data: False)
    mfa = unit.alloc()
    unit.write(mfa, frame)
    unit.post(mfa)
    posted = tap.fetch()
    assert len(posted.data) >= 16
    assert seen == [(mfa, posted.data[:recorded])]
