# SPDX-License-Identifier: Apache-2.0
"""Makes a device quiet when the program that drives it dies.

Without an IOMMU nothing keeps a card from writing to memory that the kernel has given to somebody
else. A small process waits for the end of the pipe to its parent and then turns bus mastering
off. An orderly close tells it not to.

Run as: python -m i2o.transport.pci.guard SYSFS-FOLDER
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from i2o.errors import TransportUnavailable
from i2o.transport.child_process import module_command, module_environment
from i2o.transport.pci.function import COMMAND, COMMAND_MASTER, PciFunction

_READY: Final = b"+"
_DISMISSED: Final = b"-"
_PATIENCE_S: Final = 10.0
_MODULE: Final = "i2o.transport.pci.guard"


class Guard:
    """The parent's end.

    Args:
        function: the device.

    Raises:
        TransportUnavailable: the process cannot be started.
    """

    def __init__(self, function: PciFunction) -> None:
        self._process = subprocess.Popen(
            module_command(_MODULE, str(function.folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # an interrupt from the terminal is not for it
            env=module_environment(),
        )
        assert self._process.stdout is not None
        with self._process.stdout as said:
            if said.read(1) != _READY:
                self._process.communicate()
                raise TransportUnavailable(
                    function.backend,
                    "the process that watches over bus mastering cannot be started",
                    remedy=f"try: {sys.executable} -c 'import i2o'",
                )

    def dismiss(self) -> None:
        """Send it away: the device is quiet already."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(_DISMISSED)
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait(_PATIENCE_S)


def main(arguments: list[str]) -> None:
    """Wait for the parent, and quiet the device if it dies."""
    config = Path(arguments[1]) / "config"
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    sys.stdout.close()
    if sys.stdin.buffer.read() == _DISMISSED:
        return
    quiet(config)


def quiet(config: Path) -> None:
    """Turn bus mastering off."""
    with open(config, "r+b", buffering=0) as file:
        file.seek(COMMAND)
        value = int.from_bytes(file.read(2) or b"", "little") & ~COMMAND_MASTER
        file.seek(COMMAND)
        file.write(value.to_bytes(2, "little"))


if __name__ == "__main__":
    main(sys.argv)
