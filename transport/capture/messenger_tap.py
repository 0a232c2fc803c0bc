# SPDX-License-Identifier: Apache-2.0
"""Stands in front of a messenger of TCP peers and tells a recorder of its messages.

A message that is sent is recorded when it was accepted, its end before its sender is told; one that
is received when it is handed over; a link that is in another state when that is found out.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from i2o.closing import Closing
from i2o.transport.capture.completion_tap import gathered
from i2o.transport.capture.endpoint_recorder import EndpointRecorder
from i2o.transport.capture.message_record import EventCode
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.tcp.errors import PeerError
from i2o.transport.tcp.mailbox import Message, Receive
from i2o.transport.tcp.message_wire import ANY_TAG
from i2o.transport.tcp.peer import PeerState
from i2o.transport.tcp.peer_name import ANYBODY, PeerName

logger = logging.getLogger(__name__)

Done = Callable[[PeerError | None], None]
Watcher = Callable[[PeerName, PeerState, int, str], None]


class MessengerLike(Protocol):
    """What is looked at of a `Messenger`."""

    def send_nb(
        self,
        destination: PeerName,
        iov: Sequence[Buffer],
        tag: int,
        callback: Done | None = None,
    ) -> None:
        """Send a message."""

    def send(
        self,
        destination: PeerName,
        iov: Sequence[Buffer],
        tag: int,
        timeout_s: float | None = None,
    ) -> None:
        """Send a message, and wait until the peer has it."""

    def recv(
        self,
        tag: int = ANY_TAG,
        origin: PeerName = ANYBODY,
        source: PeerName = ANYBODY,
        timeout_s: float | None = None,
    ) -> Message:
        """Return the next message that fits."""

    def recv_nb(
        self,
        callback: Callable[[Message], None],
        tag: int = ANY_TAG,
        origin: PeerName = ANYBODY,
        source: PeerName = ANYBODY,
        *,
        persistent: bool = False,
    ) -> Receive:
        """Call back with the next message that fits."""

    def connect(self, name: PeerName) -> None:
        """Make a link."""

    def disconnect(self, name: PeerName) -> None:
        """Close a link."""

    def watch_states(self, callback: Watcher) -> None:
        """Call back whenever the link to a peer is in another state."""

    def close(self) -> None:
        """End everything."""


class TapMessenger(Closing):
    """A `Messenger` that another one stands behind; all else is that one's own.

    Args:
        messenger: the one behind; closing this one closes it.
        recorder: who is told, from `CaptureFile.add_endpoint`.

    Attributes:
        inner: the one behind.
        recorder: who is told.
    """

    def __init__(self, messenger: MessengerLike, recorder: EndpointRecorder) -> None:
        self.inner, self.recorder = messenger, recorder
        self._watcher: Watcher | None = None
        messenger.watch_states(self._state_changed)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def send_nb(
        self,
        destination: PeerName,
        iov: Sequence[Buffer],
        tag: int,
        callback: Done | None = None,
    ) -> None:
        """Send a message."""
        sending = _Sending(self.recorder, destination, iov, tag)

        def done(error: PeerError | None) -> None:
            sending.ended(error)
            if callback is not None:
                callback(error)

        self.inner.send_nb(destination, iov, tag, done)
        sending.posted()

    def send(
        self,
        destination: PeerName,
        iov: Sequence[Buffer],
        tag: int,
        timeout_s: float | None = None,
    ) -> None:
        """Send a message, and wait until the peer has it."""
        sending = _Sending(self.recorder, destination, iov, tag)
        sending.posted()
        try:
            self.inner.send(destination, iov, tag, timeout_s)
        except PeerError as error:
            sending.ended(error)
            raise
        sending.ended(None)

    def recv(
        self,
        tag: int = ANY_TAG,
        origin: PeerName = ANYBODY,
        source: PeerName = ANYBODY,
        timeout_s: float | None = None,
    ) -> Message:
        """Return the next message that fits, waiting for it."""
        message = self.inner.recv(tag, origin, source, timeout_s)
        self._received(message)
        return message

    def recv_nb(
        self,
        callback: Callable[[Message], None],
        tag: int = ANY_TAG,
        origin: PeerName = ANYBODY,
        source: PeerName = ANYBODY,
        *,
        persistent: bool = False,
    ) -> Receive:
        """Call back with the next message that fits, or with every one."""

        def received(message: Message) -> None:
            self._received(message)
            callback(message)

        return self.inner.recv_nb(received, tag, origin, source, persistent=persistent)

    def connect(self, name: PeerName) -> None:
        """Make a link to a peer."""
        self.inner.connect(name)
        self.recorder.event(EventCode.CONNECT, peer_name=str(name))

    def disconnect(self, name: PeerName) -> None:
        """Close the link to a peer."""
        self.inner.disconnect(name)
        self.recorder.event(EventCode.CLOSE, peer_name=str(name))

    def watch_states(self, callback: Watcher) -> None:
        """Call back whenever the link to a peer is in another state."""
        self._watcher = callback

    def _state_changed(self, name: PeerName, state: PeerState, code: int, sentence: str) -> None:
        self.recorder.state(str(name), sentence, err=code)
        if self._watcher is not None:
            self._watcher(name, state, code, sentence)

    def close(self) -> None:
        """End everything; messages that had no end yet fail, and are recorded so."""
        self.inner.close()
        self.recorder.event(EventCode.CLOSE)

    def _received(self, message: Message) -> None:
        via = "" if message.source == message.origin else str(message.source)
        self.recorder.received(
            message.data,
            origin=str(message.origin),
            tag=message.tag,
            via=via,
            sequence=message.number,
        )


class _Sending:
    """A message: its beginning is recorded by whoever comes first, its poster or its end."""

    def __init__(
        self, recorder: EndpointRecorder, destination: PeerName, iov: Sequence[Buffer], tag: int
    ) -> None:
        self._recorder, self._to, self._tag = recorder, str(destination), tag
        self._number = recorder.next_id()
        self._unwritten: list[tuple[bytes, int]] = []
        try:
            length = sum(map(len, iov))
            self._unwritten.append((gathered(iov, recorder.payload_bytes), length))
        except Exception:  # what is wrong with an argument, the messenger says
            logger.debug("a message could not be looked at", exc_info=True)

    def posted(self) -> None:
        """Record that it was accepted, if that was not done yet."""
        try:
            payload, length = self._unwritten.pop()
        except IndexError:
            return
        self._recorder.sent(payload, to=self._to, tag=self._tag, length=length, number=self._number)

    def ended(self, error: PeerError | None) -> None:
        """Record what became of it."""
        self.posted()
        if error is None:
            self._recorder.delivered(self._number, to=self._to)
        else:
            code = error.errno or errno.EIO
            self._recorder.failed(self._number, code, str(error.strerror), to=self._to)
