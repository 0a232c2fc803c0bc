# SPDX-License-Identifier: Apache-2.0
"""A process of a node: LAM's calls, with LAM's names.

Beyond LAM every call has a deadline, a receiver may name the node that it wants to hear of, and
tells whether a message was longer than asked for.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from i2o.closing import Closing
from i2o.network_message.conversion import body_unit, pack_pouch, swapped, unpack_pouch
from i2o.network_message.descriptor import (
    DMSKDATA,
    DMSKMSG,
    EVDL0,
    LAM_BASE_EVENT,
    N2ND,
    NMORE,
    NO_WORDS,
    NOBUF,
    NREEL,
    PRIORITY,
    Received,
    nmsg,
)
from i2o.network_message.errors import BadDescriptor, MessageTruncated, NotAttached
from i2o.network_message.station import Station
from i2o.network_message.waits import check_limit
from i2o.transport.fabric.mailbox import POUCH_SIZE, Letter, Listed, Want

if TYPE_CHECKING:
    from i2o.transport.fabric.endpoint import Buffer

Truncation: TypeAlias = Literal["report", "silent", "raise"]
_TYPED: Final = DMSKDATA | DMSKMSG
_OURS: Final = N2ND | NMORE | NREEL
_WORD: Final = 1 << 31
_NOT_SENT: Final = _OURS | ~0xFFFFFFFF  # what does not fit 32 bits is nobody's flag either
_NO_POUCH: Final = bytes(POUCH_SIZE)
_NO_WORDS: Final = NO_WORDS
_received: Final = tuple.__new__  # half as long as the class's own


class Limit(Enum):
    """A time limit that is no number of seconds."""

    OWN = "the process's own"


DEFAULT: Final = Limit.OWN
"""Time limit of a call that names none: the process's own."""
Timeout: TypeAlias = float | Literal[Limit.OWN] | None
"""Seconds, or None for ever."""


class Process(Closing):
    """A process, attached to a node. Each thread that receives is best one of its own.

    Args:
        station: the node.
        name: what it is called where waits are shown.
        priority: of several receivers that match, the one with the highest gets the message.
        timeout_s: how long a call may block unless it says otherwise; None for ever, as in LAM.
        truncation: what to do about a message that is longer than asked for: `report` what was
            lost, be `silent` as LAM is, or `raise` MessageTruncated.

    Raises:
        BadDescriptor: the priority is no integer of 32 bits.

    Attributes:
        name: as given.
        priority: as given; may be changed.
        timeout_s: as given; may be changed.
        truncation: as given; may be changed.
    """

    def __init__(
        self,
        station: Station,
        name: str,
        *,
        priority: int = PRIORITY,
        timeout_s: float | None = None,
        truncation: Truncation = "report",
    ) -> None:
        if type(priority) is not int or not -_WORD <= priority < _WORD:
            raise BadDescriptor(
                f"priority {priority!r} is no integer of 32 bits with a sign; {PRIORITY} is usual"
            )
        self._station: Station | None = station
        self._send_now = station.send_now
        self.name, self.priority, self.timeout_s = name, priority, timeout_s
        self.truncation: Truncation = truncation

    # --- sending ---------------------------------------------------------------------------------

    def nsend(self, header: nmsg, *, timeout_s: Timeout = DEFAULT) -> None:
        """Send a message; when this returns it has left the caller, and no more is known.

        `nh_dl_event` and `nh_dl_link` are set; nothing else of the descriptor changes.

        Args:
            header: the message. With `NOBUF` this returns when a receiver took it.
            timeout_s: how long to wait for room, or with `NOBUF` for the receiver.

        Raises (this and all other calls):
            NotAttached: the process was detached, or its node is closed.
            BadNode: nobody knows that node.
            BadDescriptor: a field, or the time limit, has a value that cannot be.
            TimedOut: the deadline passed, and nothing was moved.
            NodeDied: the other node is gone.
            Swept: somebody swept the message before it was received.
            MessageTooLong: more than the other node buffers.
        """
        self._send(header, True, timeout_s)

    def ntry_send(self, header: nmsg) -> None:
        """Send a message if all of it can go at once; raises WouldBlock, and moves nothing."""
        self._send(header, False, None)

    def tsend(self, header: nmsg, *, timeout_s: Timeout = DEFAULT) -> None:
        """Send a message directly to a `trecv`: no buffer in between, and no limit of length."""
        self._send(header, True, timeout_s, True)

    def _send(
        self, header: nmsg, may_wait: bool, timeout_s: Timeout, is_transfer: bool = False, /
    ) -> None:
        station = self._station or self._attached()
        limit_s = self.timeout_s if timeout_s is DEFAULT else timeout_s
        if limit_s is not None:
            check_limit(limit_s)
        flags, length = header.nh_flags, header.nh_length
        body = header.nh_msg
        if type(body) is not bytes or len(body) != length:
            body = _bytes_of(body, length)
        event, mask = header.nh_event, header.nh_type
        if not (0 <= event < LAM_BASE_EVENT and -_WORD <= mask < _WORD):
            _check(header)
        if flags & _NOT_SENT:
            if flags & ~0xFFFFFFFF:
                raise BadDescriptor(f"nh_flags {flags:#x} do not fit 32 bits without a sign")
            raise BadDescriptor(f"nh_flags {flags:#x}: N2ND, NREEL and NMORE are set by packets")
        if flags & _TYPED:
            body_unit(flags)
        data = header.nh_data
        pouch = _NO_POUCH if data is _NO_WORDS else pack_pouch(data, flags)
        if not (flags & NOBUF or is_transfer):
            link = self._send_now(header.nh_node, event, mask, flags, pouch, body, length)
            if link >= 0:
                header.nh_dl_event, header.nh_dl_link = EVDL0, link
                return
        letter = Letter(station.number, event, mask, flags, pouch, body, length, is_transfer)
        taken_by, link_or_none = station.send(
            self.name,
            header.nh_node,
            letter,
            no_buffer=flags & NOBUF != 0,
            may_wait=may_wait,
            timeout_s=limit_s,
        )
        header.nh_dl_event = taken_by
        if link_or_none is not None:
            header.nh_dl_link = link_or_none

    # --- receiving -------------------------------------------------------------------------------

    def nrecv(
        self, header: nmsg, *, source: int | None = None, timeout_s: Timeout = DEFAULT
    ) -> Received:
        """Receive a message, all of it.

        `nh_type`, `nh_data` and `nh_length` become the sender's, the last one at most what it was.

        Args:
            header: event, type and memory.
            source: the only node to hear of; None for any, as in LAM.
            timeout_s: how long to wait for a message.

        Raises:
            MessageTruncated: with truncation `raise`: it was longer; what fits was received.
        """
        return self._receive(header, source, may_wait=True, timeout_s=timeout_s)

    def ntry_recv(self, header: nmsg, *, source: int | None = None) -> Received:
        """Receive a message if one is here; raises WouldBlock, and changes nothing."""
        return self._receive(header, source, may_wait=False, timeout_s=None)

    def trecv(
        self, header: nmsg, *, source: int | None = None, timeout_s: Timeout = DEFAULT
    ) -> Received:
        """Receive what a `tsend` sends."""
        return self._receive(header, source, may_wait=True, timeout_s=timeout_s, is_transfer=True)

    def _receive(
        self,
        header: nmsg,
        source: int | None,
        *,
        may_wait: bool,
        timeout_s: Timeout,
        is_transfer: bool = False,
    ) -> Received:
        station = self._station or self._attached()
        limit_s = self.timeout_s if timeout_s is DEFAULT else timeout_s
        if limit_s is not None:
            check_limit(limit_s)
        view = memoryview(header.nh_msg)
        if view.format != "B":
            view = view.cast("B")
        room = header.nh_length
        if not 0 <= room <= len(view):
            raise BadDescriptor(f"nh_length {room}; nh_msg has {len(view)} bytes")
        if room and view.readonly:
            raise BadDescriptor("nh_msg is read-only: give a bytearray")
        _check(header)
        want = Want(header.nh_event, header.nh_type, source, self.priority, room, is_transfer)
        letter = station.receive(
            self.name,
            want,
            may_wait=may_wait,
            timeout_s=limit_s,
        )
        return self._deliver(letter, header, view[:room])

    def _deliver(self, letter: Letter, header: nmsg, view: memoryview) -> Received:
        """Put a message into a descriptor."""
        flags, sent = letter.flags, letter.length
        body = letter.body
        assert body is not None
        length = len(view)
        if sent != length:
            if sent < length:
                view, length = view[:sent], sent
            body = memoryview(body)[:length]
        if length:
            if letter.is_swapped and flags & DMSKMSG:
                body = swapped(body, body_unit(flags))
            view[:] = body
        header.nh_length, header.nh_type = length, letter.type
        header.nh_data = (
            _NO_WORDS
            if letter.pouch == _NO_POUCH and not flags
            else unpack_pouch(letter.pouch, flags, is_swapped=letter.is_swapped)
        )
        if length < sent:
            if self.truncation == "raise":
                raise MessageTruncated(
                    f"event {letter.event}: {sent} bytes of node {letter.source}, {length} of "
                    "them were asked for",
                    sent - length,
                )
            if self.truncation == "silent":
                sent = length
        return _received(Received, (letter.source, length, sent, flags))

    def nprobe(self, header: nmsg, *, source: int | None = None) -> bool:
        """Return whether `ntry_recv` would receive a message; it stays.

        If so, `nh_type`, `nh_length` (all of it) and `nh_data` become the sender's.
        """
        station = self._attached()
        _check(header)
        letter = station.probe(Want(header.nh_event, header.nh_type, source=source))
        if letter is None:
            return False
        header.nh_type, header.nh_length = letter.type, letter.length
        header.nh_data = unpack_pouch(letter.pouch, letter.flags, is_swapped=letter.is_swapped)
        return True

    # --- what waits ------------------------------------------------------------------------------

    def sweep(self, event: int | None = None) -> int:
        """Throw away messages that wait for receivers at this node; return how many."""
        return self._attached().sweep(event)

    def listing(self) -> list[Listed]:
        """Return the messages that wait for receivers at this node, oldest first."""
        return self._attached().listing()

    def bfqlook(self, number: int) -> tuple[nmsg, int]:
        """Return a copy of a message that waits, by its number in the listing, and its source.

        Raises:
            BadDescriptor: no message has that number, or its body is with the sender still.
        """
        letter = self._attached().look(number)
        if letter is None or letter.body is None:
            raise BadDescriptor(f"no message has the number {number}, or its body is not here")
        header = nmsg(
            nh_event=letter.event,
            nh_type=letter.type,
            nh_flags=letter.flags,
            nh_length=letter.length,
            nh_msg=bytearray(letter.length),
        )
        self._deliver(letter, header, memoryview(header.nh_msg))
        return header, letter.source

    # --- life ------------------------------------------------------------------------------------

    def getnodeid(self) -> int:
        """Return the number of this process's node."""
        return self._attached().number

    def getorigin(self) -> int:
        """Return the number of the node that `ORIGIN` means."""
        return self._attached().origin

    def detach(self) -> None:
        """Leave the node; every later call raises NotAttached. Again does nothing."""
        station, self._station = self._station, None
        if station is not None:
            station.forget(self.name)

    close = detach

    def _attached(self) -> Station:
        if self._station is None:
            raise NotAttached(f"{self.name} was detached")
        return self._station


def _bytes_of(memory: Buffer, length: int) -> bytes:
    """Return the first bytes of `nh_msg`, which must have as many."""
    view = memoryview(memory).cast("B")
    if not 0 <= length <= len(view):
        raise BadDescriptor(f"nh_length {length}; nh_msg has {len(view)} bytes")
    return view[:length].tobytes()


def _check(header: nmsg) -> None:
    """Refuse what is no event, or no type."""
    if not 0 <= header.nh_event < LAM_BASE_EVENT:
        raise BadDescriptor(
            f"nh_event {header.nh_event}: events of programs are from 0 to {LAM_BASE_EVENT - 1:#x}"
        )
    if not -_WORD <= header.nh_type < _WORD:
        raise BadDescriptor(f"nh_type {header.nh_type:#x} is no integer of 32 bits with a sign")
