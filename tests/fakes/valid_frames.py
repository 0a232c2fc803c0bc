# SPDX-License-Identifier: Apache-2.0
"""Valid request frames for everything that a software IOP serves, and where their fields are."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from fakes.host_arena import HostArena
from fakes.valid_lists import Buffer, Listed, ListMaker, Place
from i2o.frames import block_storage as bsa
from i2o.frames import block_storage_groups as bsa_groups
from i2o.frames import catalog, executive_groups, params, private, tables, utility
from i2o.frames import executive as exe
from i2o.frames.functions import Function
from i2o.frames.header import MSG_HEADER
from i2o.frames.layout import Field, MessageLayout, ParameterGroup
from i2o.frames.params import ParamOperation
from i2o.frames.scsi import ScbFlags
from i2o.iop_emulator.peers import FIRST_ALIAS_TID

DDM, NETWORK, LOADED = 0x008, 0x009, 0x00B
DISK, READ_ONLY, REMOVABLE, LARGE_BLOCKS, FAULTY = 0x010, 0x011, 0x012, 0x013, 0x014
DISKS = (DISK, READ_ONLY, REMOVABLE, LARGE_BLOCKS, FAULTY)
TIDS = (0, DDM, NETWORK, LOADED, *DISKS)
PORT = 0x00A
SCSI_DISK, SCSI_REMOVABLE, SCSI_READ_ONLY = 0x015, 0x016, 0x017
SCSI_DISKS = (SCSI_DISK, SCSI_REMOVABLE, SCSI_READ_ONLY)
"""SCSI disks behind the block devices, and the bus that they are on."""
ALIAS_EXECUTIVE = FIRST_ALIAS_TID
"""What stands for the other IOP, if it was connected first thing after a reset."""
FAR_DISKS = FAR_DISK, FAR_REMOVABLE, FAR_FAULTY = 0x010, 0x011, 0x012
ALIASES = ALIAS_DISK, ALIAS_REMOVABLE, ALIAS_FAULTY = 0x801, 0x802, 0x803
"""What stands for its disks, if those were set up in order."""
NEAR, FAR = 2, 3
"""Ids of the IOPs."""
ALIASED = 0.15
"""Share of requests that could be for any device which are for one of the other IOP."""
ON_BUS = 0.15
"""Share of them which are for a SCSI disk or its bus."""
CONTEXTS = 16
"""Transaction contexts are small numbers, so that aborts name some that exist."""
BLOCK = {LARGE_BLOCKS: 4096}
_LARGE = (DISK, ALIAS_DISK)
DISK_SIZE = 1 << 18
LARGE_SIZE = 3 << 20
"""Bytes of the disk at 0x010: a verify of all of it takes a few steps."""
_ABORTABLE = (Function.BSA_MEDIA_VERIFY, Function.EXEC_LCT_NOTIFY)
_ADDRESSES = frozenset(
    {"reply_buffer_address_low", "status_word_low_address", "reply_buffer_address_high"}
)


@dataclass(frozen=True)
class ValidFrame:
    """A frame that is right.

    Attributes:
        name: of its builder.
        frame: its bytes.
        places: the fields that can be mutated, by `header`, `body`, `list` and `source`.
        writes: host memory that the device may write to for it.
    """

    name: str
    frame: bytes
    places: Mapping[str, tuple[Place, ...]]
    writes: tuple[tuple[int, int], ...]


_ALIKE: dict[int, tuple[int, ...]] = {
    function: family
    for family in ((0x30, 0x31, 0x33), (0x05, 0x06), (0xA3, 0xC1), (0xA9, 0xAB), (0xA1, 0xA2))
    for function in family
}
"""Functions whose messages look alike: a wrong bit makes one of them the other."""

Builder = Callable[["FrameTable"], "list[ValidFrame]"]
BUILDERS: dict[str, tuple[float, Builder]] = {}


def builds(weight: float = 1) -> Callable[[Builder], Builder]:
    """Mark a builder; it makes one valid frame or several that follow each other."""

    def mark(builder: Builder) -> Builder:
        BUILDERS[builder.__name__] = (weight, builder)
        return builder

    return mark


class FrameTable:
    """Many valid frames of every kind, made once.

    Args:
        arena: host memory for their buffers.
        rng: decides on everything.
        groups: parameter groups of each device, by TID.
        variants: frames of each builder with weight 1.
    """

    def __init__(
        self,
        arena: HostArena,
        rng: random.Random,
        groups: Mapping[int, Sequence[ParameterGroup]],
        variants: int,
    ) -> None:
        self.arena, self.rng, self.groups = arena, rng, groups
        self.lists = ListMaker(arena, rng)
        self.by_name: dict[str, list[list[ValidFrame]]] = {}
        self.weights: list[float] = []
        for name, (weight, builder) in BUILDERS.items():
            self._name = name
            count = max(4, round(variants * weight))
            self.by_name[name] = [builder(self) for _ in range(count)]
            self.weights.append(weight)
        self.names = list(self.by_name)
        self._name = "connected"
        self.connected = connected(self)

    # --- parts -----------------------------------------------------------------------------------

    def one_of(self, *values):
        return self.rng.choice(values)

    def tid(self) -> int:
        """Return any device."""
        if self.rng.random() < ALIASED:
            return self.rng.choice((ALIAS_EXECUTIVE, *ALIASES))
        if self.rng.random() < ON_BUS:
            return self.rng.choice((PORT, *SCSI_DISKS))
        return self.rng.choice(TIDS)

    def disk(self, *more: int) -> int:
        """Return any disk, `more` of them more often."""
        return self.rng.choice((*more, *DISKS, *ALIASES))

    def executive(self) -> int:
        """Return the executive, or what stands for the other one."""
        return ALIAS_EXECUTIVE if self.rng.random() < ALIASED else 0

    def message(
        self,
        layout: MessageLayout,
        target: int,
        listed: Listed | None = None,
        *,
        more: Sequence[Place] = (),
        writes: Sequence[tuple[int, int]] = (),
        tail: bytes = b"",
        **fields: int | bytes,
    ) -> ValidFrame:
        """Return a frame of a layout, its list behind it."""
        listed = listed if listed is not None else Listed()
        if any(field.path == "transaction_context" for field in layout.fields):
            fields.setdefault("transaction_context", self.rng.randrange(CONTEXTS))
        start = layout.build(target_address=target, **fields)
        frame = bytearray(start + listed.data + tail)
        struct.pack_into("<H", frame, 2, len(frame) // 4)
        header = [_place(field) for field in MSG_HEADER.fields]
        header += [
            place._replace(known=_ALIKE.get(layout.function or 0, ()))
            for place in header
            if place.kind == "function"
        ]
        body = [_place(field) for field in layout.fields if field.byte >= 8]
        if tail:
            body += [Place(0, len(start) + at, 0, 16, "word") for at in range(0, len(tail) - 1, 2)]
        inner = [
            place._replace(byte=place.byte + len(start)) for place in listed.places if not place[0]
        ]
        sources = [place for place in listed.places if place.source] + list(more)
        places = {"header": header, "body": body, "list": inner, "source": sources}
        return ValidFrame(
            self._name,
            bytes(frame),
            {kind: tuple(found) for kind, found in places.items() if found},
            (*listed.writes, *writes),
        )


def _place(field: Field) -> Place:
    kind = "value"
    known: tuple[int, ...] = ()
    if field.path == "function" or field.path == "function_to_abort":
        kind = "function"
    elif field.path.endswith(("tid", "target_address", "initiator_address", "_device")):
        kind, known = "tid", (*TIDS, PORT, *SCSI_DISKS, ALIAS_EXECUTIVE, *ALIASES, 1, 0xFFF)
    elif field.path in _ADDRESSES:
        kind = "address"
    elif field.path == "transaction_context" or field.path == "transaction_context_to_abort":
        kind, known = "value", tuple(range(CONTEXTS))
    elif field.path == "scb_flags":  # they say whether the device writes
        kind, known = "direction", tuple(int(member) for member in ScbFlags)
    elif field.kind == "bytes":
        kind = "bytes"
    elif field.enum is not None:
        known = tuple(int(member) for member in field.enum)
    return Place(0, field.byte, field.bit, field.width_bits, kind, known)


# --- utility -----------------------------------------------------------------------------


@builds(0.3)
def nop(table: FrameTable) -> list[ValidFrame]:
    return [table.message(utility.UTIL_NOP, table.tid())]


@builds(2)
def abort(table: FrameTable) -> list[ValidFrame]:
    return [
        table.message(
            utility.UTIL_ABORT,
            table.one_of(DISK, DISK, 0, ALIAS_DISK, ALIAS_EXECUTIVE),
            abort_type=table.rng.randrange(8),
            function_to_abort=table.one_of(*_ABORTABLE).value,
            transaction_context_to_abort=table.rng.randrange(CONTEXTS),
        )
    ]


@builds(1.5)
def claim(table: FrameTable) -> list[ValidFrame]:
    return [
        table.message(
            utility.UTIL_CLAIM,
            table.tid(),
            claim_type=table.rng.randrange(5),
            claim_flags=table.rng.randrange(64),
        )
    ]


@builds(1.5)
def claim_release(table: FrameTable) -> list[ValidFrame]:
    return [
        table.message(
            utility.UTIL_CLAIM_RELEASE,
            table.tid(),
            claim_type=table.rng.randrange(5),
            release_flags=table.rng.randrange(2),
        )
    ]


@builds(0.6)
def claims_of_all_kinds(table: FrameTable) -> list[ValidFrame]:
    tid = table.tid()
    return [table.message(utility.UTIL_CLAIM, tid, claim_type=kind % 4 + 1) for kind in range(20)]


@builds()
def event_register(table: FrameTable) -> list[ValidFrame]:
    mask = table.one_of(0xFFFFFFFF, 0xFFFFFFFF, table.rng.getrandbits(32), 0)
    return [table.message(utility.UTIL_EVENT_REGISTER, table.tid(), event_mask=mask)]


@builds(0.5)
def event_ack(table: FrameTable) -> list[ValidFrame]:
    return [
        table.message(
            utility.UTIL_EVENT_ACK, table.tid(), event_indicator=0x04000000, event_data=table.tid()
        )
    ]


@builds()
def locks(table: FrameTable) -> list[ValidFrame]:
    layout = table.one_of(
        utility.UTIL_LOCK,
        utility.UTIL_LOCK_RELEASE,
        utility.UTIL_DEVICE_RESERVE,
        utility.UTIL_DEVICE_RELEASE,
    )
    return [table.message(layout, table.tid())]


@builds(0.3)
def locked_and_released(table: FrameTable) -> list[ValidFrame]:
    tid = table.tid()
    pair = table.one_of(
        (utility.UTIL_LOCK, utility.UTIL_LOCK_RELEASE),
        (utility.UTIL_DEVICE_RESERVE, utility.UTIL_DEVICE_RELEASE),
    )
    return [table.message(layout, tid) for layout in pair]


@builds(0.3)
def reply_fault(table: FrameTable) -> list[ValidFrame]:
    return [table.message(utility.UTIL_REPLY_FAULT_NOTIFY, table.tid(), failure_code=0x81)]


@builds(0.3)
def private_message(table: FrameTable) -> list[ValidFrame]:
    layout = table.rng.choice([one for one in private.MESSAGES if one.direction == "request"])
    return [table.message(layout, table.tid())]


# --- parameters ----------------------------------------------------------------------------


@builds(6)
def params_get(table: FrameTable) -> list[ValidFrame]:
    return [_params(table, utility.UTIL_PARAMS_GET, _GETS)]


@builds(6)
def params_set(table: FrameTable) -> list[ValidFrame]:
    return [_params(table, utility.UTIL_PARAMS_SET, _SETS)]


@builds()
def table_in_parts(table: FrameTable) -> list[ValidFrame]:
    """A TableGet whose result does not fit, and MoreGets until it has come."""
    tid = table.tid()
    found = [group for group in table.groups[tid] if group.is_table]
    group = table.one_of(params.GROUP_DESCRIPTORS, params.GROUP_DESCRIPTORS, *found)
    size = 4 + 8 + sum(field.width_bits for field in group.fields) // 8 * table.rng.randrange(1, 5)
    frames = []
    for code in (ParamOperation.TABLE_GET, *[ParamOperation.MORE_GET] * 4):
        operation = _Operations()
        operation.start(code, group.number)
        operation.word(0xFFFF)
        frames.append(_with_lists(table, utility.UTIL_PARAMS_GET, tid, [operation], size))
    return frames


_CHAPTERS = ("any", "executive", "bsa")
_GETS = (
    ParamOperation.FIELD_GET,
    ParamOperation.LIST_GET,
    ParamOperation.MORE_GET,
    ParamOperation.SIZE_GET,
    ParamOperation.TABLE_GET,
)
_SETS = (
    ParamOperation.FIELD_SET,
    ParamOperation.FIELD_SET,
    ParamOperation.LIST_SET,
    ParamOperation.ROW_ADD,
    ParamOperation.ROW_DELETE,
    ParamOperation.TABLE_CLEAR,
)
_WRITEABLE: dict[ParameterGroup, dict[str, tuple[int, ...]]] = {
    params.USER_INFORMATION: {"device_name": (), "service_name": (), "physical_location": ()},
    bsa_groups.BSA_CACHE_CONTROL: {"write_policy": (1, 2, 3, 4)},
    bsa_groups.BSA_OPERATIONAL_CONTROL: {
        "auto_reassign": (0, 1, 1),
        "retry_attempts": (0, 3),
        "timeout_base": (1000, 60000),
    },
    bsa_groups.BSA_POWER_CONTROL: {"powerdown_timeout": (0, 9), "on_access": (0, 1)},
    executive_groups.EXEC_IOP_MESSAGE_INTERFACE: {
        "inbound_size_target": (64, 512, 4096),
        "inbound_target": (16, 64),
    },
}


class _Operations:
    """One operation as bytes, with its fields."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.places: list[tuple[int, int, tuple[int, ...]]] = []

    def start(self, code: int, group: int) -> None:
        self.word(code, tuple(ParamOperation))
        self.word(group, _GROUP_NUMBERS)

    def word(self, value: int, known: tuple[int, ...] = (0, 1, 2, 0xFFFF)) -> None:
        self.places.append((len(self.data), 16, known))
        self.data += struct.pack("<H", value)

    def value(self, data: bytes) -> None:
        self.places.append((len(self.data), 8 * min(4, len(data)), ()))
        self.data += data


_GROUP_NUMBERS = tuple(
    sorted({group.number for group in catalog.parameter_groups() if group.chapter in _CHAPTERS})
)


def _params(
    table: FrameTable, layout: MessageLayout, codes: Sequence[ParamOperation]
) -> ValidFrame:
    tid = table.tid()
    operations = []
    for _ in range(table.one_of(1, 1, 2, 3)):
        operation = _Operations()
        _fill(table, operation, table.rng.choice(codes), table.groups[tid])
        operations.append(operation)
    return _with_lists(table, layout, tid, operations, table.one_of(4096, 4096, 512, 128, 64, 24))


def _fill(
    table: FrameTable,
    operation: _Operations,
    code: ParamOperation,
    groups: Sequence[ParameterGroup],
) -> None:
    rng = table.rng
    scalars = [group for group in groups if not group.is_table]
    lists = [group for group in groups if group.is_table]
    is_scalar = code in (ParamOperation.FIELD_GET, ParamOperation.FIELD_SET) or (
        code == ParamOperation.SIZE_GET and rng.randrange(2) == 0
    )
    group = rng.choice(scalars if is_scalar else lists)
    if code == ParamOperation.FIELD_SET and rng.random() < 0.9:
        group = rng.choice([one for one in scalars if one in _WRITEABLE])
    elif code in _SETS and rng.random() < 0.8:
        known = [g for g in lists if g in (params.AUTHORIZED_USER_TABLE, bsa_groups.BSA_ERROR_LOG)]
        group = rng.choice(known)
    fields = group.fields
    operation.start(code, group.number)
    if code == ParamOperation.TABLE_CLEAR:
        return
    key = fields[0]
    if code == ParamOperation.ROW_DELETE:
        _keys(table, operation, group)
        return
    wanted = tuple(field.path for field in fields if field.path in _WRITEABLE.get(group, ()))
    indexes: list[int] | None
    if code == ParamOperation.FIELD_SET and wanted:
        indexes = [
            index for index, field in enumerate(fields) if field.path in wanted and rng.randrange(3)
        ]
    elif code == ParamOperation.LIST_SET and group is bsa_groups.BSA_ERROR_LOG:
        indexes = [i for i, field in enumerate(fields) if field.path == "user_info"]
    elif code == ParamOperation.ROW_ADD or rng.randrange(2):
        indexes = None
    else:
        indexes = [rng.randrange(len(fields)) for _ in range(rng.randrange(1, 4))]
    if indexes is None:
        operation.word(0xFFFF)
        if rng.random() < 0.1:  # as Linux 2.6 writes it
            operation.data[-2:] = struct.pack("<H", 1)
            operation.word(0xFFFF)
        indexes = list(range(len(fields)))
    else:
        operation.word(len(indexes))
        for index in indexes:
            operation.word(index, tuple(range(len(fields) + 1)))
    if code == ParamOperation.LIST_GET:
        _keys(table, operation, group)
    elif code == ParamOperation.FIELD_SET:
        _values(table, operation, group, indexes)
    elif code in (ParamOperation.LIST_SET, ParamOperation.ROW_ADD):
        count = rng.randrange(1, 3)
        operation.word(count)
        for _ in range(count):
            if code == ParamOperation.LIST_SET:
                operation.value(_key(table, key, group))
            _values(table, operation, group, indexes)


def _keys(table: FrameTable, operation: _Operations, group: ParameterGroup) -> None:
    count = table.rng.randrange(0, 3)
    operation.word(count)
    for _ in range(count):
        operation.value(_key(table, group.fields[0], group))


def _key(table: FrameTable, key: Field, group: ParameterGroup) -> bytes:
    rng = table.rng
    if group is params.GROUP_DESCRIPTORS:
        value = rng.choice(_GROUP_NUMBERS)
    elif group is executive_groups.EXEC_LCT_TABLE:
        value = table.tid()
    else:
        value = rng.randrange(4)
    return value.to_bytes(key.width_bits // 8, "little")


def _values(
    table: FrameTable, operation: _Operations, group: ParameterGroup, indexes: Sequence[int]
) -> None:
    known = _WRITEABLE.get(group, {})
    for index in indexes:
        layout = group.fields[index]
        size = layout.width_bits // 8
        if layout.kind == "bytes":
            operation.value(table.one_of(b"a name", b"<&>", b"\xff").ljust(size))
        else:
            value = table.rng.choice(known.get(layout.path) or range(4))
            operation.value(value.to_bytes(size, "little"))


def _with_lists(
    table: FrameTable,
    layout: MessageLayout,
    tid: int,
    operations: Sequence[_Operations],
    size: int,
) -> ValidFrame:
    data = bytearray(struct.pack("<HH", len(operations), 0))
    places: list[tuple[int, int, tuple[int, ...]]] = [(0, 16, ())]
    for operation in operations:
        places += [(at + len(data), width, known) for at, width, known in operation.places]
        data += operation.data + bytes(len(operation.data) & 1)
    result = [Buffer(None, size)] if table.rng.random() < 0.95 else []
    return reading(table, layout, tid, bytes(data), places, *result)


def reading(
    table: FrameTable,
    layout: MessageLayout,
    target: int,
    data: bytes,
    places: Sequence[tuple[int, int, tuple[int, ...]]],
    *more: Buffer,
    first: Buffer | None = None,
    **fields: int | bytes,
) -> ValidFrame:
    """Return a message whose data have fields that can be mutated, wherever they stand."""
    buffer = Buffer(data, len(data))
    buffers = (buffer, *more) if first is None else (first, buffer, *more)
    listed = table.lists.make(*buffers)
    found: list[Place] = []
    at = listed.data.find(data) if data else -1
    if at >= 0:
        inner = [Place(0, at + byte, 0, w, "value", known) for byte, w, known in places]
        listed.places += inner
    else:
        address = table.arena.last_source(data)
        if address:
            found += [Place(address, byte, 0, w, "value", known) for byte, w, known in places]
    return table.message(layout, target, listed, more=found, **fields)


@builds(3)
def config_dialog(table: FrameTable) -> list[ValidFrame]:
    tid = table.tid()
    size = table.one_of(8192, 8192, 1000, 40)
    page = Buffer(None, size)
    form, number = table.rng.choice(_FORMS)
    if form is None:
        listed = table.lists.make(page)
        number = table.rng.randrange(6)
        return [table.message(utility.UTIL_CONFIG_DIALOG, tid, listed, page_number=number)]
    if number > 1 and table.rng.random() < 0.9:
        tid = 0 if number == 5 else table.rng.choice(DISKS)
    query = form if isinstance(form, bytes) else urlencode(form).encode()
    if table.rng.randrange(2):
        query += b"\0"
    places = [(at, 8, tuple(b"&=%+1\0")) for at in range(0, len(query), 3)]
    return [
        reading(
            table,
            utility.UTIL_CONFIG_DIALOG,
            tid,
            query,
            places,
            first=page,
            page_number=number,
        )
    ]


_FORMS: tuple[tuple[dict[str, object] | bytes | None, int], ...] = (
    (None, 0),
    (None, 0),
    ({"device_name": "fuzz", "service_name": "", "physical_location": "rack <1>"}, 1),
    ({"device_name": "another"}, 1),
    ({"device_name": "x" * 70}, 1),
    ({"device_name": "ä"}, 1),
    ({"write_policy": 1}, 2),
    ({"write_policy": 2}, 2),
    ({"write_policy": 3}, 2),
    ({"write_policy": 77}, 2),
    ({"retry_attempts": 3, "timeout_base": 1000, "rwv_timeout_base": 9, "rwv_timeout": 1}, 3),
    ({"retry_attempts": "many"}, 3),
    ({"retry_attempts": 1 << 40}, 3),
    ({"powerdown_timeout": 5, "on_access": 0}, 4),
    ({"powerdown_timeout": 5, "on_access": 1}, 4),
    ({"inbound_size_target": 512}, 5),
    ({"inbound_size_target": 1024}, 5),
    ({"inbound_size_target": 77}, 5),
    ({"no_such_field": 1}, 1),
    (b"device_name=a&device_name=b", 1),
    (b"no form at all", 1),
    (b"a=b", 0),
    (b"device_name=a%00b", 1),
    (b"device_name=" + b"x" * (65 << 10), 1),
)


# --- the executive -------------------------------------------------------------------------


@builds()
def status_get(table: FrameTable) -> list[ValidFrame]:
    size = table.one_of(88, 88, 40, 87)
    address = table.arena.sink(table.rng.randrange(1000), size)
    return [
        table.message(
            exe.EXEC_STATUS_GET,
            table.executive(),
            writes=[(address, size)],
            reply_buffer_address_low=address,
            reply_buffer_length=size,
        )
    ]


@builds(0.1)
def iop_reset(table: FrameTable) -> list[ValidFrame]:
    address = table.arena.sink(table.rng.randrange(1000), 4)
    return [
        table.message(exe.EXEC_IOP_RESET, 0, writes=[(address, 4)], status_word_low_address=address)
    ]


@builds(0.3)
def outbound_init(table: FrameTable) -> list[ValidFrame]:
    status = Buffer(None, 4)
    listed = table.lists.make(status, *[Buffer(None, 64)][: table.rng.randrange(2)])
    return [
        table.message(
            exe.EXEC_OUTBOUND_INIT,
            0,
            listed,
            outbound_msg_frame_size=table.one_of(32, 32, 64, 0, 4),
            host_page_frame_size=4096,
        )
    ]


@builds(2)
def lct_notify(table: FrameTable) -> list[ValidFrame]:
    listed = table.lists.make(Buffer(None, table.one_of(1024, 4096, 60)))
    return [
        table.message(
            exe.EXEC_LCT_NOTIFY,
            table.executive(),
            listed,
            class_identifier=table.one_of(0xFFFFFFFF, 0xFFFFFFFF, 0x10, 0),
            last_reported_change_indicator=table.one_of(0, 0, 1, 2, 3, 5, 9, 1000),
        )
    ]


@builds()
def hrt_get(table: FrameTable) -> list[ValidFrame]:
    return [table.message(exe.EXEC_HRT_GET, table.executive(), table.lists.make(Buffer(None, 256)))]


@builds(2)
def system_table(table: FrameTable) -> list[ValidFrame]:
    named = [NEAR + number for number in range(table.rng.randrange(4))]
    return [_system_table(table, named, iop_id=table.one_of(0, 0, NEAR, NEAR, FAR))]


def _system_table(table: FrameTable, named: Sequence[int], *, iop_id: int) -> ValidFrame:
    data = tables.SYSTAB_HEADER.build(number_entries=len(named), current_change_indicator=1)
    data += b"".join(tables.SYSTAB_IOP_ENTRY.build(iop_id=one, i2o_version=1) for one in named)
    places = [(0, 8, (0, 1, 4, 255)), *[(at, 32, ()) for at in range(16, len(data), 4)]]
    more = [Buffer(None, 16), Buffer(None, 16)][: table.rng.randrange(3)]
    if table.rng.randrange(3):
        return reading(table, exe.EXEC_SYS_TAB_SET, 0, data, places, *more, iop_id=iop_id)
    return reading(table, exe.EXEC_SYS_MODIFY, 0, data, places, *more)


@builds(0.7)
def states(table: FrameTable) -> list[ValidFrame]:
    layout = table.one_of(
        exe.EXEC_SYS_ENABLE,
        exe.EXEC_SYS_ENABLE,
        exe.EXEC_SYS_QUIESCE,
        exe.EXEC_CONFIG_VALIDATE,
        exe.EXEC_IOP_CLEAR,
    )
    return [table.message(layout, 0)]


@builds()
def boot(table: FrameTable) -> list[ValidFrame]:
    if table.rng.randrange(2):
        return [table.message(exe.EXEC_BOOT_DEVICE_SET, 0, boot_device=table.tid())]
    return [
        table.message(
            exe.EXEC_BIOS_INFO_SET, 0, device_tid=table.tid(), bios_info=table.rng.randrange(256)
        )
    ]


@builds(2)
def service(table: FrameTable) -> list[ValidFrame]:
    """A device or DDM is quiesced, and most of the time served again at the end."""
    tid = table.tid()
    asked = table.one_of(exe.EXEC_DDM_QUIESCE, exe.EXEC_DDM_SUSPEND, exe.EXEC_DDM_RESET)
    if asked is exe.EXEC_DDM_SUSPEND:
        frames = [table.message(asked, 0, ddm_tid=table.one_of(DDM, LOADED, tid))]
    else:
        frames = [table.message(asked, 0, device_tid=tid)]
    for _ in range(table.rng.randrange(3)):
        frames.append(table.message(bsa.BSA_STATUS_CHECK, table.disk()))
    for enabled in (tid, DDM, LOADED):
        frames.append(table.message(exe.EXEC_DDM_ENABLE, 0, device_tid=enabled))
    return frames


@builds(0.2)
def destroy(table: FrameTable) -> list[ValidFrame]:
    return [table.message(exe.EXEC_DDM_DESTROY, 0, ddm_tid=table.one_of(LOADED, LOADED, DDM))]


@builds()
def paths(table: FrameTable) -> list[ValidFrame]:
    layout = table.one_of(exe.EXEC_PATH_QUIESCE, exe.EXEC_PATH_ENABLE, exe.EXEC_PATH_RESET)
    return [table.message(layout, 0, iop_id=table.one_of(2, 2, 3))]


# --- static frames -------------------------------------------------------------------------


@builds(2)
def static_frame(table: FrameTable) -> list[ValidFrame]:
    """One is made, and later given back; whoever sends the frames posts it in between."""
    makers = (block_transfer, params_get, media_verify, lct_notify, block_status, abort, nop)
    frames = [_static(table, table.rng.choice(makers)(table)[0])]
    for _ in range(table.rng.randrange(3)):
        number = table.rng.randrange(8)  # the sender knows the MFA of the one with that number
        frames.append(table.message(exe.EXEC_STATIC_MF_RELEASE, 0, static_mfa=number))
    return frames


@builds(0.2)
def more_static_frames_than_there_may_be(table: FrameTable) -> list[ValidFrame]:
    return [_static(table, block_status(table)[0]) for _ in range(12)]


def _static(table: FrameTable, inner: ValidFrame) -> ValidFrame:
    """Return a request that makes a valid frame a static one."""
    made = table.message(
        exe.EXEC_STATIC_MF_CREATE,
        0,
        max_outstanding=table.one_of(1, 1, 2, 4, 90),
        static_message_frame=inner.frame[:12],
        tail=inner.frame[12:],
        writes=inner.writes,
    )
    offset = len(made.frame) - len(inner.frame)
    moved = {
        kind: tuple(
            place if place.source else place._replace(byte=place.byte + offset) for place in places
        )
        for kind, places in inner.places.items()
    }
    body = [place for place in made.places["body"] if place.byte < offset]
    places = {
        **moved,
        "header": made.places["header"],
        "body": (*body, *moved.get("header", ()), *moved.get("body", ())),
    }
    return replace(made, places=places)


# --- other IOPs ----------------------------------------------------------------------------


@builds(3)
def connection(table: FrameTable) -> list[ValidFrame]:
    """Both IOPs are named, and what an order of messages makes of it is connected."""
    frames = [_system_table(table, (NEAR, FAR), iop_id=NEAR)] if table.rng.randrange(3) else []
    frames.append(table.message(exe.EXEC_IOP_CONNECT, 0, iop_id1=FAR))
    frames += [_setup(table, target) for target in FAR_DISKS]
    return frames + block_transfer(table)


def connected(table: FrameTable) -> list[ValidFrame]:
    """What connects both IOPs, so that aliases have the TIDs that they have in valid frames."""
    return [
        _system_table(table, (NEAR, FAR), iop_id=NEAR),
        table.message(exe.EXEC_IOP_CONNECT, 0, iop_id1=FAR),
        *[_setup(table, target, ALIAS_EXECUTIVE) for target in FAR_DISKS],
    ]


@builds(1.5)
def long_way(table: FrameTable) -> list[ValidFrame]:
    """The other IOP has something to do for a while, and that is ended from here."""
    if table.rng.randrange(2):
        tid = ALIAS_DISK
        long = table.message(bsa.BSA_MEDIA_VERIFY, tid, byte_count=LARGE_SIZE)
    else:
        tid = ALIAS_EXECUTIVE
        listed = table.lists.make(Buffer(None, 1024))
        long = table.message(
            exe.EXEC_LCT_NOTIFY,
            tid,
            listed,
            class_identifier=0xFFFFFFFF,
            last_reported_change_indicator=0xFFFF,
        )
    end = table.one_of(
        table.message(exe.EXEC_DDM_RESET, 0, device_tid=tid),
        table.message(utility.UTIL_ABORT, tid, abort_type=table.one_of(3, 3, 7)),
        table.message(exe.EXEC_SYS_QUIESCE, 0),
    )
    return [long, end]


@builds(0.7)
def connection_setup(table: FrameTable) -> list[ValidFrame]:
    """An alias for anything, most of the time asked of the right one."""
    return [_setup(table, table.one_of(0, DDM, LOADED, 0x013, *FAR_DISKS))]


def _setup(table: FrameTable, target: int, executive: int | None = None) -> ValidFrame:
    if executive is None:
        executive = table.one_of(*[ALIAS_EXECUTIVE] * 8, 0, ALIAS_DISK)
    return table.message(
        exe.EXEC_CONN_SETUP,
        executive,
        object_info_target_device=target,
        object_info_initiator_device=1,
        message_class=table.one_of(0, 0x10, 0xFFFFFFFF),
    )


@builds(1.5)
def adapter_read(table: FrameTable) -> list[ValidFrame]:
    length = table.one_of(256, 64, 4, 1)
    listed = table.lists.make(Buffer(None, length))
    return [
        table.message(
            exe.EXEC_ADAPTER_READ,
            0,
            listed,
            adapter_id=1,
            offset=table.rng.randrange(257 - length),
            length=length,
        )
    ]


@builds()
def adapter_assign(table: FrameTable) -> list[ValidFrame]:
    frames = []
    if table.rng.randrange(2):
        frames.append(table.message(exe.EXEC_ADAPTER_RELEASE, 0, hrt_entry_adapter_id=1))
    ddm = table.one_of(DDM, DDM, LOADED)
    frames.append(table.message(exe.EXEC_ADAPTER_ASSIGN, 0, ddm_tid=ddm, hrt_entry_adapter_id=1))
    return frames


@builds(1.5)
def device_assign(table: FrameTable) -> list[ValidFrame]:
    tid = table.rng.choice(DISKS)
    frames = []
    if table.rng.randrange(3):
        frames.append(
            table.message(exe.EXEC_DEVICE_RELEASE, 0, device_tid=tid, ddm_tid=DDM, iop_id=0)
        )
    return frames + [
        table.message(
            exe.EXEC_DEVICE_ASSIGN, 0, device_tid=tid, ddm_tid=ddm, iop_id=table.one_of(0, 2)
        )
        for ddm in (table.one_of(LOADED, DDM), DDM)
    ]


@builds(0.7)
def device_given_away(table: FrameTable) -> list[ValidFrame]:
    """Released, given to the loaded DDM, and what that makes of DdmReset and IopClear."""
    tid = table.rng.choice(DISKS)
    last = table.one_of(
        table.message(exe.EXEC_IOP_CLEAR, 0),
        table.message(exe.EXEC_DDM_RESET, 0, device_tid=LOADED),
        table.message(exe.EXEC_DDM_ENABLE, 0, device_tid=tid),
    )
    return [
        table.message(exe.EXEC_DEVICE_RELEASE, 0, device_tid=tid, ddm_tid=DDM),
        table.message(exe.EXEC_DEVICE_ASSIGN, 0, device_tid=tid, ddm_tid=LOADED),
        last,
    ]


# --- software ------------------------------------------------------------------------------


def _module(table: FrameTable, sw_type: int, module_id: int, *, size: int | None = None) -> bytes:
    rng = table.rng
    data = b""
    if sw_type == exe.SwType.DDM and rng.randrange(4):
        data = tables.MODULE_HEADER.build(
            org_id=table.one_of(0x1B, 0x1B, 1),
            module_id=module_id,
            module_version=b"1.02",
            module_info=table.one_of(b"a module", b"").ljust(24, b"\0"),
        )
    length = size if size is not None else rng.choice((1, 40, 300, 2000))
    return (data + rng.randbytes(length))[: max(1, length)] if not data else data + bytes(length)


@builds(3)
def download(table: FrameTable) -> list[ValidFrame]:
    rng = table.rng
    sw_type = table.one_of(exe.SwType.DDM, exe.SwType.DDM, exe.SwType.DDM_MPB, exe.SwType.IRTOS)
    module_id = rng.randrange(6) if rng.random() < 0.9 else rng.randrange(1 << 16)
    return _download(table, sw_type, module_id, _module(table, sw_type, module_id))


@builds(0.2)
def download_of_three_fragments(table: FrameTable) -> list[ValidFrame]:
    sw_type = exe.SwType.IOP_PRIVATE_MODULE
    size = table.one_of(20_000, 8192, 100)
    return _download(table, sw_type, 1, _module(table, sw_type, 1, size=size), fragments=3)


@builds(0.1)
def downloads_that_never_end(table: FrameTable) -> list[ValidFrame]:
    frames = []
    for module_id in range(0x100, 0x107):
        frames += _download(table, exe.SwType.IRTOS, module_id, bytes(90), fragments=2)[:1]
    return frames


@builds(0.1)
def more_ddms_than_tids(table: FrameTable) -> list[ValidFrame]:
    frames = []
    for module_id in range(0x200, 0x209):
        frames += _download(table, exe.SwType.DDM, module_id, b"ddm")
    return frames


def _download(
    table: FrameTable, sw_type: int, module_id: int, data: bytes, fragments: int = 0
) -> list[ValidFrame]:
    count = fragments or table.rng.choice((1, 1, 2, 3))
    step = -(-len(data) // count)
    flags = table.one_of(0, 1, 2, 3, 2)
    frames = []
    for number in range(count):
        part = data[number * step : (number + 1) * step] or b"\0"
        frames.append(
            reading(
                table,
                exe.EXEC_SW_DOWNLOAD,
                0,
                part,
                [(at, 32, ()) for at in range(0, min(16, len(part) - 3), 4)],
                current_fragment=number + 1,
                total_fragments=count,
                sw_type=sw_type,
                download_flags=flags,
                sw_size=len(data),
                sw_id_module_id=module_id,
                sw_id_organization_id=0x1B,
            )
        )
    return frames


def _software(table: FrameTable) -> dict[str, int]:
    rng = table.rng
    name = rng.choice(
        [(exe.SwType.DDM, rng.randrange(6)), (exe.SwType.DDM_MPB, rng.randrange(6))] * 2
        + [(exe.SwType.IOP_PRIVATE_MODULE, 1), (exe.SwType.DDM, rng.randrange(0x200, 0x209))]
    )
    return {
        "sw_type": name[0].value,
        "sw_id_module_id": name[1],
        "sw_id_organization_id": 0x1B,
    }


@builds(2)
def upload(table: FrameTable) -> list[ValidFrame]:
    total = table.one_of(1, 1, 3)
    listed = table.lists.make(Buffer(None, table.one_of(8192, 300)))
    if table.rng.random() < 0.05:
        listed = None
    return [
        table.message(
            exe.EXEC_SW_UPLOAD,
            0,
            listed,
            current_fragment=table.rng.randrange(1, total + 1),
            total_fragments=total,
            **_software(table),
        )
    ]


@builds(1.5)
def remove(table: FrameTable) -> list[ValidFrame]:
    return [table.message(exe.EXEC_SW_REMOVE, 0, **_software(table))]


# --- blocks --------------------------------------------------------------------------------


def _range(table: FrameTable, tid: int) -> tuple[int, int]:
    block = BLOCK.get(tid, 512)
    size = LARGE_SIZE if tid in _LARGE else DISK_SIZE
    count = table.rng.choice((block, block, 2 * block, 4 * block))
    address = table.rng.randrange((size - count) // block + 1) * block
    return count, table.one_of(address, address, 0, size - count)


@builds(6)
def block_transfer(table: FrameTable) -> list[ValidFrame]:
    tid = table.disk(DISK, DISK)
    count, address = _range(table, tid)
    layout = table.one_of(
        bsa.BSA_BLOCK_READ, bsa.BSA_BLOCK_READ, bsa.BSA_BLOCK_WRITE, bsa.BSA_BLOCK_WRITE_VERIFY
    )
    if layout is bsa.BSA_BLOCK_READ:
        buffers = [Buffer(None, count)]
        if table.rng.random() < 0.1:  # the second half goes nowhere
            buffers = [Buffer(None, count // 2), Buffer(None, count - count // 2)]
    else:
        small = count <= 512
        buffers = [Buffer(_CONTENTS[:count], count, may_be_immediate=small and not tid & 1)]
        if table.rng.random() < 0.2:  # the first part stands in the frame
            head, rest = _CONTENTS[:128], _CONTENTS[128:count]
            buffers = [Buffer(head, 128), Buffer(rest, count - 128, may_be_immediate=False)]
    listed = table.lists.make(*buffers, room=560 if layout is not bsa.BSA_BLOCK_READ else 400)
    if len(listed.data) > 460:
        listed = table.lists.make(Buffer(_CONTENTS[:count], count, may_be_immediate=False))
    return [
        table.message(
            layout,
            tid,
            listed,
            transfer_byte_count=count,
            logical_byte_address=address,
            control_flags=table.one_of(0, 0x04, 0x08, 0x80),
        )
    ]


@builds(0.1)
def more_errors_than_are_logged(table: FrameTable) -> list[ValidFrame]:
    """Verifications of a block that the faulty disk cannot read."""
    fields = {"byte_count": 512, "logical_byte_address": 512 * table.rng.randrange(1, 4)}
    return [table.message(bsa.BSA_MEDIA_VERIFY, FAULTY, **fields) for _ in range(90)]


@builds(0.5)
def errors_that_are_noted(table: FrameTable) -> list[ValidFrame]:
    """Blocks that cannot be read, spared or not, and words of the user about what was logged."""
    control, log = bsa_groups.BSA_OPERATIONAL_CONTROL, bsa_groups.BSA_ERROR_LOG
    spare = _Operations()
    spare.start(ParamOperation.FIELD_SET, control.number)
    spare.word(1)
    spare.word(_index(control, "auto_reassign"))
    spare.value(bytes([table.rng.randrange(2)]))
    notes = _Operations()
    notes.start(ParamOperation.LIST_SET, log.number)
    notes.word(1)
    notes.word(_index(log, "user_info"))
    notes.word(2)
    size = log.fields[_index(log, "user_info")].width_bits // 8
    for key in (1, table.rng.randrange(4)):
        notes.value(key.to_bytes(log.fields[0].width_bits // 8, "little"))
        notes.value(b"seen".ljust(size))
    block = {"byte_count": 512, "logical_byte_address": 512 * table.rng.randrange(1, 4)}
    return [
        _with_lists(table, utility.UTIL_PARAMS_SET, FAULTY, [spare], 512),
        table.message(bsa.BSA_MEDIA_VERIFY, FAULTY, **block),
        _with_lists(table, utility.UTIL_PARAMS_SET, FAULTY, [notes], 512),
    ]


def _index(group: ParameterGroup, path: str) -> int:
    return [field.path for field in group.fields].index(path)


_CONTENTS = bytes(range(256)) * 64


@builds(1.5)
def media_verify(table: FrameTable) -> list[ValidFrame]:
    tid = table.disk(DISK, ALIAS_DISK)
    count, address = _range(table, tid)
    if tid in _LARGE and table.rng.randrange(3) == 0:
        count, address = LARGE_SIZE, 0
    return [
        table.message(
            bsa.BSA_MEDIA_VERIFY,
            tid,
            byte_count=count,
            logical_byte_address=address,
            control_flags=table.one_of(0, 0x80),
        )
    ]


@builds()
def block_status(table: FrameTable) -> list[ValidFrame]:
    layout = table.one_of(bsa.BSA_STATUS_CHECK, bsa.BSA_CACHE_FLUSH, bsa.BSA_DEVICE_RESET)
    return [table.message(layout, table.disk())]


@builds(2)
def medium(table: FrameTable) -> list[ValidFrame]:
    layout = table.one_of(
        bsa.BSA_MEDIA_MOUNT,
        bsa.BSA_MEDIA_MOUNT,
        bsa.BSA_MEDIA_EJECT,
        bsa.BSA_MEDIA_LOCK,
        bsa.BSA_MEDIA_UNLOCK,
    )
    fields = {"load_flags": table.one_of(0, 0x80)} if layout is bsa.BSA_MEDIA_MOUNT else {}
    tid = table.disk(REMOVABLE, REMOVABLE, ALIAS_REMOVABLE)
    return [table.message(layout, tid, **fields)]


@builds(0.2)
def block_requests_that_lack_something(table: FrameTable) -> list[ValidFrame]:
    """Memory to read into, which is data in the frame; and the last word, which counts as 0."""
    listed = Listed(  # 128 bytes of data, and 384 that go nowhere
        struct.pack("<I", 0x0C << 24 | 128) + _CONTENTS[:128] + struct.pack("<II", 0xC9000180, 7)
    )
    short = table.message(bsa.BSA_POWER_MANAGEMENT, DISK)
    cut = bytearray(short.frame[:16])
    struct.pack_into("<H", cut, 2, 4)
    places = {"header": short.places["header"]}
    return [
        table.message(bsa.BSA_BLOCK_READ, DISK, listed, transfer_byte_count=512),
        replace(short, frame=bytes(cut), places=places),
    ]


@builds(1.5)
def power(table: FrameTable) -> list[ValidFrame]:
    tid = table.disk()
    operations = [operation.value for operation in bsa.BsaPowerOperation]
    frames = [
        table.message(bsa.BSA_POWER_MANAGEMENT, tid, operation=table.rng.choice(operations)),
        table.message(bsa.BSA_POWER_MANAGEMENT, tid, operation=3),
    ]
    return frames[: table.rng.randrange(1, 3)]


@builds()
def reassign(table: FrameTable) -> list[ValidFrame]:
    data = struct.pack("<QQ", 0, 512)
    tid = table.disk()
    places = [(at, 32, ()) for at in range(0, 16, 4)]
    return [reading(table, bsa.BSA_BLOCK_REASSIGN, tid, data, places)]


@builds(0.3)
def media_format(table: FrameTable) -> list[ValidFrame]:
    """It has a function code and no layout."""
    found = table.message(bsa.BSA_STATUS_CHECK, table.rng.choice(DISKS))
    frame = bytearray(found.frame)
    frame[7] = Function.BSA_MEDIA_FORMAT.value
    return [ValidFrame(found.name, bytes(frame), found.places, ())]
