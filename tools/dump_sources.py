# SPDX-License-Identifier: Apache-2.0
"""Where `i2o dump` has its packets from: the contract, and captures that are files or pipes."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from i2o.closing import Closing
from i2o.tools.failures import NEGATIVE, OK
from i2o.tools.output import plural
from i2o.transport.capture.packet import LINKTYPE_ENDPOINT, Channel, Packet
from i2o.transport.capture.reader import Capture, open_capture

_MAX_PROBLEMS: Final = 20


class Source(Protocol):
    """Packets in the order in which they were captured. Iterate over it once, then close it.

    Attributes:
        is_live: packets come while they are captured, so each is shown at once.
    """

    is_live: bool

    @property
    def dropped(self) -> int:
        """Packets that the capture lost, as far as it says."""

    @property
    def problems(self) -> Sequence[str]:
        """What was wrong so far, in sentences."""

    def __iter__(self) -> Iterator[Packet]: ...

    def describe(self, packet: Packet) -> str:
        """Return what a packet's IOP or endpoint is, such as its URI; empty if nobody knows."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def close(self) -> None:
        """Stop, wait for the end, and release everything."""

    def exit_code(self) -> int:
        """Return the exit code, once it is closed."""


class FileSource(Closing):
    """One capture, or several that follow one another, such as a rotated one.

    Args:
        paths: files or FIFOs; `-` for standard input.

    Raises:
        CaptureError: the first is in no format that is known.
        OSError: it cannot be opened.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self.is_live = any(map(_is_pipe, paths))
        self._captures = [open_capture(paths[0])]

    @property
    def dropped(self) -> int:
        """Packets that the captures lost, as far as they say."""
        return sum(capture.dropped for capture in self._captures)

    @property
    def problems(self) -> list[str]:
        """What was wrong with the files so far."""
        return [
            f"{capture.name}: {problem}"
            for capture in self._captures
            for problem in _problems(capture)
        ]

    def __iter__(self) -> Iterator[Packet]:
        yield from self._captures[0]
        for path in self._paths[1:]:
            _close(self._captures[-1])
            self._captures.append(open_capture(path))
            yield from self._captures[-1]

    def describe(self, packet: Packet) -> str:
        """Return what the captures say that a packet's IOP or endpoint is."""
        return next(
            (found for capture in self._captures if (found := described(capture, packet))), ""
        )

    def exit_code(self) -> int:
        """Return 1 if a file is damaged."""
        return NEGATIVE if self.problems else OK

    def close(self) -> None:
        """Close the file that is open."""
        _close(self._captures[-1])


def described(capture: Capture, packet: Packet) -> str:
    """Return what a capture says that a packet's IOP or endpoint is."""
    is_message = packet.channel == Channel.MESSAGE
    return next(
        (
            interface.description
            for interface in capture.interfaces
            if interface.iop == packet.iop
            and interface.description
            and (interface.link_type == LINKTYPE_ENDPOINT) == is_message
        ),
        "",
    )


def _problems(capture: Capture) -> list[str]:
    found = capture.problems[:_MAX_PROBLEMS]
    skipped = sum(capture.foreign.values())
    if skipped and not any(interface.packets for interface in capture.interfaces):
        types = ", ".join(map(str, sorted(capture.foreign)))
        found.append(f"no I2O traffic, but {plural(skipped, 'packet')} of link type {types}")
    return found


def _close(capture: Capture) -> None:
    if capture.name != "standard input":  # not ours
        capture.close()


def _is_pipe(path: str) -> bool:
    try:
        mode = Path("/dev/stdin" if path == "-" else path).stat().st_mode
    except OSError:  # opening it says why
        return False
    return not stat.S_ISREG(mode)
