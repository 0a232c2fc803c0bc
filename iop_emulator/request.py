# SPDX-License-Identifier: Apache-2.0
"""One request as the IOP serves it, and the replies to it.

A request is a private copy of the frame. Replies are built by joining bytes: the header of a reply
repeats words 1 to 3 of its request (target, initiator, function and both contexts) unchanged, so
nothing is unpacked to build one.
"""

from __future__ import annotations

from typing import Final

from i2o.frames.codec import Record
from i2o.frames.functions import UNANSWERED
from i2o.frames.header import (
    EMPTY_MFA,
    FAIL_REPLY,
    FAILURE_REPLY,
    FINAL_REPLY,
    HEADER_SIZE,
    SINGLE_TRANSACTION_REPLY,
    TRANSACTION_ERROR_REPLY,
    VERSION_1_5,
    DetailedStatus,
    FailureCode,
    FailureSeverity,
    MsgFlags,
    ReqStatus,
)
from i2o.frames.layout import MessageLayout

PROGRESS_REPLY: Final = int(MsgFlags.REPLY)
"""MsgFlags of a reply that is not the last one."""
_PLAIN_START: Final = SINGLE_TRANSACTION_REPLY.build()[:4]
_PLAIN_SUCCESS: Final = SINGLE_TRANSACTION_REPLY.build()[HEADER_SIZE:]


class Request:
    """A request frame and the header fields that everybody asks for.

    Attributes:
        frame: the frame's bytes, at least a header.
        route: word 1: function, initiator and target.
        now_ns: when the IOP took it up.
    """

    __slots__ = ("frame", "now_ns", "route")

    def __init__(self, frame: bytes, route: int, now_ns: int) -> None:
        self.frame, self.route, self.now_ns = frame, route, now_ns

    @property
    def target(self) -> int:
        """TID it goes to."""
        return self.route & 0xFFF

    @property
    def initiator(self) -> int:
        """TID it comes from."""
        return self.route >> 12 & 0xFFF

    @property
    def function(self) -> int:
        """Function code."""
        return self.route >> 24

    @property
    def wants_reply(self) -> bool:
        """Whether it is of those that are answered with a reply frame."""
        return self.function not in UNANSWERED

    @property
    def transaction_context(self) -> int:
        """Word 3."""
        return int.from_bytes(self.frame[12:16], "little")

    def fields(self, layout: MessageLayout) -> Record:
        """Read the fixed part. Words behind MessageSize read as zero: drivers leave some away."""
        frame = self.frame
        if len(frame) < layout.size:
            frame = frame.ljust(layout.size, b"\0")
        return layout.unpack_from(frame)

    def sgl_start(self, class_word: int) -> int:
        """Return the byte at which the scatter/gather list starts.

        Args:
            class_word: the word that the message class puts it at. A header that says less (0, or
                4 for a list at word 6) means that word.
        """
        stated = self.frame[0] >> 4
        return 4 * (stated if stated > class_word else class_word)

    def success(self) -> bytes:
        """Return the plain reply of 5 words with every status zero."""
        return _PLAIN_START + self.frame[4:16] + _PLAIN_SUCCESS

    def status(self, req_status: int, detail: int) -> bytes:
        """Return the plain reply of 5 words."""
        return b"%b%b%b\0%c" % (
            _PLAIN_START,
            self.frame[4:16],
            detail.to_bytes(2, "little"),
            req_status,
        )

    def refuse(self, detail: int = DetailedStatus.UNSUPPORTED_FUNCTION) -> bytes:
        """Return the plain reply of a request that moved no data: ReqStatus 5."""
        return self.status(ReqStatus.ERROR_NO_DATA_TRANSFER, detail)

    def answer(self, layout: MessageLayout, flags: int = FINAL_REPLY, **fields: int) -> bytes:
        """Return a reply with a body of its own.

        Args:
            layout: the reply's layout.
            flags: MsgFlags, for replies that are not final.
            fields: the body's fields.
        """
        built = layout.build(msg_flags=flags, **fields)
        return built[:4] + self.frame[4:16] + built[HEADER_SIZE:]

    def answer_with(self, body: bytes) -> bytes:
        """Return a final reply whose body is ready-made: whole words."""
        words = (HEADER_SIZE + len(body)) // 4
        start = bytes((VERSION_1_5, FINAL_REPLY)) + words.to_bytes(2, "little")
        return start + self.frame[4:16] + body

    def transaction_error(self, offset: int, detail: int) -> bytes:
        """Return the reply that names the byte of the request which is wrong."""
        return self.answer(
            TRANSACTION_ERROR_REPLY,
            req_status=ReqStatus.TRANSACTION_ERROR.value,
            detailed_status_code=detail,
            error_offset=offset & 0xFFFFFFFF,
        )


def fail_reply(frame: bytes, mfa: int, code: int, *, iop_id: int, host_unit_id: int = 0) -> bytes:
    """Return the FAIL reply to a frame that could not be delivered.

    Args:
        frame: the request, at least its header.
        mfa: where the frame is preserved, or EMPTY_MFA for a message without a frame of its own (a
            static one, or one from another IOP): nothing has to be given back.
        code: a `FailureCode`.
        iop_id: id of the IOP that could not deliver it.
        host_unit_id: unit of that IOP.

    Returns:
        The reply. Its transaction context is zero: it is not valid in a FAIL reply, the host
        finds the original in the preserved frame. Where there is none, the reply repeats it.
    """
    built = FAILURE_REPLY.build(
        msg_flags=FAIL_REPLY,
        lowest_version=VERSION_1_5,
        highest_version=VERSION_1_5,
        severity=_SEVERITY.get(code, FailureSeverity.FORMAT_ERROR).value,
        failure_code=code,
        failing_iop_id=iop_id,
        failing_host_unit_id=host_unit_id,
        preserved_mfa_low=mfa,
    )
    if mfa == EMPTY_MFA:
        return built[:4] + frame[4:16] + built[16:]
    return built[:4] + frame[4:12] + built[12:]


_SEVERITY: Final = {
    FailureCode.SERVICE_SUSPENDED.value: FailureSeverity.PATH_STATE,
    FailureCode.SERVICE_TERMINATED.value: FailureSeverity.PATH_STATE,
    FailureCode.CONGESTION.value: FailureSeverity.CONGESTION,
    FailureCode.FAIL.value: FailureSeverity.PATH_ERROR,
    FailureCode.STATE_ERROR.value: FailureSeverity.PATH_STATE,
    FailureCode.TIME_OUT.value: FailureSeverity.CONGESTION,
    FailureCode.ROUTING_FAILURE.value: FailureSeverity.PATH_ERROR,
    FailureCode.INVALID_TARGET_ID.value: FailureSeverity.PATH_ERROR,
    FailureCode.INVALID_INITIATOR_ID.value: FailureSeverity.PATH_ERROR,
}
