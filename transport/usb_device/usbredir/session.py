# SPDX-License-Identifier: Apache-2.0
"""One client of usb-redir: bytes in, bytes out, no sockets.

The client is a virtual machine. Its requests of configurations and settings are packets of their
own; interrupt endpoints are asked for it, once it has said that it wants to hear of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from i2o.errors import RemoteFrameError
from i2o.frames.codec import Record
from i2o.frames.layout import Layout
from i2o.transport.usb_device.byte_session import ByteSession
from i2o.transport.usb_device.descriptors import IN, EndpointKind
from i2o.transport.usb_device.device import StandardRequest, UsbDevice
from i2o.transport.usb_device.transfers import SETUP, TO_HOST, Recipient, Status, Transfer
from i2o.transport.usb_device.usbredir.messages import (
    ALT_SETTING_STATUS,
    BULK,
    CONFIGURATION_STATUS,
    CONTROL,
    DEVICE_CONNECT,
    ENDPOINTS,
    HEADER_32,
    HEADER_64,
    HELLO,
    HIGH_SPEED,
    INTERRUPT,
    INTERRUPT_STATUS,
    NO_ENDPOINT,
    VERSION_SIZE,
    Capability,
    PacketStatus,
    PacketType,
)

MAX_PACKET: Final = (1 << 20) + 64
"""Bytes of the largest packet that is taken, without its header."""
MAX_PENDING: Final = 16 << 20
"""Bytes of transfers that may be under way."""
MAX_TRANSFERS: Final = 512
"""Transfers that may be under way."""
_VERSION: Final = b"i2o usb-redir".ljust(VERSION_SIZE, b"\0")
_NEEDED: Final = sum(
    1 << each
    for each in (
        Capability.CONNECT_DEVICE_VERSION,
        Capability.EP_INFO_MAX_PACKET_SIZE,
        Capability.IDS_64_BITS,
        Capability.BULK_LENGTH_32_BITS,
    )
)
_STATUS: Final = {
    Status.OK: PacketStatus.SUCCESS,
    Status.STALL: PacketStatus.STALL,
    Status.OVERFLOW: PacketStatus.BABBLE,
    Status.CANCELLED: PacketStatus.CANCELLED,
    Status.GONE: PacketStatus.IO_ERROR,
}
_CONTROL_PACKET: Final = 64
_MOST_ENDED: Final = 16


class RedirSession(ByteSession):
    """One client.

    Args:
        device: what it has, or None if somebody else has it: then it is sent away.
        wake: called when there is something to send.
    """

    def __init__(self, device: UsbDevice | None, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._device = device
        self._inbox = bytearray()
        self._is_greeted = False
        self._transfers: dict[int, Transfer] = {}
        self._ended: dict[int, Transfer] = {}  # to the host, lately
        self._pending = 0
        self._rings: dict[int, Transfer] = {}  # what waits at interrupt endpoints
        self._next_ring = 0
        if device is None:
            self.is_finished = True
        else:
            hello = HELLO.build(version=_VERSION, capabilities=_NEEDED)
            self.put(HEADER_32.build(type=PacketType.HELLO, length=len(hello), id=0) + hello)

    @property
    def has_device(self) -> bool:
        """Whether the client has the device."""
        return self._device is not None

    def receive(self, data: bytes) -> None:
        """Take bytes of the client's.

        Raises:
            RemoteFrameError: they make no sense; the client is to be sent away.
        """
        device = self._device
        if device is None:
            return
        self._inbox += data
        while not self.is_finished:
            layout = HEADER_64 if self._is_greeted else HEADER_32
            if len(self._inbox) < layout.size:
                return
            header = layout.unpack_from(self._inbox)
            if header.length > MAX_PACKET:
                raise RemoteFrameError(f"a packet of {header.length} bytes; {MAX_PACKET} are taken")
            end = layout.size + header.length
            if len(self._inbox) < end:
                return
            body = bytes(memoryview(self._inbox)[layout.size : end])
            del self._inbox[:end]
            with device.lock:
                if self._is_greeted:
                    self._packet(device, header.type, header.id, body)
                else:
                    self._hello(device, header.type, body)

    def close(self) -> None:
        """The client is gone: the device is unplugged."""
        self.shut()
        if self._device is not None:
            self._rings.clear()
            self._device.unplug()
        self._transfers.clear()

    # --- packets ---------------------------------------------------------------------------------

    def _hello(self, device: UsbDevice, kind: int, body: bytes) -> None:
        if kind != PacketType.HELLO:
            raise RemoteFrameError(f"a packet of type {kind}; expected HELLO")
        capabilities = _read(HELLO, body).capabilities
        if capabilities & _NEEDED != _NEEDED:
            raise RemoteFrameError(f"capabilities {capabilities:#x}; {_NEEDED:#x} are needed")
        self._is_greeted = True
        self._tell_of_endpoints(device)
        spec = device.spec
        connect = DEVICE_CONNECT.build(
            speed=HIGH_SPEED,
            vendor_id=spec.vendor_id,
            product_id=spec.product_id,
            device_version=spec.version,
        )
        self._send(PacketType.DEVICE_CONNECT, 0, connect)

    def _packet(self, device: UsbDevice, kind: int, number: int, body: bytes) -> None:
        if kind == PacketType.BULK_PACKET:
            self._bulk(device, number, body)
        elif kind == PacketType.CONTROL_PACKET:
            self._control(device, number, body)
        elif kind == PacketType.INTERRUPT_PACKET:
            raise RemoteFrameError("an interrupt packet for a device that takes none")
        elif kind == PacketType.CANCEL_DATA_PACKET:
            self._cancel(device, number)
        elif kind == PacketType.RESET:
            self._rings.clear()
            device.unplug()
        elif kind == PacketType.SET_CONFIGURATION:
            self._configure(device, number, _byte(body, 0))
        elif kind == PacketType.GET_CONFIGURATION:
            self._tell_configuration(device, number, PacketStatus.SUCCESS)
        elif kind in (PacketType.SET_ALT_SETTING, PacketType.GET_ALT_SETTING):
            self._set_or_get_setting(device, kind, number, body)
        elif kind == PacketType.START_INTERRUPT_RECEIVING:
            self._start_ringing(device, number, _byte(body, 0))
        elif kind == PacketType.STOP_INTERRUPT_RECEIVING:
            self._stop_ringing(device, number, _byte(body, 0))
        elif kind not in (
            PacketType.FILTER_REJECT,
            PacketType.FILTER_FILTER,
            PacketType.DEVICE_DISCONNECT_ACK,
        ):
            raise RemoteFrameError(f"a packet of type {kind}, which was not agreed upon")

    def _send(self, kind: int, number: int, head: bytes, data: bytes | memoryview = b"") -> None:
        size = len(head) + len(data)
        self.put(HEADER_64.build(type=kind, length=size, id=number) + head + data)

    # --- configuration ---------------------------------------------------------------------------

    def _tell_of_endpoints(self, device: UsbDevice) -> None:
        kinds, intervals = bytearray([NO_ENDPOINT] * ENDPOINTS), bytearray(ENDPOINTS)
        owners, sizes = bytearray(ENDPOINTS), [0] * ENDPOINTS
        for index in (0, ENDPOINTS // 2):
            kinds[index], sizes[index] = EndpointKind.CONTROL, _CONTROL_PACKET
        classes = [bytearray(ENDPOINTS) for _ in range(4)]
        for number, interface in enumerate(device.spec.interfaces):
            told = (number, interface.class_code, interface.subclass, interface.protocol)
            for field, value in zip(classes, told, strict=True):
                field[number] = value
            for endpoint in interface.endpoints:
                index = (endpoint.address & IN) >> 3 | endpoint.address & 0x0F
                kinds[index], intervals[index] = endpoint.kind, endpoint.interval
                owners[index], sizes[index] = number, endpoint.packet_size
        count = len(device.spec.interfaces).to_bytes(4, "little")
        self._send(PacketType.INTERFACE_INFO, 0, count + b"".join(classes))
        limits = b"".join(size.to_bytes(2, "little") for size in sizes)
        self._send(PacketType.EP_INFO, 0, bytes(kinds + intervals + owners) + limits)

    def _configure(self, device: UsbDevice, number: int, value: int) -> None:
        self._rings.clear()
        done = _request(device, Recipient.DEVICE, StandardRequest.SET_CONFIGURATION, value)
        self._tell_of_endpoints(device)
        self._tell_configuration(device, number, _STATUS[done])

    def _tell_configuration(self, device: UsbDevice, number: int, status: PacketStatus) -> None:
        head = CONFIGURATION_STATUS.build(status=status, configuration=device.configuration)
        self._send(PacketType.CONFIGURATION_STATUS, number, head)

    def _set_or_get_setting(self, device: UsbDevice, kind: int, number: int, body: bytes) -> None:
        interface, setting = _byte(body, 0), 0
        if kind == PacketType.SET_ALT_SETTING:
            setting = _byte(body, 1)
            request = StandardRequest.SET_INTERFACE
        else:
            request = StandardRequest.GET_STATUS  # there is one setting, if there is an interface
        done = _request(device, Recipient.INTERFACE, request, setting, interface)
        head = ALT_SETTING_STATUS.build(status=_STATUS[done], interface=interface, setting=0)
        self._send(PacketType.ALT_SETTING_STATUS, number, head)

    # --- transfers -------------------------------------------------------------------------------

    def _control(self, device: UsbDevice, number: int, body: bytes) -> None:
        head = _read(CONTROL, body)
        data = body[CONTROL.size :]
        is_in = bool(head.request_type & TO_HOST)
        if len(data) != (0 if is_in else head.length):
            raise RemoteFrameError(f"a control packet of {head.length} bytes with {len(data)}")
        setup = SETUP.build(
            request_type=head.request_type,
            request=head.request,
            value=head.value,
            index=head.index,
            length=head.length,
        )

        def answer(transfer: Transfer) -> None:
            head.status = _STATUS[transfer.status or Status.GONE]
            head.length = transfer.actual
            self._send(PacketType.CONTROL_PACKET, number, head.pack(), transfer.answer)

        size = head.length if is_in else 0
        self._submit(device, number, 0, size, data, setup, answer)

    def _bulk(self, device: UsbDevice, number: int, body: bytes) -> None:
        head = _read(BULK, body)
        data, length = body[BULK.size :], head.length | head.length_high << 16
        is_in = bool(head.endpoint & IN)
        if len(data) != (0 if is_in else length) or length > MAX_PACKET or not head.endpoint & 0xF:
            raise RemoteFrameError(f"a bulk packet of {length} bytes with {len(data)}")

        def answer(transfer: Transfer) -> None:
            head.status = _STATUS[transfer.status or Status.GONE]
            head.length, head.length_high = transfer.actual & 0xFFFF, transfer.actual >> 16
            self._send(PacketType.BULK_PACKET, number, head.pack(), transfer.answer)

        size = length if is_in else 0
        self._submit(device, number, head.endpoint, size, data, b"", answer)

    def _submit(
        self,
        device: UsbDevice,
        number: int,
        endpoint: int,
        length: int,
        data: bytes,
        setup: bytes,
        answer: Callable[[Transfer], None],
    ) -> None:
        if number in self._transfers:
            raise RemoteFrameError(f"two transfers have the number {number}")
        size = length + len(data)
        if len(self._transfers) >= MAX_TRANSFERS or self._pending + size > MAX_PENDING:
            raise RemoteFrameError("more transfers under way than can be taken")

        def done(transfer: Transfer) -> None:
            self._transfers.pop(number, None)
            self._pending -= size
            answer(transfer)
            if endpoint & IN and transfer.status is Status.OK:
                self._ended[number] = transfer
                if len(self._ended) > _MOST_ENDED:
                    del self._ended[next(iter(self._ended))]

        transfer = Transfer(endpoint, length=length, data=data, setup=setup, done=done)
        self._transfers[number] = transfer
        self._pending += size
        device.submit(transfer)

    def _cancel(self, device: UsbDevice, number: int) -> None:
        """End a transfer; or, if that was too late, keep what went to the client with it.

        A client drops what comes for a transfer that it has cancelled, and tells its host that
        nothing came.
        """
        transfer = self._transfers.get(number)
        if transfer is not None:
            device.cancel(transfer)
            return
        ended = self._ended.pop(number, None)
        if ended is not None:
            device.take_back(ended)

    # --- interrupt endpoints ---------------------------------------------------------------------

    def _start_ringing(self, device: UsbDevice, number: int, endpoint: int) -> None:
        known = {each.address: each for each in device.spec.endpoints()}
        found = known.get(endpoint)
        is_right = (
            found is not None
            and found.kind == EndpointKind.INTERRUPT
            and bool(endpoint & IN)
            and bool(device.configuration)
        )
        status = PacketStatus.SUCCESS if is_right else PacketStatus.INVALID
        head = INTERRUPT_STATUS.build(status=status, endpoint=endpoint)
        self._send(PacketType.INTERRUPT_RECEIVING_STATUS, number, head)
        if found is not None and is_right and endpoint not in self._rings:
            self._ask(device, endpoint, found.packet_size)

    def _stop_ringing(self, device: UsbDevice, number: int, endpoint: int) -> None:
        transfer = self._rings.pop(endpoint, None)
        if transfer is not None:
            device.cancel(transfer)
        head = INTERRUPT_STATUS.build(status=PacketStatus.SUCCESS, endpoint=endpoint)
        self._send(PacketType.INTERRUPT_RECEIVING_STATUS, number, head)

    def _ask(self, device: UsbDevice, endpoint: int, size: int) -> None:
        """Wait for what an interrupt endpoint has, again and again."""

        def done(transfer: Transfer) -> None:
            if self._rings.pop(endpoint, None) is not transfer:
                return  # nobody wants to hear of it any more
            head = INTERRUPT.build(
                endpoint=endpoint,
                status=_STATUS[transfer.status or Status.GONE],
                length=transfer.actual,
            )
            self._send(PacketType.INTERRUPT_PACKET, self._next_ring, head, transfer.answer)
            self._next_ring += 1
            if transfer.status is Status.OK:
                self._ask(device, endpoint, size)

        transfer = Transfer(endpoint, length=size, done=done)
        self._rings[endpoint] = transfer
        device.submit(transfer)


def _read(layout: Layout, body: bytes) -> Record:
    if len(body) < layout.size:
        raise RemoteFrameError(
            f"{layout.size} bytes of {layout.name} are expected, not {len(body)}"
        )
    return layout.unpack_from(body)


def _byte(body: bytes, index: int) -> int:
    if index >= len(body):
        raise RemoteFrameError(f"a packet of {len(body)} bytes")
    return body[index]


def _request(
    device: UsbDevice, recipient: Recipient, request: int, value: int, index: int = 0
) -> Status:
    """Make a standard request, which ends at once."""
    kind = recipient | (TO_HOST if request == StandardRequest.GET_STATUS else 0)
    setup = SETUP.build(request_type=kind, request=request, value=value, index=index)
    transfer = Transfer(0, setup=setup, done=lambda _: None)
    device.submit(transfer)
    return transfer.status or Status.GONE
