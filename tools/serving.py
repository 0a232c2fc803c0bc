# SPDX-License-Identifier: Apache-2.0
"""Makes the IOPs that `i2o emulate --serve` names, and serves them until told to stop."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final
from urllib.parse import quote

from i2o.capture import I2O_RULES, environment_capture
from i2o.clock import SYSTEM_CLOCK
from i2o.errors import UriError
from i2o.iop_emulator import complaints, service_processor
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.pci_function import IopFunction
from i2o.iop_emulator.service_processor import ServiceProcessor
from i2o.tools import output
from i2o.tools.arguments import UsageError
from i2o.tools.failures import OK
from i2o.tools.stop_signals import stop_signals
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.unit_tap import TapUnit
from i2o.transport.device_unit import DeviceUnit
from i2o.transport.uri import Uri
from i2o.transport.vfio_user import Server, serve

SCHEMES: Final = ("vfio-user",)
MAX_COMPLAINTS: Final = 200
"""Complaints that are printed: a driver that does nothing right shall not fill a log."""
_KEPT: Final = ",=:@/"  # of a disk specification: what its own syntax and readability need


def serve_iops(args: argparse.Namespace) -> int:
    """Serve the IOPs of a command line."""
    uris = [Uri.parse(text) for text in args.serve]
    shared = _shared_options(args)
    if shared and len(uris) > 1:
        raise UsageError(
            "several IOPs are served: whose are --disk, --personality, --faults and --control?",
            remedy="write the options into each URI: vfio-user:SOCKET?disk=SPEC&control=PATH",
        )
    file = environment_capture()
    # in this order, so that a second signal does not disturb the end
    with _complaints_shown(), stop_signals() as (wake, is_stopped), ExitStack() as opened:
        servers = [opened.enter_context(_server(uri, shared, file, opened)) for uri in uris]
        output.show(*(f"ready {uri.text}" for uri in uris))
        sys.stdout.flush()  # whoever started this waits for it
        serve(servers, is_stopped, wake)
    return OK


class _Printed(logging.Handler):
    """Writes complaints to stderr, as long as they are not too many."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        self._count += 1
        if self._count <= MAX_COMPLAINTS:
            output.note(f"i2o: {output.printable(record.getMessage())}")
        elif self._count == MAX_COMPLAINTS + 1:
            output.note("i2o: more is wrong: `i2o emulate --control PATH status` shows the last")


@contextmanager
def _complaints_shown() -> Iterator[None]:
    """Print what the drivers of guests do wrong while it happens."""
    logger, printed = logging.getLogger(complaints.__name__), _Printed()
    logger.addHandler(printed)
    try:
        yield
    finally:
        logger.removeHandler(printed)


def _shared_options(args: argparse.Namespace) -> str:
    """Return the options that stand outside of the URIs, as a URI has them."""
    words = [f"disk={quote(spec, safe=_KEPT)}" for spec in args.disk or ()]
    words += [
        f"{name}={quote(value, safe=_KEPT)}"
        for name in ("personality", "faults", "control")
        if (value := getattr(args, name)) is not None
    ]
    return "&".join(words)


def _server(uri: Uri, shared: str, file: CaptureFile | None, opened: ExitStack) -> Server:
    """Make one IOP and its socket; raises UriError or TransportUnavailable."""
    if uri.scheme not in SCHEMES or not uri.address:
        raise UriError(
            f"{uri.text!r}: an IOP cannot be served there; write "
            + " or ".join(f"{scheme}:SOCKET" for scheme in SCHEMES)
        )
    if uri.all("run"):
        raise UriError(f"{uri.text!r}: run= is for emu: URIs; a served IOP runs in this program")
    query = "&".join(filter(None, (uri.text.partition("?")[2], shared)))
    asked = Uri.parse(f"emu:?{query}" if query else "emu:")
    device: IopFunction | ServiceProcessor
    if asked.one("personality", "") == service_processor.NAME:
        device = _service_processor(asked)
    else:
        options = EmuOptions.from_uri(asked)
        device = IopFunction.from_options(options, SYSTEM_CLOCK, _tap(uri, file))
    opened.callback(device.close)
    return Server(uri.address, device)


def _service_processor(uri: Uri) -> ServiceProcessor:
    """Make IBM's card, which is no IOP; raises UriError or TransportUnavailable."""
    uri.require_known(("personality", "control"))
    path = uri.one("control", "")
    return ServiceProcessor(ControlSocket(path) if path else None)


def _tap(uri: Uri, file: CaptureFile | None) -> Callable[[DeviceUnit], DeviceUnit]:
    """Return what puts a capture between an IOP and its queue pair, if there is one."""
    if file is None:
        return lambda unit: unit
    recorder = file.add_iop(uri.text)
    return lambda unit: TapUnit(unit, recorder, I2O_RULES)
