# SPDX-License-Identifier: Apache-2.0
"""Frames over serial lines: a link that repeats what is lost, and the carrier on top of it."""
