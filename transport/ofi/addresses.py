# SPDX-License-Identifier: Apache-2.0
"""Addresses of libfabric as text and as the bytes that its calls take.

The text is libfabric's own: `fi_sockaddr_in://192.0.2.1:4711`, `fi_sockaddr_in6://[::1]:4711`, and
`fi_shm://…` or `fi_ns://…`. `192.0.2.1:4711` and `[::1]:4711` are understood, too, and so is a bare
name of shared memory. Nothing is looked up: numbers only.
"""

from __future__ import annotations

import errno
import socket
import struct
from enum import IntEnum
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from i2o.transport.fabric.errors import FabricError

_IN: Final = struct.Struct("=H2s4s8x")
_IN6: Final = struct.Struct("=H2s4s16sI")
_PORT: Final = struct.Struct(">H")
_PREFIX_IN: Final = "fi_sockaddr_in://"
_PREFIX_IN6: Final = "fi_sockaddr_in6://"
_PREFIXES_STR: Final = ("fi_shm://", "fi_ns://")
_LONGEST_NAME: Final = 255


class AddressFormat(IntEnum):
    """FI_SOCKADDR_IN, FI_SOCKADDR_IN6 and FI_ADDR_STR."""

    SOCKADDR_IN = 2
    SOCKADDR_IN6 = 3
    STR = 9


def to_bytes(text: str, format: AddressFormat) -> bytes:
    """Return the address as libfabric's calls take it.

    Raises:
        FabricError: EINVAL, it is none of this format.
    """
    if format is AddressFormat.STR:
        return _name_bytes(text)
    host, port = split_host(text.removeprefix(_PREFIX_IN6).removeprefix(_PREFIX_IN))
    try:
        if format is AddressFormat.SOCKADDR_IN:
            return _IN.pack(socket.AF_INET, _PORT.pack(port), IPv4Address(host).packed)
        address = IPv6Address(host)
        scope = int(address.scope_id) if address.scope_id else 0
    except (AddressValueError, ValueError):
        wanted = "IPv4" if format is AddressFormat.SOCKADDR_IN else "IPv6"
        raise _no_address(text, f"an {wanted} address in numbers and a port") from None
    return _IN6.pack(socket.AF_INET6, _PORT.pack(port), bytes(4), address.packed, scope)


def to_text(data: bytes, format: AddressFormat) -> str:
    """Return the text of an address that libfabric gave."""
    if format is AddressFormat.STR:
        return data.partition(b"\0")[0].decode("utf-8", "backslashreplace")
    if format is AddressFormat.SOCKADDR_IN:
        _, port, packed = _IN.unpack_from(data)
        return f"{_PREFIX_IN}{IPv4Address(packed)}:{_PORT.unpack(port)[0]}"
    _, port, _, packed, scope = _IN6.unpack_from(data)
    zone = f"%{scope}" if scope else ""
    return f"{_PREFIX_IN6}[{IPv6Address(packed)}{zone}]:{_PORT.unpack(port)[0]}"


def is_group(data: bytes) -> bool:
    """Return whether the bytes are the address of a multicast group of IPv4."""
    if len(data) != _IN.size:
        return False
    family, _, packed = _IN.unpack(data)
    return family == socket.AF_INET and IPv4Address(packed).is_multicast


def split_host(text: str) -> tuple[str, int]:
    """Split `host:port` or `[host]:port`; without a port it is 0.

    Raises:
        FabricError: EINVAL, the port is no port.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        is_good = bool(bracket) and (not rest or rest.startswith(":"))
    else:
        host, _, port = text.partition(":")
        is_good = True
    port = port or "0"
    if not is_good or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise _no_address(text, "HOST:PORT or [HOST]:PORT")
    return host, int(port)


def segment_name(text: str) -> str:
    """Return the name of the file in /dev/shm behind an address of the provider shm."""
    for prefix in _PREFIXES_STR:
        text = text.removeprefix(prefix)
    return text


def _name_bytes(text: str) -> bytes:
    name = segment_name(text)
    if not name or "/" in name or "\0" in name or len(text.encode()) > _LONGEST_NAME:
        raise _no_address(text, "fi_shm://NAME or fi_ns://NAME")
    if text == name:
        text = _PREFIXES_STR[1] + name
    return text.encode() + b"\0"


def _no_address(text: str, expected: str) -> FabricError:
    return FabricError(errno.EINVAL, f"{text!r} is no address here: expected {expected}")
