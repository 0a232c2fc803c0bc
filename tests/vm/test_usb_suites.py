# SPDX-License-Identifier: Apache-2.0
"""The suites of ports and endpoints over USB: pyusb, libusb and the stack of a real kernel.

A guest runs them all at once, once for each way that its kernel has to the devices; here each test
is told apart again.
"""

from __future__ import annotations

import json
import os
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
from vm.kernel_cables import PLACES
from vm.project import project_files
from vm.redir_relay import RedirRelay

HERE = Path(__file__).parent
FULL = os.environ.get("I2O_TESTS_FULL") == "1"
WAYS = ("usbip", "usbredir")
PYTEST = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "py", "pygments")
NETWORK = """ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
"""
LONG = {
    "test_a_failed_request_costs_no_frame",
    "test_a_reply_that_is_held_does_not_change",
    "test_a_sender_is_stopped_before_memory_runs_out",
    "test_any_offset_and_size",
    "test_frames_may_come_from_the_fifo",
    "test_large_transfers_have_several_requests_in_flight",
    "test_one_buffer_takes_many_messages",
    "test_random_reads_and_writes_agree_with_a_model",
    "test_reset_and_brought_up_again_and_again",
    "test_several_senders_do_not_disturb_one_another",
    "test_several_threads_use_it",
}
"""Half of the time of all: left out unless I2O_TESTS_FULL=1."""


def names_of(group: str, suite: type) -> list[str]:
    return [f"{group}::{name}" for name in sorted(dir(suite)) if name.startswith("test_")]


def chosen(way: str) -> list[str]:
    """Return the tests of both suites, or without I2O_TESTS_FULL=1 every fourth of the short ones.

    Each way has others, so half of them run.
    """
    names = names_of("TestPorts", PortConformance) + names_of("TestEndpoints", EndpointConformance)
    if FULL:
        return names
    short = [name for name in names if name.partition("::")[2] not in LONG]
    return short[2 * WAYS.index(way) :: 4]


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, vm_cache: Cache, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What became of each test in a guest."""
    way: str = request.param
    folder = tmp_path_factory.mktemp(way)
    with ExitStack() as stack:
        guests = stack.enter_context(Guests(vm_cache, folder))
        if way == "usbredir":
            relay = stack.enter_context(RedirRelay(folder, PLACES))
            network = ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
            machine = Machine([*relay.arguments(), *network])
            before, modules = NETWORK, ("virtio_net", "xhci-pci")
            words = f"usbredir 10.0.2.2 {relay.address[1]}"
        else:
            machine, before, modules, words = Machine(), "", ("vhci-hcd",), "usbip"
        scripts = ("usb_suites_job.py", "kernel_cables.py", "vhci.py")
        job = Job(
            f"#!/bin/sh\n{before}PYTHONPATH=/job exec python3 -m vm.usb_suites_job {words}\n",
            modules=modules,
            files={
                **project_files("usb", *PYTEST),
                **guests.extras(LIBUSB),
                **guests.extras(UDEV),
                "/job/fakes": HERE.parent / "fakes",
                **{f"/job/vm/{name}": HERE / name for name in scripts},
                "/job/tests": "\n".join(chosen(way)).encode(),
            },
        )
        deadline_s = 1800 if FULL else 600
        outcome = guests.boot(DEBIAN_13, job, machine, deadline_s=deadline_s)
    found: dict[str, dict[str, Any]] = json.loads(outcome.files["tests.json"])
    return found


@pytest.mark.parametrize(
    ("results", "name"),
    [(way, name) for way in WAYS for name in chosen(way)],
    indirect=["results"],
    scope="module",
)
def test_over_usb(results: dict[str, dict[str, Any]], name: str) -> None:
    found = [result for each, result in results.items() if each.partition("[")[0] == name]
    assert found, "it did not run"
    for result in found:
        assert not result["failed"], result["failed"]
        assert not result["skipped"]
