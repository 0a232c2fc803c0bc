# SPDX-License-Identifier: Apache-2.0
"""`events`: what is shown, when it ends, and what is said about wrong arguments."""

from __future__ import annotations

import argparse
import fcntl
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from i2o import events as events_module
from i2o.decode.event_nodes import OF_CLASS
from i2o.errors import IopDead
from i2o.events import ALL_EVENTS
from i2o.frames.block_storage import BsaEvent
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.utility import GenericEvent, StateChange
from i2o.iop import Iop
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.executive import Executive
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.resources import IopStatus
from i2o.tools import events
from i2o.tools.event_masks import EventMask, event_mask, event_name_list

from .conftest import CHECKOUT, one_line

DISK, DDM = 0x010, 0x008
LOAD, UNLOAD = BsaEvent.VOLUME_LOAD, BsaEvent.VOLUME_UNLOAD
Act = Callable[[Iop, SoftIop], object]


@pytest.fixture
def acting(monkeypatch) -> Callable[[Act], None]:
    """Do something with the IOP once the command listens."""

    def prepare(act: Act) -> None:
        listen = Iop.events

        def listen_and_act(iop: Iop, *args, **options):
            stream = listen(iop, *args, **options)
            iop.layer.run_until(lambda: False, 0)  # the registrations reach the IOP
            act(iop, iop.layer.port(iop.number).soft_iop)
            return stream

        monkeypatch.setattr(Iop, "events", listen_and_act)

    return prepare


def some_events(iop: Iop, software: SoftIop) -> None:
    tell = software.events.post
    tell(0, GenericEvent.STATE_CHANGE, StateChange.FAILED.to_bytes(4, "little"))
    tell(DISK, LOAD, b"\x01\x02\x03\x04" + bytes(4))
    tell(DISK, UNLOAD, b"")


def test_a_line_each(cli, acting):
    acting(some_events)
    ran = cli("events", "--timeout", "0.01")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{6}  0x0", line) for line in lines)
    assert [line.split("  ", 1)[1] for line in lines] == [
        "0x000  STATE_CHANGE  FAILED  00000010",
        "0x010  VOLUME_LOAD  04030201 00000000",
        "0x010  VOLUME_UNLOAD  00000000",
    ]


def test_json(cli, acting):
    acting(some_events)
    ran = cli("events", "--json", "--timeout", "0")
    assert [record.pop("time") > 1e9 for record in ran.records] == [True] * 3
    first = cli("events", "--json", "--count", "1").records[0]
    first.pop("time")
    assert first == {
        "kind": "event",
        "tid": 0,
        "indicator": 0x80000000,
        "names": "STATE_CHANGE",
        "data": "10000000",
        "meaning": "FAILED",
    }


def test_devices_and_events_can_be_chosen(cli, acting):
    acting(some_events)
    ran = cli("events", "--tid", "0x10", "--mask", "volume_unload,lock_release", "--timeout", "0")
    assert [line.split()[2] for line in ran.out.splitlines()] == ["VOLUME_UNLOAD"]
    assert (ran.code, ran.err) == (0, "")


def test_a_bit_of_a_class_is_for_that_class_alone(cli, acting, monkeypatch):
    monkeypatch.setattr(Executive, "class_events", Executive.class_events | LOAD)

    def act(iop: Iop, software: SoftIop) -> None:
        assert software.events.post(0, ExecutiveEvent.RESOURCE_LIMIT, bytes(4)) == 1
        software.events.post(0, ExecutiveEvent.NEW_LCT_ENTRY, bytes(4))
        software.events.post(0, ExecutiveEvent.RESET_IMMINENT, bytes(4))
        software.events.post(DISK, LOAD, b"")

    acting(act)
    ran = cli("events", "--mask", "volume_load|reset_imminent", "--timeout", "0")
    assert [line.split()[2] for line in ran.out.splitlines()] == ["RESET_IMMINENT", "VOLUME_LOAD"]


def test_it_ends_after_so_many(cli, acting):
    acting(some_events)
    ran = cli("events", "--count", "2", "--follow")
    assert (ran.code, len(ran.out.splitlines()), ran.err) == (0, 2, "")
    ran = cli("events", "--count", "0")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_that_nothing_was_told_is_said(cli):
    ran = cli("events", "--timeout", "0.01")
    assert (ran.code, ran.out, one_line(ran)) == (1, "", "i2o: nothing was told")


def test_changes_of_the_table(cli, acting):
    def act(iop: Iop, software: SoftIop) -> None:
        software.bay.add(MemoryDisk(1 << 20))
        software.bay.remove(DISK)

    acting(act)
    ran = cli("events", "--lct", "--mask", "volume_load", "--timeout", "0.01")
    removed, added = ran.out.splitlines()
    assert removed.split("  ", 1)[1].startswith("0x010  removed: random_block_storage ")
    assert added.split("  ", 1)[1].startswith("0x011  added: random_block_storage ")
    assert ran.code == 0
    ran = cli("events", "--lct", "--json", "--mask", "volume_load", "--timeout", "0.01")
    removed, added = ran.records
    assert (removed["kind"], removed["tid"]) == ("removed", DISK)
    assert (added["kind"], added["tid"], added["class_name"]) == (
        "added", 0x011, "random_block_storage",
    )  # fmt: skip
    assert added["time"] > 1e9


def test_without_lct_only_the_event_is_shown(cli, acting):
    acting(lambda iop, software: software.bay.add(MemoryDisk(1 << 20)))
    ran = cli("events", "--timeout", "0.01")
    assert [line.split()[2] for line in ran.out.splitlines()] == ["NEW_LCT_ENTRY"]
    assert "TID 0x011 random_block_storage" in ran.out


def test_acknowledging(cli, acting):
    seen = []

    def act(iop: Iop, software: SoftIop) -> None:
        dispatch = software.lct.devices[DISK].dispatch
        answer = dispatch[Function.UTIL_EVENT_ACK]
        dispatch[Function.UTIL_EVENT_ACK] = lambda request: (
            seen.append(request.frame[16:20]),
            answer(request),
        )[1]
        software.events.post(DISK, UNLOAD, b"")

    acting(act)
    assert cli("events", "--timeout", "0.01").code == 0
    assert seen == []
    assert cli("events", "--ack", "--timeout", "0.01").code == 0
    assert seen == [UNLOAD.to_bytes(4, "little")]


def test_a_device_that_refuses(cli):
    ran = cli("events", "--tid", DDM, "--mask", "volume_load", "--timeout", "0")
    assert ran.code == 1
    assert ran.err == (
        "i2o: nothing was told\ni2o: TID 0x008 tells nothing: it has none of these events\n"
    )


def test_events_that_were_lost_are_counted(cli, acting, monkeypatch):
    monkeypatch.setattr(events_module, "KEPT", 2)

    def act(iop: Iop, software: SoftIop) -> None:
        for _ in range(5):
            software.events.post(DISK, LOAD, b"")
        iop.layer.run_until(lambda: False, 0)

    acting(act)
    ran = cli("events", "--timeout", "0")
    assert (ran.code, len(ran.out.splitlines()), ran.err) == (0, 2, "i2o: 3 events lost\n")


def test_an_iop_that_lost_its_state_is_brought_up_again(cli, acting, monkeypatch):
    monkeypatch.setattr(events, "LOOK_S", 0.0)

    def act(iop: Iop, software: SoftIop) -> None:
        revive = iop.revive

        def revive_and_tell() -> None:
            revive()
            iop.layer.run_until(lambda: False, 0)
            software.events.post(DISK, LOAD, b"")

        iop.revive = revive_and_tell
        software.reset()

    acting(act)
    ran = cli("events", "--follow", "--count", "1")
    assert ran.code == 0
    assert "VOLUME_LOAD" in ran.out
    assert one_line(ran) == "i2o: the IOP is RESET: bringing it up again"


@pytest.mark.parametrize("arguments", [(), ("--lct",)])
def test_an_iop_that_failed_is_brought_up_again(cli, acting, monkeypatch, arguments):
    monkeypatch.setattr(events, "LOOK_S", 0.0)
    acting(lambda iop, software: software.fail())
    ran = cli("events", *arguments, "--timeout", "0.2", "--mask", "state_change")
    assert (ran.code, len(ran.out.splitlines())) == (0, 1)
    assert "STATE_CHANGE  FAILED" in ran.out
    assert one_line(ran) == "i2o: the IOP is FAILED: bringing it up again"


def test_an_iop_that_crashed_is_brought_up_again(cli, acting, monkeypatch):
    monkeypatch.setattr(events, "LOOK_S", 0.0)

    def act(iop: Iop, software: SoftIop) -> None:
        check = iop.layer.check

        def crashed(number: int) -> IopStatus:
            monkeypatch.setattr(iop.layer, "check", check)
            raise IopDead("no status block")

        iop.layer.check = crashed

    acting(act)
    ran = cli("events", "--timeout", "0.2")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "i2o: no status block: bringing the IOP up again",
        "i2o: nothing was told",
    ]


def test_an_iop_that_is_gone(cli, acting):
    acting(lambda iop, software: iop.layer.detach(iop.number))
    ran = cli("events", "--follow")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("i2o: IOP 0 is detached")
    assert "Traceback" not in ran.err


def test_an_interrupt_ends_following(cli, acting, monkeypatch):
    def act(iop: Iop, software: SoftIop) -> None:
        some_events(iop, software)
        iop.layer.run_until(lambda: False, 0)
        take = events_module.EventStream.take

        def take_or_stop(stream, timeout_s):
            event = take(stream, 0)
            if event is None:
                raise KeyboardInterrupt
            return event

        monkeypatch.setattr(events_module.EventStream, "take", take_or_stop)

    acting(act)
    ran = cli("events", "--follow")
    assert (ran.code, len(ran.out.splitlines()), ran.err) == (0, 3, "")
    ran = cli("events")
    assert (ran.code, ran.err) == (130, "i2o: interrupted\n")


# --- processes ----------------------------------------------------------------------------------

DRIVER = """
import sys
from i2o.iop import Iop
from i2o.tools import cli

listen = Iop.events

def tell(iop, *args, **options):
    stream = listen(iop, *args, **options)
    for value in range({changes}):
        iop.params_set(0x10, "operational_control", {{"retry_attempts": value % 256}})
    print("up", file=sys.stderr, flush=True)
    return stream

Iop.events = tell
sys.exit(cli.main(["events", *sys.argv[1:]]))
"""


@pytest.fixture
def start(environment):
    """Start the command on an IOP whose disk tells of changed fields."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, changes: int = 2) -> subprocess.Popen[str]:
        script = DRIVER.format(changes=changes)
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=CHECKOUT,
            text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("run", ["inline", "thread", "process"])
def test_lines_are_shown_at_once_and_an_interrupt_ends_it(start, run):
    process = start("--follow", "-i", f"emu:?run={run}", "--json")
    records = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert {record["names"] for record in records} == {"FIELD_MODIFIED"}
    assert records[0]["meaning"].startswith("group 0x")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "up\n")


def test_a_closed_pipe_ends_it(start):
    process = start("--follow", changes=400)
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)  # more is told than it takes
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == "up\n"


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("all", ALL_EVENTS),
        ("0xffffffff", ALL_EVENTS),
        ("state_change", 0x80000000),
        ("STATE_CHANGE | 0x40000000, 1", 0xC0000001),
        ("volume_load", 1),
        ("link_up,volume_load", 3),
        ("scsi_smart", 0x10),
    ],
)
def test_masks(text, bits):
    assert event_mask(text).bits == bits


def test_a_mask_by_class():
    mask = event_mask("volume_load,0x40000000")
    disk, executive = DeviceClass.RANDOM_BLOCK_STORAGE, DeviceClass.EXECUTIVE
    assert mask.wants(1, disk)
    assert not mask.wants(1, executive)
    assert not mask.wants(2, disk)
    assert mask.wants(0x40000000, -1)
    assert EventMask().wants(1, -1)
    both = event_mask("scsi_smart")
    assert both.wants(0x10, disk)
    assert both.wants(0x10, DeviceClass.SCSI_PERIPHERAL)
    assert not both.wants(0x10, executive)


def test_every_name_is_a_mask():
    names = event_name_list()
    assert len(names) == len(set(names))
    for name in names:
        assert event_mask(name).bits
    known = {n.lower() for c in (GenericEvent, *OF_CLASS.values()) for n in c.__members__}
    assert known - set(names) == {"event_mask_modified", "bit0", "bit1", "bit2", "bit3"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("volume_laod", "'volume_laod' is no event: did you mean 'volume_load'?"),
        ("qqq", "'qqq' is no event"),
        ("", "'' is no event"),
        ("volume_load,", "'' is no event"),
        ("0", "'0' leaves no event"),
        ("event_mask_modified", "leaves no event"),
        ("0x100000000", "'0x100000000' is no event mask: those end at 0xffffffff"),
        ("0x1g", "'0x1g' is no number"),
        ("-1", "'-1' is no event"),
    ],
)
def test_masks_that_are_none(text, says):
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(says)):
        event_mask(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--mask", "volume_laod"], "did you mean 'volume_load'?"),
        (["--timeout", "x"], "'x' is no number of seconds"),
        (["--timeout", "nan"], "'nan' is no number of seconds"),
        (["--timeout=-1"], "'-1' is no number of seconds"),
        (["--timeout", "1e9"], "is no number of seconds"),
        (["--timeout", "1", "--follow"], "not allowed with"),
        (["--count", "x"], "'x' is no number"),
        (["--tid", "0x1000"], "is no TID"),
        (["-i", "nothing:"], "nothing"),
    ],
)
def test_wrong_arguments(cli, arguments, says):
    ran = cli("events", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert says in one_line(ran)


def test_a_device_that_is_not_there(cli):
    ran = cli("events", "--tid", "0x99")
    assert ran.code == 1
    assert one_line(ran).startswith("i2o: no device has TID 0x099")


def test_help_names_the_events(cli):
    assert "volume_unload_request" in cli("events", "--help").out
