# SPDX-License-Identifier: Apache-2.0
"""Everything that goes over the wire, as data: no I/O, no threads, no clock.

Where things are:

- `header`: the message header, the replies of all classes, status and failure codes;
- `functions`: function codes, device classes, organizations;
- `utility`, `executive`, `block_storage`, `scsi`, `adapter`, `lan`, `private`: the messages of a
  class, its status codes and events; `executive_groups`, `block_storage_groups`, `lan_groups`:
  parameter groups, where they would crowd the messages;
- `tables`: status block, HRT, LCT, system table, driver module headers;
- `params`: operation and result lists, the parameter groups that every device has;
- `sgl`: scatter/gather elements and how to build them; `sgl_walk`: how to read lists of them;
- `catalog`: finds a layout by function code and class, by group number or by name;
- `layout`: what a layout is and how one is declared; `codec` and `construct_tree`: how classes
  are derived from it.

Every layout is declared once, in construct, in the module of its chapter. The names most programs
need can be had from this package; a chapter is imported when one of its names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i2o.frames.block_storage import BsaDetailedStatus
    from i2o.frames.functions import DeviceClass, Function, OrganizationId
    from i2o.frames.header import (
        EMPTY_MFA,
        MSG_HEADER,
        DetailedStatus,
        FailureCode,
        FailureSeverity,
        MsgFlags,
        ReqStatus,
        SpecialTid,
    )
    from i2o.frames.layout import Field, Layout, MessageLayout, ParameterGroup
    from i2o.frames.params import ParamBlockStatus, ParamOperation
    from i2o.frames.scsi import ScsiDetailedStatus
    from i2o.frames.sgl import SglFlags, chain_element, immediate_element, simple_sgl
    from i2o.frames.sgl_walk import SglBuffer, SglElement, SglError, sgl_elements, walk_sgl
    from i2o.frames.tables import IopState

_HOMES = {
    "BsaDetailedStatus": "block_storage",
    "DetailedStatus": "header",
    "DeviceClass": "functions",
    "EMPTY_MFA": "header",
    "FailureCode": "header",
    "FailureSeverity": "header",
    "Field": "layout",
    "Function": "functions",
    "IopState": "tables",
    "Layout": "layout",
    "MSG_HEADER": "header",
    "MessageLayout": "layout",
    "MsgFlags": "header",
    "OrganizationId": "functions",
    "ParamBlockStatus": "params",
    "ParamOperation": "params",
    "ParameterGroup": "layout",
    "ReqStatus": "header",
    "ScsiDetailedStatus": "scsi",
    "SglBuffer": "sgl_walk",
    "SglElement": "sgl_walk",
    "SglError": "sgl_walk",
    "SglFlags": "sgl",
    "SpecialTid": "header",
    "chain_element": "sgl",
    "immediate_element": "sgl",
    "sgl_elements": "sgl_walk",
    "simple_sgl": "sgl",
    "walk_sgl": "sgl_walk",
}

__all__ = [
    "EMPTY_MFA",
    "MSG_HEADER",
    "BsaDetailedStatus",
    "DetailedStatus",
    "DeviceClass",
    "FailureCode",
    "FailureSeverity",
    "Field",
    "Function",
    "IopState",
    "Layout",
    "MessageLayout",
    "MsgFlags",
    "OrganizationId",
    "ParamBlockStatus",
    "ParamOperation",
    "ParameterGroup",
    "ReqStatus",
    "ScsiDetailedStatus",
    "SglBuffer",
    "SglElement",
    "SglError",
    "SglFlags",
    "SpecialTid",
    "chain_element",
    "immediate_element",
    "sgl_elements",
    "simple_sgl",
    "walk_sgl",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
