# SPDX-License-Identifier: Apache-2.0
"""Errors as the command line shows them: one line and an exit code."""

from __future__ import annotations

import os
from typing import Final

from i2o.errors import MessageLayerError, TransportUnavailable, UriError
from i2o.tools.arguments import UsageError
from i2o.tools.output import printable

OK: Final = 0
NEGATIVE: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3


def explain(error: Exception) -> str:
    """Return an error as one line."""
    if isinstance(error, MessageLayerError):
        number = error.errno or 0
        text = (error.strerror or "").removeprefix(f"{os.strerror(number)}: ")
    elif isinstance(error, OSError) and error.strerror:
        name = error.filename
        text = f"{os.fsdecode(name)}: {error.strerror}" if name is not None else error.strerror
    else:
        text = str(error)
    return printable(text)


def exit_code(error: Exception) -> int:
    """Return the exit code that an error stands for."""
    if isinstance(error, UsageError | UriError):
        return USAGE
    return UNAVAILABLE if isinstance(error, TransportUnavailable) else NEGATIVE
