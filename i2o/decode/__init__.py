# SPDX-License-Identifier: Apache-2.0
"""Understands captured traffic: which reply answers which request, and what every byte means."""
