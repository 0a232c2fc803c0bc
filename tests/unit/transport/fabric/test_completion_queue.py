# SPDX-License-Identifier: Apache-2.0
"""When the descriptor of a software completion queue is readable."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator

import pytest

from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.completion_queue import SoftwareCompletionQueue
from i2o.transport.fabric.errors import ErrorAvailable
from i2o.transport.fabric.flags import Flag


class Source:
    """What a queue moves on: it ends operations when it is told to make progress."""

    def __init__(self) -> None:
        self.then: Callable[[], None] = lambda: None

    def progress(self) -> None:
        then, self.then = self.then, lambda: None
        then()

    def fileno(self) -> int:
        return -1

    def next_deadline_ns(self) -> int | None:
        return None


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def queue(source: Source) -> Iterator[SoftwareCompletionQueue]:
    queue = SoftwareCompletionQueue()
    queue.attach(source)
    queue.fileno()
    yield queue
    queue.detach(source, is_last=True)
    queue.close()


def is_readable(queue: SoftwareCompletionQueue) -> bool:
    return bool(select.select([queue.fileno()], [], [], 0)[0])


def push(queue: SoftwareCompletionQueue, *contexts: object) -> None:
    for context in contexts:
        queue.push(Completion(context, Flag.SEND))


def test_what_ends_while_nobody_reads_is_told(queue: SoftwareCompletionQueue) -> None:
    push(queue, "a")
    assert is_readable(queue)
    assert [entry.context for entry in queue.read(1)] == ["a"]
    assert not is_readable(queue)


def test_what_is_taken_at_once_is_not_told(
    queue: SoftwareCompletionQueue, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.eventfd_write")
    source.then = lambda: push(queue, "a", "b")
    assert [entry.context for entry in queue.read(2)] == ["a", "b"]
    assert not is_readable(queue)


@pytest.mark.parametrize("count", [0, 1])
def test_what_a_reader_leaves_is_told(
    queue: SoftwareCompletionQueue, source: Source, count: int
) -> None:
    source.then = lambda: push(queue, "a", "b")
    assert len(queue.read(count)) == count
    assert is_readable(queue)
    assert len(queue.read(2)) == 2 - count
    assert not is_readable(queue)


def test_an_error_that_stays_is_told(queue: SoftwareCompletionQueue, source: Source) -> None:
    source.then = lambda: queue.push(CompletionError("a", Flag.SEND, err=5))
    with pytest.raises(ErrorAvailable):
        queue.read(1)
    assert is_readable(queue)
    assert queue.readerr().context == "a"
    assert not is_readable(queue)


def test_what_ended_before_progress_failed_is_told(
    queue: SoftwareCompletionQueue, source: Source
) -> None:
    def fail() -> None:
        push(queue, "a")
        raise KeyboardInterrupt

    source.then = fail
    with pytest.raises(KeyboardInterrupt):
        queue.read(1)
    assert is_readable(queue)
    push(queue, "b")
    assert len(queue.read(2)) == 2
