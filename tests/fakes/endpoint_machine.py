# SPDX-License-Identifier: Apache-2.0
"""Random work on endpoints with random faults, and a model that knows what may end how.

Every operation is an object, and the context of what is posted. Every message carries the number of
its send, and its content follows from that. So of each entry one can tell what it is about, whether
it may be, and whether it was there before.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import random
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Protocol

from i2o.clock import SYSTEM_CLOCK
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.endpoint import CompletionQueue, Endpoint, Message
from i2o.transport.fabric.errors import ErrorAvailable, FabricErrno, TryAgain
from i2o.transport.fabric.flags import ADDR_UNSPEC, Bind, Flag

ALL_TAGS: Final = (1 << 64) - 1
_TAGS: Final = 4
_NUMBER: Final = 8
"""Bytes in front of a message that has no number in its completion."""
_LONGEST: Final = 20_000
_OPEN: Final = 12
"""Receives of a kind that one end has posted at most."""
_MULTI_SIZE, _MULTI_MIN = 4096, 600
_KEPT: Final = 64
"""Sends that ended before they arrived, and are on their way: no more than there are credits."""
_LOG: Final = 30
_PATIENCE_S: Final = 30.0


class Medium(Protocol):
    """What endpoints are made on, and what can happen to it."""

    def open(self, name: str) -> Endpoint:
        """Make an endpoint that has this name, as long as no other one has it."""

    def address(self, name: str) -> str:
        """Return what to insert for the end with this name."""

    def faults(self) -> dict[str, Callable[[random.Random], None]]:
        """Return what can happen, by name."""

    def kill(self, name: str) -> None:
        """Let an end vanish as its process would."""

    def heal(self) -> None:
        """End every fault."""

    def rest(self) -> None:
        """Give time to what runs by itself."""

    def close(self) -> None:
        """Release everything."""


class Operation:
    """What was posted.

    Attributes:
        number: of the operation; of a send also that of its message.
        kind: send, inject, recv, trecv, multi, peek, claim.
        life: whose.
        expects: how it ends: an entry, or silently unless it fails.
        is_over: its last entry has come.
    """

    def __init__(self, number: int, kind: str, life: Life, *, is_silent: bool = False) -> None:
        self.number, self.kind, self.life, self.is_silent = number, kind, life, is_silent
        self.is_over = False
        self.buffer = bytearray()
        self.tag: int | None = None
        self.ignore = 0
        self.source: str | None = None
        self.flags = Flag(0)

    def __repr__(self) -> str:
        return f"{self.kind} {self.number} of {self.life.name}"


class Sent:
    """A message, as the model knows it.

    Attributes:
        target: the name that it was sent to.
        target_life: which of the ends with that name there was.
        order: of the messages of its sender to that name with its tag.
        must_arrive: the sender was told that it has arrived.
        was_taken: a receive, a discard or a truncation took it.
        may_be_discarded: it, or one that is like it, was discarded without telling a number.
    """

    __slots__ = ("data", "length", "may_be_discarded", "must_arrive", "number", "order", "sender",
                 "tag", "target", "target_life", "was_taken")  # fmt: skip

    def __init__(
        self, number: int, sender: Life, target: str, target_life: int, tag: int | None, length: int
    ) -> None:
        self.number, self.sender, self.target, self.target_life = (
            number,
            sender,
            target,
            target_life,
        )
        self.tag, self.length = tag, length
        self.data: int | None = None
        self.order = 0
        self.must_arrive = self.was_taken = self.may_be_discarded = False

    def content(self) -> bytes:
        """Return its bytes."""
        head = self.number.to_bytes(_NUMBER, "little")[: self.length]
        return head + random.Random(self.number).randbytes(self.length - len(head))


class Life:
    """One end, from its opening to its close.

    Attributes:
        name: its name, which those before and after it have, too.
        number: which of the ends of this name it is.
        open: operations that have not ended, by number.
        silent_errors: entries of failed injects, which have no context.
        last_order: of each sender and tag: posting order and message order of what came last.
    """

    def __init__(self, machine: Machine, name: str, number: int) -> None:
        self.machine, self.name, self.number = machine, name, number
        self.endpoint: Endpoint = machine.medium.open(name)
        self.endpoint.set_min_multi_recv(_MULTI_MIN)
        self.cq: CompletionQueue = self.endpoint.open_cq()
        self.is_selective = machine.chance.random() < 0.3
        selective = Bind.SELECTIVE_COMPLETION if self.is_selective else Bind(0)
        self.endpoint.bind(self.cq, Bind.RECV)
        self.endpoint.bind(self.cq, Bind.TRANSMIT | selective)
        self.endpoint.enable()
        self.addresses: dict[str, int] = {}
        self.known: dict[int, str] = {}  # also those that were removed
        self.open: dict[int, Operation] = {}
        self.claims: list[tuple[Operation, Sent | None]] = []
        self.silent_errors = 0
        self.injects = 0
        self.posted = 0
        self.places: dict[int, int] = {}
        self.taken: dict[tuple[Life, int | None], list[tuple[int, int, int]]] = {}

    def address(self, name: str) -> int:
        """Return the fi_addr of a name."""
        if name not in self.addresses:
            address = self.endpoint.insert(self.machine.medium.address(name))
            self.addresses[name] = address
            self.known[address] = name
        return self.addresses[name]

    def count(self, *kinds: str) -> int:
        """Return how many operations of some kinds are open."""
        return sum(operation.kind in kinds for operation in self.open.values())


class Machine:
    """Ends on a medium, what they do, and what may come of it.

    Args:
        seed: decides everything.
        medium: what the ends are on.
        ends: how many.

    Attributes:
        happened: how often each step was made.
        log: the last steps.
        ended: how operations ended: kind and error code.
    """

    def __init__(self, seed: int, medium: Medium, ends: int = 4) -> None:
        self.chance = random.Random(seed)
        self.medium = medium
        self.names = [f"end-{number}" for number in range(ends)]
        self.numbers = Counter[str]()
        self.sent: dict[int, Sent] = {}
        self.orders = Counter[tuple[Life, str, int | None]]()
        self.next_number = 1
        self.happened = Counter[str]()
        self.ended = Counter[str]()
        self.log: deque[str] = deque(maxlen=_LOG)
        self.alive: weakref.WeakSet[Operation] = weakref.WeakSet()
        self.lives = {name: self._begin(name) for name in self.names}
        faults = medium.faults()
        self.steps: list[tuple[str, Callable[[], object]]] = [
            *[("send", self.send)] * 26,
            *[("inject", self.inject)] * 5,
            *[("receive", self.receive)] * 30,
            *[("peek", self.peek)] * 4,
            *[("claim", self.claim)] * 3,
            *[("cancel", self.cancel)] * 2,
            *[("pump", self.pump)] * 40,
            *[("forget", self.forget)],
        ]
        self._rare: list[tuple[str, Callable[[], object]]] = [
            *((name, self._fault(fault)) for name, fault in faults.items()),
            ("heal", medium.heal),
            ("heal", medium.heal),
            ("close", self.close),
            ("kill", self.kill),
        ]

    def _fault(self, fault: Callable[[random.Random], None]) -> Callable[[], None]:
        return lambda: fault(self.chance)

    def _begin(self, name: str) -> Life:
        self.numbers[name] += 1
        return Life(self, name, self.numbers[name])

    # --- steps -----------------------------------------------------------------------------------

    def step(self) -> None:
        """Do something."""
        steps = self._rare if self.chance.random() < 0.03 else self.steps
        name, step = self.chance.choice(steps)
        self.happened[name] += 1
        self.log.append(name)
        step()

    def _operation(self, kind: str, life: Life, *, is_silent: bool = False) -> Operation:
        made = Operation(self.next_number, kind, life, is_silent=is_silent)
        self.next_number += 1
        self.alive.add(made)
        return made

    def _post(self, operation: Operation, call: Callable[[], None]) -> bool:
        """Post an operation; return whether it was."""
        life = operation.life
        life.open[operation.number] = operation
        life.places[operation.number] = life.posted
        life.posted += 1
        try:
            call()
        except TryAgain:
            del life.open[operation.number]
            self.ended["again"] += 1
            return False
        return True

    def _length(self) -> int:
        return self.chance.choice((_NUMBER, 40, 200, 512, 3000, _LONGEST))

    def send(self) -> None:
        """Send a message, in any way that there is."""
        life, chance = self._some_life(), self.chance
        name = chance.choice(self.names)
        tag = chance.randrange(_TAGS) if chance.random() < 0.5 else None
        flags = chance.choice((
            Flag(0), Flag(0), Flag.INJECT_COMPLETE, Flag.TRANSMIT_COMPLETE, Flag.DELIVERY_COMPLETE,
            Flag.MATCH_COMPLETE if tag is not None else Flag.MORE, Flag.FENCE, Flag.INJECT,
        ))  # fmt: skip
        asks = chance.random() < 0.5
        if asks:
            flags |= Flag.COMPLETION
        length = self._length() if Flag.INJECT not in flags else chance.choice((_NUMBER, 60))
        is_silent = life.is_selective and not asks
        operation = self._operation("send", life, is_silent=is_silent)
        operation.flags = flags
        sent = self._message(operation, name, tag, length)
        if chance.random() < 0.7:
            flags |= Flag.REMOTE_CQ_DATA
            sent.data = operation.number
            if chance.random() < 0.1:
                sent.length = 0
        content = sent.content()
        cut = chance.randrange(len(content) + 1)
        operation.buffer = bytearray(content)
        view = memoryview(operation.buffer)
        parts = [view] if chance.random() < 0.6 else [view[:cut], view[cut:]]
        message = Message(parts, life.address(name), operation, data=operation.number, tag=tag or 0)
        post = life.endpoint.sendmsg if tag is None else life.endpoint.tsendmsg
        if not self._post(operation, lambda: post(message, flags)):
            self._unsend(sent)
        elif Flag.INJECT in flags:
            operation.buffer[:] = bytes(len(operation.buffer))  # it is ours again

    def inject(self) -> None:
        """Inject a message: only its failure is told, and that without a context."""
        life, chance = self._some_life(), self.chance
        name = chance.choice(self.names)
        tag = chance.randrange(_TAGS) if chance.random() < 0.5 else None
        operation = self._operation("inject", life, is_silent=True)
        sent = self._message(operation, name, tag, chance.choice((_NUMBER, 60)))
        content, to = bytearray(sent.content()), life.address(name)
        if tag is None:
            posted = self._post(operation, lambda: life.endpoint.inject(content, to))
        else:
            posted = self._post(operation, lambda: life.endpoint.tinject(content, tag, to))
        content[:] = bytes(len(content))
        if posted:
            life.injects += 1
            del life.open[operation.number]  # nothing leads back to it
        else:
            self._unsend(sent)

    def _message(self, operation: Operation, name: str, tag: int | None, length: int) -> Sent:
        sent = Sent(operation.number, operation.life, name, self.numbers[name], tag, length)
        stream = (operation.life, name, tag)
        self.orders[stream] += 1
        sent.order = self.orders[stream]
        self.sent[sent.number] = sent
        return sent

    def _unsend(self, sent: Sent) -> None:
        del self.sent[sent.number]

    def receive(self) -> None:
        """Post a receive of some kind."""
        life, chance = self._some_life(), self.chance
        kind = chance.choice(("recv", "recv", "trecv", "trecv", "trecv", "multi"))
        if life.count(kind) >= (_OPEN if kind != "multi" else 1):
            return
        operation = self._operation(kind, life)
        size = chance.choice((_LONGEST, _LONGEST, _LONGEST, 100))
        operation.buffer = bytearray(_MULTI_SIZE if kind == "multi" else size)
        source = ADDR_UNSPEC
        if kind != "multi" and chance.random() < 0.25:
            operation.source = chance.choice(self.names)
            source = life.address(operation.source)
        if kind == "trecv":
            operation.tag, operation.ignore = chance.randrange(_TAGS), chance.choice((0, 0, 1, 3))
        buffer = operation.buffer
        cut = chance.randrange(len(buffer))
        view = memoryview(buffer)
        parts = [view] if kind == "multi" or chance.random() < 0.7 else [view[:cut], view[cut:]]
        message = Message(parts, source, operation, tag=operation.tag or 0, ignore=operation.ignore)
        if kind == "trecv":
            self._post(operation, lambda: life.endpoint.trecvmsg(message))
        else:
            flags = Flag.MULTI_RECV if kind == "multi" else Flag(0)
            self._post(operation, lambda: life.endpoint.recvmsg(message, flags))

    def peek(self) -> None:
        """Look for a message, and perhaps reserve or discard it."""
        life = self._some_life()
        operation = self._operation("peek", life)
        operation.tag, operation.ignore = self.chance.randrange(_TAGS), self.chance.choice((0, 3))
        operation.flags = self.chance.choice((Flag(0), Flag.CLAIM, Flag.DISCARD))
        message = Message((), ADDR_UNSPEC, operation, tag=operation.tag, ignore=operation.ignore)
        flags = Flag.PEEK | operation.flags
        self._post(operation, lambda: life.endpoint.trecvmsg(message, flags))

    def claim(self) -> None:
        """Receive or discard a message that was reserved."""
        life = self._some_life()
        if life.claims:
            self._claim(life)

    def _claim(self, life: Life) -> None:
        reserved, sent = life.claims.pop()
        # the context is the one of the peek, which is over: the same operation is posted again
        reserved.kind, reserved.is_over = "claim", False
        reserved.flags = self.chance.choice((Flag(0), Flag.DISCARD))
        reserved.buffer = bytearray(_LONGEST)
        message = Message([reserved.buffer], ADDR_UNSPEC, reserved, tag=reserved.tag or 0)
        flags = Flag.CLAIM | reserved.flags
        if not self._post(reserved, lambda: life.endpoint.trecvmsg(message, flags)):
            reserved.kind = "peek"
            life.claims.append((reserved, sent))

    def cancel(self) -> None:
        """Cancel a receive; one that is matched already ends as it would have."""
        life = self._some_life()
        posted = [one for one in life.open.values() if one.kind in ("recv", "trecv", "multi")]
        if posted:
            life.endpoint.cancel(self.chance.choice(posted))

    def pump(self) -> None:
        """Let one end do what it can, and read some entries."""
        life = self._some_life()
        if self.chance.random() < 0.3:
            life.endpoint.progress()
        self.read(life, self.chance.choice((0, 1, 3, 50)))

    def forget(self) -> None:
        """Remove an fi_addr: what is outstanding to it ends. It is inserted again when needed."""
        life = self._some_life()
        if life.addresses:
            name = self.chance.choice(sorted(life.addresses))
            life.endpoint.remove(life.addresses.pop(name))

    def close(self) -> None:
        """Close an end in order, and open another one with its name."""
        self._end(self._some_life(), is_killed=False)

    def kill(self) -> None:
        """Let an end vanish, and open another one with its name."""
        self._end(self._some_life(), is_killed=True)

    def _end(self, life: Life, *, is_killed: bool) -> None:
        if is_killed:
            self.medium.kill(life.name)
        life.endpoint.close()
        self._finish(life)
        self.lives[life.name] = self._begin(life.name)

    def _some_life(self) -> Life:
        return self.lives[self.chance.choice(self.names)]

    # --- what comes of it ------------------------------------------------------------------------

    def read(self, life: Life, count: int) -> bool:
        """Read entries; return whether there were any."""
        try:
            entries: list[Completion | CompletionError] = [*life.cq.read(count)]
        except ErrorAvailable:
            entries = [life.cq.readerr()]
        except TryAgain:
            return False
        for entry in entries:
            self._ended(life, entry)
        return bool(entries)

    def _ended(self, life: Life, entry: Completion | CompletionError) -> None:
        code = entry.err if isinstance(entry, CompletionError) else 0
        operation = entry.context
        if operation is None:
            assert code, f"a success without a context: {entry}"
            assert entry.flags & Flag.SEND, entry
            life.silent_errors += 1
            assert life.silent_errors <= life.injects, "more injects failed than there were"
            return
        assert isinstance(operation, Operation), entry
        assert operation.life is life, f"{operation} ended at {life.name} {life.number}"
        assert not operation.is_over, f"{operation} ended twice: {entry}"
        assert operation.number in life.open, f"{operation} ended, and was not posted: {entry}"
        self.ended[f"{operation.kind} {_code_name(code)}"] += 1
        if operation.kind == "send":
            self._sent(operation, entry, code)
        elif operation.kind == "peek":
            self._peeked(life, operation, entry, code)
        else:
            self._received(life, operation, entry, code)
            if operation.kind == "multi" and not entry.flags & Flag.MULTI_RECV:
                return
        operation.is_over = True
        operation.buffer = bytearray()
        del life.open[operation.number]

    def _sent(self, operation: Operation, entry: object, code: int) -> None:
        assert isinstance(entry, Completion | CompletionError)
        assert entry.flags & Flag.SEND, entry
        assert code or not operation.is_silent, f"{operation} was to succeed silently"
        sent = self.sent[operation.number]
        sent.must_arrive = not code and Flag.INJECT_COMPLETE not in operation.flags
        if operation.flags & Flag.MATCH_COMPLETE and not code:
            life = self.lives[sent.target]
            may_be = sent.may_be_discarded or life.number != sent.target_life or bool(life.open)
            assert sent.was_taken or may_be, f"{operation}: nobody took it"

    def _peeked(self, life: Life, operation: Operation, entry: object, code: int) -> None:
        if code:
            assert code in (errno.ENOMSG, errno.ECANCELED), entry
            return
        assert isinstance(entry, Completion)
        sent = self._which(operation, entry, b"")
        assert not (entry.tag ^ (operation.tag or 0)) & ~operation.ignore, entry
        if sent is not None:
            assert not sent.was_taken, f"{operation} found a message that was received before"
            assert entry.length == sent.length, entry
        if operation.flags & Flag.DISCARD:
            if sent is not None:
                self._take(life, operation, sent)
            else:
                life.machine.ended["discarded without a number"] += 1
                self._note_discard(life, entry)
        elif operation.flags & Flag.CLAIM:
            life.claims.append((operation, sent))

    def _note_discard(self, life: Life, entry: Completion) -> None:
        """A message without a number was discarded: one of those with its tag and length."""
        for sent in self.sent.values():
            if (
                sent.data is None and sent.tag == entry.tag and sent.length == entry.length
                and sent.target == life.name and not sent.was_taken
            ):  # fmt: skip
                sent.may_be_discarded = True  # which of them it was cannot be told

    def _received(
        self, life: Life, operation: Operation, entry: Completion | CompletionError, code: int
    ) -> None:
        assert entry.flags & Flag.RECV or entry.flags & Flag.MULTI_RECV, entry
        if code and code != FabricErrno.ETRUNC:
            return
        if operation.kind == "multi":
            if entry.buffer is None:
                assert entry.flags & Flag.MULTI_RECV, entry  # a release of its own
                return
            got = bytes(entry.buffer[: entry.length])
        else:
            is_discard = Flag.DISCARD in operation.flags
            got = b"" if is_discard else bytes(operation.buffer[: entry.length])
        sent = self._which(operation, entry, got)
        if sent is None:
            assert operation.flags & Flag.DISCARD, f"{operation} received what nobody sent: {entry}"
            self._note_discard(life, Completion(None, entry.flags, entry.length, tag=entry.tag))
            return
        olen = entry.olen if isinstance(entry, CompletionError) else 0
        if not operation.flags & Flag.DISCARD:
            assert entry.length + olen == sent.length, (entry, sent.length)
            assert got == sent.content()[: entry.length], f"{operation}: the content is wrong"
        assert (sent.tag is None) == (operation.kind in ("recv", "multi")), (operation, sent.tag)
        if sent.tag is not None:
            assert entry.tag == sent.tag
            assert operation.kind == "claim" or not (
                (sent.tag ^ (operation.tag or 0)) & ~operation.ignore
            ), f"{operation} took another tag"
        if operation.source is not None:
            assert sent.sender.name == operation.source, f"{operation} took another source's"
        if entry.source != ADDR_UNSPEC:
            assert life.known[entry.source] == sent.sender.name, entry
        place = _address(entry.buffer) if operation.kind == "multi" and entry.buffer else 0
        if place or operation.kind != "multi":  # where an empty message is cannot be told
            self._take(life, operation, sent, place)
        else:
            self._take(life, operation, sent, None)

    def _which(
        self, operation: Operation, entry: Completion | CompletionError, got: bytes
    ) -> Sent | None:
        """Find the message that an entry is about, by its number."""
        if entry.flags & Flag.REMOTE_CQ_DATA:
            number = entry.data
            assert self.sent[number].data == number, f"{operation}: a number that was not sent"
        elif len(got) >= _NUMBER:
            number = int.from_bytes(got[:_NUMBER], "little")
            assert number in self.sent, f"{operation} received what nobody sent"
            assert self.sent[number].data is None, f"{operation}: the number was not told"
        else:
            return None
        return self.sent[number]

    def _take(self, life: Life, operation: Operation, sent: Sent, place: int | None = None) -> None:
        """Note that a message was received, and check that it may be."""
        assert not sent.was_taken, f"{operation} received message {sent.number} once more"
        assert sent.target == life.name, f"{operation} received what {sent.target} was to get"
        sent.was_taken = True
        if place is not None and operation.kind in ("recv", "trecv", "multi"):
            stream = life.taken.setdefault((sent.sender, sent.tag), [])
            stream.append((life.places[operation.number], place, sent.order))

    # --- books -----------------------------------------------------------------------------------

    def _finish(self, life: Life) -> None:
        """Check what an end has left when it is closed."""
        while self.read(life, 50):
            pass
        left = [one for one in life.open.values() if not one.is_silent]
        assert not left, f"{left} never ended"
        life.open.clear()
        life.claims.clear()
        life.cq.close()
        del life.endpoint, life.cq
        self._check_order(life)

    def _check_order(self, life: Life) -> None:
        """Messages of one sender and tag were matched in order: as the receives were posted."""
        for (sender, tag), taken in life.taken.items():
            orders = [order for _, _, order in sorted(taken)]
            assert orders == sorted(orders), f"{life.name} got {sender.name}'s {tag} as {orders}"
        life.taken.clear()
        life.places = {number: life.places[number] for number in life.open}

    def check(self) -> None:
        """Check that next to nothing is kept of what has ended."""
        gc.collect()
        for life in self.lives.values():
            open_now = {*life.open.values(), *(operation for operation, _ in life.claims)}
            kept = [one for one in self.alive if one.life is life and one not in open_now]
            assert len(kept) <= _KEPT, f"{len(kept)} are kept: {kept[:5]}"

    def settle(self) -> None:
        """End all faults, and receive everything that is still to come."""
        self.medium.heal()
        quiet = 0
        end = SYSTEM_CLOCK.monotonic() + _PATIENCE_S
        while quiet < 6:
            moved = False
            for life in self.lives.values():
                while life.claims:
                    self._claim(life)
                moved |= self._receive_more(life)
                life.endpoint.progress()
                while self.read(life, 50):
                    moved = True
            self.medium.rest()
            waiting = any(life.count("send", "claim", "peek") for life in self.lives.values())
            waiting = waiting and any(
                one.kind != "send" or not one.is_silent
                for life in self.lives.values()
                for one in life.open.values()
                if one.kind in ("send", "claim", "peek")
            )
            quiet = 0 if moved or waiting else quiet + 1
            assert SYSTEM_CLOCK.monotonic() < end, f"it does not settle: {self._open_now()}"

    def _open_now(self) -> list[Operation]:
        """Return what is waited for; receives may wait for ever."""
        everything = [one for life in self.lives.values() for one in life.open.values()]
        return [one for one in everything if one.kind in ("send", "claim", "peek")][:10]

    def _receive_more(self, life: Life) -> bool:
        """Post receives for anything, a few at a time; return whether any was."""
        posted = False
        for kind in ("recv", "trecv"):
            while life.count(kind) < _OPEN:
                operation = self._operation(kind, life)
                operation.buffer = bytearray(_LONGEST)
                operation.tag, operation.ignore = 0, ALL_TAGS
                message = Message([operation.buffer], ADDR_UNSPEC, operation, ignore=ALL_TAGS)
                one = life.endpoint
                post = one.recvmsg if kind == "recv" else one.trecvmsg
                if not self._post(operation, lambda p=post, m=message: p(m)):  # type: ignore[misc]
                    break
                posted = True
        return posted

    def _everybody_to_everybody(self) -> None:
        """Check that after all that each can send to each.

        A link that was half closed fails one message more, and a second attempt makes a new one.
        """
        missing = [(life, name) for life in self.lives.values() for name in self.names]
        for _ in range(3):
            posted = [(pair, self._greeting(*pair)) for pair in missing]
            self.settle()
            missing = [pair for pair, sent in posted if not sent.was_taken]
        assert not missing, [f"{life.name} does not reach {name}" for life, name in missing]

    def _greeting(self, life: Life, name: str) -> Sent:
        """Send a message that is told when it has arrived."""
        operation = self._operation("send", life)
        operation.flags = flags = Flag.COMPLETION | Flag.TRANSMIT_COMPLETE
        sent = self._message(operation, name, None, _NUMBER)
        message = Message([sent.content()], life.address(name), operation)
        while not self._post(operation, lambda: life.endpoint.sendmsg(message, flags)):
            self.settle()
        return sent

    def finish(self) -> None:
        """Settle, close everything, and check that nothing was lost."""
        self.settle()
        self._everybody_to_everybody()
        for sent in self.sent.values():
            receiver = self.lives[sent.target]
            if sent.was_taken or sent.may_be_discarded or receiver.number != sent.target_life:
                continue
            assert not sent.must_arrive, (
                f"message {sent.number} of {sent.sender.name} to {sent.target} had arrived, "
                "and was never received"
            )
        for life in self.lives.values():
            life.endpoint.close()
            self._finish(life)
        self.lives.clear()
        gc.collect()
        assert not self.alive, f"somebody keeps {list(self.alive)[:5]}"


def _address(view: memoryview) -> int:
    """Return where a view begins in memory."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _code_name(code: int) -> str:
    if not code:
        return "ok"
    try:
        return FabricErrno(code).name
    except ValueError:
        return errno.errorcode.get(code, str(code))
