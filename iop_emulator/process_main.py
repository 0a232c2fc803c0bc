# SPDX-License-Identifier: Apache-2.0
"""The process that a software IOP runs in: `python -m i2o.iop_emulator.process_main`.

Started by `process_port`, never by hand. It serves one host, over the socket that it was given,
until that closes its end.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys

from i2o.errors import I2OError
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.shm_iop import ShmIop
from i2o.transport.serving import serve
from i2o.transport.shm.greeting import Hello, Refusal, Refused, hear, say
from i2o.transport.shm.server import ShmHost
from i2o.transport.uri import Uri


def main(arguments: list[str]) -> int:
    """Make the IOP that a URI names, and serve it.

    Args:
        arguments: the URI, and the socket's descriptor.

    Returns:
        0 when the host has closed its end, 1 if the IOP could not be made.
    """
    text, end_fd = arguments
    end = socket.socket(fileno=int(end_fd))
    try:
        iop = ShmIop.from_options(EmuOptions.from_uri(Uri.parse(text)))
    except I2OError as error:
        reason, remedy = getattr(error, "reason", str(error)), getattr(error, "remedy", "")
        with end, contextlib.suppress(OSError):  # a host that was interrupted does not care
            hear(end)  # or closing would take back what is said
            say(end, Refused(Refusal.UNABLE, 0, reason, remedy))
        return 1
    with iop, ShmHost(iop) as host:
        try:
            hello = hear(end)
            assert isinstance(hello, Hello), "our own host says nothing else"
            host.welcome(end, hello)
        except OSError:  # nobody is there any more
            end.close()
            return 0
        serve([host], lambda: not host.is_connected)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # warnings reach any terminal, `stty tostop` too
    sys.exit(main(sys.argv[1:]))
