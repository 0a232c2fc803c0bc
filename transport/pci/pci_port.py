# SPDX-License-Identifier: Apache-2.0
"""The host half of a card on a PCI bus: a `Port` over register windows and device memory.

Every FIFO call is one 32-bit access. The card is not trusted: a frame address outside of its BAR
is an error here, not an access.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from typing import Final

from i2o.clock import Clock
from i2o.closing import Closing
from i2o.errors import IopDead, RemoteFrameError
from i2o.transport.host_memory import HostMemory
from i2o.transport.pci.cards import Card
from i2o.transport.pci.dma_memory import DeviceMemory
from i2o.transport.pci.interrupt import Interrupt
from i2o.transport.pci.register_window import RegisterWindow
from i2o.transport.port import EMPTY, RequestLimits

OUTBOUND_STATUS: Final = 0x30
OUTBOUND_MASK: Final = 0x34
INBOUND_PORT: Final = 0x40
OUTBOUND_PORT: Final = 0x44
POST_QUEUE_BIT: Final = 0x08
POLL_S: Final = 0.001
"""How often a card without an interrupt is looked at."""
MIN_BAR: Final = 0x1000 + 64
"""Registers' page and one frame: less is no message unit."""
_MAX_FRAME: Final = 0xFFFF * 4
_MIN_FRAME: Final = 64


class PciPort(Closing):
    """A `Port` to a card.

    Args:
        name: the URI.
        registers: the window with the registers.
        frames: the window that inbound frame addresses are offsets into.
        memory: buffers that the card can reach.
        card: what is special about it.
        interrupt: its interrupt, or None to poll.
        reset: the transport's own reset; raises OSError if there is none or it fails.
        release: gives everything else back, once the card is quiet.
        clock: what polling is paced by.

    Attributes:
        access: how the card is reached, in a few words.
        request_limits: what it takes with one block request.
    """

    def __init__(
        self,
        name: str,
        *,
        registers: RegisterWindow,
        frames: RegisterWindow,
        memory: DeviceMemory,
        card: Card,
        interrupt: Interrupt | None,
        reset: Callable[[], None],
        release: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.name, self.card = name, card
        self.request_limits = RequestLimits(card.max_sectors, card.max_segments)
        self.memory: HostMemory = memory
        self._frames, self._interrupt = frames, interrupt
        self._reset, self._release_all, self._clock = reset, release, clock
        base = card.registers_at
        self._status, self._mask = base + OUTBOUND_STATUS, base + OUTBOUND_MASK
        self._inbound, self._outbound = base + INBOUND_PORT, base + OUTBOUND_PORT
        self._read32, self._write32 = registers.read32, registers.write32
        self.inbound_size = min(_MAX_FRAME, frames.size)
        self.outbound = memory.window
        self._idle_bell: int | None = None
        self._is_masked = True  # as every host leaves it, and as 21555 bridges start
        self._is_closed = False
        how = "polling" if interrupt is None else interrupt.name
        self.access = f"{card.name}, {how}"

    # --- the FIFOs -----------------------------------------------------------------------------

    def alloc(self) -> int:
        """Pop a free inbound MFA, or EMPTY: one 32-bit read of 0x40.

        Raises:
            RemoteFrameError: the card gave an address that is no frame in its BAR.
        """
        mfa = self._read32(self._inbound)
        if mfa != EMPTY and (mfa % 4 or mfa + _MIN_FRAME > self._frames.size):
            raise RemoteFrameError(
                f"{self.name}: the card gave the inbound frame {mfa:#010x}, which is not in its "
                f"BAR of {self._frames.size:#x} bytes"
            )
        return mfa

    def write(self, mfa: int, frame: bytes | bytearray | memoryview) -> None:
        """Copy a request into an inbound frame: ascending 32-bit writes."""
        self._frames.write_words(mfa, frame)

    def read_inbound(self, mfa: int, size: int) -> bytes:
        """Read an inbound frame."""
        return self._frames.read_words(mfa, size)

    def post(self, mfa: int) -> None:
        """Hand a frame to the card: one 32-bit write of 0x40."""
        self._write32(self._inbound, mfa)

    def reap(self) -> int:
        """Pop a reply MFA, or EMPTY: one 32-bit read of 0x44.

        On EMPTY the interrupt is armed again, so a second read finds what came in between.
        """
        mfa = self._read32(self._outbound)
        if mfa == EMPTY and self._interrupt is not None:
            self._interrupt.rearm()
        return mfa

    def release(self, mfa: int) -> None:
        """Give a reply frame to the card: one 32-bit write of 0x44."""
        self._write32(self._outbound, mfa)

    # --- waiting -------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Wait until the card may have done something; False when the time ran out.

        With an interrupt that is when it comes. Without one, or while it is masked and the host
        looks at memory, it is after a moment.
        """
        if timeout_s <= 0:
            return self._has_replies()
        if self._interrupt is not None and not self._is_masked:
            return bool(select.select((self._interrupt.fileno(),), (), (), timeout_s)[0])
        self._clock.sleep(min(timeout_s, POLL_S))
        return self._has_replies() or timeout_s > POLL_S

    def _has_replies(self) -> bool:
        """Whether the card says so, where it has a register for that."""
        return self.card.has_status and bool(self._read32(self._status) & POST_QUEUE_BIT)

    def fileno(self) -> int:
        """Return the interrupt's descriptor, or one that never becomes readable."""
        if self._interrupt is not None:
            return self._interrupt.fileno()
        if self._idle_bell is None:
            self._idle_bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._idle_bell

    def next_deadline_ns(self) -> int | None:
        """Return when to look again if there is no interrupt."""
        if self._interrupt is not None:
            return None
        return self._clock.monotonic_ns() + round(POLL_S * 1e9)

    def mask_interrupt(self, masked: bool) -> None:
        """Set or clear the outbound post queue bit of the mask: one 32-bit write of 0x34.

        A card that is polled stays masked.
        """
        self._is_masked = masked
        if self.card.has_status:
            is_open = not masked and self._interrupt is not None
            self._write32(self._mask, 0 if is_open else POST_QUEUE_BIT)

    # --- life cycle ----------------------------------------------------------------------------

    def reset(self) -> None:
        """Reset the card by PCI; afterwards it writes no host memory.

        Raises:
            IopDead: it has no such reset. It is no bus master any more, so it is quiet.
        """
        try:
            self._reset()
        except OSError as error:
            raise IopDead(
                f"{self.name}: the card has no reset but its own ({error}); bus mastering is off"
            ) from None

    def close(self) -> None:
        """Mask the interrupt, and give card and memory back; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self.mask_interrupt(True)
        finally:
            if self._interrupt is not None:
                self._interrupt.close()
            if self._idle_bell is not None:
                with contextlib.suppress(OSError):
                    os.close(self._idle_bell)
            self._release_all()
