# SPDX-License-Identifier: Apache-2.0
"""IBM's service processor as a PCI device (1014:010F), as far as Linux' driver ibmasm needs it.

It has the message unit of an IOP and none of its messages: private frames carry dot commands. Its
frames, those of replies too, lie in the BAR, so it is never a bus master. Remote keyboard, mouse,
screen and the serial port are memory in which nothing happens.

A command that writes keeps its data under its path, and one that reads returns what is kept
there; what a real one does with them is between it and IBM's software.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from i2o.errors import RemoteFrameError
from i2o.iop_emulator.complaints import Complaints
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.dot_command import DotCommand, DotType
from i2o.transport.vfio_user import ConfigSpace, GuestMemory, Identity, Interrupts, Region

NAME: Final = "ibmasm"
"""What options call it as a personality."""
BAR_SIZE: Final = 1 << 20
INBOUND_PORT: Final = 0x40
OUTBOUND_PORT: Final = 0x44
INTERRUPT_STATUS: Final = 0x13A0
INTERRUPT_MASK: Final = 0x13A4
OUTBOUND_BIT: Final = 0x08
"""Of status and mask: a message waits in the outbound port."""
EMPTY: Final = 0xFFFFFFFF
FRAME_SIZE: Final = 4096
FRAMES: Final = 8
INBOUND_FRAMES: Final = 0x10000
OUTBOUND_FRAMES: Final = 0x20000
MAX_WAITING: Final = 256
"""Messages for the host that wait for frames; then the oldest is lost."""
MAX_KEPT: Final = 1024
"""Paths that data are kept under."""

OS_STATE: Final = bytes.fromhex("04 03 06")
"""Path of a byte with which the driver says that the system is up (5) or going down (4)."""
OS_UP: Final = b"\5"
HEARTBEAT: Final = bytes.fromhex("04 03 07")
"""Path of the heartbeat that is sent here. The driver returns whatever it gets."""

IDENTITY: Final = Identity(
    vendor_id=0x1014,
    device_id=0x010F,
    class_code=0xFF0000,  # of no class: the driver looks at the ids alone
    revision=1,
    subsystem_vendor_id=0x1014,
    bars={0: BAR_SIZE},
    msi=False,
)


class MessagePorts:
    """BAR0: the two ports, the interrupt registers, the frames, and memory.

    Args:
        complain: takes sentences about what the host does wrong.
    """

    def __init__(self, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self.size = BAR_SIZE
        self.descriptor: int | None = None
        self.mappable: tuple[tuple[int, int], ...] = ()
        self._line: Callable[[bool], None] = lambda level: None
        self.reset()

    def reset(self) -> None:
        """Go back to power-on: every frame is free, interrupts are masked."""
        self._memory = bytearray(BAR_SIZE)
        self._mask = OUTBOUND_BIT
        self._inbound_free = deque(_frames(INBOUND_FRAMES))
        self._with_host: set[int] = set()
        self._inbound_posted: deque[int] = deque()
        self._outbound_free = deque(_frames(OUTBOUND_FRAMES))
        self._outbound_posted: deque[int] = deque()
        self._drive()

    def connect(self, line: Callable[[bool], None]) -> None:
        """Take the interrupt line: called with its level, again and again."""
        self._line = line

    def _drive(self) -> None:
        self._line(bool(self._outbound_posted) and not self._mask & OUTBOUND_BIT)

    # --- what the processor does -----------------------------------------------------------------

    def fetch(self) -> bytes | None:
        """Take the next message that the host has sent, and free its frame."""
        if not self._inbound_posted:
            return None
        mfa = self._inbound_posted.popleft()
        self._inbound_free.append(mfa)
        return bytes(self._memory[mfa : mfa + FRAME_SIZE])

    def send(self, message: bytes) -> bool:
        """Send a message to the host; return False if there is no free frame."""
        if not self._outbound_free:
            return False
        mfa = self._outbound_free.popleft()
        self._memory[mfa : mfa + len(message)] = message
        self._outbound_posted.append(mfa)
        self._drive()
        return True

    # --- what the host does ----------------------------------------------------------------------

    def read(self, offset: int, size: int) -> bytes:
        """Read a register, or memory."""
        if size != 4:
            return bytes(self._memory[offset : offset + size])
        return self._read_word(offset).to_bytes(4, "little")

    def _read_word(self, offset: int) -> int:
        if offset == INBOUND_PORT:
            if not self._inbound_free:
                return EMPTY
            mfa = self._inbound_free.popleft()
            self._with_host.add(mfa)
            return mfa
        if offset == OUTBOUND_PORT:
            mfa = self._outbound_posted.popleft() if self._outbound_posted else EMPTY
            self._drive()
            return mfa
        if offset == INTERRUPT_STATUS:
            return OUTBOUND_BIT if self._outbound_posted else 0
        if offset == INTERRUPT_MASK:
            return self._mask
        return int.from_bytes(self._memory[offset : offset + 4], "little")

    def write(self, offset: int, data: bytes) -> None:
        """Write a register, or memory."""
        value = int.from_bytes(data, "little") if len(data) == 4 else -1
        if offset == INBOUND_PORT:
            self._post(value)
        elif offset == OUTBOUND_PORT:
            self._release(value)
        elif offset == INTERRUPT_MASK:
            self._mask = value & 0xFF
            self._drive()
        else:
            self._memory[offset : offset + len(data)] = data

    def _post(self, mfa: int) -> None:
        if mfa in self._with_host:
            self._with_host.remove(mfa)
            self._inbound_posted.append(mfa)
        else:
            self._complain(f"{mfa:#010x} was posted to 0x40: read a free frame there first")

    def _release(self, mfa: int) -> None:
        taken = mfa not in self._outbound_free and mfa not in self._outbound_posted
        if taken and mfa in _frames(OUTBOUND_FRAMES):
            self._outbound_free.append(mfa)
        else:
            self._complain(f"{mfa:#010x} was released to 0x44: it is no frame that was read there")


class ServiceProcessor:
    """The service processor: a `vfio_user.Device`.

    Args:
        control: where commands come in; the processor closes it.

    Attributes:
        identity: what it is on PCI.
        regions: BAR0.
        complaints: what the driver did wrong.
        commands: how many it has answered, of all hosts.
        heartbeats: how many came back, of all hosts.
        is_up: whether the driver says that the system is up.
    """

    def __init__(self, control: ControlSocket | None = None) -> None:
        self.complaints = Complaints()
        self.identity = IDENTITY
        self._ports = MessagePorts(self.complaints.add)
        self.regions: Mapping[int, Region] = {0: self._ports}
        self._control = control
        self.commands = self.heartbeats = 0
        self._forget()

    def _forget(self) -> None:
        self._kept: dict[bytes, bytes] = {}
        self._waiting: deque[DotCommand] = deque(maxlen=MAX_WAITING)
        self.is_up = False

    # --- what a `vfio_user.Device` does ----------------------------------------------------------

    def connect(self, memory: GuestMemory, interrupts: Interrupts, config: ConfigSpace) -> None:
        """Take the slot's interrupts."""
        self._ports.connect(interrupts.set_level)

    def run(self, now_ns: int) -> int | None:
        """Answer every command, and what came in on the control socket."""
        while (message := self._ports.fetch()) is not None:
            try:
                self._serve(DotCommand.parse(message))
            except RemoteFrameError as error:
                self.complaints.add(str(error))
        if self._control is not None and self._control.wait(0):
            self._control.serve(self._execute)
        while self._waiting and self._ports.send(self._waiting[0].message()):
            self._waiting.popleft()
        return None

    def reset(self) -> None:
        """Forget everything."""
        self._ports.reset()
        self._forget()

    def client_gone(self) -> None:
        """Forget everything: there is no host any more."""
        self.reset()

    def filenos(self) -> tuple[int, ...]:
        """Return the control socket's descriptor, if there is one."""
        return () if self._control is None else (self._control.fileno(),)

    def close(self) -> None:
        """Close the control socket."""
        if self._control is not None:
            self._control.close()

    # --- commands of the driver ------------------------------------------------------------------

    def _serve(self, asked: DotCommand) -> None:
        data = b""
        if asked.kind in (DotType.WRITE, DotType.WRITE_NEXT):
            self._keep(asked)
        elif asked.kind in (DotType.READ, DotType.READ_NEXT):
            data = self._kept.get(asked.command, b"")
        else:
            self.complaints.add(f"a dot command of type {asked.kind} is not answered")
            return
        self.commands += 1
        self._waiting.append(DotCommand(DotType.RESPONSE, asked.command, data))

    def _keep(self, asked: DotCommand) -> None:
        if asked.command == OS_STATE:
            self.is_up = asked.data == OS_UP
        elif asked.command == HEARTBEAT:
            self.heartbeats += 1
        if asked.command in self._kept or len(self._kept) < MAX_KEPT:
            self._kept[asked.command] = asked.data

    # --- commands of the control socket ----------------------------------------------------------

    def event(self, data: bytes) -> None:
        """Send an event to whoever reads them on the host."""
        self._waiting.append(DotCommand(DotType.EVENT, b"", data))

    def heartbeat(self) -> None:
        """Ask whether the driver lives."""
        self._waiting.append(DotCommand(DotType.HEARTBEAT, HEARTBEAT))

    def _execute(self, line: str) -> dict[str, object]:
        name, *words = line.split() or [""]
        if name == "status" and not words:
            return {
                "ok": True,
                "up": self.is_up,
                "commands": self.commands,
                "heartbeats": self.heartbeats,
                "kept": {path.hex(): data.hex() for path, data in self._kept.items()},
                "complaints": list(self.complaints),
            }
        if name == "heartbeat" and not words:
            self.heartbeat()
            return {"ok": True}
        if name == "event" and _is_hex(words):
            self.event(bytes.fromhex(words[0]))
            return {"ok": True}
        known = "status, heartbeat, event HEX"
        return {"ok": False, "error": f"{line!r} is no command of a service processor: {known}"}


def _frames(first: int) -> range:
    return range(first, first + FRAMES * FRAME_SIZE, FRAME_SIZE)


def _is_hex(words: Sequence[str]) -> bool:
    if len(words) != 1 or len(words[0]) > FRAME_SIZE:
        return False
    try:
        return bool(bytes.fromhex(words[0]))
    except ValueError:
        return False
