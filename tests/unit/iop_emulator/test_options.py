# SPDX-License-Identifier: Apache-2.0
"""Options of `emu:` URIs."""

from __future__ import annotations

import pytest

from i2o.errors import LocalFrameError, TransportUnavailable, UriError
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.disk_image import DiskImage
from i2o.iop_emulator.options import DiskOptions, EmuOptions, IopOptions, parse_disk_size
from i2o.transport.uri import Uri


def options(query: str = "") -> EmuOptions:
    return EmuOptions.from_uri(Uri.parse(f"emu:?{query}" if query else "emu:"))


def test_defaults():
    plain = options()
    assert (plain.frames, plain.frame_size, plain.run, plain.disks) == (128, 512, "inline", ())
    assert plain.iop == IopOptions()
    assert plain.read_faults() is None
    (disk,) = plain.open_disks()
    assert isinstance(disk, MemoryDisk)
    assert disk.size == 16 << 20


def test_everything_at_once():
    given = options(
        "frames=7&frame_size=128&outbound_frames=9&iop_id=0x12&seed=5&run=thread"
        "&personality=generic&disk=a.img&disk=b%2Cc+d.img,ro,block_size=4K,removable,serial=S%2C1"
        "&disk=n.img,create=64M,class=scsi"
    )
    assert (given.frames, given.frame_size, given.seed, given.run) == (7, 128, 5, "thread")
    assert (given.iop.outbound_frames, given.iop.iop_id) == (9, 0x12)
    assert given.disks == (
        DiskOptions("a.img"),
        DiskOptions("b,c+d.img", True, 4096, True, "S,1"),
        DiskOptions("n.img", create=64 << 20, kind="scsi"),
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("disc=x", "unknown option 'disc'"),
        ("frames=0", "not between"),
        ("frames=x", "not an integer"),
        ("frame_size=63", "not between"),
        ("frame_size=66", "whole number of words"),
        ("frames=4000&frame_size=4096", "do not fit"),
        ("outbound_frames=0", "not between"),
        ("iop_id=4096", "not between"),
        ("personality=cray", "known are generic, dpt, promise"),
        ("disk=a,class=tape", "known are block, scsi"),
        ("run=fast", "known are inline, thread, process"),
        ("run=inline&run=thread", "given 2 times"),
        ("disk=", "needs a path"),
        ("disk=a%00b.img", "disk='a.x00b.img' contains a NUL"),
        ("disk=a,serial=%00", "contains a NUL"),
        ("faults=a%00b", "faults='a.x00b' contains a NUL"),
        ("disk=a,rw", "unknown part 'rw'"),
        ("disk=a,ro=1", "unknown part 'ro=1'"),
        ("disk=a,serial", "unknown part 'serial'"),
        ("disk=a,block_size=1000", "power of two"),
        ("disk=a,block_size=256", "power of two"),
        ("disk=a,block_size=128K", "power of two"),
        ("disk=a,serial=" + "x" * 65, "64 ASCII"),
        ("disk=a,serial=%C3%A4", "64 ASCII"),
        ("disk=a,create=100", "whole number of blocks"),
        ("disk=a,create=0", "whole number of blocks"),
        ("disk=a,create=1M,ro", "exclude one another"),
        ("disk=a,create=big", "no size"),
        ("disk=a,create=-1", "no size"),
        ("disk=a,create=99999999999T", "too large"),
        ("disk=a,create=" + "9" * 99, "too large"),
    ],
)
def test_options_that_make_no_sense(query, message):
    with pytest.raises(UriError, match=message):
        options(query)


def test_an_address_is_refused():
    with pytest.raises(UriError, match="emu:\\?OPTIONS"):
        EmuOptions.from_uri(Uri.parse("emu:disk.img"))


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("4k", 4096), ("64M", 64 << 20), ("2G", 2 << 30), ("1T", 1 << 40)],
)
def test_sizes(text, size):
    assert parse_disk_size(text, "x") == size


def test_disks_are_opened_or_none_is(tmp_path):
    good = tmp_path / "good.img"
    good.write_bytes(bytes(512))
    query = f"disk={good},ro&disk={tmp_path}/missing.img"
    with pytest.raises(TransportUnavailable, match="does not exist"):
        options(query).open_disks()
    (disk,) = options(f"disk={good}").open_disks()
    assert isinstance(disk, DiskImage)
    disk.close()


def test_fault_plans_are_read(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text("seed = 4")
    assert options(f"faults={plan}").read_faults().seed == 4
    assert options(f"faults={plan}&seed=6").read_faults().seed == 6
    plan.write_text("x = 4")
    with pytest.raises(UriError, match="unknown key 'x'"):
        options(f"faults={plan}").read_faults()


@pytest.mark.parametrize(
    "arguments",
    [
        {"iop_id": -1},
        {"iop_id": 0x1000},
        {"outbound_frames": 0},
        {"organization_id": 1 << 16},
        {"backlog": 0},
        {"product": "x" * 25},
        {"product": "ä"},
    ],
)
def test_iop_options_are_checked(arguments):
    with pytest.raises(LocalFrameError):
        IopOptions(**arguments)


def test_a_personality_says_what_the_iop_is():
    dpt = options("personality=dpt&disk=a.img&disk=b.img,class=block").iop
    assert (dpt.organization_id, dpt.product) == (0x001B, "ASR-2100S (software IOP)")
    assert (dpt.card.disk_kind, dpt.disk_kinds) == ("scsi", (None, "block"))
    promise = options("personality=promise").iop.card
    assert (promise.pci, promise.max_sectors) == ((0x8086, 0x1962, 0x105A, 0), 128)
