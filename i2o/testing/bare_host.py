# SPDX-License-Identifier: Apache-2.0
"""A host that makes the calls of a port and nothing else, without a message layer."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeVar

from i2o.clock import SYSTEM_CLOCK
from i2o.frames.executive import EXEC_OUTBOUND_INIT, EXEC_STATUS_GET
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import STATUS_BLOCK, SYNC_BYTE_DONE, OutboundInitStatus
from i2o.frames.utility import UTIL_NOP
from i2o.transport.host_memory import HostBuffer
from i2o.transport.port import EMPTY, Port

PATIENCE_S: Final = 30.0
"""How long something may take that takes microseconds on an idle machine."""
REPLY_FRAME_SIZE: Final = 128
_LOOK_S: Final = 0.05
_UNDER_WAY: Final = (0, OutboundInitStatus.IN_PROGRESS)
_FROM_REQUEST: Final = struct.Struct("<II")  # both contexts
_Found = TypeVar("_Found")


class BareHost:
    """Drives a port by hand.

    Args:
        port: the port, just opened.

    Attributes:
        reply_frames: addresses of the reply frames that the IOP was given.
    """

    def __init__(self, port: Port) -> None:
        self.port = port
        self.reply_frames: list[int] = []
        self._pool: list[HostBuffer] = []

    def until(self, look: Callable[[], _Found | None], what: str) -> _Found:
        """Wait on the port until a look finds something; fails the test when nothing comes."""
        end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
        while True:
            found = look()
            if found is not None:
                return found
            assert SYSTEM_CLOCK.monotonic() < end, f"{what} did not come within {PATIENCE_S:g} s"
            self.port.wait(_LOOK_S)

    # --- requests --------------------------------------------------------------------------------

    def alloc(self) -> int:
        """Take an inbound frame, waiting for one."""
        return self.until(lambda: _none_if_empty(self.port.alloc()), "a free inbound frame")

    def post(self, frame: bytes) -> int:
        """Send a message; return where it was."""
        mfa = self.alloc()
        self.port.write(mfa, frame)
        self.port.post(mfa)
        return mfa

    def send_back(self, mfa: int) -> None:
        """Give an inbound frame back that nobody needs: as a UtilNOP."""
        self.port.write(mfa, UTIL_NOP.build())
        self.port.post(mfa)

    def take(self) -> int:
        """Wait for a reply; return where it is."""
        return self.until(lambda: _none_if_empty(self.port.reap()), "a reply")

    def answer(self) -> bytes:
        """Wait for a reply, copy it, and give its frame back."""
        mfa = self.take()
        head = self.port.outbound(mfa, 16)
        size = 4 * int.from_bytes(head[2:4], "little")
        assert 16 <= size <= REPLY_FRAME_SIZE, f"MessageSize says {size} bytes"
        reply = bytes(self.port.outbound(mfa, size))
        self.port.release(mfa)
        return reply

    def call(self, frame: bytes) -> bytes:
        """Send a message and return its one reply."""
        self.post(frame)
        return self.answer()

    def all_free(self, most: int = 4096) -> list[int]:
        """Take every free inbound frame; an empty port is read twice."""
        taken: list[int] = []
        while len(taken) < most:
            mfa = self.port.alloc()
            if mfa == EMPTY:
                mfa = self.port.alloc()
            if mfa == EMPTY:
                break
            taken.append(mfa)
        return taken

    def everything_is_home(self, count: int) -> None:
        """Wait until as many inbound frames are free as there were, and leave them free."""
        taken: list[int] = []

        def look() -> bool | None:
            taken.extend(self.all_free(count + 1 - len(taken)))
            return True if len(taken) >= count else None

        self.until(look, f"the last of {count} inbound frames")
        assert len(taken) == count, "there are more free frames than there were"
        assert len(set(taken)) == count, "a frame is free twice"
        for mfa in taken:
            self.send_back(mfa)
        assert self.port.reap() == EMPTY, "a NOP has no reply"

    # --- answers through memory ------------------------------------------------------------------

    def state(self) -> int:
        """Return the state that the status block tells."""
        block = self.port.memory.allocate(STATUS_BLOCK.size)
        self.post(EXEC_STATUS_GET.build(reply_buffer_address_low=block.bus_address))

        def look() -> int | None:
            block.from_device()
            return 1 if block.view[STATUS_BLOCK.size - 1] == SYNC_BYTE_DONE else None

        self.until(look, "the status block")
        state = int(STATUS_BLOCK.unpack_from(block.view).iop_state)
        block.free()
        return state

    def init_outbound(self, replies: int = 16) -> None:
        """Initialize the outbound queue, and hand in reply frames."""
        status = self.port.memory.allocate(4)
        init = EXEC_OUTBOUND_INIT.build(
            outbound_msg_frame_size=REPLY_FRAME_SIZE // 4, message_size=8
        )
        self.post(init + simple_sgl([(status.bus_address, 4)], out=False))

        def look() -> int | None:
            status.from_device()
            word = int.from_bytes(status.view, "little")
            return None if word in _UNDER_WAY else word

        assert self.until(look, "the end of OutboundInit") == OutboundInitStatus.COMPLETE
        status.free()
        pool = self.port.memory.allocate(REPLY_FRAME_SIZE * replies)
        self._pool.append(pool)
        self.reply_frames = [
            pool.bus_address + REPLY_FRAME_SIZE * index for index in range(replies)
        ]
        for mfa in self.reply_frames:
            self.port.release(mfa)


def transaction_context(reply: bytes) -> int:
    """Return what the request had as its TransactionContext."""
    return int(_FROM_REQUEST.unpack_from(reply, 8)[1])


def _none_if_empty(mfa: int) -> int | None:
    return None if mfa == EMPTY else mfa
