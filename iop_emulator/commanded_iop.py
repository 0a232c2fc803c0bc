# SPDX-License-Identifier: Apache-2.0
"""An IOP that is run together with the socket on which it takes commands, if it has one.

Whoever runs an IOP does it through this: so a command comes between two requests, and behind
everything that was posted before it.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from i2o.iop_emulator.commands import execute
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.soft_iop import RUN_BUDGET, SoftIop


class CommandedIop:
    """An IOP and its control socket.

    Args:
        iop: the IOP.
        control: the socket, None for none; it stays the caller's to close.
    """

    def __init__(self, iop: SoftIop, control: ControlSocket | None) -> None:
        self._iop, self._control = iop, control
        self._execute: Final = partial(execute, iop)

    def has_command(self) -> bool:
        """Whether `run` is going to look at the socket; to be asked before posts are taken in."""
        return self._control is not None and self._control.wait(0)

    def run(self, now_ns: int, *, has_command: bool) -> int | None:
        """Run the IOP, then commands, then what they have changed.

        Args:
            now_ns: the time.
            has_command: what `has_command` said.

        Returns:
            When to run again although nothing happens, or None; see `SoftIop.run`.
        """
        deadline_ns = self._iop.run(RUN_BUDGET, now_ns)
        if has_command and self._control is not None:
            self._control.serve(self._execute)
            deadline_ns = self._iop.run(RUN_BUDGET, now_ns)
        return deadline_ns
