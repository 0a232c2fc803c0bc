# SPDX-License-Identifier: Apache-2.0
"""Traffic of every message there is, with right headers and random contents."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from itertools import count

from i2o.frames import catalog, executive, network_message, tables
from i2o.frames.functions import UNANSWERED, DeviceClass, Function
from i2o.frames.header import MsgFlags, ReqStatus
from i2o.frames.host_ranges import host_ranges
from i2o.frames.layout import MessageLayout
from i2o.frames.params import ParamOperation
from i2o.frames.sgl import simple_sgl
from i2o.transport.capture.packet import Channel, Packet

CLASSES = {
    0x010: DeviceClass.RANDOM_BLOCK_STORAGE,
    0x020: DeviceClass.LAN,
    0x051: DeviceClass.SCSI_PERIPHERAL,
    0x080: DeviceClass.BUS_ADAPTER_PORT,
    0x0B0: DeviceClass.HOT_PLUG_CONTROLLER,
    0x011: DeviceClass.SEQUENTIAL_STORAGE,
}
"""TIDs and what they are, as the LCT in front of the traffic says."""

_PARAMETERS = (Function.UTIL_PARAMS_GET.value, Function.UTIL_PARAMS_SET.value)
_REPLY, _LAST = MsgFlags.REPLY.value, MsgFlags.LAST.value
_TABLE = 0x00F0_0000
_MEMORY = 0x0100_0000


class RandomTraffic:
    """Makes packets.

    Args:
        seed: same seed, same packets.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._time = count(1_700_000_000_000_000_000, 1_234_567)
        self._context = count(1)
        self._mfa = count(0x1000, 0x80)
        self._asked: list[tuple[int, int]] = []

    def introduction(self) -> Iterator[Packet]:
        """Yield an ExecLctNotify and the table that tells the classes of all TIDs."""
        entries = b"".join(
            tables.LCT_ENTRY.build(local_tid=tid, class_id_class=device_class.value)
            for tid, device_class in CLASSES.items()
        )
        table = struct.pack("<III", (12 + len(entries)) // 4, 0, 1) + entries
        head = executive.EXEC_LCT_NOTIFY.build(transaction_context=next(self._context))
        frame = _sized(head + simple_sgl([(_TABLE, len(table))], out=False))
        mfa = next(self._mfa)
        yield self.packet(Channel.IN, frame, mfa)
        yield self.packet(Channel.FROM_DEVICE, table, mfa, _TABLE)

    def of_layout(self, layout: MessageLayout) -> Iterator[Packet]:
        """Yield a request with that layout and DMA of it; or one, and a reply with the layout."""
        if layout.direction == "request":
            function = layout.function
            assert function is not None
            tid = self._tid(function, layout)
            yield from self.request(layout, tid)
            return
        own = [
            asked
            for asked in network_message.REQUESTS.values()
            if network_message.REPLIES[asked.name] is layout
        ]
        asked: MessageLayout | None
        if own:
            asked, tid, flags, status = self.random.choice(own), 0, _REPLY | _LAST, 0
        else:
            function, tid, flags, status = self._way_to(layout)
            asked = catalog.request_layout(function, CLASSES.get(tid, DeviceClass.EXECUTIVE).value)
        assert asked is not None
        packets = list(self.request(asked, tid))
        yield from packets
        yield self.packet(Channel.OUT, self._reply(packets[0].data, layout, flags, status))

    def request(self, layout: MessageLayout, tid: int) -> Iterator[Packet]:
        """Yield a request, and DMA to and from the memory that it points to."""
        mfa = next(self._mfa)
        body = bytearray(layout.build())
        body[16:] = self.random.randbytes(max(0, len(body) - 16))
        if layout.function == 0xFF and len(body) >= 20:
            for word, found in catalog.private_requests().items():
                if found is layout:
                    body[16:20] = word.to_bytes(4, "little")
        if len(body) >= 16:
            body[12:16] = struct.pack("<I", next(self._context))
        body[4:7] = (tid | 1 << 12).to_bytes(3, "little")
        sgl = b""
        if layout.sgl_word_offset:
            sgl = self.sgl()
        else:
            body[0] = 0x01
            sgl = self.random.choice((b"", self.random.randbytes(8)))
        frame = _sized(bytes(body) + sgl)
        yield self.packet(Channel.IN, frame, mfa)
        for found in host_ranges(frame)[:3]:
            way = Channel.TO_DEVICE if found.to_device else Channel.FROM_DEVICE
            data = self._data(found.length)
            if layout.function in _PARAMETERS and self.random.randrange(4):
                data = self.operations() if found.to_device else self.results()
            yield self.packet(way, data[: found.length], mfa, found.address)

    def operations(self) -> bytes:
        """Return a list of parameter operations as a host writes it."""
        rng = self.random
        self._asked = []
        parts = []
        for _ in range(rng.randrange(1, 4)):
            group = rng.choice(catalog.parameter_groups())
            code = rng.choice(tuple(ParamOperation)).value
            every = group.fields
            fields = list(rng.choices(every, k=rng.randrange(1, 4)))
            if rng.randrange(2):
                fields = list(every)
                indexes = struct.pack("<H", 0xFFFF)
            else:
                numbers = [every.index(field) for field in fields]
                indexes = struct.pack(f"<{1 + len(numbers)}H", len(numbers), *numbers)
            self._asked.append((code, sum(field.width_bits // 8 for field in fields)))
            key = rng.randbytes(every[0].width_bits // 8)
            values = rng.randbytes(self._asked[-1][1])
            body = struct.pack("<HH", code, group.number)
            if code not in (ParamOperation.ROW_DELETE, ParamOperation.TABLE_CLEAR):
                body += indexes
            count = rng.randrange(3)
            if code == ParamOperation.FIELD_SET:
                body += values
            elif code == ParamOperation.ROW_ADD:
                body += struct.pack("<H", count) + count * values
            elif code == ParamOperation.LIST_SET:
                body += struct.pack("<H", count) + count * (key + values)
            elif code in (ParamOperation.LIST_GET, ParamOperation.ROW_DELETE):
                body += struct.pack("<H", count) + count * key
            parts.append(body + bytes(len(body) & 1))
        return struct.pack("<HH", len(parts), 0) + b"".join(parts)

    def results(self) -> bytes:
        """Return a list of results to the operations before."""
        rng = self.random
        parts = []
        for code, size in self._asked:
            body = rng.randbytes(size)
            if code in (ParamOperation.TABLE_GET, ParamOperation.LIST_GET, ParamOperation.MORE_GET):
                rows = rng.randrange(3)
                body = struct.pack("<HH", rows, 0) + rng.randbytes(rows * size)
            status, info = rng.choice(((0, 0), (0, 0), (8, 2)))
            body = rng.randbytes(4 * info) + body
            body += bytes(-len(body) % 4)
            parts.append(struct.pack("<HBB", 1 + len(body) // 4, status, info) + body)
        return struct.pack("<HH", len(parts), 0) + b"".join(parts)

    def sgl(self) -> bytes:
        """Return a list: mostly right ones."""
        kind = self.random.randrange(8)
        if kind == 0:
            return self.random.randbytes(4 * self.random.randrange(8))
        out = bool(self.random.randrange(2))
        size = self.random.choice((4, 36, 88, 512, 4096))
        first = simple_sgl([(_MEMORY, size)], out=out, last=False)
        if kind == 1:
            return first + struct.pack("<II", 0xB0000010, 0x02000000)
        if kind == 2:
            pages = struct.pack("<IIII", 0xE0003000, 0x03000800, 0x04000000, 0x05000000)
            return first + pages + struct.pack("<I", 0x06000000)
        if kind == 3:  # immediate data, alone or the first part of a buffer
            head = self.random.choice((0x4C00000C, 0x0C00000C))
            return struct.pack("<I", head) + self.random.randbytes(12) + first
        if kind == 4:
            return struct.pack("<IIIQ", 0x7C020002, 4096, 0xD0000100, 0x1_0000_0000 + _MEMORY)
        contexts = (1, 2, 3)[: self.random.randrange(4)]
        return first + simple_sgl([(2 * _MEMORY, 256)], out=not out, contexts=contexts)

    def packet(
        self, channel: Channel, data: bytes, mfa: int | None = None, address: int = 0
    ) -> Packet:
        """Return one packet, a little later than the one before."""
        return Packet(next(self._time), 0, channel.value, data, len(data), mfa, address)

    def mutated(self, packet: Packet) -> Packet:
        """Return a packet with some bytes changed, cut off or added."""
        rng = self.random
        data = bytearray(packet.data)
        for _ in range(rng.choice((0, 1, 1, 2, 5, 20))):
            if data:
                data[rng.randrange(len(data))] = rng.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))
                )
        shape = rng.randrange(8)
        length = len(data)
        if shape == 0:
            del data[rng.randrange(len(data) + 1) :]
            length = len(data)
        elif shape == 1:  # cut by a snap length
            del data[rng.randrange(len(data) + 1) :]
        elif shape == 2:
            data += rng.randbytes(rng.randrange(64))
            length = len(data)
        channel = packet.channel if rng.randrange(10) else rng.choice((0, 1, 2, 3))
        mfa = packet.mfa if rng.randrange(4) else None
        return packet._replace(data=bytes(data), length=length, channel=channel, mfa=mfa)

    def _data(self, length: int) -> bytes:
        size = min(length, self.random.choice((4096, 16, 512)))
        data = bytearray(self.random.randbytes(size))
        if self.random.randrange(2):  # small numbers make lists of few and short items
            for at in range(0, size, 2):
                data[at : at + 2] = (self.random.choice((0, 1, 2, 3, 9, 0x12))).to_bytes(
                    2, "little"
                )[: size - at]
        return bytes(data)

    def _reply(self, request: bytes, layout: MessageLayout, flags: int, status: int) -> bytes:
        more = 4 * self.random.choice((0, 0, 1, 2, 12))
        body = bytearray(layout.build()) + self.random.randbytes(more)
        body[16:] = self.random.randbytes(max(0, len(body) - 16))
        body[0], body[1] = 0x01, flags
        body[4:16] = request[4:16]
        if any(field.path == "req_status" for field in layout.fields):
            body[19] = status
        return _sized(bytes(body))

    def _tid(self, function: int, layout: MessageLayout) -> int:
        if catalog.request_layout(function, DeviceClass.EXECUTIVE.value) is layout:
            return self.random.choice((0, *CLASSES)) if function < 0x20 else 0
        for tid, device_class in CLASSES.items():
            if catalog.request_layout(function, device_class.value) is layout:
                return tid
        return 0

    def _way_to(self, layout: MessageLayout) -> tuple[int, int, int, int]:
        """Return function, TID, flags and status of a reply that has a layout."""
        ways = []
        for tid in (0, *CLASSES):
            number = CLASSES.get(tid, DeviceClass.EXECUTIVE).value
            for asked in catalog.messages():
                function = asked.function
                if asked.direction != "request" or function is None or function in UNANSWERED:
                    continue
                if catalog.request_layout(function, number) is not asked or function == 0xFF:
                    continue
                for flags in (_REPLY | _LAST, _REPLY | _LAST | 0x10, _REPLY | _LAST | 0x20):
                    for status in ReqStatus:
                        found = catalog.reply_layout(function, number, flags, status.value)
                        if found is layout:
                            ways.append((function, tid, flags, status.value))
        return self.random.choice(ways)


def _sized(frame: bytes) -> bytes:
    return frame[:2] + struct.pack("<H", len(frame) // 4) + frame[4:]
