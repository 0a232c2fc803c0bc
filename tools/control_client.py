# SPDX-License-Identifier: Apache-2.0
"""Sends one command to the control socket of a running software IOP and returns the answer."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from typing import Any, Final
from urllib.parse import quote, unquote

from i2o.errors import I2OError, RemoteFrameError, TransportUnavailable
from i2o.iop_emulator.commands import COMMANDS
from i2o.iop_emulator.control_socket import MAX_LINE

MAX_ANSWER: Final = 16 << 20
_START: Final = "start the IOP with a control socket: emu:?control=PATH"


def command_line(name: str, arguments: list[str]) -> bytes:
    """Return a command as the socket takes it; paths are made absolute, blanks escaped.

    Raises:
        I2OError: it is too long, or a path in it has bytes that are no UTF-8.
    """
    command = COMMANDS.get(name)
    kinds = command.arguments.split() if command is not None else []
    words = [_one_word(name)]
    try:
        for number, argument in enumerate(arguments):
            kind = kinds[number] if number < len(kinds) else ""
            words.append(_as_path(argument) if _is_path(kind, argument) else _one_word(argument))
        line = " ".join(words).encode() + b"\n"
    except UnicodeEncodeError:
        raise I2OError("the command is no UTF-8 text: give the file a name that is") from None
    if len(line) > MAX_LINE:
        raise I2OError(f"the command has {len(line)} bytes; {MAX_LINE} at most can be sent")
    return line


def ask(path: str, line: bytes, timeout_s: float) -> dict[str, Any]:
    """Send a command and wait for its answer.

    Raises:
        TransportUnavailable: nobody listens there, or nobody answers in time.
        RemoteFrameError: what came is no answer.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.settimeout(timeout_s)
            end.connect(path)
            end.sendall(line)
            said = _receive(end)
    except (TimeoutError, BlockingIOError):  # too many wait already
        raise TransportUnavailable(
            "emu",
            f"the IOP behind {path!r} did not answer within {timeout_s:g} s; it may still do what "
            "it was told",
            remedy="with run=inline it runs only while its program looks for replies: use "
            "run=thread, or --timeout",
        ) from None
    except OSError as error:
        reason, remedy = _reason(path, error)
        raise TransportUnavailable("emu", reason, remedy=remedy) from None
    try:
        answer = json.loads(said)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise RemoteFrameError(
            f"what listens on {path!r} is no software IOP: it said {said[:80]!r}"
        )
    return answer


def _receive(end: socket.socket) -> bytes:
    """Return one line."""
    said = bytearray()
    while not said.endswith(b"\n") and len(said) < MAX_ANSWER:
        part = end.recv(1 << 16)
        if not part:
            break
        said += part
    if not said:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return bytes(said)


def _reason(path: str, error: OSError) -> tuple[str, str]:
    """Return what is wrong with a socket, and what to do."""
    what = f"control socket {path!r}"
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        return f"{what} is no socket", "name what stands behind control= of the running IOP"
    if error.errno == errno.ENOENT:
        return f"{what} does not exist", _START
    if error.errno == errno.ECONNREFUSED:
        return f"{what}: its IOP has ended", _START
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        return f"{what}: the IOP ended before it answered", _START
    if error.errno == errno.EACCES:
        return f"{what} is somebody else's", "run this as the user who runs the IOP"
    return f"{what}: {error.strerror or error}", _START


def _is_path(kind: str, argument: str) -> bool:
    return kind == "DISK-SPEC" or (kind.startswith("PLAN") and argument != "none")


def _as_path(argument: str) -> str:
    """Make the path at the start of an argument absolute: the IOP may run in another folder."""
    path, comma, parts = argument.partition(",")
    if not path:
        return _one_word(argument)
    whole = quote(os.path.abspath(unquote(path)), safe="/")
    return f"{whole},{_one_word(parts)}" if comma else whole


def _one_word(argument: str) -> str:
    """Escape what would end a word."""
    return "".join(quote(mark) if mark.isspace() else mark for mark in argument) or "%00"
