# SPDX-License-Identifier: Apache-2.0
"""`i2o bench`: every line is there, the numbers agree with one another, and nothing is changed."""

from __future__ import annotations

import hashlib
import itertools

import pytest

import i2o
from i2o.tools import bench

from .conftest import one_line

QUICK = ("--seconds", "0.01")


def test_every_measurement_is_there(cli, uri):
    records = cli("bench", "-i", uri, "--json", *QUICK).records
    kinds = [(record["what"], record["size"], record["in_flight"]) for record in records]
    assert kinds == [
        ("status check", 0, 1),
        ("status check", 0, 8),
        *(
            (what, size, in_flight)
            for size, in_flight in ((4096, 1), (65536, 1), (262144, 1), (1048576, 4))
            for what in ("read", "random read")
        ),
    ]
    for record in records:
        assert record["tid"] == 0x010
        assert record["count"] >= 1
        assert 0 < record["p50_us"] <= record["p90_us"] <= record["p99_us"] <= record["max_us"]
        assert record["bytes_per_second"] == pytest.approx(
            record["per_second"] * record["size"], rel=0.01, abs=record["size"]
        )
        assert (record["of_the_file"] is not None) == (record["size"] > 0)


def test_the_table_has_a_line_for_each(cli, uri):
    lines = cli("bench", "-i", uri, *QUICK).out.splitlines()
    assert lines[0].split()[:2] == ["what", "size"]
    assert len(lines) == 11
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("status check")
    assert lines[1].endswith("-")


def test_writing_is_measured_only_when_asked_and_leaves_the_content(cli, uri, image):
    before = hashlib.sha256(image.read_bytes()).digest()
    image.touch()
    assert "write" not in {r["what"] for r in cli("bench", "-i", uri, "--json", *QUICK).records}
    changed = image.stat().st_mtime_ns
    records = cli("bench", "-i", uri, "--write", "--json", *QUICK).records
    assert [r["size"] for r in records if r["what"] == "write"] == list(bench.SIZES)
    assert image.stat().st_mtime_ns > changed
    assert hashlib.sha256(image.read_bytes()).digest() == before


def test_a_disk_in_memory_has_nothing_beside_it(cli):
    records = cli("bench", "--json", *QUICK).records
    assert {record["of_the_file"] for record in records} == {None}


def test_sizes_that_the_disk_does_not_have_are_left_out(cli, tmp_path):
    small = tmp_path / "small.img"
    small.write_bytes(bytes(64 << 10))
    records = cli("bench", "-i", f"emu:?disk={small}", "--json", *QUICK).records
    assert {record["size"] for record in records} == {0, 4096, 65536}


def test_status_checks_are_kept_in_flight():
    with i2o.open("emu:") as iop:
        seen = []
        submit = iop.layer.submit

        def counting(*arguments):
            seen.append(iop.requester.in_flight)
            return submit(*arguments)

        iop.requester._submit = counting
        measured = bench.status_checks(iop, 0x010, 8, 0.01)
    assert max(seen) == 8
    assert measured.times.count == len(seen)


def test_offsets_stay_in_the_area():
    in_turn = list(itertools.islice(bench._in_turn(10_000, 4096), 5))
    assert in_turn == [0, 4096, 0, 4096, 0]
    at_random = set(itertools.islice(bench._at_random(10_000, 4096), 100))
    assert at_random == {0, 4096}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--seconds", "0"), 2, "no number of seconds"),
        (("--seconds", "x"), 2, "no number of seconds"),
        (("--seconds", "1e9"), 2, "no number of seconds"),
        (("0x7",), 1, "no device has TID"),
        (("0x011",), 1, "no device has TID"),
    ],
)
def test_bad_usage_is_one_line(cli, arguments, code, text):
    ran = cli("bench", *arguments)
    assert ran.code == code
    assert text in one_line(ran)


def test_a_read_only_disk_is_not_written(cli, uri):
    ran = cli("bench", "-i", f"{uri},ro", "--write", *QUICK)
    assert ran.code == 2
    assert "cannot be written" in one_line(ran)


def test_a_failing_disk_ends_it_with_one_line(cli, uri, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\nfunction = "BSA_BLOCK_READ"\nfail = "INVALID_TARGET_ID"\n')
    ran = cli("bench", "-i", uri, "--faults", plan, *QUICK)
    assert ran.code != 0
    assert "Traceback" not in ran.err
