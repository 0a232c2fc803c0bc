# SPDX-License-Identifier: Apache-2.0
"""Serial adapters that `i2o list` shows."""

from __future__ import annotations

import os
import sys

from i2o.transport.serial_line.discovery import NO_PERMISSION, NO_PYSERIAL, find


def test_adapters_are_found_by_their_names(tmp_path, monkeypatch):
    assert list(find(tmp_path / "none")) == []
    device = tmp_path / "ttyUSB0"
    device.touch()
    folder = tmp_path / "by-id"
    folder.mkdir()
    (folder / "usb-maker_b").symlink_to(device)
    (folder / "usb-maker_a").symlink_to(device)
    found = list(find(folder))
    assert [one.uri for one in found] == [f"serial:{folder}/usb-maker_{x}" for x in "ab"]
    assert (found[0].kind, found[0].address, found[0].obstacles) == ("serial", str(device), ())
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setitem(sys.modules, "serial", None)
    monkeypatch.setattr("i2o.transport.serial_line.discovery.find_spec", lambda name: None)
    assert next(find(folder)).obstacles == (NO_PYSERIAL, NO_PERMISSION)
