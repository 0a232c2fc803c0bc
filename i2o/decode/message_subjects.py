# SPDX-License-Identifier: Apache-2.0
"""What the names of messages of endpoints stand for in a filter, and how each is read."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final, Literal, NamedTuple

from i2o.decode.conversation import MESSAGE, Traced
from i2o.decode.message_text import INWARD, OUTWARD
from i2o.frames.layout import ValueNames
from i2o.transport.capture.message_record import EventCode, Kind, MessageRecord
from i2o.transport.fabric.errors import FabricErrno
from i2o.transport.fabric.flags import EndpointType, Flag

Value = int | bytes | str


class MessageSubject(NamedTuple):
    """What a name stands for.

    Attributes:
        kind: of its values.
        read: returns the value; None where a packet has none.
        value_names: classes that name values.
        more_values: further names of values, in small letters.
    """

    kind: Literal["uint", "text", "bytes"]
    read: Callable[[Traced], Value | None]
    value_names: tuple[ValueNames, ...] = ()
    more_values: Mapping[str, int] = {}


def message_subject(name: str) -> MessageSubject | None:
    """Return what one of our names for messages stands for, None if it is none of them."""
    return _subjects().get(name)


def direction_of(record: MessageRecord) -> str | None:
    """Return `out` for what leaves the endpoint, `in` for what comes to it, None for events."""
    if record.kind in OUTWARD:
        return "out"
    return "in" if record.kind in INWARD else None


def message_length(traced: Traced) -> int:
    """Return the bytes of a message; of a damaged packet those of the packet."""
    return traced.packet.length if traced.record is None else traced.record.length


def _of_record(read: Callable[[MessageRecord], Value | None]) -> Callable[[Traced], Value | None]:
    def get(traced: Traced) -> Value | None:
        if traced.kind != MESSAGE or traced.record is None:
            return None
        return read(traced.record)

    return get


def _endpoint(traced: Traced) -> int | None:
    return traced.packet.iop if traced.kind == MESSAGE else None


@cache
def _subjects() -> dict[str, MessageSubject]:
    def number(read: Callable[[MessageRecord], Value | None]) -> MessageSubject:
        return MessageSubject("uint", _of_record(read))

    def text(read: Callable[[MessageRecord], Value | None]) -> MessageSubject:
        return MessageSubject("text", _of_record(read))

    return {
        "endpoint": MessageSubject("uint", _endpoint),
        "tag": number(lambda record: record.tag),
        "ignore": number(lambda record: record.ignore),
        "cq_data": number(lambda record: record.cq_data),
        "peer_address": number(lambda record: record.peer_address),
        "sequence": number(lambda record: record.sequence),
        "peer": text(lambda record: record.peer or None),
        "hop": text(lambda record: record.hop or None),
        "op_flags": number(lambda record: record.op_flags)._replace(value_names=(Flag,)),
        "err": number(lambda record: record.err or None)._replace(
            value_names=(FabricErrno,), more_values=_ERRNOS
        ),
        "prov_errno": number(lambda record: record.prov_errno or None),
        "message_kind": number(lambda record: record.kind)._replace(value_names=(Kind,)),
        "event_code": number(
            lambda record: record.event if record.kind == Kind.EVENT else None
        )._replace(value_names=(EventCode,)),
        "endpoint_type": number(lambda record: record.endpoint_type or None)._replace(
            value_names=(EndpointType,)
        ),
        "payload": MessageSubject("bytes", _of_record(lambda record: record.payload or None)),
    }


_ERRNOS: Final = {name.lower(): code for code, name in errno.errorcode.items()}
