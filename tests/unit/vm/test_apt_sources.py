# SPDX-License-Identifier: Apache-2.0
"""Debian's mirrors are found in apt sources of every form, and nobody else's are taken for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm.apt_sources import Mirrors, Source, parse_lines, parse_stanzas
from vm.errors import PrepareError

KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_one_line_format() -> None:
    text = f"""
    # deb http://commented.invalid/debian trixie main
    deb http://a.invalid/debian trixie main contrib # and why
    deb-src http://source.invalid/debian trixie main
    deb [arch=amd64 signed-by={KEYS}] http://b.invalid/debian-security trixie-security main
    """
    assert list(parse_lines(text)) == [
        Source("http://a.invalid/debian", ("trixie",), ("main", "contrib")),
        Source("http://b.invalid/debian-security", ("trixie-security",), ("main",), KEYS),
    ]


def test_stanzas() -> None:
    text = f"""# what a stanza looks like
Types: deb deb-src
# a comment in the middle
URIs: http://a.invalid/debian
 http://b.invalid/debian
Suites: trixie
\ttrixie-updates
Components: main
Signed-By: {KEYS}

Types: deb-src
URIs: http://source.invalid/debian
Suites: trixie
Components: main

Enabled: no
Types: deb
URIs: http://disabled.invalid/debian
Suites: trixie
Components: main
"""
    suites = ("trixie", "trixie-updates")
    assert list(parse_stanzas(text)) == [
        Source("http://a.invalid/debian", suites, ("main",), KEYS),
        Source("http://b.invalid/debian", suites, ("main",), KEYS),
    ]


def test_a_key_in_the_stanza_is_one_value() -> None:
    text = """Types: deb
URIs: http://a.invalid/
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 Suites: nonsense
 -----END PGP PUBLIC KEY BLOCK-----
"""
    (source,) = parse_stanzas(text)
    assert source.suites == ("trixie",)
    assert not source.is_debian


def test_the_machine_s_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.invalid/debian bookworm main\n")
    security = "Types: deb\nURIs: http://s.invalid/\nSuites: bookworm-security\nComponents: main\n"
    (tmp_path / "sources.list.d" / "s.sources").write_text(security)
    (tmp_path / "sources.list.d" / "off.list.save").write_text("deb http://x.invalid/ sid main\n")
    mirrors = Mirrors.of_machine(tmp_path)
    assert mirrors == Mirrors("http://a.invalid/debian", "http://s.invalid/")


@pytest.mark.parametrize(
    "stranger",
    [
        Source("http://x.invalid/", ("bookworm",), ("stable",)),
        Source("http://x.invalid/", ("bookworm",), ("main",), "/etc/apt/keyrings/x.gpg"),
        Source("http://x.invalid/", ("bookworm-x",), ("main",)),
        Source("http://x.invalid/ubuntu", ("noble",), ("main",)),
        Source("cdrom:[Debian]/", ("bookworm",), ("main",)),
    ],
)
def test_strangers_are_passed_over(stranger: Source) -> None:
    ours = Source("http://a.invalid/", ("bookworm-updates",), ("main",), KEYS)
    assert Mirrors.among([stranger, ours]).main == "http://a.invalid/"


def test_suites_go_to_the_archive_that_has_them() -> None:
    mirrors = Mirrors("http://a.invalid/", "http://s.invalid/")
    assert mirrors.uri("trixie-backports") == mirrors.uri("trixie") == "http://a.invalid/"
    assert mirrors.uri("bullseye-security") == "http://s.invalid/"


def test_a_missing_archive_is_named_with_the_suite() -> None:
    mirrors = Mirrors("http://a.invalid/", None)
    with pytest.raises(PrepareError, match=r"bullseye-security: .* no mirror of .* security arch"):
        mirrors.uri("bullseye-security")
