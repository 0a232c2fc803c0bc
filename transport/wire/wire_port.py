# SPDX-License-Identifier: Apache-2.0
"""The host half of an IOP behind an endpoint: a `Port` whose frames and DMA are messages.

A link that breaks is an IOP that is gone: whoever asks gets `IopDead`, and the IOP writes no host
memory from then on. `reconnect` reaches it again, as soon as its server is there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import select
import threading
from collections.abc import Callable
from typing import Final, Self

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.errors import IopDead, RemoteFrameError, TransportUnavailable, UriError
from i2o.transport.arena_space import ArenaSpace
from i2o.transport.bus_space import BusSpace
from i2o.transport.capture.dma_tap import TapRules
from i2o.transport.fabric.endpoint import Endpoint
from i2o.transport.fabric.errors import FabricError
from i2o.transport.fabric.placement import Placement
from i2o.transport.host_memory import HostMemory
from i2o.transport.lazy_memory import zeroed
from i2o.transport.port import EMPTY
from i2o.transport.registry import open_endpoint
from i2o.transport.uri import Uri
from i2o.transport.wire.addresses import host_endpoint, host_options, server_name
from i2o.transport.wire.host_half import HostHalf, Terms, WireMemory
from i2o.transport.wire.messages import (
    HELLO,
    MAGIC,
    MAX_NAME,
    NO_SESSION,
    REFUSED,
    UNKNOWN,
    VERSION,
    WELCOME,
    WINDOW,
    Kind,
)
from i2o.transport.wire.pump import Pump, pump_packets
from i2o.transport.wire.stream import (
    HEAD_SIZE,
    Packet,
    StreamWriter,
    lone_packet,
    read_head,
)

logger = logging.getLogger(__name__)

CONNECT_S: Final = 10.0
"""How long a server may take to answer, at first and after a link broke."""
RESET_S: Final = 5.0
"""How long a server may take to cycle the power of its IOP."""
QUIET_S: Final = 1.0
"""After how long without a packet a host that waits asks whether anybody is there."""
ANSWER_S: Final = 10.0
"""How long the answer to that may take."""
IDLE_S: Final = 0.2
"""After how long without a look at the link a host asks before it sends a request."""
_START: Final = "start a server there: i2o serve -i IOP URI, or i2o emulate --serve URI"
_REMEDIES: Final = {
    errno.ECONNREFUSED: _START,
    errno.ETIMEDOUT: _START,
    errno.EACCES: "write ?key=FILE behind the address, with the key file of the server",
}
_FRESH_NS: Final = 1_000_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_HELLO_S: Final = 2.0  # then it is said again
_GOODBYE_S: Final = 0.5
_SLICE_S: Final = 0.05  # how long one thread may not know what another one took in


class WirePort(Closing):
    """A `Port` over an endpoint.

    Args:
        endpoint: unconnected, and not enabled yet; the port closes it.
        server: the address of the server.
        name: what to call it in messages.
        clock: tells the time.
        connect_s: how long the server may take to answer.

    Raises:
        TransportUnavailable: nobody answers there, or the IOP has another host.

    Attributes:
        memory: the host's buffers.
        inbound_size: bytes of an inbound frame.
        name: the URI.
        sessions: how often a server was reached.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        server: str,
        *,
        name: str,
        clock: Clock = SYSTEM_CLOCK,
        connect_s: float = CONNECT_S,
    ) -> None:
        self.name, self._clock, self._connect_s = name, clock, connect_s
        self._scheme = name.partition(":")[0]
        self._lock = threading.RLock()
        self._rules = TapRules()
        self._half: HostHalf | None = None
        self._waiting: list[Packet] = []
        self._session = NO_SESSION
        self._token = 0
        self._lost = "it was not reached yet"  # why there is no link, empty if there is one
        self._answer = self._remedy = ""  # why the server said no, and what to do about it
        self._is_closed = self._is_masked = False
        self._bell: int | None = None
        self._watch: select.epoll | None = None
        self._heard_ns = self._asked_ns = self._looked_ns = 0
        self._known = 0  # packets that were heard when somebody waited
        self._is_asked = False
        self.sessions = 0
        self._space: WireMemory | None = None
        self._pump = Pump(endpoint)
        try:
            self._server, self._server_name = self._address_of(server), server
            self._connect(is_first=True)
        except FabricError as error:
            self._pump.close()
            raise TransportUnavailable(self._scheme, str(error.strerror)) from None
        except BaseException:
            self._pump.close()
            raise
        assert self._space is not None
        self.memory: HostMemory = self._space
        self.outbound = self._space.window

    def _address_of(self, server: str) -> int:
        """Return the number of the server; raises UriError if it cannot be one."""
        try:
            return self._pump.insert(server)
        except FabricError as error:
            if error.errno != errno.EINVAL:
                raise
            raise UriError(f"{self._scheme}: {error.strerror}") from None

    @classmethod
    def from_uri(cls, uri: Uri, clock: Clock) -> Self:
        """Reach the IOP that is served at an address.

        Besides the options of the endpoint there is `timeout`: seconds for the server to answer.

        Raises:
            UriError: an option is unknown or wrong.
            TransportUnavailable: nobody answers there, or the IOP has another host.
        """
        uri.require_known({*host_options(uri.scheme), "timeout"})
        connect_s = uri.seconds("timeout", CONNECT_S, 3600)
        try:
            endpoint = open_endpoint(host_endpoint(uri), clock=clock)
        except FabricError as error:
            raise TransportUnavailable(uri.scheme, str(error.strerror)) from None
        return cls(endpoint, server_name(uri), name=uri.text, clock=clock, connect_s=connect_s)

    def learn(self, rules: TapRules) -> None:
        """Take what there is to know of messages: data can go along with their requests then."""
        with self._lock:
            self._rules = rules
            if self._half is not None:
                self._half.rules = rules

    # --- the FIFOs -------------------------------------------------------------------------------

    def alloc(self) -> int:
        """Pop a free inbound MFA, or EMPTY; raises IopDead.

        After a pause it is asked first whether the server is still there, so that a request is
        not sent to one that was started again meanwhile.
        """
        with self._lock:
            if self._clock.monotonic_ns() - self._looked_ns > _FRESH_NS:
                self._look()
            mfa = self._up().alloc()
            if mfa == EMPTY:
                self._progress()
                mfa = self._up().alloc()
            return mfa

    def write(self, mfa: int, frame: bytes | bytearray | memoryview) -> None:
        """Copy a request into an inbound frame; raises LocalFrameError, IopDead."""
        self._up().write(mfa, frame)

    def read_inbound(self, mfa: int, size: int) -> bytes:
        """Read an inbound frame; raises LocalFrameError for an MFA that is none."""
        assert self._half is not None
        return self._half.read_inbound(mfa, size)

    def post(self, mfa: int) -> None:
        """Send a request; raises IopDead."""
        with self._lock:
            self._up().post(mfa)
            self._flush()

    def reap(self) -> int:
        """Pop a reply MFA, or EMPTY; raises IopDead when no reply is left and none can come."""
        with self._lock:
            half = self._half
            assert half is not None
            if not half.reply_pending:
                self._progress()
                if not half.reply_pending:
                    self._up()
            mfa = half.reap()
            self._ring()
            return mfa

    def release(self, mfa: int) -> None:
        """Give a reply frame to the IOP; raises IopDead."""
        with self._lock:
            self._up().release(mfa)

    # --- waiting ---------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Wait until the IOP has said something; raises IopDead when it cannot any more."""
        half = self._half
        assert half is not None
        if half.reply_pending:
            with self._lock:
                self._progress()  # the IOP may wait for an answer to what is not about replies
            return True
        before = half.news
        end_ns = self._clock.monotonic_ns() + round(max(0.0, timeout_s) * 1e9)
        while True:
            with self._lock:
                self._progress()
                if half.news != before or half.reply_pending:
                    self._ring()
                    return True
                self._up()
                self._ask_if_quiet()
            left_s = (end_ns - self._clock.monotonic_ns()) / 1e9
            if left_s <= 0:
                return False
            self._pause(min(left_s, _SLICE_S))

    def fileno(self) -> int:
        """Return a descriptor that is readable while replies may be waiting; -1 after `close`."""
        with self._lock:
            if self._is_closed:
                return -1
            if self._watch is None:
                self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._watch = select.epoll()
                self._watch.register(self._bell, select.EPOLLIN)
                if not self._is_masked:
                    self._watch.register(self._pump.fileno(), select.EPOLLIN)
                self._ring()
            return self._watch.fileno()

    def next_deadline_ns(self) -> int | None:
        """Return None: the IOP runs by itself."""
        return None

    def mask_interrupt(self, masked: bool) -> None:
        """Keep the IOP from making the descriptor readable, or end that."""
        with self._lock:
            if self._watch is not None and masked != self._is_masked:
                if masked:
                    self._watch.unregister(self._pump.fileno())
                else:
                    self._watch.register(self._pump.fileno(), select.EPOLLIN)
            self._is_masked = masked
            self._ring()

    def _ring(self) -> None:
        """Make the descriptor tell of replies that were taken in already, and of a lost link."""
        if self._bell is None:
            return
        half = self._half
        if self._lost or (half is not None and half.reply_pending and not self._is_masked):
            os.eventfd_write(self._bell, 1)
        else:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)

    def _pause(self, seconds: float) -> None:
        """Wait for packets, or let an injected clock pass."""
        if self._clock is SYSTEM_CLOCK:
            self._pump.wait(seconds)
        else:
            self._clock.sleep(seconds)

    # --- life cycle ------------------------------------------------------------------------------

    def reset(self) -> None:
        """Cycle the IOP's power; if it does not answer, the link is given up.

        Either way it writes no host memory afterwards.
        """
        with self._lock:
            if self._lost:
                return
            half = self._up()
            before = half.generation
            half.say(Kind.RESET)
            if not self._await(lambda: half.generation != before or bool(self._lost), RESET_S):
                self._lose(f"its server did not reset it within {RESET_S:g} s")

    def reconnect(self) -> None:
        """Reach the IOP again after its link broke: it is in RESET then.

        Raises:
            IopDead: no server answers, or the IOP has another host.
        """
        with self._lock:
            if not self._lost:
                return
            if self._is_closed:
                raise IopDead(f"{self.name} is closed: open it again")
            self._connect(is_first=False)

    def close(self) -> None:
        """Say goodbye and release everything; a second call does nothing."""
        with self._lock:
            if self._is_closed:
                return
            if not self._lost and self._half is not None:
                self._half.say(Kind.BYE)
                self._half.writer.follow()
                self._await(lambda: not self._waiting and not self._pump.in_flight, _GOODBYE_S)
            self._is_closed = True
            self._session = NO_SESSION
            self._lost = f"{self.name} is closed: open it again"
            if self._watch is not None and self._bell is not None:
                self._watch.close()
                os.close(self._bell)
                self._watch = self._bell = None
            self._pump.close()

    # --- the link --------------------------------------------------------------------------------

    def _up(self) -> HostHalf:
        """Return the session; raises IopDead if there is none."""
        half = self._half
        if self._lost or half is None:
            raise IopDead(f"{self.name}: {self._lost}")
        return half

    def _look(self) -> None:
        """Take in what came since the last look; ask if that is long ago."""
        idle_ns = self._clock.monotonic_ns() - self._looked_ns
        half = self._up()
        before = half.heard
        self._progress()
        if idle_ns > IDLE_S * 1e9 and half.heard == before and not self._lost:
            half.say(Kind.PING)
            if not self._await(lambda: half.heard != before or bool(self._lost), ANSWER_S):
                self._lose(f"its server has not answered for {ANSWER_S:g} s")

    def _progress(self) -> None:
        """Take in what came, and send what there is to send."""
        self._looked_ns = self._clock.monotonic_ns()
        while True:
            self._pump.run(self)
            if self._lost:
                return
            before = self._pump.sent
            self._flush()
            if self._pump.sent == before:
                return
            # run again, or the descriptor would tell of what was sent; and what comes in with that
            # may be the credit that more had to wait for

    def _flush(self) -> None:
        half = self._half
        assert half is not None
        try:
            half.settle()
            pump_packets(self._pump, half.writer.next_packet, self._server, self._waiting)
        except RemoteFrameError as error:
            self._lose(str(error))
        if half.is_ended:
            self._lose("its server has ended")

    def _lose(self, reason: str) -> None:
        """Note that the link is gone: nothing that comes with it any more is looked at."""
        if not self._lost:
            logger.warning("%s: the link is lost: %s", self.name, reason)
            self._lost = f"the link is lost: {reason}"
            self._session = NO_SESSION
            self._waiting.clear()
            if self._half is not None:
                self._half.reader.abandon()
            self._ring()

    def _ask_if_quiet(self) -> None:
        """See to it that a server that is gone without a word is noticed by who waits for it."""
        half, now_ns = self._half, self._clock.monotonic_ns()
        assert half is not None
        if half.heard != self._known:
            self._known = half.heard
            self._heard_ns, self._is_asked = now_ns, False
        elif self._is_asked:
            if now_ns - self._asked_ns > ANSWER_S * 1e9:
                self._lose(f"its server has not answered for {ANSWER_S:g} s")
                self._up()
        elif now_ns - self._heard_ns > QUIET_S * 1e9:
            self._is_asked, self._asked_ns = True, now_ns
            half.say(Kind.PING)
            self._flush()

    def _await(self, is_done: Callable[[], bool], limit_s: float) -> bool:
        """Make progress until a condition holds; return whether it came true in time."""
        end_ns = self._clock.monotonic_ns() + round(limit_s * 1e9)
        while True:
            self._progress()
            if is_done():
                return True
            left_s = (end_ns - self._clock.monotonic_ns()) / 1e9
            if left_s <= 0:
                return False
            self._pause(min(left_s, _SLICE_S))

    def _connect(self, *, is_first: bool) -> None:
        """Say HELLO until the server answers, or for too long.

        Raises:
            TransportUnavailable: it is not there; at first it is asked once.
            IopDead: it did not come back.
        """
        end_ns = self._clock.monotonic_ns() + round(self._connect_s * 1e9)
        pause_s = _FIRST_PAUSE_S
        while True:
            why = self._try_to_connect(end_ns)
            if not self._lost:
                return
            left_s = (end_ns - self._clock.monotonic_ns()) / 1e9
            if is_first:
                raise TransportUnavailable(
                    self._scheme, f"{self._server_name}: {why}", remedy=self._remedy
                )
            if left_s <= 0:
                raise IopDead(f"{self.name}: {why}")
            self._clock.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _try_to_connect(self, end_ns: int) -> str:
        """Say HELLO until there is an answer; return why there is no link then."""
        self._waiting.clear()
        while self._clock.monotonic_ns() < end_ns:
            self._answer, self._remedy = "", _START
            self._token = secrets.randbits(32)
            try:
                self._say_hello()
            except RemoteFrameError as error:
                self._say_no(str(error))
                return self._answer
            left_s = (end_ns - self._clock.monotonic_ns()) / 1e9
            self._await_answer(min(_HELLO_S, left_s))
            if not self._lost:
                return ""
            if self._answer:
                return self._answer
        return f"no server has answered within {self._connect_s:g} s"

    def _say_no(self, answer: str, remedy: str = "") -> None:
        """Note why there will be no link."""
        self._answer, self._remedy = answer.removeprefix(f"{self._server_name}: "), remedy

    def _await_answer(self, limit_s: float) -> None:
        end_ns = self._clock.monotonic_ns() + round(limit_s * 1e9)
        while self._lost and not self._answer:
            self._pump.run(self)
            left_s = (end_ns - self._clock.monotonic_ns()) / 1e9
            if left_s <= 0 or not self._lost or self._answer:
                return
            self._pause(min(left_s, _SLICE_S))

    def _say_hello(self) -> None:
        name = self._pump.name.encode()[:MAX_NAME]
        hello = HELLO.build(
            magic=MAGIC,
            version=VERSION,
            window=WINDOW,
            packet_size=self._pump.packet_size,
            token=self._token,
            name_length=len(name),
        )
        packet = lone_packet(NO_SESSION, bytes((Kind.HELLO,)) + hello + name)
        if len(packet) > self._pump.packet_size:
            raise RemoteFrameError(
                f"a greeting of {len(packet)} bytes does not fit messages of "
                f"{self._pump.packet_size}"
            )
        pump_packets(self._pump, iter((Packet([packet], []), None)).__next__, self._server, [])

    # --- what a pump brings ----------------------------------------------------------------------

    def packet_arrived(self, source: int, packet: memoryview) -> None:
        """Take a packet of the session, or the answer to a HELLO."""
        try:
            head = read_head(packet)
            body = packet[HEAD_SIZE:]
            if head.session == NO_SESSION:
                self._take_lone(body)
            elif head.session == self._session and self._half is not None:
                self._half.take(head, body)
            elif self._lost and body and body[0] == Kind.WELCOME:
                self._begin(head.session, body)
                if self._half is not None and not self._lost:
                    self._half.take(head, body)
        except RemoteFrameError as error:
            if self._lost:
                self._say_no(str(error))
            self._lose(str(error))

    def packet_begins(self, source: int, length: int, front: memoryview) -> Placement | None:
        """Take the front of a packet of the session whose data go straight to host memory."""
        half = self._half
        if half is None or self._lost or len(front) < HEAD_SIZE:
            return None
        head = read_head(front)
        if head.session != self._session:
            return None

        def ended(reason: str) -> None:
            if reason and half is self._half:
                self._lose(reason)

        try:
            return half.begin(head, front[HEAD_SIZE:], length - HEAD_SIZE, ended)
        except RemoteFrameError as error:
            self._lose(str(error))
            return None

    def _take_lone(self, body: memoryview) -> None:
        if not body:
            return
        if body[0] == Kind.REFUSED:
            refused = REFUSED.unpack_from(body, 1)
            start = 1 + REFUSED.size
            if refused.token == self._token and self._lost:
                text = bytes(body[start : start + refused.reason_length])
                self._say_no(text.decode(errors="replace") or "the server said no")
        elif (
            body[0] == Kind.UNKNOWN
            and not self._lost
            and UNKNOWN.unpack_from(body, 1).session == self._session
        ):
            self._lose("its server knows this host no more")

    def _begin(self, session: int, body: memoryview) -> None:
        """Begin a session, if this WELCOME is the answer to the latest HELLO."""
        welcome = WELCOME.unpack_from(body, 1)
        if welcome.token != self._token:
            return
        if welcome.version != VERSION:
            self._say_no(f"the server speaks version {welcome.version}, not {VERSION}")
            return
        terms = Terms(welcome)
        space = self._space
        if terms.has_arena:
            if space is None:
                space = ArenaSpace(zeroed(terms.size), base=terms.base)
            elif not isinstance(space, ArenaSpace) or not space.is_at(terms.base, terms.size):
                self._say_no("another IOP is there now: open it again")
                return
        elif space is None:
            space = BusSpace()
        elif not isinstance(space, BusSpace):
            self._say_no("another IOP is there now: open it again")
            return
        self._space = space
        writer = StreamWriter(
            session,
            terms.credits,
            min(self._pump.packet_size, terms.packet_size),
            self._pump.buffer_limit,
        )
        half = HostHalf(terms, writer, space, self._on_misuse)
        half.rules = self._rules
        self._half, self._session, self._lost = half, session, ""
        self._heard_ns, self._known, self._is_asked = self._clock.monotonic_ns(), 0, False
        self.inbound_size = terms.frame_size
        self.sessions += 1

    def send_failed(self, dest: int, code: int, reason: str) -> None:
        """Give the link up: what was sent is lost."""
        text = reason or os.strerror(code)
        if self._lost:
            is_answer = code == errno.EACCES and "key" not in text  # a key would not help
            self._say_no(text, "" if is_answer else _REMEDIES.get(code, ""))
        else:
            self._lose(text)

    def receive_failed(self, source: int, code: int, reason: str) -> None:
        """Give the link up: what came is lost."""
        self._lose(reason or os.strerror(code))

    def _on_misuse(self, sentence: str) -> None:
        logger.warning("%s: %s", self.name, sentence)
