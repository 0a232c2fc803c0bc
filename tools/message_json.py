# SPDX-License-Identifier: Apache-2.0
"""Messages of endpoints as JSON."""

from __future__ import annotations

from i2o.decode.conversation import Traced
from i2o.decode.message_subjects import direction_of, message_length
from i2o.decode.message_text import error_name, flags_text
from i2o.decode.tree import JsonValue
from i2o.transport.fabric.flags import EndpointType

JsonObject = dict[str, JsonValue | float | bool]
"""An object of `i2o dump --json`."""


def message_json(traced: Traced) -> JsonObject:
    """Return what a message's packet says; of a damaged one only what is sure."""
    record = traced.record
    found: JsonObject = {
        "dir": None if record is None else direction_of(record),
        "name": traced.name,
        "packet_id": traced.packet.mfa,
        "length": message_length(traced),
    }
    if record is None:
        return found
    return found | {
        "captured": len(record.payload),
        "endpoint_type": _type_name(record.endpoint_type),
        "op_flags": _names(flags_text(record.op_flags)),
        "tag": record.tag,
        "ignore": record.ignore,
        "cq_data": record.cq_data,
        "peer": record.peer or None,
        "peer_address": record.peer_address,
        "hop": record.hop or None,
        "sequence": record.sequence,
        "err": record.err,
        "error": error_name(record.err) if record.err else None,
        "prov_errno": record.prov_errno,
    }


def _names(flags: str) -> list[JsonValue]:
    return [*flags.split("|")] if flags else []


def _type_name(number: int) -> str | None:
    try:
        return EndpointType(number).name
    except ValueError:
        return None
