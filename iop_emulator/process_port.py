# SPDX-License-Identifier: Apache-2.0
"""The host half of a software IOP in a process of its own: `emu:?run=process`.

Time is the machine's: the child does not see the port's clock. When the child dies, whatever
touches the queues raises `IopDead`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import threading
from typing import Final, Self

from i2o.closing import Closing
from i2o.errors import IopDead, TransportUnavailable
from i2o.iop_emulator.doorbell import Doorbell, descriptor_of
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.process_main import READY
from i2o.transport.child_process import module_command, module_environment
from i2o.transport.process_unit import SHARED_SIZE, HostHalf, socket_pair
from i2o.transport.uri import Uri

_LOG: Final = logging.getLogger(__name__)
_START_S: Final = 30.0
_STOP_S: Final = 5.0
_MODULE: Final = "i2o.iop_emulator.process_main"


class ProcessPort(Closing):
    """A `Port` to an IOP in a child process.

    Use `launch`.

    Attributes:
        memory: the host's buffers; the caller's own memory cannot be mapped.
        inbound_size: bytes of an inbound frame.
        name: the URI.
        process: the child.
    """

    def __init__(
        self,
        name: str,
        half: HostHalf,
        socket_fd: int,
        frame_size: int,
        process: subprocess.Popen[bytes],
        resources: contextlib.ExitStack,
    ) -> None:
        self.name, self.inbound_size, self.process = name, frame_size, process
        self.memory = half.memory
        self._half, self._socket_fd, self._resources = half, socket_fd, resources
        self._is_closed = False
        self._is_masked = False
        self._first = threading.Lock()  # two threads may be the first to ask for the descriptor
        self._bell: Doorbell | None = None
        self._watch: select.epoll | None = None
        self.write = half.write
        self.read_inbound = half.read_inbound

    @classmethod
    def launch(cls, uri: Uri, options: EmuOptions) -> Self:
        """Start the child and wait until its IOP is there.

        Raises:
            TransportUnavailable: the child cannot make the IOP; says what the child said.
        """
        with contextlib.ExitStack() as resources:
            near, far = socket_pair()
            resources.callback(near.close)
            memory_fd = os.memfd_create("i2o-emu", os.MFD_CLOEXEC)
            with far, contextlib.ExitStack() as shared:
                shared.callback(os.close, memory_fd)
                os.ftruncate(memory_fd, SHARED_SIZE)
                process = _start(uri.text, far.fileno(), memory_fd)
                resources.callback(_stop, process)
                resources.callback(near.close)  # runs before: the child sees the end
                far.close()
                near.settimeout(_START_S)
                try:
                    said = near.recv(1 << 16)
                except TimeoutError:
                    said = f"the IOP's process did not start within {_START_S:g} s".encode()
                if said != READY:
                    reason, _, remedy = said.decode(errors="replace").partition("\0")
                    raise TransportUnavailable(
                        "emu", reason or "the IOP's process ended at once", remedy=remedy
                    )
                near.setblocking(True)
                half = HostHalf(
                    near,
                    memory_fd,
                    frame_count=options.frames,
                    frame_size=options.frame_size,
                    on_misuse=lambda sentence: _LOG.warning("%s", sentence),
                )
                resources.callback(half.close)
            port = cls(
                uri.text, half, near.fileno(), options.frame_size, process, resources.pop_all()
            )
        while half.generation == 0:  # the device tells of its frames when it starts
            half.wait(_START_S)
        return port

    # --- the FIFOs -----------------------------------------------------------------------------

    def alloc(self) -> int:
        """Pop a free inbound MFA, or EMPTY."""
        mfa = self._half.alloc()
        self._ring()
        return mfa

    def post(self, mfa: int) -> None:
        """Hand a frame to the IOP."""
        self._half.post(mfa)

    def reap(self) -> int:
        """Pop a reply MFA, or EMPTY."""
        mfa = self._half.reap()
        self._ring()
        return mfa

    def outbound(self, mfa: int, size: int) -> memoryview:
        """Return bytes of a reply frame."""
        return self.memory.window(mfa, size)

    def release(self, mfa: int) -> None:
        """Give a reply frame to the IOP."""
        self._half.release(mfa)

    # --- waiting -------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Wait until the IOP has told something."""
        if self._half.reply_pending:
            return True
        has_news = self._half.wait(timeout_s)
        self._ring()
        return has_news

    def fileno(self) -> int:
        """Return a descriptor that is readable while replies may be waiting; -1 after `close`."""
        if self._watch is None:
            with self._first:
                if self._watch is None and not self._is_closed:
                    self._watch = self._make_watch()
            self._ring()
        return descriptor_of(self._watch)

    def _make_watch(self) -> select.epoll:
        self._bell = Doorbell()
        watch = select.epoll()
        watch.register(self._bell.fileno(), select.EPOLLIN)
        if not self._is_masked:
            watch.register(self._socket_fd, select.EPOLLIN)
        return watch

    def next_deadline_ns(self) -> int | None:
        """Return None: the IOP runs by itself."""
        return None

    def mask_interrupt(self, masked: bool) -> None:
        """Keep the IOP from making the descriptor readable, or end that."""
        if self._watch is not None and masked != self._is_masked:
            if masked:
                self._watch.unregister(self._socket_fd)
            else:
                self._watch.register(self._socket_fd, select.EPOLLIN)
        self._is_masked = masked
        self._ring()

    def _ring(self) -> None:
        """Make the descriptor tell of replies that have left the socket already."""
        if self._bell is not None:
            if self._half.reply_pending and not self._is_masked:
                self._bell.ring()
            else:
                self._bell.silence()

    # --- life cycle ----------------------------------------------------------------------------

    def reset(self) -> None:
        """Cycle the IOP's power; if it does not answer, its process is ended.

        Either way it writes no host memory afterwards. Whoever asks a process that was ended for
        anything else gets `IopDead`.
        """
        try:
            self._half.power_cycle(_STOP_S)
        except IopDead:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """End the child and release everything; a second call does nothing."""
        with self._first:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed:
            return
        with self._resources:
            if self._watch is not None and self._bell is not None:
                self._watch.close()
                self._bell.close()


def _start(uri: str, end_fd: int, memory_fd: int) -> subprocess.Popen[bytes]:
    """Start the child. An interrupt from the terminal is for the host alone."""
    return subprocess.Popen(
        module_command(_MODULE, uri, str(end_fd), str(memory_fd)),
        pass_fds=(end_fd, memory_fd),
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
