# SPDX-License-Identifier: Apache-2.0
"""Downloads packages with an apt of its own, and unpacks them, without touching the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vm.apt_sources import Mirrors
from vm.errors import PrepareError

MANIFEST = "packages.json"
"""The file in an unpacked folder that names its packages and their versions."""

_KEYRINGS = Path("/usr/share/keyrings")
_INHERITED = re.compile(r"Acquire::(?:https?|ftp|Retries|Force\w+|Check-\w+)(?:::.*)? \".+\";")
"""Settings of the machine that say how it reaches a mirror: a proxy, a clock that is off."""


@dataclass(frozen=True)
class AptArchive:
    """Some suites for one architecture, with an empty machine to install them on.

    Args:
        folder: for lists and downloads; whoever made it removes it.
        suites: where packages come from; the last one is preferred.
        architecture: Debian's name of it.
        mirrors: where the suites are.
        keyrings: the folder with Debian's keys.
    """

    folder: Path
    suites: Sequence[str]
    architecture: str
    mirrors: Mirrors = field(default_factory=Mirrors.of_machine)
    keyrings: Path = _KEYRINGS

    def update(self) -> None:
        """Get the lists of packages."""
        etc, state = self.folder / "etc", self.folder / "state"
        for new in (etc / "parts", state / "lists" / "partial", self._packages / "partial"):
            new.mkdir(parents=True)
        (state / "status").touch()
        (self.folder / "apt.conf").write_text(self._settings())
        (etc / "sources.list").write_text(
            "".join(f"{self._source(suite)}\n" for suite in self.suites)
        )
        self._apt("apt-get", "update", "--error-on=any")

    def newest(self, pattern: str) -> str:
        """Return the package with a name like that and the highest numbers in it."""
        first = re.split(r"[\\\[(.*+?]", pattern)[0]
        names = self._apt("apt-cache", "pkgnames", first).split()
        matching = [name for name in names if re.fullmatch(pattern, name)]
        if not matching:
            raise PrepareError(f"no package like {pattern} in {self._where}")
        return max(matching, key=_numbers)

    def unpack(self, names: Iterable[str], target: Path, *, dependencies: bool = True) -> None:
        """Download packages, unpack all of them into one folder, and list them there.

        Args:
            names: of the packages.
            target: the folder.
            dependencies: whether to get what they depend on, too.
        """
        if dependencies:
            self._apt(
                *("apt-get", "install", "--yes", "--download-only", "--no-install-recommends"),
                *("--target-release", self.suites[-1], *names),
            )
        else:
            self._apt("apt-get", "download", *names, cwd=self._packages)
        versions: dict[str, str] = {}
        for package in sorted(self._packages.glob("*.deb")):
            _run("dpkg-deb", "--extract", str(package), str(target))
            shown = _run("dpkg-deb", "--show", "--showformat=${Package} ${Version}", str(package))
            name, version = shown.split()
            versions[name] = version
            package.unlink()
        (target / MANIFEST).write_text(json.dumps(versions, indent=1, sort_keys=True))

    @property
    def _packages(self) -> Path:
        return self.folder / "cache" / "archives"

    @property
    def _where(self) -> str:
        return f"{' and '.join(self.suites)} for {self.architecture}"

    def _apt(self, *command: str, cwd: Path | None = None) -> str:
        environment = {"APT_CONFIG": str(self.folder / "apt.conf"), "LC_ALL": "C"}
        try:
            return _run(*command, "--quiet=2", cwd=cwd, environment=environment)
        except PrepareError as error:
            raise PrepareError(f"{self._where}: {error}") from None

    def _source(self, suite: str) -> str:
        codename = suite.partition("-")[0]
        keys = [
            str(path)
            for pattern in (f"debian-archive-{codename}-*", "debian-archive-keyring.*")
            for path in sorted(self.keyrings.glob(pattern))
            if path.suffix in (".gpg", ".pgp")
        ]
        if not keys:
            raise PrepareError(
                f"suite {suite}: no key of Debian's archive in {self.keyrings}; "
                "install the package debian-archive-keyring"
            )
        return f"deb [signed-by={','.join(keys)}] {self.mirrors.uri(suite)} {suite} main"

    def _settings(self) -> str:
        ours = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "root",
            "Acquire::Check-Valid-Until": "false",  # security archives of old releases stand still
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::Cache": self.folder / "cache",
            "Dir::Etc": self.folder / "etc",
            "Dir::Etc::netrc": "/etc/apt/auth.conf",
            "Dir::Etc::netrcparts": "/etc/apt/auth.conf.d",
            "Dir::Etc::parts": self.folder / "etc" / "parts",
            "Dir::State": self.folder / "state",
            "Dir::State::status": self.folder / "state" / "status",
        }
        machine = _run("apt-config", "dump").splitlines()
        return "\n".join(
            [line for line in machine if _INHERITED.fullmatch(line)]
            + [f'{name} "{value}";' for name, value in ours.items()]
            + [""]
        )


def machine_architecture() -> str:
    """Return Debian's name for the architecture of this machine."""
    return _run("dpkg", "--print-architecture").strip()


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _run(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    program = shutil.which(command[0])
    if program is None:
        raise PrepareError(f"{command[0]} is missing: guests are made on Debian, from its packages")
    done = subprocess.run(
        [program, *command[1:]],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E: ", "dpkg-deb: error"))]
        said = (errors or lines or [f"exit status {done.returncode}"])[0]
        raise PrepareError(f"{' '.join(command[:2])}: {said}")
    return done.stdout
