# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with guests, each as one error that names what is missing or what failed."""

from __future__ import annotations


class PrepareError(Exception):
    """A package, a suite or a program that guests are made of cannot be had here."""


class NotPrepared(Exception):
    """A part of the guest is not in the cache; the message says how to get it there."""


class GuestFailed(AssertionError):
    """The guest ran and came to a bad end: its kernel, its script, QEMU or the deadline."""
