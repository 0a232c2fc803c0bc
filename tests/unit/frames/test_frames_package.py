# SPDX-License-Identifier: Apache-2.0
"""The package itself: light to import, and every advertised name leads to its module."""

from __future__ import annotations

import subprocess
import sys

import pytest

from i2o import frames


@pytest.mark.parametrize("name", frames.__all__)
def test_advertised_names_exist(name: str) -> None:
    found = getattr(frames, name)
    home = sys.modules[f"i2o.frames.{frames._HOMES[name]}"]
    assert found is getattr(home, name)
    assert name in dir(frames)


def test_nothing_else_is_looked_up() -> None:
    assert sorted(frames._HOMES) == sorted(frames.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = frames.no_such_name


def test_importing_the_package_does_not_load_construct() -> None:
    code = "import sys, i2o.frames; print('construct' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
