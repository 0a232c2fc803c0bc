# SPDX-License-Identifier: Apache-2.0
"""Replies on their way out: in their order, counted, and into good frames only."""

from __future__ import annotations

from collections import deque

import pytest

from i2o.errors import DmaFault
from i2o.iop_emulator.counters import Counters
from i2o.iop_emulator.reply_queue import ReplyQueue
from i2o.transport.port import EMPTY

BAD = 0xBAD0


class Out:
    """The half of a unit that takes replies.

    Attributes:
        frames: free reply frames.
        posted: (frame, reply) of each.
    """

    def __init__(self, *frames: int) -> None:
        self.frames, self.posted = deque(frames), list[tuple[int, bytes]]()

    def take_reply_frame(self) -> int:
        return self.frames.popleft() if self.frames else EMPTY

    def post_reply(self, mfa: int, data: bytes) -> None:
        if mfa == BAD:
            raise DmaFault(mfa, len(data))
        self.posted.append((mfa, data))


def reply(number: int) -> bytes:
    return bytes((1, 0xC0, 5, 0)) + bytes((number,)) * 16


@pytest.fixture
def counters() -> Counters:
    return Counters()


def queue_to(out: Out, counters: Counters, said: list[str]) -> ReplyQueue:
    return ReplyQueue(out, counters, said.append, 4)  # type: ignore[arg-type]


def test_a_reply_goes_into_the_next_frame_and_is_counted(counters: Counters) -> None:
    out = Out(0x100, 0x200)
    replies = queue_to(out, counters, [])
    replies.send(reply(1))
    replies.send(reply(2))
    assert out.posted == [(0x100, reply(1)), (0x200, reply(2))]
    assert (counters.replies, counters.backlog_peak, len(replies.backlog)) == (2, 0, 0)


def test_a_reply_does_not_overtake_those_that_wait(counters: Counters) -> None:
    out = Out()
    replies = queue_to(out, counters, [])
    replies.send(reply(1))
    out.frames.extend((0x100, 0x200))  # nobody has flushed yet
    replies.send(reply(2))
    assert (out.posted, counters.replies, counters.backlog_peak) == ([], 0, 2)
    replies.flush()
    assert [data for _, data in out.posted] == [reply(1), reply(2)]
    assert counters.replies == 2


def test_a_frame_that_is_not_in_host_memory_is_passed_over_with_a_word(counters: Counters) -> None:
    out, said = Out(BAD, BAD, 0x100, BAD), list[str]()
    replies = queue_to(out, counters, said)
    replies.send(reply(1))
    assert out.posted == [(0x100, reply(1))]
    assert len(said) == 2
    assert all("reply frame 0x0000bad0 that was released to 0x44" in text for text in said)
    replies.send(reply(2))  # and waits, as no good frame is left
    assert (len(said), counters.replies, [*replies.backlog]) == (3, 1, [reply(2)])


def test_a_reply_is_cut_to_the_frame_that_the_host_has_for_it(counters: Counters) -> None:
    out = Out(0x100, 0x200)
    replies = queue_to(out, counters, [])
    replies.frame_size = 16
    replies.send(reply(1))
    assert out.posted == [(0x100, bytes((1, 0xC0, 4, 0)) + bytes((1,)) * 12)]
    assert counters.replies == 1
