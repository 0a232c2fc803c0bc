# SPDX-License-Identifier: Apache-2.0
"""DMA: plain data, pages of configuration dialogs, replies on their way, pieces and cuts."""

from __future__ import annotations

import pytest

from fakes.decoded import (
    IN,
    OUT,
    Talk,
    answer,
    decoded,
    find,
    meaning,
    problems,
    sized,
    with_buffers,
)
from i2o.decode.buffer_nodes import look_of
from i2o.decode.dma_summary import MAX_LENGTH, dma_summary
from i2o.frames import block_storage as bsa
from i2o.frames import executive, utility
from i2o.frames.sgl import chain_element, simple_sgl

READ = with_buffers(bsa.BSA_BLOCK_READ.build(target_address=0x10), 4096)


def test_blocks_of_a_disk():
    talk = Talk()
    talk.request(READ)
    traced = talk.from_device(bytes(range(256)) * 2, length=4096)
    assert decoded(traced) == {"data": bytes(range(64)).hex()}
    text = "4096 bytes (512 captured) at offset 0 of 4096"
    assert meaning(traced, "data") == text
    assert dma_summary(traced) == f"data {text}"
    part = talk.from_device(b"x", IN + 1024)
    assert meaning(part, "data") == "1 byte at offset 1024 of 4096"


def test_data_of_nobody():
    traced = Talk().from_device(b"\x01\x02")
    assert meaning(traced, "data") == "2 bytes"
    assert dma_summary(traced) == "data 2 bytes"
    assert decoded(Talk().from_device(b"")) == {"data": ""}


@pytest.mark.parametrize(
    ("data", "look"),
    [
        (b"", ""),
        (bytes(5), "all zeros"),
        (b"\xff" * 5, "all 0xff"),
        (b"\1" * 510 + b"\x55\xaa", "boot sector"),
        (b"EFI PART" + bytes(8) + b"\1", "GPT header"),
        (b"a line\r\nand another\n", "text"),
        (b"ab\x01c", ""),
        (b"\0", ""),
        (b"abc", ""),
    ],
)
def test_looks(data, look):
    assert look_of(data) == look


def test_a_page_of_a_configuration_dialog():
    talk = Talk()
    sgl = simple_sgl([(IN, 4096)], out=False, last=False) + simple_sgl([(OUT, 64)], out=True)
    talk.request(sized(utility.UTIL_CONFIG_DIALOG.build() + sgl))
    page = talk.from_device(b"<html>\r\n<b>RAID\x1b[31m</b>\n\0\0\0")
    assert decoded(page)["config_page"] == "<html>\n<b>RAID?[31m</b>\n"
    assert dma_summary(page) == "config page"
    query = talk.to_device(b"a=1&b=2\0")
    assert decoded(query)["config_query"] == "a=1&b=2"


def test_a_reply_on_its_way():
    talk = Talk()
    talk.request(READ)
    reply = answer(READ, bsa.BSA_SUCCESS_REPLY.build(transfer_count=4096))
    traced = talk.from_device(reply, 0x7700000, mfa=None)
    assert traced.is_reply_frame
    found = decoded(traced)["reply_frame"]
    assert found["transfer_count"] == 4096
    assert found["function"] == 0x30
    assert find(traced, "reply_frame").meaning == "bsa_block_read"
    assert dma_summary(traced) == "the reply frame"
    assert not problems(traced)
    short = talk.from_device(reply[:18], 0x7700000, mfa=None)
    assert "6 bytes short" in problems(short)[0]


def test_pieces_that_came_in_the_wrong_order():
    talk = Talk()
    talk.request(with_buffers(executive.EXEC_LCT_NOTIFY.build(), 120))
    late = talk.from_device(bytes(36), IN + 48)
    assert meaning(late, "data") == "36 bytes at offset 48 of 120, all zeros"
    first = talk.from_device(bytes([30, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]) + bytes(36))
    assert decoded(first)["lct"]["note"] == "1 of 3 entries: 48 of 120 bytes are here"
    assert "part" not in decoded(first)
    second = talk.from_device(bytes(72), IN + 48)
    assert len(decoded(second)["lct"]["entries"]) == 3
    assert decoded(second)["part"] == "bytes 48 to 120"


def test_summaries_of_lists_and_long_ones():
    talk = Talk()
    talk.request(sized(bsa.BSA_BLOCK_WRITE.build(target_address=0x10) + chain_element(OUT, 8)))
    assert dma_summary(talk.to_device(simple_sgl([(0x9000, 8)], out=True))) == (
        "chained SGL, 8 bytes"
    )
    operations = b"\3\0\0\0" + b"\1\0\0\xf1\xff\xff" + b"\1\0\1\xf1\xff\xff" + b"\5\0\0\xf0\xff\xff"
    talk.request(with_buffers(utility.UTIL_PARAMS_GET.build(), len(operations), 64))
    text = dma_summary(talk.to_device(operations))
    assert text.startswith("operations: field_get 0xF100 device_identity, field_get 0xF101 ")
    assert text.endswith("...")
    assert len(text) == MAX_LENGTH


def test_buffers_that_have_no_structure():
    talk = Talk()
    sgl = simple_sgl([(OUT, 16)], out=True, last=False)
    sgl += simple_sgl([(IN, 16)], out=False, last=False) + simple_sgl([(0x5000, 16)], out=False)
    talk.request(sized(utility.UTIL_PARAMS_GET.build() + sgl))
    assert "data" in decoded(talk.from_device(b"abcd", 0x5000))
    talk.request(with_buffers(executive.EXEC_ADAPTER_READ.build(), 16))
    assert "data" in decoded(talk.from_device(b"abcd"))
