# SPDX-License-Identifier: Apache-2.0
"""What a capture costs a BsaStatusCheck round trip and a message of an endpoint, on and off.

On: frames only, to a file, against the same round trip without. The bar is 40 % more.

Of endpoints: a tagged message of 128 bytes there and back between two endpoints in memory, all
completions read, one of the ends captured; and the same without. It has three packets a round trip:
a send, its end, and a receive.

Off: nothing can be compared, for nothing is there. `MessageLayer.attach` looks at the environment
and, unless it asks for a capture, keeps the port as it is; sending and receiving have no line that
knows of captures. So this counts the Python calls of a message on a port that went through `attach`
and on one that was registered behind its back, as before there were captures, and both are equal.

Run: python tests/bench/capture.py
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable

from side_by_side import best_times, repeat, verdict

from i2o.capture import captured
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.functions import DeviceClass
from i2o.message_layer import MessageLayer
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.environment import captured_endpoint
from i2o.transport.fabric.endpoint import Endpoint
from i2o.transport.fabric.errors import TryAgain
from i2o.transport.fabric.flags import Bind
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint
from i2o.transport.registry import open_port

COUNT = 5000  # longer than packets linger, so that every round has some writing in it
ROUNDS = 30


def round_trip(layer: MessageLayer, iop: int) -> Callable[[], None]:
    """Return a function that sends one BsaStatusCheck and takes its reply."""
    disk = next(
        entry.tid
        for entry in layer.result(iop).lct.devices
        if entry.class_id == DeviceClass.RANDOM_BLOCK_STORAGE
    )

    def replied(number: int, reply: bytearray) -> None:
        assert not reply[19]
        layer.free_reply(number, reply)  # type: ignore[arg-type]

    cookie = layer.register([replied])[1][0]  # type: ignore[list-item]
    size, build = BSA_STATUS_CHECK.size, BSA_STATUS_CHECK.build
    get, send, poll = layer.request_frame, layer.send, layer.poll

    def trip() -> None:
        frame = get(iop, 0, 0)
        frame[:size] = build(target_address=disk, initiator_context=cookie)
        send(iop, frame, 0, 0)
        poll()

    return trip


def message_trip(tap: Callable[[Endpoint], Endpoint]) -> Callable[[], None]:
    """Return a function that sends a message to another endpoint and gets it back.

    Args:
        tap: what is put in front of one end.
    """
    fabric = MemoryFabric()
    ends = [tap(SoftwareEndpoint(fabric.carrier("a"))), SoftwareEndpoint(fabric.carrier("b"))]
    queues = []
    for end in ends:
        queue = end.open_cq()
        end.bind(queue, Bind.TRANSMIT | Bind.RECV)
        end.enable()
        queues.append(queue)
    here, there = ends
    to, back = here.insert(there.name), there.insert(here.name)
    message, buffers = bytes(128), [bytearray(128), bytearray(128)]

    def gather(count: int) -> None:
        while count:
            for queue in queues:
                with contextlib.suppress(TryAgain):
                    count -= len(queue.read(4))

    def trip() -> None:
        there.trecv(buffers[1], 7, context=1)
        here.trecv(buffers[0], 7, context=2)
        here.tsend(message, 7, to, context=3)
        gather(2)
        there.tsend(message, 7, back, context=4)
        gather(2)

    return trip


def python_calls(trip: Callable[[], None]) -> int:
    """Return how many Python functions one message calls."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    trip()
    sys.setprofile(profile)
    trip()
    sys.setprofile(None)
    return count


def main() -> None:
    """Measure both and print the ratio."""
    os.environ.pop("I2O_CAPTURE", None)
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        CaptureFile(os.path.join(place, "bench.pcapng"), dma=False) as file,
        CaptureFile(os.path.join(place, "messages.pcapng"), queue_bytes=1 << 28) as messages,
        MessageLayer() as with_capture,
        MessageLayer() as without,
        MessageLayer() as before,
    ):
        on = round_trip(with_capture, with_capture.attach(captured(open_port("emu:"), file)))
        off = round_trip(without, without.attach("emu:"))
        entry = before._iops.add(open_port("emu:"), frames_from_fifo=False)
        before.bring_up(entry.number)
        untouched = round_trip(before, entry.number)
        times = best_times(
            {"off": repeat(off), "on": repeat(on)}, {"off": COUNT, "on": COUNT}, ROUNDS
        )
        calls = {"off": python_calls(off), "never": python_calls(untouched), "on": python_calls(on)}
        assert file.flush()
        assert not file.dropped
        message_off = message_trip(lambda end: end)
        message_on = message_trip(lambda end: captured_endpoint(end, messages))
        message_times = best_times(
            {"off": repeat(message_off), "on": repeat(message_on)},
            {"off": COUNT // 5, "on": COUNT // 5},
            ROUNDS,
        )
        assert messages.flush()
        assert not messages.dropped
        written = os.path.getsize(file.name)
    for name, microseconds in times.items():
        print(f"  capture {name:4} {microseconds:9.3f} us, {calls[name]} Python calls")
    print(f"  {written / COUNT / ROUNDS:.0f} bytes in the file per round trip")
    verdict("round trip with capture / without", times["on"] / times["off"], 1.4, at_least=False)
    for name, microseconds in message_times.items():
        print(f"  messages, capture {name:4} {microseconds:9.3f} us")
    verdict(
        "message there and back with capture / without",
        message_times["on"] / message_times["off"],
        1.8,
        at_least=False,
    )
    assert calls["off"] == calls["never"]
    print(f"  off: {calls['off']} Python calls, as without the feature ({calls['never']})")


if __name__ == "__main__":
    main()
