# SPDX-License-Identifier: Apache-2.0
"""What the message unit checks before a request is delivered, and how it says no."""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from i2o.frames.functions import Function
from i2o.frames.header import (
    HEADER_SIZE,
    MSG_HEADER,
    VERSION_1_5,
    FailureCode,
    MsgFlags,
    SpecialTid,
)

_VERSION_MASK: Final = 0x07
_ALLOWED_FLAGS: Final = int(MsgFlags.MULTIPLE | MsgFlags.LAST)
_NOP_WORDS: Final = 3
_FIRST_SGL_WORD: Final = HEADER_SIZE // 4


class FrameFailure(NamedTuple):
    """Why a frame cannot be delivered.

    Attributes:
        code: a `FailureCode`.
        sentence: the same for the driver's author.
    """

    code: int
    sentence: str


def frame_failure(
    frame: bytes,
    frame_size: int,
    targets: Container[int],
    withheld: Mapping[int, int] = MappingProxyType({}),
) -> FrameFailure | None:
    """Check a request's header.

    What real drivers do is accepted: an SGL offset behind the message, 3 words for a NOP.

    Args:
        frame: the request, at least a header.
        frame_size: bytes of an inbound frame.
        targets: TIDs that exist.
        withheld: TIDs among them that no request reaches now, and the failure code that says why.

    Returns:
        The first thing that is wrong, or None.
    """
    header = MSG_HEADER.unpack_from(frame)
    offset, words = header.version_offset >> 4, header.message_size
    about = f"frame with function {header.function:#04x} for TID {header.target_address:#05x}: "
    if header.version_offset & _VERSION_MASK != VERSION_1_5:
        code, text = (
            FailureCode.INVALID_VERSION,
            (f"version {header.version_offset & _VERSION_MASK}, only {VERSION_1_5} is spoken here"),
        )
    elif words < (_NOP_WORDS if header.function == Function.UTIL_NOP else _FIRST_SGL_WORD):
        code, text = FailureCode.FRAME_TOO_SMALL, f"MessageSize of {words} words has no header"
    elif 4 * words > frame_size:
        code, text = (
            FailureCode.FRAME_TOO_LARGE,
            (f"MessageSize of {words} words, an inbound frame has {frame_size // 4}"),
        )
    elif header.msg_flags & ~_ALLOWED_FLAGS:
        code, text = (
            FailureCode.INVALID_MSG_FLAGS,
            (f"MsgFlags {header.msg_flags:#04x} are not for a request to this IOP"),
        )
    elif 0 < offset < _FIRST_SGL_WORD:
        code, text = FailureCode.INVALID_OFFSET, f"an SGL at word {offset} is inside the header"
    elif header.target_address not in targets:
        code, text = FailureCode.INVALID_TARGET_ID, "there is no such TID"
    elif header.initiator_address != SpecialTid.HOST:
        code, text = (
            FailureCode.INVALID_INITIATOR_ID,
            (f"initiator {header.initiator_address:#05x} is not the host"),
        )
    elif header.target_address in withheld:
        code = FailureCode(withheld[header.target_address])
        text = f"{code.name.lower().replace('_', ' ')}: enable the device, or reset the IOP"
    else:
        return None
    return FrameFailure(code.value, about + text)
