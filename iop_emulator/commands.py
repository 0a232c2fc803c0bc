# SPDX-License-Identifier: Apache-2.0
"""The commands that a running IOP takes: a table of names, arguments, help and actions.

A command is a line of words. In a path a blank is written `%20` and a comma `%2C`, as in an `emu:`
URI. What cannot be done is an answer that says why, and changes nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Final
from urllib.parse import unquote

from i2o.errors import I2OError
from i2o.frames.functions import DeviceClass
from i2o.frames.tables import IopState
from i2o.iop_emulator.bad_blocks import FlawedDisk
from i2o.iop_emulator.block_store import BlockStore
from i2o.iop_emulator.ddm.base import Ddm
from i2o.iop_emulator.ddm.disk import Disk
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.options import parse_blocks, parse_disk, parse_disk_size
from i2o.iop_emulator.soft_iop import SoftIop

Result = dict[str, object]
Action = Callable[[SoftIop, Sequence[str]], Result]

_LOG: Final = logging.getLogger(__name__)
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,9}")
MAX_RANGES_SHOWN: Final = 100


class CommandError(I2OError):
    """A command that cannot be followed."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: its first word.
        arguments: the others, for people; those in brackets may be left away.
        help: what it does.
        action: does it; gets the arguments, returns what the answer says besides `ok`.
    """

    name: str
    arguments: str
    help: str
    action: Action

    def check(self, arguments: Sequence[str]) -> None:
        """Refuse a wrong number of arguments; raises CommandError."""
        words = self.arguments.split()
        needed = sum(not word.startswith("[") for word in words)
        if not needed <= len(arguments) <= len(words):
            usage = f"{self.name} {self.arguments}".rstrip()
            raise CommandError(f"{self.name} has {len(arguments)} arguments: write {usage}")


def execute(iop: SoftIop, line: str) -> Result:
    """Run a command and return the answer; never raises.

    Args:
        iop: the IOP.
        line: the command.

    Returns:
        `ok`, and with it what the command says, or `error`.
    """
    try:
        name, *arguments = line.split() or [""]
        command = COMMANDS.get(name)
        if command is None:
            raise CommandError(f"no command is called {name!r}; known are {', '.join(COMMANDS)}")
        command.check(arguments)
        return {"ok": True, **command.action(iop, arguments)}
    except OSError as error:
        return {"ok": False, "error": error.strerror or str(error)}
    except I2OError as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:  # whatever a command does, the IOP goes on
        _LOG.exception("command %r", line)
        return {"ok": False, "error": f"{name} failed: {error!r}"}


# --- looking -------------------------------------------------------------------------------------


def _help(iop: SoftIop, arguments: Sequence[str]) -> Result:
    listed = [
        {"name": command.name, "arguments": command.arguments, "help": command.help}
        for command in COMMANDS.values()
    ]
    return {"commands": listed}


def _status(iop: SoftIop, arguments: Sequence[str]) -> Result:
    faults = iop.faults
    return {
        "state": iop.state.name,
        "iop_id": iop.executive.iop_id,
        "change_indicator": iop.lct.indicator,
        "devices": [_device(iop, device) for device in iop.lct],
        "fault_rules": 0 if faults is None else len(faults.rules),
        "counters": asdict(iop.counters),
        "complaints": list(iop.complaints),
    }


def _device(iop: SoftIop, device: Ddm) -> Result:
    try:
        class_name = DeviceClass(device.device_class).name.lower()
    except ValueError:
        class_name = f"{device.device_class:#05x}"
    shown: Result = {
        "tid": device.tid,
        "class": class_name,
        "name": device.name,
        "serves": device.tid in iop.lct.serving,
        "claims": [{"tid": claim.tid, "type": claim.claim_type} for claim in device.claims],
    }
    if isinstance(device, Disk):
        shown.update(_disk(device))
    return shown


def _disk(device: Disk) -> Result:
    store = device.store
    medium = "none" if not store.size else "loaded" if device.is_loaded else "unloaded"
    shown: Result = {
        "size": store.size,
        "block_size": store.block_size,
        "image": store.description,
        "read_only": store.read_only,
        "removable": device.is_removable,
        "medium": medium,
        "locked": device.is_locked,
        "changed": device.is_changed,
    }
    if isinstance(store, FlawedDisk):
        shown["bad_ranges"] = len(store.bad)
        shown["bad"] = [list(pair) for pair in islice(store.bad, MAX_RANGES_SHOWN)]
    return shown


# --- disks ---------------------------------------------------------------------------------------


def _add(iop: SoftIop, arguments: Sequence[str]) -> Result:
    spec = parse_disk(arguments[0], "add")
    iop.bay.require_room()  # no image is made for a disk that there is no room for
    store = spec.open()
    return _or_close(store, lambda: _disk_answer(iop.bay.add(store, spec.kind)))


def _remove(iop: SoftIop, arguments: Sequence[str]) -> Result:
    tid = _tid(arguments[0])
    iop.bay.remove(tid).close()
    return {"tid": tid}


def _resize(iop: SoftIop, arguments: Sequence[str]) -> Result:
    tid = _tid(arguments[0])
    iop.bay.resize(tid, parse_disk_size(arguments[1], "resize"))
    return _disk_answer(iop.bay.disk(tid))


def _insert(iop: SoftIop, arguments: Sequence[str]) -> Result:
    tid = _tid(arguments[0])
    spec = replace(parse_disk(arguments[1], "insert"), removable=True)
    iop.bay.require_drive(tid)  # no image is made for a drive that takes none
    store = spec.open()

    def insert() -> Result:
        iop.bay.insert(tid, store).close()
        return _disk_answer(iop.bay.disk(tid))

    return _or_close(store, insert)


def _eject(iop: SoftIop, arguments: Sequence[str]) -> Result:
    tid = _tid(arguments[0])
    if arguments[1:] not in ([], ["force"]):
        raise CommandError(f"eject TID {arguments[1]}: the only word there is `force`")
    iop.bay.eject(tid, is_forced=len(arguments) > 1).close()
    return _disk_answer(iop.bay.disk(tid))


def _bad(iop: SoftIop, arguments: Sequence[str]) -> Result:
    tid = _tid(arguments[0])
    iop.bay.spoil(tid, *parse_blocks(arguments[1], "bad"))
    return _disk_answer(iop.bay.disk(tid))


def _good(iop: SoftIop, arguments: Sequence[str]) -> Result:
    tid = _tid(arguments[0])
    iop.bay.mend(tid, *parse_blocks(arguments[1], "good"))
    return _disk_answer(iop.bay.disk(tid))


def _disk_answer(device: Disk) -> Result:
    return {"tid": device.tid, **_disk(device)}


def _or_close(store: BlockStore, action: Callable[[], Result]) -> Result:
    """Do something with an image that was just opened; close it again if that fails."""
    try:
        return action()
    except BaseException:
        store.close()
        raise


# --- the IOP -------------------------------------------------------------------------------------


def _fail(iop: SoftIop, arguments: Sequence[str]) -> Result:
    _require_power(iop)
    if iop.state == IopState.FAILED:
        raise CommandError("the IOP is FAILED already: the host resets it, or `reset` does")
    iop.fail()
    return {"state": iop.state.name}


def _crash(iop: SoftIop, arguments: Sequence[str]) -> Result:
    _require_power(iop)
    iop.crash()
    return {"state": iop.state.name}


def _reset(iop: SoftIop, arguments: Sequence[str]) -> Result:
    _require_power(iop)
    iop.reset()
    return {"state": iop.state.name}


def _power_cycle(iop: SoftIop, arguments: Sequence[str]) -> Result:
    iop.power_cycle()
    return {"state": iop.state.name}


def _require_power(iop: SoftIop) -> None:
    if iop.state == IopState.FAULTED:
        raise CommandError("the IOP has crashed: only power-cycle brings it back")


def _faults(iop: SoftIop, arguments: Sequence[str]) -> Result:
    plan = None
    if arguments[0] != "none":
        plan = FaultPlan.from_file(unquote(arguments[0]))
    iop.misbehave(plan)
    return {"fault_rules": 0 if plan is None else len(plan.rules)}


def _tid(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise CommandError(f"{text!r} is no TID: write for example 0x010")
    value = int(text, 16 if text[:2].lower() == "0x" else 10)
    if value > 0xFFF:
        raise CommandError(f"{text!r} is no TID: those end at 0xfff")
    return value


COMMANDS: Final = {
    command.name: command
    for command in (
        Command("help", "", "list the commands", _help),
        Command("status", "", "show state, devices, counters and complaints", _status),
        Command("add", "DISK-SPEC", "plug a disk in: PATH[,create=SIZE][,ro]… as in disk=", _add),
        Command("remove", "TID", "pull a disk out", _remove),
        Command("resize", "TID SIZE", "give a disk another size, such as 64M", _resize),
        Command("insert", "TID DISK-SPEC", "put a medium into a removable disk", _insert),
        Command("eject", "TID [force]", "take the medium out, with force a locked one", _eject),
        Command("bad", "TID FIRST[-LAST]", "make blocks bad", _bad),
        Command("good", "TID FIRST[-LAST]", "make blocks good", _good),
        Command("fail", "", "take the IOP to FAILED", _fail),
        Command("crash", "", "take the IOP to FAULTED", _crash),
        Command("reset", "", "let the IOP restart by itself", _reset),
        Command("power-cycle", "", "take the IOP's power away and give it back", _power_cycle),
        Command("faults", "PLAN.toml|none", "follow this fault plan from now on", _faults),
    )
}
"""Every command by name."""
