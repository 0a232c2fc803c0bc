# SPDX-License-Identifier: Apache-2.0
"""The descriptor of a network message: LAM's `struct nmsg`, its constants and flags.

Names and numbers are those of LAM's <net.h>, so that a program can be read side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from i2o.transport.fabric.endpoint import Buffer

MAXNMSGLEN: Final = 8192
"""Bytes of a message's body in one packet."""
NHDSIZE: Final = 8
"""Words of the pouch."""
NOTNODEID: Final = -1
"""No node."""
LOCAL: Final = -2
"""The node itself, without a look at the routes."""
MAX_NUMBER: Final = (1 << 31) - 1
"""The largest number that a node can have."""
ORIGIN: Final = -32769
"""The node from which the others were started; the number behind it is `Node.origin`."""

NOBUF: Final = 0x10
"""Use no buffer: the sender waits until a receiver takes the message."""
N2ND: Final = 0x40
"""A packet that is not the first; set by nobody but packets."""
DTBO: Final = 0x100
"""The data are in network byte order already."""
DDLI: Final = 0x200
"""LAM's own; carried, and without meaning here."""
NREEL: Final = 0x400
"""LAM's own; refused here, because it lets a send change the pouch."""
NMORE: Final = 0x1000
"""More packets follow; set by nobody but packets."""

DRAWDATA: Final = 0x10000
"""`nh_data` is 32 bytes that nobody converts."""
DINT4DATA: Final = 0x20000
"""`nh_data` holds 8 integers of 32 bits; so it is without any flag, too."""
DFLT4DATA: Final = 0x40000
"""`nh_data` holds 8 real numbers of 32 bits."""
DFLT8DATA: Final = 0x80000
"""`nh_data` holds 4 real numbers of 64 bits."""
DMSKDATA: Final = 0xF0000
"""The flags of `nh_data`."""
DRAWMSG: Final = 0x100000
"""The body is bytes that nobody converts; so it is without any flag, too."""
DINT4MSG: Final = 0x200000
"""The body holds integers of 32 bits."""
DFLT4MSG: Final = 0x400000
"""The body holds real numbers of 32 bits."""
DFLT8MSG: Final = 0x800000
"""The body holds real numbers of 64 bits."""
DINT2MSG: Final = 0x1000000
"""The body holds integers of 16 bits."""
DMSKMSG: Final = 0x1F00000
"""The flags of the body."""

LAM_BASE_EVENT: Final = 0x40000000
"""The first of LAM's own events."""
EVBUFFERD: Final = LAM_BASE_EVENT + 13
"""`nh_dl_event` of a message that a buffer took."""
EVDL0: Final = LAM_BASE_EVENT + 19
"""`nh_dl_event` of a message that a link took."""

PRIORITY: Final = 0
"""Priority of a process that asks for none."""

NO_WORDS: Final = (0,) * NHDSIZE
"""The pouch of a descriptor that names none."""
Pouch = Sequence[int] | Sequence[float] | bytes


class nmsg:  # noqa: N801 - LAM's name
    """What a message is and where it goes, or what to receive and where to put it.

    Args and attributes are LAM's:

    Attributes:
        nh_dl_event: set by sending: the receiver's event, `EVBUFFERD` or `EVDL0`.
        nh_dl_link: set by sending to another node: the number of the link.
        nh_node: to whom; not used by receiving.
        nh_event: what sender and receiver synchronize on.
        nh_type: type mask, 0 for any; receiving sets it to the sender's.
        nh_length: bytes to send, or room; receiving sets it to the lesser of both.
        nh_flags: `NOBUF`, and what the data are.
        nh_data: the pouch of 8 words; receiving sets it to the sender's.
        nh_msg: the bytes to send, or memory for them.
    """

    __slots__ = (
        "nh_data", "nh_dl_event", "nh_dl_link", "nh_event", "nh_flags", "nh_length", "nh_msg",
        "nh_node", "nh_type",
    )  # fmt: skip

    def __init__(
        self,
        *,
        nh_node: int = LOCAL,
        nh_event: int = 0,
        nh_type: int = 0,
        nh_length: int | None = None,
        nh_flags: int = 0,
        nh_data: Pouch = NO_WORDS,
        nh_msg: Buffer = b"",
    ) -> None:
        self.nh_dl_event = self.nh_dl_link = 0
        self.nh_node, self.nh_event, self.nh_type = nh_node, nh_event, nh_type
        self.nh_flags = nh_flags
        self.nh_data: Pouch = nh_data
        self.nh_msg: Buffer = nh_msg
        self.nh_length = len(memoryview(nh_msg).cast("B")) if nh_length is None else nh_length

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in sorted(self.__slots__))
        return f"nmsg({fields})"


class Received(NamedTuple):
    """What LAM cannot tell of a message that was received.

    Attributes:
        source: the node that sent it.
        length: bytes that were received.
        sent: bytes that were sent; with silent truncation the same as `length`.
        flags: the sender's flags.
    """

    source: int
    length: int
    sent: int
    flags: int

    @property
    def lost(self) -> int:
        """Bytes that found no place."""
        return self.sent - self.length
