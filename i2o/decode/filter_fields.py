# SPDX-License-Identifier: Apache-2.0
"""What the names in a filter stand for, and how each is read from a frame.

Fields of the header come from the `Traced` itself, the other fields of a message from their place
in the frame. What is behind the fixed part (lists, CDBs, tables in host memory) is decoded first,
so only names that can be there make a filter do that.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from typing import Final, Literal, TypeAlias

from i2o.decode.conversation import DMA, MESSAGE, Traced
from i2o.decode.extra_names import EXTRA_GROUPS, extra_names, extra_values
from i2o.decode.frame import extra_nodes, fixed_nodes
from i2o.decode.message_subjects import direction_of, message_length, message_subject
from i2o.decode.message_text import message_names as endpoint_message_names
from i2o.decode.names import ALIASES, OWN_NAMES, field_names, name_of
from i2o.decode.tree import Node
from i2o.frames import catalog
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import HEADER_PARTS, MSG_HEADER, MsgFlags, SpecialTid
from i2o.frames.layout import Field, Layout, ValueNames
from i2o.frames.scsi import ScsiDeviceStatus, ScsiHbaStatus
from i2o.transport.capture.packet import Channel

FieldValue: TypeAlias = int | bytes | str
Kind = Literal["uint", "sint", "bytes", "text", "time", "any"]

PREFIX: Final = "i2o."
FILTER_ALIASES: Final = {**ALIASES, "flags": "msg_flags"}
"""Short names; a message's own field `flags` is `LAYOUT.flags`."""

_HEADER: Final = {
    "function": "function",
    "target_address": "target",
    "initiator_address": "initiator",
    "msg_flags": "flags",
    "message_size": "size_words",
}
"""Fields that a `Traced` has as attributes."""

_MORE_VALUE_NAMES: Final[dict[str, tuple[ValueNames, ...]]] = {
    "function": (Function,),
    "msg_flags": (MsgFlags,),
    "target_address": (SpecialTid,),
    "initiator_address": (SpecialTid,),
    "device_class": (DeviceClass,),
    "detailed_status_code": (ScsiHbaStatus, ScsiDeviceStatus),
}
"""Classes that name values, where the layouts do not say so."""

_MIN_FRAME: Final = 12
_TO_IOP: Final = (Channel.IN.value, Channel.TO_DEVICE.value)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a name stands for.

    Attributes:
        name: the full name.
        kind: `time` is nanoseconds; `any` is what only decoding can tell.
        read: returns its value, None if a frame has none; or None if `read_all` is to be used.
        read_all: returns all its values in a frame.
        value_names: classes that name its values.
        more_values: further names of values.
        words: the texts that it can have, where that is known.
        zero_if_absent: `read` returns 0, not None, for what has no header.
    """

    name: str
    kind: Kind
    read: Callable[[Traced], FieldValue | None] | None
    read_all: Callable[[Traced], Sequence[FieldValue]] | None = None
    value_names: tuple[ValueNames, ...] = ()
    words: frozenset[str] = field(default_factory=frozenset)
    more_values: Mapping[str, int] = field(default_factory=dict)
    zero_if_absent: bool = False


class Clock:
    """When the capture began.

    Attributes:
        start_ns: the time of the first packet that the filter saw.
        is_used: the filter asks for `t`.
    """

    __slots__ = ("is_used", "start_ns")

    def __init__(self) -> None:
        self.start_ns: int | None = None
        self.is_used = False


def find_subject(written: str, clock: Clock) -> Subject | None:
    """Return what a name stands for, None if nothing is called so.

    Args:
        written: the name, with or without `i2o.` and the name of its layout in front.
        clock: filled in by the filter; `t` is counted from there.
    """
    name = written.lower().removeprefix(PREFIX)
    name = FILTER_ALIASES.get(name, name)
    if name in _HEADER:
        get = attrgetter(_HEADER[name])
        return Subject(name, "uint", get, value_names=_value_names(name), zero_if_absent=True)
    own = _own(name, clock)
    if own is not None:
        return own
    if name in field_names() or _is_extra(name):
        return _of_layouts(name)
    return _of_one_layout(name) or _of_group(name)


def close_names(written: str) -> list[str]:
    """Return names that look like one that does not exist, the best first."""
    name = written.lower().removeprefix(PREFIX)
    head, dot, _ = name.partition(".")
    if dot and head in _layouts_by_name():
        known = [f"{head}.{found}" for found in _names_in(_layouts_by_name()[head])]
        return difflib.get_close_matches(name, known, 3, 0.6)
    known = list({*field_names(), *FILTER_ALIASES, *_behind_names()})
    found = difflib.get_close_matches(name, known, 3, 0.6)
    return found or sorted(one for one in known if len(name) > 2 and name in one)[:3]


def has_header(traced: Traced) -> bool:
    """Whether the fields of the header mean something: a whole frame, or DMA of a known request."""
    if traced.kind == DMA:
        return traced.request is not None
    return traced.kind != MESSAGE and len(traced.packet.data) >= _MIN_FRAME


@cache
def message_names() -> frozenset[str]:
    """Return every text that `name` can be, but those of unknown functions."""
    names = {"dma", *(found.name for found in catalog.messages() if found.chapter == "private")}
    names.update(member.lower() for member in Function.__members__)
    names |= endpoint_message_names()
    return frozenset(names)


# --- our own names ------------------------------------------------------------------------------


def _own(name: str, clock: Clock) -> Subject | None:
    """Return what one of OWN_NAMES stands for."""

    def since_start(traced: Traced) -> int:
        return traced.packet.time_ns - (clock.start_ns or 0)

    simple: dict[str, tuple[Kind, Callable[[Traced], FieldValue | None]]] = {
        "type": ("text", attrgetter("kind")),
        "index": ("uint", attrgetter("index")),
        "t": ("time", since_start),
        "iop": ("uint", _iop),
        "dir": ("text", _direction),
        "mfa": ("uint", attrgetter("packet.mfa")),
        "name": ("text", _name),
        "device_class": ("uint", attrgetter("device_class")),
        "length": ("uint", _length),
        "latency": ("time", _latency),
        "reply_to": ("uint", _reply_to),
    }
    if name == "problem":
        return Subject(name, "text", None, _problems)
    if name == "address":
        return Subject(name, "uint", None, _addresses)
    of_messages = message_subject(name)
    if of_messages is not None:
        return Subject(
            name,
            of_messages.kind,
            of_messages.read,
            value_names=of_messages.value_names,
            more_values=of_messages.more_values,
        )
    if name not in simple:
        return None
    clock.is_used |= name == "t"
    kind, read = simple[name]
    words = {
        "type": frozenset(("request", "reply", "dma", "message")),
        "dir": frozenset(("in", "out")),
        "name": message_names(),
    }
    return Subject(
        name,
        kind,
        read,
        value_names=_value_names(name),
        words=words.get(name, frozenset()),
    )


def _direction(traced: Traced) -> str | None:
    if traced.kind == MESSAGE:
        return None if traced.record is None else direction_of(traced.record)
    return "in" if traced.packet.channel in _TO_IOP else "out"


def _iop(traced: Traced) -> int | None:
    return None if traced.kind == MESSAGE else traced.packet.iop


def _length(traced: Traced) -> int:
    return message_length(traced) if traced.kind == MESSAGE else traced.packet.length


def _name(traced: Traced) -> str | None:
    if traced.kind not in (DMA, MESSAGE) and not has_header(traced):
        return None
    return traced.name


def _latency(traced: Traced) -> int | None:
    return None if traced.request is None or traced.kind == DMA else traced.latency_ns


def _reply_to(traced: Traced) -> int | None:
    if traced.request is None or traced.kind == DMA:
        return None
    return traced.request.index


def _problems(traced: Traced) -> Sequence[str]:
    nodes = (*fixed_nodes(traced), *extra_nodes(traced))
    return [text for node in nodes for text in node.problems()]


def _addresses(traced: Traced) -> Sequence[FieldValue]:
    if traced.kind == DMA:
        return (traced.packet.address,)
    return _extra_values(traced, ("address",))


# --- fields of messages -------------------------------------------------------------------------


class _FieldReader:
    """Reads a field of any message from its place in the frame.

    Args:
        name: what the field is called.
        only: the layouts to read it from; all if empty.
    """

    __slots__ = ("_name", "_only", "_readers")

    def __init__(self, name: str, only: Sequence[Layout] = ()) -> None:
        self._name, self._only = name, only
        self._readers: dict[Layout, Callable[[bytes, int], FieldValue | None] | None] = {}

    def __call__(self, traced: Traced) -> FieldValue | None:
        data = traced.packet.data
        if len(data) < _MIN_FRAME:
            return None
        layout: Layout | None = traced.layout
        if layout is None:
            if traced.kind in (DMA, MESSAGE):
                return None
            layout = MSG_HEADER
        try:
            read = self._readers[layout]
        except KeyError:
            read = self._readers[layout] = self._reader(layout)
        return None if read is None else read(data, min(len(data), 4 * traced.size_words))

    def _reader(self, layout: Layout) -> Callable[[bytes, int], FieldValue | None] | None:
        if self._only and layout not in self._only:
            return None
        for found in layout.fields:
            if name_of(found) == self._name:
                return _read_field(found)
        return None


def _read_field(place: Field) -> Callable[[bytes, int], FieldValue | None]:
    """Return a function of a frame and the end of its message that reads one field."""
    start = place.byte
    end = start + (place.bit + place.width_bits + 7) // 8
    shift, width = place.bit, place.width_bits
    mask = (1 << width) - 1

    def read_bytes(data: bytes, limit: int) -> FieldValue | None:
        return data[start:end] if end <= limit else None

    def read_number(data: bytes, limit: int) -> FieldValue | None:
        if end > limit:
            return None
        return int.from_bytes(data[start:end], "little") >> shift & mask

    def read_signed(data: bytes, limit: int) -> FieldValue | None:
        value = read_number(data, limit)
        if not isinstance(value, int):
            return None
        return value - (1 << width) if value >> (width - 1) else value

    return {"bytes": read_bytes, "uint": read_number, "sint": read_signed}[place.kind]


def _of_layouts(name: str) -> Subject:
    """Return the subject for a field, wherever it may stand."""
    last = name.rpartition(".")[2]
    found = [table[name] for table in (field_names(), extra_names()) if name in table]
    kinds = {"bytes" if known.kind == "bytes" else known.kind for known in found}
    kind: Kind = kinds.pop() if len(kinds) == 1 else "any"  # type: ignore[assignment]
    value_names = _value_names(name)
    reader = _FieldReader(name)
    if not _is_extra(name):
        return Subject(name, kind, reader, value_names=value_names)
    aliases = _spellings(name)

    def read_all(traced: Traced) -> Sequence[FieldValue]:
        value = reader(traced)
        return _extra_values(traced, aliases) if value is None else (value,)

    return Subject(name, kind, None, read_all, value_names, more_values=extra_values(last))


def _of_one_layout(name: str) -> Subject | None:
    """Return the subject for `LAYOUT.FIELD`."""
    head, dot, rest = name.partition(".")
    layouts = _layouts_by_name().get(head, ())
    rest = FILTER_ALIASES.get(rest, rest) if rest not in _names_in(layouts) else rest
    if not dot or rest not in _names_in(layouts):
        return None
    kind: Kind = field_names()[rest].kind  # type: ignore[assignment]  # never a number of ours
    value_names = _value_names(rest)
    if all(layout in catalog.messages() for layout in layouts):
        return Subject(name, kind, _FieldReader(rest, layouts), value_names=value_names)
    spellings = _spellings(rest)

    def read_all(traced: Traced) -> Sequence[FieldValue]:
        return _extra_values(traced, spellings)

    return Subject(name, kind, None, read_all, value_names)


def _of_group(name: str) -> Subject | None:
    """Return the subject for `GROUP.NAME`, what is called so in a group of nodes only."""
    *groups, last = name.split(".")
    if not groups or groups[-1] not in EXTRA_GROUPS:
        return None
    if last not in field_names() and not _is_extra(last):
        return None
    spellings = _spellings(name)

    def read_all(traced: Traced) -> Sequence[FieldValue]:
        return _extra_values(traced, spellings)

    value_names = _value_names(last)
    return Subject(name, "any", None, read_all, value_names, more_values=extra_values(last))


# --- what decoding finds ------------------------------------------------------------------------


def _extra_values(traced: Traced, spellings: Sequence[str]) -> Sequence[FieldValue]:
    """Return the values of every leaf behind the fixed part with one of these names."""
    wanted = tuple(spelling.split(".") for spelling in spellings)
    return [
        value
        for path, value in _leaves(extra_nodes(traced), [])
        if any(_leads_to(path, name) for name in wanted)
    ]


def _leaves(nodes: Iterable[Node], path: list[str]) -> Iterator[tuple[list[str], FieldValue]]:
    """Yield every value with the names that lead to it; items of lists add none."""
    for node in nodes:
        here = path if node.name.isdecimal() else [*path, *node.name.split(".")]
        if node.value is not None:
            yield here, node.value
        yield from _leaves(node.children, here)


def _leads_to(path: Sequence[str], name: Sequence[str]) -> bool:
    """Whether a path ends with the last part of a name, and has the others in their order."""
    if path[-1:] != name[-1:]:
        return False
    left = iter(path[:-1])
    return all(part in left for part in name[:-1])


def _spellings(name: str) -> tuple[str, ...]:
    """Return the names that a leaf can have for one of ours: those that we renamed, too."""
    return (name, name.removesuffix("_field").removesuffix("_bytes"))


def _is_extra(name: str) -> bool:
    """Whether something behind the fixed part of a message can have this name."""
    return name in _behind_names()


@cache
def _behind_names() -> frozenset[str]:
    """Return the names of what decoding can find behind the fixed part of a message."""
    layouts = (*catalog.structures(), *catalog.parameter_groups())
    shared = {part.name for part in HEADER_PARTS} | {"initiator_context", "transaction_context"}
    names = {name_of(found) for layout in layouts for found in layout.fields}
    names |= {name.rpartition(".")[2] for name in names}
    return frozenset((names | set(extra_names())) - shared - {own.name for own in OWN_NAMES})


# --- names of layouts and values ----------------------------------------------------------------


@cache
def _layouts_by_name() -> dict[str, tuple[Layout, ...]]:
    found: dict[str, tuple[Layout, ...]] = {}
    for layout in (*catalog.messages(), *catalog.structures(), *catalog.parameter_groups()):
        found[layout.name] = (*found.get(layout.name, ()), layout)
    return found


def _names_in(layouts: Iterable[Layout]) -> list[str]:
    return [name_of(found) for layout in layouts for found in layout.fields]


def _value_names(name: str) -> tuple[ValueNames, ...]:
    known = field_names().get(name)
    return (*(known.value_names if known else ()), *_MORE_VALUE_NAMES.get(name, ()))
