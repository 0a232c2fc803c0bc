# SPDX-License-Identifier: Apache-2.0
"""`i2o nmsg`: over an IOP that outlives the commands, and as a node of its own."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import pytest

import i2o
from i2o.iop import Iop
from i2o.network_message import IopNode, Node, nmsg
from i2o.tools import nmsg as command
from i2o.transport.registry import open_endpoint

POUCH = "1,0xffffffff,3"


@pytest.fixture
def iop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Iop]:
    """An IOP that every command opens anew, and which stays."""
    with i2o.open("emu:?network_messages=64K") as iop:

        class Kept:
            def __enter__(self) -> Iop:
                return iop

            def __exit__(self, *error: object) -> None:
                pass

        monkeypatch.setattr(command.opening, "open", lambda uri: Kept())
        yield iop


def test_send_and_receive(iop: Iop, cli) -> None:
    assert cli("nmsg", "send", "7", "hello", "--type", "4", "--data", POUCH).code == 0
    ran = cli("nmsg", "receive", "7", "--type", "6")
    assert ran.out.splitlines() == [
        "from node 2, event 7, type 0x4, 5 bytes, pouch 1 -1 3 0 0 0 0 0",
        "hello",
    ]


def test_json_says_everything(iop: Iop, cli) -> None:
    ran = cli("nmsg", "send", "7", "hello", "--json")
    assert ran.records == [{"sent": 5, "event": 7, "taken_by": 0x4000000D}]
    assert cli("nmsg", "probe", "7", "--json").records == [{"event": 7, "type": 0, "length": 5}]
    (row,) = cli("nmsg", "list", "--json").records
    assert (row["event"], row["length"], row["is_announced"]) == (7, 5, False)
    (got,) = cli("nmsg", "receive", "7", "--length", "3", "--json").records
    assert got == {
        "source": 2, "event": 7, "type": 0, "flags": 0, "length": 3, "sent": 5, "data": [0] * 8,
        "body": b"hel".hex(),
    }  # fmt: skip
    cli("nmsg", "send", "7")
    assert cli("nmsg", "sweep", "--json").records == [{"swept": 1}]


def test_a_message_that_is_longer_says_so(iop: Iop, cli) -> None:
    cli("nmsg", "send", "7", "hello")
    assert "3 bytes (2 more did not fit)" in cli("nmsg", "receive", "7", "--length", "3").out


def test_raw_bytes_from_stdin_to_stdout(iop: Iop, cli, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\0\xff")))
    assert cli("nmsg", "send", "7", "-").code == 0
    assert cli("nmsg", "receive", "7", "--json").records[0]["body"] == "00ff"
    cli("nmsg", "send", "7", "text")
    assert cli("nmsg", "receive", "7", "--raw").out == "text"


def test_an_argument_is_sent_as_the_bytes_that_it_is(iop: Iop, cli) -> None:
    assert cli("nmsg", "send", "7", "\udcff\u00e9").code == 0
    (got,) = cli("nmsg", "receive", "7", "--json").records
    assert bytes.fromhex(got["body"]) == b"\xff\xc3\xa9"


def test_probe_list_and_sweep(iop: Iop, cli) -> None:
    ran = cli("nmsg", "probe", "7")
    assert (ran.code, ran.err) == (1, "i2o: no such message is here\n")
    for event in ("7", "8", "7"):
        cli("nmsg", "send", event, "hello", "--type", "0x80000000")
    assert cli("nmsg", "probe", "7").out == "event 7, type -0x80000000, 5 bytes\n"
    assert cli("nmsg", "list").out.splitlines()[1].split() == [
        "1", "2", "7", "-0x80000000", "5", "0x0",
    ]  # fmt: skip
    assert cli("nmsg", "sweep", "7").out == "2 messages swept\n"
    assert cli("nmsg", "sweep").out == "1 message swept\n"


def test_not_to_wait(iop: Iop, cli) -> None:
    assert cli("nmsg", "receive", "7", "--timeout", "0").code == 1
    assert cli("nmsg", "receive", "7", "--timeout", "0", "--json").out == ""
    ran = cli("nmsg", "send", "7", "x", "--nobuf", "--timeout", "0")
    assert ran.code == 1
    assert "event 7" in ran.err
    ran = cli("nmsg", "receive", "7", "--transfer", "--timeout", "0.01")
    assert ran.code == 1
    assert "not within 0.01 s" in ran.err
    ran = cli("nmsg", "send", "7", "--transfer", "--timeout", "0.01")
    assert ran.code == 1
    assert cli("nmsg", "send", "7", "x", "--timeout", "0").code == 0


def test_a_node_that_is_not_there(iop: Iop, cli) -> None:
    ran = cli("nmsg", "send", "7", "--node", "9")
    assert ran.code == 1
    assert "bad node" in ran.err


def test_an_iop_without_network_messages(cli) -> None:
    ran = cli("nmsg", "list")
    assert ran.code == 1
    assert "has no network messages" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["send"], "needs an event"),
        (["receive", "7", "text"], "takes no text"),
        (["list", "--endpoint", "tcp://127.0.0.1:0"], "is for an IOP"),
        (["send", "7", "--peer", "2"], "NUMBER=ADDRESS"),
        (["send", "7", "--data", "1,2,3,4,5,6,7,8,9"], "8 words"),
        (["send", "0x40000000"], "no event"),
        (["receive", "7", "--length", "99999G"], "room for 1G at most"),
        (["receive", "7", "--priority", "0x80000000"], "no priority"),
        (["send", "7", "--number", "0x80000000"], "no number of a node"),
        (["send", "7", "--peer", "0x80000000=tcp://127.0.0.1:1"], "no number of a node"),
        (["send", "7", "--endpoint", "tcp://127.0.0.1:0", "--node", "3"], "--peer 3=ADDRESS"),
    ],
)
def test_wrong_usage(cli, arguments: list[str], says: str) -> None:
    ran = cli("nmsg", *arguments)
    assert ran.code == 2
    assert says in ran.err


def test_a_node_of_its_own_sends(cli) -> None:
    with Node(2, open_endpoint("tcp://127.0.0.1:0")) as node:
        got = nmsg(nh_event=7, nh_msg=bytearray(9))
        thread = threading.Thread(
            target=lambda: node.attach("p").nrecv(got, source=None, timeout_s=20)
        )
        thread.start()
        stop = threading.Event()
        driver = threading.Thread(target=lambda: _drive(node, stop))
        driver.start()
        try:
            peer = f"2={node.address}"
            ran = cli(
                "nmsg", "send", "7", "hello", "--node", "2", "--endpoint", "tcp://127.0.0.1:0",
                "--number", "1", "--peer", peer, "--timeout", "20",
            )  # fmt: skip
        finally:
            thread.join()
            stop.set()
            driver.join()
        assert ran.code == 0
        assert "node 1 is at" in ran.err
        assert bytes(got.nh_msg[:5]) == b"hello"


def _drive(node: Node, stop: threading.Event) -> None:
    while not stop.wait(0.001):
        node.progress()


def test_a_node_of_its_own_hears_nothing(cli) -> None:
    ran = cli("nmsg", "receive", "7", "--endpoint", "tcp://127.0.0.1:0", "--timeout", "0.01")
    assert ran.code == 1
    assert "not within 0.01 s" in ran.err


def test_the_iops_node_is_the_same(iop: Iop) -> None:
    assert IopNode(iop).number == 2
