# SPDX-License-Identifier: Apache-2.0
"""Where a peer listens: `tcp://HOST:PORT`, IPv4, IPv6 in brackets, or a host name."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Final, NamedTuple

from i2o.transport.tcp.errors import PeerError

SCHEME: Final = "tcp://"
_MAX_TEXT: Final = 255


class Address(NamedTuple):
    """A numeric address.

    Attributes:
        host: as `inet_ntop` writes it; a link-local IPv6 address has its `%interface`.
        port: 0 where the system is to choose one.
    """

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def is_loopback(self) -> bool:
        """Whether it never leaves this machine."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every address of the machine."""
        return ipaddress.ip_address(self.host).is_unspecified

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read a numeric address, without asking anybody; `tcp://` in front may be left out.

    Raises:
        PeerError: EINVAL, it is none.
    """
    host, port = _split(text)
    try:
        return Address(_canonical(host), port)
    except ValueError:
        raise PeerError(
            errno.EINVAL, f"{text!r} has no numeric address; write tcp://127.0.0.1:{port}"
        ) from None


def find_addresses(text: str) -> tuple[Address, ...]:
    """Read an address, and ask the resolver if it has a host name (which may take seconds).

    Raises:
        PeerError: EINVAL, it makes no sense; EHOSTUNREACH, nobody knows the name.
    """
    host, port = _split(text)
    try:
        return (Address(_canonical(host), port),)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PeerError(errno.EHOSTUNREACH, f"{text!r}: {error}") from None
    return tuple(dict.fromkeys(Address(str(entry[4][0]), port) for entry in found))


def of_socket(name: tuple[object, ...]) -> Address:
    """Return the address that `getsockname` or `getpeername` told."""
    host = str(name[0])
    return Address(host.removeprefix("::ffff:") if "." in host else host, int(str(name[1])))


def check_exposure(address: Address, *, is_allowed: bool) -> None:
    """Refuse an address that others than this machine's users can reach, unless that is allowed.

    Raises:
        PeerError: EACCES.
    """
    if not is_allowed and not address.is_loopback:
        raise PeerError(
            errno.EACCES,
            f"{address} is not on this machine alone, and there is no key; give both ends the "
            "same key file, or say that none is needed (insecure)",
        )


def _canonical(host: str) -> str:
    parsed = ipaddress.ip_address(host)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)


def _split(text: str) -> tuple[str, int]:
    rest = text.removeprefix(SCHEME).rstrip("/")
    host, colon, port = rest.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if is_bracketed:
        host = host[1:-1]
    if (
        not colon
        or not host
        or len(text) > _MAX_TEXT
        or (":" in host) != is_bracketed
        or not (port.isascii() and port.isdigit() and int(port) <= 0xFFFF)
    ):
        raise PeerError(
            errno.EINVAL,
            f"{text!r} is no address; write tcp://HOST:PORT, IPv6 as in tcp://[::1]:5000",
        )
    return host, int(port)
