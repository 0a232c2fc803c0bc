# SPDX-License-Identifier: Apache-2.0
"""The server side of the vfio-user protocol: PCI devices in Python for QEMU to plug in.

Knows nothing of I2O. Write a `Device`, give it to a `Server`, and run that with `serve` of
`i2o.transport.serving`.
"""

from i2o.transport.vfio_user.config_space import ConfigSpace, Identity
from i2o.transport.vfio_user.device import Device, Region
from i2o.transport.vfio_user.guest_memory import GuestMemory
from i2o.transport.vfio_user.interrupts import Interrupts
from i2o.transport.vfio_user.server import Server
from i2o.transport.vfio_user.session import Session

__all__ = [
    "ConfigSpace",
    "Device",
    "GuestMemory",
    "Identity",
    "Interrupts",
    "Region",
    "Server",
    "Session",
]
