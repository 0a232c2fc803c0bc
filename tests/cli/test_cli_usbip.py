# SPDX-License-Identifier: Apache-2.0
"""`emulate --serve usbip:…`: an IOP that another machine plugs in over the network."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from fakes.usb_bus import FakeBus
from fakes.usbip_device import ImportedDevice
from i2o.opening import open as open_iop
from i2o.transport.usb import carrier
from i2o.transport.usb.host_device import UsbBus

from .conftest import one_line

PATIENCE_S = 60


@pytest.fixture
def served(program, environment, image) -> Iterator[str]:
    with subprocess.Popen(
        [*program, "emulate", "--serve", f"usbip:127.0.0.1:0?disk={image}"],
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        word, _, uri = process.stdout.readline().decode().strip().partition(" ")
        assert word == "ready"
        yield uri
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_an_iop_is_imported_used_let_go_and_imported_again(served, image, monkeypatch) -> None:
    scheme, host, port = served.split(":")
    assert scheme == "usbip"
    for _ in range(2):
        bus = FakeBus()
        monkeypatch.setattr(carrier, "UsbBus", lambda bus=bus: UsbBus(bus))
        with ImportedDevice(host, int(port)) as device:
            bus.plug(device)  # type: ignore[arg-type]
            with open_iop("usb:1209:0001:1") as iop, iop.block(0x010) as disk:
                size = min(disk.size, 1 << 18)
                assert disk.read(0, size) == image.read_bytes()[:size]
                disk.write(0, os.urandom(4096))
                disk.flush()
            bus.plugged.clear()


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("usbip:127.0.0.1:x", "expected usbip:HOST:PORT"),
        ("usbip:127.0.0.1:70000", "expected usbip:HOST:PORT"),
        ("usbip:0.0.0.0:0", "insecure=1"),
        ("usbip:localhost.example.com:0", "insecure=1"),
        ("usbip:[::1234]:0", "insecure=1"),
        ("usbip:127.0.0.1:0?serial=a:b", "without : and ?"),
        ("usbip:127.0.0.1:0?serial=", "without : and ?"),
        ("usbip:127.0.0.1:0?serial=" + 127 * "x", "1 to 126"),
        ("usbip:127.0.0.1:0?serial=" + 64 * "\N{GRINNING FACE}", "1 to 126"),
        ("usbip:127.0.0.1:0?serial=\udcff", "printable"),
        ("usbip:127.0.0.1:0?disk=no/such.img", "no/such.img"),
        ("usbip:127.0.0.1:0?nonsense=1", "unknown option 'nonsense'"),
    ],
)
def test_what_cannot_be_served(cli, uri, reason) -> None:
    assert reason in one_line(cli("emulate", "--serve", uri))


def test_an_address_that_is_taken(cli, served) -> None:
    assert "choose another port" in one_line(cli("emulate", "--serve", served))
