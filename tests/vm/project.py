# SPDX-License-Identifier: Apache-2.0
"""The project itself as files for a guest, laid out as it is when it is installed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_TARGET = "/usr/lib/python3/dist-packages"
_FOLDERS = {
    "i2o": "i2o",
    "transport": "i2o/transport",
    "iop_emulator": "i2o/iop_emulator",
    "tools": "i2o/tools",
}
_NEEDED = ("construct",)
"""What the project imports and Debian does not have in a version that will do."""


def project_files(*packages: str) -> dict[str, bytes | Path]:
    """Return where the project and what it needs go in a guest with Python.

    Args:
        packages: and modules of this machine's Python, that the guest is to have, too.
    """
    files: dict[str, bytes | Path] = {
        f"{_TARGET}/{target}": _ROOT / source for source, target in _FOLDERS.items()
    }
    for name in (*_NEEDED, *packages):
        path = Path(import_module(name).__file__ or "")
        source = path.parent if path.name == "__init__.py" else path
        files[f"{_TARGET}/{source.name}"] = source
    return files
