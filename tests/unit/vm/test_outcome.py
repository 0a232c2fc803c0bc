# SPDX-License-Identifier: Apache-2.0
"""What a guest wrote decides how its run went."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from vm.errors import GuestFailed
from vm.outcome import Traces


@pytest.fixture
def traces(tmp_path: Path) -> Traces:
    traces = Traces(tmp_path)
    traces.console.write_bytes(b"[ 1.0] reboot: Power down\r\n")
    traces.output.write_bytes(b"one\ntwo\n")
    return traces


def archive(**members: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("results", "results/sub"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        for key, content in members.items():
            member = tarfile.TarInfo(key.replace("__", "/"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def finish(traces: Traces, status: bytes = b"0\n", log: bytes = b"[ 0.0] Linux\n") -> None:
    traces.results.write_bytes(
        archive(run__guest__status=status, run__guest__dmesg=log, results__sub__x=b"\0\r\n")
    )


def test_a_job_that_was_done(traces: Traces) -> None:
    finish(traces)
    outcome = traces.outcome(0).checked()
    assert outcome.status == 0
    assert outcome.output == "one\ntwo\n"
    assert outcome.files == {"sub/x": b"\0\r\n"}
    assert outcome.kernel_log == "[ 0.0] Linux\n"


def test_a_script_that_failed_can_be_looked_at(traces: Traces) -> None:
    finish(traces, b"3\n")
    outcome = traces.outcome(0)
    assert outcome.status == 3
    with pytest.raises(GuestFailed, match="exit status 3:\none\ntwo"):
        outcome.checked()


@pytest.mark.parametrize(
    "line",
    [
        "Kernel panic - not syncing: Fatal exception",
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "kernel BUG at lib/list_debug.c:26!",
        "Oops: 0002 [#1] SMP",
        "general protection fault: 0000 [#1]",
        'irq 16: nobody cared (try booting with the "irqpoll" option)',
    ],
)
@pytest.mark.parametrize("where", ["console", "log"])
def test_trouble_of_the_kernel_is_a_failure_in_its_words(
    traces: Traces, line: str, where: str
) -> None:
    text = f"[ 1.0] before\r\n[ 1.1] {line}\r\n[ 1.2] after\r\n".encode()
    if where == "console":
        traces.console.write_bytes(text)
        finish(traces)
    else:
        finish(traces, log=text)
    with pytest.raises(GuestFailed) as failed:
        traces.outcome(0)
    assert str(failed.value).startswith(f"the guest's kernel says: [ 1.1] {line};")


@pytest.mark.parametrize("line", ["[Firmware Bug]: TSC", "DEBUG: x", "debugfs", "Troops"])
def test_harmless_words_are_no_trouble(traces: Traces, line: str) -> None:
    finish(traces, log=line.encode())
    assert traces.outcome(0).kernel_log == line


def test_a_module_that_does_not_load_is_named(traces: Traces) -> None:
    finish(traces, b"modprobe dpt_i2o\n")
    with pytest.raises(GuestFailed, match="modprobe dpt_i2o failed in the guest"):
        traces.outcome(0)


def test_a_guest_without_an_end(traces: Traces) -> None:
    with pytest.raises(GuestFailed, match=r"before its job was done(.|\n)*one\ntwo"):
        traces.outcome(0)


@pytest.mark.parametrize("length", [0, 100, 700])
def test_a_results_archive_that_was_cut(traces: Traces, length: int) -> None:
    finish(traces)
    traces.results.write_bytes(traces.results.read_bytes()[:length])
    with pytest.raises(GuestFailed, match="before its job was done"):
        traces.outcome(0)


def test_qemu_s_own_failure(traces: Traces) -> None:
    traces.qemu.write_text("qemu-system-x86_64: -device nonsense: not a valid device\n")
    with pytest.raises(GuestFailed, match=r"exit status 1(.|\n)*not a valid device"):
        traces.outcome(1)
