# SPDX-License-Identifier: Apache-2.0
"""Peers by name over TCP: handshake, links that survive races and restarts, messages by tag."""
