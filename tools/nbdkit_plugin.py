# SPDX-License-Identifier: Apache-2.0
"""What `i2o nbd` runs inside nbdkit: hands each request to the program that has the IOP.

nbdkit brings a Python of its own, which need not be the one that i2o is installed in. So this is
plain Python with nothing but the standard library, and imports nothing of i2o. Requests go over
socket pairs that nbdkit inherits, one request at a time on each; a thread takes a free one.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import socket
import struct
import traceback
from functools import cache
from importlib import import_module
from typing import Any

API_VERSION = 2
ENVIRONMENT = "I2O_NBD"
"""The variable with what is served: channels, size, block_size, largest, writable."""
READY, READ, WRITE, FLUSH = range(4)
REQUEST = struct.Struct("<BxxxIQ")
"""What is wanted, bytes, first byte; the bytes follow a WRITE. READY is not answered."""
REPLY = struct.Struct("<iI")
"""An errno or 0, and the length of what follows: the bytes of a READ, or an error's text."""


@cache
def export() -> dict[str, Any]:
    """Return what is served."""
    told: dict[str, Any] = json.loads(os.environ[ENVIRONMENT])
    return told


@cache
def free_channels() -> queue.LifoQueue[socket.socket]:
    """Return the sockets that no thread uses."""
    channels: queue.LifoQueue[socket.socket] = queue.LifoQueue()
    for descriptor in export()["channels"]:
        channels.put(socket.socket(fileno=descriptor))
    return channels


def nbdkit() -> Any:
    """Return the module that there is only inside nbdkit."""
    return import_module("nbdkit")


def receive(channel: socket.socket, size: int) -> bytearray:
    """Return exactly that many bytes."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = channel.recv_into(view)
        if not count:
            raise ConnectionError("i2o nbd is gone")
        view = view[count:]
    return data


def ask(
    what: int, size: int = 0, offset: int = 0, data: bytes | bytearray | memoryview = b""
) -> bytes | bytearray:
    """Have the program do something; return the bytes that it answers with."""
    channel = free_channels().get()
    try:
        channel.sendall(REQUEST.pack(what, size, offset))
        channel.sendall(data)
        if what == READY:
            return b""
        number, length = REPLY.unpack(receive(channel, REPLY.size))
        answer = receive(channel, length)
    except OSError as error:
        nbdkit().set_error(error.errno or errno.EIO)
        raise
    finally:
        free_channels().put(channel)
    if number:
        nbdkit().set_error(number)
        raise OSError(number, answer.decode("utf-8", "replace"))
    return answer


# --- what nbdkit calls ----------------------------------------------------------------------------


def thread_model() -> int:
    """Let nbdkit call from many threads at once."""
    parallel: int = nbdkit().THREAD_MODEL_PARALLEL
    return parallel


def after_fork() -> None:
    """Tell the program that clients can connect."""
    # nbdkit logs exceptions with all of their traceback; that a block is bad is no bug
    setattr(traceback, "format_exception", lambda kind, error, where: [str(error)])  # noqa: B010
    ask(READY)


def open(readonly: bool) -> int:
    """Begin to serve a client."""
    return 1


def get_size(handle: int) -> int:
    """Return the disk's size in bytes."""
    size: int = export()["size"]
    return size


def block_size(handle: int) -> tuple[int, int, int]:
    """Return the smallest, the best and the largest request."""
    least, largest = export()["block_size"], export()["largest"]
    return (least, min(max(least, 4096), largest), largest)


def can_write(handle: int) -> bool:
    """Whether the disk may be written."""
    return bool(export()["writable"])


def can_flush(handle: int) -> bool:
    """Whether there is a flush."""
    return True


def can_multi_conn(handle: int) -> bool:
    """Whether a flush of one client covers the writes of others: there is only one disk."""
    return True


def is_rotational(handle: int) -> bool:
    """Whether seeking costs: it was the rule in I2O's time."""
    return True


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    """Fill a buffer."""
    memoryview(buffer)[:] = ask(READ, len(buffer), offset)


def pwrite(handle: int, buffer: bytes | bytearray, offset: int, flags: int) -> None:
    """Write a buffer."""
    ask(WRITE, len(buffer), offset, buffer)


def flush(handle: int, flags: int) -> None:
    """Have everything written put on the medium."""
    ask(FLUSH)
