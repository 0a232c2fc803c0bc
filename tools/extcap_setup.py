# SPDX-License-Identifier: Apache-2.0
"""Puts the capture interface and the dissector where Wireshark looks for them, and removes them."""

from __future__ import annotations

import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import i2o
from i2o.errors import TransportUnavailable
from i2o.tools.arguments import UsageError

LAUNCHER: Final = "i2o-extcap"
SCRIPT: Final = "i2o.lua"
_MARK: Final = "written by `i2o extcap --install`"
_PROGRAMS: Final = ("tshark", "wireshark")
_TIMEOUT_S: Final = 30
_PACKAGE: Final = Path(i2o.__file__).resolve().parent.parent
"""The folder in which Python must look for the package."""


def install(extcap_folder: str | None = None, lua_folder: str | None = None) -> list[str]:
    """Write the launcher and the dissector.

    Args:
        extcap_folder: for the launcher, None for the personal folder of Wireshark.
        lua_folder: for the dissector, None for the personal one.

    Returns:
        What was done, in lines.

    Raises:
        TransportUnavailable: there is no Wireshark to ask for its folders.
        UsageError: a file of somebody else has that name.
        OSError: a file cannot be written.
    """
    from i2o.tools.dissector import dissector

    launcher, script = places(extcap_folder, lua_folder)
    _check_ours(launcher)
    for path, text in ((launcher, _launcher(_PACKAGE)), (script, dissector())):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return [
        f"capture interface: {launcher}",
        f"dissector: {script}",
        "start Wireshark again, or: tshark -i i2o",
    ]


def uninstall(extcap_folder: str | None = None, lua_folder: str | None = None) -> list[str]:
    """Remove what `install` wrote; see there."""
    launcher, script = places(extcap_folder, lua_folder)
    _check_ours(launcher)
    lines = []
    for path in (launcher, script):
        if path.exists():
            path.unlink()
            lines.append(f"removed {path}")
        else:
            lines.append(f"not there: {path}")
    return lines


def folders() -> dict[str, str]:
    """Return what Wireshark says about its folders, by name in small letters.

    Raises:
        TransportUnavailable: neither tshark nor wireshark is there, or they do not answer.
    """
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        raise TransportUnavailable(
            "wireshark",
            "neither tshark nor wireshark is installed",
            remedy="install one, or name the folders with --dir and --lua-dir",
        )
    try:
        answer = subprocess.run(
            [program, "-G", "folders"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise TransportUnavailable("wireshark", f"{program} -G folders: {error}") from None
    found: dict[str, str] = {}
    for line in answer.splitlines():
        name, colon, path = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), path.strip())
    return found


def places(extcap_folder: str | None = None, lua_folder: str | None = None) -> tuple[Path, Path]:
    """Return where the launcher and the dissector belong; see `install`."""
    if extcap_folder is None or lua_folder is None:
        known = folders()
        configuration = known.get("personal configuration", "")
        extcap = known.get("personal extcap path") or (configuration and f"{configuration}/extcap")
        lua = known.get("personal lua plugins") or known.get("personal plugins")
        extcap_folder = extcap_folder or extcap
        lua_folder = lua_folder or lua
    if not extcap_folder or not lua_folder:
        raise UsageError("Wireshark names no personal folders", remedy="use --dir and --lua-dir")
    return Path(extcap_folder, LAUNCHER), Path(lua_folder, SCRIPT)


def _check_ours(launcher: Path) -> None:
    if launcher.exists() and _MARK not in launcher.read_text(errors="replace"):
        raise UsageError(f"{launcher} is not ours", remedy="remove it or use another --dir")


def _launcher(package: Path) -> str:
    """Return a shell script that calls this interpreter and the package in a folder."""
    # where it was installed Python finds it by itself
    is_installed = any(part.endswith("-packages") for part in package.parts)
    set_path = (
        ""
        if is_installed
        else f"PYTHONPATH={shlex.quote(str(package))}${{PYTHONPATH:+:$PYTHONPATH}}\n"
        "export PYTHONPATH\n"
    )
    return (
        f"#!/bin/sh\n# I2O capture interface for Wireshark, {_MARK}.\n{set_path}"
        f'exec {shlex.quote(sys.executable)} -m i2o extcap "$@"\n'
    )
