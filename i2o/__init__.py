# SPDX-License-Identifier: Apache-2.0
"""I2O (Intelligent I/O) in user space: drive an IOP, emulate one, see the traffic.

Start with `i2o.open(uri)` for a brought-up IOP, `i2o.MessageLayer` (or `i2o.d3i2o`, the same
with SCO's names) to write an OSM, `i2o.frames` for the layouts, and the `i2o` command for
everything at once. Names load on first use, so `import i2o` stays light.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2o._version import __version__

# In a checkout the sibling folders transport/, iop_emulator/ and tools/ are i2o.transport and so
# on; an installed package has them inside already.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
del _checkout

if TYPE_CHECKING:
    from i2o.block import BlockDevice
    from i2o.errors import I2OError
    from i2o.iop import Iop
    from i2o.message_layer import MessageLayer
    from i2o.opening import default_message_layer, open
    from i2o.pass_through import passthru

_LAZY = {
    "BlockDevice": "i2o.block",
    "I2OError": "i2o.errors",
    "Iop": "i2o.iop",
    "MessageLayer": "i2o.message_layer",
    "default_message_layer": "i2o.opening",
    "open": "i2o.opening",
    "passthru": "i2o.pass_through",
}

__all__ = [
    "BlockDevice",
    "I2OError",
    "Iop",
    "MessageLayer",
    "__version__",
    "default_message_layer",
    "open",
    "passthru",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'i2o' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
