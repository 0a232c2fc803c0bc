# SPDX-License-Identifier: Apache-2.0
"""The suites of ports and endpoints over USB: pyusb, libusb and the stack of a real kernel.

A guest runs them all at once, once for each way that its kernel has to the devices; here each test
is told apart again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from i2o.testing.endpoints import EndpointConformance
from i2o.testing.ports import PortConformance
from vm.cache import Cache
from vm.guest import Machine
from vm.guests import Guests
from vm.initramfs import Job
from vm.inventory import DEBIAN_13, LIBUSB, UDEV
from vm.project import project_files
from vm.redir_relay import RedirRelay

HERE = Path(__file__).parent
PLACES = 6
PYTEST = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "py", "pygments")
NETWORK = """ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
"""


def names_of(group: str, suite: type) -> list[str]:
    return [f"{group}::{name}" for name in dir(suite) if name.startswith("test_")]


NAMES = [*names_of("TestPorts", PortConformance), *names_of("TestEndpoints", EndpointConformance)]
if only := os.environ.get("ONLY"):
    import random
    NAMES = random.Random(1).sample(NAMES, int(only))


@pytest.fixture(scope="module", params=["usbip", "usbredir"])
def results(
    request: pytest.FixtureRequest, vm_cache: Cache, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What became of each test in a guest."""
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        guests = stack.enter_context(Guests(vm_cache, folder))
        arguments, words, before = [], "usbip", ""
        modules: tuple[str, ...] = ("vhci-hcd",)
        if request.param == "usbredir":
            relay = stack.enter_context(RedirRelay(folder, PLACES))
            network = ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
            arguments, before = [*relay.arguments(), *network], NETWORK
            words, modules = f"usbredir 10.0.2.2 {relay.address[1]}", ("virtio_net", "xhci-pci")
        if smp := os.environ.get("SMP"):
            arguments += ["-smp", smp]
        job = Job(
            f"#!/bin/sh\n{before}cd /job\nPYTHONPATH=/job exec python3 -m vm.usb_suites_job {words}\n",
            modules=modules,
            files={
                **project_files("usb", *PYTEST),
                **guests.extras(LIBUSB),
                **guests.extras(UDEV),
                "/job/fakes": HERE.parent / "fakes",
                **{f"/job/vm/{name}": HERE / name for name in ("usb_suites_job.py", "kernel_cables.py")},
                "/job/tests": "\n".join(NAMES).encode(),
            },
        )
        outcome = guests.boot(DEBIAN_13, job, Machine(arguments), deadline_s=1200)
        print(outcome.output)
    found: dict[str, dict[str, Any]] = json.loads(outcome.files["tests.json"])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_over_usb(results: dict[str, dict[str, Any]], name: str) -> None:
    found = [result for each, result in results.items() if each.partition("[")[0] == name]
    assert found, "it did not run"
    for result in found:
        assert not result["failed"], result["failed"]
        assert not result["skipped"]
