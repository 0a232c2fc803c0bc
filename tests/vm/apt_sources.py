# SPDX-License-Identifier: Apache-2.0
"""Finds the machine's own mirrors of Debian's archives in its apt sources, in both formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vm.errors import PrepareError

_RELEASE = "(?:(?:old){0,2}stable|testing|unstable|sid|bullseye|bookworm|trixie|forky|duke)"
_MAIN_SUITE = re.compile(rf"{_RELEASE}(?:-updates|-proposed-updates|-backports(?:-sloppy)?)?")
_SECURITY_SUITE = re.compile(rf"{_RELEASE}-security")
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<rest>\S.*)")
_FIELD = re.compile(r"(?P<name>[\w-]+):\s*(?P<value>.*)")


@dataclass(frozen=True)
class Source:
    """A mirror, with the suites that the machine takes from it.

    Args:
        uri: where the mirror is.
        suites: `trixie`, `trixie-updates` and the like.
        components: `main` and the like.
        signed_by: the files or the text of the keys, empty if the source does not say.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    @property
    def is_debian(self) -> bool:
        """Whether this can be Debian's own archive: others use its suite names, too."""
        return (
            "main" in self.components
            and not self.uri.startswith("cdrom:")
            and (not self.signed_by or "debian-archive" in self.signed_by)
        )


@dataclass(frozen=True)
class Mirrors:
    """The mirrors of Debian's two archives.

    Args:
        main: the archive of releases and backports, or nothing.
        security: the archive of security updates, or nothing.
    """

    main: str | None
    security: str | None

    @classmethod
    def of_machine(cls, etc: Path = Path("/etc/apt")) -> Mirrors:
        """Return the mirrors that this machine uses."""
        files = sorted((etc / "sources.list.d").glob("*.list"))
        sources = [
            source
            for path in (etc / "sources.list", *files)
            if path.is_file()
            for source in parse_lines(path.read_text())
        ]
        for path in sorted((etc / "sources.list.d").glob("*.sources")):
            sources += parse_stanzas(path.read_text())
        return cls.among(sources)

    @classmethod
    def among(cls, sources: Iterable[Source]) -> Mirrors:
        """Return the first source of each archive."""
        found: dict[re.Pattern[str], str] = {}
        for source in sources:
            for pattern in (_MAIN_SUITE, _SECURITY_SUITE):
                if source.is_debian and any(pattern.fullmatch(name) for name in source.suites):
                    found.setdefault(pattern, source.uri)
        return cls(found.get(_MAIN_SUITE), found.get(_SECURITY_SUITE))

    def uri(self, suite: str) -> str:
        """Return the mirror that has a suite."""
        is_security = bool(_SECURITY_SUITE.fullmatch(suite))
        uri = self.security if is_security else self.main
        if uri is None:
            archive = "security archive" if is_security else "archive"
            raise PrepareError(
                f"suite {suite}: the apt sources of this machine name no mirror of Debian's "
                f"{archive}; add one to /etc/apt/sources.list"
            )
        return uri


def parse_lines(text: str) -> Iterator[Source]:
    """Yield the sources of a `sources.list`: one a line, `deb [options] uri suite components`."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None:
            continue
        options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
        suite, *components = match["rest"].split()
        yield Source(match["uri"], (suite,), tuple(components), options.get("signed-by", ""))


def parse_stanzas(text: str) -> Iterator[Source]:
    """Yield the sources of a `.sources` file: stanzas of fields, parted by empty lines.

    Comments are whole lines, and look like neither a field nor the rest of one.
    """
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line[:1] in (" ", "\t") and line.strip():
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
        elif match := _FIELD.fullmatch(line.strip()):
            name = match["name"].lower()
            fields[name] = match["value"]
        elif not line.strip():
            yield from _sources_of(fields)
            fields = {}


def _sources_of(fields: dict[str, str]) -> Iterator[Source]:
    enabled = fields.get("enabled", "yes").strip().lower() not in ("no", "false", "0", "off")
    if enabled and "deb" in fields.get("types", "").split():
        for uri in fields.get("uris", "").split():
            yield Source(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", "").strip(),
            )
