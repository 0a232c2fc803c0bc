# SPDX-License-Identifier: Apache-2.0
"""A device as its host has it through pyusb: found, claimed, read, written, let go.

pyusb is imported here alone, and only when a device is wanted. Its errors are `OSError`s, and pass.
"""

from __future__ import annotations

import array
import contextlib
import errno
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Final, NamedTuple

from i2o.closing import Closing
from i2o.errors import TransportUnavailable
from i2o.transport.usb.address import UsbAddress
from i2o.transport.usb.interface import (
    INTERFACE_CLASS,
    INTERFACE_PROTOCOL,
    INTERFACE_SUBCLASS,
    REQUEST_IN,
    REQUEST_OUT,
)

CONTROL_MS: Final = 2000
"""How long a control request may take."""
INSTALL_PYUSB: Final = "pip install pyusb"
UDEV_REMEDY: Final = (
    "allow it with a udev rule, for example "
    'SUBSYSTEM=="usb", ATTRS{{idVendor}}=="{vendor:04x}", ATTRS{{idProduct}}=="{product:04x}", '
    'TAG+="uaccess"'
)
_LIBUSB: Final = "libusb-1.0.so.0"
_BULK, _KIND_MASK, _TO_HOST = 2, 3, 0x80


class UsbBus:
    """What finds devices.

    Args:
        backend: of pyusb; the one that it finds if None.
    """

    def __init__(self, backend: Any = None) -> None:
        self._backend = backend

    def devices(self, vendor_id: int | None = None, product_id: int | None = None) -> list[Any]:
        """Return pyusb's devices that have our interface.

        Args:
            vendor_id: only those of this maker.
            product_id: only these.

        Raises:
            TransportUnavailable: pyusb or libusb is missing.
            OSError: the bus cannot be searched.
        """
        try:
            core = import_module("usb.core")
        except ImportError:
            raise TransportUnavailable(
                "usb", "pyusb is not installed", remedy=INSTALL_PYUSB
            ) from None
        wanted = {"idVendor": vendor_id, "idProduct": product_id}
        given = {name: value for name, value in wanted.items() if value is not None}
        try:
            found = list(core.find(find_all=True, backend=self._backend, **given))
        except core.NoBackendError:
            self._backend = _libusb_by_name()
            found = list(core.find(find_all=True, backend=self._backend, **given))
        return [device for device in found if interface_of(device) is not None]

    def open(self, address: UsbAddress, *, detach: bool = False) -> HostDevice:
        """Find a device and claim its interface.

        Args:
            address: which.
            detach: take the interface away from the kernel's driver, until it is closed.

        Raises:
            TransportUnavailable: it is not there, in use, or not allowed; says what to do.
            OSError: it does not answer.
        """
        found = self.devices(address.vendor_id, address.product_id)
        if address.serial_number:
            found = [each for each in found if self._serial(each, address) == address.serial_number]
        if not found:
            raise TransportUnavailable(
                "usb",
                f"{address} is not plugged in, or has no interface for I2O",
                remedy="see lsusb",
            )
        if len(found) > 1:
            raise TransportUnavailable(
                "usb",
                f"{len(found)} devices are called {address}",
                remedy="say which: usb:VID:PID:SERIAL",
            )
        with _explained(address):
            return HostDevice(found[0], detach=detach)

    @staticmethod
    def _serial(device: Any, address: UsbAddress) -> str:
        with _explained(address):
            return serial_of(device)


def _libusb_by_name() -> Any:
    """Return pyusb's backend, where nothing is installed that could tell where libusb is.

    Raises:
        TransportUnavailable: there is none.
    """
    backend = import_module("usb.backend.libusb1").get_backend(find_library=lambda _: _LIBUSB)
    if backend is None:
        raise TransportUnavailable("usb", "libusb is not installed", remedy="install libusb-1.0-0")
    return backend


def serial_of(device: Any) -> str:
    """Return the serial number of a device of pyusb's; raises OSError if it may not be asked."""
    try:
        return device.serial_number or ""
    except ValueError as error:  # pyusb was told no languages, which is what no access looks like
        raise PermissionError(errno.EACCES, str(error)) from None


class Place(NamedTuple):
    """Where our interface is in a device.

    Attributes:
        configuration: the value of its configuration.
        interface: pyusb's interface.
    """

    configuration: int
    interface: Any


def interface_of(device: Any) -> Place | None:
    """Return where a device of pyusb's has our interface, or None."""
    with contextlib.suppress(OSError):
        for configuration in device:
            for interface in configuration:
                if (
                    interface.bInterfaceClass,
                    interface.bInterfaceSubClass,
                    interface.bInterfaceProtocol,
                ) == (INTERFACE_CLASS, INTERFACE_SUBCLASS, INTERFACE_PROTOCOL):
                    return Place(configuration.bConfigurationValue, interface)
    return None


class HostDevice(Closing):
    """A device whose interface is claimed.

    Args:
        device: pyusb's.
        detach: as of `UsbBus.open`.

    Raises:
        OSError: the interface cannot be had, or lacks an endpoint.

    Attributes:
        packet_size: bytes of the largest packet to the device.
    """

    def __init__(self, device: Any, *, detach: bool = False) -> None:
        self._device, self._is_detached = device, False
        self._util = import_module("usb.util")
        place = interface_of(device)
        if place is None:
            raise OSError(errno.ENODEV, "it is gone")
        interface = place.interface
        self._number = int(interface.bInterfaceNumber)
        self._out = self._in = self._doorbell = 0
        self.packet_size = 0
        for endpoint in interface:
            is_bulk = endpoint.bmAttributes & _KIND_MASK == _BULK
            if not endpoint.bEndpointAddress & _TO_HOST:
                self._out, self.packet_size = endpoint.bEndpointAddress, endpoint.wMaxPacketSize
            elif is_bulk:
                self._in = endpoint.bEndpointAddress
            else:
                self._doorbell = endpoint.bEndpointAddress
        if not (self._out and self._in and self._doorbell and self.packet_size):
            raise OSError(errno.EPROTO, "its interface lacks an endpoint")
        try:
            if detach and self._has_driver():
                device.detach_kernel_driver(self._number)
                self._is_detached = True
            self._configure(place.configuration)
            self._util.claim_interface(device, self._number)
        except BaseException:
            self.close()
            raise

    def _has_driver(self) -> bool:
        try:
            return bool(self._device.is_kernel_driver_active(self._number))
        except NotImplementedError:  # this backend has no kernel that could have drivers
            return False

    def _configure(self, value: int) -> None:
        """Have the configuration with the interface in use, unless it is already."""
        try:
            if self._device.get_active_configuration().bConfigurationValue == value:
                return
        except OSError:
            pass  # none is in use
        self._device.set_configuration(value)

    # --- transfers -------------------------------------------------------------------------------

    def control_in(self, request: int, length: int) -> bytes:
        """Ask the interface for something."""
        answer = self._device.ctrl_transfer(
            REQUEST_IN, request, 0, self._number, length, CONTROL_MS
        )
        return bytes(answer)

    def control_out(self, request: int, data: bytes = b"") -> None:
        """Tell the interface something."""
        self._device.ctrl_transfer(REQUEST_OUT, request, 0, self._number, data, CONTROL_MS)

    def write(self, data: bytes | memoryview, timeout_ms: int) -> int:
        """Send a transfer, or what is left of it; return how many bytes were taken in time."""
        return int(self._device.write(self._out, bytes(data), timeout_ms))

    def read(self, buffer: array.array[int], timeout_ms: int) -> int:
        """Read one transfer; return its bytes."""
        return int(self._device.read(self._in, buffer, timeout_ms))

    def read_doorbell(self, buffer: array.array[int], timeout_ms: int) -> int:
        """Wait for a doorbell; return its bytes."""
        return int(self._device.read(self._doorbell, buffer, timeout_ms))

    def clear_out(self) -> None:
        """Clear the halt of the endpoint to the device."""
        self._device.clear_halt(self._out)

    def clear_in(self) -> None:
        """Clear the halt of the endpoint to the host."""
        self._device.clear_halt(self._in)

    def clear_doorbell(self) -> None:
        """Clear the halt of the doorbell."""
        self._device.clear_halt(self._doorbell)

    def close(self) -> None:
        """Release the interface, and give it back to the driver that it was taken from."""
        self._quietly(lambda: self._util.release_interface(self._device, self._number))
        if self._is_detached:
            self._is_detached = False
            self._quietly(lambda: self._device.attach_kernel_driver(self._number))
        self._quietly(lambda: self._util.dispose_resources(self._device))

    @staticmethod
    def _quietly(call: Callable[[], object]) -> None:
        with contextlib.suppress(OSError):  # it may be unplugged
            call()


@contextlib.contextmanager
def _explained(address: UsbAddress) -> Iterator[None]:
    """Say what to do about the two errors that have a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EACCES:
            remedy = UDEV_REMEDY.format(vendor=address.vendor_id, product=address.product_id)
            raise TransportUnavailable(
                "usb", f"{address} may not be used by this user", remedy=remedy
            ) from None
        if error.errno == errno.EBUSY:
            raise TransportUnavailable(
                "usb",
                f"the interface of {address} is in use",
                remedy="stop the other program; ?detach=1 takes it from a driver of the kernel",
            ) from None
        raise
