# SPDX-License-Identifier: Apache-2.0
"""libfabric behind the contract of endpoints: its own calls, and no bytes of ours on the wire."""
