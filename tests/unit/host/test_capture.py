# SPDX-License-Identifier: Apache-2.0
"""`I2O_CAPTURE` and captures made by hand, with whole IOPs behind them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import i2o
from fakes import scripted_endpoint
from fakes.pcapng_blocks import section
from fakes.scripted_endpoint import ScriptedEndpoint, ScriptedListener
from i2o import capture
from i2o.capture import VARIABLE, CaptureOptions, captured, environment_capture, tapped
from i2o.clock import SYSTEM_CLOCK
from i2o.decode.conversation import DMA, REPLY, REQUEST, Conversation
from i2o.errors import CaptureError, I2OError, UriError
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.functions import UNANSWERED, DeviceClass, Function
from i2o.iop_emulator.emu_port import EmuPort
from i2o.message_layer import MessageLayer
from i2o.transport import registry
from i2o.transport.capture import capture_target, environment
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.endpoint_tap import TapEndpoint
from i2o.transport.capture.message_record import EventCode, Kind, unpack_record
from i2o.transport.capture.packet import Channel
from i2o.transport.capture.reader import open_capture
from i2o.transport.capture.recorder import PacketRecorder
from i2o.transport.capture.tap import TapPort
from i2o.transport.fabric.errors import FabricError
from i2o.transport.registry import open_port
from i2o.transport.tcp.address import Address
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.peer_name import PeerName

BLOCK = DeviceClass.RANDOM_BLOCK_STORAGE.value
DISK = 0x10


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Ask for a capture by the environment; returns how, and closes it."""

    def ask(options: str = "", name: str = "a.pcapng") -> Path:
        monkeypatch.setenv(VARIABLE, f"{tmp_path / name}{options}")
        return tmp_path / name

    monkeypatch.delenv(VARIABLE, raising=False)
    yield ask
    if os.environ.get(VARIABLE):
        file = environment_capture()
        if file is not None:
            file.close()
    environment._capture_to.cache_clear()


def traced(path) -> list:
    conversation = Conversation()
    with open_capture(str(path)) as packets:
        found = [conversation.feed(packet) for packet in packets]
        assert (packets.problems, packets.dropped) == ([], 0)
    return found


def use_disk(iop) -> None:
    with iop.block(DISK) as disk:
        disk.write(0, b"written" * 1024)
        disk.flush()
        assert disk.read(0, 7) == b"written"


@pytest.mark.parametrize("run", ["inline", "thread", "process"])
@pytest.mark.parametrize("source", ["memory", "fifo"])
def test_bring_up_and_block_io(asked, run, source):
    path = asked()
    with i2o.open(f"emu:?run={run}", frame_source=source) as iop:
        use_disk(iop)
    environment_capture().close()
    found = traced(path)
    requests = [t for t in found if t.kind == REQUEST]
    replies = [t for t in found if t.kind == REPLY]
    names = [t.function for t in requests]
    assert names[0] == Function.EXEC_STATUS_GET
    for function in (Function.BSA_BLOCK_WRITE, Function.BSA_BLOCK_READ, Function.EXEC_IOP_RESET):
        assert function in names
    owed = [t for t in requests if t.function not in UNANSWERED]
    assert [t.request for t in replies] == owed
    assert all(t.latency_ns >= 0 for t in replies)
    assert [t.packet.time_ns for t in found] == sorted(t.packet.time_ns for t in found)
    # memory: the status blocks, tables and data
    pieces = [t for t in found if t.kind == DMA]
    assert all(t.request is not None and t.buffer is not None for t in pieces)
    for t in pieces:
        assert t.index > t.request.index
    functions = {t.request.function for t in pieces}
    assert functions == {
        Function.EXEC_STATUS_GET,
        Function.EXEC_OUTBOUND_INIT,
        Function.EXEC_HRT_GET,
        Function.EXEC_SYS_TAB_SET,
        Function.EXEC_LCT_NOTIFY,
        Function.UTIL_PARAMS_GET,
        Function.BSA_BLOCK_WRITE,
        Function.BSA_BLOCK_READ,
        Function.EXEC_IOP_RESET,
    }
    status = next(t for t in pieces if t.function == Function.EXEC_STATUS_GET)
    assert (len(status.packet.data), status.packet.data[-1]) == (88, 0xFF)
    (read,) = (t for t in pieces if t.function == Function.BSA_BLOCK_READ)
    (written,) = (t for t in pieces if t.function == Function.BSA_BLOCK_WRITE)
    assert read.packet.channel == Channel.FROM_DEVICE
    assert written.packet.channel == Channel.TO_DEVICE
    assert read.packet.data.startswith(b"written")
    assert len(written.packet.data) == 504
    assert written.packet.length == 7168
    assert next(t for t in requests if t.target == DISK).device_class == BLOCK


@pytest.mark.parametrize("run", ["inline", "thread"])
def test_repeated_contexts_are_paired(asked, run):
    path = asked()
    with MessageLayer() as layer:
        iop = layer.attach(f"emu:?run={run}")
        done = []
        registered = layer.register([lambda n, reply: (done.append(1), layer.free_reply(n, reply))])
        for _ in range(50):
            message = BSA_STATUS_CHECK.build(
                target_address=DISK, initiator_context=registered[1][0], transaction_context=7
            )
            layer.submit(iop, message)
        assert layer.run_until(lambda: len(done) == 50, 10)
    environment_capture().close()
    found = [t for t in traced(path) if t.function == Function.BSA_STATUS_CHECK]
    requests = [t for t in found if t.kind == REQUEST]
    assert len(requests) == 50
    assert [t.request for t in found if t.kind == REPLY] == requests


def test_all_iops_of_a_program_go_to_one_file(asked):
    path = asked("?dma=0")
    with MessageLayer() as layer:
        layer.attach("emu:?seed=1")
        layer.attach(open_port("emu:?seed=2"))
    environment_capture().close()
    found = section(path)
    assert found.names() == ["iop0.in", "iop0.out", "iop1.in", "iop1.out"]
    assert found.interfaces[3][1] == "emu:?seed=2"
    assert {p.interface for p in found.packets} == {0, 1, 2, 3}


def test_a_messenger_is_captured_with_the_states_of_its_links(asked):
    path = asked()
    with Messenger(PeerName(1, 0)) as here, Messenger(PeerName(1, 1), loops=1) as there:
        here.set_peer(there.name, [there.address])
        here.send(there.name, [b"seen"], 7, timeout_s=20)
        assert there.recv(7, timeout_s=20).data == b"seen"
    environment_capture().close()
    found = section(path)
    assert [interface[1] for interface in found.interfaces] == ["peers of 1.0", "peers of 1.1"]
    records = [[], []]
    for packet in found.packets:
        records[packet.interface].append(unpack_record(packet.data))
    sent, got = records
    states = [one.payload for one in sent if one.event == EventCode.STATE]
    assert f"connected to {there.address}".encode() in states
    assert [one.kind for one in sent if one.event != EventCode.STATE] == [
        Kind.SEND, Kind.SENT, Kind.EVENT,
    ]  # fmt: skip
    assert [one.payload for one in got if one.kind == Kind.RECEIVED] == [b"seen"]
    assert sent[-1].event == got[-1].event == EventCode.CLOSE


def test_a_messenger_that_is_not_captured_has_nothing_in_front(asked):
    with Messenger(PeerName(1, 0)) as alone:
        assert not set(vars(alone)) & {"send_nb", "send", "recv", "close"}
    asked("?messages=0")
    with Messenger(PeerName(1, 0)) as alone:
        assert not set(vars(alone)) & {"send_nb", "send", "recv", "close"}


def test_a_messenger_that_cannot_be_captured_listens_no_more(asked):
    asked("?messages=perhaps")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with pytest.raises(CaptureError):
        Messenger(PeerName(1, 0), [Address("127.0.0.1", port)])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    os.environ[VARIABLE] = ""


def test_off_means_that_nothing_is_there(asked):
    with MessageLayer() as layer:
        port = open_port("emu:")
        assert layer.port(layer.attach(port)) is port
        assert type(layer.port(layer.attach("emu:"))) is EmuPort
    assert environment_capture() is None
    os.environ[VARIABLE] = ""
    assert environment_capture() is None


def test_off_costs_no_call_of_a_message(asked):
    """The same calls are made for each message whether a port came by URI or was put in."""

    def calls(layer, iop):
        made = []
        callback = layer.register([lambda number, reply: layer.free_reply(number, reply)])
        message = BSA_STATUS_CHECK.build(target_address=DISK, initiator_context=callback[1][0])
        layer.submit(iop, message)
        layer.poll()
        sys.setprofile(lambda frame, event, arg: made.append(frame.f_code.co_qualname))
        try:
            layer.submit(iop, message)
            layer.poll()
        finally:
            sys.setprofile(None)
        return made

    with MessageLayer() as layer:
        by_uri = calls(layer, layer.attach("emu:"))
    with MessageLayer() as layer:
        entry = layer._iops.add(open_port("emu:"), frames_from_fifo=False)  # past the hook
        layer.bring_up(entry.number)
        assert calls(layer, entry.number) == by_uri
    assert not [name for name in by_uri if "apture" in name or "Tap" in name]


def test_nothing_is_captured_twice_to_one_file(asked):
    asked()
    file = environment_capture()
    with open_port("emu:") as port:
        once = captured(port, file)
        assert isinstance(once, TapPort)
        assert captured(once, file) is once
        other = tapped(once, PacketRecorder(lambda packet: None))
        assert captured(other, file) is other


def test_a_capture_by_hand_and_one_by_the_environment(asked, tmp_path):
    path = asked()
    with i2o.open(capture.capture("emu:", tmp_path / "hand.pcapng")) as iop:
        use_disk(iop)
    environment_capture().close()
    one, other = section(path), section(tmp_path / "hand.pcapng")
    assert [p.data for p in one.of("iop0.in")] == [p.data for p in other.of("iop0.in")]
    assert len(one.of("iop0.out")) == len(other.of("iop0.out"))


def test_a_capture_by_hand_ends_with_its_port(asked, tmp_path):
    port = capture.capture(open_port("emu:"), tmp_path / "a", dma=False)
    port.close()
    assert len(section(tmp_path / "a").statistics) == 2
    with pytest.raises(UriError):
        capture.capture("nonsense", tmp_path / "b")
    with pytest.raises(CaptureError):
        capture.capture("emu:", "/")


def test_a_capture_by_hand_rotates(asked, tmp_path):
    with i2o.open(capture.capture("emu:", tmp_path / "a", max_file_bytes=4096, max_files=2)) as iop:
        use_disk(iop)
    assert len(list(tmp_path.iterdir())) == 2


def test_every_option(asked, tmp_path):
    options = CaptureOptions.parse(
        "a b?dma=no&snap=128&dma_snap=1K&size=64M&seconds=1.5&files=5&queue=1G"
    )
    assert options == CaptureOptions(
        file="a b",
        dma=False,
        snap_length=128,
        dma_snap=1024,
        max_file_bytes=64 << 20,
        max_file_seconds=1.5,
        max_files=5,
        queue_bytes=1 << 30,
    )
    assert CaptureOptions.parse("a?dma=1") == CaptureOptions.parse("a") == CaptureOptions("a")
    asked("?size=4096&files=2&snap=64")
    with i2o.open("emu:") as iop:
        use_disk(iop)
    environment_capture().close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert max(len(p.data) for f in files for p in section(f).packets) == 64


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-", "programs print to standard output"),
        ("-?dma=0", "programs print to standard output"),
        ("?dma=0", "names no file"),
        ("a?", None),
        ("a?color=1", "unknown option 'color'; there are dma, dma_snap, files,"),
        ("a?dma", "options must read name=value"),
        ("a?dma=maybe", "dma='maybe' is not understood"),
        ("a?size=64X", "size='64X' is not understood"),
        ("a?size=", "size='' is not understood"),
        ("a?size=8K&size=9K", "'size' is given twice"),
        ("a?files=3", "needs a size or a time"),
        ("a?queue=-1", "queue='-1' is not understood"),
        ("/nonexistent/a", "cannot capture to /nonexistent/a: No such file"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_opened(
    asked, text, reason, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    asked()
    monkeypatch.setenv(VARIABLE, text)
    opened = []
    monkeypatch.setattr("i2o.message_layer.open_port", lambda *a, **k: opened.append(a))
    with MessageLayer() as layer:
        if reason is None:
            assert environment_capture() is not None
            return
        with pytest.raises(CaptureError, match=reason) as caught:
            layer.attach("emu:")
        assert isinstance(caught.value, I2OError)
        assert "\n" not in str(caught.value)
        assert opened == []
        assert layer.iop_count() == 0
    monkeypatch.delenv(VARIABLE)


def test_a_fifo_that_is_taken_is_left_alone(asked, tmp_path, caplog):
    path = asked(name="fifo")
    os.mkfifo(path)
    keeper = os.open(path, os.O_RDWR)
    try:
        with CaptureFile(path), i2o.open("emu:") as iop:
            assert not isinstance(iop.layer.port(iop.number), TapPort)
        assert "this one is not captured" in caplog.text
    finally:
        os.close(keeper)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12
def test_a_forked_child_gets_a_file_of_its_own(asked, tmp_path):
    path = asked()
    with i2o.open("emu:"):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with i2o.open("emu:"):
                    pass
                file = environment_capture()
                file.close()
                code = 0 if file.name == str(tmp_path / f"a-{os.getpid()}.pcapng") else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    environment_capture().close()
    assert traced(path)
    assert traced(tmp_path / f"a-{child}.pcapng")


# --- programs that know nothing of it ------------------------------------------------------------

PROGRAM = """
import sys, time, i2o
iop = i2o.open("emu:")
disk = iop.block(0x10)
disk.write(0, bytes(512))
print("ready", flush=True)
if sys.argv[1:]:
    while True:
        disk.read(0, 512)
        time.sleep(0.001)
"""


def start(path, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, VARIABLE: str(path)},
    )


def test_a_program_that_never_closes_anything(tmp_path):
    out, err = start(tmp_path / "a.pcapng").communicate(timeout=30)
    assert (out, err) == (b"ready\n", b"")
    assert Function.BSA_BLOCK_WRITE in {t.function for t in traced(tmp_path / "a.pcapng")}
    assert len(section(tmp_path / "a.pcapng").statistics) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_killed(tmp_path, number):
    path = tmp_path / "a.pcapng"
    with start(path, "forever") as process:
        assert process.stdout.readline() == b"ready\n"
        while path.stat().st_size < 100_000:  # far more than 30 reads
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=30)
    with open_capture(str(path)) as packets:
        found = list(packets)
        assert packets.problems == []
    assert len([p for p in found if p.channel == Channel.IN]) > 30


def test_an_interrupted_program_leaves_a_whole_file(tmp_path):
    with start(tmp_path / "a.pcapng", "forever") as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert len(section(tmp_path / "a.pcapng").statistics) == 3


def test_two_programs_do_not_destroy_each_others_capture(tmp_path):
    path = tmp_path / "a.pcapng"
    with start(path, "forever") as first:
        assert first.stdout.readline() == b"ready\n"
        second = start(path)
        _, err = second.communicate(timeout=30)
        assert b"is being captured into already: using" in err
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=30)
    for file in (path, tmp_path / f"a-{second.pid}.pcapng"):
        assert Function.EXEC_LCT_NOTIFY in {t.function for t in traced(file)}


def test_a_shells_descriptor(tmp_path):
    with open(tmp_path / "a.pcapng", "wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, VARIABLE: f"/dev/fd/{file.fileno()}"},
            pass_fds=[file.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(section(tmp_path / "a.pcapng").statistics) == 3


def test_the_reader_of_a_fifo_may_leave(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(capture_target, "_READER_PATIENCE_S", 5.0)
    path = asked(name="fifo")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with i2o.open("emu:", clock=SYSTEM_CLOCK) as iop:
        environment_capture().flush()
        assert os.read(reader, 4) == b"\x0a\x0d\x0d\x0a"
        os.close(reader)
        for _ in range(3):
            use_disk(iop)
            environment_capture().flush()
    assert environment_capture().dropped > 0


# --- endpoints -----------------------------------------------------------------------------------


def test_endpoints_by_environment(asked, tmp_path):
    endpoint, listener = ScriptedEndpoint(), ScriptedListener()
    assert environment.endpoint_by_environment(endpoint) is endpoint
    assert environment.listener_by_environment(listener) is listener
    asked("?messages=no")
    assert environment.endpoint_by_environment(endpoint) is endpoint
    assert not list(tmp_path.iterdir())
    path = asked("?message_snap=4")
    with environment.endpoint_by_environment(endpoint, "mem://a") as tap:
        assert isinstance(tap, TapEndpoint)
        assert environment.endpoint_by_environment(tap) is tap
        tap.send(b"too long")
        with i2o.open("emu:") as iop:  # into the same file
            use_disk(iop)
        with environment.listener_by_environment(listener) as listens:
            listener.asked()
            made = listens.events.read().request.endpoint()
            assert isinstance(made, TapEndpoint)
            made.accept()
    file = environment_capture()
    file.close()
    assert section(path).names() == ["ep0", "iop0.in", "iop0.out", "iop0.dma", "ep1", "ep2"]
    names = [description for _, description, _, _ in section(path).interfaces]
    assert names[0] == "mem://a"
    assert names[4:] == ["scripted://listens", "scripted://here"]
    sends = [one for one in traced(path) if one.name == "send"]
    assert [(one.record.payload, one.record.length) for one in sends] == [(b"too ", 8)]
    assert sends[0].record.endpoint_type == 3


def test_an_endpoint_is_in_one_capture_once_and_in_two_if_asked(tmp_path):
    with CaptureFile(tmp_path / "a") as one, CaptureFile(tmp_path / "b") as two:
        endpoint = ScriptedEndpoint()
        first = environment.captured_endpoint(endpoint, one)
        second = environment.captured_endpoint(first, two)
        assert second.inner is first
        assert environment.captured_endpoint(second, one) is second
        second.send(b"x")
    for path in (tmp_path / "a", tmp_path / "b"):
        assert [one.name for one in traced(path)] == ["send"]


def test_an_endpoint_without_a_name_yet(tmp_path):
    class Nameless(ScriptedEndpoint):
        @property
        def name(self):
            raise FabricError(22, "not enabled")

    with CaptureFile(tmp_path / "a") as file:
        environment.captured_endpoint(Nameless(), file)
    assert section(tmp_path / "a").interfaces[0][:2] == ("ep0", "")


def test_what_opens_endpoints_looks_at_the_environment(asked, tmp_path, monkeypatch):
    monkeypatch.setitem(registry._OWN_ENDPOINTS, "scripted", "fakes.scripted_endpoint")
    assert isinstance(registry.open_endpoint("scripted:a"), ScriptedEndpoint)
    assert isinstance(registry.open_listener("scripted:a"), ScriptedListener)
    path = asked()
    with registry.open_endpoint("scripted:a?x=1") as endpoint:
        assert isinstance(endpoint, TapEndpoint)
        endpoint.send(b"seen")
    with registry.open_listener("scripted:b") as listener:
        listener.inner.asked()
        assert listener.events.read().request is not None
    environment_capture().close()
    assert [one.name for one in traced(path)] == ["send", "close", "connreq", "close"]
    descriptions = [description for _, description, _, _ in section(path).interfaces]
    assert descriptions == ["scripted:a?x=1", "scripted:b"]


def test_an_endpoint_that_cannot_be_captured_is_closed(asked, monkeypatch):
    made = []

    class Noting(ScriptedEndpoint):
        def __init__(self):
            super().__init__()
            made.append(self)

    class NotingListener(ScriptedListener):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setitem(registry._OWN_ENDPOINTS, "scripted", "fakes.scripted_endpoint")
    monkeypatch.setattr(scripted_endpoint, "ScriptedEndpoint", Noting)
    monkeypatch.setattr(scripted_endpoint, "ScriptedListener", NotingListener)
    monkeypatch.setenv(VARIABLE, "a?color=1")
    with pytest.raises(CaptureError, match="color"):
        registry.open_endpoint("scripted:a")
    with pytest.raises(CaptureError, match="color"):
        registry.open_listener("scripted:a")
    endpoint, listener = made
    assert endpoint.calls[-1][0] == "close"
    assert listener.is_closed
    monkeypatch.delenv(VARIABLE)
