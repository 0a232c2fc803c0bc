# SPDX-License-Identifier: Apache-2.0
"""Maps of rescued disks: as a plain list of bytes would have them, and as GNU ddrescue's file."""

from __future__ import annotations

import shutil
import subprocess
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2o.tools.rescue_map import Area, MapFileError, Phase, RescueMap, Status

SIZE = 64
MARKS = st.lists(
    st.tuples(st.integers(0, SIZE), st.integers(0, SIZE), st.sampled_from(list(Status))),
    max_size=12,
)


def marked(marks) -> tuple[RescueMap, list[Status]]:
    found, model = RescueMap(SIZE), [Status.NON_TRIED] * SIZE
    for start, end, status in marks:
        found.mark(start, end, status)
        model[start:end] = [status] * max(0, end - start)
    return found, model


@given(marks=MARKS)
def test_areas_are_what_a_list_of_bytes_says(marks):
    found, model = marked(marks)
    areas = list(found)
    assert [status for area in areas for status in [area.status] * area.size] == model
    assert all(
        before.end == area.start and before.status is not area.status and area.size
        for before, area in pairwise(areas)
    )
    for status in Status:
        assert found.count(status) == model.count(status)


@given(marks=MARKS, block=st.sampled_from([1, 4, 7]))
def test_a_block_is_unfinished_when_part_of_it_is(marks, block):
    found, model = marked(marks)
    found.align(block)
    for start in range(0, SIZE, block):
        before = set(model[start : start + block])
        now = {area.status for area in found if area.start < start + block and area.end > start}
        if before == {Status.FINISHED}:
            assert now == before
        else:
            assert Status.FINISHED not in now


@given(marks=MARKS)
def test_a_file_is_read_as_it_was_written(marks):
    found, _ = marked(marks)
    text = found.text(17, Phase.SCRAPING, 1, "a disk # with remarks")
    assert list(RescueMap.parse(text.splitlines(), SIZE)) == list(found)


def test_the_file_of_gnu_ddrescue():
    lines = """\
# Mapfile. Created by GNU ddrescue version 1.27
# Command line: ddrescue /dev/sdb image map
# current_pos  current_status  current_pass
0x00000C00     -               2
#      pos        size  status
0x00000000  0x00000C00  +
0x00000C00  0x00000200  -   # a remark
3584 01000 /
""".splitlines()
    assert list(RescueMap.parse(lines, 8192)) == [
        Area(0, 0xC00, Status.FINISHED),
        Area(0xC00, 0xE00, Status.BAD_SECTOR),
        Area(0xE00, 0x1000, Status.NON_SCRAPED),
        Area(0x1000, 0x2000, Status.NON_TRIED),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it is empty"),
        ("# only remarks\n", "it is empty"),
        ("hello\n", "line 1 is no position and status"),
        ("0 +\n0 512\n", "line 2 is no position, size and status"),
        ("0 +\n0 512 x\n", "line 2 is no position, size and status"),
        ("0 +\n0 512 +\n1024 512 -\n", "line 3 begins at 0x400, expected 0x200"),
        ("0 +\n0 512 +\n256 512 -\n", "line 3 begins at 0x100, expected 0x200"),
        ("0 +\n0 8193 +\n", "line 2 ends at 8193: the disk has only 8192 bytes"),
        ("0 +\n0 089 +\n", "'089' is no number"),
    ],
)
def test_what_is_no_map(text, complaint):
    with pytest.raises(MapFileError, match=complaint):
        RescueMap.parse(text.splitlines(), 8192)


@pytest.mark.skipif(shutil.which("ddrescuelog") is None, reason="GNU ddrescue is not installed")
def test_gnu_ddrescue_reads_our_file(tmp_path):
    found, path = RescueMap(1 << 20), tmp_path / "map"
    found.mark(0, 512 * 1000, Status.FINISHED)
    found.mark(512 * 1000, 512 * 1002, Status.BAD_SECTOR)
    path.write_text(found.text(512, Phase.COPYING, 1, "emu:"))
    listed = subprocess.run(
        ["ddrescuelog", "--list-blocks=-", path], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == ["1000", "1001"]
