# SPDX-License-Identifier: Apache-2.0
"""The private apt: what it is told, what it answers, and what its failures say. No network."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vm.apt_archive import MANIFEST, AptArchive
from vm.apt_sources import Mirrors
from vm.errors import PrepareError

SUITES = ("trixie", "trixie-backports")
MIRRORS = Mirrors("http://a.invalid/debian", None)

APT_GET = """case "$1" in
update) cp "$APT_CONFIG" "$SEEN/conf"; cp "$(dirname "$APT_CONFIG")/etc/sources.list" "$SEEN" ;;
install) echo "$@" >"$SEEN/install"; touch "$(dirname "$APT_CONFIG")/cache/archives/one.deb" ;;
download) touch one.deb ;;
esac
"""
APT_CACHE = "printf '%s\\n' thing-9 thing-10 thing-11-dbg"
APT_CONFIG = """cat <<'END'
Acquire::http::Proxy "http://proxy.invalid:3128";
Acquire::https "";
Acquire::Check-Date "false";
Acquire::IndexTargets::deb::Packages "x";
APT::Update::Post-Invoke:: "touch the machine";
END
"""
DPKG_DEB = """case "$1" in
--extract) touch "$3/extracted" ;;
--show) printf 'one 1:2.3-4' ;;
esac
"""


class Programs:
    """Stand-ins for apt and dpkg, found before the real ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in (
            ("apt-get", APT_GET),
            ("apt-cache", APT_CACHE),
            ("apt-config", APT_CONFIG),
            ("dpkg-deb", DPKG_DEB),
        ):
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path))
    return Programs(folder)


@pytest.fixture
def archive(programs: Programs, tmp_path: Path) -> AptArchive:
    keyrings = tmp_path / "keyrings"
    keyrings.mkdir()
    for name in ("trixie-automatic.gpg", "bookworm-automatic.gpg", "keyring.pgp", "keyring.txt"):
        (keyrings / f"debian-archive-{name}").touch()
    return AptArchive(tmp_path / "apt", SUITES, "i386", MIRRORS, keyrings)


def test_apt_is_told_about_the_suites_and_their_keys(archive: AptArchive, tmp_path: Path) -> None:
    archive.update()
    keys = ",".join(
        f"{tmp_path}/keyrings/debian-archive-{name}"
        for name in ("trixie-automatic.gpg", "keyring.pgp")
    )
    assert (tmp_path / "sources.list").read_text().splitlines() == [
        f"deb [signed-by={keys}] http://a.invalid/debian {suite} main" for suite in SUITES
    ]


def test_apt_keeps_to_its_folder_and_uses_the_machine_s_proxy(
    archive: AptArchive, tmp_path: Path
) -> None:
    archive.update()
    settings = (tmp_path / "conf").read_text().splitlines()
    assert 'APT::Architecture "i386";' in settings
    assert f'Dir::State "{tmp_path}/apt/state";' in settings
    assert [line for line in settings if "Proxy" in line or "Date" in line] == [
        'Acquire::http::Proxy "http://proxy.invalid:3128";',
        'Acquire::Check-Date "false";',
    ]
    assert not [line for line in settings if "Invoke" in line or "IndexTargets" in line]


def test_the_newest_package_has_the_highest_number(archive: AptArchive) -> None:
    archive.update()
    assert archive.newest(r"thing-\d+") == "thing-10"


def test_a_missing_package_is_named_with_the_suites(archive: AptArchive) -> None:
    archive.update()
    with pytest.raises(PrepareError, match=r"no package like other.* in trixie and trixie-back"):
        archive.newest(r"other-\d+")


@pytest.mark.parametrize("dependencies", [True, False])
def test_packages_are_unpacked_and_listed(
    archive: AptArchive, tmp_path: Path, dependencies: bool
) -> None:
    archive.update()
    target = tmp_path / "target"
    target.mkdir()
    archive.unpack(["one"], target, dependencies=dependencies)
    assert (target / "extracted").exists()
    assert json.loads((target / MANIFEST).read_text()) == {"one": "1:2.3-4"}
    assert (tmp_path / "install").exists() == dependencies
    if dependencies:
        assert "--target-release trixie-backports one" in (tmp_path / "install").read_text()


def test_apt_s_error_is_passed_on_in_one_line(archive: AptArchive, programs: Programs) -> None:
    programs.write("apt-get", "echo 'W: so so' >&2; echo 'E: no Release file' >&2; exit 100")
    with pytest.raises(PrepareError) as failed:
        archive.update()
    assert str(failed.value) == (
        "trixie and trixie-backports for i386: apt-get update: E: no Release file"
    )


def test_a_machine_without_apt_is_told_what_is_missing(
    archive: AptArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PrepareError, match="apt-config is missing"):
        archive.update()


def test_missing_keys_name_their_package(archive: AptArchive) -> None:
    for path in archive.keyrings.iterdir():
        path.unlink()
    with pytest.raises(PrepareError, match=r"suite trixie: .* debian-archive-keyring"):
        archive.update()
