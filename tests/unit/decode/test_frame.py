# SPDX-License-Identifier: Apache-2.0
"""Fixed parts of frames and what is wrong with them, on a real driver's traffic and by hand."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path

import pytest

from fakes.decoded import Talk, answer, decoded, find, meaning, nodes_of, problems, sized
from i2o.decode.conversation import DMA, REPLY, REQUEST, Conversation
from i2o.decode.frame import extra_nodes, fixed_nodes
from i2o.decode.values import version_text
from i2o.frames import block_storage as bsa
from i2o.frames import catalog, executive, header, private, utility
from i2o.frames.functions import DeviceClass
from i2o.transport.capture.packet import Channel, Packet

TRACE = Path(__file__).parents[2] / "data" / "linux-5.10-dpt_i2o.jsonl"
CHANNELS = {
    "request": Channel.IN,
    "reply": Channel.OUT,
    "dma_read": Channel.TO_DEVICE,
    "dma_write": Channel.FROM_DEVICE,
}
READ = sized(
    bsa.BSA_BLOCK_READ.build(
        target_address=0x10,
        initiator_context=7,
        transaction_context=9,
        transfer_byte_count=4096,
        logical_byte_address=1 << 33,
        control_flags=3,
    )
)


def trace() -> list[Packet]:
    packets = []
    for line in TRACE.read_text().splitlines():
        event = json.loads(line)
        is_dma = "address" in event
        data = bytes.fromhex(event["data" if is_dma else "frame"])
        packets.append(
            Packet(
                round(event["t"] * 1e9),
                0,
                CHANNELS[event["event"]].value,
                data,
                event.get("length", len(data)),
                event.get("mfa"),
                event.get("address", 0),
            )
        )
    return packets


@pytest.fixture(scope="module")
def real():
    """Every packet of the trace with its nodes."""
    conversation = Conversation()
    found = []
    for packet in trace():
        traced = conversation.feed(packet)
        found.append((traced, fixed_nodes(traced), extra_nodes(traced)))
    return found


# --- a real driver -------------------------------------------------------------------------------


def test_every_frame_of_a_real_driver_decodes(real):
    frames = [(traced, fixed) for traced, fixed, _ in real if traced.kind in (REQUEST, REPLY)]
    assert Counter(traced.kind for traced, _ in frames) == {REQUEST: 173, REPLY: 164}
    for traced, fixed in frames:
        layout = traced.layout
        assert layout is not None
        leaves = [node for node in fixed if not node.is_problem]
        assert [leaf.name for leaf in leaves] == [field.path for field in layout.fields]
        record = layout.unpack_from(traced.packet.data)
        for leaf, field in zip(leaves, layout.fields, strict=True):
            assert leaf.value == getattr(record, field.attribute)
            assert (leaf.offset, leaf.bit, leaf.width_bits) == (
                field.byte,
                field.bit,
                field.width_bits,
            )


def test_nothing_is_wrong_but_what_is_known(real):
    counts: Counter[str] = Counter()
    for traced, fixed, extra in real:
        for node in fixed + extra:
            for text in node.problems():
                known = (
                    "its TIDs are exchanged",
                    "the frame ends at byte 46: 2 bytes short of its",
                )
                assert text.startswith(known), (traced.index, text)
                assert traced.kind != REQUEST
                counts[text.split(":")[0], traced.kind] += 1
    assert counts == {
        ("its TIDs are exchanged", REPLY): 164,
        ("its TIDs are exchanged", DMA): 164,
        ("the frame ends at byte 46", REPLY): 3,
        ("the frame ends at byte 46", DMA): 3,
    }


def test_every_list_and_command_of_a_real_driver(real):
    names: Counter[str] = Counter()
    elements = 0
    for traced, fixed, extra in real:
        if traced.kind != REQUEST:
            continue
        shown = {node.name: node for node in extra}
        if "sgl" in shown:
            elements += len(shown["sgl"].children)
            room = len(traced.frame) - 4 * (traced.frame[0] >> 4)
            assert len(shown["sgl"].children) == room // 8
            sizes = [item.json()["length"] for item in shown["sgl"].children]
            counts = [leaf.value for leaf in fixed if leaf.name == "byte_count"]
            assert not counts or sum(sizes) == counts[0]
        if "command" in shown:
            names[str(shown["command"].json()["name"])] += 1
    assert elements == 523
    assert names == {
        "read_10": 115,
        "write_10": 16,
        "inquiry": 5,
        "mode_sense_6": 6,
        "read_capacity_10": 3,
        "test_unit_ready": 3,
    }


def test_every_structure_of_a_real_driver(real):
    counts = Counter(node.name for traced, _, extra in real if traced.kind == DMA for node in extra)
    assert set(counts) == {
        "status_block",
        "reset_status",
        "outbound_status",
        "hrt",
        "lct",
        "operations",
        "results",
        "reply_frame",
        "inquiry",
        "read_capacity",
        "mode_sense",
        "data",
    }
    assert counts["operations"] == 12
    assert counts["reply_frame"] == 164


# --- the fixed part ------------------------------------------------------------------------------


def test_fields_have_their_values_places_and_meanings():
    traced = Talk().request(READ)
    node = find(traced, "logical_byte_address")
    assert (node.value, node.offset, node.bit, node.width_bits) == (1 << 33, 24, 0, 64)
    assert meaning(traced, "version_offset") == "I2O 1.5, SGL at word 8"
    assert meaning(traced, "message_size") == "32 bytes"
    assert meaning(traced, "target_address") == "RANDOM_BLOCK_STORAGE"
    assert meaning(traced, "initiator_address") == "HOST"
    assert meaning(traced, "function") == "bsa_block_read"
    assert meaning(traced, "transfer_byte_count") == "4 KiB"
    assert meaning(traced, "control_flags") == "DONT_RETRY|SOLO"
    assert not problems(traced)


def test_a_detailed_status_is_named_by_class():
    talk = Talk()
    talk.request(READ)
    error = bsa.BSA_ERROR_REPLY.build(req_status=5, detailed_status_code=1)
    traced = talk.reply(answer(READ, error))
    assert meaning(traced, "detailed_status_code") == "MEDIA_ERROR"
    assert meaning(traced, "req_status") == "ERROR_NO_DATA_TRANSFER"
    assert meaning(traced, "version_offset") == "I2O 1.5"
    assert not problems(traced)


def test_flags_without_a_name_are_numbers():
    traced = Talk().request(sized(executive.EXEC_HRT_GET.build(msg_flags=0x4C)))
    assert meaning(traced, "msg_flags") == "LAST|0xc"
    assert problems(traced) == ["reserved MsgFlags 0x0c are set"]
    assert version_text(0x05) == "version 5, no SGL"


def test_dma_has_no_fixed_part_and_a_damaged_message_a_problem():
    assert fixed_nodes(Talk().from_device(b"abcd")) == []
    message = Talk().say(Channel.MESSAGE, b"hello")
    assert problems(message) == ["5 bytes are no header of 72"]
    assert decoded(message)["data"] == b"hello".hex()


# --- what is wrong -------------------------------------------------------------------------------


def test_a_frame_that_ends_too_early():
    traced = Talk().request(READ[:22])
    assert problems(traced) == [
        "the frame ends at byte 22: 10 bytes short of its MessageSize, transfer_byte_count is cut"
    ]
    assert "fetch_ahead" in decoded(traced)
    assert "transfer_byte_count" not in decoded(traced)


def test_bytes_are_shown_as_far_as_they_go():
    frame = sized(private.DPT_PRIVATE_SCSI_SCB_EXEC.build())
    traced = Talk().request(frame[:31])
    assert decoded(traced)["cdb"] == "000000"
    assert "cdb is cut" in problems(traced)[0]


def test_a_frame_cut_by_the_capture():
    traced = Talk().request(READ[:24], length=32)
    assert problems(traced) == ["only 24 of 32 bytes were captured, logical_byte_address is cut"]
    assert problems(Talk().request(READ[:5], length=32)) == ["only 5 of 32 bytes were captured"]


def test_a_message_size_too_small_for_the_message():
    traced = Talk().request(sized(READ, 5))
    assert problems(traced) == [
        "MessageSize says 20 bytes, bsa_block_read has 32: no transfer_byte_count",
        "the SGL is said to start at byte 32, behind the frame",
    ]


def test_more_bytes_than_the_message_size():
    assert problems(Talk().request(READ + bytes(4))) == [
        "4 bytes behind the end that MessageSize says"
    ]
    assert problems(Talk().request(READ + b"\0")) == ["1 byte behind the end that MessageSize says"]


def test_a_message_size_of_nothing():
    traced = Talk().request(sized(READ, 0))
    assert problems(traced)[0] == "MessageSize is 0 words, a header has 4"
    assert decoded(traced)["transfer_byte_count"] == 4096


@pytest.mark.parametrize("size", [0, 1, 7, 11])
def test_a_frame_without_a_header(size):
    traced = Talk().request(READ[:size])
    assert problems(traced) == [f"a frame of {size} bytes has no header: 12 are the least"]
    names = [node.name for node in fixed_nodes(traced)][:-1]
    fields = [field.path for field in header.MSG_HEADER.fields]
    assert names == fields[: {0: 0, 1: 1, 7: 5, 11: 6}[size]]
    assert extra_nodes(traced) == []


def test_a_frame_that_ends_in_its_contexts():
    traced = Talk().request(READ[:14])
    assert problems(traced)[0].startswith("the frame ends at byte 14: 18 bytes short")
    assert decoded(traced)["initiator_context"] == 7
    short = sized(executive.EXEC_SYS_ENABLE.build()[:12])
    assert problems(Talk().request(short)) == [
        "MessageSize says 12 bytes, exec_sys_enable has 16: no transaction_context"
    ]


def test_a_version_nobody_has():
    frame = bytes([READ[0] & 0xF0 | 5]) + READ[1:]
    assert problems(Talk().request(frame)) == ["version 5 is reserved, 1 is I2O 1.5"]


def test_flags_of_the_wrong_direction():
    reply = READ[:1] + b"\xe0" + READ[2:]
    assert problems(Talk().request(reply)) == [
        "a request has the REPLY flag",
        "a request has the FAIL flag",
    ]
    talk = Talk()
    talk.request(READ)
    unmarked = answer(READ, bsa.BSA_SUCCESS_REPLY.build(msg_flags=0x40))
    assert problems(talk.reply(unmarked)) == ["a reply lacks the REPLY flag"]


def test_wide_contexts_are_said():
    frame = READ[:1] + b"\x02" + READ[2:]
    assert problems(Talk().request(frame)) == [
        "contexts of 64 bits: fields behind word 2 are two words further on"
    ]


def test_a_reply_without_a_request():
    traced = Talk().reply(bsa.BSA_SUCCESS_REPLY.build(function=0x30, target_address=0x10))
    assert problems(traced) == ["it answers no request in this capture"]


def test_exchanged_tids():
    talk = Talk()
    talk.request(READ)
    reply = bytearray(answer(READ, bsa.BSA_SUCCESS_REPLY.build()))
    reply[4:7] = (0x010 << 12 | 0x001).to_bytes(3, "little")
    assert problems(talk.reply(bytes(reply))) == [
        "its TIDs are exchanged: the request went from 0x001 to 0x010, and a reply repeats both"
    ]


def test_an_unknown_function():
    frame = sized(header.MSG_HEADER.build(function=0xF3, version_offset=1) + bytes(range(10)) * 2)
    traced = Talk().request(frame)
    assert problems(traced) == ["function 0xf3 is not known"]
    assert decoded(traced)["words"] == list(struct.unpack("<5I", bytes(range(10)) * 2))
    assert find(traced, "words", "4").offset == 32


def test_a_function_that_the_class_does_not_have():
    talk = Talk()
    talk.learn(t020=DeviceClass.LAN)
    traced = talk.request(sized(bsa.BSA_BLOCK_READ.build(target_address=0x20)))
    assert problems(traced) == ["function 0x30 is not known for LAN"]
    reply = talk.reply(answer(traced.packet.data, bsa.BSA_SUCCESS_REPLY.build()))
    assert problems(reply) == ["function 0x30 is not known for LAN"]


def test_a_function_of_several_classes():
    frame = sized(bsa.BSA_CACHE_FLUSH.build(target_address=0x20))
    assert problems(Talk().request(frame)) == [
        "function 0x37 is bsa_cache_flush or lan_suspend: the class of TID 0x020 is not known"
    ]


def test_an_unknown_request_with_a_list():
    sgl = bytes.fromhex("080000d0 00001000")
    head = header.MSG_HEADER.build(function=0xF3, version_offset=0x51)
    traced = Talk().request(sized(head + b"\1\2\3\4" + sgl))
    assert decoded(traced)["words"] == [0x04030201]
    assert decoded(traced)["sgl"][0]["address"] == 0x100000


# --- behind the fixed part -----------------------------------------------------------------------


def test_bytes_that_no_layout_has():
    padded = sized(utility.UTIL_NOP.build() + b"\1\2\3\4")
    assert decoded(Talk().request(padded))["rest"] == "01020304"
    gap = sized(bytes([0x91]) + READ[1:] + b"\5\0\0\0" + bytes(8))
    traced = Talk().request(gap)
    assert decoded(traced)["rest"] == "05000000"
    assert find(traced, "rest").offset == 32


def test_a_list_inside_the_fixed_part():
    frame = sized(bytes([0x51]) + READ[1:])
    text = "the SGL at byte 20 starts inside bsa_block_read, which has 32"
    assert text in problems(Talk().request(frame))


def test_static_frames():
    held = sized(bsa.BSA_STATUS_CHECK.build(target_address=0x33))[:12]
    frame = sized(executive.EXEC_STATIC_MF_CREATE.build(static_message_frame=held))
    static = decoded(Talk().request(frame))["static_frame"]
    assert (static["target_address"], static["function"]) == (0x33, 0x25)
    assert "transaction_context" not in static


def test_a_text_for_a_driver_to_print():
    head = private.DPT_PRIVATE_DRIVER_PRINTF.build(print_buffer_byte_count=7)
    frame = sized(head[:24] + b"hello\n\0\0")
    assert decoded(Talk().request(frame))["text"] == "hello?"
    assert "rest" not in decoded(Talk().request(frame))


def test_every_layout_decodes_to_its_own_fields():
    for layout in catalog.messages():
        if layout.direction != "request" or layout is private.PRIVATE_MESSAGE:
            continue
        talk = Talk()
        known = catalog.class_of_function(layout.function)
        if layout.chapter in ("bsa", "lan", "scsi_peripheral") and known is None:
            number = {"bsa": 0x10, "lan": 0x20, "scsi_peripheral": 0x51}[layout.chapter]
            talk.learn(t123=number)
        values = {"cdb_length": 6} if "cdb_length" in {f.path for f in layout.fields} else {}
        traced = talk.request(layout.build(target_address=0x123, **values))
        fixed = [node.name for node in fixed_nodes(traced) if not node.is_problem]
        assert fixed == [field.path for field in layout.fields]
        assert problems(traced) == []
        names = [node.name for node in nodes_of(traced)]
        assert len(set(names)) == len(names)
