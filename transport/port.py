# SPDX-License-Identifier: Apache-2.0
"""The host half of an IOP's queue pair: the contract, and nothing else.

A port performs exactly one access of exactly 32 bits per FIFO call, and does not retry: reading
an empty port a second time before believing it is the caller's business (i960 chips may answer
"empty" once although an entry exists).
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, runtime_checkable

from i2o.transport.host_memory import HostMemory

EMPTY: Final = 0xFFFFFFFF
"""What an empty FIFO port reads as."""


class Port(Protocol):
    """What the message layer needs from any IOP, near or far."""

    memory: HostMemory
    """Where buffers for this IOP come from."""

    inbound_size: int
    """Bytes of an inbound frame that may be written, as the transport knows it."""

    name: str
    """The URI or bus address, for messages."""

    def alloc(self) -> int:
        """Pop a free inbound MFA, or EMPTY (one 32-bit read of 0x40)."""

    def write(self, mfa: int, frame: bytes | bytearray | memoryview) -> None:
        """Copy a request into the inbound frame: ascending 32-bit stores, never read back."""

    def read_inbound(self, mfa: int, size: int) -> bytes:
        """Read an inbound frame (only needed for preserved frames)."""

    def post(self, mfa: int) -> None:
        """Hand the frame to the IOP (one 32-bit write of 0x40)."""

    def reap(self) -> int:
        """Pop a reply MFA, or EMPTY (one 32-bit read of 0x44)."""

    def outbound(self, mfa: int, size: int) -> memoryview:
        """Return `size` bytes of the reply frame, in host memory."""

    def release(self, mfa: int) -> None:
        """Give a reply frame to the IOP (one 32-bit write of 0x44)."""

    def wait(self, timeout_s: float) -> bool:
        """Wait until the IOP may have done something; False when the time ran out.

        A host that polls memory (StatusGet, IopReset, OutboundInit) calls this between looks.
        """

    def fileno(self) -> int:
        """Return a file descriptor that is readable while replies may be waiting.

        -1 once the port is closed, perhaps by another thread just now.
        """

    def next_deadline_ns(self) -> int | None:
        """Return when to call `wait` or `reap` although no interrupt came, or None.

        Real hardware runs by itself and returns None; an IOP simulated inside the caller's
        thread returns the time of its next event.
        """

    def mask_interrupt(self, masked: bool) -> None:
        """Set or clear the outbound post queue bit of the interrupt mask (0x34)."""

    def reset(self) -> None:
        """Reset the IOP by the transport's own means; afterwards it writes no host memory."""

    def close(self) -> None:
        """Release everything; calling it again does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class RequestLimits(NamedTuple):
    """What a card takes with one block request, although its devices do not say so.

    Attributes:
        sectors: of 512 bytes, 0 for any number.
        segments: elements of a scatter/gather list, 0 for any number.
    """

    sectors: int = 0
    segments: int = 0


NO_LIMITS: Final = RequestLimits()


def request_limits(port: Port) -> RequestLimits:
    """Return the `request_limits` of a port; those that have none know of no limits."""
    limits: RequestLimits = getattr(port, "request_limits", NO_LIMITS)
    return limits


@runtime_checkable
class ReturningPort(Protocol):
    """A port whose IOP may be reached again after `IopDead`."""

    def reconnect(self) -> None:
        """Reach the IOP again, which is in RESET then; nothing to do if it is not gone.

        Raises:
            IopDead: that took too long, or it never comes back.
        """


Remark = Callable[[int, str], None]
"""Takes the MFA of a request and a sentence about what the IOP did to it; must not raise."""


@runtime_checkable
class RemarkingPort(Protocol):
    """A port whose IOP tells why it does not do what it was asked for: one made of software."""

    def remark_to(self, listener: Remark) -> None:
        """Tell somebody, too, from now on; perhaps from a thread of the IOP's."""
