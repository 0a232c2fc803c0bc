# SPDX-License-Identifier: Apache-2.0
"""Looks into the software IOP behind `i2o.open("emu:")`."""

from __future__ import annotations

from i2o.iop import Iop
from i2o.iop_emulator.soft_iop import SoftIop


def soft(iop: Iop) -> SoftIop:
    """Return the IOP itself."""
    software = iop.layer.port(iop.number).soft_iop
    assert isinstance(software, SoftIop)
    return software


def serve(iop: Iop) -> None:
    """Let it serve what was posted, and take what it says to that."""
    iop.layer.run_until(lambda: False, 0)


def everything_is_home(iop: Iop) -> None:
    """Check that all frames are where they belong and nothing is owed."""
    serve(iop)
    software = soft(iop)
    entry = iop.layer._iops.entry(iop.number)
    assert software.unit.idle_inbound() == software.unit.frame_count
    assert software.unit.idle_outbound() == len(entry.reply_frames)
    assert entry.held_replies == {}
    assert iop.layer.outstanding(iop.number) == 0
