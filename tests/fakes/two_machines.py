# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces with a cable between them: machines that can lose one another."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from i2o.closing import Closing

_NEW_NET = 0x40000000
_WRONG = "02:00:00:00:00:99"


def why_not() -> str | None:
    """Return why there can be no namespaces here, or None."""
    if os.geteuid():
        return "only root may make network namespaces"
    if shutil.which("ip") is None:
        return "the command ip (iproute2) is missing"
    name = f"i2o-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"network namespaces cannot be made: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


class TwoMachines(Closing):
    """Machines 0 and 1, at 10.99.0.1 and 10.99.0.2, each with a second address 10.98.0.x."""

    def __init__(self) -> None:
        self.names = [f"i2o-{os.getpid()}-{index}" for index in range(2)]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._files: list[int] = []
        try:
            for name in self.names:
                _ip("netns", "add", name)
                self._files.append(os.open(f"/run/netns/{name}", os.O_RDONLY))
            _ip("-n", self.names[0], "link", "add", "cable", "type", "veth", "peer", "name",
                "cable", "netns", self.names[1])  # fmt: skip
            for index, name in enumerate(self.names):
                for network in (99, 98):
                    _ip("-n", name, "address", "add", f"10.{network}.0.{index + 1}/24", "dev",
                        "cable")  # fmt: skip
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "link", "set", "cable", "up")
            self.hardware = [
                self._read(index, "/sys/class/net/cable/address") for index in range(2)
            ]
            for index in range(2):
                self.heal(index)
        except BaseException:
            self.close()
            raise

    def _read(self, index: int, path: str) -> str:
        return subprocess.run(
            ["ip", "netns", "exec", self.names[index], "cat", path],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    def address(self, index: int, network: int = 99) -> str:
        return f"10.{network}.0.{index + 1}"

    @contextmanager
    def inside(self, index: int) -> Iterator[None]:
        """Let this thread's sockets be those of a machine."""
        self._enter(self._files[index])
        try:
            yield
        finally:
            self._enter(self._home)

    def _enter(self, file: int) -> None:
        if self._libc.setns(file, _NEW_NET):
            raise OSError(ctypes.get_errno(), "setns")

    def lose(self, index: int, networks: tuple[int, ...] = (99, 98)) -> None:
        """Lose everything that this machine sends: its neighbour has the wrong address."""
        self._neighbour(index, _WRONG, networks)

    def heal(self, index: int) -> None:
        """Lose nothing any more."""
        self._neighbour(index, self.hardware[1 - index], (99, 98))

    def _neighbour(self, index: int, hardware: str, networks: tuple[int, ...]) -> None:
        for network in networks:
            _ip("-n", self.names[index], "neighbour", "replace",
                self.address(1 - index, network), "lladdr", hardware, "dev", "cable", "nud",
                "permanent")  # fmt: skip

    def close(self) -> None:
        for file in (*self._files, self._home):
            os.close(file)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
