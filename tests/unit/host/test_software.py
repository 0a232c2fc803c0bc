# SPDX-License-Identifier: Apache-2.0
"""Software of an IOP, host side: fragments, sizes that are believed, reasons that are told."""

from __future__ import annotations

import hashlib
import random

import pytest

import i2o
from fakes.opened_iop import soft
from i2o.errors import InvalidArgument, ParameterError, RemoteFrameError, RequestFailed
from i2o.frames.executive_groups import EXEC_DRIVER_STORE_TABLE, EXEC_EXECUTING_DDM_TABLE
from i2o.frames.functions import Function
from i2o.frames.header import DetailedStatus
from i2o.frames.tables import MODULE_HEADER
from i2o.software import (
    FRAGMENT_SIZE,
    MAX_SIZE,
    ModuleId,
    StoredModule,
    name_in_header,
    type_name,
)

DDM = ModuleId(0x01, 0x1B, 7)
TABLE = ModuleId(0x03, 0x1B, 7)
HEADER = MODULE_HEADER.build(
    header_size=72,
    org_id=0x1B,
    module_id=7,
    module_version=b"\x02\x01\0\0",
    module_info=b"disk driver".ljust(24),
)


@pytest.fixture
def iop():
    with i2o.open("emu:") as opened:
        yield opened


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


class Watched:
    """Keeps the requests of one function that reach the executive."""

    def __init__(self, iop: i2o.Iop, function: Function) -> None:
        self.seen: list[bytes] = []
        self._executive = soft(iop).lct.devices[0]
        self._function = int(function)
        original = self._executive.dispatch[self._function]

        def serve(request):
            self.seen.append(bytes(request.frame))
            return original(request)

        self._executive.dispatch[self._function] = serve


def tamper_table(iop: i2o.Iop, group, change) -> None:
    """Have rows of a table changed before the IOP shows them; None: it has no such table."""
    groups = soft(iop).lct.devices[0].parameters._groups
    if change is None:
        del groups[group.number]
        return
    table = groups[group.number]
    rows = table._rows
    table._rows = lambda: [{**row, **change} for row in rows()]


@pytest.mark.parametrize(
    "size", [1, FRAGMENT_SIZE - 1, FRAGMENT_SIZE, FRAGMENT_SIZE + 1, 3 * FRAGMENT_SIZE, 100_001]
)
def test_round_trip_of_any_size(iop, size):
    data = content(size)
    iop.software.download(DDM, data)
    assert iop.software.upload(DDM) == data
    assert iop.software.upload(DDM, size) == data


def test_the_largest_module(iop):
    data = content(MAX_SIZE)
    iop.software.download(TABLE, data, permanent=True)
    assert hashlib.sha256(iop.software.upload(TABLE)).digest() == hashlib.sha256(data).digest()


def test_the_fragments_are_numbered_and_the_whole_size_is_in_each(iop):
    watched = Watched(iop, Function.EXEC_SW_DOWNLOAD)
    iop.software.download(DDM, content(2 * FRAGMENT_SIZE + 5), permanent=True, override=True)
    heads = [frame[16:28] for frame in watched.seen]
    tail = bytes([0x01, 0x03]) + (2 * FRAGMENT_SIZE + 5).to_bytes(4, "little")
    tail += (7).to_bytes(2, "little") + (0x1B).to_bytes(2, "little")
    assert heads == [bytes([number, 3]) + tail for number in (1, 2, 3)]
    lengths = [int.from_bytes(frame[28:31], "little") for frame in watched.seen]
    assert lengths == [FRAGMENT_SIZE, FRAGMENT_SIZE, 5]


def test_progress_both_ways(iop):
    for move in (
        lambda report: iop.software.download(DDM, content(20_000), progress=report),
        lambda report: iop.software.upload(DDM, progress=report),
    ):
        told = []
        move(lambda done, total, told=told: told.append((done, total)))
        assert told == [(8192, 20_000), (16_384, 20_000), (20_000, 20_000)]


def test_list_and_space(iop):
    assert iop.software.modules() == ()
    iop.software.download(DDM, HEADER + content(100), permanent=True)
    iop.software.download(ModuleId(0x11, 0x28, 1), content(5))
    first, second = iop.software.modules()
    assert first == StoredModule(
        index=0, organization_id=0x1B, module_id=7, name="disk driver", version=0x102, size=172,
        flags=1, tid=first.tid,
    )  # fmt: skip
    assert (second.size, second.flags, second.tid) == (5, 0, None)
    iop.refresh()
    assert iop.device(first.tid).class_name == "ddm"
    space = iop.software.space()
    assert (space.module_count, space.current_space) == (2, 177)


def test_remove(iop):
    iop.software.download(DDM, content(10))
    iop.software.remove(DDM)
    assert iop.software.modules() == ()
    with pytest.raises(RequestFailed, match="SwRemove of ddm 001b:0007") as refused:
        iop.software.remove(DDM)
    assert refused.value.detail == DetailedStatus.INVALID_PARAMETER


def test_the_reason_of_a_refusal_and_override(iop):
    iop.software.download(DDM, content(10))
    with pytest.raises(RequestFailed, match=r"ddm 001b:0007, fragment 1 of 1: .*DEVICE_BUSY"):
        iop.software.download(DDM, content(11))
    iop.software.download(DDM, content(12), override=True)
    assert iop.software.upload(DDM) == content(12)


def test_a_fragment_that_fails_ends_it(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[[fault]]\non = "EXEC_SW_DOWNLOAD"\nafter = 1\ntimes = 1\n'
        'action = "status"\nreq_status = 5\n'
        '[[fault]]\non = "EXEC_SW_UPLOAD"\nafter = 1\naction = "fail"\n'
    )
    with i2o.open(f"emu:?faults={plan}") as iop:
        with pytest.raises(RequestFailed, match=r"SwDownload .*fragment 2 of 3"):
            iop.software.download(DDM, content(20_000))
        assert iop.software.modules() == ()
        iop.software.download(DDM, content(8_000))
        with pytest.raises(InvalidArgument, match="1 to 2088960"):
            iop.software.upload(DDM, MAX_SIZE + 1)
        assert iop.software.upload(DDM) == content(8_000)
        with pytest.raises(RequestFailed, match=r"SwUpload .*fragment 1 of 2: FAIL frame"):
            iop.software.upload(DDM, 9_000)
        assert iop.requester.in_flight == 0


@pytest.mark.parametrize("size", [0, MAX_SIZE + 1])
def test_impossible_sizes_are_not_sent(iop, size):
    watched = Watched(iop, Function.EXEC_SW_DOWNLOAD)
    with pytest.raises(InvalidArgument, match=f"of {size} bytes: expected 1 to 2088960"):
        iop.software.download(DDM, bytes(size))
    assert watched.seen == []


@pytest.mark.parametrize("size", [0, MAX_SIZE + 1, 0xFFFF_FFFF])
def test_a_hostile_size_in_the_table_is_not_believed(iop, size):
    iop.software.download(DDM, content(10))
    tamper_table(iop, EXEC_DRIVER_STORE_TABLE, {"module_size": size})
    watched = Watched(iop, Function.EXEC_SW_UPLOAD)
    with pytest.raises(RemoteFrameError, match=f"says it has {size} bytes"):
        iop.software.upload(DDM)
    assert watched.seen == []


def test_what_is_not_stored_and_what_is_ambiguous(iop):
    with pytest.raises(InvalidArgument, match="001b:0007 is not stored; there are none"):
        iop.software.upload(DDM)
    iop.software.download(DDM, content(10))
    with pytest.raises(InvalidArgument, match="0002:0002 is not stored; there are 001b:0007"):
        iop.software.upload(ModuleId(1, 2, 2))
    iop.software.download(TABLE, content(10))
    assert iop.software.size_of(TABLE) == 10
    iop.software.download(TABLE, content(11), override=True)
    with pytest.raises(InvalidArgument, match="modules of 10, 11 bytes"):
        iop.software.upload(TABLE)
    assert iop.software.upload(TABLE, 11) == content(11)


def test_an_iop_without_tables(iop):
    iop.software.download(DDM, content(10))
    tamper_table(iop, EXEC_EXECUTING_DDM_TABLE, None)
    (module,) = iop.software.modules()
    assert (module.size, module.tid) == (10, None)
    tamper_table(iop, EXEC_DRIVER_STORE_TABLE, None)
    with pytest.raises(ParameterError, match="driver_store_table"):
        iop.software.modules()
    assert iop.software.upload(DDM, 10) == content(10)


def test_permanent_modules_outlive_power_and_process(tmp_path):
    digest = hashlib.sha256(content(30_000)).digest()
    uri = f"emu:?store={tmp_path}/store"
    with i2o.open(uri) as iop:
        iop.software.download(DDM, content(30_000), permanent=True)
        iop.software.download(TABLE, content(30))
        iop.revive()
        assert [module.size for module in iop.software.modules()] == [30_000]
        iop.layer.port(iop.number).reset()  # its power is cycled
        iop.revive()
        assert hashlib.sha256(iop.software.upload(DDM)).digest() == digest
    with i2o.open(uri + "&run=process") as iop:
        assert hashlib.sha256(iop.software.upload(DDM)).digest() == digest
        iop.software.remove(DDM)
    assert list((tmp_path / "store").iterdir()) == []


def test_the_name_in_a_header():
    assert name_in_header(HEADER) == (0x1B, 7)
    assert name_in_header(HEADER + b"code") == (0x1B, 7)
    assert name_in_header(HEADER[:-1]) is None
    for wrong in (
        {"header_size": 71},
        {"header_size": 73},
        {"table_offset": 73},
        {"code_size": 73},
    ):
        fields = {"header_size": 72, "org_id": 1, "module_id": 1, **wrong}
        assert name_in_header(MODULE_HEADER.build(**fields)) is None
    assert type_name(0x22) == "iop_private_module"
    assert type_name(0x99) == "type 0x99"
