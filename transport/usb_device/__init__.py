# SPDX-License-Identifier: Apache-2.0
"""A USB device in software, of any kind: descriptors, control requests, endpoints; no sockets."""
