# SPDX-License-Identifier: Apache-2.0
"""Messages of endpoints in words: what they are called, and what one line says of them."""

from __future__ import annotations

import errno
from typing import Final

from i2o.decode.payload import Payload
from i2o.decode.text import ascii_text, printable
from i2o.decode.values import is_text
from i2o.transport.capture.message_record import EventCode, Kind, MessageRecord
from i2o.transport.fabric.errors import FabricErrno, meaning
from i2o.transport.fabric.flags import Flag

ENDS: Final = (Kind.SENT.value, Kind.SEND_FAILED.value)
"""Kinds that end a send."""
FAILURES: Final = (Kind.SEND_FAILED.value, Kind.RECEIVE_FAILED.value)
OUTWARD: Final = (Kind.SEND.value, *ENDS)
INWARD: Final = (Kind.RECEIVED.value, Kind.RECEIVE_FAILED.value, Kind.PEEKED.value)

KIND_NAMES: Final = {
    Kind.SEND.value: "send",
    Kind.SENT.value: "sent",
    Kind.SEND_FAILED.value: "send_failed",
    Kind.RECEIVED.value: "recv",
    Kind.RECEIVE_FAILED.value: "recv_failed",
    Kind.PEEKED.value: "peek",
}
"""What each kind is called, without the `t` of tagged messages."""
_EVENTS: Final = {code.value: code.name.lower() for code in EventCode}
NOT_SAID: Final = (
    Flag.MSG | Flag.TAGGED | Flag.SEND | Flag.RECV | Flag.REMOTE_CQ_DATA | Flag.COMPLETION
)
"""Flags that a line shows otherwise, or that nobody misses."""
_PLACES: Final = {Kind.SEND.value: "to", Kind.SENT.value: "to", Kind.SEND_FAILED.value: "to"}
_STATE: Final = EventCode.STATE.value
_SHOWN: Final = 32
_TAGGED: Final = Flag.TAGGED.value


def message_name(record: MessageRecord) -> str:
    """Return what happened, in libfabric's words: `send`, `tsend`, `recv`, `connected` …"""
    if record.kind == Kind.EVENT:
        return _EVENTS.get(record.event, f"event_{record.event}")
    name = KIND_NAMES.get(record.kind)
    if name is None:
        return f"kind_{record.kind}"
    return f"t{name}" if record.op_flags & _TAGGED else name


def message_names() -> frozenset[str]:
    """Return every text that `message_name` can be, but those of unknown numbers."""
    names = {"message", *KIND_NAMES.values(), *(f"t{name}" for name in KIND_NAMES.values())}
    return frozenset(names | set(_EVENTS.values()))


def message_summary(
    record: MessageRecord | None, captured: int, payload: Payload | None = None
) -> str:
    """Return what a line says behind the name.

    Args:
        record: the message; None if it could not be taken apart.
        captured: bytes of its packet.
        payload: what a protocol makes of its content.
    """
    if record is None:
        return f"! no message of an endpoint ({captured} bytes)"
    if record.kind == Kind.EVENT:
        return _event_text(record)
    parts = []
    if record.tag is not None:
        ignored = f" ignoring {record.ignore:#x}" if record.ignore else ""
        parts.append(f"tag {record.tag:#x}{ignored}")
    if record.kind not in ENDS:
        parts.append(f"{record.length} byte{'' if record.length == 1 else 's'}")
    text = ", ".join(parts)
    if record.peer or record.peer_address is not None:
        text += f" {_PLACES.get(record.kind, 'from')} {_peer_text(record)}"
    if record.hop:
        text += f" via {printable(record.hop)}"
    more = []
    if record.cq_data is not None:
        more.append(f"data {record.cq_data:#x}")
    if record.sequence is not None:
        more.append(f"number {record.sequence}")
    if flags := flags_text(record.op_flags & ~NOT_SAID):
        more.append(flags)
    text = ", ".join([text, *more]) if text else ", ".join(more)
    inner = "" if payload is None else payload.text()
    if inner:
        text += f": {inner}"
    if record.err:
        text += f" ! {error_text(record.err)}"
    return text.lstrip()


def error_text(code: int) -> str:
    """Return an error as name and meaning: `ECONNRESET (connection reset by peer)`."""
    name = error_name(code)
    if not name:
        return f"error {code}"
    text = meaning(code)
    return f"{name} ({text[:1].lower()}{text[1:]})"


def error_name(code: int) -> str:
    """Return the name of an errno or of one of libfabric's codes; empty if it has none."""
    try:
        return FabricErrno(code).name
    except ValueError:
        return errno.errorcode.get(code, "")


def flags_text(flags: int) -> str:
    """Return the names of operation flags, `A|B`, with what has no name as a number."""
    names = [flag.name or "" for flag in Flag if flags & flag]
    rest = flags & ~sum(Flag)
    return "|".join([*names, f"{rest:#x}"] if rest else names)


def _peer_text(record: MessageRecord) -> str:
    return printable(record.peer) if record.peer else f"fi_addr {record.peer_address:#x}"


def _event_text(record: MessageRecord) -> str:
    text = printable(record.peer)
    payload = record.payload
    if payload:
        is_words = record.event == _STATE
        words = printable(payload.decode("utf-8", "replace")) if is_words else _bytes_text(payload)
        text = f"{text}: {words}" if text else words
    if record.err:
        text += f" ! {error_text(record.err)}"
    return text.lstrip()


def _bytes_text(payload: bytes) -> str:
    if is_text(payload):
        return f'parameter "{ascii_text(payload)[:_SHOWN]}"'
    more = "…" if len(payload) > _SHOWN else ""
    return f"parameter {payload[:_SHOWN].hex()}{more}"
