# SPDX-License-Identifier: Apache-2.0
"""Valid network messages for an IOP, as in `valid_frames`: they are made with these.

Events, types and lengths are few, so that senders and receivers meet and the buffer fills up.
"""

from __future__ import annotations

from dataclasses import replace

from fakes.valid_frames import NEAR, NETWORK, FrameTable, ValidFrame, builds
from fakes.valid_lists import Buffer, Listed
from i2o.frames import executive, utility
from i2o.frames import network_message as frames
from i2o.frames.functions import Function
from i2o.frames.layout import MessageLayout
from i2o.frames.network_message import ORGANIZATION, POUCH_SIZE
from i2o.iop_emulator.ddm.network_message import LOCAL, MAX_TRANSFER

SPACE = 8192
"""Bytes of messages that the IOP keeps."""
NOBUF = 0x10
EVENTS = (6, 7)
_TYPES = (0, 1, 2, 3)
_NODES = (LOCAL, LOCAL, NEAR, NEAR, 0)
_LENGTHS = (0, 12, 12, 700, 3000, SPACE)
_TRY, _TRANSFER, _BIG_ENDIAN, _ANY, _EVERY = (
    option.value for option in frames.NetworkMessageOptions
)
_KNOWN: dict[str, tuple[int, ...]] = {
    "options": (0, _TRY, _TRANSFER, _TRY | _TRANSFER, _ANY, _TRY | _ANY, _EVERY),
    "node": _NODES,
    "source": _NODES,
    "event": EVENTS,
    "type": _TYPES,
    "message_flags": (0, NOBUF),
    "length": (*_LENGTHS, SPACE - 64, SPACE - 63, MAX_TRANSFER + 1),
    "number": tuple(range(1, 9)),
    "organization_id": (ORGANIZATION, 0x1B),
}
"""What a mutated field may become that still means something."""


def _message(
    table: FrameTable, layout: MessageLayout, listed: Listed | None = None, **fields: int
) -> ValidFrame:
    made = table.message(layout, NETWORK, listed, **fields)
    known = {field.byte: _KNOWN[field.path] for field in layout.fields if field.path in _KNOWN}
    body = tuple(
        place._replace(known=known.get(place.byte, place.known)) for place in made.places["body"]
    )
    return replace(made, places={**made.places, "body": body})


def _send(table: FrameTable, length: int | None = None, **fields: int) -> ValidFrame:
    rng = table.rng
    if length is None:
        length = rng.choice(_LENGTHS)
    data = bytes(POUCH_SIZE) + bytes(range(250)) * (length // 250 + 1)
    size = POUCH_SIZE + length
    listed = table.lists.make(Buffer(data[:size], size, may_be_immediate=length < 100))
    asked = {
        "node": rng.choice(_NODES),
        "event": rng.choice(EVENTS),
        "type": rng.choice(_TYPES),
        "options": rng.choice((0, 0, 0, _TRY, _BIG_ENDIAN, _TRANSFER)),
        "message_flags": rng.choice((0, 0, 0, NOBUF)),
    }
    return _message(table, frames.NETWORK_MESSAGE_SEND, listed, length=length, **asked | fields)


def _receive(table: FrameTable, **fields: int) -> ValidFrame:
    rng = table.rng
    length = rng.choice((0, 12, 700, 3000))
    listed = table.lists.make(Buffer(None, length)) if length else None
    asked = {
        "source": NEAR,
        "event": rng.choice(EVENTS),
        "type": rng.choice(_TYPES),
        "priority": rng.choice((0, 0, 1)),
        "options": rng.choice((_ANY, _ANY, _ANY | _TRY, _ANY | _TRANSFER, _TRY, 0)),
    }
    return _message(table, frames.NETWORK_MESSAGE_RECEIVE, listed, length=length, **asked | fields)


def _with_room(table: FrameTable, layout: MessageLayout, **fields: int) -> ValidFrame:
    """Return a request whose buffer gets what it asks for."""
    length = table.one_of(0, 12, 56, 700, 3000)
    listed = table.lists.make(Buffer(None, length)) if length else None
    return _message(table, layout, listed, length=length, **fields)


def _look(table: FrameTable) -> ValidFrame:
    return _with_room(table, frames.NETWORK_MESSAGE_LOOK, number=table.rng.randrange(1, 6))


def _listing(table: FrameTable) -> ValidFrame:
    return _with_room(table, frames.NETWORK_MESSAGE_LIST)


def _sweep(table: FrameTable) -> ValidFrame:
    options, event = table.one_of(0, _EVERY), table.one_of(*EVENTS)
    return _message(table, frames.NETWORK_MESSAGE_SWEEP, options=options, event=event)


def _probe(table: FrameTable) -> ValidFrame:
    asked = {"options": table.one_of(_ANY, 0), "source": NEAR, "event": table.one_of(*EVENTS)}
    return _message(table, frames.NETWORK_MESSAGE_PROBE, **asked, type=table.one_of(*_TYPES))


@builds(2)
def network_send(table: FrameTable) -> list[ValidFrame]:
    return [_send(table)]


@builds(2)
def network_receive(table: FrameTable) -> list[ValidFrame]:
    return [_receive(table)]


@builds()
def network_question(table: FrameTable) -> list[ValidFrame]:
    return [table.one_of(_look, _listing, _probe, _sweep)(table)]


@builds()
def network_conversation(table: FrameTable) -> list[ValidFrame]:
    """Somebody waits, and is met, swept, looked at, or ends."""
    rng = table.rng
    event = rng.choice(EVENTS)
    waits = table.one_of(
        _receive(table, event=event, options=_ANY, type=0),
        _send(table, 12, event=event, message_flags=NOBUF, node=LOCAL, options=0, type=0),
        _send(table, 700, event=event, node=LOCAL, options=_TRANSFER, type=0),
        _send(table, 12, event=event, message_flags=NOBUF, node=LOCAL, options=_TRY),
    )
    end = table.one_of(
        _receive(table, event=event, options=_ANY, type=0),
        _receive(table, event=event, options=_ANY | _TRANSFER, type=0),
        _send(table, event=event, node=LOCAL, options=0, type=0),
        _message(table, frames.NETWORK_MESSAGE_SWEEP, options=_EVERY),
        _abort(table),
    )
    return [waits, *[_listing(table), _look(table)][: rng.randrange(3)], end]


@builds(0.5)
def network_buffer_fills_up(table: FrameTable) -> list[ValidFrame]:
    """More than there is room for, and then somebody who takes a message, or throws all away."""
    rng = table.rng
    here = {"node": LOCAL, "options": 0, "message_flags": 0, "type": 0}
    fill = [_send(table, 3000, **here | {"event": EVENTS[0]}) for _ in range(3)]
    late = [
        _send(table, 700, **here | {"event": EVENTS[1]}),
        _send(table, 12, **here | {"event": EVENTS[0], "options": _TRY}),
        _receive(table, event=EVENTS[1], options=_ANY, type=0),
    ]
    rng.shuffle(late)
    room = table.one_of(
        _receive(table, event=EVENTS[0], options=_ANY, type=0),
        _message(table, frames.NETWORK_MESSAGE_SWEEP, options=0, event=EVENTS[0]),
        _abort(table),
        table.message(executive.EXEC_DDM_RESET, 0, device_tid=NETWORK),
    )
    return [*fill, *late[: rng.randrange(4)], room, room]


def _abort(table: FrameTable) -> ValidFrame:
    return table.message(
        utility.UTIL_ABORT,
        NETWORK,
        abort_type=table.one_of(1, 3, 5, 7),
        function_to_abort=Function.PRIVATE_MESSAGE.value,
        transaction_context_to_abort=table.rng.randrange(16),
    )
