# SPDX-License-Identifier: Apache-2.0
"""What the message layer knows about each IOP: its port, its frames, who waits for what."""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from i2o.errors import InvalidArgument, IopDead, LocalFrameError, OutOfFrames
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.header import EMPTY_MFA, MsgFlags
from i2o.message_frames import ReplyFrame, RequestFrame
from i2o.resources import BringUpResult
from i2o.transport.host_memory import HostBuffer
from i2o.transport.port import Port

logger = logging.getLogger(__name__)

FIRST_IOP_ID: Final = 2
"""0 is no IOP's and 1 the host's."""
LAST_IOP_ID: Final = 0xFFE

EVENT_REGISTER: Final = int(Function.UTIL_EVENT_REGISTER)
"""Answered once per event, not once per request."""

_NO_TRANSACTION_CONTEXT: Final = frozenset(
    {
        int(Function.LAN_PACKET_SEND),
        int(Function.LAN_SDU_SEND),
        int(Function.LAN_RECEIVE_POST),
    }
)

RequestKey = bytes
"""What a reply repeats of its request, and what tells requests apart: words 1 to 3 as they stand in
the frame (TIDs, function and both contexts). Byte 3 is the function, bytes 4 to 7 the cookie."""

SPECIAL: Final = UNANSWERED | {EVENT_REGISTER} | _NO_TRANSACTION_CONTEXT
"""Functions that are not simply answered once, with both contexts repeated."""

read_head = struct.Struct("<xBH12s").unpack_from
"""Read (MsgFlags, MessageSize in words, words 1 to 3) of any frame: all that dispatch looks at."""


def settled_key(key: RequestKey) -> RequestKey:
    """Return the key to keep books by: word 3 of a LAN message is no transaction context."""
    return key[:8] + bytes(4) if key[3] in _NO_TRANSACTION_CONTEXT else key


@dataclass(slots=True)
class Counters:
    """What happened on one IOP since it was attached."""

    requests: int = 0
    replies: int = 0
    fails: int = 0
    nops: int = 0
    retries: int = 0
    no_frame: int = 0
    """Sends and GetReqBufs that gave up because no inbound frame was free."""
    unknown_cookie: int = 0
    unexpected: int = 0
    """Replies that no outstanding request explains; dropped."""
    malformed: int = 0
    """Replies outside the frame pool, without the REPLY flag or without a header; dropped."""
    synthesised: int = 0
    """Final replies the layer made up because the IOP could no longer send them."""
    bad_frees: int = 0
    """Frames freed twice or to the wrong IOP."""
    lost: int = 0
    """Times that the IOP was found in another state than OPERATIONAL."""
    callback_errors: int = 0
    auto_freed: int = 0
    """Replies freed by the layer because the callback raised before it did."""


class IopNews(Enum):
    """What a listener to an IOP is told."""

    BROUGHT_UP = auto()
    """The IOP was reset and is up: claims and event registrations are gone."""
    TABLES_READ = auto()
    """Its tables were read again; they may say something new."""
    GONE = auto()
    """It died or was detached: nothing comes from it any more."""


NewsListener = Callable[[IopNews], object]

HeldRequest = tuple[RequestFrame, int]
"""A request frame in an OSM's hands, and the real inbound frame behind it (EMPTY_MFA: none)."""

HeldReply = tuple[ReplyFrame, int, int]
"""A reply frame in an OSM's hands, the outbound frame to release (EMPTY_MFA for a synthesised
reply) and the inbound frame to turn into a NOP (EMPTY_MFA: none)."""


class IopEntry:
    """One registered IOP.

    Attributes:
        number: the global IOP number.
        iop_id: what the IOP is called in the system table: 12 bits, unique among those attached.
        key: the resource manager's key.
        port: the transport.
        frames_from_fifo: GetReqBuf takes a real inbound frame at once.
        online: brought up and not known to be dead.
        refusing: why nothing may be sent now (reset, detached, dead), or an empty string.
        is_dead: its port said that it is gone for good.
        has_posted: something was posted since the last reset, so it may write to host memory.
        lock: guards port, outstanding requests and counters.
        listeners: who is told of news.
    """

    def __init__(
        self, number: int, key: int, port: Port, iop_id: int, *, frames_from_fifo: bool
    ) -> None:
        self.iop_id = iop_id
        self.number, self.key, self.port = number, key, port
        self.frames_from_fifo = frames_from_fifo
        self.online = False
        self.refusing = ""
        self.is_dead = False
        self.has_posted = False
        self.lock = threading.RLock()
        self.counters = Counters()
        self.inbound_size = port.inbound_size
        self.outbound_size = 0
        self.size_at_next_reboot = port.inbound_size
        self.held_requests: dict[int, HeldRequest] = {}
        self.held_replies: dict[int, HeldReply] = {}
        self.with_iop: set[int] = set()
        self.reply_pool: HostBuffer | None = None
        self._lent: dict[int, HostBuffer] = {}
        self.reply_frames: frozenset[int] = frozenset()
        self.outstanding: dict[RequestKey, int] = {}  # how many final replies are owed
        self.event_registrations: dict[RequestKey, int] = {}  # how often each was sent
        self.saved_requests: dict[int, bytes] = {}
        self.result: BringUpResult | None = None
        self.listeners: tuple[NewsListener, ...] = ()

    @property
    def outstanding_count(self) -> int:
        """Requests that still owe a final reply."""
        return sum(self.outstanding.values())

    def alloc(self) -> int | None:
        """Take a free inbound frame; an empty port is read twice before it is believed."""
        with self.lock:
            mfa = self.port.alloc()
            if mfa == EMPTY_MFA:
                mfa = self.port.alloc()
                if mfa == EMPTY_MFA:
                    return None
            self.with_iop.discard(mfa)
            return mfa

    def post_nop(self, mfa: int) -> None:
        """Send an inbound frame home: as a UtilNOP, which is never answered.

        After an IOP was reset by somebody else the frame is home already, which a port may notice;
        of an IOP that is gone nothing has a home.
        """
        self.with_iop.discard(mfa)  # a NOP is never answered: no FAIL reply may name it
        try:
            self.port.write(mfa, _NOP)
            self.port.post(mfa)
        except (LocalFrameError, IopDead) as error:
            logger.info("IOP %d: a frame needs not be sent home: %s", self.number, error)
            return
        self.counters.nops += 1

    def release(self, mfa: int) -> None:
        """Give a reply frame back, if it is one that the IOP has now."""
        if mfa not in self.reply_frames:
            return
        try:
            self.port.release(mfa)
        except IopDead as error:  # whoever looks for replies next finds that, too
            logger.info("IOP %d: a reply frame has nowhere to go: %s", self.number, error)

    def lend(self, size: int) -> HostBuffer:
        """Return host memory that the IOP is going to be told of, without a reply to end that."""
        buffer = self.port.memory.allocate(size)
        self._lent[id(buffer)] = buffer
        return buffer

    def take_back(self, buffer: HostBuffer) -> None:
        """Free lent memory that the IOP has written; a reset may have done so meanwhile."""
        if self._lent.pop(id(buffer), None) is not None:
            buffer.free()

    def adopt_reply_pool(self, pool: HostBuffer, frame_size: int) -> None:
        """Take the memory that the IOP's replies are going to be written to."""
        start, size = pool.bus_address, len(pool.view)
        self.reply_pool, self.outbound_size = pool, frame_size
        self.reply_frames = frozenset(range(start, start + size - frame_size + 1, frame_size))

    @property
    def holds_frames(self) -> bool:
        """Whether OSMs hold request frames that are real inbound frames."""
        return any(mfa != EMPTY_MFA for _, mfa in tuple(self.held_requests.values()))

    def forget_frames(self) -> None:
        """Note that the IOP was reset: it holds no frame, and frames held here are memory only.

        Only once it can no longer write to host memory: reply frames and lent memory are freed.
        """
        with self.lock:
            for index, request in tuple(self.held_requests.items()):
                self.held_requests[index] = (request[0], EMPTY_MFA)
            for index, (reply, _, preserved) in tuple(self.held_replies.items()):
                kept = preserved if preserved in self.saved_requests else EMPTY_MFA
                self.held_replies[index] = (reply, EMPTY_MFA, kept)
            self.with_iop.clear()
            self.has_posted = False
            self.reply_frames = frozenset()
            for buffer in tuple(self._lent.values()):
                self.take_back(buffer)
            pool, self.reply_pool = self.reply_pool, None
            if pool is not None:
                pool.free()

    def expect(self, key: RequestKey) -> None:
        """Note that a final reply is owed, or events."""
        function = key[3]
        if function == EVENT_REGISTER:
            self.event_registrations[key] = self.event_registrations.get(key, 0) + 1
        elif function not in UNANSWERED:
            key = settled_key(key)
            self.outstanding[key] = self.outstanding.get(key, 0) + 1

    def settle(self, key: RequestKey) -> bool:
        """Note that the final reply came, or that none will; False when none was owed."""
        is_events = key[3] == EVENT_REGISTER  # one that fails leaves those of before in force
        books = self.event_registrations if is_events else self.outstanding
        key = settled_key(key)
        count = books.pop(key, 0)
        if count > 1:
            books[key] = count - 1
        return count > 0

    def is_expected(self, key: RequestKey) -> bool:
        """Whether a reply or event with these words has somebody waiting."""
        return settled_key(key) in self.outstanding or key in self.event_registrations

    def key_of_failed(self, reply: ReplyFrame, preserved_mfa: int) -> RequestKey | None:
        """Find the request that a FAIL reply is about.

        The reply's transaction context is not valid: word 3 of the preserved frame is. Without
        one, the request is known only if no other shares TIDs, function and initiator context.
        """
        if preserved_mfa != EMPTY_MFA:
            key = self.port.read_inbound(preserved_mfa, 16)[4:]
            if self.is_expected(key):
                return key
        exact = bytes(reply[4:16])
        if self.is_expected(exact):
            return exact
        prefix = exact[:8]
        alike = [key for key in self.outstanding if key.startswith(prefix)]
        return alike[0] if len(alike) == 1 else None

    def preserved_frame(self, reply: ReplyFrame) -> int:
        """Return the preserved MFA of a FAIL reply, or EMPTY_MFA if it names none of ours."""
        if len(reply) < 32:
            return EMPTY_MFA
        mfa = int.from_bytes(reply[28:32], "little")
        if mfa not in self.with_iop:
            return EMPTY_MFA
        self.with_iop.discard(mfa)  # the host's, until its NOP is posted
        return mfa

    def save_request(self, key: RequestKey) -> int:
        """Keep the header of a request that got a synthesised FAIL; return its stand-in MFA."""
        mfa = _FIRST_STAND_IN + 4 * len(self.saved_requests)
        while mfa in self.saved_requests:
            mfa += 4
        self.saved_requests[mfa] = b"\x01\x00\x04\x00" + key
        return mfa


_NOP: Final = b"\x01\x00\x03\x00\x00\x10\x00\x00" + bytes(4)
_FIRST_STAND_IN: Final = 0xF000_0000  # above any BAR: no real inbound frame has such an offset

REPLY_FLAG: Final = int(MsgFlags.REPLY)
LAST_FLAG: Final = int(MsgFlags.LAST)
FAIL_FLAG: Final = int(MsgFlags.FAIL)


class IopTable:
    """All registered IOPs, by number. Numbers are never used twice."""

    def __init__(self) -> None:
        self._entries: dict[int, IopEntry] = {}
        self._next = 0
        self._next_id = FIRST_IOP_ID
        self._adding = threading.Lock()
        self.all: tuple[IopEntry, ...] = ()
        """Every registered IOP, by number."""
        self.find = self._entries.get
        """Return an IOP, or None."""

    def add(self, port: Port, *, frames_from_fifo: bool) -> IopEntry:
        """Register an IOP and give it the next number."""
        with self._adding:  # two threads at a time would get one number, or one id
            number = self._next
            self._next += 1
            key, iop_id = _FIRST_KEY + number, self._free_id()
            entry = IopEntry(number, key, port, iop_id, frames_from_fifo=frames_from_fifo)
            self._entries[number] = entry
            self.all = tuple(self._entries.values())
        return entry

    def _free_id(self) -> int:
        """Return an IOP id that was not used for as long as possible: they are only 12 bits."""
        taken = {entry.iop_id for entry in self.all}
        ids = range(FIRST_IOP_ID, LAST_IOP_ID + 1)
        candidates = [*ids[self._next_id - FIRST_IOP_ID :], *ids]
        iop_id: int | None = next((value for value in candidates if value not in taken), None)
        if iop_id is None:
            raise OutOfFrames(f"{len(taken)} IOPs are attached: there are no more IOP ids")
        self._next_id = iop_id + 1
        return iop_id

    def remove(self, number: int) -> None:
        """Forget an IOP."""
        with self._adding:
            del self._entries[number]
            self.all = tuple(self._entries.values())

    def entry(self, number: int) -> IopEntry:
        """Return an IOP.

        Raises:
            InvalidArgument: no IOP has that number.
        """
        entry = self._entries.get(number)
        if entry is None:
            known = ", ".join(str(one.number) for one in self.all) or "none"
            raise InvalidArgument(f"there is no IOP {number!r} (registered: {known})")
        return entry

    def __iter__(self) -> Iterator[IopEntry]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self._entries)


_FIRST_KEY: Final = 0x100
