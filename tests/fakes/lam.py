# SPDX-License-Identifier: Apache-2.0
"""Real LAM: its daemon in a temporary folder, and processes that do what they are told.

LAM refuses to run as root, so root becomes nobody for it. Everything that is started is ended by
its own number.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

SOURCE: Final = Path(__file__).resolve().parents[1] / "data" / "lam" / "lam_process.c"
INCLUDE: Final = Path("/usr/include/lam")
NOBODY: Final = 65534
_START_S: Final = 20
_ANSWER_S: Final = 20


def missing() -> str:
    """Return what stands in the way of running real LAM here, empty if nothing does."""
    for program, package in (("lamd", "lam-runtime"), ("cc", "gcc")):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt install {package})"
    if not (INCLUDE / "net.h").is_file():
        return "LAM's headers are not installed (apt install lam4-dev)"
    return ""


class Lam:
    """LAM's daemon and the processes that were started with it.

    Args:
        folder: an empty one; it becomes nobody's if this runs as root.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_root = os.geteuid() == 0
        self._processes: list[LamProcess] = []
        self._session = f"i2o{os.getpid()}"
        subprocess.run(
            ["cc", "-w", "-O1", f"-I{INCLUDE}", "-o", folder / "lam_process", SOURCE,
             "-llam", "-lpthread", "-lutil", "-ldl"],
            check=True, timeout=60,
        )  # fmt: skip
        if self._is_root:
            os.chown(folder, NOBODY, NOBODY)
            for parent in folder.parents:  # pytest's folders are root's alone
                if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                    parent.chmod(parent.stat().st_mode | 0o011)
        (folder / "hosts").write_text("localhost\n")
        self.env = {
            **os.environ,
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "LAM_MPI_SESSION_PREFIX": str(folder),
            "LAM_MPI_SESSION_SUFFIX": self._session,
        }
        with open(folder / "boot.out", "wb") as output:
            subprocess.run(
                ["lamboot", "-s", "hosts"], cwd=folder, env=self.env, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, check=True, timeout=_START_S, **self._identity(),
            )  # fmt: skip

    def _identity(self) -> dict[str, int]:
        return {"user": NOBODY, "group": NOBODY, "umask": 0o22} if self._is_root else {}

    def process(self, priority: int) -> LamProcess:
        """Start a process."""
        started = LamProcess(
            subprocess.Popen(
                [self._folder / "lam_process", str(priority)], cwd=self._folder, env=self.env,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **self._identity(),
            )
        )  # fmt: skip
        self._processes.append(started)
        return started

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.end()
        for number in self._daemons():
            os.kill(number, signal.SIGKILL)

    def _daemons(self) -> list[int]:
        """Return the numbers of the daemons of this session."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if words[0].endswith(b"lamd") and self._session.encode() in words:
                    found.append(int(entry.name))
        return found


class LamProcess:
    """One process; see `tests/data/lam/lam_process.c`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def tell(self, line: str) -> None:
        """Give it a line to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Return what came of the oldest line."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _ANSWER_S)
        assert ready, "LAM does not answer"
        return self._process.stdout.readline().rstrip("\n")

    def has_answer(self) -> bool:
        """Whether something came of the oldest line already."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def ask(self, line: str) -> str:
        """Give it a line, and return what came of it."""
        self.tell(line)
        return self.answer()

    def end(self) -> None:
        """End it."""
        self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
