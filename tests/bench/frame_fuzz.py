# SPDX-License-Identifier: Apache-2.0
"""Hundreds of thousands of frames into one software IOP, most of them right but for a field or two.

Frames come in episodes of a few hundred, each with its own random numbers: the IOP is brought up
into some state, devices included, and then gets mutated, valid and meaningless frames. Between them
static frames are posted, disks are plugged in and pulled, and another IOP, which it may be
connected with, is used, reset or fails. No exception may come out, no frame may get lost, no
request may stay without its answer, nothing may be written where no request points, and what the
IOP keeps has limits. After each episode the IOP is power-cycled and must work.
Run: PYTHONPATH=tests python -m bench.frame_fuzz [--frames 200000] [--seed 1]
Again: PYTHONPATH=tests python -m bench.frame_fuzz --seed 1 --episode 17 [--last 20] [--show]
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import random
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from fakes.connection_books import disagreement, users
from fakes.far_iop import FRAMES as FAR_FRAMES
from fakes.far_iop import SILENT, FarIop
from fakes.host_arena import HostArena, RemoteDma, WatchedDma
from fakes.iop_rig import Rig
from fakes.network_books import network_disagreement
from fakes.random_plugging import MOST_ADDED, FaultyDisk, Plugging
from fakes.valid_frames import (
    ALIAS_EXECUTIVE,
    ALIASES,
    CONTEXTS,
    DDM,
    DISK,
    DISK_SIZE,
    DISKS,
    LARGE_BLOCKS,
    LARGE_SIZE,
    LOADED,
    NEAR,
    NETWORK,
    REMOVABLE,
    SCSI_DISKS,
    FrameTable,
    ValidFrame,
)
from fakes.valid_lists import Place
from fakes.valid_network_messages import SPACE
from fakes.valid_scsi_frames import scsi_stores
from i2o.errors import I2OError
from i2o.frames import block_storage as bsa
from i2o.frames import executive, utility
from i2o.frames.catalog import layout_of_request
from i2o.frames.functions import Function
from i2o.frames.header import FAILURE_REPLY, SpecialTid
from i2o.frames.sgl_walk import sgl_elements
from i2o.frames.tables import IopState
from i2o.iop_emulator.block_store import BlockStore, MemoryDisk
from i2o.iop_emulator.cards import CARDS, DiskKind
from i2o.iop_emulator.complaints import KEPT
from i2o.iop_emulator.ddm.block import MAX_JOBS, BlockDevice
from i2o.iop_emulator.ddm.block_parameters import ERRORS_KEPT
from i2o.iop_emulator.ddm.bus_adapter import BusAdapter
from i2o.iop_emulator.ddm.network_message import NetworkMessageDdm
from i2o.iop_emulator.ddm.scsi import ScsiPeripheral
from i2o.iop_emulator.executive import MAX_NOTIFIES
from i2o.iop_emulator.executive_software import FIRST_TID, LAST_TID
from i2o.iop_emulator.iop_system import IopSystem
from i2o.iop_emulator.options import IopOptions
from i2o.iop_emulator.peers import MAX_ALIASES, MAX_FORWARDS
from i2o.iop_emulator.request import Request
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.iop_emulator.software_store import MAX_MODULES, SoftwareStore
from i2o.iop_emulator.static_frames import MAX_INSTANCES
from i2o.transport.port import EMPTY

FRAMES = 200_000
EPISODE = 250
"""Frames of an episode."""
VALID, MEANINGLESS = 0.05, 0.02
"""Shares of frames that are sent as they are, and that are random bytes; the others are mutated."""
WHOLE = 0.2
"""Share of sequences of frames in which no frame is mutated."""
INBOUND, REPLIES, BACKLOG = 16, 24, 12
MOST_WAITING = BACKLOG + MAX_JOBS + MAX_NOTIFIES + MAX_FORWARDS + MAX_INSTANCES + EPISODE
"""Replies that may wait: everything that is under way may end while the backlog is full."""
MOST_ATTENTIONS = 4
"""A reset, another medium, another size, and somebody who wants the medium."""
MOST_STORED = MAX_MODULES * (32 << 10)
"""Bytes of software that may be stored: no valid module here is larger than 24 KiB."""
MOST_GROWTH = 3000
"""Blocks of memory that the second half of a run may add."""
VARIANTS = 40
"""Valid frames of each kind, which mutated ones start from."""
_FUNCTIONS = tuple(sorted({function.value for function in Function}))
_BARE_ADDRESS = (Function.EXEC_STATUS_GET.value, Function.EXEC_IOP_RESET.value)
_NAMED_IN_BODY = (*_BARE_ADDRESS, Function.EXEC_STATIC_MF_CREATE.value)
_PACES = ((1, 4), (64,), (1,), (0, 0, 0, 1, 2), (0, 0, 0, 0, 0, 0, 0, 20))
"""How many steps the IOP makes after each frame."""
_SLOW = ("media_verify", "lct_notify")
"""Builders of requests that are not answered at once."""
_REPLY, _LAST, _FAIL = 0x80, 0x40, 0x20
_NOP = utility.UTIL_NOP.build()[:12]
_NUMBERS = (0, 1, 2, 3, 4, 0x10, 0x40, 512)
_SHOWN = 12
_KINDS: tuple[DiskKind, ...] = (*["block"] * len(DISKS), *["scsi"] * len(SCSI_DISKS))
"""Classes of the disks."""


Writes = Sequence[tuple[int, int]]
"""Pieces of host memory, as (bus address, bytes)."""


class Broken(AssertionError):
    """A rule that the IOP broke."""


class Shot(NamedTuple):
    """One frame, and what happens before it.

    Attributes:
        kind: whether it is mutated.
        name: its builder.
        frame: its bytes.
        changes: mutated sources, as (bus address, bytes).
        writes: what may be written for it, if that is certain.
        act: what somebody else does first, or nothing.
        chance: decides on the details of that.
    """

    kind: str
    name: str
    frame: bytes
    changes: Sequence[tuple[int, bytes]]
    writes: Writes | None
    act: str
    chance: int


def _disks() -> list[BlockStore]:
    return [
        MemoryDisk(LARGE_SIZE),
        MemoryDisk(DISK_SIZE, read_only=True),
        MemoryDisk(DISK_SIZE, removable=True),
        MemoryDisk(DISK_SIZE, block_size=4096),
        FaultyDisk(DISK_SIZE),
        *scsi_stores(),
    ]


class FrameFuzz:
    """One IOP and everything that is thrown at it.

    Args:
        seed: same seed, same frames.
        show: print every frame.
        variants: valid frames of each kind; fewer are made faster.
        folder: where the IOP keeps software.

    Attributes:
        counts: frames by kind.
        recent: the last frames of the episode, newest last.
    """

    def __init__(
        self, seed: int, *, show: bool = False, variants: int = VARIANTS, folder: str = ""
    ) -> None:
        self.seed, self.show = seed, show
        self.counts: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.functions: Counter[int] = Counter()
        self.recent: list[tuple[int, str, bytes]] = []
        system = IopSystem()
        self._folder = folder
        options = IopOptions(
            iop_id=NEAR,
            backlog=BACKLOG,
            reset_ms=0.5,
            store=folder,
            card=CARDS["dpt"],
            disk_kinds=_KINDS,
            network_messages=SPACE,
        )
        self.rig = rig = Rig(_disks(), options=options, frames=INBOUND, up=False, system=system)
        self.iop, self.unit, self.memory = rig.iop, rig.unit, rig.memory
        network = self.iop.lct.devices[NETWORK]
        assert isinstance(network, NetworkMessageDdm)
        self._network = network  # which may be destroyed, until the next reset
        self.dma = WatchedDma(rig.memory)
        self.iop.dma = self.dma
        self._remote_dma = RemoteDma(self.dma)
        self.plugging = Plugging(self.iop.bay, _disks, _KINDS)
        self.far = FarIop(system, self.dma)
        self.arena = HostArena(rig.memory, 1 << 20)
        self.pool = rig.memory.allocate(REPLIES * 512)
        groups = {
            device.tid: [group.layout for group in device.parameters.groups]
            for device in self.iop.lct
        }
        groups[LOADED] = groups[DDM]
        groups[ALIAS_EXECUTIVE] = groups[0]
        groups |= dict.fromkeys(ALIASES, groups[DISK])
        self.table = FrameTable(self.arena, random.Random(f"table {seed}"), groups, variants)
        self._far_frames = [
            valid
            for scripts in self.table.by_name.values()
            for script in scripts
            for valid in script
            if _target(valid.frame) >= ALIAS_EXECUTIVE
        ]
        self.arena.freeze()
        self._edges = self.arena.edges
        self._asked: Counter[bytes] = Counter()
        self._declared: dict[bytes, tuple[tuple[int, int], ...]] = {}
        self._under_way: list[bytes] = []
        self._kept_back: list[int] = []
        self._unread: list[int] = []
        self._created: dict[int, Writes | None] = {}  # what static frames may write, by MFA
        self._posted: list[bytes] = []  # static frames of the episode that were posted
        self._is_scarce = self._was_dropped = self._is_spoilt = self._is_unsure = False
        self._rng = random.Random(0)
        self._pace: tuple[int, ...] = (64,)
        self._last_reply = b""
        self._acts: dict[str, Callable[[random.Random], None]] = {
            "post": self._post_static,
            "plug": lambda rng: self.plugging.act(rng),
            "far plug": lambda rng: self.far.plugging.act(rng),
            "far frame": self._send_from_far,
            "far trouble": lambda rng: self.far.trouble(rng),
            "store": self._spoil_store,
        }
        self._changes: Sequence[tuple[int, bytes]] = ()
        self._page_sizes = {4096}
        self.index = 0
        drop = self.unit.drop_replies

        def dropped() -> None:
            self._was_dropped = True
            posted = tuple(self.unit._inbound_posted)
            self._asked = Counter(self.unit.read_inbound(mfa, 16)[4:16] for mfa in posted)
            for mfa in tuple(self.unit._outbound_posted):
                self._look_for_preserved(mfa)
            drop()

        self.unit.drop_replies = dropped  # type: ignore[method-assign]

    # --- episodes --------------------------------------------------------------------------------

    def run(self, frames: int) -> Iterator[int]:
        """Run episodes until so many frames were sent; yield after each how many there were."""
        episode = 0
        while self.index < frames:
            self.episode(episode, min(EPISODE, frames - self.index))
            episode += 1
            yield self.index

    def episode(self, number: int, length: int = EPISODE, last: int | None = None) -> None:
        """Run one episode.

        Args:
            number: which.
            length: its frames.
            last: send only so many of its last frames.
        """
        rng = random.Random(f"{self.seed} {number}")
        self._rng = random.Random(f"{self.seed} {number} host")  # frames do not depend on replies
        self.index = number * EPISODE
        self.recent.clear()
        self._begin(self._rng)
        skip = 0 if last is None else length - last
        for count, shot in enumerate(self._frames(rng, length)):
            if count < skip:
                self.index += 1
                continue
            self.counts[shot.kind] += 1
            self.functions[shot.frame[7]] += 1
            before = f"after {shot.act} {shot.chance}: " if shot.act else ""
            if self.show:
                words = f"{before}{shot.kind:11} {shot.name:24}"
                print(f"{self.index:7} {words} {shot.frame.hex()}", flush=True)
            self.recent.append((self.index, f"{before}{shot.kind} {shot.name}", shot.frame))
            del self.recent[:-_SHOWN]
            if shot.act:
                self.counts[shot.act] += 1
                self._act(shot)
            self._send(self._resolved(self.iop, shot.frame), shot.changes, shot.writes)
            self.index += 1
            if count % 50 == 49:
                self._check_limits()
        self._end()

    def _begin(self, rng: random.Random) -> None:
        """Bring the IOP up into some state."""
        self.dma.is_blind = self._is_scarce = self._is_unsure = False
        self.iop.dma = self.dma
        self._pace = (64,)
        if rng.random() < 0.3 or self.far.iop.state != IopState.OPERATIONAL:
            with self._watched():
                self.far.come_up()
        self.plugging.restore(self.iop.power_cycle)
        if rng.random() < 0.02:
            self._read_store(rng)
        self._asked.clear()
        self._declared.clear()
        self._created.clear()
        self._posted.clear()
        self._come_up(32)
        self._expect(bsa.BSA_STATUS_CHECK.build(target_address=DISK))
        if rng.random() < 0.7:
            for valid in self.table.connected:
                self._send(valid.frame, (), valid.writes)
        self._is_scarce = rng.random() < 0.2
        self._pace = rng.choice(_PACES)
        sight = rng.random()
        self.dma.is_blind = sight < 0.15
        if sight < 0.08:
            self.iop.dma = self._remote_dma
        for builder in rng.choices(("download", "medium", "event_register", "event_register"), k=3):
            for valid in rng.choice(self.table.by_name[builder]):
                self._send(valid.frame, (), valid.writes)
        state = rng.random()
        if state < 0.1:
            self._command(executive.EXEC_IOP_CLEAR.build())
        elif state < 0.2:
            self._command(executive.EXEC_SYS_QUIESCE.build())
        elif state < 0.25:
            self.iop.fail()
        elif state < 0.28:
            self.iop.power_cycle()
        self.states[IopState(self.iop.state).name] += 1

    def _come_up(self, words: int) -> None:
        """Do what a driver does after a reset."""
        for _ in range(4):
            if self.iop.state == IopState.INITIALIZING:
                self.rig.now_ns += 1_000_000
                self.iop.run(64, self.rig.now_ns)
        address = self.arena.sink(0, 4)
        element = struct.pack("<II", 0xD0000004, address)
        init = executive.EXEC_OUTBOUND_INIT.build(outbound_msg_frame_size=words)
        self._command(init + element, (address, 4))
        self._command(executive.EXEC_SYS_ENABLE.build())

    def _command(self, frame: bytes, *writes: tuple[int, int]) -> None:
        """Send a frame of the driver's own, which is not counted."""
        data = bytearray(frame)
        struct.pack_into("<H", data, 2, len(data) // 4)
        self._send(bytes(data), (), writes)

    def _expect(self, frame: bytes) -> None:
        """Send a request and see that it succeeds."""
        replies = self.iop.counters.replies
        self._last_reply = b""
        self._command(frame)
        if self.iop.counters.replies != replies + 1 or self._last_reply[16:20] != bytes(4):
            raise Broken(f"a StatusCheck after a power cycle came to {self._last_reply.hex()}")

    def _end(self) -> None:
        """Give everything back, and look for what is missing or damaged."""
        self._is_scarce = False
        for _ in range(2000):
            self._give_back()
            self.rig.now_ns += 1_000_000
            self._work(64)
            with self._watched():
                self.far.work()
            if self._was_dropped:
                self._after_drop()
            is_over = not (self.iop.work_pending or self.far.iop.work_pending)
            if is_over and not self._kept_back:
                break
        free = [*self.unit._inbound_free, *self.iop.executive.static_frames.by_mfa]
        if len(set(free)) != len(free):
            raise Broken("an inbound frame is free twice")
        if len(free) != INBOUND:
            raise Broken(
                f"{INBOUND - len(free)} inbound frames are lost: {self.unit.held_by_host()} with "
                f"the host, {self.unit.posted_inbound()} posted, {len(self.iop._stuck)} waiting"
            )
        damage = self.arena.damage()
        if damage:
            raise Broken(damage)
        self._check_limits()
        self._check_answers()

    # --- frames ----------------------------------------------------------------------------------

    def _frames(self, rng: random.Random, length: int) -> Iterator[Shot]:
        """Yield the frames of an episode."""
        table, sent = self.table, 0
        often = rng.choice((0, 0.1, 0.1, 0.3))
        names = rng.choices(table.names, table.weights, k=length)
        if rng.random() < 0.1:  # much of the same
            flood = rng.choice((*_SLOW, *table.names) if rng.randrange(2) else _SLOW)
            names = [flood if rng.random() < 0.8 else name for name in names]
        for name in names:
            script = rng.choice(table.by_name[name])
            is_clean = len(script) > 1 and rng.random() < WHOLE
            for valid in script:
                if sent == length:
                    return
                sent += 1
                act, chance = "", 0
                if rng.random() < often:
                    act, chance = rng.choices(*_ACTS)[0], rng.getrandbits(32)
                dice = rng.random()
                if dice < MEANINGLESS:
                    yield Shot("meaningless", name, _meaningless(rng), (), None, act, chance)
                elif is_clean or dice < MEANINGLESS + VALID:
                    yield Shot("valid", name, valid.frame, (), valid.writes, act, chance)
                else:
                    yield Shot("mutated", name, *self._mutated(rng, valid), act, chance)

    def _mutated(
        self, rng: random.Random, valid: ValidFrame
    ) -> tuple[bytes, Sequence[tuple[int, bytes]], Writes | None]:
        """Return a frame with one or two fields changed, in itself or in what it points to."""
        frame = bytearray(valid.frame)
        kinds = list(valid.places)
        weights = [_WEIGHTS[kind] for kind in kinds]
        changes: list[tuple[int, bytes]] = []
        is_certain = frame[7] not in _NAMED_IN_BODY  # the others name memory in their lists alone
        for _ in range(1 + (rng.random() < 0.3)):
            kind = rng.choices(kinds, weights)[0]
            place = rng.choice(valid.places[kind])
            if kind in ("header", "list") or place.kind == "direction":
                is_certain = False
            if place.source:
                is_certain = False
                size = (place.bit + place.width + 7) // 8
                at = place.source + place.byte
                data = bytearray(self.memory.read(at, size))
                self._change(rng, data, place._replace(byte=0))
                changes.append((at, bytes(data)))
            else:
                self._change(rng, frame, place)
        return bytes(frame), changes, valid.writes if is_certain else None

    def _change(self, rng: random.Random, data: bytearray, place: Place) -> None:
        """Give a field another value."""
        _, byte, bit, width, kind, known = place
        if width > 64:  # bytes
            byte, bit, width = byte + rng.randrange(width // 8), 0, 8
        size = (bit + width + 7) // 8
        top = (1 << width) - 1
        whole = int.from_bytes(data[byte : byte + size], "little")
        old = whole >> bit & top
        dice = rng.random()
        if dice < 0.3 and kind in ("address", "function"):
            if kind == "function":
                new = rng.choice(known if known and rng.randrange(2) else _FUNCTIONS)
            else:
                new = rng.choice(self._edges) + rng.choice((-1, 0, 0, 1, -4, 4))
        elif dice < 0.35 and known:
            new = rng.choice(known)
        elif dice < 0.55:
            new = old + rng.choice((-1, 1, -1, 1, -4, 4, 512, -512))
        elif dice < 0.7:
            new = old ^ 1 << rng.randrange(width)
        elif dice < 0.85:
            new = rng.choice((0, 1, top, top - 1, top >> 1, (top >> 1) + 1, *_NUMBERS))
        else:
            new = rng.getrandbits(width)
        new &= top
        if new == old:
            new ^= 1 << rng.randrange(width)
        whole = whole & ~(top << bit) | new << bit
        data[byte : byte + size] = whole.to_bytes(size, "little")

    # --- what others do --------------------------------------------------------------------------

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Watch what the IOPs write without being run by the host here."""
        self._note_under_way()
        yield
        self._page_sizes.add(self.iop.page_size)
        if self.dma.written:
            self._check_writes()

    def _act(self, shot: Shot) -> None:
        """Let somebody else do something, and take what comes of it."""
        with self._watched():
            self._acts[shot.act](random.Random(shot.chance))
        self._reap()
        if self._was_dropped:
            self._after_drop()

    def _post_static(self, rng: random.Random) -> None:
        """Post a static frame, once or more."""
        static = self.iop.executive.static_frames.by_mfa
        if not static:
            return
        mfa = rng.choice(list(static))
        frame = static[mfa].frame
        for _ in range(rng.choice((1, 1, 1, 2, 50))):
            if self.unit._static[mfa] and frame[7] != Function.UTIL_NOP:
                self._asked[frame[4:16]] += 1
            self._declare(frame, self._created.get(mfa))
            self._under_way.append(frame)
            self._posted.append(frame)
            self.unit.post(mfa)  # once too often is noticed by the unit

    def _send_from_far(self, rng: random.Random) -> None:
        """Let the other host use its aliases, or make them."""
        far = self.far
        aliases = [device for device in far.iop.lct if device.is_remote]
        if len(aliases) < 4:
            frame = executive.EXEC_IOP_CONNECT.build(iop_id1=NEAR)
            if aliases:
                frame = executive.EXEC_CONN_SETUP.build(
                    target_address=aliases[0].tid,
                    object_info_initiator_device=1,
                    object_info_target_device=rng.choice(DISKS),
                )
            far.send(frame)
            return
        valid = rng.choice(self._far_frames)
        frame = self._resolved(far.iop, valid.frame)
        self._declared[frame] = valid.writes
        self._under_way.append(frame)
        far.send(frame)

    def _spoil_store(self, rng: random.Random) -> None:
        """Put something in the way of the folder for software, or take it away."""
        if not self._folder:
            return
        folder = Path(self._folder)
        aside = folder.with_name("aside")
        if aside.exists():
            folder.unlink()
            aside.rename(folder)
        else:
            folder.mkdir(exist_ok=True)
            folder.rename(aside)
            folder.touch()

    def _read_store(self, rng: random.Random) -> None:
        """Begin with what the folder has, as an IOP that is made anew."""
        if self._folder and not Path(self._folder).is_file():
            software = self.iop.executive.software
            for name in ("a-note", "01-001b-0999.i2o", "01-001b-0998.i2o"):
                Path(self._folder).mkdir(exist_ok=True)
                path = Path(self._folder, name)
                path.mkdir(exist_ok=True) if name.endswith("9.i2o") else path.touch()
            software.store = SoftwareStore(self._folder)
            software.reset_state()

    # --- the host --------------------------------------------------------------------------------

    def _resolved(self, iop: SoftIop, frame: bytes) -> bytes:
        """Put in what a host knows from replies: alias TIDs, and the MFA of a static frame."""
        target, function = _target(frame), frame[7]
        number = target - ALIAS_EXECUTIVE
        data = bytearray(frame)
        if 0 <= number <= len(ALIASES):
            aliases = [device.tid for device in iop.lct if device.is_remote]
            if number < len(aliases):
                route = int.from_bytes(frame[4:8], "little") - target + aliases[number]
                data[4:8] = route.to_bytes(4, "little")
        elif function == Function.EXEC_STATIC_MF_RELEASE and len(frame) >= 20:
            static = tuple(iop.executive.static_frames.by_mfa)
            asked = int.from_bytes(frame[16:20], "little")
            if static and asked < INBOUND:
                data[16:20] = static[asked % len(static)].to_bytes(4, "little")
        return bytes(data)

    def _declare(self, seen: bytes, writes: Writes | None) -> None:
        if writes is None:
            self._declared.pop(seen, None)
        else:
            self._declared[seen] = writes

    def _send(
        self,
        frame: bytes,
        changes: Sequence[tuple[int, bytes]],
        writes: Writes | None,
    ) -> None:
        """Post a frame and let the IOP work a little."""
        unit = self.unit
        mfa = unit.alloc()
        if mfa == EMPTY:
            mfa = self._make_room()
        self._changes = changes
        self._apply_changes()
        unit.write(mfa, frame)
        size = 4 * int.from_bytes(frame[2:4], "little")
        # as the IOP sees it: with what an earlier request left, or cut off
        seen = unit.read_inbound(mfa, min(max(size, 16), unit.frame_size))
        self._declare(seen, writes)
        self._created[mfa] = writes
        if seen[7] != Function.UTIL_NOP:
            self._asked[seen[4:16]] += 1
        self._under_way.append(seen)
        unit.post(mfa)
        self.rig.now_ns += 50_000
        self._work(self._rng.choice(self._pace))
        self._changes = ()
        for address, data in changes:
            self.arena.restore(address, len(data))
        if self._was_dropped:
            self._after_drop()

    def _work(self, steps: int) -> None:
        """Run the IOP, a step at a time, and take its replies."""
        iop, now_ns = self.iop, self.rig.now_ns
        for _ in range(steps):
            self._note_under_way()
            iop.run(1, now_ns)
            if self.dma.written:
                self._page_sizes.add(iop.page_size)
                self._check_writes()
            if not self.unit.posted_inbound():
                self._under_way.clear()
            self._reap()
            if not iop.work_pending:
                return

    def _note_under_way(self) -> None:
        """Remember whatever the IOPs may do next."""
        self.far.rig.now_ns = self.rig.now_ns
        for iop in (self.iop, self.far.iop):
            if iop._stuck or iop.scheduler._parked:
                self._under_way += [frame for _, frame in iop._stuck]
                self._under_way += [request.frame for request in iop.scheduler._parked]
        self._page_sizes = {self.iop.page_size, self.far.iop.page_size}

    def _make_room(self) -> int:
        """Wait until an inbound frame is free."""
        for _ in range(2000):
            self._give_back()
            self.rig.now_ns += 1_000_000
            self._work(4)
            if self._was_dropped:
                self._after_drop()
            mfa = self.unit.alloc()
            if mfa != EMPTY:
                return mfa
        raise Broken(
            f"no inbound frame comes back: account says {self.rig.account()} of {INBOUND}, "
            f"{self.unit.held_by_host()} with the host, state {self.iop.state!r}"
        )

    def _after_drop(self) -> None:
        """Hand in reply frames again: an OutboundInit or a reset has forgotten them."""
        self._was_dropped = False
        self._kept_back.clear()
        for mfa in self._unread:
            if mfa in self.unit._with_host:  # no reset has taken it back
                self._post_nop(mfa)
        self._unread.clear()
        iop = self.iop
        if iop.state in (IopState.RESET, IopState.INITIALIZING):
            if self._rng.random() < 0.8:
                self._come_up(32)
            return
        if not 48 <= iop.replies.frame_size <= 512:
            self._come_up(self._rng.choice((32, 16)))
            return
        self._restock()

    def _restock(self) -> None:
        for index in range(4 if self._is_scarce else REPLIES):
            self.unit.release(self.pool.bus_address + 512 * index)

    def _reap(self) -> None:
        """Take every reply, and check it."""
        unit, memory = self.unit, self.memory
        while (mfa := unit.reap()) != EMPTY:
            size = 4 * int.from_bytes(memory.read(mfa + 2, 2), "little")
            if not 20 <= size <= self.iop.replies.frame_size and not self._is_spoilt:
                raise Broken(f"a reply of {size} bytes")
            self._check_reply(memory.read(mfa, min(size, 512)))
            if self._is_scarce:
                self._kept_back.append(mfa)
                if self._rng.random() < 0.04:
                    self._give_back()
            else:
                unit.release(mfa)
        if self._is_spoilt and not unit.posted_outbound():
            self._is_spoilt = False

    def _check_reply(self, reply: bytes) -> None:
        if self._is_spoilt:
            return
        self._last_reply = reply
        flags, function = reply[1], reply[7]
        if not flags & _REPLY or reply[0] & 7 != 1:
            raise Broken(f"no reply: {reply.hex()}")
        if flags & _FAIL:
            mfa = FAILURE_REPLY.unpack_from(reply).preserved_mfa_low
            if mfa == EMPTY:  # a static frame
                key = reply[4:16]
            elif mfa not in self.unit._with_host:
                raise Broken(f"MFA {mfa:#x} of a FAIL reply is not the host's: {reply.hex()}")
            else:
                key = self.unit.read_inbound(mfa, 16)[4:16]
                self._post_nop(mfa)
        else:
            key = reply[4:16]
        if function == Function.UTIL_EVENT_REGISTER and not flags & _FAIL:
            return
        if self._asked[key] < 1:
            raise Broken(f"a reply that nobody waits for: {reply.hex()}")
        if flags & _LAST:
            self._asked[key] -= 1

    def _post_nop(self, mfa: int) -> None:
        """Send a preserved frame home."""
        self.unit.write(mfa, _NOP)
        self.unit.post(mfa)

    def _look_for_preserved(self, mfa: int) -> None:
        """Read a reply that an OutboundInit is about to take away, as a careful driver does first.

        A FAIL reply that nobody reads leaves its frame with a host that does not know.
        """
        reply = self.memory.read(mfa, 36)
        if reply[1] & _FAIL and not self._is_spoilt:
            preserved = FAILURE_REPLY.unpack_from(reply).preserved_mfa_low
            if preserved != EMPTY:
                self._unread.append(preserved)

    def _give_back(self) -> None:
        for mfa in self._kept_back:
            self.unit.release(mfa)
        self._kept_back.clear()

    # --- checks ----------------------------------------------------------------------------------

    def _check_writes(self) -> None:
        """See that every write was to where a request under way points."""
        written = self.dma.written
        certain = [(self.far.status.bus_address, 4)]
        others: list[bytes] = []
        for frame in dict.fromkeys(self._under_way):
            declared = self._declared.get(frame)
            if declared is None:
                others.append(frame)
            else:
                certain += declared
        named: list[tuple[int, int]] | None = None
        for address, length in written:
            if _is_inside(address, length, certain):
                continue
            if named is None:
                self._restore_sources()
                named = [
                    place
                    for frame in others
                    for page_size in self._page_sizes
                    for place in self._named(frame, page_size)
                ]
            if length and not _is_inside(address, length, named):
                raise Broken(
                    f"{length} bytes were written at {address:#x}; the requests under way name "
                    f"only {[(hex(at), size) for at, size in certain + named]}"
                )
            self.arena.restore(address, length)
            if address < self.pool.end and self.pool.bus_address < address + length:
                self._is_spoilt = self._is_unsure = True
        written.clear()

    def _restore_sources(self) -> None:
        """Make lists and data what they were when the requests under way were served."""
        for address, length in self.dma.written:
            self.arena.restore(address, length)
        self._apply_changes()

    def _apply_changes(self) -> None:
        for address, data in self._changes:
            place = address - self.arena.start
            self.arena.view[place : place + len(data)] = data

    def _named(self, frame: bytes, page_size: int) -> list[tuple[int, int]]:
        """Return the host memory that a request names, whatever its buffers are for."""
        function, tid = frame[7], int.from_bytes(frame[4:6], "little") & 0xFFF
        if function in _BARE_ADDRESS:
            low, high, size = struct.unpack_from("<III", frame.ljust(36, b"\0"), 24)
            if function == Function.EXEC_IOP_RESET:
                size = 4
            return [(low | high << 32, min(size, 88))]
        device = self.iop.lct.devices.get(tid)
        layout = layout_of_request(frame, device.device_class if device is not None else 0)
        if layout is None or not layout.sgl_word_offset:
            return []
        start = 4 * max(frame[0] >> 4, layout.sgl_word_offset)
        places: list[tuple[int, int]] = []
        joined: list[tuple[int, int]] = []
        if start <= len(frame):
            try:
                for element in sgl_elements(
                    frame,
                    start,
                    len(frame),
                    read_host=self.memory.read,
                    page_size=page_size,
                ):
                    if element.kind in ("simple", "page_list"):
                        places += element.pieces
            except I2OError:
                pass
        for address, length in places:
            if joined and sum(joined[-1]) == address:
                joined[-1] = joined[-1][0], joined[-1][1] + length
            else:
                joined.append((address, length))
        return joined

    def _check_limits(self) -> None:
        """See that no frame is lost, and that nothing grows."""
        iop, unit = self.iop, self.unit
        if self.rig.account() != INBOUND:
            raise Broken(f"{self.rig.account()} of {INBOUND} inbound frames are accounted for")
        jobs = len(iop.scheduler.jobs)
        software, static = iop.executive.software, iop.executive.static_frames
        store = software.store
        loaded = sum(
            not isinstance(one, BusAdapter | NetworkMessageDdm)
            for one in iop.lct
            if FIRST_TID <= one.tid <= LAST_TID
        )
        self._check_static()
        problem = disagreement(iop, self.far.iop) or network_disagreement(self._network)
        if problem:
            raise Broken(problem)
        if self.far.rig.account() != FAR_FRAMES:
            raise Broken("the other IOP has lost a frame")
        connections = iop.executive.peers._connections.values()
        on_their_way = sum(len(one.forwards) for one in connections)
        messages = sum(request.target == NETWORK for request in iop.scheduler._parked)
        parked = len(iop.scheduler._parked) - on_their_way - messages
        known = [*iop.lct.devices.values(), *iop.lct.retired.values()]
        remote = sum(device.is_remote for device in known)
        disks = iop.bay.devices.values()
        block_devices = [disk for disk in disks if isinstance(disk, BlockDevice)]
        units = [disk.unit for disk in disks if isinstance(disk, ScsiPeripheral)]
        if any(disk.state.size != disk.store.size for disk in block_devices):
            raise Broken("a disk has another size than its blocks")
        logged = [len(disk.state.errors) for disk in block_devices]
        attentions = [len(unit._attentions) for unit in units]
        for what, count, most in (
            ("complaints", len(iop.complaints), KEPT),
            ("replies that wait", len(iop.replies.backlog), MOST_WAITING),
            ("requests that wait", len(iop._stuck), INBOUND + MAX_INSTANCES),
            ("static frames", len(static.by_mfa), INBOUND // 2),
            ("posts of static frames", static.instances, MAX_INSTANCES),
            ("event registrations", len(iop.events), len(users(iop)) * len(known)),
            ("jobs", jobs, MAX_JOBS),
            ("parked requests", parked, MAX_NOTIFIES),
            ("network messages that wait", messages, EPISODE),
            ("requests on their way", on_their_way, MAX_FORWARDS),
            ("timers", len(iop.scheduler.timers), 0),
            ("devices", len(known) - remote, 4 + len(_KINDS) + MOST_ADDED + 7),
            ("aliases", remote, MAX_ALIASES),
            ("loaded DDMs without software", loaded - len(software.running), 0),
            ("modules", len(store), MAX_MODULES),
            ("bytes of modules", store.used, MOST_STORED),
            ("downloads", len(iop.executive.software._incoming), 4),
            ("entries of the system table", len(iop.executive.system_table), 255),
            ("reply frames", unit.idle_outbound() + unit.posted_outbound(), REPLIES),
            ("logged errors", max(logged, default=0), ERRORS_KEPT),
            ("unit attentions", max(attentions, default=0), MOST_ATTENTIONS),
            ("users of a device", max(len(one.claims) for one in iop.lct), 16),
        ):
            self.counts[f"most {what}"] = max(self.counts[f"most {what}"], count)
            if count > most:
                raise Broken(f"{count} {what}, {most} at most are expected")

    def _check_static(self) -> None:
        """See that each static frame is as often with its host, posted and in work as it may be."""
        iop, unit = self.iop, self.unit
        known = iop.executive.static_frames.by_mfa
        if unit._static.keys() != known.keys():
            raise Broken(f"static frames {[*unit._static]}, of which the IOP knows {[*known]}")
        on_the_way = Counter([*unit._inbound_posted, *(mfa for mfa, _ in iop._stuck)])
        working = Counter(id(request.frame) for request in iop.scheduler._unanswered())
        for mfa, static in known.items():
            if unit._static[mfa] + on_the_way[mfa] != static.max_outstanding:
                raise Broken(f"posts of the static frame {mfa:#x} are lost")
            if working.pop(id(static.frame), 0) > static.max_outstanding:
                raise Broken(f"more posts of the static frame {mfa:#x} are in work than may be")
        if any(id(frame) in working for frame in self._posted):
            raise Broken("a static frame is gone, and a post of it is not answered")

    def _check_answers(self) -> None:
        """See that whatever is not answered yet, at rest, still waits for something."""
        near, far = self.iop, self.far.iop
        if near._has_replies and not self._is_unsure:
            owed = Counter({k: n for k, n in self._asked.items() if n and k[3] not in SILENT})
            owed.subtract(r.frame[4:16] for r in near.scheduler._unanswered() if _is_own(r))
            if any(owed.values()):
                raise Broken(f"requests without an answer: {[k.hex() for k in owed if owed[k]]}")
        if far.state == IopState.OPERATIONAL:
            waiting = sum(map(_is_own, far.scheduler._unanswered()))
            if self.far.owed() != waiting:
                raise Broken(f"{self.far.owed()} replies are owed to the other host, not {waiting}")

    def problem(self, error: BaseException) -> str:
        """Say what went wrong, with what frames, and how to see it again."""
        at = self.recent[-1][0] if self.recent else self.index
        episode = at // EPISODE
        frames = "\n".join(f"  {i:7} {name}: {frame.hex()}" for i, name, frame in self.recent)
        again = f"PYTHONPATH=tests python -m bench.frame_fuzz --seed {self.seed}"
        upto = at % EPISODE + 1
        return (
            f"{type(error).__name__}: {error}\n"
            f"seed {self.seed}, frame {at}, episode {episode}. The last frames were\n"
            f"{frames}\n"
            f"again:    {again} --episode {episode} --length {upto} --show\n"
            f"smaller:  the same with --last N, as long as it still fails\n"
            f"in full:  {again} --frames {at + 1}  (if the episode alone does not fail)"
        )


_ACTS = (
    ("post", "plug", "far plug", "far frame", "far trouble", "store"),
    (9, 4, 2, 4, 0.4, 0.2),
)
"""What may happen between two frames, and how often."""
_WEIGHTS = {"header": 0.15, "body": 0.3, "list": 0.22, "cdb": 0.4, "source": 0.3}


def _is_inside(address: int, length: int, places: Sequence[tuple[int, int]]) -> bool:
    return any(at <= address and address + length <= at + size for at, size in places)


def _target(frame: bytes) -> int:
    return int.from_bytes(frame[4:6], "little") & 0xFFF


def _is_own(request: Request) -> bool:
    """Whether an IOP's own host waits for the reply to a request."""
    return request.initiator == SpecialTid.HOST and request.function not in SILENT


def _meaningless(rng: random.Random) -> bytes:
    """Return random bytes, sometimes with a header that gets through."""
    data = bytearray(rng.randbytes(4 * rng.randrange(4, 32)))
    if rng.randrange(2):
        tid = rng.choice((0, DDM, NETWORK, LOADED, DISK, REMOVABLE, LARGE_BLOCKS))
        struct.pack_into("<HHI", data, 0, 1, len(data) // 4, tid | 0x1000 | data[7] << 24)
        struct.pack_into("<I", data, 12, rng.randrange(CONTEXTS))
    return bytes(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\nRun:")[0])
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--episode", type=int, help="run this episode alone")
    parser.add_argument("--length", type=int, default=EPISODE, help="frames of that episode")
    parser.add_argument("--last", type=int, help="send only the last N of them")
    parser.add_argument("--show", action="store_true", help="print every frame")
    parser.add_argument("--json", type=Path, help="write the counts there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return _fuzz(options, str(Path(folder, "software")))


def _fuzz(options: argparse.Namespace, folder: str) -> int:
    began = time.perf_counter()
    fuzz = FrameFuzz(options.seed, show=options.show, folder=folder)
    made = time.perf_counter() - began
    blocks = 0
    try:
        if options.episode is not None:
            fuzz.episode(options.episode, options.length, options.last)
        else:
            for sent in fuzz.run(options.frames):
                if sent >= options.frames // 2 and not blocks:
                    gc.collect()
                    blocks = sys.getallocatedblocks()
    except Exception as error:
        if not isinstance(error, Broken):
            traceback.print_exc()
        print(fuzz.problem(error), file=sys.stderr)
        return 1
    gc.collect()
    growth = sys.getallocatedblocks() - blocks if blocks else 0
    total = sum(fuzz.counts[kind] for kind in ("mutated", "valid", "meaningless"))
    report = {
        "seed": options.seed,
        "frames": total,
        "kinds": dict(fuzz.counts),
        "states": dict(fuzz.states),
        "functions": dict(fuzz.functions),
        "served": sorted(  # an alias takes everything
            {code for device in fuzz.iop.lct if not device.is_remote for code in device.dispatch}
        ),
        "growth": growth,
        "seconds": round(time.perf_counter() - began, 1),
        "made_in": round(made, 2),
        "counters": asdict(fuzz.iop.counters),
    }
    text = json.dumps(report, indent=1)
    if options.json is not None:
        options.json.write_text(text)
    else:
        print(text)
    if options.episode is None and growth > MOST_GROWTH:
        print(f"{growth} blocks of memory more than half-way, {MOST_GROWTH} at most are expected")
        return 1
    return 0


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # complaints are counted, not read
    sys.exit(main())
