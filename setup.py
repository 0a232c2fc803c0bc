# SPDX-License-Identifier: Apache-2.0
"""The one thing that pyproject.toml cannot say: an optional extension module made by cffi."""

from setuptools import setup

setup(cffi_modules=["transport/native_build.py:builder"])
