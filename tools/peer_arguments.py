# SPDX-License-Identifier: Apache-2.0
"""What commands that talk to TCP peers have on their command lines: where, with which key, TLS."""

from __future__ import annotations

import argparse
import ssl

from i2o.tools.arguments import UsageError, add_json, positive_seconds
from i2o.transport.tcp.handshake import Remote
from i2o.transport.tcp.key import KEY_FILE_VARIABLE, KEY_VARIABLE, PeerKey
from i2o.transport.tcp.probe import probe
from i2o.transport.tcp.tls import TlsContexts

_DEFAULT_TIMEOUT_S = 5.0


def add_peer(parser: argparse.ArgumentParser) -> None:
    """Add the address, and how to be let in."""
    parser.add_argument("address", metavar="ADDRESS", help="for example tcp://127.0.0.1:5000")
    parser.add_argument(
        "--key",
        metavar="FILE",
        help=f"the key that peers share (default: what {KEY_VARIABLE} or {KEY_FILE_VARIABLE} says)",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="go beyond this machine although there is no key"
    )
    for name, what in (
        ("cert", "certificate of this end, for TLS"),
        ("cert-key", "its private key"),
        ("ca", "certificates of the authority that signed the peer's"),
    ):
        parser.add_argument(f"--{name}", metavar="PEM", help=what)
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=_DEFAULT_TIMEOUT_S,
        help=f"how long to wait for an answer (default: {_DEFAULT_TIMEOUT_S:g})",
    )
    add_json(parser)


def key_of(args: argparse.Namespace) -> PeerKey | None:
    """Return the key to use; raises TransportUnavailable if there is none that can be."""
    return PeerKey.from_environment() if args.key is None else PeerKey.from_file(args.key)


def tls_of(args: argparse.Namespace) -> ssl.SSLContext | None:
    """Return what TLS is made with, if it is wanted.

    Raises:
        UsageError: only a part of what it needs is given.
        TransportUnavailable: a file cannot be used.
    """
    files = (args.cert, args.cert_key, args.ca)
    if not any(files):
        return None
    if not all(files):
        raise UsageError("--cert, --cert-key and --ca go together", remedy="name all three files")
    return TlsContexts.from_files(*files).client


def who_is_there(args: argparse.Namespace) -> Remote:
    """Ask who listens; raises as `probe`."""
    return probe(
        args.address,
        key=key_of(args),
        insecure=args.insecure,
        tls=tls_of(args),
        timeout_s=args.timeout,
    )
