# SPDX-License-Identifier: Apache-2.0
"""DMA on one line: `LCT: 5 devices, change indicator 1`, `status OPERATIONAL, 128 frames ...`."""

from __future__ import annotations

from typing import Final

from i2o.decode.buffer_nodes import data_text, part_text, structure_node
from i2o.decode.conversation import Traced
from i2o.frames.functions import Function

MAX_LENGTH: Final = 70
"""Characters of a summary at most."""

_ENOUGH: Final = 4096
_HEADERS: Final = {
    Function.EXEC_LCT_NOTIFY.value: 12,
    Function.EXEC_HRT_GET.value: 8,
    Function.EXEC_SYS_TAB_SET.value: 16,
}
"""Bytes of tables whose header says what the line says."""
_BULK: Final = frozenset(
    {
        Function.BSA_BLOCK_READ.value,
        Function.BSA_BLOCK_WRITE.value,
        Function.BSA_BLOCK_WRITE_VERIFY.value,
    }
)
_TITLES: Final = {
    "status_block": "status",
    "reset_status": "reset status:",
    "outbound_status": "outbound status:",
    "reclaim_list": "reclaim list",
    "hrt": "HRT:",
    "lct": "LCT:",
    "system_table": "system table:",
    "software": "module header",
    "operations": "operations:",
    "results": "results:",
    "config_page": "config page",
    "config_query": "config query",
    "inquiry": "INQUIRY data:",
    "vpd": "VPD:",
    "read_capacity": "capacity:",
    "mode_sense": "mode pages",
    "mode_select": "mode pages",
    "report_luns": "LUNs:",
    "sense": "sense:",
}


def dma_summary(traced: Traced) -> str:
    """Return what a piece of DMA is, at most `MAX_LENGTH` characters.

    Args:
        traced: DMA in its context.
    """
    text = _text(traced)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."


def _text(traced: Traced) -> str:
    request = traced.request
    if traced.is_reply_frame:
        return "the reply frame"
    if request is None or traced.buffer is None:
        return f"data {data_text(traced)}"
    if traced.buffer < 0:
        return f"chained SGL, {traced.packet.length} bytes"
    if request.function not in _BULK:
        whole = (request.buffers or {}).get(traced.buffer)
        if whole is not None and len(whole) >= traced.offset + len(traced.packet.data):
            start = whole[: _HEADERS.get(request.function, _ENOUGH)]
            found = structure_node(traced, start)
            if found is not None:
                text = f"{_TITLES.get(found.name, found.name)} {found.meaning}".strip(" :")
                part = part_text(traced) if traced.offset else ""
                return f"{text} ({part})" if part else text
    return f"data {data_text(traced)}"
