# SPDX-License-Identifier: Apache-2.0
"""LAM's network messages: nsend, nrecv and their family, over endpoints and over IOPs.

A `Node` is where messages are buffered and matched; `Node.attach` returns a `Process`, whose
methods are LAM's functions. `IopNode` is the same on an IOP that has network messages. LAM's
Fortran names (NSND, NRCV …) are not offered.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from i2o.network_message.descriptor import (
    DDLI,
    DFLT4DATA,
    DFLT4MSG,
    DFLT8DATA,
    DFLT8MSG,
    DINT2MSG,
    DINT4DATA,
    DINT4MSG,
    DMSKDATA,
    DMSKMSG,
    DRAWDATA,
    DRAWMSG,
    DTBO,
    EVBUFFERD,
    EVDL0,
    LOCAL,
    MAXNMSGLEN,
    N2ND,
    NHDSIZE,
    NMORE,
    NOBUF,
    NOTNODEID,
    NREEL,
    ORIGIN,
    Received,
    nmsg,
)

if TYPE_CHECKING:
    from i2o.network_message.iop_node import IopNode
    from i2o.network_message.node import Node
    from i2o.network_message.process import Process

_LAZY = {
    "IopNode": "i2o.network_message.iop_node",
    "Node": "i2o.network_message.node",
    "Process": "i2o.network_message.process",
}

__all__ = [
    "DDLI",
    "DFLT4DATA",
    "DFLT4MSG",
    "DFLT8DATA",
    "DFLT8MSG",
    "DINT2MSG",
    "DINT4DATA",
    "DINT4MSG",
    "DMSKDATA",
    "DMSKMSG",
    "DRAWDATA",
    "DRAWMSG",
    "DTBO",
    "EVBUFFERD",
    "EVDL0",
    "LOCAL",
    "MAXNMSGLEN",
    "N2ND",
    "NHDSIZE",
    "NMORE",
    "NOBUF",
    "NOTNODEID",
    "NREEL",
    "ORIGIN",
    "IopNode",
    "Node",
    "Process",
    "Received",
    "nmsg",
]


def __getattr__(name: str) -> Any:
    """Load a class on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
