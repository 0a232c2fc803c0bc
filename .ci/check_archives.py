# SPDX-License-Identifier: Apache-2.0
"""Compares the files of the wheel and the sdist in a folder with those of the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGES = {
    "i2o/": "i2o/",
    "transport/": "i2o/transport/",
    "iop_emulator/": "i2o/iop_emulator/",
    "tools/": "i2o/tools/",
}
SDIST_ONLY = {"pyproject.toml", "setup.py", "README.md", "LICENSE"}
BUILT = {"i2o/transport/_native.abi3.so", "i2o/transport/ofi/_libfabric.abi3.so"}
"""What a compiler makes of the sources."""


def main(folder: Path) -> int:
    """Return 0 if both archives hold what they should, else say what is wrong."""
    tracked = subprocess.run(
        ["git", "ls-files"], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    sources = {
        name: name.replace(source, target, 1)
        for name in tracked
        for source, target in PACKAGES.items()
        if name.startswith(source) and name.endswith((".py", ".lua", "py.typed"))
    }
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        in_sdist = {
            name.partition("/")[2]
            for name in archive.getnames()
            if not archive.getmember(name).isdir()
        }
    in_sdist = {
        name
        for name in in_sdist
        if ".egg-info/" not in name and name not in ("PKG-INFO", "setup.cfg")
    }
    wanted = {*sources.values(), *BUILT}
    problems = [
        f"{archive} {verb} {', '.join(sorted(names))}"
        for archive, verb, names in (
            (wheel.name, "misses", wanted - in_wheel),
            (wheel.name, "leaks", in_wheel - wanted),
            (sdist.name, "misses", {*sources, *SDIST_ONLY} - in_sdist),
            (sdist.name, "leaks", in_sdist - set(sources) - SDIST_ONLY),
        )
        if names
    ]
    print("\n".join(problems) or f"{wheel.name}: {len(in_wheel)} files, none missing, none extra")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
