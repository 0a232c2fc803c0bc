# SPDX-License-Identifier: Apache-2.0
"""Conformance suites: subclass one in your tests, and it tests your port or endpoint.

They are pytest classes, so pytest must be installed (`pip install '.[test]'` in a clone).
"""

import pytest

# who runs a suite wants to see what was compared, as in a test of one's own
pytest.register_assert_rewrite(
    "i2o.testing.bare_host",
    "i2o.testing.endpoint_backend",
    "i2o.testing.endpoint_connections",
    "i2o.testing.endpoint_life",
    "i2o.testing.endpoint_messages",
    "i2o.testing.endpoint_options",
    "i2o.testing.endpoint_queues",
    "i2o.testing.endpoint_tagged",
    "i2o.testing.port_backend",
    "i2o.testing.port_disks",
    "i2o.testing.port_fifos",
    "i2o.testing.port_memory",
    "i2o.testing.port_requests",
    "i2o.testing.stations",
)
