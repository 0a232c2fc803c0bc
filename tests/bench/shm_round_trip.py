# SPDX-License-Identifier: Apache-2.0
"""128 bytes to another process and back over shared memory, beside libfabric's shm provider.

Both sides are Python and pinned to CPUs of their own. libfabric is reached by a shim that is built
here, with one compiled call for each operation, like our rings. In turn, five times each: the bare
echo of both, BsaStatusCheck to an IOP in another process (by the calls of the port, and by the
message layer), and the rate with 1 and with 16 requests in flight, with and without spinning.
Run: python tests/bench/shm_round_trip.py (needs libfabric-dev and gcc for the comparison)
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import cffi
from side_by_side import verdict

from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.shm_iop import ShmIop
from i2o.message_layer import MessageLayer
from i2o.requester import Requester
from i2o.transport.port import EMPTY, Port
from i2o.transport.registry import open_port
from i2o.transport.serving import serve
from i2o.transport.shm.channel import RingChannel
from i2o.transport.shm.greeting import Hello, Welcome, hear, say
from i2o.transport.shm.link import offer, own_modes, take
from i2o.transport.shm.rendezvous import Meeting, listen
from i2o.transport.shm.segment import Shape
from i2o.transport.shm.server import ShmServer
from i2o.transport.uri import Uri

BLOCKS = 5
SIZE = 128
COUNT = 3000
DISK = 0x010
SPIN_NS = 1_000_000
PATIENCE_S = 30.0
WITHOUT_WAITING = os.WEXITED | os.WNOHANG | os.WNOWAIT
ALIVE = "it is there, but stuck"
LOOKS = 1 << 18  # in vain, before somebody looks whether the other side is there at all
SHIM_DECLARATIONS = """
typedef struct shim shim;
shim *shim_open(char *buffer, size_t size);
size_t shim_name(shim *s, char *out, size_t room);
int shim_peer(shim *s, const char *name);
int shim_send(shim *s, const char *data, size_t size);
long shim_receive(shim *s);
"""
SHIM_SOURCE = r"""
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <stdlib.h>
#include <string.h>

typedef struct shim {
    struct fi_info *info;
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_ep *ep;
    struct fid_av *av;
    struct fid_cq *cq;
    char *buffer;
    size_t size;
    fi_addr_t peer;
} shim;

static shim *shim_open(char *buffer, size_t size)
{
    shim *s = calloc(1, sizeof *s);
    struct fi_info *hints = fi_allocinfo();
    struct fi_av_attr av = {.type = FI_AV_TABLE};
    struct fi_cq_attr cq = {.format = FI_CQ_FORMAT_MSG, .size = 1024};
    s->buffer = buffer;
    s->size = size;
    hints->ep_attr->type = FI_EP_RDM;
    hints->caps = FI_MSG;
    hints->fabric_attr->prov_name = strdup("shm");
    hints->domain_attr->threading = FI_THREAD_DOMAIN;
    hints->domain_attr->mr_mode =
        FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
    if (fi_getinfo(FI_VERSION(1, 14), NULL, NULL, 0, hints, &s->info)
        || fi_fabric(s->info->fabric_attr, &s->fabric, NULL)
        || fi_domain(s->fabric, s->info, &s->domain, NULL)
        || fi_av_open(s->domain, &av, &s->av, NULL) || fi_cq_open(s->domain, &cq, &s->cq, NULL)
        || fi_endpoint(s->domain, s->info, &s->ep, NULL)
        || fi_ep_bind(s->ep, &s->av->fid, 0)
        || fi_ep_bind(s->ep, &s->cq->fid, FI_TRANSMIT | FI_RECV) || fi_enable(s->ep)
        || fi_recv(s->ep, buffer, size, NULL, 0, NULL))
        return NULL;
    return s;
}

static size_t shim_name(shim *s, char *out, size_t room)
{
    return fi_getname(&s->ep->fid, out, &room) ? 0 : room;
}

static int shim_peer(shim *s, const char *name)
{
    return fi_av_insert(s->av, name, 1, &s->peer, 0, NULL);
}

static int shim_send(shim *s, const char *data, size_t size)
{
    return fi_inject(s->ep, data, size, s->peer);
}

static long shim_receive(shim *s)
{
    struct fi_cq_msg_entry entry;
    if (fi_cq_read(s->cq, &entry, 1) != 1)
        return 0;
    fi_recv(s->ep, s->buffer, s->size, NULL, s->peer, NULL);
    return entry.len;
}
"""

Trips = Callable[[int], None]


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that does."""
    libc = cffi.FFI()
    libc.cdef(
        "int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);"
    )
    libc.dlopen(None).prctl(1, signal.SIGKILL, 0, 0, 0)


class Fork:
    """A child process on another CPU; it works when it is told how often, and blocks in between."""

    def __init__(self, work: Callable[[socket.socket], Trips]) -> None:
        self.end, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.settimeout(PATIENCE_S)
        self._code: int | None = None
        self._pid = os.fork()
        if not self._pid:
            code = 1
            try:
                die_with_parent()
                self.end.close()
                os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
                trips = work(far)
                far.send(b"ready")
                gc.disable()
                while said := far.recv(8):
                    trips(int.from_bytes(said, "little"))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        far.close()

    def hear(self) -> bytes:
        """Return what the child says; end the program if it says nothing."""
        try:
            said = self.end.recv(256)
        except (OSError, TimeoutError):
            said = b""
        if not said:
            sys.exit(f"the other side of a comparison says nothing: {self._fate()}")
        return said

    def go(self, count: int) -> None:
        """Have the child work."""
        try:
            self.end.send(count.to_bytes(8, "little"))
        except OSError:
            sys.exit(f"the other side of a comparison is gone: {self._fate()}")

    def patience(self) -> Callable[[], None]:
        """Return what to call now and then while the child should answer; it may end all."""
        end = time.monotonic() + PATIENCE_S

        def look() -> None:
            if self._fate() != ALIVE or time.monotonic() > end:
                sys.exit(f"the other side of a comparison does not answer: {self._fate()}")

        return look

    def close(self) -> None:
        """End the child."""
        self.end.close()
        if self._fate() == ALIVE:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _fate(self) -> str:
        """Return in words what has become of the child."""
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if not pid:
                return ALIVE
            self._code = os.waitstatus_to_exitcode(status)
        return f"it ended with {self._code}"


def build_shim(folder: str) -> Any:
    """Return the shim for libfabric, or None where it cannot be built."""
    builder = cffi.FFI()
    builder.cdef(SHIM_DECLARATIONS)
    builder.set_source("i2o_bench_shim", SHIM_SOURCE, libraries=["fabric"])
    try:
        path = builder.compile(folder, verbose=False)
    except Exception as error:
        print(f"  no libfabric to compare with: {type(error).__name__}")
        return None
    spec = spec_from_file_location("i2o_bench_shim", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fabric_echo(shim: Any) -> tuple[Trips, Fork]:
    """Return a round trip over libfabric's shm provider."""

    def opened(end: socket.socket, hear_name: Callable[[], bytes]) -> tuple[Any, Any]:
        buffer = shim.ffi.new("char[]", SIZE)
        made = shim.lib.shim_open(buffer, SIZE)
        assert made, "libfabric has no shm provider"
        name = shim.ffi.new("char[]", 256)
        end.send(bytes(shim.ffi.buffer(name, shim.lib.shim_name(made, name, 256))))
        other = hear_name().ljust(256, b"\0")
        assert shim.lib.shim_peer(made, other) == 1
        return made, buffer

    def far_side(end: socket.socket) -> Trips:
        made, buffer = opened(end, lambda: end.recv(256))
        send, receive = shim.lib.shim_send, shim.lib.shim_receive

        def trips(count: int) -> None:
            assert buffer
            for _ in range(count):
                while not receive(made):
                    pass
                while send(made, message, SIZE):
                    receive(made)

        return trips

    message = bytes(SIZE)
    child = Fork(far_side)
    made, buffer = opened(child.end, child.hear)
    assert child.hear() == b"ready"
    send, receive = shim.lib.shim_send, shim.lib.shim_receive

    def trips(count: int) -> None:
        assert buffer
        child.go(count)
        look = child.patience()
        for _ in range(count):
            while send(made, message, SIZE):
                receive(made)
            looks = 0
            while not receive(made):
                looks += 1
                if looks % LOOKS == 0:
                    look()

    return trips, child


def bare(channel: RingChannel) -> tuple[Any, Any, memoryview]:
    """Return what puts in, what takes out, and where to: as bare as libfabric's shim."""
    return channel._producer.push, channel._consumer.pop_within, channel._consumer.packet


def ring_echo() -> tuple[Trips, Fork]:
    """Return a round trip over our rings."""
    shape = Shape(0, 0, 1 << 16, 0)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def far_side(end: socket.socket) -> Trips:
        hello = hear(far)
        assert isinstance(hello, Hello)
        channel = offer(far, hello, shape, "", SIZE).channel
        assert isinstance(channel, RingChannel)
        push, pop, packet = bare(channel)

        def trips(count: int) -> None:
            for _ in range(count):
                while (size := pop(SPIN_NS)) < 0:
                    pass  # the other side's CPU is somebody else's for the moment
                push(packet[:size].tobytes(), size)

        return trips

    child = Fork(far_side)
    far.close()
    near.settimeout(PATIENCE_S)
    say(near, Hello(own_modes(), ""))
    welcome = hear(near)
    assert isinstance(welcome, Welcome)
    channel = take(near, welcome, SIZE).channel
    assert isinstance(channel, RingChannel), "the extension is not built"
    assert child.hear() == b"ready"
    push, pop, _ = bare(channel)
    message = bytes(SIZE)

    def trips(count: int) -> None:
        child.go(count)
        look = child.patience()
        for _ in range(count):
            push(message, SIZE)
            while pop(SPIN_NS) < 0:
                look()  # the other side's CPU is somebody else's for the moment, or it is gone

    return trips, child


def serve_iop(name: str, spin_us: int) -> int:
    """Start a process that serves an IOP; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    die_with_parent()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    iop = ShmIop.from_options(EmuOptions.from_uri(Uri.parse("emu:")))
    server = ShmServer(listen(name, Meeting.IOP), iop, spin_s=spin_us / 1e6)
    gc.freeze()
    serve([server], lambda: False)
    os._exit(0)


def port_trips(port: Port, frame: bytes, depth: int, *, spins: bool) -> Trips:
    """Return StatusChecks by the calls of a port, so many of them in flight."""
    alloc, write, post, reap = port.alloc, port.write, port.post, port.reap
    outbound, release, wait = port.outbound, port.release, port.wait

    def start() -> None:
        mfa = alloc()
        write(mfa, frame)
        post(mfa)

    def trips(count: int) -> None:
        left, done = count, 0
        for _ in range(min(depth, left)):
            start()
            left -= 1
        while done < count:
            mfa = reap()
            if mfa == EMPTY:
                if not spins:
                    wait(1.0)
                continue
            reply = bytes(outbound(mfa, 20))
            release(mfa)
            assert not reply[19]
            done += 1
            if left:
                left -= 1
                start()

    return trips


def layer_trips(requester: Requester, frame: bytes) -> Trips:
    """Return StatusChecks by the message layer."""

    def trips(count: int) -> None:
        for _ in range(count):
            requester.call(frame)

    return trips


def main() -> None:
    """Measure everything in turn, and print ratios."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        sys.exit("two CPUs are needed")
    folder = tempfile.TemporaryDirectory(prefix="i2o-bench-")
    os.environ["XDG_RUNTIME_DIR"] = folder.name
    work: dict[str, Trips] = {}
    closers: list[Callable[[], object]] = []
    shim = build_shim(folder.name)
    if shim is not None:
        work["libfabric shm echo"], child = fabric_echo(shim)
        closers.append(child.close)
    work["ring echo"], child = ring_echo()
    closers.append(child.close)
    for name, spin_us in (("spins", 300), ("sleeps", 0)):
        pid = serve_iop(name, spin_us)
        closers.append(lambda pid=pid: (os.kill(pid, signal.SIGKILL), os.waitpid(pid, 0)))
        wait_for(Path(folder.name) / "i2o" / f"{name}.iop", pid)
        layer = MessageLayer()
        closers.append(layer.close)
        iop = layer.attach(open_port(f"shm:{name}?spin={spin_us}"))
        requester = Requester(layer, iop)
        closers.append(requester.close)
        check = BSA_STATUS_CHECK.build(target_address=DISK, initiator_context=requester.cookie)
        port = layer.port(iop)
        for depth in (1, 16):
            work[f"{name}, {depth} in flight"] = port_trips(port, check, depth, spins=bool(spin_us))
        if spin_us:
            work["message layer"] = layer_trips(requester, check)
    os.sched_setaffinity(0, {cpus[0]})
    times = measure(work)
    for name, microseconds in times.items():
        print(f"  {name:22} {microseconds:9.2f} us")
    if shim is not None:
        base = times["libfabric shm echo"]
        verdict("ring echo / libfabric", times["ring echo"] / base, 1.0, at_least=False)
        ratio = times["spins, 1 in flight"] / base
        verdict("StatusCheck by the port / libfabric", ratio, 1.6, at_least=False)
        ratio = times["message layer"] / base
        print(f"  StatusCheck by the message layer / libfabric: {ratio:.2f}")
    for name, bar in (("sleeps", 4.0), ("spins", 1.2)):
        ratio = times[f"{name}, 1 in flight"] / times[f"{name}, 16 in flight"]
        verdict(f"16 in flight / 1, {name}", ratio, bar, at_least=True)
    for close in reversed(closers):
        close()
    folder.cleanup()


def wait_for(path: Path, pid: int) -> None:
    """Wait until a server has made its socket; end the program if it does not."""
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > end or os.waitid(os.P_PID, pid, WITHOUT_WAITING) is not None:
            sys.exit(f"process {pid} serves nothing")
        time.sleep(0.01)


def measure(work: dict[str, Trips]) -> dict[str, float]:
    """Return the median of the blocks of each, in microseconds a round trip."""
    seen: dict[str, list[float]] = {name: [] for name in work}
    gc.collect()
    gc.disable()
    for trips in work.values():
        trips(200)
    for _ in range(BLOCKS):
        for name, trips in work.items():
            start = time.perf_counter()
            trips(COUNT)
            seen[name].append((time.perf_counter() - start) / COUNT * 1e6)
    gc.enable()
    return {name: statistics.median(values) for name, values in seen.items()}


if __name__ == "__main__":
    main()
