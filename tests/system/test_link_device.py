# SPDX-License-Identifier: Apache-2.0
"""The C device of docs/link-protocol.md: the same test vectors, and a disk that we can read."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
from pathlib import Path

import pytest

from fakes.noisy_line import Noise
from fakes.pty_cable import PtyCable
from i2o.frames.block_storage import BSA_BLOCK_READ, BSA_SUCCESS_REPLY
from i2o.frames.header import ReqStatus
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.testing.bare_host import BareHost
from i2o.transport.registry import open_port
from i2o.transport.serial_line.cobs import Splitter, decode
from i2o.transport.serial_line.link_frames import (
    LARGEST_PACKET,
    Ack,
    Bye,
    ByeCode,
    Data,
    FrameFlags,
    Hello,
    LinkFrame,
    frame_bytes,
    link_number,
    read_frame,
)

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "docs/examples/link_device"
SOURCES = sorted((ROOT / FOLDER).glob("*.c"))
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
DISK_TID = 0x10
PATIENCE_S = 20


def build(path: Path, sources: list[Path], *flags: str) -> Path:
    """Compile a program, with checks of its memory if the compiler has them."""
    strict = ["-std=c11", "-D_DEFAULT_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", *flags]
    checked = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = ["cc", *strict, "-o", str(path), *map(str, sources)]
    if subprocess.run([*command, *checked], capture_output=True).returncode:
        subprocess.run(command, check=True)  # this compiler has no sanitizers
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("device") / "link_device", SOURCES)


def test_the_vectors_are_the_same(program):
    """Every frame and every stuffed packet that our tests check."""
    folder = ROOT / "tests/data/link"
    stuffed = json.loads((folder / "cobs.json").read_text())["vectors"]
    frames = json.loads((folder / "frames.json").read_text())["vectors"]
    lines = [
        *(f"{vector['plain'] or '-'} {vector['stuffed']}" for vector in stuffed),
        *(f"{decode(bytes.fromhex(each['packet'])).hex()} {each['packet']}" for each in frames),
    ]
    done = subprocess.run(
        [program, "--vectors"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    *found, last = done.stdout.splitlines()
    assert last == f"{len(lines)} vectors"
    assert found == [f"frame {vector['kind'][0].upper()}" for vector in frames]


@pytest.mark.parametrize(
    "noise",
    [Noise(), Noise(bit_errors=3e-5, dropped=1e-4, doubled=1e-4, lost_frames=0.05, garbage=0.05)],
    ids=["clean", "noisy"],
)
def test_status_get_and_a_block_read(program, tmp_path, noise):
    with PtyCable(tmp_path, noise, names=("card", "host")) as cable:
        card, host = cable.devices
        device = subprocess.Popen([program, card])
        try:
            with open_port(f"serial:{host}") as port:
                bare = BareHost(port)
                assert bare.state() == IopState.OPERATIONAL
                bare.init_outbound()
                for start, size in ((0, 512), (4096, 5000), ((1 << 20) - 100, 100)):
                    check_read(bare, start, size)
                reply = read(bare, 1 << 20, 512)[0]
                assert reply.req_status == ReqStatus.ERROR_NO_DATA_TRANSFER
                port.reset()
                assert bare.state() == IopState.OPERATIONAL
                bare.init_outbound()
                check_read(bare, 70000, 512)
            with open_port(f"serial:{host}") as port:
                assert BareHost(port).state() == IopState.OPERATIONAL
        finally:
            device.terminate()
            device.wait()


class Listener:
    """The host's end of a line, without a link."""

    def __init__(self, path: str) -> None:
        self.line = os.open(path, os.O_RDWR | os.O_NOCTTY)
        self._splitter = Splitter(LARGEST_PACKET)

    def say(self, frame: LinkFrame) -> None:
        os.write(self.line, b"\0" + frame_bytes(frame) + b"\0")

    def first(self) -> LinkFrame:
        """Return the frame that comes next; what comes with it is left out."""
        while select.select([self.line], [], [], PATIENCE_S)[0]:
            for packet in self._splitter.split(os.read(self.line, 4096)):
                return read_frame(packet)
        raise AssertionError("it says nothing")

    def hear(self, seconds: float) -> list[LinkFrame]:
        """Return the frames that come until nothing has for so long."""
        found: list[LinkFrame] = []
        while select.select([self.line], [], [], seconds)[0]:
            found += map(read_frame, self._splitter.split(os.read(self.line, 4096)))
            assert len(found) < 100, "it does not stop"
        return found


def test_who_asks_and_goes_is_not_answered_for_ever(program, tmp_path):
    """HELLOs in both directions, and nothing more: the device falls silent after 5 s."""
    with PtyCable(tmp_path, names=("card", "host")) as cable:
        card, host = cable.devices
        device = subprocess.Popen([program, card])
        try:
            listener = Listener(host)
            try:
                listener.say(Hello(7, 0, 4, 256, 4096))
                answers = listener.hear(1.0)
                assert 2 <= len(answers) <= 25, "four a second, for five seconds"
                assert {type(each) for each in answers} == {Hello}
                assert {each.echo for each in answers} == {7}
                listener.say(Hello(8, 0, 4, 256, 4096))
                session = listener.first().session
                assert session != answers[0].session, "each attempt has a session of its own"
                listener.say(Bye(session, ByeCode.FRAME_SIZE))
                assert len(listener.hear(0.6)) <= 1
            finally:
                os.close(listener.line)
        finally:
            device.terminate()
            device.wait()


def test_a_silent_host_is_given_up(tmp_path):
    """What nobody acknowledges is repeated, less and less often, and not for ever."""
    program = build(tmp_path / "impatient", SOURCES, "-DLINK_GIVE_UP_MS=1500")
    with PtyCable(tmp_path, names=("card", "host")) as cable:
        card, host = cable.devices
        device = subprocess.Popen([program, card])
        listener = Listener(host)
        try:
            listener.say(Hello(7, 0, 4, 256, 4096))
            to = link_number(7, listener.first().session)
            listener.say(Ack(to, 0, 0, 0, 4, 0))
            said = [each for each in listener.hear(1.6) if isinstance(each, Data)]
            assert 2 <= len(said) <= 10
            assert {each.sequence for each in said} == {0}
            listener.say(Ack(to, 0, FrameFlags.POLL, 0, 4, 0))
            bye = listener.first()
            assert isinstance(bye, Bye)
            assert (bye.code, bye.link) == (ByeCode.UNKNOWN_LINK, to)
        finally:
            os.close(listener.line)
            device.terminate()
            device.wait()


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_streams_harm_nobody(seed, tmp_path):
    """25,000 for each seed: what is right is accepted after each, and nothing is overrun."""
    parts = [Path(__file__).with_name("link_device_fuzz.c"), ROOT / FOLDER / "link.c"]
    fuzz = build(tmp_path / "fuzz", parts, f"-I{ROOT / FOLDER}")
    done = subprocess.run([fuzz, str(seed), "25000"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.fullmatch(r"(\d+) streams, (\d+) ended the session, (\d+) the link\n", done.stdout)
    assert found is not None
    streams, sessions, links = map(int, found.groups())
    assert streams == 25000
    assert 100 < links < sessions < 20000, "some are understood, and some not"


def read(bare: BareHost, start: int, size: int):
    buffer = bare.port.memory.allocate(size)
    sgl = simple_sgl([(buffer.bus_address, size)], out=False)
    reply = bare.call(
        BSA_BLOCK_READ.build(
            target_address=DISK_TID,
            message_size=(BSA_BLOCK_READ.size + len(sgl)) // 4,
            transfer_byte_count=size,
            logical_byte_address=start,
            transaction_context=7,
        )
        + sgl
    )
    data = bytes(buffer.view)
    buffer.free()
    return BSA_SUCCESS_REPLY.unpack_from(reply), data


def check_read(bare: BareHost, start: int, size: int) -> None:
    reply, data = read(bare, start, size)
    assert (reply.req_status, reply.transfer_count) == (ReqStatus.SUCCESS, size)
    assert (reply.transaction_context, reply.initiator_address) == (7, DISK_TID)
    assert data == bytes((n * 7 + n // 256) & 0xFF for n in range(start, start + size))
