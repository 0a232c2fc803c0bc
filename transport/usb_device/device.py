# SPDX-License-Identifier: Apache-2.0
"""A USB device as its bus sees it: control requests, and the queues of its endpoints.

What it is for is in a `Function`. What carries transfers (USB/IP, a test) calls `submit`. Either
may be in a thread of its own: every method takes the device's lock, and a function is called with
it.
"""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import Final, Protocol

from i2o.frames.codec import Record
from i2o.transport.usb_device.descriptors import (
    CONFIGURATION_VALUE,
    IN,
    DescriptorType,
    DeviceSpec,
)
from i2o.transport.usb_device.endpoint import InEndpoint, OutEndpoint
from i2o.transport.usb_device.transfers import (
    KIND_MASK,
    RECIPIENT_MASK,
    SETUP,
    STANDARD,
    TO_HOST,
    Recipient,
    Status,
    Transfer,
)

MAX_OUTSTANDING: Final = 256
"""Transfers of a host that may wait at once; more are refused with STALL."""
_HALT_FEATURE: Final = 0


class StandardRequest(IntEnum):
    """Requests that every device answers (USB 2.0, table 9-4)."""

    GET_STATUS = 0
    CLEAR_FEATURE = 1
    SET_FEATURE = 3
    SET_ADDRESS = 5
    GET_DESCRIPTOR = 6
    GET_CONFIGURATION = 8
    SET_CONFIGURATION = 9
    GET_INTERFACE = 10
    SET_INTERFACE = 11


class Function(Protocol):
    """What a device is for. Called with the device's lock held."""

    def control(self, setup: Record, data: bytes | memoryview) -> bytes | None:
        """Answer a control request that is no standard one; None refuses it.

        Args:
            setup: the packet, a record of `SETUP`.
            data: what came with it, of a request to the device.
        """

    def wants(self, endpoint: int) -> bool:
        """Whether data of an endpoint are taken now; when that changes, call `resume`."""

    def take(self, endpoint: int, data: bytes | memoryview, ends: bool) -> bool:
        """Take data from the host.

        Args:
            endpoint: where they came.
            data: valid until this returns.
            ends: whether a transfer ends with them.

        Returns:
            False to halt the endpoint.
        """

    def taken(self, endpoint: int) -> None:
        """The host has taken something of what there was at an endpoint."""

    def cleared(self, endpoint: int) -> None:
        """The host cleared a halt: data of an unfinished transfer count no more."""

    def configured(self, is_configured: bool) -> None:
        """The host took the device into use, or put it out of use, as unplugging does."""


class UsbDevice:
    """One device.

    Args:
        spec: what its descriptors say.
        function: what it is for.

    Attributes:
        spec: what its descriptors say.
        lock: held while its state changes.
        configuration: 0, or 1 while it is in use.
    """

    def __init__(self, spec: DeviceSpec, function: Function) -> None:
        self.spec, self._function = spec, function
        self.lock = threading.RLock()
        self.configuration = 0
        self._in: dict[int, InEndpoint] = {}
        self._out: dict[int, OutEndpoint] = {}
        for endpoint in spec.endpoints():
            if endpoint.address & IN:
                self._in[endpoint.address] = InEndpoint(endpoint, function.taken)
            else:
                self._out[endpoint.address] = OutEndpoint(endpoint, function.wants, function.take)

    # --- for what carries transfers --------------------------------------------------------------

    def submit(self, transfer: Transfer) -> None:
        """Begin a transfer; it may end before this returns."""
        with self.lock:
            number = transfer.endpoint
            if number == 0:
                self._control(transfer)
            elif not self.configuration:
                transfer.end(Status.GONE)
            elif self._count() >= MAX_OUTSTANDING:
                transfer.end(Status.STALL)
            elif number in self._in:
                self._in[number].submit(transfer)
            elif number in self._out:
                self._out[number].submit(transfer)
            else:
                transfer.end(Status.STALL)

    def cancel(self, transfer: Transfer) -> bool:
        """End a transfer with CANCELLED; False if it has ended already."""
        with self.lock:
            queue = self._in.get(transfer.endpoint) or self._out.get(transfer.endpoint)
            return queue is not None and queue.cancel(transfer)

    def take_back(self, transfer: Transfer) -> bool:
        """Keep what a transfer gave to the host, which has not got it; see `InEndpoint`."""
        with self.lock:
            source = self._in.get(transfer.endpoint)
            return source is not None and source.take_back(transfer)

    def unplug(self) -> None:
        """End everything: the bus was reset, or the cable pulled."""
        with self.lock:
            self._configure(0)

    # --- for the function ------------------------------------------------------------------------

    def source(self, endpoint: int) -> InEndpoint:
        """Return the queue to the host of an endpoint."""
        return self._in[endpoint]

    def resume(self, endpoint: int) -> None:
        """Take what the host offers at an endpoint, as the function wants more."""
        with self.lock:
            self._out[endpoint].run()

    def halt(self, endpoint: int) -> None:
        """Halt an endpoint until the host clears that."""
        with self.lock:
            self._queue(endpoint).halt()

    # ---------------------------------------------------------------------------------------------

    def _count(self) -> int:
        asked = sum(queue.submitted for queue in self._in.values())
        return asked + sum(queue.submitted for queue in self._out.values())

    def _queue(self, endpoint: int) -> InEndpoint | OutEndpoint:
        return self._in[endpoint] if endpoint & IN else self._out[endpoint]

    def _configure(self, value: int) -> None:
        """Begin anew with a configuration, or with none."""
        for source in self._in.values():
            source.drop()
            source.is_halted = False
            source.end_all(Status.GONE)
        for sink in self._out.values():
            sink.is_halted = False
            sink.end_all(Status.GONE)
        self.configuration = value
        self._function.configured(bool(value))

    def _control(self, transfer: Transfer) -> None:
        if len(transfer.setup) != SETUP.size:
            transfer.end(Status.STALL)
            return
        setup = SETUP.unpack_from(transfer.setup)
        if setup.request_type & KIND_MASK == STANDARD:
            answer = self._standard(setup)
        elif not self.configuration:
            answer = None
        else:
            answer = self._function.control(setup, transfer.data)
        if answer is None:
            transfer.end(Status.STALL)
        elif setup.request_type & TO_HOST:
            transfer.end(Status.OK, answer[: min(setup.length, transfer.length)])
        else:
            transfer.end(Status.OK, actual=len(transfer.data))

    def _standard(self, setup: Record) -> bytes | None:
        """Answer a standard request; None refuses it."""
        request, recipient = setup.request, setup.request_type & RECIPIENT_MASK
        if recipient == Recipient.ENDPOINT:
            return self._of_endpoint(setup)
        if recipient == Recipient.INTERFACE:
            return self._of_interface(setup)
        if recipient != Recipient.DEVICE:
            return None
        if request == StandardRequest.GET_DESCRIPTOR:
            return self._descriptor(setup.value >> 8, setup.value & 0xFF)
        if request == StandardRequest.GET_STATUS:
            return bytes(2)
        if request == StandardRequest.GET_CONFIGURATION:
            return bytes((self.configuration,))
        if request == StandardRequest.SET_ADDRESS:
            return b""  # whoever carries the transfers knows which device is meant
        if request == StandardRequest.SET_CONFIGURATION:
            if setup.value not in (0, CONFIGURATION_VALUE):
                return None
            self._configure(setup.value)
            return b""
        return None

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        if kind == DescriptorType.DEVICE:
            return self.spec.device_descriptor()
        if kind == DescriptorType.CONFIGURATION and index == 0:
            return self.spec.configuration_descriptor()
        if kind == DescriptorType.STRING:
            return self.spec.string_descriptor(index)
        return None

    def _of_interface(self, setup: Record) -> bytes | None:
        if not self.configuration or setup.index >= len(self.spec.interfaces):
            return None
        if setup.request == StandardRequest.GET_STATUS:
            return bytes(2)
        if setup.request == StandardRequest.GET_INTERFACE:
            return bytes(1)
        if setup.request == StandardRequest.SET_INTERFACE and setup.value == 0:
            for endpoint in self.spec.interfaces[setup.index].endpoints:
                self._clear(endpoint.address)
            return b""
        return None

    def _of_endpoint(self, setup: Record) -> bytes | None:
        address = setup.index & 0xFF
        if address & ~IN == 0:
            return bytes(2) if setup.request == StandardRequest.GET_STATUS else b""
        if address not in self._in and address not in self._out:
            return None
        queue = self._queue(address)
        if setup.request == StandardRequest.GET_STATUS:
            return bytes((queue.is_halted, 0))
        if setup.value != _HALT_FEATURE:
            return None
        if setup.request == StandardRequest.CLEAR_FEATURE:
            self._clear(address)
            return b""
        if setup.request == StandardRequest.SET_FEATURE:
            queue.halt()
            return b""
        return None

    def _clear(self, address: int) -> None:
        self._function.cleared(address)
        self._queue(address).clear()
