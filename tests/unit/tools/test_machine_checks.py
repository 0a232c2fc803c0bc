# SPDX-License-Identifier: Apache-2.0
"""Checks of machines that are made up: folders in place of /sys, /proc and /dev."""

from __future__ import annotations

import gzip
import os
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint, PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.pci_tree import PciTree
from i2o._version import __version__
from i2o.errors import IopDead, RequestTimeout, TransportUnavailable
from i2o.tools import extcap_setup
from i2o.tools.checks import (
    kernel_checks,
    pci_checks,
    port_checks,
    program_checks,
    python_checks,
    serial_checks,
    system_checks,
    wireshark_checks,
)
from i2o.tools.checks.finding import Check, Finding, Level, note, ok, problem, run_checks
from i2o.tools.checks.machine import Machine
from i2o.transport.ofi.library import load as load_libfabric
from i2o.transport.registry import ENTRY_POINT_GROUP, own_schemes

ROOT = Path(__file__).resolve().parents[3]
VERSIONS = {"cffi": "1.17.1", "construct": "2.10.70", "matplotlib": "3.10.0.dev1+g12"}
CARD = "0000:02:01.0"


def version_of(name: str) -> str:
    try:
        return VERSIONS[name]
    except KeyError:
        raise PackageNotFoundError(name) from None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    root = tmp_path / "root"
    root.mkdir()
    return Machine(
        root=root,
        environment={},
        platform="linux",
        python=(3, 12, 1),
        encodings={"output": "UTF-8"},
        version_of=version_of,
        load=lambda name: None,
        ports=tuple,
        wireshark_places=lambda: (tmp_path / "i2o-extcap", tmp_path / "i2o.lua"),
        temporary_folder=lambda: str(tmp_path),
        free_bytes=lambda folder: 1 << 30,
    )


@pytest.fixture
def put(machine: Machine) -> Callable[[str, str | bytes], Path]:
    def write(path: str, content: str | bytes = "") -> Path:
        target = machine.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        return target

    return write


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Forbid a path to this user, who may be root."""
    forbidden: set[str] = set()
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: str(path) not in forbidden and real(path, mode)
    )
    return lambda path: forbidden.add(str(path))


def look(checks: Iterable[Check[Machine]], machine: Machine, name: str = "") -> list[Finding]:
    """Run the checks, or the one of a name."""
    found = [one for one in run_checks("area", checks, machine) if name in ("", one.check)]
    assert all(one.finding.remedy or one.finding.level != Level.PROBLEM for one in found)
    return [one.finding for one in found]


def the_one(checks: Iterable[Check[Machine]], machine: Machine, name: str = "") -> Finding:
    (finding,) = look(checks, machine, name)
    return finding


# --- running checks ------------------------------------------------------------------------------


def test_a_check_that_raises_is_a_finding_and_stops_nobody():
    def raises(subject):
        yield ok("first")
        raise RuntimeError(f"bad \x1b {subject}")

    results = list(run_checks("here", [Check("a", raises), Check("b", lambda _: [ok("b")])], 7))
    assert [(one.check, one.finding.level) for one in results] == [
        ("a", Level.OK),
        ("a", Level.PROBLEM),
        ("b", Level.OK),
    ]
    assert "RuntimeError: bad ? 7" in results[1].finding.text
    assert results[2].record == {
        "area": "here", "check": "b", "level": "ok", "text": "b", "remedy": None,
    }  # fmt: skip
    assert Finding(Level.NOTE, "x", "y") == note("x", "y")
    assert problem("x", "y").level == Level.PROBLEM


@pytest.mark.parametrize("error", [IopDead("gone"), RequestTimeout("no reply")])
def test_an_iop_that_does_not_answer_is_asked_no_more(error):
    asked = []

    def dies(subject):
        raise error

    def asks(subject):
        asked.append(subject)
        return []

    checks = [Check("dies", dies), Check("two", asks), Check("three", asks)]
    first, second = run_checks("here", checks, 7)
    assert first.finding.level == Level.PROBLEM
    assert second.finding.text == "not looked at for that reason: two, three"
    assert asked == []
    assert len(list(run_checks("here", [Check("dies", dies)], 7))) == 1


# --- Python --------------------------------------------------------------------------------------


def test_python(machine):
    assert (
        the_one(python_checks.CHECKS, machine, "python").text == f"Python 3.12.1, i2o {__version__}"
    )
    old = the_one(python_checks.CHECKS, replace(machine, python=(3, 10, 9)), "python")
    assert old == problem("Python 3.10.9 is too old", "use Python 3.11 or newer")
    _, system = look(python_checks.CHECKS, replace(machine, platform="win32"), "python")
    assert system.text == "win32 is not supported"


def test_the_packages_are_those_that_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    remedies = {one.remedy for one in python_checks.DEPENDENCIES}
    assert remedies == {f"pip install '{declared}'" for declared in project["dependencies"]}
    for extra in python_checks.EXTRAS:
        (declared,) = project["optional-dependencies"][extra.extra]
        assert declared == f"{extra.name}>={'.'.join(map(str, extra.low))}"
        assert extra.remedy == f"pip install '.[{extra.extra}]' in a clone of the project"
    lowest = re.search(r"[\d.]+", project["requires-python"])[0]
    assert lowest == ".".join(map(str, python_checks.LOWEST_PYTHON))


def test_packages_and_extras(machine):
    assert look(python_checks.CHECKS, machine, "packages") == [
        ok("cffi 1.17.1"),
        ok("construct 2.10.70"),
    ]
    usb, serial, plot = look(python_checks.CHECKS, machine, "extras")
    assert (usb.level, serial.level) == (Level.NOTE, Level.NOTE)
    assert "only devices on USB" in usb.text
    assert plot == ok("matplotlib 3.10.0.dev1+g12")


@pytest.mark.parametrize("version", ["2.10.69", "2.11", "2.11.1", "unknown"])
def test_a_wrong_version(machine, version):
    other = replace(machine, version_of=lambda name: version if name == "construct" else "9")
    _, found = look(python_checks.CHECKS, other, "packages")
    assert found.text == f"construct {version} is the wrong version"
    assert found.remedy == "pip install 'construct>=2.10.70,<2.11'"


def test_a_missing_package_and_a_broken_one(machine):
    def absent(name):
        raise PackageNotFoundError(name)

    found = look(python_checks.CHECKS, replace(machine, version_of=absent), "packages")
    assert [one.text for one in found] == ["cffi is not installed", "construct is not installed"]

    def broken(name):
        raise OSError("libffi.so.8 is missing")

    found = look(python_checks.CHECKS, replace(machine, load=broken), "packages")
    assert found[0].text == "cffi 1.17.1 does not import: OSError: libffi.so.8 is missing"


# --- ports ---------------------------------------------------------------------------------------


def test_ports_of_others(machine):
    points = [
        EntryPoint("good", "i2o.iop_emulator.emu_port:EmuPort", ENTRY_POINT_GROUP),
        EntryPoint("good", "another:Port", ENTRY_POINT_GROUP),
        EntryPoint("emu", "another:Port", ENTRY_POINT_GROUP),
        EntryPoint("gone", "no_such_module_of_i2o:Port", ENTRY_POINT_GROUP),
        EntryPoint("wrong", "pathlib:Path", ENTRY_POINT_GROUP),
        EntryPoint("a-b", "pathlib:Path", ENTRY_POINT_GROUP),
    ]
    own, *found = look(port_checks.CHECKS, replace(machine, ports=lambda: points))
    assert own.text == f"our own: {', '.join(own_schemes())}"
    assert [one.level.value for one in found] == [
        "ok", "note", "note", "problem", "problem", "problem",
    ]  # fmt: skip
    texts = [one.text for one in found]
    assert texts[0] == "good: of i2o.iop_emulator.emu_port:EmuPort"
    assert "emu: of another:Port is never used" in texts[2]
    assert "does not load: ModuleNotFoundError" in texts[3]
    assert "pathlib:Path has no from_uri" in texts[4]
    assert "'a-b'" in texts[5]


def test_a_port_is_named_after_its_distribution(machine):
    class Distribution:
        name = "i2o-nubus"

    class Point:
        name, value, dist = "nubus", "nubus:Port", Distribution

        def load(self):
            raise SyntaxError("bad")

    _, found = look(port_checks.CHECKS, replace(machine, ports=lambda: [Point()]))
    assert found == problem(
        "nubus: of i2o-nubus does not load: SyntaxError: bad", "reinstall i2o-nubus"
    )


# --- Wireshark -----------------------------------------------------------------------------------


def test_no_wireshark(machine):
    def absent():
        raise TransportUnavailable("wireshark", "not installed")

    found = the_one(wireshark_checks.CHECKS, replace(machine, wireshark_places=absent))
    assert found.level == Level.NOTE


def test_what_extcap_installs_is_found(machine, tmp_path):
    _, script, launcher = look(wireshark_checks.CHECKS, machine)
    assert (script.level, launcher.level) == (Level.NOTE, Level.NOTE)
    assert script.remedy == launcher.remedy == "i2o extcap --install"
    extcap_setup.install(str(tmp_path), str(tmp_path))
    assert [one.level for one in look(wireshark_checks.CHECKS, machine)] == [Level.OK] * 3


def test_a_dissector_of_another_version_and_a_launcher_that_does_not_run(machine, tmp_path, forbid):
    extcap_setup.install(str(tmp_path), str(tmp_path))
    script, launcher = tmp_path / "i2o.lua", tmp_path / "i2o-extcap"
    script.write_text(
        script.read_text().replace(f"Written by i2o {__version__}:", "Written by i2o 0.0.9:")
    )
    forbid(launcher)
    _, old, forbidden = look(wireshark_checks.CHECKS, machine)
    assert old.text == f"the dissector is that of i2o 0.0.9, not {__version__}"
    assert "cannot be executed" in forbidden.text
    script.write_text("-- mine")
    assert "was not written by i2o" in look(wireshark_checks.CHECKS, machine)[1].text
    script.unlink()
    script.mkdir()
    assert "cannot be read" in look(wireshark_checks.CHECKS, machine)[1].text


# --- the system ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "level"),
    [("utf8", Level.OK), ("ANSI_X3.4-1968", Level.NOTE), ("none", Level.NOTE)],
)
def test_encodings(machine, encoding, level):
    other = replace(machine, encodings={"output": encoding})
    found = the_one(system_checks.CHECKS, other, "encoding")
    assert found.level == level
    assert encoding in found.text


def test_folders(machine, tmp_path, forbid):
    before = os.listdir(tmp_path)
    assert "1 GiB free" in the_one(system_checks.CHECKS, machine, "folders").text
    assert os.listdir(tmp_path) == before
    full = replace(machine, free_bytes=lambda folder: 4096)
    assert the_one(system_checks.CHECKS, full, "folders").text.endswith("has only 4 KiB free")
    absent = replace(machine, temporary_folder=lambda: str(tmp_path / "absent"))
    assert the_one(system_checks.CHECKS, absent, "folders").level == Level.PROBLEM

    def no_folder():
        raise FileNotFoundError("No usable temporary directory found")

    found = the_one(system_checks.CHECKS, replace(machine, temporary_folder=no_folder), "folders")
    assert "No usable temporary directory" in found.text
    environment = {
        "XDG_RUNTIME_DIR": "/nowhere/at/all",
        "XDG_CACHE_HOME": str(tmp_path),
        "TMPDIR": "/proc",
    }
    _, tmpdir, xdg = look(
        system_checks.CHECKS, replace(machine, environment=environment), "folders"
    )
    assert tmpdir.text == "TMPDIR=/proc cannot be used"
    right = replace(machine, environment={"TMPDIR": f"{tmp_path}/"})
    assert the_one(system_checks.CHECKS, right, "folders").level == Level.OK
    assert xdg.text == "XDG_RUNTIME_DIR=/nowhere/at/all cannot be written"


def test_memory(machine, put, forbid, monkeypatch):
    assert "unknown" in the_one(system_checks.CHECKS, machine, "memory").text
    put("/proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    4194304 kB\n")
    assert the_one(system_checks.CHECKS, machine, "memory").text.startswith("4 GiB available")
    put("/proc/meminfo", "MemAvailable: 1024 kB\n")
    assert the_one(system_checks.CHECKS, machine, "memory").remedy == "close other programs"
    put("/dev/shm/x")
    assert len(look(system_checks.CHECKS, machine, "memory")) == 1
    forbid(machine.path("/dev/shm"))
    assert look(system_checks.CHECKS, machine, "memory")[1].text == "/dev/shm cannot be written"

    def refused(name, flags):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refused)
    assert "Operation not permitted" in the_one(system_checks.CHECKS, machine, "memory").text


def test_rings(machine):
    missing = the_one(system_checks.CHECKS, replace(machine, load=_no_module), "rings")
    assert "a system call for each message" in missing.text
    old = the_one(
        system_checks.CHECKS, replace(machine, load=lambda name: SimpleNamespace()), "rings"
    )
    assert old == missing
    lib = SimpleNamespace(i2o_ring_open=None)
    there = replace(machine, load=lambda name: SimpleNamespace(lib=lib))
    assert "over rings" in the_one(system_checks.CHECKS, there, "rings").text


def _no_module(name: str) -> object:
    raise ImportError(name)


# --- the kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[none] integrity confidentiality\n", ok("lockdown is off")),
        ("?", ok("lockdown is off")),
        (None, ok("no lockdown is to be seen")),
    ],
)
def test_no_lockdown(machine, put, text, expected):
    if text is not None:
        put("/sys/kernel/security/lockdown", text)
    assert the_one(kernel_checks.CHECKS, machine, "lockdown") == expected


def test_lockdown(machine, put):
    put("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    found = the_one(kernel_checks.CHECKS, machine, "lockdown")
    assert (found.level, "(integrity)" in found.text) == (Level.NOTE, True)


STRICT, IO_STRICT = "CONFIG_STRICT_DEVMEM=y\n", "CONFIG_IO_STRICT_DEVMEM=y\n"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("# CONFIG_STRICT_DEVMEM is not set\n", "/dev/mem is not restricted"),
        (STRICT, "STRICT_DEVMEM: /dev/mem shows BARs"),
        (STRICT + IO_STRICT, "IO_STRICT_DEVMEM: /dev/mem does not"),
    ],
)
def test_dev_mem(machine, put, packed, config, text):
    put("/dev/mem")
    if packed:
        put("/proc/config.gz", gzip.compress(config.encode()))
    else:
        put("/proc/sys/kernel/osrelease", "6.1.0-x\n")
        put("/boot/config-6.1.0-x", config)
    assert the_one(kernel_checks.CHECKS, machine, "/dev/mem").text.startswith(text)


def test_dev_mem_without_a_configuration(machine, put):
    assert "no /dev/mem" in the_one(kernel_checks.CHECKS, machine, "/dev/mem").text
    put("/dev/mem")
    for path, content in (
        ("/proc/uptime", ""),
        ("/proc/sys/kernel/osrelease", "6.1.0-x\n"),
        ("/proc/config.gz", b"no gzip"),
    ):
        put(path, content)
        found = the_one(kernel_checks.CHECKS, machine, "/dev/mem")
        assert (found.level, "cannot be seen" in found.text) == (Level.NOTE, True)


def test_iommu(machine, put):
    assert the_one(kernel_checks.CHECKS, machine, "iommu").text.startswith("no IOMMU")
    put("/sys/class/iommu/dmar0")
    assert "no groups" in the_one(kernel_checks.CHECKS, machine, "iommu").text
    for number in range(3):
        put(f"/sys/kernel/iommu_groups/{number}/type")
        put(f"/sys/class/iommu/dmar{number}")
    assert the_one(kernel_checks.CHECKS, machine, "iommu") == ok(
        "IOMMU on: dmar0, dmar1, dmar2, 3 groups"
    )
    put("/sys/class/iommu/dmar3")
    put("/sys/class/iommu/dmar4")
    assert "dmar3 …, 3 groups" in the_one(kernel_checks.CHECKS, machine, "iommu").text


def test_vfio(machine, put, forbid):
    assert the_one(kernel_checks.CHECKS, machine, "vfio").remedy == "as root: modprobe vfio-pci"
    control = put("/dev/vfio/vfio")
    own, foreign = put("/dev/vfio/12"), put("/dev/vfio/noiommu-3")
    put("/dev/vfio/devices/vfio0")
    forbid(foreign)
    assert look(kernel_checks.CHECKS, machine, "vfio") == [
        ok("/dev/vfio/vfio can be used"),
        ok(f"/dev/vfio/{own.name} can be used"),
        note(
            "/dev/vfio/noiommu-3 cannot be used by this user",
            "as root: chown $USER /dev/vfio/noiommu-3, or a udev rule that does it",
        ),
    ]
    forbid(control)
    put("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n")
    found = look(kernel_checks.CHECKS, machine, "vfio")
    assert found[0].level == Level.NOTE
    assert "no-IOMMU mode is on" in found[1].text


def test_huge_pages(machine, put):
    assert "no huge pages" in the_one(kernel_checks.CHECKS, machine, "huge pages").text
    meminfo = "HugePages_Total:  {}\nHugePages_Free:  3\nHugepagesize:  2048 kB\n"
    put("/proc/meminfo", meminfo.format(0))
    assert "none reserved" in the_one(kernel_checks.CHECKS, machine, "huge pages").text
    put("/proc/meminfo", meminfo.format(16))
    assert the_one(kernel_checks.CHECKS, machine, "huge pages").text == (
        "3 of 16 free, 2048 kB each"
    )


# --- cards ---------------------------------------------------------------------------------------


@pytest.fixture
def tree(machine: Machine) -> PciTree:
    return PciTree(machine.root)


def cards(machine: Machine) -> list[Finding]:
    return look(pci_checks.CHECKS, machine, "i2o cards")


def test_no_card(machine, tree):
    assert cards(machine) == [ok("no I2O device on PCI")]
    tree.add("0000:00:01.0", vendor=0x8086, device=1, class_code=0x060000)
    assert cards(machine) == [ok("no I2O device on PCI")]


def test_a_card_that_is_ready(machine, tree):
    folder = tree.add(CARD, driver="vfio-pci", group="7")
    (tree.dev / "vfio/vfio").touch()
    config = bytearray((folder / "config").read_bytes())
    config[4] = 0x02
    (folder / "config").write_bytes(config)
    assert cards(machine) == [
        ok(f"{CARD} [1044:a501] DPT SmartRAID V / Adaptec 2100S family: vfio-pci has it"),
        ok(f"{CARD}: vfio:{CARD} opens it, because it is bound to vfio-pci"),
        ok(f"{CARD}: memory on, bus master off (turned on while it is open)"),
    ]


def test_what_is_in_the_way_of_a_card_is_a_problem_only_if_programs_are_to_have_it(machine, tree):
    tree.add(CARD, driver="dpt_i2o", group="7", group_type="DMA")
    head, obstacle, _ = cards(machine)
    assert head.text.endswith("dpt_i2o has it")
    assert (obstacle.level, obstacle.text) == (
        Level.NOTE, f"vfio:{CARD}: {CARD} is bound to the kernel driver 'dpt_i2o'"
    )  # fmt: skip
    assert "drivers/dpt_i2o/unbind" in obstacle.remedy
    tree.add("0000:03:00.0", driver="vfio-pci", group="8")
    other = [one for one in cards(machine) if one.text.startswith("vfio:0000:03")]
    assert [one.level for one in other] == [Level.PROBLEM]
    assert "there is no " in other[0].text


def test_a_card_that_does_not_answer(machine, tree):
    folder = tree.add(CARD)
    (folder / "config").write_bytes(b"\xff" * 256)
    assert cards(machine)[-1].level == Level.PROBLEM
    assert "reads all ones" in cards(machine)[-1].text
    (folder / "config").unlink()
    assert cards(machine)[-1] == note(
        f"{CARD}: its configuration cannot be read: No such file or directory"
    )


def test_the_compiled_accessors(machine):
    assert the_one(pci_checks.CHECKS, machine, "accessors").level == Level.OK

    def load(name):
        raise ImportError(name)

    found = the_one(pci_checks.CHECKS, replace(machine, load=load), "accessors")
    assert (found.level, "only vfio: works without" in found.text) == (Level.NOTE, True)


def test_huge_pages_that_a_card_reaches(machine, put):
    def high():
        raise TransportUnavailable("sysfs", "3 lie above", remedy="more")

    def never():
        raise AssertionError("none is free: none is taken")

    free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
    nothing = ok("no huge page of 2 MiB is free, and vfio: needs none")
    machine = replace(machine, take_low_page=never)
    assert the_one(pci_checks.CHECKS, machine, "low memory") == nothing
    put(free, "0\n")
    assert the_one(pci_checks.CHECKS, machine, "low memory") == nothing
    put(free, "3\n")
    machine = replace(machine, take_low_page=high)
    assert the_one(pci_checks.CHECKS, machine, "low memory") == note(
        "whether a huge page lies below 4 GiB: 3 lie above", "more"
    )
    machine = replace(machine, take_low_page=lambda: None)
    assert the_one(pci_checks.CHECKS, machine, "low memory").level == Level.OK


def test_uio_files(machine, put, monkeypatch):
    put("/sys/class/uio/uio0/name")
    put("/sys/class/uio/uio1/name")
    put("/dev/uio1")
    shut, usable = look(pci_checks.CHECKS, machine, "uio")
    assert (shut.level, "/dev/uio0 cannot be used" in shut.text) == (Level.NOTE, True)
    assert usable == ok("/dev/uio1 can be used")


@pytest.mark.parametrize(
    ("limit", "level"),
    [(-1, Level.OK), (16 << 20, Level.OK), (8 << 20, Level.NOTE), (0, Level.NOTE)],
)
def test_locked_memory(machine, limit, level):
    found = the_one(kernel_checks.CHECKS, replace(machine, locked_memory=lambda: limit), "memlock")
    assert found.level == level
    assert ("dma=4M" in found.remedy) == (level == Level.NOTE)


# --- programs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "level", "said"),
    [
        (None, Level.NOTE, "QEMU is not installed"),
        ("QEMU emulator version 7.2.22 (Debian)", Level.NOTE, "QEMU 7.2 is too old for vfio-user"),
        ("QEMU emulator version 10.0.2", Level.NOTE, "QEMU 10.0 is too old"),
        ("QEMU emulator version 10.1.0", Level.OK, "QEMU 10.1"),
        ("QEMU emulator version 11.0.0", Level.OK, "QEMU 11.0"),
        ("hello", Level.NOTE, "cannot be seen: hello"),
    ],
)
def test_qemu(machine, text, level, said):
    machine = replace(machine, version_text=lambda program: text)
    found = the_one(program_checks.CHECKS, machine, "qemu")
    assert (found.level, said in found.text) == (level, True)
    assert ("trixie-backports" in found.remedy) == (level == Level.NOTE)


def test_nbdkit(machine):
    machine = replace(machine, find_nbdkit=lambda: "/usr/bin/nbdkit")
    assert the_one(program_checks.CHECKS, machine, "nbdkit") == ok("nbdkit: /usr/bin/nbdkit")

    def absent():
        raise TransportUnavailable("nbd", "nbdkit is not installed", remedy="install it")

    machine = replace(machine, find_nbdkit=absent)
    assert the_one(program_checks.CHECKS, machine, "nbdkit") == note(
        "nbdkit is not installed: only i2o nbd would need it", "install it"
    )


def test_libfabric(machine):
    def absent():
        raise TransportUnavailable("ofi", "no libfabric: not built", remedy="install it")

    machine = replace(machine, load_libfabric=absent)
    assert the_one(program_checks.CHECKS, machine, "libfabric") == note(
        "no libfabric: not built: only ofi: would need it", "install it"
    )


@pytest.mark.libfabric
def test_the_providers_of_libfabric(machine):
    machine = replace(machine, load_libfabric=load_libfabric)
    found = the_one(program_checks.CHECKS, machine, "libfabric")
    assert found.level == Level.OK
    assert "shm" in found.text


def test_the_versions_of_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Machine().version_text("qemu-system-x86_64") is None
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\necho QEMU emulator version 10.1.0\necho more\n")
    program.chmod(0o755)
    assert Machine().version_text("qemu-system-x86_64") == "QEMU emulator version 10.1.0"


# --- this machine --------------------------------------------------------------------------------


def test_this_machine_can_be_looked_at():
    machine = Machine()
    for module in (
        kernel_checks, pci_checks, port_checks, program_checks, python_checks, system_checks,
    ):  # fmt: skip
        found = look(module.CHECKS, machine)
        assert found
        assert not [one for one in found if "could not be done" in one.text]
    assert machine.free_bytes("/") > 0


def test_serial_adapters(machine, put, forbid):
    assert look(serial_checks.CHECKS, machine) == []
    line = put("/dev/serial/by-id/usb-maker")
    other = put("/dev/serial/by-id/usb-other")
    forbid(other)
    found = look(serial_checks.CHECKS, machine)
    assert found[0] == ok(f"serial:{line} can be opened")
    assert found[1].level is Level.NOTE
    assert "dialout" in found[1].remedy
