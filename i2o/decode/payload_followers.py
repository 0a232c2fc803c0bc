# SPDX-License-Identifier: Apache-2.0
"""Who can read what messages of endpoints contain."""

from __future__ import annotations

from i2o.decode.network_payload import NetworkFollower
from i2o.decode.payload import PayloadFollower
from i2o.decode.wire_payload import WireFollower


def payload_followers() -> tuple[PayloadFollower, ...]:
    """Return one follower of every protocol that is known, for one conversation."""
    return (WireFollower(), NetworkFollower())
