# SPDX-License-Identifier: Apache-2.0
"""A bus of software devices for pyusb: a backend that calls the model of a device directly."""

from __future__ import annotations

import array
import errno
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import usb.backend
import usb.core

from i2o.transport.usb.host_device import UsbBus
from i2o.transport.usb_device.descriptors import CONFIGURATION, DEVICE, ENDPOINT, INTERFACE
from i2o.transport.usb_device.device import UsbDevice
from i2o.transport.usb_device.transfers import SETUP, Status, Transfer

_ERRORS = {
    Status.STALL: errno.EPIPE,
    Status.OVERFLOW: errno.EOVERFLOW,
    Status.GONE: errno.ENODEV,
}


class FakeBus(usb.backend.IBackend):
    """A bus.

    Attributes:
        trouble: errors that the next calls raise, by the name of the method.
        pieces: sizes of what the next reads return, as if time ran out in the middle.
        packets: how many packets a write takes before time runs out, or None for all.
        log: claims, releases, drivers that were detached and attached.
        drivers: whether a driver of the kernel has the interface.
        writes: sizes of what was written to bulk endpoints.
    """

    def __init__(self, *devices: UsbDevice) -> None:
        self.plugged = list(devices)
        self.trouble: dict[str, deque[int | None]] = {}
        self.log: list[str] = []
        self.writes: list[int] = []
        self.drivers = False
        self.pieces: deque[int] = deque()
        self.packets: int | None = None
        self._rest = b""
        self._claimed: set[int] = set()
        self._lock = threading.Lock()

    def plug(self, device: UsbDevice) -> None:
        """Plug a device in."""
        self.plugged.append(device)

    def unplug(self, device: UsbDevice) -> None:
        """Pull one out."""
        self.plugged.remove(device)
        self._claimed.discard(id(device))
        device.unplug()

    def host_bus(self) -> UsbBus:
        """Return where a host finds the devices."""
        return UsbBus(self)

    def raise_in(self, name: str, *codes: int | None) -> None:
        """Have the next calls of a method fail, or for None succeed."""
        self.trouble.setdefault(name, deque()).extend(codes)

    # --- pyusb -----------------------------------------------------------------------------------

    def enumerate_devices(self) -> Any:
        return list(self.plugged)

    def get_parent(self, dev: UsbDevice) -> None:
        return None

    def get_device_descriptor(self, dev: UsbDevice) -> Any:
        record = DEVICE.unpack_from(dev.spec.device_descriptor())
        return SimpleNamespace(
            bLength=record.length,
            bDescriptorType=record.descriptor_type,
            bcdUSB=record.bcd_usb,
            bDeviceClass=record.device_class,
            bDeviceSubClass=record.device_subclass,
            bDeviceProtocol=record.device_protocol,
            bMaxPacketSize0=record.max_packet_size0,
            idVendor=record.vendor_id,
            idProduct=record.product_id,
            bcdDevice=record.bcd_device,
            iManufacturer=record.manufacturer,
            iProduct=record.product,
            iSerialNumber=record.serial_number,
            bNumConfigurations=record.num_configurations,
            bus=1,
            address=1 + self.plugged.index(dev),
            port_number=1,
            port_numbers=(1,),
            speed=int(dev.spec.speed),
        )

    def get_configuration_descriptor(self, dev: UsbDevice, config: int) -> Any:
        if config:
            raise IndexError(config)
        record = CONFIGURATION.unpack_from(dev.spec.configuration_descriptor())
        return SimpleNamespace(
            bLength=record.length,
            bDescriptorType=record.descriptor_type,
            wTotalLength=record.total_length,
            bNumInterfaces=record.num_interfaces,
            bConfigurationValue=record.configuration_value,
            iConfiguration=record.configuration,
            bmAttributes=record.attributes,
            bMaxPower=record.max_power,
            extra_descriptors=[],
        )

    def get_interface_descriptor(self, dev: UsbDevice, intf: int, alt: int, config: int) -> Any:
        if alt or config or intf >= len(dev.spec.interfaces):
            raise IndexError(intf)
        record = INTERFACE.unpack_from(dev.spec.configuration_descriptor(), CONFIGURATION.size)
        return SimpleNamespace(
            bLength=record.length,
            bDescriptorType=record.descriptor_type,
            bInterfaceNumber=record.interface_number,
            bAlternateSetting=record.alternate_setting,
            bNumEndpoints=record.num_endpoints,
            bInterfaceClass=record.interface_class,
            bInterfaceSubClass=record.interface_subclass,
            bInterfaceProtocol=record.interface_protocol,
            iInterface=record.interface,
            extra_descriptors=[],
        )

    def get_endpoint_descriptor(
        self, dev: UsbDevice, ep: int, intf: int, alt: int, config: int
    ) -> Any:
        offset = CONFIGURATION.size + INTERFACE.size + ep * ENDPOINT.size
        record = ENDPOINT.unpack_from(dev.spec.configuration_descriptor(), offset)
        return SimpleNamespace(
            bLength=record.length,
            bDescriptorType=record.descriptor_type,
            bEndpointAddress=record.endpoint_address,
            bmAttributes=record.attributes,
            wMaxPacketSize=record.max_packet_size,
            bInterval=record.interval,
            bRefresh=0,
            bSynchAddress=0,
            extra_descriptors=[],
        )

    def open_device(self, dev: UsbDevice) -> UsbDevice:
        self._stumble("open_device")
        return dev

    def close_device(self, dev_handle: UsbDevice) -> None:
        self.log.append("close")

    def get_configuration(self, dev_handle: UsbDevice) -> int:
        return self._control(dev_handle, 0x80, 8, 0, 0, b"", 1)[0]

    def set_configuration(self, dev_handle: UsbDevice, config_value: int) -> None:
        self._control(dev_handle, 0x00, 9, config_value, 0, b"", 0)

    def claim_interface(self, dev_handle: UsbDevice, intf: int) -> None:
        self._stumble("claim_interface")
        with self._lock:
            if id(dev_handle) in self._claimed or self.drivers:
                self.log.append("busy")
                raise _error(errno.EBUSY)
            self._claimed.add(id(dev_handle))
        self.log.append("claim")

    def release_interface(self, dev_handle: UsbDevice, intf: int) -> None:
        with self._lock:
            self._claimed.discard(id(dev_handle))
        self.log.append("release")

    def is_kernel_driver_active(self, dev_handle: UsbDevice, intf: int) -> bool:
        self._stumble("is_kernel_driver_active")
        return self.drivers

    def detach_kernel_driver(self, dev_handle: UsbDevice, intf: int) -> None:
        self.drivers = False
        self.log.append("detach")

    def attach_kernel_driver(self, dev_handle: UsbDevice, intf: int) -> None:
        self.drivers = True
        self.log.append("attach")

    def clear_halt(self, dev_handle: UsbDevice, ep: int) -> None:
        self.log.append(f"clear {ep:#04x}")
        self._control(dev_handle, 0x02, 1, 0, ep, b"", 0)

    def ctrl_transfer(
        self,
        dev_handle: UsbDevice,
        bmRequestType: int,  # noqa: N803 - pyusb calls it so
        bRequest: int,  # noqa: N803
        wValue: int,  # noqa: N803
        wIndex: int,  # noqa: N803
        data: array.array[int],
        timeout: int,
    ) -> int:
        self._stumble("ctrl_transfer")
        if bmRequestType & 0x80:
            answer = self._control(
                dev_handle, bmRequestType, bRequest, wValue, wIndex, b"", len(data)
            )
            memoryview(data)[: len(answer)] = answer
            return len(answer)
        self._control(dev_handle, bmRequestType, bRequest, wValue, wIndex, bytes(data), len(data))
        return len(data)

    def bulk_write(
        self, dev_handle: UsbDevice, ep: int, intf: int, data: array.array[int], timeout: int
    ) -> int:
        self._stumble("bulk_write")
        self.writes.append(len(data))
        taken = bytes(data) if self.packets is None else bytes(data)[: 512 * self.packets]
        return self._transfer(dev_handle, timeout, ep, data=taken).actual

    def bulk_read(
        self, dev_handle: UsbDevice, ep: int, intf: int, buff: array.array[int], timeout: int
    ) -> int:
        self._stumble("bulk_read")
        answer = self._rest
        if not answer:
            answer = bytes(self._transfer(dev_handle, timeout, ep, length=len(buff)).answer)
        size = self.pieces.popleft() if self.pieces and answer else len(answer)
        answer, self._rest = answer[:size], answer[size:]
        memoryview(buff)[: len(answer)] = answer
        return len(answer)

    def intr_read(
        self, dev_handle: UsbDevice, ep: int, intf: int, size: array.array[int], timeout: int
    ) -> int:
        self._stumble("intr_read")
        done = self._transfer(dev_handle, timeout, ep, length=len(size))
        memoryview(size)[: done.actual] = done.answer
        return done.actual

    # ---------------------------------------------------------------------------------------------

    def _stumble(self, name: str) -> None:
        waiting = self.trouble.get(name)
        code = waiting.popleft() if waiting else None
        if code is not None:
            raise _error(code)

    def _control(
        self,
        device: UsbDevice,
        kind: int,
        request: int,
        value: int,
        index: int,
        data: bytes,
        length: int,
    ) -> bytes:
        setup = SETUP.build(
            request_type=kind, request=request, value=value, index=index, length=length
        )
        done = self._transfer(device, 1000, 0, data=data, length=length, setup=setup)
        return bytes(done.answer)

    def _transfer(self, device: UsbDevice, timeout: int, endpoint: int, **what: Any) -> Transfer:
        if device not in self.plugged:
            raise _error(errno.ENODEV)
        ended = threading.Event()
        transfer = Transfer(endpoint, **what, done=lambda _: ended.set())
        device.submit(transfer)
        if not ended.wait(timeout / 1000):
            device.cancel(transfer)
            ended.wait()
        if transfer.status is Status.CANCELLED:
            raise usb.core.USBTimeoutError("timed out", None, errno.ETIMEDOUT)
        if transfer.status in _ERRORS:
            raise _error(_ERRORS[transfer.status])
        return transfer


def _error(code: int) -> usb.core.USBError:
    return usb.core.USBError(errno.errorcode[code], None, code)
