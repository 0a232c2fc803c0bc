# SPDX-License-Identifier: Apache-2.0
"""Builds the project's extension module for guests of 32 bits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from i2o.transport.native_build import builder

COMPILER = "i686-linux-gnu-gcc"
"""Of Debian's package gcc-i686-linux-gnu."""


def build_for_i686(folder: Path, headers: Path) -> Path:
    """Return the module, which any Python 3 of that architecture can load.

    Args:
        folder: takes it.
        headers: where to include Python's headers from.
    """
    compiler = shutil.which(COMPILER)
    if compiler is None:
        pytest.skip(f"{COMPILER} is missing: install gcc-i686-linux-gnu")
    source, module = folder / "_native.c", folder / "_native.abi3.so"
    builder.emit_c_code(str(source))
    _, _, _, options = builder._assigned_source
    macros = [f"-D{name}={value}" for name, value in options["define_macros"]]
    (python,) = headers.glob("python3*")
    subprocess.run(
        [
            *(compiler, "-O2", "-fPIC", "-shared", "-Wall", "-Werror", *macros),
            *("-I", str(headers), "-I", str(python), "-o", str(module), str(source)),
        ],
        check=True,
    )
    return module
