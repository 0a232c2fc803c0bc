# SPDX-License-Identifier: Apache-2.0
"""The names of everything in a decoded frame: what filters, `-T fields` and Wireshark call it.

A layout's field has the same name wherever it stands: its path in snake case. Where a name is a
number in one layout and bytes in another, the bytes are called `NAME_bytes`.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Literal, NamedTuple

from i2o.frames import catalog
from i2o.frames.layout import Field, ValueNames
from i2o.transport.capture.message_record import EventCode
from i2o.transport.capture.message_record import Kind as MessageKind
from i2o.transport.fabric.errors import FabricErrno
from i2o.transport.fabric.flags import EndpointType, Flag

Kind = Literal["uint", "sint", "bytes", "text", "number"]


class FieldName(NamedTuple):
    """What is known about a name.

    Attributes:
        name: the name.
        kind: `number` may have a fraction (times); the others are what they say.
        width_bits: of the widest field with that name; 0 for text and numbers.
        value_names: the classes that name its values; several when layouts differ.
        text: one line on what it is; empty for fields of layouts.
    """

    name: str
    kind: Kind
    width_bits: int
    value_names: tuple[ValueNames, ...]
    text: str


ALIASES: Final = {
    "target": "target_address",
    "initiator": "initiator_address",
    "size_words": "message_size",
    "status": "req_status",
}
"""Short names for fields of the header and of replies."""

OWN_NAMES: Final = (
    FieldName("type", "text", 0, (), "request, reply, dma or message"),
    FieldName("index", "uint", 64, (), "number of the printed object, from 0"),
    FieldName("t", "number", 0, (), "seconds since the first packet"),
    FieldName("iop", "uint", 32, (), "number of the IOP within the capture"),
    FieldName("dir", "text", 0, (), "in or out, seen from the IOP or the endpoint"),
    FieldName("mfa", "uint", 64, (), "message frame address"),
    FieldName("name", "text", 0, (), "name of the message; of an endpoint's, what happened to it"),
    FieldName("device_class", "uint", 32, (), "class of the device addressed, where known"),
    FieldName("length", "uint", 64, (), "bytes of the frame, of the DMA data or of the message"),
    FieldName("address", "uint", 64, (), "bus address of DMA data"),
    FieldName("latency", "number", 0, (), "seconds from a request to its reply, a send to its end"),
    FieldName("reply_to", "uint", 64, (), "index of the request that a reply answers"),
    FieldName("problem", "text", 0, (), "what is wrong with a frame"),
    FieldName("endpoint", "uint", 32, (), "number of the endpoint within the capture"),
    FieldName("tag", "uint", 64, (), "of a tagged message"),
    FieldName("ignore", "uint", 64, (), "bits of the tag that a receive did not compare"),
    FieldName("peer", "text", 0, (), "name or address of the other side of an endpoint's message"),
    FieldName("peer_address", "uint", 64, (), "its fi_addr"),
    FieldName("hop", "text", 0, (), "who passes the message on, if that is not the peer"),
    FieldName("cq_data", "uint", 64, (), "what was sent along with a message"),
    FieldName("op_flags", "uint", 64, (Flag,), "libfabric's flags of an operation or completion"),
    FieldName("sequence", "uint", 64, (), "number of a message, where they have numbers"),
    FieldName("err", "uint", 32, (FabricErrno,), "why an operation failed"),
    FieldName("prov_errno", "uint", 32, (), "the same as the provider's own code"),
    FieldName("message_kind", "uint", 8, (MessageKind,), "what happened to a message"),
    FieldName("event_code", "uint", 8, (EventCode,), "what happened to an endpoint"),
    FieldName("endpoint_type", "uint", 8, (EndpointType,), "MSG, DGRAM or RDM"),
    FieldName("payload", "bytes", 0, (), "what was captured of a message"),
)
"""Names that belong to no layout."""

_OWN: Final = frozenset(own.name for own in OWN_NAMES)


@cache
def mixed_paths() -> frozenset[str]:
    """Return the paths that are bytes in one layout and a number in another."""
    kinds: dict[str, set[bool]] = {}
    for field in _all_fields():
        kinds.setdefault(field.path, set()).add(field.kind == "bytes")
    return frozenset(path for path, found in kinds.items() if len(found) > 1)


def name_of(field: Field) -> str:
    """Return what a layout's field is called."""
    path = field.path
    if field.kind == "bytes" and path in mixed_paths():
        return f"{path}_bytes"
    return f"{path}_field" if path in _OWN else path


@cache
def field_names() -> dict[str, FieldName]:
    """Return every name: those of all layouts' fields, then the ones that are ours."""
    found: dict[str, FieldName] = {}
    for field in _all_fields():
        name = name_of(field)
        before = found.get(name)
        value_names = before.value_names if before else ()
        if field.enum is not None and field.enum not in value_names:
            value_names = (*value_names, field.enum)
        width = max(field.width_bits, before.width_bits if before else 0)
        kind: Kind = before.kind if before else field.kind
        if kind != field.kind:  # a signed and an unsigned number
            kind = "sint"
        found[name] = FieldName(name, kind, width, value_names, "")
    return {**found, **{own.name: own for own in OWN_NAMES}}


def _all_fields() -> tuple[Field, ...]:
    return tuple(
        field
        for layout in (*catalog.messages(), *catalog.structures(), *catalog.parameter_groups())
        for field in layout.fields
    )
