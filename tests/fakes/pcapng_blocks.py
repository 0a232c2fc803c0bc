# SPDX-License-Identifier: Apache-2.0
"""Takes pcapng apart without any of the project's code, and refuses what is not exactly right."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

TSHARK, CAPINFOS = shutil.which("tshark"), shutil.which("capinfos")


@dataclass
class Block:
    kind: int
    body: bytes
    options: dict[int, bytes]


@dataclass
class Epb:
    interface: int
    time_ns: int
    data: bytes
    length: int
    flags: int
    packet_id: int | None
    comment: str


@dataclass
class Statistics:
    interface: int
    received: int
    dropped: int
    delivered: int
    start_ns: int
    end_ns: int


@dataclass
class Section:
    """One file: whole blocks, one section."""

    header: dict[int, bytes]
    interfaces: list[tuple[str, str, int, int]] = field(default_factory=list)
    packets: list[Epb] = field(default_factory=list)
    statistics: list[Statistics] = field(default_factory=list)

    def names(self) -> list[str]:
        return [name for name, _, _, _ in self.interfaces]

    def of(self, name: str) -> list[Epb]:
        index = self.names().index(name)
        return [packet for packet in self.packets if packet.interface == index]


def section(data: bytes | Path) -> Section:
    """Parse a file that must be whole."""
    if isinstance(data, Path):
        data = data.read_bytes()
    found: Section | None = None
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0
        assert 12 <= length <= len(data) - at
        assert struct.unpack_from("<I", data, at + length - 4)[0] == length
        body = data[at + 8 : at + length - 4]
        if kind == 0x0A0D0D0A:
            assert found is None
            assert struct.unpack_from("<IHHQ", body) == (0x1A2B3C4D, 1, 0, (1 << 64) - 1)
            found = Section(_options(body[16:]))
        elif kind == 1:
            assert found is not None
            link_type, reserved, snap_length = struct.unpack_from("<HHI", body)
            assert reserved == 0
            options = _options(body[8:])
            assert options[9] == b"\x09"
            found.interfaces.append(
                (options[2].decode(), options.get(3, b"").decode(), link_type, snap_length)
            )
        elif kind == 6:
            assert found is not None
            found.packets.append(_packet(body, found))
        elif kind == 5:
            assert found is not None
            found.statistics.append(_statistics(body))
        else:
            raise AssertionError(f"block {kind:#x}")
        at += length
    assert found is not None
    return found


def _packet(body: bytes, found: Section) -> Epb:
    interface, high, low, kept, length = struct.unpack_from("<IIIII", body)
    assert interface < len(found.interfaces)
    snap_length = found.interfaces[interface][3]
    assert kept <= length
    assert kept <= snap_length
    padded = kept + -kept % 4
    assert body[20 + kept : 20 + padded] == bytes(padded - kept)
    options = _options(body[20 + padded :])
    packet_id = int.from_bytes(options[5], "little") if 5 in options else None
    return Epb(
        interface,
        high << 32 | low,
        body[20 : 20 + kept],
        length,
        int.from_bytes(options[2], "little"),
        packet_id,
        options.get(1, b"").decode(),
    )


def _statistics(body: bytes) -> Statistics:
    interface, high, low = struct.unpack_from("<III", body)
    options = _options(body[12:])
    start = struct.unpack("<II", options[2])
    assert options[3] == body[4:12]
    return Statistics(
        interface,
        *(struct.unpack("<Q", options[code])[0] for code in (4, 5, 8)),
        start[0] << 32 | start[1],
        high << 32 | low,
    )


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        code, length = struct.unpack_from("<HH", data, at)
        at += 4
        if code == 0:
            assert (length, at) == (0, len(data))
            return found
        assert code not in found
        padded = length + -length % 4
        assert data[at + length : at + padded] == bytes(padded - length)
        found[code] = data[at : at + length]
        at += padded
    assert not found  # without an end of options
    return found


def tshark_packets(path: Path, *fields: str) -> list[list[str]]:
    """Return fields of every packet as tshark sees them; it must have nothing to complain about."""
    assert TSHARK
    command = [TSHARK, "-n", "-r", str(path), "-T", "json", *(w for f in fields for w in ("-e", f))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "root" not in line]
    assert (done.returncode, complaints) == (0, [])
    return [
        [packet["_source"]["layers"].get(name, [""])[0] for name in fields]
        for packet in json.loads(done.stdout)
    ]
