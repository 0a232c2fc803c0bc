# SPDX-License-Identifier: Apache-2.0
"""The one thing that pyproject.toml cannot say: optional extension modules made by cffi."""

from pathlib import Path
from runpy import run_path

from setuptools import setup

modules = ["transport/native_build.py:builder"]
libfabric = Path("transport", "ofi", "native_build.py")
# without the headers it cannot be built, and the compiler's complaints would look like a failure
if run_path(str(Path(__file__).parent / libfabric))["can_be_built"]():
    modules.append(f"{libfabric}:builder")
setup(cffi_modules=modules)
