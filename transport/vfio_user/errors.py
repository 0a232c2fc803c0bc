# SPDX-License-Identifier: Apache-2.0
"""What a vfio-user server answers when it cannot do what a client asks."""

from __future__ import annotations

import os

from i2o.errors import I2OError


class Refused(I2OError):
    """A command that is answered with an error; the connection goes on.

    Args:
        code: errno of the answer.
        reason: what is wrong with the command.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({os.strerror(code)})")
        self.code = code


class ConnectionBroken(I2OError):
    """The client is gone, or what it sends makes no sense as messages."""
