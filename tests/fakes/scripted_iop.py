# SPDX-License-Identifier: Apache-2.0
"""An IOP that goes wrong at one step of its bring-up, as told."""

from __future__ import annotations

from dataclasses import dataclass

from fakes.bare_iop import BarePort
from i2o.clock import ManualClock
from i2o.frames import tables
from i2o.frames.functions import Function
from i2o.frames.tables import IopState
from i2o.transport.port import EMPTY


@dataclass
class Script:
    """What the IOP does at each step; the defaults come up."""

    state: int = IopState.RESET
    version: int = 1
    reset_status: int = 1
    state_after_reset: int = IopState.RESET
    frames_after_reset: bool = True
    outbound_status: int = 4
    state_after_outbound: int = IopState.HOLD
    state_after_enable: int = IopState.OPERATIONAL
    enable_status: bytes = bytes(4)
    private_memory: int = 0
    hrt: bytes = bytes((0, 0, 4, 0)) + bytes(4)
    lct: bytes = b"\x03\x00\x00\x00" + bytes(8)
    lct_replies: int = 1 << 30
    silent: frozenset[int] = frozenset()
    inbound_words: int = 32


class ScriptedPort(BarePort):
    """Serves requests when it is waited on, by the script."""

    def __init__(self, script: Script) -> None:
        super().__init__(ManualClock())
        self.script = script
        self.state = script.state
        self.seen: list[int] = []
        self.system_table = b""

    def wait(self, timeout_s: float) -> bool:
        if self.serve():
            return True
        return super().wait(timeout_s)

    def reap(self) -> int:
        self.serve()
        return super().reap()

    def serve(self) -> bool:
        """Serve everything that was posted."""
        served = False
        while (posted := self.unit.fetch()) is not None:
            served = True
            self.unit.recycle(posted.mfa)
            function = posted.data[7]
            self.seen.append(function)
            if function not in self.script.silent:
                self._answer(function, posted.data)
        return served

    def _answer(self, function: int, data: bytes) -> None:
        script = self.script
        low = int.from_bytes(data[24:28], "little")
        if function == Function.EXEC_STATUS_GET:
            block = tables.STATUS_BLOCK.build(
                iop_state=self.state,
                i2o_version=script.version,
                inbound_msg_frame_size=script.inbound_words,
                max_outbound_msg_frames=4,
                expected_lct_size=48,
                desired_private_mem_size=script.private_memory,
                sync_byte=0xFF,
            )
            self.memory.write(low, block)
        elif function == Function.EXEC_IOP_RESET:
            self.memory.write(low, bytes((script.reset_status, 0, 0, 0)))
            if script.reset_status == 1:
                self.state = script.state_after_reset
                self.unit.drop_replies()
                self.unit.refill()
                self.unit.starve(not script.frames_after_reset)
        elif function == Function.EXEC_OUTBOUND_INIT:
            status = int.from_bytes(data[28:32], "little")
            self.memory.write(status, script.outbound_status.to_bytes(4, "little"))
            self.state = script.state_after_outbound
        elif function == Function.EXEC_HRT_GET:
            self._table(data, 16, script.hrt)
        elif function == Function.EXEC_LCT_NOTIFY:
            self._table(data, 24, script.lct)
        elif function == Function.EXEC_SYS_TAB_SET:
            length = int.from_bytes(data[24:27], "little")
            address = int.from_bytes(data[28:32], "little")
            self.system_table = self.memory.read(address, length)
            self._reply(data, bytes(4))
        elif function == Function.EXEC_SYS_ENABLE:
            self.state = script.state_after_enable
            self._reply(data, script.enable_status)

    def _table(self, data: bytes, sgl: int, table: bytes) -> None:
        length = int.from_bytes(data[sgl : sgl + 3], "little")
        address = int.from_bytes(data[sgl + 4 : sgl + 8], "little")
        self.memory.write(address, table[:length])
        self._reply(data, bytes(4))

    def _reply(self, data: bytes, status: bytes) -> None:
        mfa = self.unit.take_reply_frame()
        if mfa != EMPTY:
            self.unit.post_reply(mfa, b"\x01\xc0\x05\x00" + data[4:16] + status)
