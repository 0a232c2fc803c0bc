# SPDX-License-Identifier: Apache-2.0
"""Makes the IOPs that `i2o emulate --serve` names, and serves them until told to stop."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Final, NamedTuple
from urllib.parse import quote

from i2o.capture import environment_capture
from i2o.errors import UriError
from i2o.iop_emulator import complaints
from i2o.tools import output
from i2o.tools.arguments import UsageError
from i2o.tools.failures import OK
from i2o.tools.serving_order import Order
from i2o.tools.stop_signals import stop_signals
from i2o.transport.serving import Addressed, Served, serve
from i2o.transport.uri import Uri


class Scheme(NamedTuple):
    """A way in to an IOP.

    Attributes:
        address: what stands behind the colon, for messages.
        module: has a function `served`, which makes a `Served` of an `Order`.
    """

    address: str
    module: str


SCHEMES: Final = {
    "ofi": Scheme("//PROVIDER/ADDRESS", "i2o.tools.serving_wire"),
    "serial": Scheme("DEVICE", "i2o.tools.serving_wire"),
    "shm": Scheme("NAME", "i2o.tools.serving_shm"),
    "tcp": Scheme("//HOST:PORT", "i2o.tools.serving_wire"),
    "usbip": Scheme("HOST:PORT", "i2o.tools.serving_usb"),
    "usbredir": Scheme("SOCKET", "i2o.tools.serving_usb"),
    "vfio-user": Scheme("SOCKET", "i2o.tools.serving_vfio_user"),
}
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
        served = [_served(Order(uri, shared, file, opened, is_stopped)) for uri in uris]
        places = (one.uri if isinstance(one, Addressed) else None for one in served)
        output.show(
            *(f"ready {place or uri.text}" for uri, place in zip(uris, places, strict=True))
        )
        sys.stdout.flush()  # whoever started this waits for it
        serve(served, is_stopped, wake)
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


def _served(order: Order) -> Served:
    """Make one IOP and the way in to it; raises UriError or TransportUnavailable."""
    scheme = SCHEMES.get(order.uri.scheme)
    if scheme is not None and not order.uri.address:
        raise UriError(f"{order.uri.text!r}: where? Write {order.uri.scheme}:{scheme.address}")
    if scheme is None:
        raise UriError(
            f"{order.uri.text!r}: an IOP cannot be served there; write "
            + " or ".join(f"{name}:{known.address}" for name, known in SCHEMES.items())
        )
    make: Callable[[Order], Served] = import_module(scheme.module).served
    return make(order)
