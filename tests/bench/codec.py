# SPDX-License-Identifier: Apache-2.0
"""Derived codec against interpreted construct, for a block read frame.

The frame is what a driver posts: the 32-byte head of BsaBlockRead and two simple elements.
Run: python tests/bench/codec.py
"""

from __future__ import annotations

import os

from construct import Int32ul, Struct
from side_by_side import best_times, repeat, verdict

from i2o.frames.block_storage import BSA_BLOCK_READ
from i2o.frames.layout import Layout, structure, word

ELEMENT = (word("flags_count", ("count", 24), ("flags", 8)), "physical_address" / Int32ul)
WHOLE_FRAME = structure(
    "bsa_block_read_frame",
    *BSA_BLOCK_READ.parts,
    "element0" / Struct(*ELEMENT),
    "element1" / Struct(*ELEMENT),
    chapter="bench",
)


def measure(layout: Layout, title: str, *, bars: bool) -> None:
    """Compare both ways to parse and to build one layout."""
    frame = os.urandom(layout.size)
    record = layout.unpack_from(frame)
    container = layout.construct.parse(frame)
    assert record.pack() == layout.construct.build(container) == frame
    unpack, parse, build = layout.record.unpack_from, layout.construct.parse, layout.construct.build
    times = best_times(
        {
            "construct parse": repeat(lambda: parse(frame)),
            "derived parse": repeat(lambda: unpack(frame)),
            "construct build": repeat(lambda: build(container)),
            "derived build": repeat(record.pack),
        },
        {
            "construct parse": 200,
            "derived parse": 20_000,
            "construct build": 200,
            "derived build": 20_000,
        },
    )
    print(f"{title} ({layout.size} bytes, {len(layout.fields)} fields)")
    for name, microseconds in times.items():
        print(f"  {name:16} {microseconds:9.3f} us")
    parse_ratio = times["construct parse"] / times["derived parse"]
    build_ratio = times["construct build"] / times["derived build"]
    if bars:
        verdict("parse, times faster", parse_ratio, 60, at_least=True)
        verdict("build with checks, times faster", build_ratio, 65, at_least=True)
    else:
        print(f"  parse {parse_ratio:.1f} times, build {build_ratio:.1f} times faster")


if __name__ == "__main__":
    measure(WHOLE_FRAME, "block read frame", bars=True)
    measure(BSA_BLOCK_READ, "its fixed head alone", bars=False)
