# SPDX-License-Identifier: Apache-2.0
"""Prints line and branch coverage of each folder; fails when one is below the bar."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

BAR = 95.0
FOLDERS = ("i2o", "transport", "iop_emulator", "tools")


def main(report: Path) -> int:
    """Return 0 if every folder reaches the bar in lines and in branches."""
    sums = {folder: Counter[str]() for folder in FOLDERS}
    root = Path(__file__).resolve().parent.parent
    for name, file in json.loads(report.read_text())["files"].items():
        folder = (root / name).resolve().relative_to(root).parts[0]
        sums[folder].update({k: v for k, v in file["summary"].items() if isinstance(v, int)})
    worst = 100.0
    for folder, total in sums.items():
        if not total["num_statements"]:
            print(f"{folder}: nothing was measured")
            return 1
        lines = 100 * total["covered_lines"] / total["num_statements"]
        branches = 100 * total["covered_branches"] / max(1, total["num_branches"])
        print(f"{folder + '/':14} lines {lines:6.2f} %   branches {branches:6.2f} %")
        worst = min(worst, lines, branches)
    print(f"bar {BAR:g} %: {'reached' if worst >= BAR else 'MISSED'}")
    return 0 if worst >= BAR else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
