# SPDX-License-Identifier: Apache-2.0
"""The software engine, over USB, keeps the contract of endpoints: both ends of every cable."""

from __future__ import annotations

from fakes.usb_suites import UsbEndpoints


class TestUsb(UsbEndpoints):
    """Through pyusb to software devices."""
