# SPDX-License-Identifier: Apache-2.0
"""`PortConformance`: everything that must be true of a way to reach an IOP.

A backend subclasses it once for each way in which it can be set up:

    class TestMyPort(PortConformance):
        def open(self, image, resources):
            return open_port(f"mine:?disk={image}")

There must be a software IOP behind the port, with a disk that is the file `image`: see
`i2o.iop_emulator.options` and `i2o emulate`. Nothing in the suite is skipped: what a backend
cannot do must be refused as the contract says.
"""

from __future__ import annotations

from i2o.testing.port_disks import PortDisks
from i2o.testing.port_fifos import PortFifos
from i2o.testing.port_memory import PortMemory
from i2o.testing.port_requests import PortRequests


class PortConformance(PortFifos, PortMemory, PortRequests, PortDisks):
    """The whole suite for a `Port`; `i2o.testing.port_backend.PortBackend` says what to write."""
