# SPDX-License-Identifier: Apache-2.0
"""A plain and an editable install both work, inside the checkout and outside of it.

Each is made from a copy of the checkout into a virtual environment of its own that borrows this
environment's other packages, so that neither network nor the checkout itself is touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "i2o",
    "transport",
    "iop_emulator",
    "tools",
    ".ci/run",
    "tests/conftest.py",
    "tests/unit/test_layers.py",
)
PACKAGES = ("i2o", "i2o.frames", "i2o.transport", "i2o.iop_emulator", "i2o.tools")
PROBE = """
import importlib, importlib.util, json, sys
modules = [importlib.import_module(name) for name in sys.argv[1:]]
strangers = [n for n in ("transport", "tools", "iop_emulator") if importlib.util.find_spec(n)]
print(json.dumps({"files": [m.__file__ for m in modules], "strangers": strangers}))
"""
A_TEST = "tests/unit/test_layers.py::test_every_folder_has_modules"


@dataclass(frozen=True)
class Install:
    checkout: Path
    python: Path
    is_editable: bool

    def run(self, *command: str, cwd: Path) -> str:
        done = subprocess.run(
            command, cwd=cwd, env=_clean_environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def script(self, name: str) -> str:
        return str(self.python.with_name(name))


@pytest.fixture(scope="module", params=["plain", "editable"])
def install(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Install:
    folder = tmp_path_factory.mktemp(request.param)
    checkout = folder / "checkout"
    for name in COPIED:
        source, target = ROOT / name, checkout / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    made = Install(checkout, python, request.param == "editable")
    _borrow_packages(made)
    options = ["-e"] if made.is_editable else []
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"]
    if int(version("setuptools").partition(".")[0]) >= 77:
        pip.append("--no-build-isolation")
    made.run(*pip, *options, str(checkout), cwd=folder)
    shutil.copy(_pytest_script(made), made.script("pytest"))
    return made


def _borrow_packages(install: Install) -> None:
    """Let the environment see this one's packages, but not its copy of the project."""
    own = install.run(
        str(install.python),
        "-c",
        "import sysconfig; print(sysconfig.get_path('purelib'))",
        cwd=ROOT,
    ).strip()
    borrowed = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    # a plain line in a .pth file is searched after the environment's own folder, and .pth files
    # in that place (this environment's editable install among them) are not read
    Path(own, "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")


def _pytest_script(install: Install) -> Path:
    """Write the script that installing pytest would make."""
    path = install.checkout.parent / "pytest"
    path.write_text(f"#!{install.python}\nimport sys, pytest\nsys.exit(pytest.console_main())\n")
    path.chmod(0o755)
    return path


def _clean_environment() -> dict[str, str]:
    unwanted = ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in unwanted and not name.startswith(("COV_", "COVERAGE_", "PIP_REQUIRE"))
    }


def probe(install: Install, cwd: Path) -> list[Path]:
    output = install.run(str(install.python), "-c", PROBE, *PACKAGES, cwd=cwd)
    found = json.loads(output)
    assert found["strangers"] == [] or cwd == install.checkout
    return [Path(file).resolve() for file in found["files"]]


def test_import_outside_the_checkout(install: Install, tmp_path: Path) -> None:
    for file in probe(install, tmp_path):
        assert file.is_relative_to(install.checkout) == install.is_editable


def test_import_from_the_checkouts_root(install: Install) -> None:
    for file in probe(install, install.checkout):
        assert file.is_relative_to(install.checkout)


def test_pytest_from_the_checkouts_root(install: Install) -> None:
    output = install.run(install.script("pytest"), "-q", A_TEST, cwd=install.checkout)
    assert "1 passed" in output


def test_python_m_pytest_from_the_checkouts_root(install: Install) -> None:
    output = install.run(str(install.python), "-m", "pytest", "-q", A_TEST, cwd=install.checkout)
    assert "1 passed" in output


def test_the_command_is_installed(install: Install, tmp_path: Path) -> None:
    output = install.run(install.script("i2o"), "--version", cwd=tmp_path)
    assert output == f"i2o {_version()}\n"


def test_versions_agree(install: Install, tmp_path: Path) -> None:
    output = install.run(
        str(install.python),
        "-c",
        "import i2o, importlib.metadata as m; print(i2o.__version__, m.version('i2o'))",
        cwd=tmp_path,
    )
    assert output.split() == [_version()] * 2


def test_the_wheel_says_that_it_is_typed(install: Install, tmp_path: Path) -> None:
    package = probe(install, tmp_path)[0].parent
    assert (package / "py.typed").is_file()


def test_no_python_file_is_left_out_of_the_packages(install: Install, tmp_path: Path) -> None:
    if install.is_editable:
        return
    installed = probe(install, tmp_path)[0].parent
    for folder, target in (
        ("i2o", installed),
        ("transport", installed / "transport"),
        ("iop_emulator", installed / "iop_emulator"),
        ("tools", installed / "tools"),
    ):
        sources = install.checkout / folder
        for source in sources.rglob("*.py"):
            assert (target / source.relative_to(sources)).is_file(), source


def _version() -> str:
    text = (ROOT / "i2o" / "_version.py").read_text()
    namespace: dict[str, str] = {}
    exec(text, namespace)
    return namespace["__version__"]
