# SPDX-License-Identifier: Apache-2.0
"""`i2o decode`: frames in every shape in which people have them."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from i2o.errors import LocalFrameError
from i2o.tools import hex_text
from i2o.tools.hex_text import frames_of_text

from .conftest import CHECKOUT, one_line

TRACE = CHECKOUT / "tests" / "data" / "linux-5.10-dpt_i2o.jsonl"
STATUS_GET = "01000900001000a001000000000000000000000000000000001019020000000058000000"
NOP = "010003000010000000000000"
HRT_GET = "41000600001000a80100008000000000180000d000101e02"
HRT_REPLY = "01c00500010000a8010000800000000000000000"


@pytest.fixture
def stdin(monkeypatch):
    def give(text):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return give


def _texts(out):
    return [" ".join(line.split()) for line in out.splitlines()]


def test_a_frame_is_taken_apart(cli):
    ran = cli("decode", STATUS_GET)
    assert (ran.code, ran.err) == (0, "")
    texts = _texts(ran.out)
    assert "31:24 function 0xa0 exec_status_get" in texts
    assert "6 02191000 31:0 reply_buffer_address_low 0x02191000" in texts


def test_pieces_of_a_frame_and_several_frames(cli):
    spaced = " ".join(STATUS_GET[at : at + 2] for at in range(0, len(STATUS_GET), 2))
    one = cli("decode", STATUS_GET).out
    assert cli("decode", *spaced.split()).out == one
    assert cli("decode", spaced).out == one
    assert cli("decode", "0x" + STATUS_GET.upper()).out == one
    both = cli("decode", STATUS_GET, NOP, "--json").records
    assert [record["name"] for record in both] == ["exec_status_get", "util_nop"]
    assert cli("decode", STATUS_GET + NOP, "--json").records == both


def test_a_reply_is_read_as_the_answer_to_its_request(cli):
    request, reply = cli("decode", "--json", HRT_GET, HRT_REPLY).records
    assert (request["type"], reply["type"], reply["reply_to"]) == ("request", "reply", 0)


def test_problems_make_it_1(cli):
    ran = cli("decode", "0102")
    assert ran.code == 1
    assert "has no header" in ran.out
    assert cli("decode", HRT_REPLY).code == 0


def test_json_and_bytes(cli):
    (record,) = cli("decode", "-x", "--json", NOP).records
    assert record["bytes"] == NOP
    assert "0000 01 00 03 00 00 10 00 00 00 00 00 00 ............" in _texts(
        cli("decode", "-x", NOP).out
    )


@pytest.mark.parametrize("written", ["random_block_storage", "0x10", "16"])
def test_the_class_says_which_function_it_is(cli, written):
    frame = "01000600 10100030".replace(" ", "") + "00" * 16
    (record,) = cli("decode", "--json", "--class", written, frame).records
    assert record["name"] == "bsa_block_read"
    (scsi,) = cli("decode", "--json", "--class", "lan", frame).records
    assert scsi["name"] != "bsa_block_read"


def test_an_unknown_class_is_an_error(cli):
    ran = cli("decode", "--class", "toaster", NOP)
    assert ran.code == 2
    assert "'toaster' (executive, " in one_line(ran)


def test_words_as_a_driver_prints_them(cli, stdin):
    words = "0x00090001, 0xa0001000 1 0 0 0\n2191000 00000000 0x58\n"
    stdin(words)
    assert cli("decode", "--words").out == cli("decode", STATUS_GET).out


@pytest.mark.parametrize("dump", ["xxd", "hexdump"])
def test_other_programs_dumps(cli, stdin, dump):
    lines = []
    for frame in (STATUS_GET, NOP):
        data = bytes.fromhex(frame)
        for at in range(0, len(data), 16):
            part = data[at : at + 16]
            shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
            if dump == "xxd":
                pairs = " ".join(part[i : i + 2].hex() for i in range(0, len(part), 2))
                lines.append(f"{at:08x}: {pairs:39}  {shown}")
            else:
                halves = "  ".join(part[i : i + 8].hex(" ") for i in (0, 8))
                lines.append(f"{at:08x}  {halves:48}  |{shown}|")
        lines.append(f"{len(data):08x}")
    stdin("\n".join(lines))
    assert [r["name"] for r in cli("decode", "--json").records] == ["exec_status_get", "util_nop"]


def test_what_dump_prints_can_be_decoded(cli, stdin):
    shown = cli("dump", "-r", TRACE, "-x").out
    stdin(shown)
    ran = cli("decode", "--json")
    wanted = [
        json.loads(line)["name"]
        for line in cli("dump", "-r", TRACE, "--json", "--no-dma").out.splitlines()
    ]
    assert [record["name"] for record in ran.records] == wanted


def test_lines_with_text_that_looks_like_hex():
    assert frames_of_text(["0000  61 62 63 64 65 66 67 68  69 6a" + " " * 21 + "  abcdefghij"]) == [
        b"abcdefghij"
    ]
    assert frames_of_text(["00000000: 6162 6364  abcd"]) == [b"abcd"]
    assert frames_of_text(["0000  ab  ab"]) == [b"\xab"]
    assert frames_of_text(["0010  ab", "noise", "0000  cd"]) == [b"\xab", b"\xcd"]


def test_lines_of_a_frame():
    data = bytes.fromhex(STATUS_GET)
    nop = bytes.fromhex(NOP)
    assert frames_of_text([STATUS_GET[:20], STATUS_GET[20:], NOP]) == [data, nop]
    assert frames_of_text([STATUS_GET[:20], "", NOP]) == [data[:10], nop]
    assert frames_of_text([STATUS_GET[:40], NOP]) == [data[:20], nop]
    assert frames_of_text([STATUS_GET + "00"]) == [data + b"\0"]
    assert frames_of_text(["01000000" + "00" * 20]) == [b"\1" + bytes(23)]
    assert frames_of_text(["", " \n"]) == []


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["01", "0x1"], "line 2: an odd number of digits"),
        (["hello"], "line 1: no hex: 'hello'"),
        (["z" * 50], "zzz...'"),
    ],
)
def test_what_is_no_hex(cli, stdin, lines, text):
    stdin("\n".join(lines))
    ran = cli("decode")
    assert ran.code == 2
    assert text in one_line(ran)


def test_what_is_no_word(cli):
    ran = cli("decode", "--words", "123456789")
    assert ran.code == 2
    assert "'123456789' is no word" in one_line(ran)


def test_nothing_and_too_much(cli, stdin, monkeypatch):
    stdin("")
    assert "no frame" in one_line(cli("decode"))
    monkeypatch.setattr("i2o.tools.decode._MAX_INPUT", 10)
    stdin(STATUS_GET)
    assert "more than 10 characters" in one_line(cli("decode"))
    monkeypatch.setattr(hex_text, "MAX_BYTES", 4)
    with pytest.raises(LocalFrameError, match="more than 4 bytes"):
        frames_of_text([STATUS_GET])
    assert len(frames_of_text([f"0000  {'00 ' * 8}" for _ in range(1)] * 3)[0]) == 8
    monkeypatch.setattr(sys, "stdin", None)
    assert "no frame" in one_line(cli("decode"))


def test_a_terminal_is_told_what_to_do(cli, stdin, monkeypatch):
    stdin(NOP)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    ran = cli("decode")
    assert "Ctrl-D" in ran.err
    assert "util_nop" in ran.out


def test_binary_rubbish_on_standard_input(program, environment):
    done = subprocess.run(
        [*program, "decode"], input=bytes(range(256)) * 4, capture_output=True,
        env=environment, cwd=CHECKOUT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_groups_have_hexadecimal_numbers(cli):
    """As everywhere else: 0xF100, not 61696."""
    operations = "01000000" + "010000f1" + "ffff0000"
    frame = "51000800001000060000000000000000" + "00000000" + "0a00004c" + operations
    ran = cli("decode", frame.replace("51000800", "51000900"))
    assert "0xf100" in ran.out
    assert "61696" not in ran.out
