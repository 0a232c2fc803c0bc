# SPDX-License-Identifier: Apache-2.0
"""Draws what tshark shows of a request and its reply: python docs/_ext/wireshark_screenshot.py.

Needs tshark and rich. The packets are those of the recorded trace in tests/data: the first block
that Linux reads.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from dump_screenshots import ROOT, TRACE, save

from i2o.tools.cli import main as i2o
from i2o.tools.dissector import dissector

PACKETS = (126, 129)
COLUMNS = 100
_TITLE, _LINK, _DIM, _PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[2m", "\x1b[0m"


def main() -> None:
    """Draw the picture."""
    with tempfile.TemporaryDirectory() as folder:
        script, capture = Path(folder, "i2o.lua"), Path(folder, "trace.pcapng")
        script.write_text(dissector(), encoding="ascii")
        i2o(["dump", "-q", "-r", str(ROOT / TRACE), "-w", str(capture)])
        wanted = " || ".join(f"frame.number == {number}" for number in PACKETS)
        shown = subprocess.run(
            ["tshark", "-X", f"lua_script:{script}", "-r", str(capture), "-2", "-R", "i2o",
             "-Y", wanted, "-V", "-O", "i2o"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    save("tshark-tree", COLUMNS, "tshark -r trace.pcapng -V -O i2o", _coloured(shown))


def _coloured(text: str) -> str:
    lines = []
    for line in text.rstrip("\n").split("\n"):
        if line.startswith(("Frame", "I2O")):
            lines.append(f"{_DIM if line.startswith('Frame') else _TITLE}{line}{_PLAIN}")
        elif line.strip()[:1] == "[" and line.endswith("]"):
            lines.append(f"{_LINK}{line}{_PLAIN}")
        else:
            lines.append(re.sub(r"( \(.*\))$", rf"{_DIM}\1{_PLAIN}", line))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
