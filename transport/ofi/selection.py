# SPDX-License-Identifier: Apache-2.0
"""Asks libfabric for an endpoint of a provider with as many capabilities as it has (fi_getinfo)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any, Final

from i2o.errors import TransportUnavailable
from i2o.transport.fabric.endpoint import EndpointAttributes
from i2o.transport.fabric.errors import FabricError
from i2o.transport.fabric.flags import Capability, EndpointType
from i2o.transport.ofi.addresses import AddressFormat
from i2o.transport.ofi.library import API_VERSION, REMEDY, Library, check
from i2o.transport.ofi.provider import Provider, provider_of

_ALWAYS: Final = Capability.MSG | Capability.SEND | Capability.RECV
_OPTIONAL: Final = (
    Capability.TAGGED,
    Capability.MULTI_RECV,
    Capability.SOURCE,
    Capability.DIRECTED_RECV,
    Capability.MULTICAST,
)
"""In this order; FENCE is not among them, because it is made on the sending side."""
_LARGEST: Final = (1 << 63) - 1
_FORMATS: Final = {
    AddressFormat.SOCKADDR_IN,
    AddressFormat.SOCKADDR_IN6,
    AddressFormat.STR,
}


@dataclass(frozen=True, slots=True)
class Selection:
    """What libfabric offers for a request.

    Attributes:
        library: where it comes from.
        info: a `struct fi_info`, freed with this object.
        provider: what is known of it.
        attributes: what an endpoint made of it is and can do.
        format: of its addresses.
    """

    library: Library
    info: Any
    provider: Provider
    attributes: EndpointAttributes
    format: AddressFormat


@dataclass(frozen=True, slots=True)
class Wish:
    """What to ask libfabric for.

    Attributes:
        provider: its name, for example `tcp;ofi_rxm`.
        type: what kind of endpoint.
        node: the own host or interface address, or a part of a name; None for any.
        service: the own port, or the name of shared memory; None for any.
        capabilities: what must be there. None: as many as there are.
    """

    provider: str
    type: EndpointType
    node: str | None = None
    service: str | None = None
    capabilities: Capability | None = None


def select(library: Library, wish: Wish) -> Selection:
    """Return the best that the provider offers.

    Raises:
        TransportUnavailable: the provider is not there, or has no such endpoints.
        FabricError: ENOTSUP, it lacks a capability that was asked for by name.
    """
    info = _ask(library, wish, _ALWAYS)
    if info is None:
        raise TransportUnavailable(
            "ofi",
            f"libfabric {library.version} offers no {wish.type.name} endpoint of provider "
            f"{wish.provider!r} at {wish.node or wish.service or 'any address'}",
            remedy="fi_info lists providers and addresses; " + REMEDY,
        )
    granted = _ALWAYS
    known = _provider(library, info)
    for capability in _OPTIONAL:
        if wish.capabilities is not None and capability not in wish.capabilities:
            continue
        better = None
        if capability not in known.lacks:
            better = _ask(library, wish, granted | capability)
        if better is not None:
            info, granted = better, granted | capability
        elif wish.capabilities is not None:
            raise FabricError(errno.ENOTSUP, f"provider {wish.provider} has no {capability.name}")
    if wish.capabilities is None or Capability.FENCE in wish.capabilities:
        granted |= Capability.FENCE
    return selection_of(library, info, granted)


def selection_of(library: Library, info: Any, capabilities: Capability) -> Selection:
    """Return what an offer of libfabric means.

    Raises:
        TransportUnavailable: its addresses have a format that has no text here.
    """
    name = library.ffi.string(info.fabric_attr.prov_name).decode()
    if info.addr_format not in _FORMATS:
        raise TransportUnavailable(
            "ofi", f"addresses of provider {name!r} have format {info.addr_format}, unknown here"
        )
    known = _provider(library, info)
    attributes = EndpointAttributes(
        type=EndpointType(info.ep_attr.type),
        capabilities=capabilities,
        inject_size=info.tx_attr.inject_size,
        max_msg_size=min(info.ep_attr.max_msg_size, _LARGEST),
        # every receive has a spare buffer behind the caller's
        iov_limit=min(info.tx_attr.iov_limit, info.rx_attr.iov_limit - 1),
        tx_size=info.tx_attr.size,
        rx_size=info.rx_attr.size,
        cq_data_size=info.domain_attr.cq_data_size,
        msg_prefix_size=info.ep_attr.msg_prefix_size,
        provider=name,
    )
    return Selection(library, info, known, attributes, AddressFormat(info.addr_format))


def _provider(library: Library, info: Any) -> Provider:
    name = library.ffi.string(info.fabric_attr.prov_name).decode()
    return provider_of(name, info.fabric_attr.prov_version >> 16)


def _ask(library: Library, wish: Wish, capabilities: Capability) -> Any:
    """Return the first offer, or None if there is none."""
    ffi, lib = library
    hints = ffi.gc(lib.fi_dupinfo(ffi.NULL), lib.fi_freeinfo)
    hints.caps = capabilities
    hints.mode = lib.FI_CONTEXT | lib.FI_CONTEXT2
    hints.ep_attr.type = wish.type
    hints.tx_attr.msg_order = lib.FI_ORDER_SAS if wish.type is not EndpointType.DGRAM else 0
    hints.domain_attr.threading = lib.FI_THREAD_SAFE
    hints.domain_attr.resource_mgmt = lib.FI_RM_ENABLED
    name = ffi.new("char []", wish.provider.encode())
    out = ffi.new("struct fi_info **")
    node = ffi.NULL if wish.node is None else wish.node.encode()
    service = ffi.NULL if wish.service is None else wish.service.encode()
    flags = 0 if wish.node is None and wish.service is None else lib.FI_SOURCE
    hints.fabric_attr.prov_name = name
    try:
        code = lib.i2o_getinfo(API_VERSION, node, service, flags, hints, out)
    finally:
        hints.fabric_attr.prov_name = ffi.NULL  # fi_freeinfo would free it
    if code == -errno.ENODATA:
        return None
    check(library, code, "fi_getinfo")
    return ffi.gc(out[0], lib.fi_freeinfo)
