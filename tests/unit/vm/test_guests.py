# SPDX-License-Identifier: Apache-2.0
"""A test whose guest is not prepared is skipped, and what it runs on is what it asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm.cache import Cache
from vm.guest import Machine
from vm.guests import Guests
from vm.initramfs import Job
from vm.inventory import DEBIAN_11


def test_an_empty_cache_skips_with_the_reason(tmp_path: Path) -> None:
    with Guests(Cache(tmp_path / "cache"), tmp_path) as guests:
        for use in (lambda: guests.boot(DEBIAN_11, Job("#!/bin/sh\n")), guests.qemu):
            with pytest.raises(pytest.skip.Exception, match=r"run `python tests/vm/prepare\.py`"):
                use()


def test_a_plain_machine_is_translated_and_shares_its_memory() -> None:
    words = Machine().words()
    assert words[:2] == ["-accel", "tcg"]
    assert "memory-backend-memfd,id=ram,size=512M,share=on" in words
    assert not [word for word in words if "iommu" in word]
    assert "iommu" not in Machine().kernel_line()


def test_a_machine_with_devices_has_its_iommu_before_them() -> None:
    machine = Machine(["-device", "edu"], "debug", memory_mb=256, iommu=True)
    devices = [
        after
        for word, after in zip(machine.words(), machine.words()[1:], strict=False)
        if word == "-device"
    ]
    assert devices == ["intel-iommu,intremap=on,caching-mode=on", "edu"]
    assert machine.kernel_line().endswith(" intel_iommu=on debug")
    assert "256M" in machine.words()
