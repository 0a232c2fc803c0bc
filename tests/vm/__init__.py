# SPDX-License-Identifier: Apache-2.0
"""Guests for tests: unmodified Debian kernels in QEMU, made of packages from Debian's archive."""
