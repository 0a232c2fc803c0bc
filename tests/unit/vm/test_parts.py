# SPDX-License-Identifier: Apache-2.0
"""What is missing is named, and a part that is made differently has a place of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vm import prepare
from vm.cache import Cache
from vm.errors import NotPrepared
from vm.inventory import DEBIAN_11, DEBIAN_13, PARTS, QEMU
from vm.parts import QEMU_SINCE, Userland, qemu_version


def test_a_part_that_is_not_prepared_names_package_suite_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotPrepared) as missing:
        DEBIAN_11.image(Cache(tmp_path))
    for word in ("linux-image-5", "bullseye-security", str(tmp_path), "tests/vm/prepare.py"):
        assert word in str(missing.value)


def test_entries_differ_when_recipes_do() -> None:
    assert len({part.entry for part in PARTS}) == len(PARTS)
    assert replace(QEMU, suites=("sid",)).entry != QEMU.entry
    assert replace(DEBIAN_13, architecture="i386").entry != DEBIAN_13.entry


def test_entries_differ_when_what_packs_them_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {part: part.entry for part in PARTS}
    monkeypatch.setattr(Userland, "made_by", ())
    changed = {part for part in PARTS if part.entry != before[part]}
    assert changed == {part for part in PARTS if isinstance(part, Userland)}


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright", (11, 1)),
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", (7, 2)),
        ("cannot open shared object file", ()),
    ],
)
def test_versions_of_qemu(says: str, version: tuple[int, ...]) -> None:
    assert qemu_version(says) == version
    assert (version >= QEMU_SINCE) == (version == (11, 1))


def test_prepare_says_in_one_line_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("I2O_VM_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    assert prepare.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prepare.py: qemu: ")
    assert "is missing" in line
