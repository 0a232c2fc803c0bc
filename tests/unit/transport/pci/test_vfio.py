# SPDX-License-Identifier: Apache-2.0
"""`vfio:` against a kernel made of Python: order of the ioctls, what is given back, refusals."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from fakes.pci_tree import PciTree
from fakes.vfio_kernel import REGION_OFFSET, VfioKernel
from i2o.clock import ManualClock
from i2o.errors import IopDead, TransportUnavailable, UriError
from i2o.transport.pci import backends
from i2o.transport.pci.backends import Places, VfioBackend
from i2o.transport.pci.dma_memory import IOVA
from i2o.transport.pci.function import PciFunction
from i2o.transport.pci.vfio import VfioDevice
from i2o.transport.port import EMPTY
from i2o.transport.uri import Uri

URI = "vfio:03:00.0"


@pytest.fixture
def tree(tmp_path) -> PciTree:
    tree = PciTree(tmp_path)
    (tree.dev / "vfio/vfio").touch()
    return tree


@pytest.fixture
def kernel() -> Iterator[VfioKernel]:
    kernel = VfioKernel()
    yield kernel
    kernel.close()


@pytest.fixture(autouse=True)
def _no_real_kernel(kernel, monkeypatch) -> None:
    class Device(VfioDevice):
        def __init__(self, function: PciFunction, dev) -> None:
            super().__init__(function, dev, kernel.ioctl)

    monkeypatch.setattr(backends, "VfioDevice", Device)


def bind(tree: PciTree, **what) -> None:
    tree.add(**{"driver": "vfio-pci", "group": "14", **what})


def open_port(tree: PciTree, uri: str = URI):
    return VfioBackend.from_uri(Uri.parse(uri), ManualClock(), Places(tree.sysfs, tree.dev))


def test_a_card_is_opened_and_given_back(tree, kernel):
    bind(tree)
    before = len(os.listdir("/proc/self/fd"))
    with open_port(tree) as port:
        assert kernel.calls[:5] == [0, 3, 4, 2, 6]
        assert kernel.config(4, 2) == b"\x06\x00"
        assert kernel.maps[IOVA][1] == 16 << 20
        buffer = port.memory.allocate(8)
        buffer.view[:] = b"for them"
        assert kernel.memory(buffer.bus_address, 8) == b"for them"
        assert port.memory.map(memoryview(bytearray(4096))) is None
        assert port.inbound_size == 0x20000
        assert "MSI" in port.access
    assert kernel.config(4, 2) == b"\0\0"
    assert not kernel.maps
    assert kernel.irqs[-1] == (1, 0x21, 0, b"")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("access", ["map", "file"])
def test_ports_and_frames(tree, kernel, access):
    bind(tree)
    with open_port(tree, f"{URI}?access={access}") as port:
        os.pwrite(kernel.device, struct.pack("<II", 0x1000, EMPTY), REGION_OFFSET + 0x40)
        assert port.alloc() == 0x1000
        assert port.reap() == EMPTY
        port.write(0x1000, b"frame of words..")
        assert port.read_inbound(0x1000, 16) == b"frame of words.."
        assert os.pread(kernel.device, 16, REGION_OFFSET + 0x1000) == b"frame of words.."
        port.post(0x1000)
        port.release(0x12345678)
        assert os.pread(kernel.device, 8, REGION_OFFSET + 0x40) == struct.pack(
            "<II", 0x1000, 0x12345678
        )


def test_msi_is_preferred_and_intx_is_unmasked_each_time(tree, kernel):
    bind(tree)
    kernel.msi = 0
    with open_port(tree) as port:
        index, flags, count, data = kernel.irqs[0]
        assert (index, flags, count) == (0, 0x24, 1)
        (bell,) = struct.unpack("<i", data)
        assert port.fileno() == bell
        os.pwrite(kernel.device, struct.pack("<I", EMPTY), REGION_OFFSET + 0x44)
        assert port.reap() == EMPTY
        assert len(kernel.irqs) == 1  # it has not come
        port.mask_interrupt(False)
        assert not port.wait(0.001)
        os.eventfd_write(bell, 1)
        assert port.wait(10)
        assert port.reap() == EMPTY
        assert kernel.irqs[1:] == [(0, 0x11, 1, b"")]
        assert not port.wait(0.001)


def test_polling(tree, kernel):
    bind(tree)
    with open_port(tree, f"{URI}?irq=off") as port:
        assert not kernel.irqs
        assert "polling" in port.access
        port.mask_interrupt(False)
        assert os.pread(kernel.device, 1, REGION_OFFSET + 0x34) == b"\x08"  # masked all the same
        before = port._clock.monotonic()
        assert not port.wait(0.0005)
        assert port.wait(10)  # it may have done something
        assert port._clock.monotonic() - before == pytest.approx(0.0015)
        os.pwrite(kernel.device, b"\x08", REGION_OFFSET + 0x30)
        assert port.wait(0)
        assert port.next_deadline_ns() == port._clock.monotonic_ns() + 1_000_000
        assert os.path.exists(f"/proc/self/fd/{port.fileno()}")


def test_reset(tree, kernel):
    bind(tree)
    with open_port(tree) as port:
        port.reset()
        assert kernel.resets == 1
        kernel.refuse[11] = errno.EINVAL
        with pytest.raises(IopDead, match="no reset but its own"):
            port.reset()


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (2, errno.EPERM, "the IOMMU cannot be used"),
        (4, errno.EINVAL, "the IOMMU cannot be used"),
        (6, errno.ENODEV, "cannot be opened: No such device"),
        (13, errno.ENOMEM, "16 MiB cannot be mapped for the device.*ulimit -l"),
        (10, errno.EINVAL, "MSI cannot be set up"),
    ],
)
def test_a_step_that_fails_leaves_nothing_behind(tree, kernel, number, code, words):
    bind(tree)
    kernel.refuse[number] = code
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TransportUnavailable, match=words):
        open_port(tree)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not kernel.maps
    assert kernel.config(4, 2) == b"\0\0"


def test_a_kernel_of_another_version(tree, kernel):
    bind(tree)
    kernel.api = 1
    with pytest.raises(TransportUnavailable, match="another version of VFIO"):
        open_port(tree)


def test_a_group_that_is_not_free(tree, kernel):
    bind(tree)
    tree.add("0000:03:00.1", group="14")
    kernel.viable = False
    with pytest.raises(
        TransportUnavailable, match=r"group 14 is not free \(bind its other devices \(0000:03:00\.1"
    ):
        open_port(tree)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"driver": ""}, r"not bound to vfio-pci \(modprobe vfio-pci; echo vfio-pci >"),
        ({"driver": "dpt_i2o"}, "bound to the kernel driver 'dpt_i2o'"),
        ({"group": ""}, "in no IOMMU group"),
        ({"class_code": 0x010400, "device": 1}, "no I2O controller"),
        ({"bars": ((0x800, 0x200),)}, "BAR 0 of .* has 0x800 bytes; a message unit has 0x1040"),
        ({"bars": ((0x800, 0x101),)}, "has 0 memory BARs"),
        ({"device": 0xA511}, "has 1 memory BARs, 2 are needed"),
    ],
)
def test_what_cannot_be_opened(tree, what, words):
    bind(tree, **what)
    with pytest.raises(TransportUnavailable, match=words):
        open_port(tree)


def test_device_files_that_are_not_there(tree):
    bind(tree)
    (tree.dev / "vfio/14").unlink()
    with pytest.raises(TransportUnavailable, match=r"vfio/14: No such file.*modprobe vfio-pci"):
        open_port(tree)
    (tree.dev / "vfio/14").mkdir()
    with pytest.raises(TransportUnavailable, match="vfio/14: Is a directory"):
        open_port(tree)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("irq=maybe", "irq='maybe': expected auto or off"),
        ("access=dma", "expected map or file"),
        ("dma=3", "dma=3 is not from 1M"),
        ("dma=2G", "dma=2G is not from 1M"),
        ("dma=x", "dma=x is not from 1M"),
        ("colour=red", "unknown option 'colour'"),
    ],
)
def test_options_that_make_no_sense(tree, options, words):
    bind(tree)
    with pytest.raises(UriError, match=words):
        open_port(tree, f"{URI}?{options}")


def test_a_card_whose_frames_lie_outside_its_bar_is_not_believed(tree, kernel):
    from i2o.errors import RemoteFrameError

    bind(tree)
    with open_port(tree) as port:
        for mfa in (0x1002, 0x20000 - 60, 0xFFFFFFFC):
            os.pwrite(kernel.device, struct.pack("<I", mfa), REGION_OFFSET + 0x40)
            with pytest.raises(RemoteFrameError, match="not in its BAR of 0x20000 bytes"):
                port.alloc()
