# SPDX-License-Identifier: Apache-2.0
"""Descriptors of a USB device, and what they are made of.

A device here has one configuration, whose interfaces have no alternate settings. Source: Universal
Serial Bus Specification 2.0, section 9.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from construct import Int8ul, Int16ul

from i2o.frames.layout import Layout, Part, structure


class DescriptorType(IntEnum):
    """Kinds of descriptors (table 9-5)."""

    DEVICE = 1
    CONFIGURATION = 2
    STRING = 3
    INTERFACE = 4
    ENDPOINT = 5


class EndpointKind(IntEnum):
    """Kinds of endpoints: the two low bits of bmAttributes."""

    CONTROL = 0
    ISOCHRONOUS = 1
    BULK = 2
    INTERRUPT = 3


class Speed(IntEnum):
    """How fast a device is; the numbers are those of Linux, which USB/IP sends."""

    LOW = 1
    FULL = 2
    HIGH = 3


IN: Final = 0x80
"""Set in the address of an endpoint whose data go to the host."""
ENGLISH: Final = 0x0409
"""The language of the strings."""
CONFIGURATION_VALUE: Final = 1
_BUS_POWERED: Final = 0x80
_MILLIAMPERES: Final = 100
_CONTROL_PACKET: Final = 64
MAX_STRING: Final = 126
"""UTF-16 units that a string descriptor of 255 bytes has room for."""


def _layout(name: str, *parts: Part) -> Layout:
    return structure(name, *parts, chapter="usb", reference="USB 2.0, 9.6")


DEVICE: Final = _layout(
    "device_descriptor",
    "length" / Int8ul,
    "descriptor_type" / Int8ul,
    "bcd_usb" / Int16ul,
    "device_class" / Int8ul,
    "device_subclass" / Int8ul,
    "device_protocol" / Int8ul,
    "max_packet_size0" / Int8ul,
    "vendor_id" / Int16ul,
    "product_id" / Int16ul,
    "bcd_device" / Int16ul,
    "manufacturer" / Int8ul,
    "product" / Int8ul,
    "serial_number" / Int8ul,
    "num_configurations" / Int8ul,
)
CONFIGURATION: Final = _layout(
    "configuration_descriptor",
    "length" / Int8ul,
    "descriptor_type" / Int8ul,
    "total_length" / Int16ul,
    "num_interfaces" / Int8ul,
    "configuration_value" / Int8ul,
    "configuration" / Int8ul,
    "attributes" / Int8ul,
    "max_power" / Int8ul,
)
INTERFACE: Final = _layout(
    "interface_descriptor",
    "length" / Int8ul,
    "descriptor_type" / Int8ul,
    "interface_number" / Int8ul,
    "alternate_setting" / Int8ul,
    "num_endpoints" / Int8ul,
    "interface_class" / Int8ul,
    "interface_subclass" / Int8ul,
    "interface_protocol" / Int8ul,
    "interface" / Int8ul,
)
ENDPOINT: Final = _layout(
    "endpoint_descriptor",
    "length" / Int8ul,
    "descriptor_type" / Int8ul,
    "endpoint_address" / Int8ul,
    "attributes" / Int8ul,
    "max_packet_size" / Int16ul,
    "interval" / Int8ul,
)


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One endpoint.

    Attributes:
        address: its number, with `IN` for data to the host.
        kind: bulk or interrupt.
        packet_size: bytes of the largest packet.
        interval: how often the host asks an interrupt endpoint, as the descriptor has it.
    """

    address: int
    kind: EndpointKind
    packet_size: int
    interval: int = 0


@dataclass(frozen=True, slots=True)
class InterfaceSpec:
    """One interface.

    Attributes:
        class_code: its class.
        subclass: its subclass.
        protocol: its protocol.
        endpoints: its endpoints.
        name: what it is called, or nothing.
    """

    class_code: int
    subclass: int
    protocol: int
    endpoints: tuple[EndpointSpec, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What a device tells of itself.

    Attributes:
        vendor_id: who made it.
        product_id: what it is.
        version: of the device, as binary coded decimals.
        manufacturer: who made it, in words.
        product: what it is, in words.
        serial_number: tells it from others of its kind.
        interfaces: of its one configuration, numbered from 0.
        speed: of the bus that it is made for.
    """

    vendor_id: int
    product_id: int
    version: int
    manufacturer: str
    product: str
    serial_number: str
    interfaces: tuple[InterfaceSpec, ...]
    speed: Speed = Speed.HIGH

    def endpoints(self) -> tuple[EndpointSpec, ...]:
        """Return every endpoint but the control endpoint."""
        return tuple(each for interface in self.interfaces for each in interface.endpoints)

    def strings(self) -> tuple[str, ...]:
        """Return what the numbers of strings stand for, from 1 on."""
        names = (interface.name for interface in self.interfaces if interface.name)
        return (self.manufacturer, self.product, self.serial_number, *names)

    def device_descriptor(self) -> bytes:
        """Return the device descriptor."""
        return DEVICE.build(
            length=DEVICE.size,
            descriptor_type=DescriptorType.DEVICE,
            bcd_usb=0x0200,
            max_packet_size0=_CONTROL_PACKET,
            vendor_id=self.vendor_id,
            product_id=self.product_id,
            bcd_device=self.version,
            manufacturer=1,
            product=2,
            serial_number=3,
            num_configurations=1,
        )

    def configuration_descriptor(self) -> bytes:
        """Return the configuration descriptor with everything that belongs to it."""
        body, name_index = b"", 3
        for number, interface in enumerate(self.interfaces):
            name_index += bool(interface.name)
            body += INTERFACE.build(
                length=INTERFACE.size,
                descriptor_type=DescriptorType.INTERFACE,
                interface_number=number,
                num_endpoints=len(interface.endpoints),
                interface_class=interface.class_code,
                interface_subclass=interface.subclass,
                interface_protocol=interface.protocol,
                interface=name_index if interface.name else 0,
            )
            for endpoint in interface.endpoints:
                body += ENDPOINT.build(
                    length=ENDPOINT.size,
                    descriptor_type=DescriptorType.ENDPOINT,
                    endpoint_address=endpoint.address,
                    attributes=endpoint.kind,
                    max_packet_size=endpoint.packet_size,
                    interval=endpoint.interval,
                )
        head = CONFIGURATION.build(
            length=CONFIGURATION.size,
            descriptor_type=DescriptorType.CONFIGURATION,
            total_length=CONFIGURATION.size + len(body),
            num_interfaces=len(self.interfaces),
            configuration_value=CONFIGURATION_VALUE,
            attributes=_BUS_POWERED,
            max_power=_MILLIAMPERES // 2,
        )
        return head + body

    def string_descriptor(self, index: int) -> bytes | None:
        """Return a string descriptor, that of the languages for 0; None if there is none."""
        strings = self.strings()
        if index > len(strings):
            return None
        if index == 0:
            text = ENGLISH.to_bytes(2, "little")
        else:
            text = strings[index - 1].encode("utf-16-le")[: 2 * MAX_STRING]
        return bytes((2 + len(text), DescriptorType.STRING)) + text
