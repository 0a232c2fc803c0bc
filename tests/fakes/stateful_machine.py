# SPDX-License-Identifier: Apache-2.0
"""Random work on several IOPs that misbehave, and a model of what must come of it."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from fakes.random_faults import random_plan
from fakes.stateful_station import BLOCK, BLOCKS, Disk, Done, Station
from i2o import parameters
from i2o.block import BlockDevice
from i2o.bring_up import Limits
from i2o.clock import SYSTEM_CLOCK, Clock, ManualClock
from i2o.cookies import Callback, Registration, context_bytes
from i2o.errors import I2OError, InvalidArgument, OutOfFrames
from i2o.frames import block_storage as bsa
from i2o.frames import executive, params, utility
from i2o.frames.block_storage_groups import BSA_DEVICE_INFO
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.header import EMPTY_MFA
from i2o.frames.layout import MessageLayout
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.frames.utility import AbortType
from i2o.iop_emulator.disk_bay import FIRST_DISK_TID
from i2o.message_frames import ReplyFrame
from i2o.message_layer import I2O_FRAMESIZE_FORCE, MessageLayer
from i2o.requester import Requester

LIMITS = Limits(
    status_s=0.05,
    reset_status_s=0.05,
    reset_frame_s=0.05,
    initializing_s=0.1,
    outbound_init_s=0.05,
    request_s=0.05,
)
_FAIL, _LAST = 0x20, 0x40
_STAND_INS = 0xF000_0000
_TRIES = 6
_PLAIN = (
    Function.BSA_STATUS_CHECK,
    Function.BSA_STATUS_CHECK,
    Function.BSA_CACHE_FLUSH,
    Function.BSA_DEVICE_RESET,
    Function.UTIL_LOCK,
    Function.UTIL_LOCK_RELEASE,
    Function.UTIL_DEVICE_RESERVE,
    Function.UTIL_DEVICE_RELEASE,
)
_WILD = (
    Function.EXEC_SYS_ENABLE,
    Function.EXEC_SYS_QUIESCE,
    Function.EXEC_IOP_CLEAR,
    Function.EXEC_CONFIG_VALIDATE,
    Function.EXEC_DDM_QUIESCE,
    Function.EXEC_DDM_ENABLE,
    Function.EXEC_STATUS_GET,
    Function.EXEC_IOP_RESET,
    Function.UTIL_NOP,
    Function.UTIL_NOP,
    Function.BSA_MEDIA_VERIFY,
    0x7F,
    0xFF,
)


class Boom(Exception):
    """What a callback of the test raises."""


class CountingLayer(MessageLayer):
    """A message layer that counts callbacks."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.called: Callable[[int], None] = lambda iop: None

    def register(self, callbacks: Any) -> Registration:
        def counted(callback: Callback) -> Callback:
            def call(iop: int, reply: ReplyFrame) -> None:
                self.called(iop)
                callback(iop, reply)

            return call

        return super().register([counted(callback) for callback in callbacks])


class Osm:
    """An OSM that does with its replies whatever it likes.

    Attributes:
        held: replies that it has not freed yet: (IOP, reply).
        is_live: it is registered.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.held: deque[tuple[int, ReplyFrame]] = deque()
        self.is_live = True
        self.base, self.cookies = machine.layer.register([self._replied, self._replied])

    def close(self) -> None:
        """Deregister."""
        self.is_live = False
        self._machine.layer.deregister(self.base)

    def _replied(self, iop: int, reply: ReplyFrame) -> None:
        assert self.is_live, "a callback after deregistration"
        machine = self._machine
        try:
            machine.take(machine.stations[iop], reply)
        except AssertionError as error:  # the layer would go on with the next reply
            machine.wrong.append(error)
        act = machine.random.randrange(100)
        if act < 3:
            raise Boom
        if act < 13:
            self.held.append((iop, reply))
            return
        machine.layer.free_reply(iop, reply)
        if act < 16:
            raise Boom
        if act < 25:
            machine.send_something(machine.stations[iop], self)


class Machine:
    """The machine.

    Args:
        seed: everything follows from it.
        iops: how many IOPs.
        is_threaded: each in a thread of its own, on the machine's clock.

    Attributes:
        pulled_at_work: disks that were pulled while a request to them was not answered.
    """

    def __init__(self, seed: int, *, iops: int = 3, is_threaded: bool = False) -> None:
        self.random = random.Random(seed)
        self.is_threaded = is_threaded
        self.clock: Clock = SYSTEM_CLOCK if is_threaded else ManualClock()
        self.layer = CountingLayer(self.clock)
        self.layer.called = self._called
        self.stations: dict[int, Station] = {}
        self.wrong: list[AssertionError] = []
        self.log: deque[str] = deque(maxlen=30)
        self.happened: dict[str, int] = {}
        self.osms: list[Osm] = []
        self.spare: list[Disk] = []
        self.disks: list[Disk] = []
        self.held: list[tuple[Station, Any]] = []
        self.pulled_at_work = 0
        self._context = 0x1000
        self._stamp = 0
        self._depth = 0
        self._osm_count = 3
        while len(self.osms) < self._osm_count:
            self.osms.append(Osm(self))
        for _ in range(iops):
            self.attach([self._new_disk(), self._new_disk()])
        self.steps = self._weighted()

    def _new_disk(self) -> Disk:
        self.disks.append(Disk())
        return self.disks[-1]

    # --- steps ---------------------------------------------------------------------------------

    def _weighted(self) -> list[Callable[[Station], None]]:
        table: dict[Callable[[Station], None], int] = {
            self.send_anything: 520,
            self.poll: 230,
            self.let_time_pass: 90,
            self.free_late: 60,
            self.hold_a_frame: 30,
            self.use_held_frame: 30,
            self.high_level_block: 8,
            self.read_parameters: 8,
            self.heal: 14,
            self.bring_up: 1,
            self.trouble: 4,
            self.plug_or_pull: 8,
            self.change_osm: 4,
            self.set_frame_size: 1,
            self.detach_and_attach: 1,
        }
        return [step for step, weight in table.items() for _ in range(weight)]

    def step(self) -> None:
        """Do one thing, and check."""
        action = self.random.choice(self.steps)
        station = self.random.choice(list(self.stations.values()))
        self.log.append(f"{action.__name__} on IOP {station.number}")
        action(station)
        self.checked(station)
        self.happened[action.__name__] = self.happened.get(action.__name__, 0) + 1

    def checked(self, station: Station) -> None:
        """Raise what callbacks noticed; compare one IOP's books."""
        if self.wrong:
            raise self.wrong[0]
        with self._frozen(station):
            station.check_quickly()

    def check_fully(self) -> None:
        """Compare all books."""
        cookies = {
            context_bytes(cookie) for osm in self.osms for cookie in osm.cookies if osm.is_live
        }
        for station in self.stations.values():
            with self._frozen(station):
                station.check_fully(cookies)

    @contextlib.contextmanager
    def _frozen(self, station: Station) -> Iterator[None]:
        with station.port._lock if self.is_threaded else contextlib.nullcontext():
            yield

    def finish(self) -> None:
        """Detach everything; nothing may be left."""
        self.check_fully()
        for station in list(self.stations.values()):
            self.detach(station)
        if self.wrong:
            raise self.wrong[0]
        for disk in self.disks:
            disk.check()

    # --- sending -------------------------------------------------------------------------------

    def send_anything(self, station: Station) -> None:
        """Send a request from some OSM."""
        self.send_something(station, self.random.choice(self.osms))

    def send_something(self, station: Station, osm: Osm) -> None:
        """Send a request; from a callback, too."""
        if not osm.is_live:
            return
        kind = self.random.randrange(100)
        cookie = self.random.choice(osm.cookies)
        if kind < 22:
            self._send_write(station, cookie)
        elif kind < 40:
            self._send_read(station, cookie)
        elif kind < 70:
            self._send_plain(station, cookie)
        elif kind < 76:
            self._send_abort(station, cookie)
        elif kind < 82:
            self._send_notify(station, cookie)
        elif kind < 88:
            tid = self.random.choice((0, *station.tids()))
            self._send(
                station,
                cookie,
                utility.UTIL_EVENT_REGISTER.build(
                    target_address=tid, event_mask=self.random.choice((0, 0xFFFFFFFF))
                ),
                context=self.random.randrange(3),
            )
        elif kind < 92:
            layout = self.random.choice((utility.UTIL_CLAIM, utility.UTIL_CLAIM_RELEASE))
            self._send(
                station,
                cookie,
                layout.build(target_address=self.random.choice(station.tids()), claim_type=1),
                context=self.random.randrange(3),
            )
        elif kind < 96:
            function = self.random.choice((Function.EXEC_STATUS_GET, Function.UTIL_NOP))
            self._send(station, cookie, _header(function, 0) + bytes(20))
        elif kind < 99 or self.random.randrange(4):
            self._send_plain(station, cookie)
        else:
            self._send_wild(station, cookie)

    def _send_write(self, station: Station, cookie: int) -> None:
        tid = self.random.choice(list(station.disks) or [0])
        disk = station.disks.get(tid)
        if disk is None:
            return
        first, count = self._range()
        if any(block in disk.busy for block in range(first, first + count)):
            return
        self._stamp += 1
        stamp = self._stamp
        buffer = station.allocate(disk.begin_write(first, count, stamp))

        def done(reply: ReplyFrame | None) -> None:
            succeeded = reply is not None and not reply[1] & _FAIL and reply[19] == 0
            disk.end_write(first, count, stamp, succeeded=succeeded)
            buffer.free()

        self._send(
            station, cookie, _transfer(bsa.BSA_BLOCK_WRITE, tid, first, count, buffer), done=done
        )

    def _send_read(self, station: Station, cookie: int) -> None:
        tid = self.random.choice(list(station.disks) or [0])
        disk = station.disks.get(tid)
        if disk is None:
            return
        first, count = self._range()
        buffer = station.allocate(count * BLOCK)
        reader = disk.begin_read(first, count)

        def done(reply: ReplyFrame | None) -> None:
            data = None
            if reply is not None and not reply[1] & _FAIL and reply[19] == 0:
                data = bytes(buffer.view)
            buffer.free()
            disk.end_read(reader, data)

        self._send(
            station, cookie, _transfer(bsa.BSA_BLOCK_READ, tid, first, count, buffer), done=done
        )

    def _range(self) -> tuple[int, int]:
        count = self.random.choice((1, 1, 2, 8))
        return self.random.randrange(BLOCKS - count + 1), count

    def _send_plain(self, station: Station, cookie: int) -> None:
        """Send a request of four words, often with contexts that another one has."""
        message = _header(self.random.choice(_PLAIN), self.random.choice(station.tids()))
        self._send(station, cookie, message, context=self.random.randrange(4))

    def _send_abort(self, station: Station, cookie: int) -> None:
        message = utility.UTIL_ABORT.build(
            target_address=self.random.choice((0, *station.tids())),
            abort_type=self.random.choice(tuple(AbortType)),
            function_to_abort=self.random.choice(_PLAIN),
            transaction_context_to_abort=self.random.randrange(4),
        )
        self._send(station, cookie, message)

    def _send_notify(self, station: Station, cookie: int) -> None:
        """Ask for the LCT when it changes."""
        buffer = station.allocate(1024)
        layout = executive.EXEC_LCT_NOTIFY
        sgl = simple_sgl(((buffer.bus_address, 1024),), out=False)
        message = layout.build(
            class_identifier=0xFFFFFFFF,
            last_reported_change_indicator=self.random.choice((0, station.iop.lct.indicator + 1)),
            message_size=(layout.size + len(sgl)) // 4,
        )
        self._send(station, cookie, message + sgl, done=lambda reply: buffer.free())

    def _send_wild(self, station: Station, cookie: int) -> None:
        """Send what an OSM should rather not, bodies all zero."""
        tid = self.random.choice((0, 0, 8, FIRST_DISK_TID, 0x7FF))
        message = _header(self.random.choice(_WILD), tid) + bytes(16)
        self._send(station, cookie, message)

    def _send(
        self,
        station: Station,
        cookie: int,
        message: bytes,
        *,
        context: int | None = None,
        done: Done = lambda reply: None,
        frame: Any = None,
    ) -> None:
        """Send a message, or find that it cannot be sent."""
        if context is None:
            self._context += 1
            context = self._context
        whole = bytearray(message)
        whole[2:4] = (len(message) // 4).to_bytes(2, "little")
        whole[8:16] = cookie.to_bytes(4, "little") + context.to_bytes(4, "little")
        key = bytes(whole[4:16])
        function = key[3]
        if function == Function.UTIL_EVENT_REGISTER:
            station.registered.add(key)
        elif function not in UNANSWERED:
            station.owe(key, done)
        else:
            station.own[function] += 1
        try:
            layer, number = self.layer, station.number
            if frame is not None or self.random.randrange(2):
                if frame is None:
                    frame = layer.request_frame(number)
                frame[: len(whole)] = whole
                try:
                    layer.send(number, frame)
                except BaseException:
                    layer.free_request(number, frame)
                    raise
            else:
                layer.submit(number, bytes(whole))
        except (OutOfFrames, InvalidArgument) as error:
            if isinstance(error, InvalidArgument):
                assert station.entry.refusing, error
            if function in UNANSWERED:
                station.own[function] -= 1
            elif function != Function.UTIL_EVENT_REGISTER:
                station.forgive(key)
                done(None)

    # --- other steps ---------------------------------------------------------------------------

    def poll(self, station: Station) -> None:
        """Dispatch a few replies."""
        budget = self.random.choice((1, 2, 5, 64))
        try:
            assert self.layer.poll(budget) <= budget
        except* Boom:
            pass

    def let_time_pass(self, station: Station) -> None:
        """Let some milliseconds pass."""
        if isinstance(self.clock, ManualClock):
            self.clock.advance(self.random.choice((0.0001, 0.001, 0.004, 0.02)))

    def free_late(self, station: Station) -> None:
        """Free replies that were kept."""
        osm = self.random.choice(self.osms)
        for _ in range(min(len(osm.held), self.random.randrange(1, 6))):
            iop, reply = osm.held.popleft()
            if iop in self.stations:
                self.layer.free_reply(iop, reply)

    def hold_a_frame(self, station: Station) -> None:
        """Take a request frame, and keep it."""
        if len(self.held) < 4:
            with contextlib.suppress(OutOfFrames):
                self.held.append((station, self.layer.request_frame(station.number)))

    def use_held_frame(self, station: Station) -> None:
        """Send or free a frame that was kept."""
        if not self.held:
            return
        station, frame = self.held.pop(self.random.randrange(len(self.held)))
        if not station.is_attached:
            return
        osm = self.random.choice(self.osms)
        if self.random.randrange(2) or not osm.is_live:
            self.layer.free_request(station.number, frame)
        else:
            message = _header(Function.BSA_STATUS_CHECK, FIRST_DISK_TID)
            self._send(station, osm.cookies[0], message, frame=frame)

    @contextlib.contextmanager
    def _may_fail(self) -> Iterator[None]:
        """Let pass what a step may raise on an IOP that misbehaves."""
        try:
            yield
        except* (Boom, I2OError):
            pass

    def _requester(self, station: Station) -> Requester:
        return Requester(self.layer, station.number, timeout_s=0.01)

    def high_level_block(self, station: Station) -> None:
        """Write or read as a program does."""
        if not station.disks:
            return
        tid = self.random.choice(list(station.disks))
        disk = station.disks[tid]
        first, count = self._range()
        if any(block in disk.busy for block in range(first, first + count)):
            return
        with self._may_fail(), self._requester(station) as requester:
            device = BlockDevice(
                requester,
                station.memory,
                tid,
                frame_size=self.layer.inbound_frame_size(station.number),
            )
            device.max_transfer = BLOCK
            device.queue_depth = self.random.choice((1, 4))
            if self.random.randrange(2):
                self._stamp += 1
                stamp = self._stamp
                data = disk.begin_write(first, count, stamp)
                try:
                    device.write(first * BLOCK, data)
                    disk.end_write(first, count, stamp, succeeded=True)
                except BaseException:  # some of its requests may still be on their way
                    station.until_reset.append(
                        lambda: disk.end_write(first, count, stamp, succeeded=False)
                    )
                    raise
            else:
                reader = disk.begin_read(first, count)
                data = None
                try:
                    data = device.read(first * BLOCK, count * BLOCK)
                finally:
                    disk.end_read(reader, data)

    def read_parameters(self, station: Station) -> None:
        """Read a parameter group."""
        group, tid = self.random.choice(
            ((params.DEVICE_IDENTITY, 0), (BSA_DEVICE_INFO, FIRST_DISK_TID))
        )
        with self._may_fail(), self._requester(station) as requester:
            parameters.get_group(requester, station.memory, tid, group)

    def set_frame_size(self, station: Station) -> None:
        """Ask for another frame size; the layer's own limit is long, so only of a sound IOP."""
        with self._may_fail():
            self.layer.set_inbound_frame_size(
                station.number, self.random.choice((64, 128)), I2O_FRAMESIZE_FORCE
            )

    def trouble(self, station: Station) -> None:
        """Do something to an IOP behind the host's back."""
        what = self.random.choice(
            (
                station.iop.reset,
                station.iop.power_cycle,
                station.iop.fail,
                station.iop.crash,
                station.port.reset,
            )
        )
        if what == station.port.reset:
            what()
        else:
            with self._frozen(station):
                what()

    def heal(self, station: Station) -> None:
        """Look at an IOP as a careful program does; revive it, or replace it."""
        try:
            if self.layer.check(station.number, station.limits).state == IopState.OPERATIONAL:
                return
        except I2OError:
            pass
        for _ in range(_TRIES):
            with self._may_fail():
                self.layer.revive(station.number, station.limits)
            if self.layer.iop_valid(station.number):
                self._is_up(station)
                return
        self.detach_and_attach(station)

    def bring_up(self, station: Station) -> None:
        """Bring an IOP up again that may work."""
        with self._may_fail():
            self.layer.bring_up(station.number, station.limits)
        if self.layer.iop_valid(station.number):
            self._is_up(station)

    def _is_up(self, station: Station) -> None:
        """Note that an IOP came up: what it had to do before is over."""
        station.came_up()
        assert not station.owed, "requests from before the reset are still owed"

    def plug_or_pull(self, station: Station) -> None:
        """Move a disk; one that is pulled has something to do, most of the time."""
        with self._frozen(station):
            tid = station.iop.lct.free_tid(FIRST_DISK_TID)
            former = station.former.get(tid)
            if self.spare and not (former and (former.busy or former.readers)):
                station.plug(self.spare.pop())
                return
        if len(self.spare) < 3 and station.disks:
            self._pull(station, self.random.choice(list(station.disks)))

    def _pull(self, station: Station, tid: int) -> None:
        verify = bsa.BSA_MEDIA_VERIFY.build(target_address=tid, byte_count=BLOCK * BLOCKS)
        self._send(station, self.random.choice(self.osms).cookies[0], verify)
        with self._frozen(station):
            iop = station.iop
            iop.run(station.unit.posted_inbound(), self.clock.monotonic_ns())  # it begins
            self.pulled_at_work += iop.scheduler.any(lambda request: request.target == tid)
            station.former[tid] = station.disks[tid]
            self.spare.append(station.pull(tid))

    def change_osm(self, station: Station) -> None:
        """Deregister an OSM in mid-flight; another one comes."""
        index = self.random.randrange(len(self.osms))
        osm = self.osms[index]
        osm.close()
        for iop, reply in osm.held:
            if iop in self.stations:
                self.layer.free_reply(iop, reply)
        for station in self.stations.values():
            for cookie in osm.cookies:
                station.disown(context_bytes(cookie))
        self.osms[index] = Osm(self)

    # --- life of an IOP ------------------------------------------------------------------------

    def attach(self, disks: list[Disk]) -> None:
        """Attach an IOP with a fault plan of its own."""
        station = Station(
            self.layer,
            self.clock,
            disks,
            random_plan(self.random.randrange(1 << 32)),
            frames=self.random.choice((3, 6, 16)),
            is_threaded=self.is_threaded,
            frame_source=self.random.choice(("memory", "memory", "fifo")),
            backlog=self.random.choice((1, 4, 256)),
            reset_ms=self.random.choice((0, 0, 1)),
        )
        station.limits = replace(LIMITS, reply_frames=self.random.choice((2, 5, 32)))
        self.stations[station.number] = station
        for _ in range(_TRIES):
            with self._may_fail():
                self.layer.revive(station.number, station.limits)
            if self.layer.iop_valid(station.number):
                self._is_up(station)
                return

    def detach(self, station: Station) -> None:
        """Detach an IOP: every request has ended then, and nothing is left."""
        held = [reply for osm in self.osms for iop, reply in osm.held if iop == station.number]
        with self._may_fail():
            self.layer.detach(station.number)
        station.is_attached = False
        del self.stations[station.number]
        station.was_reset()
        if self.wrong:
            raise self.wrong[0]
        station.check_end()
        assert not self.layer.iop_valid(station.number)
        for reply in held:
            self._refuses_to_free(station, reply)

    def _refuses_to_free(self, station: Station, reply: ReplyFrame) -> None:
        try:
            self.layer.free_reply(station.number, reply)
        except InvalidArgument:
            return
        raise AssertionError("a reply of a detached IOP was freed")

    def detach_and_attach(self, station: Station) -> None:
        """Replace an IOP; its disks go on to the next."""
        self.detach(station)
        self.attach(list(station.disks.values()))

    # --- replies -------------------------------------------------------------------------------

    def _called(self, iop: int) -> None:
        self.stations[iop].callbacks += 1

    def take(self, station: Station, reply: ReplyFrame) -> None:
        """Compare a reply with what is owed."""
        key = bytes(reply[4:16])
        if reply[1] & _FAIL:
            preserved = int.from_bytes(reply[28:32], "little")
            assert preserved != EMPTY_MFA
            assert preserved < _STAND_INS or not station.in_work(), (
                "a request was ended by the host while its IOP may still write to host memory"
            )
            original = self.layer.mfa_convert(station.number, preserved)
            assert original is not None, "a FAIL reply without its request"
            key = bytes(original[4:16])
        if key[3] == Function.UTIL_EVENT_REGISTER:
            assert key in station.registered
        elif reply[1] & (_LAST | _FAIL):
            station.settle(key, reply)
        else:
            assert key in station.owed, "progress of nothing"


def _header(function: int, tid: int) -> bytes:
    return b"\x01\0\4\0" + (tid | 1 << 12 | function << 24).to_bytes(4, "little") + bytes(8)


def _transfer(layout: MessageLayout, tid: int, first: int, count: int, buffer: Any) -> bytes:
    size = count * BLOCK
    return layout.build(
        target_address=tid, transfer_byte_count=size, logical_byte_address=first * BLOCK
    ) + simple_sgl(((buffer.bus_address, size),), out=layout is bsa.BSA_BLOCK_WRITE)
