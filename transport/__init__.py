# SPDX-License-Identifier: Apache-2.0
"""How frames get from a host to an IOP and back, whatever lies between.

Modules: `port` (the host half of an IOP's queue pair), `host_memory` (buffers that the IOP can
reach), `device_unit` (the device half), `bus_space` and `local_unit` (both halves inside one
process), `uri` and `registry` (`open_port`). Nothing here knows a function code.
"""

from i2o.transport.device_unit import DeviceUnit, DmaSpace
from i2o.transport.host_memory import HostBuffer, HostMemory
from i2o.transport.port import EMPTY, Port
from i2o.transport.registry import open_port
from i2o.transport.uri import Uri

__all__ = [
    "EMPTY",
    "DeviceUnit",
    "DmaSpace",
    "HostBuffer",
    "HostMemory",
    "Port",
    "Uri",
    "open_port",
]
