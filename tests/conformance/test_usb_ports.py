# SPDX-License-Identifier: Apache-2.0
"""IOPs behind a USB cable keep the contract of ports."""

from __future__ import annotations

from fakes.usb_suites import UsbPorts


class TestUsb(UsbPorts):
    """Through pyusb to a software device."""
