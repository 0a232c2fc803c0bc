# SPDX-License-Identifier: Apache-2.0
"""What a guest leaves: its files on this machine, and what they say about how it went."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from vm.errors import GuestFailed

_TROUBLE = re.compile(
    r"^.*(?:Kernel panic|\bOops\b|\bBUG\b|general protection fault|: nobody cared).*$",
    re.MULTILINE,
)
_TAIL_LINES = 30


@dataclass(frozen=True)
class Outcome:
    """A job that came to its end.

    Args:
        status: the exit status of its script.
        output: what the script printed, on either stream.
        files: what it put into `/results`, by path below that folder.
        kernel_log: what the kernel said, all of it.
    """

    status: int
    output: str
    files: dict[str, bytes] = field(repr=False)
    kernel_log: str = field(repr=False)

    def checked(self) -> Outcome:
        """Return this outcome if the script's exit status is 0.

        Raises:
            GuestFailed: it is another.
        """
        if self.status:
            raise GuestFailed(
                f"the guest's script ended with exit status {self.status}:\n{self.output}"
            )
        return self


@dataclass(frozen=True)
class Traces:
    """The files that a guest and its QEMU write while they run.

    Args:
        folder: where they are.
    """

    folder: Path

    @property
    def console(self) -> Path:
        """What the kernel printed."""
        return self.folder / "console.txt"

    @property
    def output(self) -> Path:
        """What the script printed."""
        return self.folder / "output.txt"

    @property
    def results(self) -> Path:
        """The archive that ends a job."""
        return self.folder / "results.tar"

    @property
    def qemu(self) -> Path:
        """What QEMU printed."""
        return self.folder / "qemu.txt"

    @property
    def ports(self) -> tuple[Path, Path, Path]:
        """The files behind the serial ports, in their order."""
        return self.console, self.output, self.results

    def outcome(self, exit_status: int) -> Outcome:
        """Return what the job left.

        Args:
            exit_status: that of QEMU.

        Raises:
            GuestFailed: the kernel or QEMU failed, a module did not load, or nothing came back.
        """
        if exit_status:
            raise GuestFailed(self.report(f"QEMU ended with exit status {exit_status}"))
        left = _members(self.results)
        kernel_log = left.pop("run/guest/dmesg", b"").decode(errors="replace")
        if trouble := _TROUBLE.search(_text(self.console)) or _TROUBLE.search(kernel_log):
            raise GuestFailed(self.report(f"the guest's kernel says: {trouble[0].strip()}"))
        status = left.pop("run/guest/status", b"").decode().strip()
        if not status:
            raise GuestFailed(self.report("the guest switched off before its job was done"))
        if not status.isdecimal():
            raise GuestFailed(self.report(f"{status} failed in the guest"))
        files = {path.removeprefix("results/"): content for path, content in left.items()}
        return Outcome(int(status), _text(self.output), files, kernel_log)

    def report(self, what: str) -> str:
        """Return a message with what was printed last."""
        printed = (
            ("script", self.output),
            ("kernel", self.console),
            ("QEMU", self.qemu),
        )
        parts = [f"{what}; all of it is in {self.folder}"]
        for name, path in printed:
            if lines := _text(path).strip().splitlines():
                parts += [f"--- {name}:", *lines[-_TAIL_LINES:]]
        return "\n".join(parts)


def _text(path: Path) -> str:
    """Return what a file says, with the line ends of this machine."""
    return path.read_bytes().decode(errors="replace").replace("\r\n", "\n") if path.exists() else ""


def _members(path: Path) -> dict[str, bytes]:
    """Return the files of an archive, as far as it goes: a guest may end in the middle of it."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:") as archive:
            for member in archive:
                if content := archive.extractfile(member):
                    found[member.name] = content.read()
    except (OSError, tarfile.TarError):
        pass
    return found
