# SPDX-License-Identifier: Apache-2.0
"""`i2o serve`: lets hosts on other machines use an IOP of this one.

The IOP may be a real card (pci:0000:01:00.0), one in shared memory (shm:NAME), or any other that
-i can name. It is served at URI until the program is told to stop (SIGTERM, SIGINT): to one host at
a time, which finds it reset. A line `ready URI` is printed when it can be used.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack

from i2o.capture import I2O_RULES, captured, environment_capture
from i2o.errors import UriError
from i2o.frames.functions import Function
from i2o.frames.utility import UTIL_NOP
from i2o.tools import output
from i2o.tools.arguments import SubParsers, add_iop, with_faults
from i2o.tools.failures import OK
from i2o.tools.serving_wire import server_endpoint
from i2o.tools.stop_signals import stop_signals
from i2o.transport.registry import endpoint_schemes, open_port
from i2o.transport.serving import serve
from i2o.transport.uri import Uri
from i2o.transport.wire.addresses import served_uri, server_options
from i2o.transport.wire.bridge import BridgeRules, PortBridge
from i2o.transport.wire.wire_server import WireServer

_IOP_RESET = int(Function.EXEC_IOP_RESET)


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "serve",
        help=summary,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_iop(parser)
    parser.add_argument(
        "uri", metavar="URI", help="where to serve it, for example tcp://127.0.0.1:0"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve an IOP until told to stop."""
    uri = Uri.parse(args.uri)
    uri.require_known(server_options(uri.scheme))
    if uri.scheme not in endpoint_schemes():
        known = " or ".join(f"{scheme}:" for scheme in endpoint_schemes())
        raise UriError(f"{uri.text!r}: an IOP cannot be served there; write {known}")
    file = environment_capture()
    with stop_signals() as (wake, is_stopped), ExitStack() as opened:
        port = open_port(with_faults(args.iop, args.faults))
        if file is not None:
            port = captured(port, file)
        opened.enter_context(port)
        bridge = PortBridge(port, bridge_rules())
        opened.callback(bridge.close)
        server = WireServer(
            server_endpoint(uri),
            bridge.unit,
            bridge,
            arena=bridge.arena,
            should_stop=is_stopped,
        )
        opened.enter_context(server)
        output.show(f"ready {served_uri(uri, server.name)}")
        sys.stdout.flush()  # whoever started this waits for it
        serve([server], is_stopped, wake)
    return OK


def bridge_rules() -> BridgeRules:
    """Return what a bridge must know of I2O messages."""
    return BridgeRules(
        messages=I2O_RULES,
        resets=lambda frame: frame[7] == _IOP_RESET,
        nothing=UTIL_NOP.build(),
    )
