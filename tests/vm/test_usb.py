# SPDX-License-Identifier: Apache-2.0
"""An IOP behind a USB device: a real kernel's stack, real libusb and pyusb in a guest."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from vm.guest import Machine
from vm.guests import Guests
from vm.initramfs import Job
from vm.inventory import DEBIAN_13, LIBUSB
from vm.project import project_files
from vm.served import ServedUri

SCRIPT = Path(__file__).with_name("usb_job.py")
NETWORK = """ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
"""


def job(guests: Guests, words: str, modules: tuple[str, ...], before: str = "") -> Job:
    return Job(
        f"#!/bin/sh\n{before}exec python3 /job/usb_job.py {words}\n",
        modules=modules,
        files={
            **project_files("usb"),
            **guests.extras(LIBUSB),
            "/job/usb_job.py": SCRIPT,
            "/job/vm/vhci.py": SCRIPT.with_name("vhci.py"),
        },
    )


def check(output: str, image: bytes) -> dict[str, Any]:
    (line,) = (each for each in output.splitlines() if each.startswith("{"))
    found: dict[str, Any] = json.loads(line)
    assert found["state"] == "OPERATIONAL"
    assert found["sha256"] == hashlib.sha256(image).hexdigest()
    assert found["same"]
    assert found["again"]
    assert found["speed"] == "480"
    return found


def test_a_kernel_imports_it_over_usbip(guests: Guests, tmp_path: Path) -> None:
    """vhci_hcd is the bus; the whole disk is read by hash."""
    image = tmp_path / "disk.img"
    content = random.Random(7).randbytes(16 << 20)
    image.write_bytes(content)
    with ServedUri(tmp_path, f"usbip:127.0.0.1:0?disk={image}") as served:
        port = served.uri.rpartition(":")[2]
        network = ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
        outcome = guests.boot(
            DEBIAN_13,
            job(guests, f"usbip 10.0.2.2 {port}", ("virtio_net", "vhci-hcd"), NETWORK),
            Machine(network),
            deadline_s=300,
        )
    check(outcome.output, content)


def test_qemu_has_it_on_its_xhci(guests: Guests, tmp_path: Path) -> None:
    """usb-redir and xHCI; the whole disk is read by hash."""
    image, socket = tmp_path / "disk.img", tmp_path / "usb.sock"
    content = random.Random(8).randbytes(16 << 20)
    image.write_bytes(content)
    arguments = [
        *("-chardev", f"socket,id=redir,path={socket}"),
        *("-device", "qemu-xhci", "-device", "usb-redir,chardev=redir"),
    ]
    with ServedUri(tmp_path, f"usbredir:{socket}?disk={image}"):
        outcome = guests.boot(
            DEBIAN_13, job(guests, "plugged", ("xhci-pci",)), Machine(arguments), deadline_s=300
        )
    check(outcome.output, content)


def test_a_board_describes_itself_with_functionfs(guests: Guests) -> None:
    """The example of the documentation, on a controller connected to the guest's own bus."""
    example = Path(__file__).parents[2] / "docs/examples/usb_gadget"
    outcome = guests.boot(
        DEBIAN_13,
        Job(
            "#!/bin/sh\nsh /job/gadget.sh python3 /job/gadget.py &\n"
            "exec python3 /job/usb_gadget_job.py\n",
            modules=("dummy_hcd", "libcomposite", "usb_f_fs"),
            files={
                **project_files("usb"),
                **guests.extras(LIBUSB),
                "/job/gadget.sh": example / "gadget.sh",
                "/job/gadget.py": example / "gadget.py",
                "/job/usb_gadget_job.py": SCRIPT.with_name("usb_gadget_job.py"),
            },
        ),
        deadline_s=300,
    )
    (line,) = (each for each in outcome.output.splitlines() if each.startswith("{"))
    found = json.loads(line)
    assert found["uris"] == ["usb:1209:0001:1"]
    assert found["obstacles"] == []
    assert found["links"] == [0, 7, 0]
    assert found["refused"] == "Pipe error"
    assert found["packet"] == 512
