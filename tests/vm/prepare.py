# SPDX-License-Identifier: Apache-2.0
"""Fills the cache with what the tests in guests need: `python tests/vm/prepare.py`.

Says for each part which packages it is made of, how large it is and how long it took. What is
there already stays. Nothing is installed on the machine and nothing needs root. The cache is at
`I2O_VM_CACHE`, else `i2o/vm` in the user's cache folder.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # started as a file, which makes this folder the first in the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vm.apt_archive import MANIFEST
from vm.cache import Cache
from vm.errors import PrepareError
from vm.inventory import PARTS


def main() -> int:
    """Return 0 if all parts are there, else 1 after one line that says what is missing."""
    cache = Cache.of_user()
    for part in PARTS:
        start = time.monotonic()
        try:
            folder = part.prepare(cache)
        except PrepareError as error:
            print(f"prepare.py: {part.name}: {error}", file=sys.stderr)
            return 1
        took = time.monotonic() - start
        print(f"{part.name}: {_named(part.packages, folder)}, {_size(folder)} MB, {took:.0f} s")
    print(f"in {cache.folder}")
    return 0


def _named(patterns: tuple[str, ...], folder: Path) -> str:
    """Name the packages that were asked for, with their versions."""
    versions = json.loads((folder / MANIFEST).read_text())
    asked = [name for name in versions if any(re.fullmatch(one, name) for one in patterns)]
    return ", ".join(f"{name} {versions[name]}" for name in asked)


def _size(folder: Path) -> int:
    sizes = (path.lstat().st_size for path in folder.rglob("*"))
    return round(sum(sizes) / 1_000_000)


if __name__ == "__main__":
    sys.exit(main())
