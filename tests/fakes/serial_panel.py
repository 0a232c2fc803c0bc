# SPDX-License-Identifier: Apache-2.0
"""A patch panel: a serial cable between any two stations that want one, plugged in when they do."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from fakes.noisy_line import Noise
from fakes.pty_cable import PtyCable
from i2o.closing import Closing
from i2o.errors import TransportUnavailable
from i2o.transport.serial_line.carrier import SCHEME, SerialCarrier
from i2o.transport.serial_line.line import DescriptorLine, Line, LineSettings, open_line
from i2o.transport.serial_line.link_options import LinkOptions

QUICK = LinkOptions(hello_s=0.02, connect_s=3.0, ack_s=0.001)
NOBODY = "nobody"
_BAUD = 100_000_000


class SerialPanel(Closing):
    """Makes carriers; the line from one to another is a cable of pseudo terminals.

    At the end of the line that a carrier is made with there is nobody.

    Args:
        folder: for the devices.
        noise: of each cable.
        options: of the links.
    """

    def __init__(
        self, folder: Path, noise: Noise | None = None, options: LinkOptions = QUICK
    ) -> None:
        self._folder, self._noise, self._options = folder, noise or Noise(), options
        self._carriers: dict[str, SerialCarrier] = {}
        self._cables: dict[frozenset[str], PtyCable] = {}
        self._spare: list[socket.socket] = []
        self._count = 0
        self._lock = threading.Lock()  # stations may be in threads of their own

    def carrier(self) -> SerialCarrier:
        name = f"station-{len(self._carriers) + 1}"
        made = SerialCarrier(
            LineSettings(name, baud=_BAUD),
            options=self._options,
            is_single=False,
            opener=lambda settings: self._open(name, settings),
            linger_s=0.01,
        )
        self._carriers[name] = made
        return made

    def cut(self, one: str, other: str) -> None:
        """Pull a cable; another one is plugged in when somebody wants it."""
        names = frozenset(name.removeprefix(SCHEME) for name in (one, other))
        self._cables.pop(names).close()

    def close(self) -> None:
        for cable in self._cables.values():
            cable.close()
        for end in self._spare:
            end.close()

    def _open(self, owner: str, settings: LineSettings) -> Line:
        there = settings.address
        if there == NOBODY:
            raise TransportUnavailable("serial", "there is no such line")
        if there == owner:
            mine, far = socket.socketpair()
            self._spare.append(far)
            return DescriptorLine(mine)
        names = frozenset((owner, there))
        with self._lock:
            cable = self._cables.get(names)
            if cable is None:
                self._count += 1
                cable = self._cables[names] = PtyCable(
                    self._folder,
                    self._noise,
                    seed=self._count,
                    names=(f"tty{self._count}a", f"tty{self._count}b"),
                )
                self._carriers[there].resolve(owner)
        device = cable.devices[sorted(names).index(owner)]
        return open_line(LineSettings(device, baud=settings.baud))
