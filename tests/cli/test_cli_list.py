# SPDX-License-Identifier: Apache-2.0
"""`list`: what can be opened, as lines and as JSON."""

from __future__ import annotations

import i2o.tools.list as listing
from i2o.transport.found import Found, Obstacle

CARD = Found(
    "pci",
    "a card",
    "vfio:0000:03:00.0",
    "it is bound to vfio-pci",
    address="0000:03:00.0",
    details={"vendor": "1044", "driver": None, "iommu_group": "7"},
)
SHUT = Found(
    "pci",
    "bad\x1bname",
    "sysfs:0000:04:00.0",
    "",
    obstacles=(Obstacle("no", "do"), Obstacle("x", "")),
)


def test_the_software_iop_is_always_there(cli):
    ran = cli("list")
    assert (ran.code, ran.err) == (0, "")
    assert "emu:  software IOP with a disk in memory\n    can be opened: " in ran.out


def test_lines(cli, monkeypatch):
    monkeypatch.setattr(listing, "find_iops", lambda: [CARD, SHUT])
    assert cli("list").out.splitlines() == [
        "vfio:0000:03:00.0  a card",
        "    vendor 1044, iommu group 7",
        "    can be opened: it is bound to vfio-pci",
        "sysfs:0000:04:00.0  bad?name",
        "    in the way: no",
        "    -> do",
        "    in the way: x",
    ]


def test_json(cli, monkeypatch):
    monkeypatch.setattr(listing, "find_iops", lambda: [CARD, SHUT])
    card, shut = cli("list", "--json").records
    assert card == {
        "kind": "pci",
        "name": "a card",
        "address": "0000:03:00.0",
        "uri": "vfio:0000:03:00.0",
        "why": "it is bound to vfio-pci",
        "usable": True,
        "obstacles": [],
        "vendor": "1044",
        "driver": None,
        "iommu_group": "7",
    }
    assert (shut["usable"], shut["address"]) == (False, None)
    assert shut["obstacles"][0] == {"reason": "no", "remedy": "do"}
