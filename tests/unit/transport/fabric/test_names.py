# SPDX-License-Identifier: Apache-2.0
"""Our names stand for libfabric's one to one, as the page says; the numbers are the headers'."""

from __future__ import annotations

import re
import subprocess
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

from i2o.transport.fabric.completion_queue import SoftwareCompletionQueue
from i2o.transport.fabric.connections import (
    SoftwareConnectionRequest,
    SoftwareEventQueue,
    SoftwareListener,
)
from i2o.transport.fabric.endpoint import EventKind
from i2o.transport.fabric.errors import FabricErrno, FabricError, meaning
from i2o.transport.fabric.flags import (
    ADDR_UNSPEC,
    Bind,
    Capability,
    CqFormat,
    EndpointType,
    Flag,
)
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint

PAGE = Path(__file__).resolve().parents[4] / "docs" / "endpoints.md"
HEADERS = Path("/usr/include/rdma/fabric.h")
ENUMS: tuple[type[IntEnum] | type[IntFlag], ...] = (
    Flag,
    Bind,
    Capability,
    EndpointType,
    CqFormat,
    FabricErrno,
)


def table() -> dict[str, list[str]]:
    """Return the rows of the last table: our names to libfabric's."""
    rows = {}
    for line in PAGE.read_text().partition("| here | libfabric |")[2].splitlines():
        cells = line.strip("| ").split(" | ")
        if len(cells) == 2 and "`" in cells[0]:
            for name in re.findall(r"`([^`]+)`", cells[0]):
                assert name not in rows, f"{name} is there twice"
                rows[name] = re.findall(r"`([^`]+)`", cells[1])
    return rows


def header_name(member: IntEnum | IntFlag) -> str:
    prefix = {EndpointType: "FI_EP_", CqFormat: "FI_CQ_FORMAT_"}.get(type(member), "FI_")
    return prefix + str(member.name)


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_every_constant_is_in_the_table(enum: type[IntEnum] | type[IntFlag]) -> None:
    rows = table()
    for member in enum:
        assert rows[f"{enum.__name__}.{member.name}"] == [header_name(member)]


@pytest.mark.parametrize(
    ("kind", "prefixes"),
    [
        (SoftwareEndpoint, ("endpoint",)),
        (SoftwareCompletionQueue, ("cq",)),
        (SoftwareEventQueue, ("events",)),
        (SoftwareListener, ("listener", "endpoint")),
        (SoftwareConnectionRequest, ("request",)),
    ],
)
def test_every_operation_is_in_the_table(kind: type, prefixes: tuple[str, ...]) -> None:
    rows = table()
    ours = {  # what the parts of the engine call, and what is no operation
        "attach", "detach", "push", "release", "when_room", "link_up", "link_greeted", "link_lost",
        "link_refused", "link_shut", "settle", "answered", "endpoint_for", "is_alive", "place_with",
    }  # fmt: skip
    public = {name for name in vars(kind) if not name.startswith("_")} - ours
    if kind is SoftwareListener:
        public -= {"events", "fileno"}
    for name in public:
        assert any(f"{prefix}.{name}" in rows for prefix in prefixes), name


def test_no_name_of_libfabric_stands_for_two_constants_of_one_kind() -> None:
    for enum in ENUMS:
        values = [int(member) for member in enum]
        assert len(set(values)) == len(values)


@pytest.mark.skipif(not HEADERS.exists(), reason="libfabric-dev is not installed")
def test_the_numbers_are_those_of_the_headers(tmp_path: Path) -> None:
    members = [member for enum in ENUMS for member in enum]
    source = tmp_path / "numbers.c"
    lines = "".join(
        f'printf("%llu\\n", (unsigned long long){header_name(member)});\n' for member in members
    )
    source.write_text(
        "#include <stdio.h>\n#include <rdma/fabric.h>\n#include <rdma/fi_domain.h>\n"
        "#include <rdma/fi_endpoint.h>\n#include <rdma/fi_errno.h>\n"
        "#ifndef FI_MATCH_COMPLETE\n#define FI_MATCH_COMPLETE (1ULL << 31)\n#endif\n"
        f"int main(void) {{\n{lines}"
        'printf("%llu\\n", (unsigned long long)FI_ADDR_UNSPEC);\nreturn 0;\n}\n'
    )
    program = tmp_path / "numbers"
    subprocess.run(["cc", "-o", program, source], check=True, timeout=60)
    run = subprocess.run([program], check=True, capture_output=True, text=True, timeout=60)
    theirs = list(map(int, run.stdout.split()))
    # an enumeration of signed numbers is extended by the cast
    assert theirs == [*map(int, members), ADDR_UNSPEC]


def test_errors_say_what_they_mean() -> None:
    assert meaning(11) == "Resource temporarily unavailable"
    for code in FabricErrno:
        assert meaning(code)
        assert FabricError(code, "why").errno == code
        assert "why" in str(FabricError(code, "why"))
    assert {kind.value for kind in EventKind} == {"CONNREQ", "CONNECTED", "SHUTDOWN", "ERROR"}


@pytest.mark.parametrize("code", [1 << 31, -(1 << 31) - 1, (1 << 64) - 1, 1 << 100, 999_999])
def test_errors_that_nobody_knows(code: int) -> None:
    assert meaning(code) == f"Unknown error {code}"
    assert FabricError(code, "why").errno == code
