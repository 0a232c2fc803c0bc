# SPDX-License-Identifier: Apache-2.0
"""A second module in the file of an extension that cffi made: types in C, beside its functions."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType


def second_module(name: str, path: str | None) -> ModuleType:
    """Return a module by its full name; it is loaded once.

    Args:
        name: its last part is what the extension calls it.
        path: of the extension.

    Raises:
        ImportError: there is no such extension, or it has no such module.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no extension")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module
