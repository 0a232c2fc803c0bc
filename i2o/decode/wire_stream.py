# SPDX-License-Identifier: Apache-2.0
"""Reads the packets of a remote IOP out of captured messages: docs/remote.md has the protocol.

Packets cut a stream of records anywhere, and captures cut packets. A reader keeps what a record
that is not complete had so far. A long message may end behind a shorter one that was sent later:
then the shorter one waits, and is read with the long one. When bytes are missing the reader goes on
behind data whose length it knows; otherwise it waits for a packet that can be read as records from
its start to its end.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from i2o.transport.wire.messages import (
    DEVICE_KINDS,
    HOST_KINDS,
    MAGIC,
    MAX_FRAME,
    PACKET,
    SPARES,
    WINDOW,
    Kind,
    forms,
    packer,
)

MAX_RECORDS: Final = 1024
"""Records of one packet that are told apart; the rest is counted as bytes."""
MAX_AHEAD: Final = WINDOW + SPARES
"""Packets that wait for an earlier one: as many as can be under way."""
MAX_HELD_BYTES: Final = 1 << 17
"""Bytes of those."""

_HEAD: Final = packer(PACKET)
HEAD_SIZE: Final = _HEAD.size
_HELLO: Final = struct.pack("<BI", Kind.HELLO, MAGIC)
_LONE: Final = frozenset({Kind.HELLO, Kind.REFUSED, Kind.UNKNOWN})
_FORMS: Final = forms(HOST_KINDS | DEVICE_KINDS | _LONE)


class WireRecord(NamedTuple):
    """A record, or a piece of one.

    Attributes:
        kind: a `Kind`, as a plain number.
        fields: of its layout.
        place: byte of the message where it starts; None if it started in an earlier one.
        data: what follows its fields, as far as it is in this message and was captured.
        data_at: byte of the message where that starts; None if it started in an earlier one.
        first: which byte of all its data that is.
        length: bytes of all its data.
    """

    kind: int
    fields: tuple[int, ...]
    place: int | None
    data: bytes = b""
    data_at: int | None = None
    first: int = 0
    length: int = 0


class WirePacket(NamedTuple):
    """A packet.

    Attributes:
        session: which session it is of, 0 before there is one.
        number: its own.
        credits: packets that are given back.
        records: what is in it, and behind that what is in packets that waited for it, without
            places.
        complaint: why not all of it could be read, empty if it could.
        waits_for: number of an earlier packet that is to come before it can be read, or None.
    """

    session: int
    number: int
    credits: int
    records: tuple[WireRecord, ...]
    complaint: str
    waits_for: int | None = None


def is_hello(payload: bytes) -> bool:
    """Whether a message begins a session, beyond doubt."""
    return payload[:2] == b"\0\0" and payload[HEAD_SIZE : HEAD_SIZE + len(_HELLO)] == _HELLO


def read_packet(payload: bytes, missing: int, stream: WireStream | None) -> WirePacket | None:
    """Read a packet.

    Args:
        payload: what was captured of it.
        missing: bytes behind that were not captured.
        stream: its session's, which goes on by it; None for packets without one.

    Returns:
        None if it has no header.
    """
    if len(payload) < HEAD_SIZE:
        return None
    session, number, credits = _HEAD.unpack_from(payload)
    reader = stream if session and stream is not None else WireStream()
    if reader.holds(payload, missing, number):
        return WirePacket(session, number, credits, (), "", reader.due)
    records, complaint = reader.read(payload, missing, number)
    return WirePacket(session, number, credits, tuple(records), complaint)


class WireStream:
    """One direction of a session.

    Attributes:
        due: number of the next packet.
    """

    def __init__(self) -> None:
        self.due = 0
        self._held: dict[int, tuple[bytes, int]] = {}
        self._kept = b""
        self._bulk: WireRecord | None = None
        self._done = 0
        self._is_lost = False

    def holds(self, payload: bytes, missing: int, number: int) -> bool:
        """Keep a packet that came too early, if there is room; return whether it is one."""
        held = self._held
        if not 0 < (number - self.due & 0xFF) <= MAX_AHEAD or number in held:
            return False
        room = MAX_HELD_BYTES - sum(len(kept) for kept, _ in held.values())
        if len(held) >= MAX_AHEAD or len(payload) > room:
            return False
        held[number] = payload, missing
        return True

    def read(self, payload: bytes, missing: int, number: int) -> tuple[list[WireRecord], str]:
        """Take the next packet, and those that waited for it; return records and what is wrong."""
        complaint = ""
        if number != self.due:
            complaint = f"packet {self.due} was due: packets are missing"
            self._lose()
            self._held.clear()
        records, trouble = self._read(payload, missing)
        complaint = complaint or trouble
        self.due = number + 1 & 0xFF
        while self.due in self._held:
            more, trouble = self._read(*self._held.pop(self.due))
            records += [one._replace(place=None, data_at=None) for one in more]
            complaint = complaint or trouble
            self.due = self.due + 1 & 0xFF
        return records, complaint

    def _read(self, payload: bytes, missing: int) -> tuple[list[WireRecord], str]:
        if self._is_lost and not self._resume(payload, missing):
            return [], "where records begin is not known"
        records, trouble = self._records(payload)
        if trouble:
            self._lose()
        elif missing:
            self._skip(missing)
        return records, trouble

    def _lose(self) -> None:
        self._kept, self._bulk, self._is_lost = b"", None, True

    def _resume(self, payload: bytes, missing: int) -> bool:
        """Whether a packet can be read as records from its start."""
        trial = WireStream()
        records, trouble = trial._records(payload)
        if trouble or not records or (trial._kept and not missing):
            return False
        self._is_lost = False
        return True

    def _skip(self, missing: int) -> None:
        """Go on behind bytes that were not captured, if they are all data of one record."""
        bulk = self._bulk
        if bulk is None or self._kept or bulk.length - self._done < missing:
            self._lose()
            return
        self._done += missing
        if self._done == bulk.length:
            self._bulk = None

    def _records(self, payload: bytes) -> tuple[list[WireRecord], str]:
        """Return the records of a packet, and why the rest cannot be read."""
        records: list[WireRecord] = []
        before = len(self._kept)  # a record that began in an earlier packet
        data = self._kept + payload[HEAD_SIZE:]
        shift = HEAD_SIZE - before
        self._kept = b""
        place, size = 0, len(data)
        while place < size:
            if len(records) >= MAX_RECORDS:
                return records, f"{size - place} bytes behind {MAX_RECORDS} records are not read"
            if self._bulk is not None:
                place = self._more_bulk(records, data, place, shift)
                continue
            form = _FORMS.get(data[place])
            if form is None:
                return records, f"no record has the kind {data[place]:#04x}"
            end = place + 1 + form.size
            if end > size:
                break
            fields = form.fields.unpack_from(data, place + 1)
            start = place + shift if place >= before else None
            if form.has_bulk(fields):
                self._bulk, self._done = WireRecord(form.kind.value, fields, start), 0
                self._bulk = self._bulk._replace(length=fields[-1])
                place = end
                if place >= size or not fields[-1]:
                    place = self._more_bulk(records, data, place, shift)
                continue
            length = form.text_size(fields)
            if length > MAX_FRAME:
                return records, f"{form.kind.name} with {length} bytes"
            if end + length > size:
                break
            at = end + shift if end >= before else None
            text = data[end : end + length]
            records.append(WireRecord(form.kind.value, fields, start, text, at, 0, length))
            place = end + length
        self._kept = data[place:]
        return records, ""

    def _more_bulk(self, records: list[WireRecord], data: bytes, place: int, shift: int) -> int:
        """Take a piece of bulk data; return where it ends."""
        bulk = self._bulk
        assert bulk is not None
        size = min(bulk.length - self._done, len(data) - place)
        piece = bulk._replace(
            data=data[place : place + size], data_at=place + shift, first=self._done
        )
        records.append(piece)
        self._done += size
        self._bulk = None if self._done >= bulk.length else bulk._replace(place=None)
        return place + size
