# SPDX-License-Identifier: Apache-2.0
"""The compiled extensions under the address and undefined behaviour sanitizers.

A copy of the project gets extensions that check every access, and runs those tests there that go
through most of their code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from runpy import run_path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("i2o", "transport", "iop_emulator", "tools", "tests")
CHECKS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")
SHM = "tests/unit/transport/shm"
MESSAGES = {
    "transport/_native": [
        f"{SHM}/test_{name}.py" for name in ("tables", "halves", "ring", "fast_path")
    ],
    "transport/ofi/_libfabric": ["tests/unit/transport/ofi/test_ofi_books.py"],
}
"""Which tests go through an extension."""


def libraries() -> list[str] | None:
    """Return the sanitizers' libraries, which must be loaded first, or None if there are none."""
    found = []
    for name in ("libasan.so", "libubsan.so"):
        command = ["gcc", f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if not os.path.isabs(path):
            return None
        found.append(path)
    return found


def headers() -> str:
    return sysconfig.get_path("include")


pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and its sanitizers"),
    pytest.mark.skipif(
        not Path(headers(), "Python.h").is_file(), reason="needs Python's headers (python3-dev)"
    ),
]


def build(copy: Path, extension: str) -> None:
    """Compile an extension with checks into a copy of the project."""
    script = copy / Path(extension).parent / "native_build.py"
    builder = run_path(str(script))["builder"]
    source = copy / "extension.c"
    builder.emit_c_code(str(source))
    _, _, _, options = builder._assigned_source
    flags = [f"-D{name}={value}" for name, value in options.get("define_macros", [])]
    linked = [f"-l{name}" for name in options.get("libraries", [])]
    target = copy / f"{extension}.abi3.so"
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *CHECKS, *flags]
    warnings = ["-Wno-unused-parameter", "-Wno-missing-field-initializers"]  # cffi's own code
    subprocess.run(
        [*command, *warnings, f"-I{headers()}", "-o", str(target), str(source), *linked],
        check=True,
    )


@pytest.mark.parametrize("extension", MESSAGES)
def test_no_access_is_wrong(extension: str, tmp_path: Path) -> None:
    loaded = libraries()
    if loaded is None:
        pytest.skip("needs gcc's sanitizers (libasan, libubsan)")
    if "libfabric" in extension and not Path("/usr/include/rdma/fabric.h").is_file():
        pytest.skip("needs libfabric's headers (libfabric-dev)")
    for folder in COPIED:
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    build(tmp_path, extension)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            *MESSAGES[extension],
        ],
        cwd=tmp_path,
        env={
            **kept,
            "PYTHONPATH": str(tmp_path),
            "PYTHONMALLOC": "malloc",  # so that each object is a piece of memory of its own
            "LD_PRELOAD": " ".join(loaded),
            "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter does not free everything at its end
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stdout[-4000:] + done.stderr[-8000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
