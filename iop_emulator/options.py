# SPDX-License-Identifier: Apache-2.0
"""Options of a software IOP, and how an `emu:` URI spells them.

    emu:?disk=PATH[,class=block|scsi][,ro][,block_size=N][,removable][,serial=TEXT][,create=SIZE][,bad=FIRST-LAST]…
        &disk=…&frames=128&frame_size=512&outbound_frames=256&iop_id=2&seed=7
        &faults=PLAN.toml&personality=generic|dpt|promise&run=inline|thread|process&store=FOLDER
        &control=SOCKET&network_messages=SIZE

A comma inside a path or serial number is written `%2C`. Without a disk there is one of 16 MiB in
memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote

from i2o.errors import LocalFrameError, TransportUnavailable, UriError
from i2o.iop_emulator.bad_blocks import BadBlocks, FlawedDisk
from i2o.iop_emulator.block_store import DEFAULT_BLOCK_SIZE, BlockStore, MemoryDisk
from i2o.iop_emulator.cards import CARDS, DISK_KINDS, GENERIC, Card, DiskKind
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.disk_image import DiskImage
from i2o.iop_emulator.faults import FaultPlan, FaultPlanError
from i2o.transport.uri import Uri, parse_size

RunMode = Literal["inline", "thread", "process"]
RUN_MODES: Final[dict[str, RunMode]] = {
    "inline": "inline",
    "thread": "thread",
    "process": "process",
}
_KNOWN: Final = (
    "disk",
    "frames",
    "frame_size",
    "outbound_frames",
    "iop_id",
    "seed",
    "faults",
    "personality",
    "run",
    "store",
    "control",
    "network_messages",
)
_DISK_FLAGS: Final = ("ro", "removable")
_DISK_VALUES: Final = ("block_size", "serial", "create", "class")
MIN_NETWORK_MESSAGES: Final = 4096
"""The same, at least."""
MAX_NETWORK_MESSAGES: Final = 1 << 30
"""Bytes of network messages that an IOP may be told to keep."""
_MAX_DISK: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class IopOptions:
    """How one IOP is made.

    Attributes:
        iop_id: the id it has until the host's SysTabSet gives it another.
        outbound_frames: MaxOutboundMFrames of the status block.
        organization_id: organization in its tables.
        product: ProductIDString, up to 24 characters.
        backlog: replies that may wait for reply frames before requests have to wait.
        reset_ms: how long a reset takes.
        store: folder of permanently stored software; empty for none.
        card: the card that it passes itself off as.
        disk_kinds: classes of its first disks; the card's where there is none, or None.
        network_messages: bytes of network messages that may wait; 0 for no such device.
    """

    iop_id: int = 2
    outbound_frames: int = 256
    organization_id: int = 0
    product: str = "i2o software IOP"
    backlog: int = 256
    reset_ms: float = 0
    store: str = ""
    card: Card = GENERIC
    disk_kinds: tuple[DiskKind | None, ...] = ()
    network_messages: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("iop_id", self.iop_id, 0, 0xFFF),
            ("outbound_frames", self.outbound_frames, 1, 1 << 16),
            ("organization_id", self.organization_id, 0, 0xFFFF),
            ("backlog", self.backlog, 1, 1 << 16),
            ("network_messages", self.network_messages, 0, MAX_NETWORK_MESSAGES),
        ):
            if not low <= value <= high:
                raise LocalFrameError(f"{name} = {value} is not between {low} and {high}")
        if len(self.product) > 24 or not self.product.isascii():
            raise LocalFrameError(f"product {self.product!r} is not up to 24 ASCII characters")


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """One `disk=` option.

    Attributes:
        path: the image.
        read_only: `ro`.
        block_size: `block_size=`.
        removable: `removable`.
        serial: `serial=`.
        create: `create=`, bytes.
        bad: `bad=`, first and last block of each range.
        kind: `class=`; None for that of the card's disks.
    """

    path: str
    read_only: bool = False
    block_size: int = DEFAULT_BLOCK_SIZE
    removable: bool = False
    serial: str = ""
    create: int | None = None
    bad: tuple[tuple[int, int], ...] = ()
    kind: DiskKind | None = None

    def open(self) -> BlockStore:
        """Open the image; raises TransportUnavailable."""
        image = DiskImage(
            self.path,
            read_only=self.read_only,
            block_size=self.block_size,
            removable=self.removable,
            serial=self.serial,
            create=self.create,
        )
        count = image.size // image.block_size
        for _, last in self.bad:
            if last >= count:
                image.close()
                raise TransportUnavailable(
                    "emu",
                    f"disk image {self.path!r} has {count} blocks: there is no block {last}",
                    remedy=f"bad= takes block numbers up to {count - 1}",
                )
        return FlawedDisk(image, BadBlocks(self.bad)) if self.bad else image


@dataclass(frozen=True, slots=True)
class EmuOptions:
    """Everything an `emu:` URI says.

    Attributes:
        iop: options of the IOP.
        disks: its disks, in TID order.
        frames: inbound frames.
        frame_size: bytes of each.
        seed: seed of the fault plan, None for the plan's own.
        faults: path of the fault plan, or empty.
        run: where the IOP runs.
        control: path of the control socket, or empty.
    """

    iop: IopOptions
    disks: tuple[DiskOptions, ...]
    frames: int
    frame_size: int
    seed: int | None
    faults: str
    run: RunMode
    control: str

    @classmethod
    def from_uri(cls, uri: Uri) -> EmuOptions:
        """Read the options.

        Raises:
            UriError: an unknown option, or a value that is not allowed.
        """
        if uri.address:
            raise UriError(f"{uri.text!r}: expected emu:?OPTIONS, not {uri.address!r}")
        uri.require_known(_KNOWN)
        for name, value in uri.options:
            if "\0" in value:
                raise UriError(f"{uri.text!r}: {name}={value!r} contains a NUL character")
        personality = uri.one("personality", GENERIC.name)
        card = CARDS.get(personality)
        if card is None:
            raise UriError(
                f"{uri.text!r}: no personality {personality!r}; known are {', '.join(CARDS)}"
            )
        run = uri.one("run", "inline")
        if run not in RUN_MODES:
            raise UriError(f"{uri.text!r}: run={run!r}; known are {', '.join(RUN_MODES)}")
        frame_size = uri.integer("frame_size", 512, 64, 0x3FFFC)
        if frame_size % 4:
            raise UriError(f"{uri.text!r}: frame_size={frame_size} is no whole number of words")
        frames = uri.integer("frames", 128, 1, 0xFF000 // 64)
        if frames * frame_size > 0xFF000:
            raise UriError(
                f"{uri.text!r}: {frames} frames of {frame_size} bytes do not fit the "
                f"{0xFF000} bytes there are"
            )
        has_seed = bool(uri.all("seed"))
        seed = uri.integer("seed", 0, 0, (1 << 64) - 1)
        disks = tuple(parse_disk(text, uri.text) for text in _raw_values(uri, "disk"))
        return cls(
            iop=IopOptions(
                iop_id=uri.integer("iop_id", 2, 0, 0xFFF),
                outbound_frames=uri.integer("outbound_frames", 256, 1, 1 << 16),
                organization_id=card.organization_id,
                product=card.product,
                store=uri.one("store", ""),
                card=card,
                disk_kinds=tuple(disk.kind for disk in disks),
                network_messages=_network_messages(uri),
            ),
            disks=disks,
            frames=frames,
            frame_size=frame_size,
            seed=seed if has_seed else None,
            faults=uri.one("faults", ""),
            run=RUN_MODES[run],
            control=_control(uri),
        )

    def open_disks(self) -> list[BlockStore]:
        """Open every disk; if one cannot be, the others are closed again.

        Raises:
            TransportUnavailable: see `DiskImage`.
        """
        if not self.disks:
            return [MemoryDisk()]
        with ExitStack() as opened:
            stores: list[BlockStore] = []
            for disk in self.disks:
                store = disk.open()
                opened.callback(store.close)
                stores.append(store)
            opened.pop_all()
        return stores

    def open_control(self) -> ControlSocket | None:
        """Make the control socket, if one is asked for; raises TransportUnavailable."""
        return ControlSocket(self.control) if self.control else None

    def read_faults(self) -> FaultPlan | None:
        """Read the fault plan, if one is named.

        Raises:
            UriError: it cannot be read, or is wrong.
        """
        if not self.faults:
            return None
        try:
            return FaultPlan.from_file(self.faults, seed=self.seed)
        except FaultPlanError as error:
            raise UriError(str(error)) from None


def parse_disk(text: str, source: str) -> DiskOptions:
    """Read one `disk=` value: still percent-escaped, parts separated by commas.

    Args:
        text: the value.
        source: the URI, for messages.

    Raises:
        UriError: no path, an unknown part, or a value that is not allowed.
    """
    path, *parts = (unquote(part) for part in text.split(","))
    if not path or "\0" in path:
        raise UriError(f"{source!r}: disk= needs a path")
    flags: set[str] = set()
    values: dict[str, str] = {}
    bad: list[tuple[int, int]] = []
    for part in parts:
        name, equals, value = part.partition("=")
        if equals and name == "bad":
            bad.append(parse_blocks(value, source))
        elif equals and name in _DISK_VALUES:
            values[name] = value
        elif not equals and name in _DISK_FLAGS:
            flags.add(name)
        else:
            known = (*_DISK_FLAGS, *(f"{name}=" for name in (*_DISK_VALUES, "bad")))
            raise UriError(
                f"{source!r}: unknown part {part!r} of disk={path}; known are {', '.join(known)} "
                "(a comma in a path is written %2C)"
            )
    block_size = parse_disk_size(values.get("block_size", str(DEFAULT_BLOCK_SIZE)), source)
    if not 512 <= block_size <= 1 << 16 or block_size & block_size - 1:
        raise UriError(
            f"{source!r}: block_size={block_size} is not a power of two from 512 to 65536"
        )
    serial = values.get("serial", "")
    if len(serial) > 64 or not serial.isascii():
        raise UriError(f"{source!r}: serial={serial!r} is not up to 64 ASCII characters")
    create = parse_disk_size(values["create"], source) if "create" in values else None
    if create is not None and (create < block_size or create % block_size):
        raise UriError(f"{source!r}: create={create} is no whole number of blocks of {block_size}")
    if create is not None and "ro" in flags:
        raise UriError(f"{source!r}: disk={path}: ro and create= exclude one another")
    kind = values.get("class")
    if kind is not None and kind not in DISK_KINDS:
        raise UriError(f"{source!r}: class={kind!r}; known are {', '.join(DISK_KINDS)}")
    return DiskOptions(
        path,
        "ro" in flags,
        block_size,
        "removable" in flags,
        serial,
        create,
        tuple(bad),
        None if kind is None else DISK_KINDS[kind],
    )


def parse_blocks(text: str, source: str) -> tuple[int, int]:
    """Read block numbers, FIRST or FIRST-LAST; return the first and the last.

    Raises:
        UriError: it is no such range.
    """
    first, dash, last = text.partition("-")
    numbers = (first, last if dash else first)
    if not all(re.fullmatch(r"[0-9]{1,19}", number) for number in numbers):
        raise UriError(f"{source!r}: {text!r} are no blocks; write for example 7 or 100-199")
    low, high = map(int, numbers)
    if high < low:
        raise UriError(f"{source!r}: blocks {text}: the last comes before the first")
    return low, high


def parse_disk_size(text: str, source: str) -> int:
    """Read the size of a disk or its blocks.

    Raises:
        UriError: it is no number of bytes, or too large for a disk.
    """
    try:
        size = parse_size(text)
    except ValueError as error:
        raise UriError(f"{source!r}: {error}") from None
    if size > _MAX_DISK:
        raise UriError(f"{source!r}: {text} is too large")
    return size


def _network_messages(uri: Uri) -> int:
    text = uri.one("network_messages", "")
    if not uri.all("network_messages"):
        return 0
    size = parse_disk_size(text, uri.text)
    if not MIN_NETWORK_MESSAGES <= size <= MAX_NETWORK_MESSAGES:
        raise UriError(
            f"{uri.text!r}: network_messages={text} is not from {MIN_NETWORK_MESSAGES} bytes to "
            f"{MAX_NETWORK_MESSAGES >> 20}M: how many bytes of messages may wait"
        )
    return size


def _control(uri: Uri) -> str:
    path = uri.one("control", "")
    if uri.all("control") and not path:
        raise UriError(f"{uri.text!r}: control= needs the path of a socket")
    return path


def _raw_values(uri: Uri, name: str) -> Sequence[str]:
    """Return the values of an option before percent escapes are undone."""
    _, _, query = uri.text.partition("?")
    pairs = (part.partition("=") for part in query.split("&"))
    return [value for key, _, value in pairs if unquote(key) == name]
