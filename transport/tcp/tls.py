# SPDX-License-Identifier: Apache-2.0
"""Contexts for TLS between peers, from files; the standard library does the rest.

Both ends show a certificate, and both want one that the same authority has signed. The names in
certificates are not compared with host names: peers have names of their own, which the handshake
after TLS proves if there is a key, too.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple, Self

from i2o.errors import TransportUnavailable


class TlsContexts(NamedTuple):
    """What callers and what the called one use."""

    server: ssl.SSLContext
    client: ssl.SSLContext

    @classmethod
    def from_files(
        cls, certificate: str | Path, private_key: str | Path, authority: str | Path
    ) -> Self:
        """Load PEM files.

        Args:
            certificate: of this end, with what links it to the authority.
            private_key: of the certificate.
            authority: certificates of whoever may sign peers' certificates.

        Raises:
            TransportUnavailable: one of them cannot be used.
        """
        contexts = (
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )
        for context in contexts:
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_cert_chain(certificate, private_key)
                context.load_verify_locations(authority)
            except (OSError, ValueError) as error:
                raise TransportUnavailable(
                    "tcp",
                    f"TLS with {certificate}, {private_key} and {authority}: {error}",
                    remedy="name PEM files: a certificate, its private key, and the authority's",
                ) from None
        return cls(*contexts)
