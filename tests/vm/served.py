# SPDX-License-Identifier: Apache-2.0
"""Software IOPs that are served to guests by `i2o emulate --serve`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from i2o.transport.child_process import module_environment


class ServedUri:
    """A software IOP that is served where a URI says, in a process of its own.

    Args:
        folder: takes what it prints.
        uri: where, and what it is like.
        name: of the file that it prints to.
        environment: more variables.

    Attributes:
        uri: where it can be reached.
        log: what it printed.
    """

    def __init__(
        self,
        folder: Path,
        uri: str,
        *,
        name: str = "served",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "i2o", "emulate", "--serve", uri],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**module_environment(), **(environment or {})},
            )
        assert self._process.stdout is not None
        word, _, self.uri = self._process.stdout.readline().decode().strip().partition(" ")
        if word != "ready":
            self._process.wait()
            raise RuntimeError(self.log.read_text())

    def close(self) -> str:
        """Stop it, and return what it printed to standard error; it must end by itself."""
        if self._process.poll() is None:
            self._process.terminate()
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert self._process.wait(30) == 0, self.log.read_text()
        return self.log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._process.kill()
            self._process.communicate()


class ServedIop(ServedUri):
    """A software IOP that QEMU can plug in.

    Args:
        folder: takes its socket, its control socket and what it prints.
        options: of the IOP, as an `emu:` URI has them.
        capture: where its traffic goes, if anywhere.
        name: of its files.
    """

    def __init__(
        self, folder: Path, options: str = "", *, capture: Path | None = None, name: str = "iop"
    ) -> None:
        self.socket, self._control = folder / f"{name}.sock", folder / f"{name}.control"
        query = "&".join(filter(None, (options, f"control={self._control}")))
        captured = {} if capture is None else {"I2O_CAPTURE": str(capture)}
        uri = f"vfio-user:{self.socket}?{query}"
        super().__init__(folder, uri, name=name, environment=captured)

    @property
    def device(self) -> list[str]:
        """The arguments with which QEMU plugs it in."""
        socket = {"type": "unix", "path": str(self.socket)}
        return ["-device", json.dumps({"driver": "vfio-user-pci", "rombar": 0, "socket": socket})]

    def ask(self, *words: str) -> dict[str, Any]:
        """Send a command to its control socket and return the answer."""
        done = subprocess.run(
            [sys.executable, "-m", "i2o", "emulate", "--control", str(self._control), "--json",
             *words],
            capture_output=True, text=True, check=True, env=module_environment(),
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
