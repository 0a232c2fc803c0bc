# SPDX-License-Identifier: Apache-2.0
"""Starting modules of this package as processes of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from i2o import errors


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the words that run a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """Return an environment in which a child finds the same i2o as this process."""
    root = str(Path(errors.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
