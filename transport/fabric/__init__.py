# SPDX-License-Identifier: Apache-2.0
"""Endpoints and completion queues with the semantics of libfabric's fi_msg(3) and fi_tagged(3)."""
