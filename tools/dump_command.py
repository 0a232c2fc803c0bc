# SPDX-License-Identifier: Apache-2.0
"""Runs a program and reads the I2O traffic that it captures, as strace does with system calls."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Final

from i2o.closing import Closing
from i2o.errors import CaptureError
from i2o.tools.arguments import UsageError
from i2o.tools.dump_sources import described
from i2o.transport.capture.packet import Packet
from i2o.transport.capture.reader import Capture

VARIABLE: Final = "I2O_CAPTURE"
"""The environment variable that makes a program capture."""
_CHUNK: Final = 1 << 16


class CommandSource(Closing):
    """The traffic of a program, from its start to its end.

    The program captures to a FIFO. Its standard output goes to our standard error, so that ours
    has nothing but the traffic.

    Args:
        command: the program and its arguments.

    Raises:
        UsageError: there is no such program.
        OSError: it cannot be started.
    """

    is_live = True

    def __init__(self, command: Sequence[str]) -> None:
        program = shutil.which(command[0])
        if program is None:
            raise UsageError(f"{command[0]}: no such program")
        self._name = command[0]
        self._capture: Capture | None = None
        self._was_empty = False
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="i2o-dump-"))
            fifo = Path(folder, "traffic.pcapng")
            os.mkfifo(fifo, 0o600)
            # a writing end of our own: opening the FIFO for reading need not wait for the program,
            # and what comes behind the end of one writer is read, too
            keeper = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)
            closed_early = stack.enter_context(ExitStack())
            closed_early.callback(os.close, keeper)
            self._stream = stack.enter_context(fifo.open("rb"))
            stack.enter_context(_Signals(self._terminate))
            self._process = subprocess.Popen(
                [program, *command[1:]],
                stdout=_stderr_or_null(),
                env={**os.environ, VARIABLE: str(fifo)},
            )
            self._waiter = threading.Thread(
                target=self._close_at_end, args=(closed_early.pop_all(),)
            )
            self._waiter.start()
            self._stack = stack.pop_all()

    @property
    def dropped(self) -> int:
        """Packets that the program could not hand over in time."""
        return self._capture.dropped if self._capture else 0

    @property
    def problems(self) -> list[str]:
        """What was wrong with the traffic so far; that there was none is one, too."""
        if self._was_empty:
            return [f"{self._name} sent no I2O traffic"]
        found = self._capture.problems if self._capture else []
        return [f"{self._name}: {problem}" for problem in found]

    def __iter__(self) -> Iterator[Packet]:
        try:
            self._capture = Capture(self._stream, self._name)
        except CaptureError:
            self._was_empty = True
        else:
            yield from self._capture

    def describe(self, packet: Packet) -> str:
        """Return what the program says that a packet's IOP or endpoint is."""
        return described(self._capture, packet) if self._capture else ""

    def exit_code(self) -> int:
        """Return the program's; 128 and the number of the signal that killed it."""
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def close(self) -> None:
        """Wait for the program; what it still captures is dropped."""
        while not self._stream.closed and self._stream.read(_CHUNK):
            pass
        self._waiter.join()
        self._stack.close()

    def _close_at_end(self, writing_end: ExitStack) -> None:
        """Let the reader come to an end when the program has ended."""
        self._process.wait()
        writing_end.close()

    def _terminate(self) -> None:
        self._process.terminate()


class _Signals:
    """What SIGINT and SIGTERM do to us while the program runs: we end when it does.

    A terminal sends Ctrl-C to the program as well; it decides what that means.

    Args:
        terminate: called at SIGTERM.
    """

    def __init__(self, terminate: Callable[[], None]) -> None:
        self._terminate = terminate
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self._is_main:
            # functions, not SIG_IGN: the program would inherit that
            self._before = {
                number: signal.signal(number, self._handle)
                for number in (signal.SIGINT, signal.SIGTERM)
            }

    def __exit__(self, *error: object) -> None:
        if self._is_main:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self._terminate()


def _stderr_or_null() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return subprocess.DEVNULL
