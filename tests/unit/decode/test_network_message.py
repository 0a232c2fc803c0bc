# SPDX-License-Identifier: Apache-2.0
"""Network messages of an IOP in captures: requests and replies decode from their layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

import i2o
from i2o.capture import capture
from i2o.network_message import IopNode, nmsg
from i2o.tools.cli import main


def test_private_messages_of_an_iop_decode_in_a_dump(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "nmsg.pcapng"
    with i2o.open(capture("emu:?network_messages=64K", trace)) as iop, IopNode(iop) as node:
        process = node.attach("p")
        process.nsend(nmsg(nh_event=77, nh_type=5, nh_msg=b"hello"))
        process.nrecv(nmsg(nh_event=77, nh_msg=bytearray(9)))
        assert process.sweep() == 0
    assert main(["dump", "-r", str(trace), "-vv", "name contains network_message"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "network_message_send",
        "network_message_receive",
        "network_message_sweep",
        "event 77",
        "dl_event",
        "pouch",
        "count",
    ):
        assert text in shown
