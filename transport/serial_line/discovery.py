# SPDX-License-Identifier: Apache-2.0
"""Serial lines at whose other end an IOP may be: the adapters that udev gives a name of their own.

Nobody is asked: a line that is opened disturbs whoever uses it, and resets many a board.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from i2o.transport.found import Found, Obstacle

FOLDER: Final = Path("/dev/serial/by-id")
NO_PYSERIAL: Final = Obstacle("pyserial is not installed", "pip install pyserial")
NO_PERMISSION: Final = Obstacle(
    "it belongs to others", "join its group (dialout, on Debian): adduser YOU dialout"
)


def find(folder: Path = FOLDER) -> Iterator[Found]:
    """Yield the lines that have a name.

    Args:
        folder: where udev puts the names.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        path = folder / name
        obstacles = []
        if find_spec("serial") is None:
            obstacles.append(NO_PYSERIAL)
        if not os.access(path, os.R_OK | os.W_OK):
            obstacles.append(NO_PERMISSION)
        yield Found(
            kind="serial",
            name="serial line",
            uri=f"serial:{path}",
            why="whether an IOP is at its other end shows when it is opened",
            address=os.path.realpath(path),
            obstacles=tuple(obstacles),
        )
