# SPDX-License-Identifier: Apache-2.0
"""The process that a software IOP runs in: `python -m i2o.iop_emulator.process_main`.

Started by `process_port`, never by hand. It serves until the host closes its end of the socket.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import sys

from i2o.clock import SYSTEM_CLOCK
from i2o.errors import I2OError
from i2o.iop_emulator.commanded_iop import CommandedIop
from i2o.iop_emulator.complaints import Complaints
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.transport.process_unit import DeviceHalf
from i2o.transport.uri import Uri

READY = b"ready"


def main(arguments: list[str]) -> int:
    """Make the IOP that a URI names, say so, and serve it.

    Args:
        arguments: the URI, the socket's and the shared memory's descriptor.

    Returns:
        0 when the host has closed its end, 1 if the IOP could not be made.
    """
    text, end_fd, memory_fd = arguments
    with socket.socket(fileno=int(end_fd)) as end:
        try:
            iop, unit, control = make(text, end, int(memory_fd))
        except I2OError as error:
            remedy = getattr(error, "remedy", "")
            reason = getattr(error, "reason", str(error))
            with contextlib.suppress(OSError):  # a host that was interrupted does not want to know
                end.send(f"{reason}\0{remedy}".encode())
            return 1
        try:
            serve(iop, unit, end, control)
        finally:
            if control is not None:
                control.close()
            iop.close()
            unit.close()
    return 0


def make(
    text: str, end: socket.socket, memory_fd: int
) -> tuple[SoftIop, DeviceHalf, ControlSocket | None]:
    """Make an IOP, the device half of its queue pair, and its control socket if it has one.

    The host is told as soon as they are ready.

    Raises:
        UriError, TransportUnavailable: see `EmuOptions`.
    """
    options = EmuOptions.from_uri(Uri.parse(text))
    faults = options.read_faults()
    disks = options.open_disks()
    try:
        control = options.open_control()
    except I2OError:
        for disk in disks:
            disk.close()
        raise
    with contextlib.suppress(OSError):  # without a host `serve` ends at once
        end.send(READY)
    complaints = Complaints()
    unit = DeviceHalf(
        end,
        memory_fd,
        frame_count=options.frames,
        frame_size=options.frame_size,
        on_misuse=complaints.add,
    )
    iop = SoftIop(unit, options.iop, disks, faults, complaints=complaints)
    return iop, unit, control


def serve(
    iop: SoftIop, unit: DeviceHalf, end: socket.socket, control: ControlSocket | None = None
) -> None:
    """Run an IOP, and the commands that come in between, until the host is gone."""
    poller = select.poll()
    if control is not None:
        poller.register(control, select.POLLIN)
    commanded = CommandedIop(iop, control)
    while True:
        has_command = commanded.has_command()
        if not unit.drain():
            return
        if unit.take_power_cycle():
            iop.power_cycle()
        deadline_ns = commanded.run(SYSTEM_CLOCK.monotonic_ns(), has_command=has_command)
        unit.flush()
        if iop.work_pending:
            continue
        poller.register(end, select.POLLIN | (select.POLLOUT if unit.has_outbox else 0))
        timeout_ms = None
        if deadline_ns is not None:
            timeout_ms = max(0.0, (deadline_ns - SYSTEM_CLOCK.monotonic_ns()) / 1e6)
        poller.poll(timeout_ms)


if __name__ == "__main__":
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # warnings reach any terminal, `stty tostop` too
    sys.exit(main(sys.argv[1:]))
