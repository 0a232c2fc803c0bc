# SPDX-License-Identifier: Apache-2.0
"""Runs tshark with the project's dissector and reads what it makes of packets."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from i2o.decode.tree import Node
from i2o.transport.capture import pcapng_writer
from i2o.transport.capture.packet import (
    LINKTYPE_DMA,
    LINKTYPE_ENDPOINT,
    LINKTYPE_FRAME,
    Channel,
    Packet,
)

TIMEOUT_S = 300
_NAMES = {
    Channel.IN: "in",
    Channel.OUT: "out",
    Channel.TO_DEVICE: "dma",
    Channel.FROM_DEVICE: "dma",
}
_TO_IOP = (Channel.IN, Channel.TO_DEVICE)


@dataclass
class Leaf:
    """A field of a packet as Wireshark has it.

    Attributes:
        name: without `i2o.` in front.
        show: its value as text.
        is_hidden: it is not in the tree, filters find it.
        is_top: it is right below the protocol.
    """

    name: str
    show: str
    is_hidden: bool
    is_top: bool


@dataclass
class Dissected:
    """One packet as Wireshark has it.

    Attributes:
        fields: those of our protocol, in order.
        text: every label of the packet, one a line.
    """

    fields: list[Leaf] = field(default_factory=list)
    text: str = ""

    def values(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [leaf.show for leaf in self.fields if leaf.name == name]


def find_tshark() -> str | None:
    """Return where tshark is, None if it is not installed."""
    return shutil.which("tshark")


def write_pcapng(path: Path, packets: Iterable[Packet]) -> Path:
    """Write packets as the project's captures have them, with or without MFAs."""
    interfaces: dict[str, int] = {}
    with path.open("wb") as file:
        file.write(pcapng_writer.section_header(application="tests"))
        for packet in packets:
            is_message = packet.channel == Channel.MESSAGE
            is_dma = packet.channel > Channel.OUT and not is_message
            link_type = LINKTYPE_DMA if is_dma else LINKTYPE_FRAME
            if is_message:
                name, link_type = f"ep{packet.iop}", LINKTYPE_ENDPOINT
            else:
                name = f"iop{packet.iop}.{_NAMES[Channel(packet.channel)]}"
            if name not in interfaces:
                interfaces[name] = len(interfaces)
                file.write(
                    pcapng_writer.interface_description(
                        name,
                        link_type=link_type,
                        snap_length=pcapng_writer.MAX_SNAP_LENGTH,
                    )
                )
            head = packet.address.to_bytes(8, "little") if is_dma else b""
            to_iop = packet.channel in _TO_IOP
            file.write(
                pcapng_writer.enhanced_packet(
                    interfaces[name],
                    packet.time_ns,
                    head + packet.data,
                    len(head) + packet.length,
                    flags=pcapng_writer.OUTBOUND if to_iop else pcapng_writer.INBOUND,
                    packet_id=packet.mfa,
                )
            )
    return path


def tshark(script: Path, capture: Path, *options: str) -> str:
    """Run tshark over a capture; returns what it prints.

    Raises:
        AssertionError: it complains, or a dissector fails.
    """
    result = run_tshark(["-X", f"lua_script:{script}", "-r", str(capture), *options])
    assert result.returncode == 0, result.stderr
    assert not complaints(result.stderr), result.stderr
    assert "Lua Error" not in result.stdout, result.stdout[result.stdout.index("Lua Error") :][:400]
    return result.stdout


def run_tshark(
    arguments: Sequence[str], *, env: dict[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run tshark with any arguments."""
    program = find_tshark()
    assert program is not None
    return subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env=env,
    )


def complaints(stderr: str) -> list[str]:
    """Return the lines of tshark's standard error that are not about running as root."""
    return [
        line for line in stderr.splitlines() if line.strip() and not line.startswith("Running as")
    ]


def dissect(script: Path, capture: Path, *options: str) -> Iterator[Dissected]:
    """Yield every packet of a capture as Wireshark has it."""
    pdml = tshark(script, capture, "-T", "pdml", *options)
    for packet in ElementTree.fromstring(pdml).iter("packet"):
        found = Dissected()
        lines: list[str] = []
        for proto in packet.findall("proto"):
            lines.append(proto.get("showname") or "")
            if proto.get("name") == "i2o":
                _fields(proto, found.fields, lines, is_top=True)
            else:
                lines += [
                    one.get("showname") or one.get("show") or "" for one in proto.iter("field")
                ]
        found.text = "\n".join(lines)
        yield found


def _fields(
    element: ElementTree.Element, fields: list[Leaf], lines: list[str], *, is_top: bool
) -> None:
    for child in element:
        name = child.get("name") or ""
        if name == "_ws.expert":
            lines += [one.get("showname") or "" for one in child.iter("field")]
            continue
        lines.append(child.get("showname") or child.get("show") or "")
        if child.tag == "field" and name.startswith("i2o."):
            fields.append(
                Leaf(name[4:], child.get("show") or "", child.get("hide") == "yes", is_top)
            )
        _fields(child, fields, lines, is_top=False)


def same_fields(nodes: Iterable[Node], dissected: Dissected) -> str:
    """Compare what our decoder and Wireshark found; returns the first difference, empty if none."""
    ours = list(_our_leaves(nodes))
    theirs = [leaf for leaf in dissected.fields if _is_shown(leaf)]
    if theirs and theirs[0].name == "address" and dissected.values("type") == ["dma"]:
        del theirs[0]  # of the packet itself
    for index in range(max(len(ours), len(theirs))):
        if index >= len(ours):
            return f"field {index}: only Wireshark has {theirs[index]}"
        name, value = ours[index]
        if index >= len(theirs):
            return f"field {index}: only we have {name} = {value!r}"
        leaf = theirs[index]
        if not _same_name(name, leaf.name) or not _same_value(value, leaf.show):
            return f"field {index}: we have {name} = {value!r}, Wireshark {leaf}"
    return ""


_OWN = frozenset(("mfa", "device_class", "request_in", "reply_in", "latency"))
_OF_ANY_NAME = frozenset(("key", "keys"))
"""Leaves that are called by their place with us, by their field in Wireshark."""


def _is_shown(leaf: Leaf) -> bool:
    if leaf.name == "problem":
        return True
    return not leaf.is_hidden and not (leaf.is_top and leaf.name in _OWN)


def _our_leaves(
    nodes: Iterable[Node], list_name: str = ""
) -> Iterator[tuple[str, int | bytes | str]]:
    for node in nodes:
        name = list_name if node.name.isdecimal() and list_name else node.name
        if node.value is not None:
            yield name, node.value
        yield from _our_leaves(node.children, node.name if node.is_list else "")


def _same_name(ours: str, theirs: str) -> bool:
    if ours in _OF_ANY_NAME:
        return True
    plain = theirs.removesuffix("_bytes").removesuffix("_field")
    return ours in (plain, theirs) or plain.endswith(f".{ours}")


def _same_value(ours: int | bytes | str, theirs: str) -> bool:
    if isinstance(ours, int):
        try:
            return int(theirs, 0) == ours
        except ValueError:
            return False
    if isinstance(ours, bytes):
        return bytes.fromhex(theirs.replace(":", "")) == ours
    return _plain(ours) == _plain(theirs)


def _plain(text: str) -> str:
    """Return a text without what XML does to line ends, and without field names that differ."""
    return text.replace("\n", " ").replace("_bytes", "").replace("_field", "")
