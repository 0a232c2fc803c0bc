# SPDX-License-Identifier: Apache-2.0
"""The context manager of everything that has a `close`."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """Closes itself at the end of a `with` block."""

    __slots__ = ()

    def close(self) -> None:
        """Release everything; calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
