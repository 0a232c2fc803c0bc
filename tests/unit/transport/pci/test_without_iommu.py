# SPDX-License-Identifier: Apache-2.0
"""`sysfs:`, `uio:`, `devmem:` and `pci:` on a /sys of plain files."""

from __future__ import annotations

import mmap
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.pci_tree import PciTree
from i2o.clock import ManualClock
from i2o.errors import IopDead, TransportUnavailable, UriError
from i2o.transport.child_process import module_environment
from i2o.transport.pci import backends
from i2o.transport.pci.backends import (
    DevmemBackend,
    PciBackend,
    Places,
    SysfsBackend,
    UioBackend,
)
from i2o.transport.pci.dma_memory import HUGE_PAGE, HugePageMemory
from i2o.transport.pci.function import PciFunction
from i2o.transport.pci.interrupt import UioInterrupt
from i2o.transport.pci.register_window import native_accessors
from i2o.transport.port import EMPTY, request_limits
from i2o.transport.uri import Uri

GIB = 1 << 30
needs_native = pytest.mark.skipif(
    native_accessors() is None, reason="there was no C compiler when i2o was installed"
)


@pytest.fixture
def tree(tmp_path) -> PciTree:
    return PciTree(tmp_path)


@pytest.fixture(autouse=True)
def _made_up_pages(monkeypatch) -> None:
    pages = iter(range(1000))

    def memory(size: int, backend: str) -> HugePageMemory:
        return HugePageMemory(
            size,
            backend,
            lambda _: GIB + next(pages) * HUGE_PAGE,
            lambda: mmap.mmap(-1, HUGE_PAGE),
        )

    monkeypatch.setattr(backends, "HugePageMemory", memory)


def open_port(backend, tree: PciTree, uri: str):
    return backend.from_uri(Uri.parse(uri), ManualClock(), Places(tree.sysfs, tree.dev))


def command(folder: Path) -> int:
    return (folder / "config").read_bytes()[4]


@needs_native
def test_sysfs(tree):
    folder = tree.add()
    with open_port(SysfsBackend, tree, "sysfs:3:0.0?dma=4M") as port:
        assert command(folder) == 0x06
        with open(folder / "resource0", "r+b", buffering=0) as bar:
            bar.seek(0x40)
            bar.write(b"\0\x10\0\0\xff\xff\xff\xff")
            assert port.alloc() == 0x1000
            assert port.reap() == EMPTY
            port.write(0x1000, b"abcdefgh")
            bar.seek(0x1000)
            assert bar.read(8) == b"abcdefgh"
        assert port.memory.allocate(8).bus_address == GIB
        assert port.next_deadline_ns() is not None
        assert (folder / "resource0").read_bytes()[0x34] == 0
    assert (folder / "resource0").read_bytes()[0x34] == 8  # masked at the end
    assert command(folder) == 0


@needs_native
def test_a_split_card_has_its_frames_in_the_second_bar(tree):
    folder = tree.add(device=0xA511, bars=((0x2000, 0x200), (0x4000, 0x200)))
    with open_port(SysfsBackend, tree, "sysfs:3:0.0") as port:
        port.write(0x3000, b"abcd")
        port.post(0x3000)
    assert (folder / "resource1").read_bytes()[0x3000:0x3004] == b"abcd"
    assert (folder / "resource0").read_bytes()[0x40:0x44] == b"\0\x30\0\0"


@needs_native
def test_large_bars_are_mapped_in_part(tree):
    tree.add(bars=((8 << 20, 0x200),))
    with open_port(SysfsBackend, tree, "sysfs:3:0.0") as port:
        assert port._frames.size == 4 << 20


@needs_native
def test_promise_cards_are_unlocked_while_they_are_used(tree):
    first = tree.add("0000:03:00.0", class_code=0x060400)
    tree.add("0000:03:00.1", vendor=0x8086, device=0x1960, subsystem=(0x105A, 1))
    (first / "config").write_bytes(b"\xaa" * 256)
    with open_port(SysfsBackend, tree, "sysfs:3:0.1") as port:
        assert request_limits(port) == (128, 0)
        assert (first / "config").read_bytes()[0x42:0x44] == b"\0\0"
    assert (first / "config").read_bytes()[0x42:0x44] == b"\xff\x03"


@needs_native
@pytest.mark.parametrize("number", [0, 1])
def test_a_promise_card_alone_in_its_slot_has_nothing_to_unlock(tree, number):
    folder = tree.add(f"0000:03:00.{number}", vendor=0x8086, device=0x1962, subsystem=(0x105A, 0))
    before = (folder / "config").read_bytes()[0x40:]
    with open_port(SysfsBackend, tree, f"sysfs:3:0.{number}"):
        assert (folder / "config").read_bytes()[0x40:] == before
    assert (folder / "config").read_bytes()[0x40:] == before


@needs_native
def test_reset_by_sysfs(tree):
    folder = tree.add()
    (folder / "reset").touch()
    with open_port(SysfsBackend, tree, "sysfs:3:0.0") as port:
        port.reset()
        assert (folder / "reset").read_text() == "1"
        assert command(folder) == 0x06
        (folder / "reset").unlink()
        (folder / "reset").mkdir()
        with pytest.raises(IopDead, match="bus mastering is off"):
            port.reset()
        assert command(folder) == 0x02


@needs_native
def test_an_iommu_in_between_is_noticed(tree):
    tree.add(group="14", group_type="DMA-FQ")
    with pytest.raises(TransportUnavailable, match=r"an IOMMU stands between.*\(use vfio:"):
        open_port(SysfsBackend, tree, "sysfs:3:0.0")


@needs_native
def test_no_backend_takes_a_card_from_its_driver(tree):
    tree.add(driver="dpt_i2o")
    for backend, scheme in (
        (SysfsBackend, "sysfs"),
        (DevmemBackend, "devmem"),
        (UioBackend, "uio"),
        (PciBackend, "pci"),
    ):
        with pytest.raises(TransportUnavailable, match="bound to the kernel driver 'dpt_i2o'"):
            open_port(backend, tree, f"{scheme}:3:0.0")


@needs_native
def test_a_bar_that_cannot_be_mapped(tree):
    folder = tree.add()
    (folder / "resource0").unlink()
    with pytest.raises(
        TransportUnavailable, match=r"resource0 cannot be mapped: No such file.*root"
    ):
        open_port(SysfsBackend, tree, "sysfs:3:0.0")
    assert command(folder) == 0
    (folder / "resource0").write_bytes(bytes(16))  # shorter than sysfs said
    with pytest.raises(TransportUnavailable, match="cannot be mapped"):
        open_port(SysfsBackend, tree, "sysfs:3:0.0")


@needs_native
def test_devmem_maps_the_bar_by_its_address(tree):
    tree.add()
    with open(tree.dev / "mem", "wb") as file:
        file.truncate(0xF002_0000)
        file.seek(0xF000_0040)
        file.write(b"\0\x10\0\0")
    with open_port(DevmemBackend, tree, "devmem:3:0.0") as port:
        assert port.alloc() == 0x1000
    (tree.dev / "mem").unlink()
    with pytest.raises(TransportUnavailable, match=r"mem cannot be mapped.*iomem=relaxed"):
        open_port(DevmemBackend, tree, "devmem:3:0.0")


@needs_native
def test_uio_interrupts(tree):
    folder = tree.add(driver="uio_pci_generic", uio="uio7")
    os.mkfifo(tree.dev / "uio7")
    with open(tree.dev / "uio7", "r+b", buffering=0) as line:
        config = bytearray((folder / "config").read_bytes())
        config[5] = 0x04
        (folder / "config").write_bytes(config)
        with open_port(UioBackend, tree, "uio:3:0.0") as port:
            assert (folder / "config").read_bytes()[5] == 0
            (folder / "config").write_bytes(config[:4] + b"\x06\x04" + config[6:])  # it came
            line.write(b"\1\0\0\0")
            port.mask_interrupt(False)
            assert port.wait(10)
            with open(folder / "resource0", "r+b", buffering=0) as bar:
                bar.seek(0x44)
                bar.write(b"\xff\xff\xff\xff")
            assert port.reap() == EMPTY
            assert (folder / "config").read_bytes()[5] == 0  # enabled again
            assert not port.wait(0.001)
            assert port.reap() == EMPTY


@needs_native
def test_uio_without_its_file(tree):
    folder = tree.add(driver="uio_pci_generic", uio="uio7")
    with pytest.raises(TransportUnavailable, match=r"uio7: No such file.*irq=off polls"):
        open_port(UioBackend, tree, "uio:3:0.0")
    assert command(folder) == 0
    with open_port(UioBackend, tree, "uio:3:0.0?irq=off") as port:
        assert "polling" in port.access


def test_uio_needs_a_uio_driver(tree):
    tree.add()
    with pytest.raises(TransportUnavailable, match=r"not bound to a UIO driver \(modprobe uio"):
        open_port(UioBackend, tree, "uio:3:0.0")


@needs_native
@pytest.mark.parametrize(
    ("driver", "name"), [("", "sysfs:3:0.0?dma=2M"), ("uio_pci_generic", "uio:3:0.0?dma=2M")]
)
def test_pci_takes_what_fits(tree, driver, name, caplog):
    tree.add(driver=driver, uio="uio7")
    os.mkfifo(tree.dev / "uio7")
    with (
        open(tree.dev / "uio7", "r+b", buffering=0),
        caplog.at_level("INFO"),
        open_port(PciBackend, tree, "pci:3:0.0?dma=2M") as port,
    ):
        assert port.name == name
    assert f"0000:03:00.0: by {name.partition(':')[0]}:, because" in caplog.text


def test_pci_takes_vfio_for_what_is_bound_to_it(tree):
    tree.add(driver="vfio-pci", group="14")
    with pytest.raises(TransportUnavailable, match=r"^vfio: .*dev/vfio/vfio"):
        open_port(PciBackend, tree, "pci:3:0.0")


def test_options_of_others_are_refused(tree):
    tree.add()
    with pytest.raises(UriError, match="sysfs: knows dma"):
        open_port(SysfsBackend, tree, "sysfs:3:0.0?irq=off")


PROGRAM = """
import sys
from pathlib import Path
from i2o.transport.pci.function import Enabled, PciFunction
from i2o.transport.pci.guard import Guard
function = PciFunction("sysfs", "0000:03:00.0", Path(sys.argv[1]))
guard = Guard(function)
enabled = Enabled(function, uses_interrupt=False)
print("up", flush=True)
sys.stdin.read()
enabled.close()
guard.dismiss()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_card_is_quiet_after_its_program_died(tree, killed):
    folder = tree.add()
    config = folder / "config"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tree.sysfs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=module_environment(),
    ) as program:
        assert program.stdout.readline() == b"up\n"
        assert command(folder) == 0x06
        guard = _child_of(program.pid)
        if killed:
            program.send_signal(signal.SIGKILL)
        program.communicate(b"")
        _wait_for_end(guard)
    assert config.read_bytes()[4] == (0x02 if killed else 0x00)


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _wait_for_end(pid: int) -> None:
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([watch], [], [], 30)[0]
    os.close(watch)


def test_an_interrupt_that_cannot_be_let_through_leaves_no_file_open(tree):
    folder = tree.add(driver="uio_pci_generic", uio="uio0")
    (tree.dev / "uio0").touch()
    (folder / "config").unlink()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(TransportUnavailable, match=r"cannot be let through.*irq=off polls"):
        UioInterrupt(PciFunction("uio", folder.name, tree.sysfs), tree.dev)
    assert os.listdir("/proc/self/fd") == before
