# SPDX-License-Identifier: Apache-2.0
"""An endpoint that does nothing but note what it is asked, and says what a test tells it to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.endpoint import (
    ConnectionRequest,
    EndpointAttributes,
    Event,
    EventKind,
)
from i2o.transport.fabric.errors import ErrorAvailable, FabricError, TryAgain
from i2o.transport.fabric.flags import Capability, CqFormat, EndpointType

ATTRIBUTES = EndpointAttributes(
    EndpointType.RDM, Capability(0), 64, 1 << 20, 4, 0, 0, 8, 0, "scripted"
)


class ScriptedQueue:
    """Gives the entries that a test put into `entries`."""

    def __init__(self, format: CqFormat = CqFormat.TAGGED) -> None:
        self.format = format
        self.entries: list[Completion | CompletionError] = []
        self.signals = 0
        self.is_closed = False
        self.depth = 7  # an attribute that no contract knows

    def read(self, count: int = 1) -> list[Completion]:
        if not count:
            return []
        if not self.entries:
            raise TryAgain("there is nothing")
        found: list[Completion] = []
        while self.entries and len(found) < count:
            entry = self.entries[0]
            if isinstance(entry, CompletionError):
                if not found:
                    raise ErrorAvailable
                break
            found.append(entry)
            del self.entries[0]
        return found

    def readerr(self) -> CompletionError:
        entry = self.entries[0] if self.entries else None
        if not isinstance(entry, CompletionError):
            raise TryAgain("there is no error")
        del self.entries[0]
        return entry

    def sread(self, count: int = 1, timeout_s: float | None = None) -> list[Completion]:
        return self.read(count)

    def signal(self) -> None:
        self.signals += 1

    def fileno(self) -> int:
        return 17

    def close(self) -> None:
        self.is_closed = True


class ScriptedEvents:
    """Gives the events that a test put into `waiting`."""

    def __init__(self) -> None:
        self.waiting: list[Event] = []
        self.count = 3

    def read(self) -> Event:
        if not self.waiting:
            raise TryAgain("there is none")
        return self.waiting.pop(0)

    def sread(self, timeout_s: float | None = None) -> Event:
        return self.read()


class ScriptedEndpoint:
    """Notes every call in `calls` as (name, arguments, keywords).

    Attributes:
        refusal: raised by the next transfer, if set.
        cancellable: contexts that `cancel` finds.
        names: what is behind each fi_addr.
    """

    def __init__(self, attributes: EndpointAttributes = ATTRIBUTES) -> None:
        self.attributes = attributes
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.refusal: Exception | None = None
        self.cancellable: list[object] = []
        self.names: dict[int, str] = {}
        self.events = ScriptedEvents()
        self.groups: list[str] = []

    @property
    def name(self) -> str:
        return "scripted://here"

    @property
    def last(self) -> tuple[Any, ...]:
        return self.calls[-1][1]

    @property
    def context(self) -> Any:
        """The context of the last transfer."""
        _, arguments, keywords = self.calls[-1]
        return keywords["context"] if "context" in keywords else arguments[0].context

    def open_cq(self, size: int = 0, format: CqFormat = CqFormat.TAGGED) -> ScriptedQueue:
        self._note("open_cq", size, format)
        return ScriptedQueue(format)

    def insert(self, address: str) -> int:
        self._note("insert", address)
        number = len(self.names)
        self.names[number] = address
        return number

    def remove(self, address: int) -> None:
        self._note("remove", address)
        del self.names[address]

    def address_of(self, address: int) -> str:
        self._note("address_of", address)
        if address not in self.names:
            raise FabricError(22, "no such address")
        return self.names[address]

    def cancel(self, context: object) -> bool:
        self._note("cancel", context)
        return any(one is context for one in self.cancellable)

    def join(self, group: str) -> int:
        self.groups.append(group)
        return 9

    def leave(self, address: int) -> None:
        self.groups.clear()

    def __getattr__(self, name: str) -> Any:
        if name not in _TRANSFERS and name not in _OTHERS:
            raise AttributeError(name)

        def call(*arguments: Any, **keywords: Any) -> None:
            if self.refusal is not None and name in _TRANSFERS:
                refusal, self.refusal = self.refusal, None
                raise refusal
            self._note(name, *arguments, **keywords)

        return call

    def _note(self, name: str, *arguments: Any, **keywords: Any) -> None:
        self.calls.append((name, arguments, keywords))


class ScriptedRequest:
    """A connection request that gives one endpoint."""

    def __init__(self) -> None:
        self.made = ScriptedEndpoint()
        self.rejected: list[bytes] = []

    def endpoint(self) -> ScriptedEndpoint:
        return self.made

    def reject(self, parameter: bytes = b"") -> None:
        self.rejected.append(parameter)


class ScriptedListener:
    """A passive endpoint."""

    name = "scripted://listens"

    def __init__(self) -> None:
        self.events = ScriptedEvents()
        self.listens = self.is_closed = False
        self.backlog = 5

    def listen(self) -> None:
        self.listens = True

    def close(self) -> None:
        self.is_closed = True

    def asked(self, parameter: bytes = b"") -> ConnectionRequest:
        """Let somebody ask for a connection."""
        request = ScriptedRequest()
        self.events.waiting.append(
            Event(EventKind.CONNREQ, self, parameter, request)  # type: ignore[arg-type]
        )
        return request  # type: ignore[return-value]


_SENDS: Sequence[str] = (
    "send", "sendv", "sendmsg", "inject", "senddata", "injectdata",
    "tsend", "tsendv", "tsendmsg", "tinject", "tsenddata", "tinjectdata",
)  # fmt: skip
_TRANSFERS = (*_SENDS, "recv", "recvv", "recvmsg", "trecv", "trecvv", "trecvmsg")
_OTHERS = (
    "bind", "enable", "close", "set_min_multi_recv", "progress", "connect", "accept", "shutdown",
)  # fmt: skip


def open_endpoint(uri: object, *, clock: object) -> ScriptedEndpoint:
    """Open one, as the registry asks a module to."""
    return ScriptedEndpoint()


def open_passive(uri: object, *, clock: object) -> ScriptedListener:
    """Open one that listens."""
    return ScriptedListener()
