# SPDX-License-Identifier: Apache-2.0
"""Frames between two ends of a USB cable: the interface, its host and its device."""
