# SPDX-License-Identifier: Apache-2.0
"""`EndpointConformance`: everything that the manual says of endpoints and completion queues.

A backend subclasses it:

    class TestMyEndpoints(EndpointConformance):
        def open(self, resources, wanted=None):
            return my_endpoint(capabilities=wanted)

and says what else it has by `listen`, `open_connected`, `nobody`, `lose` and `open_prefixed`. What
a backend does not offer is not skipped: its tests check that it is refused.
"""

from __future__ import annotations

from i2o.testing.endpoint_connections import EndpointConnections
from i2o.testing.endpoint_life import EndpointLife
from i2o.testing.endpoint_messages import EndpointMessages
from i2o.testing.endpoint_options import EndpointOptions
from i2o.testing.endpoint_queues import EndpointQueues
from i2o.testing.endpoint_tagged import EndpointTagged


class EndpointConformance(
    EndpointLife,
    EndpointMessages,
    EndpointTagged,
    EndpointOptions,
    EndpointQueues,
    EndpointConnections,
):
    """The whole suite; `i2o.testing.endpoint_backend.EndpointBackend` says what to write."""
