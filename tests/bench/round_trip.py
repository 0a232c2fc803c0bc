# SPDX-License-Identifier: Apache-2.0
"""One BsaStatusCheck through everything, against 128 bytes to another process and back.

GetReqBuf -> Send -> emulator -> callback -> FreeRepBuf by the D3i2o calls in one process, next to a
128-byte round trip over a Unix socketpair whose two ends are pinned to different CPUs.
Run: python tests/bench/round_trip.py
"""

from __future__ import annotations

import os
import socket

from side_by_side import best_times, repeat, verdict

from i2o import d3i2o, default_message_layer
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.functions import DeviceClass

MESSAGE_SIZE = 128


def echo_forever(end: socket.socket) -> None:
    """Send every message back until the other end closes."""
    message = bytearray(MESSAGE_SIZE)
    while end.recv_into(message):
        end.send(message)


def main() -> None:
    """Measure both and print the ratio."""
    cpus = sorted(os.sched_getaffinity(0))
    near, far = socket.socketpair()
    child = os.fork()
    if child == 0:
        near.close()
        os.sched_setaffinity(0, {cpus[-1]})
        echo_forever(far)
        os._exit(0)
    far.close()
    os.sched_setaffinity(0, {cpus[0]})
    if len(cpus) < 2:
        print("only one CPU: both ends share it")

    layer = default_message_layer()
    iop = layer.attach("emu:")
    disk = next(
        entry.tid
        for entry in layer.result(iop).lct.devices
        if entry.class_id == DeviceClass.RANDOM_BLOCK_STORAGE
    )
    done = 0

    def replied(number: int, reply: bytearray) -> None:
        nonlocal done
        assert not reply[19]
        d3i2o.OSMMsgFreeRepBuf(number, reply)  # type: ignore[arg-type]
        done += 1

    d3i2o.OSMMsgOpenCall()
    status, base, (cookie,) = d3i2o.OSMMsgRegister(1, [replied])
    assert status == d3i2o.SUCCESS
    size = BSA_STATUS_CHECK.size
    build = BSA_STATUS_CHECK.build
    get, send, poll = d3i2o.OSMMsgGetReqBuf, d3i2o.OSMMsgSend, layer.poll

    def message_layer_trip() -> None:
        frame = get(iop, 0, 0)
        frame[:size] = build(target_address=disk, initiator_context=cookie)
        send(iop, frame, 0, 0)
        poll()

    buffer = bytearray(MESSAGE_SIZE)

    def socket_trip() -> None:
        near.send(buffer)
        near.recv_into(buffer)

    times = best_times(
        {"message layer": repeat(message_layer_trip), "socketpair": repeat(socket_trip)},
        {"message layer": 5000, "socketpair": 3000},
    )
    assert done == 5000 * 9
    for name, microseconds in times.items():
        print(f"  {name:16} {microseconds:9.3f} us")
    ratio = times["message layer"] / times["socketpair"]
    verdict("message layer / socketpair round trip", ratio, 0.7, at_least=False)
    d3i2o.OSMMsgDeRegister(base)
    layer.close()
    near.close()
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
