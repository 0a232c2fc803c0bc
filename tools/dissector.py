# SPDX-License-Identifier: Apache-2.0
"""Writes the Wireshark dissector: tables generated from the layouts, then Lua that reads them.

The Lua files beside this module are the runtime, for Wireshark 3.6 and later (Lua 5.2 to 5.4);
they are put behind the tables in one chunk, so that one file is all that is installed.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from i2o._version import __version__
from i2o.tools.dissector_tables import tables
from i2o.tools.lua_text import lua_table

PARTS: Final = (
    "bytes",
    "sgl",
    "fields",
    "conversation",
    "decode",
    "scsi",
    "tables",
    "parameters",
    "nodes",
    "info",
    "messages",
    "proto",
)
"""The files of the runtime, in the order in which they need each other."""

_MODULES: Final = "BSNCDXTPM"
"""The tables in which the files leave what others need."""

_HEAD: Final = """\
-- SPDX-License-Identifier: Apache-2.0
-- Wireshark dissector for I2O (Intelligent I/O) messages and their DMA. Written by i2o {version}:
-- do not edit, `i2o dump --dissector` writes it again. Packets of link type USER0 are message
-- frames, those of USER1 a bus address (8 bytes, little-endian) and DMA data, those of USER2 what
-- happened to messages of endpoints (docs/captures.md).

if set_plugin_info then
  set_plugin_info({{ version = "{version}", description = "I2O messages" }})
end

"""


def dissector() -> str:
    """Return the dissector: one Lua script, all ASCII.

    Raises:
        OSError: the package lacks its Lua files.
    """
    generated = tables()
    head = _HEAD.format(version=__version__) + f"local {', '.join(generated)}\n"
    folder = resources.files("i2o.tools") / "dissector_lua"
    modules = f"local {', '.join(_MODULES)} = {', '.join(['{}'] * len(_MODULES))}\n"
    parts = [folder.joinpath(f"{name}.lua").read_text("ascii") for name in PARTS]
    # a block each: Lua has room for 200 local names in one
    blocks = [f"do\n{part}end\n" for part in parts]
    data = [lua_table(name, table) for name, table in generated.items()]
    return "\n".join([head, *data, modules, *blocks])
