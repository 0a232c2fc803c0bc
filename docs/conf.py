# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

import re
import sys
from pathlib import Path

_DOCS = Path(__file__).resolve().parent
_ROOT = _DOCS.parent
sys.path[:0] = [str(_ROOT), str(_DOCS / "_ext")]

project = "i2o"
author = "the i2o authors"
copyright = author
_version_text = (_ROOT / "i2o" / "_version.py").read_text()
_version_match = re.search(r'^__version__ = "([^"]+)"$', _version_text, re.MULTILINE)
assert _version_match, "i2o/_version.py has no version"
release = version = _version_match[1]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "i2o_reference",
]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = f"i2o {release}"
myst_heading_anchors = 3

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
