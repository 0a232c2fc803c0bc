# SPDX-License-Identifier: Apache-2.0
"""A bare driver of an IOP on PCI: register accesses of a vfio-user client, memory of a guest."""

from __future__ import annotations

from collections.abc import Callable

from fakes.vfio_user_client import Client, Guest
from i2o.frames import block_storage, executive
from i2o.frames.layout import MessageLayout
from i2o.frames.sgl import simple_sgl
from i2o.transport.port import EMPTY
from i2o.transport.vfio_user.messages import RegionIndex

STATUS, MASK, INBOUND, OUTBOUND = 0x30, 0x34, 0x40, 0x44
POSTED = 0x08
DISK = 0x010
REPLY_SIZE = 128
POOL, DATA = 0x8000, 0x10000
BASE = 0x100000
"""Where the guest's memory lies on the bus."""


class PciDriver:
    """Sends frames and takes replies.

    Args:
        client: connected to the IOP.
        guest: the memory; it is mapped at `BASE`.
        run: lets the IOP do what is due.
    """

    def __init__(self, client: Client, guest: Guest, run: Callable[[], object]) -> None:
        self.client, self.guest, self.run = client, guest, run
        client.dma_map(BASE, guest.size, guest.descriptor)

    def master(self, on: bool = True) -> None:
        """Let the IOP reach the memory, or not."""
        self.client.config_word(4, 0x0006 if on else 0x0002)

    def post(self, frame: bytes) -> int:
        """Send a request; return its MFA."""
        mfa = self.client.read32(INBOUND)
        assert mfa != EMPTY
        self.client.write(RegionIndex.BAR0, mfa, frame)
        self.client.write32(INBOUND, mfa)
        return mfa

    def reap(self) -> bytes | None:
        """Take a reply, and give its frame back."""
        mfa = self.client.read32(OUTBOUND)
        if mfa == EMPTY:
            return None
        start = mfa - BASE
        size = 4 * int.from_bytes(self.guest.view[start + 2 : start + 4], "little")
        frame = bytes(self.guest.view[start : start + size])
        self.client.write32(OUTBOUND, mfa)
        return frame

    def call(self, frame: bytes) -> bytes:
        """Send a request and return its reply."""
        self.post(frame)
        self.run()
        reply = self.reap()
        assert reply is not None
        return reply

    def word(self, place: int = 0) -> int:
        """Return a word of the memory."""
        return int.from_bytes(self.guest.view[place : place + 4], "little")

    def bring_up(self, replies: int = 16) -> None:
        """Send OutboundInit, hand in reply frames, send SysEnable."""
        self.master()
        self.post(
            executive.EXEC_OUTBOUND_INIT.build(
                outbound_msg_frame_size=REPLY_SIZE // 4, message_size=8, host_page_frame_size=4096
            )
            + simple_sgl([(BASE, 4)], out=False)
        )
        self.run()
        assert self.word() == 4
        for number in range(replies):
            self.client.write32(OUTBOUND, BASE + POOL + number * REPLY_SIZE)
        assert self.call(executive.EXEC_SYS_ENABLE.build())[19] == 0


def read_of(size: int, address: int = BASE + DATA, *, context: int = 7, at: int = 0) -> bytes:
    """Return a request for `size` bytes of the disk into the guest's memory."""
    return _transfer(block_storage.BSA_BLOCK_READ, size, address, context, at)


def write_of(size: int, address: int = BASE + DATA, *, context: int = 7, at: int = 0) -> bytes:
    """Return a request that writes `size` bytes of the guest's memory to the disk."""
    return _transfer(block_storage.BSA_BLOCK_WRITE, size, address, context, at)


def _transfer(layout: MessageLayout, size: int, address: int, context: int, at: int) -> bytes:
    sgl = simple_sgl([(address, size)], out=layout is block_storage.BSA_BLOCK_WRITE)
    return (
        layout.build(
            target_address=DISK,
            transaction_context=context,
            message_size=(layout.size + len(sgl)) // 4,
            transfer_byte_count=size,
            logical_byte_address=at,
        )
        + sgl
    )
