# SPDX-License-Identifier: Apache-2.0
"""`i2o config` in a real browser: the list, a page, a form that is filled in and submitted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import i2o
from fakes.chromium import Chromium, find_chromium
from fakes.interrupted import ends_of_interrupt
from i2o.frames.functions import Function
from i2o.tools.config_server import ConfigServer

CHECKOUT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="chromium is missing: apt-get install chromium"
)

HOSTILE = b"""<html><head><title>x</title><base href="http://example.invalid/">
<script>document.title = 'owned'</script><style>body { background: url(http://example.invalid/s) }
</style><meta http-equiv="refresh" content="0;url=http://example.invalid/"></head>
<body onload="document.title = 'owned'"><h1 onclick="x()">Disk</h1>
<img src="http://example.invalid/i" onerror="document.title = 'owned'" alt="picture">
<iframe src="http://example.invalid/f"></iframe><a href="javascript:document.title='owned'">a</a>
<a href="2">two</a><form action="http://example.invalid/"><input name="a"><input type="submit"
id="away"></form></main></body></html>"""


@pytest.fixture
def browser(tmp_path):
    with Chromium(tmp_path) as opened:
        yield opened


@pytest.fixture
def address():
    """Run `i2o config` in a process of its own, and end it as a user does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "i2o", "config", "--no-browser", "-i", "emu:"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    with process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode in ends_of_interrupt(0)
    assert errors.decode().splitlines()[-1] == "i2o: ended"


def test_a_form_is_filled_in_and_submitted(browser, address):
    page = browser.go(address)
    assert "random_block_storage" in page
    page = browser.click('a[href$="/010/0"]')
    assert "Settings" in page
    page = browser.click('a[href$="/010/1"]')
    assert "Device name" in page
    name = '<b onclick="x()">Disk & Söhne'
    browser.type("#physical_location", "rack 3")
    browser.type("#device_name", name)
    page = browser.click('input[type="submit"]')
    assert "Nothing was changed." in page
    assert "letters, digits and signs of ASCII" in page
    browser.type("#device_name", name.replace("ö", "oe"))
    page = browser.click('input[type="submit"]')
    assert "Saved." in page
    page = browser.go(f"{address}010/1")
    assert 'value="rack 3"' in page
    assert "Disk &amp; Soehne" in page
    assert all(url.startswith(address) for url in browser.requested)
    assert [line for line in browser.console if "favicon" not in line] == []


def test_the_style_sheet_is_in_force(browser, address):
    browser.go(f"{address}010/2")
    assert browser.screenshot().startswith(b"\x89PNG")
    assert any(url.endswith("/style.css") for url in browser.requested)


def test_a_hostile_device_reaches_nothing(browser):
    with i2o.open("emu:") as iop:
        device = iop.layer.port(iop.number).soft_iop.lct.devices[0x010]

        def serve(request):
            from i2o.iop_emulator import sgl_data

            buffers = sgl_data.buffers(request, 5, device.iop.dma, 4096)
            sgl_data.scatter(device.iop.dma, buffers[0], HOSTILE)
            return request.success()

        device.dispatch[int(Function.UTIL_CONFIG_DIALOG)] = serve
        with ConfigServer(iop, "emu:") as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                page = browser.go(f"{server.url}010/0")
                browser.do("Page.bringToFront")
                assert "<title>TID 0x010 - i2o config</title>" in page
                assert re.search(r"<h1>Disk</h1>\s*picture", page)
                assert "example.invalid" not in page
                assert "javascript:" not in page
                assert "/010/2" in page
                assert all(url.startswith(server.origin) for url in browser.requested)
            finally:
                server.shutdown()
                thread.join()
