# SPDX-License-Identifier: Apache-2.0
"""The executive's chapter on other IOPs: connections, and messages that go over them.

ExecIopConnect connects two IOPs of one `IopSystem`: each gets an alias TID for the executive of the
other. ExecConnSetup, sent to such an alias, makes an alias TID for one device behind it. A request
to an alias is handed to the other IOP with its TIDs replaced; its reply comes back the same way.

A connection ends when either IOP is reset, cleared, fails, or leaves, or when a system table no
longer names the other one. What is on its way then is answered as aborted (dirty: nobody knows how
far it got), exactly once; the aliases fail with a routing failure until they are made anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from i2o.frames import executive as messages
from i2o.frames.codec import Record
from i2o.frames.executive import ConnectionFail, ExecutiveEvent
from i2o.frames.functions import UNANSWERED, DeviceClass, Function
from i2o.frames.header import DetailedStatus, FailureCode, MsgFlags, ReqStatus, SpecialTid
from i2o.frames.tables import IopState
from i2o.frames.utility import ClaimFlags
from i2o.iop_emulator.ddm.alias import Alias
from i2o.iop_emulator.ddm.base import Ddm
from i2o.iop_emulator.frame_check import FrameFailure, frame_failure
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.iop_control import ExecutiveServices, IopControl
from i2o.iop_emulator.iop_system import IopSystem
from i2o.iop_emulator.parameter_groups import Row
from i2o.iop_emulator.request import Request

FIRST_ALIAS_TID: Final = 0x800
MAX_ALIASES: Final = 256
"""TIDs that an IOP gives to devices and initiators of others at most."""
MAX_FORWARDS: Final = 256
"""Requests on their way over one connection in one direction at most."""
_FOR_EXECUTIVES: Final = frozenset(
    {
        Function.EXEC_STATUS_GET,
        Function.EXEC_HRT_GET,
        Function.EXEC_LCT_NOTIFY,
    }
)
"""What an executive does for another IOP's host, besides utility messages."""
_FIRST_EXECUTIVE_FUNCTION: Final = 0xA0
_NOT_RESPONDING: Final = ConnectionFail.NOT_REPONDING.to_bytes(4, "little")
_HOST: Final = SpecialTid.HOST.value


class PeerIop(IopControl, Protocol):
    """What the chapter may ask of its IOP, and of another one."""

    @property
    def now_ns(self) -> int:
        """The time, as it was told last."""

    def serve_frameless(self, request: Request) -> None:
        """Serve a request that has no inbound frame here; replies go out by `send`."""

    def run(self, budget: int, now_ns: int) -> int | None:
        """Serve what is posted and due."""

    def own_deadline_ns(self, now_ns: int) -> int | None:
        """Return when the IOP itself wants to run, or None."""


@dataclass(slots=True, eq=False)
class Forward:
    """A request on its way.

    Attributes:
        request: as the host here sent it. It is parked as long as no reply came.
        remote: as the other IOP serves it.
    """

    request: Request
    remote: Request


@dataclass(slots=True, eq=False)
class Connection:
    """One IOP's half of a connection.

    Attributes:
        peer: the other IOP.
        executive: the alias here of its executive.
        devices: aliases here of its devices, by TID there.
        initiators: TIDs here that stand for who sends over there, and the alias over there that
            they send to.
        forwards: requests from here that have no reply yet.
    """

    peer: Peers
    executive: Alias
    devices: dict[int, Alias] = field(default_factory=dict)
    initiators: dict[int, Alias] = field(default_factory=dict)
    forwards: list[Forward] = field(default_factory=list)

    @property
    def aliases(self) -> list[Alias]:
        """Every alias here."""
        return [self.executive, *self.devices.values()]


class Peers:
    """What one IOP has to do with others.

    Args:
        iop: the IOP.
        executive: its executive.
        device: the same, as the device that others see.
        system: the IOPs it can reach, None for none.
    """

    def __init__(
        self, iop: PeerIop, executive: ExecutiveServices, device: Ddm, system: IopSystem | None
    ) -> None:
        self.iop, self.executive, self.device, self._system = iop, executive, device, system
        self._connections: dict[Peers, Connection] = {}
        self._by_alias: dict[int, Connection] = {}
        self._gone: list[int] = []  # aliases of connections that the other side ended

    # --- what a system asks ----------------------------------------------------------------------

    @property
    def iop_id(self) -> int:
        """The id in force."""
        return self.executive.iop_id

    def run_for_others(self, budget: int, now_ns: int) -> None:
        """Work, because another IOP waits for something."""
        self.iop.run(budget, now_ns)

    def own_deadline_ns(self, now_ns: int) -> int | None:
        """Return when the IOP itself wants to run, or None."""
        return self.iop.own_deadline_ns(now_ns)

    # --- what the IOP asks -----------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether a request is on its way to another IOP."""
        return bool(self._connections) and any(c.forwards for c in self._connections.values())

    def run_others(self, budget: int, now_ns: int) -> None:
        """Let the other IOPs work."""
        if self._system is not None:
            self._system.run_others(self, budget, now_ns)

    def deadlines_ns(self, now_ns: int) -> list[int]:
        """Return when other IOPs want to run, if this one waits for them."""
        if self._system is None or not self.is_waiting:
            return []
        return self._system.deadlines_ns(self, now_ns)

    def rows(self) -> list[Row]:
        """Return the external connection table."""
        return [
            {
                "local_alias_tid": alias.tid,
                "remote_tid": alias.remote.tid,
                "remote_iop": connection.peer.iop_id,
                "remote_unit_id": connection.peer.executive.host_unit_id,
            }
            for connection in self._connections.values()
            for alias in connection.aliases
        ]

    # --- connecting ------------------------------------------------------------------------------

    @handles(Function.EXEC_IOP_CONNECT)
    def iop_connect(self, request: Request) -> bytes:
        """Connect this IOP with the one that the request names, or find the connection there is."""
        peer_id = request.fields(messages.EXEC_IOP_CONNECT).iop_id1
        if peer_id == self.iop_id or not self._names(peer_id):
            self.iop.complain(
                f"IopConnect: IOP {peer_id:#05x} is this one, or not in the system table"
            )
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        peer = None if self._system is None else self._system.find(peer_id)
        if not isinstance(peer, Peers) or not peer._names(self.iop_id):
            self.iop.complain(
                f"IopConnect: IOP {peer_id:#05x} cannot be reached, or has no system table that "
                f"names IOP {self.iop_id:#05x}"
            )
            return request.refuse(DetailedStatus.DEVICE_NOT_AVAILABLE)
        if self.iop.state != IopState.OPERATIONAL or peer.iop.state != IopState.OPERATIONAL:
            return request.refuse(DetailedStatus.INVALID_REQUEST)
        connection = self._connections.get(peer)
        if connection is None:
            if self._has_no_room() or peer._has_no_room():
                return request.refuse(DetailedStatus.INSUFFICIENT_RESOURCE_SOFT)
            connection = self._connect(peer)
        return request.answer(
            messages.EXEC_IOP_CONNECT_REPLY,
            iop2_inbound_msg_frame_size=self.iop.unit.frame_size // 4,
            iop2_alias_for_iop1=connection.executive.tid,
            iop_id2=self.iop_id,
            host_unit_id2=self.executive.host_unit_id,
        )

    def _connect(self, peer: Peers) -> Connection:
        """Make both halves of a connection."""
        here, there = self._half(peer), peer._half(self)
        # each executive's alias is also who the host behind it is over there
        here.executive.initiator_tid = there.executive.tid
        there.executive.initiator_tid = here.executive.tid
        here.initiators[here.executive.tid] = there.executive
        there.initiators[there.executive.tid] = here.executive
        self._tell_new(here.executive)
        peer._tell_new(there.executive)
        return here

    def _half(self, peer: Peers) -> Connection:
        alias = Alias(
            self,
            self._free_tid(),
            peer.device,
            device_class=DeviceClass.PEER_TRANSPORT.value,
            parent_tid=SpecialTid.IOP_EXECUTIVE.value,
        )
        connection = self._connections[peer] = Connection(peer, alias)
        self._by_alias[alias.tid] = connection
        self.iop.lct.changed()
        self.iop.lct.add(alias)
        return connection

    @handles(Function.EXEC_CONN_SETUP)
    def conn_setup_here(self, request: Request) -> bytes:
        """Refuse: a connection leads to another IOP."""
        self.iop.complain(
            "ConnSetup: send it to the alias, made by IopConnect, of the executive of the IOP that "
            "has the device"
        )
        return self._no_setup(request)

    def _conn_setup(self, connection: Connection, request: Request) -> bytes:
        """Make an alias for a device of the IOP whose executive was asked."""
        asked = request.fields(messages.EXEC_CONN_SETUP)
        target = connection.peer.iop.lct.devices.get(asked.object_info_target_device)
        problem = _setup_problem(asked, target)
        if target is None or problem:
            self.iop.complain(f"ConnSetup: {problem}")
            return self._no_setup(request)
        alias = connection.devices.get(target.tid)
        if alias is None:
            if self._has_no_room() or connection.peer._has_no_room():
                self.iop.complain(f"ConnSetup: an IOP has at most {MAX_ALIASES} alias TIDs")
                return self._no_setup(request)
            alias = self._add_alias(connection, target)
        return request.answer(
            messages.EXEC_CONN_SETUP_REPLY,
            object_info_target_device=target.tid,
            object_info_initiator_device=_HOST,
            object_info_reply_status_code=ReqStatus.SUCCESS.value,
            alias_info_iop1_alias_for_target_device=alias.tid,
            alias_info_iop2_alias_for_initiator_device=alias.initiator_tid,
            iop2_inbound_msg_frame_size=connection.peer.iop.unit.frame_size // 4,
        )

    @staticmethod
    def _no_setup(request: Request) -> bytes:
        asked = request.fields(messages.EXEC_CONN_SETUP)
        return request.answer(
            messages.EXEC_CONN_SETUP_REPLY,
            object_info_target_device=asked.object_info_target_device,
            object_info_initiator_device=asked.object_info_initiator_device,
            object_info_reply_status_code=ReqStatus.ERROR_NO_DATA_TRANSFER.value,
        )

    def _add_alias(self, connection: Connection, target: Ddm) -> Alias:
        alias = Alias(
            self,
            self._free_tid(),
            target,
            device_class=target.device_class,
            parent_tid=connection.executive.tid,
        )
        peer = connection.peer
        alias.initiator_tid = peer._free_tid()
        peer._connections[self].initiators[alias.initiator_tid] = alias
        connection.devices[target.tid] = alias
        self._by_alias[alias.tid] = connection
        self.iop.lct.changed()
        self.iop.lct.add(alias)
        self._tell_new(alias)
        return alias

    def _tell_new(self, alias: Alias) -> None:
        self.executive.tell_lct_change(ExecutiveEvent.NEW_LCT_ENTRY, alias)
        self.iop.events.post(self.device.tid, ExecutiveEvent.XCT_CHANGE, b"")

    # --- messages --------------------------------------------------------------------------------

    def obstacle(self, alias: Alias, frame: bytes) -> FrameFailure | None:
        """Say why a request cannot be handed on now, or None.

        Args:
            alias: where it goes.
            frame: the request, whose header is right.
        """
        connection = self._by_alias[alias.tid]
        peer = connection.peer.iop
        about = f"function {frame[7]:#04x} for alias TID {alias.tid:#05x}: "
        if peer.state != IopState.OPERATIONAL:
            return FrameFailure(
                FailureCode.STATE_ERROR.value, about + "the other IOP is not OPERATIONAL"
            )
        if len(connection.forwards) >= MAX_FORWARDS and frame[7] not in UNANSWERED:
            return FrameFailure(
                FailureCode.CONGESTION.value,
                f"{about}{MAX_FORWARDS} requests are on their way to the other IOP already",
            )
        route = frame[7] << 24 | _HOST << 12 | alias.remote.tid
        seen_there = frame[:4] + route.to_bytes(4, "little") + frame[8:]
        return frame_failure(seen_there, peer.unit.frame_size, peer.lct, peer.lct.withheld)

    def forward(self, alias: Alias, request: Request) -> bytes | None:
        """Hand a request on to the other IOP; return a reply if it does not go there."""
        function = request.function
        connection = self._by_alias[alias.tid]
        if alias is connection.executive and function >= _FIRST_EXECUTIVE_FUNCTION:
            if function == Function.EXEC_CONN_SETUP:
                return self._conn_setup(connection, request)
            if function not in _FOR_EXECUTIVES:
                return request.refuse(DetailedStatus.INAPPROPRIATE_FUNCTION)
        if self.obstacle(alias, request.frame) is not None:  # since then, while it was delayed
            return request.status(ReqStatus.PROCESS_ABORT_NO_DATA_TRANSFER, 0)
        route = function << 24 | alias.initiator_tid << 12 | alias.remote.tid
        frame = request.frame
        remote = Request(
            frame[:4] + route.to_bytes(4, "little") + frame[8:], route, self.iop.now_ns
        )
        if function not in UNANSWERED and function != Function.UTIL_EVENT_REGISTER:
            connection.forwards.append(Forward(request, remote))
            self.iop.scheduler.park(request)
        connection.peer.iop.serve_frameless(remote)
        return None

    def send_back(self, reply: bytes) -> None:
        """Hand the reply to a request from another IOP back to it; dropped if that one is gone."""
        initiator = int.from_bytes(reply[4:8], "little") >> 12 & 0xFFF
        for connection in self._connections.values():
            alias = connection.initiators.get(initiator)
            if alias is not None:
                connection.peer._take_reply(alias, reply)
                return

    def _take_reply(self, alias: Alias, reply: bytes) -> None:
        """Send on a reply that came back over a connection."""
        route = reply[7] << 24 | _HOST << 12 | alias.tid
        answer = reply[:4] + route.to_bytes(4, "little") + reply[8:]
        if reply[7] == Function.UTIL_EVENT_REGISTER:
            self.iop.replies.send_event(answer)
            return
        connection = self._by_alias[alias.tid]
        alike = [one for one in connection.forwards if one.remote.frame[4:16] == reply[4:16]]
        if not alike:
            return
        if reply[1] & MsgFlags.LAST:
            # of requests that look the same, it is one that the other IOP has done with
            unanswered = connection.peer.iop.scheduler
            done = (one for one in alike if not unanswered.has(one.remote))
            forward = next(done, alike[0])
            connection.forwards.remove(forward)
            self.iop.scheduler.unpark(forward.request)
        self.iop.send(answer)

    def drop_orphans(self) -> None:
        """Take back from other IOPs what they do for requests that were answered here."""
        parked = self.iop.scheduler.parked
        for connection in self._connections.values():
            for forward in tuple(connection.forwards):
                if forward.request not in parked:
                    connection.forwards.remove(forward)
                    _drop(connection.peer, forward)

    # --- ending ----------------------------------------------------------------------------------

    def reset_state(self) -> None:
        """End all connections: nothing of them is left here, and the others are told."""
        for connection in tuple(self._connections.values()):
            self._end(connection, is_told=False)
            connection.peer._end(connection.peer._connections[self], is_told=True)
        for tid in self._gone:
            self.iop.lct.remove(tid)
        self._gone.clear()

    def join(self) -> None:
        """Be on the bus: the IOP is complete."""
        if self._system is not None:
            self._system.join(self)

    def leave(self) -> None:
        """End all connections and leave the system."""
        self.reset_state()
        if self._system is not None:
            self._system.leave(self)

    def system_table_changed(self) -> None:
        """End the connections with IOPs that the system table does not name any more."""
        for connection in tuple(self._connections.values()):
            if not self._names(connection.peer.iop_id):
                self._end(connection, is_told=True)
                connection.peer._end(connection.peer._connections[self], is_told=True)

    def _end(self, connection: Connection, *, is_told: bool) -> None:
        """End this half of a connection.

        Args:
            connection: the connection.
            is_told: this IOP goes on and its host hears of it.
        """
        iop = self.iop
        for forward in connection.forwards:
            _drop(connection.peer, forward)
            if forward.request in iop.scheduler.parked:
                iop.scheduler.unpark(forward.request)
                iop.send(forward.request.status(ReqStatus.PROCESS_ABORT_DIRTY, 0))
        connection.forwards.clear()
        for tid in connection.initiators:
            iop.events.forget_initiator(tid)
            for device in iop.lct:
                device.forget_user(tid)
        del self._connections[connection.peer]
        for alias in connection.aliases:
            del self._by_alias[alias.tid]
        if not is_told:
            for alias in connection.aliases:
                iop.lct.remove(alias.tid)
            return
        iop.lct.changed()
        for alias in connection.aliases:
            iop.lct.retire(alias.tid, FailureCode.ROUTING_FAILURE.value)
            self._gone.append(alias.tid)
        for alias in connection.aliases:
            self.executive.tell_lct_change(ExecutiveEvent.MODIFIED_LCT, alias)
        iop.events.post(self.device.tid, ExecutiveEvent.XCT_CHANGE, b"")
        iop.events.post(self.device.tid, ExecutiveEvent.CONNECTION_FAIL, _NOT_RESPONDING)

    # --- TIDs ------------------------------------------------------------------------------------

    def _names(self, iop_id: int) -> bool:
        return any(entry.iop_id == iop_id for entry in self.executive.system_table)

    def _taken(self) -> set[int]:
        """Return the TIDs from the first alias on that stand for something."""
        taken = set(self._gone)
        for connection in self._connections.values():
            taken.update(connection.initiators, (alias.tid for alias in connection.aliases))
        return taken

    def _has_no_room(self) -> bool:
        if len(self._taken()) >= MAX_ALIASES:
            self._free_gone()
        return len(self._taken()) >= MAX_ALIASES

    def _free_gone(self) -> None:
        """Let the TIDs of connections that ended be used again."""
        for tid in self._gone:
            self.iop.lct.remove(tid)
        self._gone.clear()

    def _free_tid(self) -> int:
        taken = self._taken()
        return next(tid for tid in range(FIRST_ALIAS_TID, 0xFFF) if tid not in taken)


def _drop(peer: Peers, forward: Forward) -> None:
    """Make another IOP forget a request; no reply of it comes any more."""
    for request in peer.iop.scheduler.take_back(lambda request: request is forward.remote):
        device = peer.iop.lct.devices.get(request.target)
        if device is not None:
            device.forget(request)


def _setup_problem(asked: Record, target: Ddm | None) -> str:
    """Say why a device cannot get an alias, or nothing."""
    if target is None or target.is_remote or target.device_class == DeviceClass.EXECUTIVE:
        return f"TID {asked.object_info_target_device:#05x} is no device of the other IOP"
    if asked.object_info_initiator_device != _HOST:
        return f"initiator {asked.object_info_initiator_device:#05x}: only the host, 1, sends here"
    wanted = asked.message_class
    any_class = (0, DeviceClass.MATCH_ANYCLASS)
    if wanted not in any_class and wanted & 0xFFF != target.device_class:
        return f"class {wanted:#x}: TID {target.tid:#05x} is of class {target.device_class:#05x}"
    if any(claim.flags & ClaimFlags.PEER_SERVICE_DISABLED for claim in target.claims):
        return f"the user of TID {target.tid:#05x} disabled peer service"
    return ""
