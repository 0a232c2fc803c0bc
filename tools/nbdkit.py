# SPDX-License-Identifier: Apache-2.0
"""nbdkit, the NBD server that `i2o nbd` starts: its command line, its start and its end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from i2o.errors import TransportUnavailable
from i2o.tools import nbdkit_plugin

THREADS: Final = 16
_INSTALL: Final = (
    "Debian: apt install nbdkit nbdkit-plugin-python; Fedora: dnf install nbdkit "
    "nbdkit-python-plugin"
)
_PATIENCE_S: Final = 10.0
MAX_BLOCK: Final = 64 << 10
"""Bytes of the largest block that NBD's filter for blocks knows."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where clients come in.

    Attributes:
        unix: path of a Unix socket, or an empty string.
        address: else the address.
        port: and the port.
    """

    unix: str = ""
    address: str = ""
    port: int = 0

    @property
    def options(self) -> list[str]:
        """The options of nbdkit that say so."""
        if self.unix:
            return [f"--unix={self.unix}"]
        return [f"--ipaddr={self.address}", f"--port={self.port}"]


@dataclass(frozen=True, slots=True)
class Export:
    """What is served, and how.

    Attributes:
        size: bytes.
        block_size: of the disk.
        largest: bytes of the largest request that the plugin is to get.
        writable: writes go to the disk.
        cow: writes are kept beside it, until the server ends.
        readahead: read on behind sequential reads.
        extra: more options and parameters for nbdkit.
    """

    size: int
    block_size: int
    largest: int
    writable: bool = False
    cow: bool = False
    readahead: bool = False
    extra: Sequence[str] = ()


def find() -> str:
    """Return the path of nbdkit.

    Raises:
        TransportUnavailable: it is not there, or its Python plugin is not.
    """
    program = shutil.which("nbdkit")
    if program is None:
        raise TransportUnavailable("nbd", "nbdkit is not installed", remedy=_INSTALL)
    asked = subprocess.run(
        [program, "python", "--dump-plugin"], capture_output=True, stdin=subprocess.DEVNULL
    )
    if asked.returncode:
        raise TransportUnavailable(
            "nbd", "nbdkit has no Python plugin here", remedy=_INSTALL.replace("nbdkit ", "", 1)
        )
    return program


def command(program: str, listening: Listening, export: Export) -> list[str]:
    """Return the command line. The filters stand in the order that a request passes them in."""
    filters, parameters = [], []
    if export.cow:
        filters.append("cow")
    if export.readahead:
        filters += ["readahead", "cache"]
        parameters += ["cache=writethrough", "cache-on-read=true"]
    filters.append("blocksize")
    parameters += [f"minblock={export.block_size}", f"maxdata={export.largest}"]
    return [
        program,
        "--foreground",
        "--exit-with-parent",
        f"--threads={THREADS}",
        *listening.options,
        *([] if export.writable or export.cow else ["--readonly"]),
        *(word for word in export.extra if word.startswith("-")),
        *(f"--filter={name}" for name in filters),
        "python",
        nbdkit_plugin.__file__,
        *parameters,
        *(word for word in export.extra if not word.startswith("-")),
    ]


class Nbdkit:
    """A running nbdkit.

    Args:
        listening: where clients come in.
        export: what is served.

    Attributes:
        channels: our ends of the socket pairs that requests come over.
        pidfd: readable when it has ended.

    Raises:
        TransportUnavailable: it cannot be run.
    """

    def __init__(self, listening: Listening, export: Export) -> None:
        program = find()
        self._unix = listening.unix
        pairs = [socket.socketpair() for _ in range(THREADS)]
        self.channels = [ours for ours, _ in pairs]
        theirs = [end.fileno() for _, end in pairs]
        told = {
            "channels": theirs,
            "size": export.size,
            "block_size": export.block_size,
            "largest": export.largest,
            "writable": export.writable,
        }
        try:
            self._process = subprocess.Popen(
                command(program, listening, export),
                stdin=subprocess.DEVNULL,
                pass_fds=theirs,
                env={**_environment(os.environ), nbdkit_plugin.ENVIRONMENT: json.dumps(told)},
                process_group=0,  # an interrupt from the terminal is for us: we end it in order
            )
            self.pidfd = os.pidfd_open(self._process.pid)
        except BaseException:
            for channel in self.channels:
                channel.close()
            raise
        finally:
            for _, end in pairs:
                end.close()

    def stop(self) -> None:
        """Tell it to end: it serves what it has, then ends."""
        self._process.terminate()

    def close(self) -> int:
        """Wait for its end, force it if need be, and return its exit code."""
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for channel in self.channels:
            channel.close()
        os.close(self.pidfd)
        if self._unix:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._unix)
        return self._process.returncode


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what is for our Python and not for nbdkit's."""
    return {name: value for name, value in ours.items() if not name.startswith("PYTHON")}
