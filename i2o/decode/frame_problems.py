# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a frame, as nodes: sizes, versions, flags, TIDs, replies nobody asked for."""

from __future__ import annotations

from typing import Final

from i2o.decode.conversation import REQUEST, Traced
from i2o.decode.fields import problem
from i2o.decode.tree import Node
from i2o.decode.values import class_name, names_text
from i2o.frames import catalog
from i2o.frames.header import HEADER_SIZE, FailureCode, FailureSeverity, MsgFlags
from i2o.frames.layout import Layout

UNASKED: Final = "it answers no request in this capture"
"""The problem of a reply without its request."""

_MIN_SIZE: Final = 12
_VERSIONS: Final = (0, 1)
_REPLY, _FAIL, _WIDE = MsgFlags.REPLY.value, MsgFlags.FAIL.value, MsgFlags.CONTEXT_64BIT.value
_FIRST_OF_CLASS, _FIRST_EXECUTIVE = 0x20, 0xA0
_KNOWN_FLAGS: Final = int(sum(MsgFlags))


def frame_problems(traced: Traced, layout: Layout | None, missing: str) -> list[Node]:
    """Return a node for everything that is wrong with a frame.

    Args:
        traced: the frame in its context.
        layout: its layout, None if its function is not known or it is too short to tell.
        missing: first field that is not there or cut; empty if all are.
    """
    data = traced.packet.data
    if traced.is_short:
        if traced.packet.length > len(data):
            return [problem(f"only {len(data)} of {traced.packet.length} bytes were captured", 0)]
        return [problem(f"a frame of {len(data)} bytes has no header: {_MIN_SIZE} are the least")]
    texts = [
        _size_problem(traced, layout, missing),
        _version_problem(data[0] & 0xF),
        *(_request_problems(traced) if traced.kind == REQUEST else _reply_problems(traced)),
    ]
    if traced.flags & ~_KNOWN_FLAGS:
        texts.append(f"reserved MsgFlags {traced.flags & ~_KNOWN_FLAGS:#04x} are set")
    if traced.flags & _WIDE:
        texts.append("contexts of 64 bits: fields behind word 2 are two words further on")
    if layout is None or (traced.kind != REQUEST and _is_unknown(traced)):
        texts.append(_unknown_function(traced))
    return [problem(text, 0) for text in texts if text]


def _size_problem(traced: Traced, layout: Layout | None, missing: str) -> str:
    have, size = len(traced.packet.data), 4 * traced.size_words
    if size < _MIN_SIZE:
        return f"MessageSize is {traced.size_words} words, a header has {HEADER_SIZE // 4}"
    cut = f", {missing} is cut" if missing else ""
    if have < size:
        if traced.packet.length >= size:
            return f"only {have} of {traced.packet.length} bytes were captured{cut}"
        short = size - have
        unit = "byte" if short == 1 else "bytes"
        return f"the frame ends at byte {have}: {short} {unit} short of its MessageSize{cut}"
    if missing:
        if layout is None:
            return f"MessageSize says {size} bytes: no {missing}"
        return f"MessageSize says {size} bytes, {layout.name} has {layout.size}: no {missing}"
    if traced.packet.length > size:
        more = traced.packet.length - size
        return f"{more} byte{'' if more == 1 else 's'} behind the end that MessageSize says"
    return ""


def _version_problem(version: int) -> str:
    return "" if version in _VERSIONS else f"version {version} is reserved, 1 is I2O 1.5"


def _request_problems(traced: Traced) -> list[str]:
    found = []
    if traced.flags & _REPLY:
        found.append("a request has the REPLY flag")
    if traced.flags & _FAIL:
        found.append("a request has the FAIL flag")
    return found


def _reply_problems(traced: Traced) -> list[str]:
    found = []
    if not traced.flags & _REPLY:
        found.append("a reply lacks the REPLY flag")
    if traced.flags & _FAIL:
        found.append(_failure(traced.packet.data))
    request = traced.request
    if request is None:
        if len(traced.packet.data) >= HEADER_SIZE:
            found.append(UNASKED)
    elif request.target != traced.target or request.initiator != traced.initiator:
        found.append(
            f"its TIDs are exchanged: the request went from {request.initiator:#05x} "
            f"to {request.target:#05x}, and a reply repeats both"
        )
    return found


def _failure(data: bytes) -> str:
    if len(data) < HEADER_SIZE + 4:
        return "FAIL: the request was not delivered"
    code, severity = data[19], data[18]
    name = names_text(FailureCode, code) or f"failure code {code:#04x}"
    how = names_text(FailureSeverity, severity) or f"severity {severity:#04x}"
    return f"FAIL: the request was not delivered, {name} ({how})"


def _is_unknown(traced: Traced) -> bool:
    return catalog.function_name(*traced.meant).startswith("unknown_")


def _unknown_function(traced: Traced) -> str:
    function, device_class = traced.function, traced.device_class
    if device_class is None and catalog.request_layouts(function):
        names = catalog.function_name(function).replace("|", " or ")
        return (
            f"function {function:#04x} is {names}: the class of TID {traced.target:#05x} "
            "is not known"
        )
    whose = ""
    if device_class is not None and _FIRST_OF_CLASS <= function < _FIRST_EXECUTIVE:
        whose = f" for {class_name(device_class)}"
    return f"function {function:#04x} is not known{whose}"
