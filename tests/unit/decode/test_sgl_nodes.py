# SPDX-License-Identifier: Apache-2.0
"""Scatter/gather lists as nodes: every kind of element, places, chains, lists that go wrong."""

from __future__ import annotations

import struct

from fakes.decoded import MFA, Talk, decoded, find, nodes_of, problems, sized
from i2o.decode import sgl_nodes as module
from i2o.frames import block_storage as bsa
from i2o.frames.sgl import chain_element, immediate_element, simple_sgl

HEAD = bsa.BSA_BLOCK_WRITE.build(target_address=0x10)
LAST, EOB = 0x80, 0x40


def word(flags: int, count: int) -> bytes:
    return struct.pack("<I", flags << 24 | count)


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def elements(sgl: bytes, head: bytes = HEAD) -> list:
    return decoded(Talk().request(sized(head + sgl)))["sgl"]


def wrong(sgl: bytes) -> list[str]:
    return problems(Talk().request(sized(HEAD + sgl)))


def test_simple_elements_and_their_places():
    traced = Talk().request(sized(HEAD + simple_sgl([(0x1000, 512), (0x3000, 1024)], out=True)))
    assert decoded(traced)["sgl"] == [
        {"kind": "simple", "flags": 0x14, "count": 512, "address": 0x1000, "length": 512},
        {"kind": "simple", "flags": 0xD4, "count": 1024, "address": 0x3000, "length": 1024},
    ]
    for name, offset, width in (("flags", 43, 8), ("count", 40, 24), ("address", 44, 32)):
        node = find(traced, "sgl", "1", name)
        assert (node.offset, node.width_bits) == (offset, width)
    assert find(traced, "sgl", "1").meaning == "simple 1 KiB at 0x00003000, OUT, EOB, LAST"
    assert find(traced, "sgl").meaning == "2 elements"
    assert not problems(traced)


def test_an_empty_element_has_no_address():
    (element,) = elements(word(0xD0, 0) + u32(0x1000))
    assert element == {"kind": "simple", "flags": 0xD0, "count": 0, "length": 0}


def test_contexts():
    traced = Talk().request(sized(HEAD + word(0xD2, 64) + u32(0xAA, 0xBB, 0x5000)))
    (element,) = decoded(traced)["sgl"]
    assert element["contexts"] == [0xAA, 0xBB]
    assert find(traced, "sgl", "0", "contexts", "1").offset == 40
    assert find(traced, "sgl", "0", "address").offset == 44


def test_wide_contexts():
    head = HEAD[:1] + b"\x02" + HEAD[2:]
    traced = Talk().request(sized(head + word(0xD1, 64) + struct.pack("<QI", 1 << 40, 0x5000)))
    assert decoded(traced)["sgl"][0]["contexts"] == [1 << 40]
    assert find(traced, "sgl", "0", "contexts", "0").width_bits == 64
    assert find(traced, "sgl", "0", "address").offset == 44


def test_page_lists():
    traced = Talk().request(sized(HEAD + word(0xE4, 9000) + u32(0x1800, 0x5000, 0x9000)))
    (element,) = decoded(traced)["sgl"]
    assert element["pages"] == [
        {"address": 0x1800, "length": 2048},
        {"address": 0x5000, "length": 4096},
        {"address": 0x9000, "length": 2856},
    ]
    assert find(traced, "sgl", "0", "pages", "2", "address").offset == 44
    assert find(traced, "sgl", "0").meaning == "page list 8.8 KiB in 3 pages, OUT, EOB, LAST"


def test_attributes_change_addresses_and_pages():
    sgl = word(0x7C, 2 << 16 | 0x0006) + u32(8192)
    sgl += word(0xD1, 16) + struct.pack("<QQ", 7, 1 << 33)
    traced = Talk().request(sized(HEAD + sgl))
    first, second = decoded(traced)["sgl"]
    assert first["page_frame_size"] == 8192
    assert first["sgl_attribute_flags"] == 6
    assert find(traced, "sgl", "0", "sgl_attribute_flags").meaning == (
        "ADDRESS_64BIT|TRANSACTION_64BIT"
    )
    assert find(traced, "sgl", "0", "count").meaning == "2 words"
    assert second["address"] == 1 << 33
    assert second["contexts"] == [7]
    assert find(traced, "sgl", "1", "address").offset == 52


def test_the_other_kinds():
    sgl = (
        immediate_element(b"hello", out=True, end_of_buffer=False)
        + word(0x09, 100)
        + u32(5)
        + word(0x00, 4)
        + u32(0)
        + word(0x04, 4)
        + u32(0x01020304)
        + word(0x41, 4)
        + u32(6, 7)
        + word(0x71, 3 << 16 | 9)
        + u32(8, 9)
        + word(0xD4, 1)
        + u32(0x100)
    )
    found = elements(sgl)
    assert [element["kind"] for element in found] == [
        "immediate",
        "bit_bucket",
        "ignore",
        "transport",
        "long_transaction",
        "short_transaction",
        "simple",
    ]
    assert found[0]["data"] == b"hello".hex()
    assert found[1]["contexts"] == [5]
    assert found[3]["data"] == "04030201"
    assert (found[4]["contexts"], found[4]["data"]) == ([6], "07000000")
    assert found[5]["contexts"] == [8]
    assert found[5]["data"] == "09000000"


def test_a_chain_is_followed_where_captured():
    talk = Talk()
    chained = simple_sgl([(0x7000, 256)], out=True)
    request = talk.request(sized(HEAD + chain_element(0x6000, len(chained))))
    assert [element["kind"] for element in decoded(request)["sgl"]] == ["chain"]
    assert not problems(request)
    dma = talk.to_device(chained, 0x6000)
    assert decoded(dma)["sgl"] == [
        {"kind": "simple", "flags": 0xD4, "count": 256, "address": 0x7000, "length": 256}
    ]
    chain, element = decoded(request)["sgl"]
    assert (chain["address"], chain["length"]) == (0x6000, len(chained))
    assert element["list_address"] == 0x6000
    assert find(request, "sgl", "1", "address").offset is None
    data = talk.to_device(bytes(256), 0x7000)
    assert "256 bytes at offset 0 of 256, all zeros" in find(data, "data").meaning


def test_a_chain_that_was_not_captured_whole():
    talk = Talk()
    request = talk.request(sized(HEAD + chain_element(0x6000, 16)))
    dma = talk.to_device(simple_sgl([(0x7000, 256)], out=True), 0x6000, length=16)
    assert len(decoded(dma)["sgl"]) == 1
    assert "it was not captured" in problems(request)[0]
    broken = talk.to_device(b"\xff\xff\xff\x34" * 2, 0x6000)
    assert decoded(broken)["sgl"] == []
    assert "no element type" in problems(broken)[0]


def test_lists_that_go_wrong_end_with_the_reason():
    sgl = simple_sgl([(0x1000, 512)], out=True, last=False) + word(0x34, 4)
    traced = Talk().request(sized(HEAD + sgl))
    names = [node.name for node in nodes_of(traced)]
    assert names[-2:] == ["sgl", "problem"]
    assert len(decoded(traced)["sgl"]) == 1
    assert nodes_of(traced)[-1].offset == 40
    assert "no element type of I2O 1.5" in problems(traced)[0]
    assert "without its address" in wrong(word(0xD0, 4))[0]
    assert "lacks addresses" in wrong(word(0xE4, 9000) + u32(0x1800))[0]


def test_lists_at_places_that_make_no_sense():
    inside = sized(bytes([0x21]) + HEAD[1:])
    assert problems(Talk().request(inside)) == [
        "the SGL is said to start at byte 8, inside the header"
    ]
    behind = sized(bytes([0xF1]) + HEAD[1:])
    assert problems(Talk().request(behind)) == [
        "the SGL is said to start at byte 60, behind the frame"
    ]
    assert elements(b"") == []


def test_a_list_is_shown_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(module, "MAX_ITEMS", 3)
    traced = Talk().request(sized(HEAD + simple_sgl([(n << 12, 8) for n in range(5)], out=True)))
    assert len(decoded(traced)["sgl"]) == 3
    assert problems(traced) == ["more than 3 elements or pages: the rest is not shown"]


def test_immediate_data_are_found_by_buffer():
    frame = sized(HEAD + immediate_element(b"ab") + immediate_element(b"cde", contexts=(1,)))
    assert module.immediate_data(frame, 0) == (b"ab", 36)
    assert module.immediate_data(frame, 1) == (b"cde", 48)
    assert module.immediate_data(frame, 2) is None
    assert module.immediate_data(frame[:10], 0) is None
    assert module.immediate_data(sized(bytes([0xF1]) + HEAD[1:]), 0) is None
    simple = sized(HEAD + simple_sgl([(0, 8)], out=True))
    assert module.immediate_data(simple, 0) is None
    assert module.immediate_data(sized(HEAD + word(0x34, 4)), 0) is None
    split = immediate_element(b"ab", end_of_buffer=False) + immediate_element(b"cd")
    assert module.immediate_data(sized(HEAD + split), 0) is None


def test_places_are_of_the_frame_that_was_sent():
    request = Talk().request(sized(HEAD + simple_sgl([(0x1234, 16)], out=True)), mfa=MFA)
    for leaf in find(request, "sgl").leaves():
        if leaf.width_bits == 32:
            start = leaf.offset
            raw = request.packet.data[start : start + 4]
            assert int.from_bytes(raw, "little") == leaf.value
