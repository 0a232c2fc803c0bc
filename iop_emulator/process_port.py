# SPDX-License-Identifier: Apache-2.0
"""The host half of a software IOP in a process of its own: `emu:?run=process`.

It is a `ShmPort` whose server is a child of this process, for this process alone. Time is the
machine's: the child does not see the port's clock.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from typing import Final, Self

from i2o.errors import RemoteFrameError, TransportUnavailable
from i2o.iop_emulator.options import EmuOptions
from i2o.transport.child_process import module_command, module_environment
from i2o.transport.shm.greeting import Refused
from i2o.transport.shm.host_half import HostHalf
from i2o.transport.shm.link import own_modes
from i2o.transport.shm.port import ShmPort, half_over
from i2o.transport.shm.rendezvous import ask
from i2o.transport.uri import Uri

_START_S: Final = 30.0
_STOP_S: Final = 5.0
_MODULE: Final = "i2o.iop_emulator.process_main"


class ProcessPort(ShmPort):
    """A `Port` to an IOP in a child process. Use `launch`.

    Attributes:
        process: the child.
    """

    def __init__(
        self,
        name: str,
        half: HostHalf,
        frame_size: int,
        process: subprocess.Popen[bytes],
    ) -> None:
        super().__init__(name, half, frame_size)
        self.process = process

    @classmethod
    def launch(cls, uri: Uri, options: EmuOptions) -> Self:
        """Start the child and wait until its IOP is there.

        Raises:
            TransportUnavailable: the child cannot make the IOP; says what the child said.
        """
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near, contextlib.ExitStack() as on_failure:
            with far:
                process = _start(uri.text, far.fileno())
                on_failure.callback(_stop, process)
                on_failure.callback(near.close)  # runs before: the child sees the end
            near.settimeout(_START_S)
            try:
                answer = ask(near, own_modes())
            except TimeoutError:
                raise TransportUnavailable(
                    "emu", f"the IOP's process did not start within {_START_S:g} s"
                ) from None
            except (OSError, RemoteFrameError):
                raise TransportUnavailable("emu", "the IOP's process ended at once") from None
            if isinstance(answer, Refused):
                raise TransportUnavailable("emu", answer.reason, remedy=answer.remedy)
            half = half_over(near, answer, uri.text)
            on_failure.pop_all()
        return cls(uri.text, half, options.frame_size, process)

    def reset(self) -> None:
        """Cycle the IOP's power; if it does not answer, its process is ended.

        Either way it writes no host memory afterwards. Whoever asks a process that was ended for
        anything else gets `IopDead`.
        """
        if not self.power_cycle(_STOP_S):
            self.process.kill()
            self.process.wait()
            self.half.let_go()

    def close(self) -> None:
        """End the child and release everything; a second call does nothing."""
        try:
            super().close()
        finally:
            _stop(self.process)


def _start(uri: str, end_fd: int) -> subprocess.Popen[bytes]:
    """Start the child. An interrupt from the terminal is for the host alone."""
    return subprocess.Popen(
        module_command(_MODULE, uri, str(end_fd)),
        pass_fds=(end_fd,),
        stdin=subprocess.DEVNULL,
        process_group=0,
        env=module_environment(),
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Wait for the child, which ends by itself; kill it if it does not."""
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
