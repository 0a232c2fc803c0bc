# SPDX-License-Identifier: Apache-2.0
"""`config`: pages printed, and a server that answers nobody but the browser of its user."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
import webbrowser
from collections.abc import Iterator

import pytest

import i2o
from i2o.config_dialog import MAX_QUERY
from i2o.errors import IopDead, RequestTimeout
from i2o.tools import config_server
from i2o.tools.config_server import IDLE_S, MAX_CONNECTIONS, ConfigServer

from .conftest import one_line

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Served:
    """A running server and a client for it."""

    def __init__(self, iop: i2o.Iop, server: ConfigServer) -> None:
        self.iop, self.server = iop, server
        self.root = server.addresses.root

    def ask(
        self, method: str, path: str, body: str | None = None, headers: dict | None = None
    ) -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers
        finally:
            connection.close()

    def get(self, path: str = "", **headers: str) -> tuple[int, str]:
        return self.ask("GET", self.root + path, headers=headers)[:2]

    def post(self, path: str, body: str, headers: dict | None = None) -> tuple[int, str]:
        return self.ask("POST", self.root + path, body, FORM if headers is None else headers)[:2]


@pytest.fixture
def served() -> Iterator[Served]:
    with i2o.open("emu:") as iop, ConfigServer(iop, "emu:<x>") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="i2o-test")
        thread.start()
        try:
            yield Served(iop, server)
        finally:
            server.shutdown()
            thread.join()


# --- the server ---------------------------------------------------------------------------------


def test_the_list_and_a_form(served):
    status, page = served.get()
    assert status == 200
    assert page.count("<tr>") == 4
    assert "emu:&lt;x&gt;" in page
    assert f'href="{served.root}010/0"' in page
    status, page = served.get("010/4")
    assert f'<form method="post" action="{served.root}010/4">' in page
    status, page = served.post("010/4", "powerdown_timeout=12&on_access=0")
    assert (status, "Saved." in page) == (200, True)
    values = served.iop.params_get(0x010, "power_control")
    assert values == {"powerdown_timeout": 12, "on_access": 0}
    assert served.post("010/4", "")[0] == 200


def test_a_link_with_a_query_changes_nothing_before_it_is_confirmed(served):
    status, page = served.get("010/4?powerdown_timeout=12&x=<script>")
    assert status == 200
    assert "Send this to the device?" in page
    assert '<input type="hidden" name="powerdown_timeout" value="12">' in page
    assert "<script" not in page
    assert served.iop.params_get(0x010, "power_control", "powerdown_timeout") == 0


def test_every_answer_forbids_what_a_page_could_do(served):
    for path in (served.root, f"{served.root}010/0", f"{served.root}style.css", "/"):
        _, _, headers = served.ask("GET", path)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; form-action 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Python" not in headers["Server"]


def test_whoever_does_not_know_the_secret_learns_nothing(served):
    for path in ("/", "/010/0", served.root[:-1], served.root.swapcase(), "/favicon.ico"):
        status, page, _ = served.ask("GET", path)
        assert status == 404
        assert served.root not in page
    assert served.ask("POST", "/010/4", "on_access=0", FORM)[0] == 404
    with socket.create_connection(("127.0.0.1", served.server.server_port)) as raw:
        raw.sendall(b"GET /\xe4 HTTP/1.0\r\nHost: 127.0.0.1:%d\r\n\r\n" % served.server.server_port)
        assert b" 404 " in raw.makefile("rb").readline()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "", "::1"])
def test_another_host_name_is_refused(served, host):
    host = host.format(port=served.server.server_port)
    status, page = served.get(Host=host)
    assert status == 403
    assert served.root not in page


def test_localhost_is_a_name_of_ours(served):
    assert served.get(Host=f"localhost:{served.server.server_port}")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**FORM, "Origin": "http://evil.example"}, 403),
        ({**FORM, "Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({}, 415),
        ({**FORM, "Content-Length": "-1"}, 411),
        ({**FORM, "Content-Length": "x"}, 411),
        ({**FORM, "Content-Length": str(MAX_QUERY + 1)}, 413),
        ({**FORM, "Content-Length": "9" * 5000}, 413),
        ({**FORM, "Origin": "http://127.0.0.1:{port}"}, 200),
    ],
)
def test_forms_from_elsewhere_and_odd_ones_are_refused(served, headers, status):
    port = served.server.server_port
    headers = {name: value.format(port=port) for name, value in headers.items()}
    assert served.post("010/4", "powerdown_timeout=3", headers)[0] == status
    expected = 3 if status == 200 else 0
    assert served.iop.params_get(0x010, "power_control", "powerdown_timeout") == expected


@pytest.mark.parametrize("body", ["a", "a=%ff", "=&=&x"])
def test_a_form_that_cannot_be_read(served, body):
    assert served.post("010/4", body)[0] == 400


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("010/9", 404, "NO_SUCH_PAGE"),
        ("777/0", 404, "no device has TID 0x777"),
        ("010", 404, "no such page"),
        ("10/0", 404, "no such page"),
        ("010/99999999999", 404, "no such page"),
        ("010/4294967296", 404, "no such page"),
        ("../etc/passwd", 404, "no such page"),
    ],
)
def test_pages_that_are_not_there(served, path, status, sentence):
    found, page = served.get(path)
    assert found == status
    assert sentence in page
    assert "All devices" in page


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestTimeout("no reply <b>"), 504),
        (IopDead("gone"), 502),
        (i2o.errors.RemoteFrameError("odd"), 502),
    ],
)
def test_trouble_with_the_iop_is_a_page(served, monkeypatch, error, status):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(served.iop, "config_page", fail)
    found, page = served.get("010/0")
    assert found == status
    assert "<b>" not in page
    assert "The IOP does not answer as it should" in page


def test_a_device_without_a_dialog(served):
    from i2o.frames.functions import Function

    device = served.iop.layer.port(served.iop.number).soft_iop.lct.devices[0x010]
    del device.dispatch[int(Function.UTIL_CONFIG_DIALOG)]
    status, page = served.get("010/0")
    assert status == 502
    assert "The device refuses" in page


def test_idle_connections_hinder_nobody_and_end_with_the_server(served):
    port = served.server.server_port
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    assert served.get()[0] == 200
    served.server.shutdown()
    began = time.monotonic()
    served.server.server_close()
    assert time.monotonic() - began < IDLE_S / 2
    for connection in idle:
        with connection:
            assert connection.recv(10) == b""


def test_there_is_a_limit_of_connections(served):
    port = served.server.server_port
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(MAX_CONNECTIONS)]
    with socket.create_connection(("127.0.0.1", port)) as late:
        assert late.recv(10) == b""
    for connection in idle:
        connection.close()


def test_a_browser_that_leaves_is_no_news_and_a_bug_is_one_line(served, monkeypatch, capsys):
    def break_off(*arguments):
        raise ConnectionResetError

    monkeypatch.setattr(config_server.config_pages, "index", break_off)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        served.get()
    assert capsys.readouterr().err == ""

    def bug(*arguments):
        raise KeyError("bug")

    monkeypatch.setattr(config_server.config_pages, "index", bug)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        served.get()
    served.server.shutdown()
    served.server.server_close()
    assert capsys.readouterr().err == "i2o: KeyError('bug')\n"


# --- the command --------------------------------------------------------------------------------


def test_print_a_page_and_submit_its_form(cli):
    ran = cli("config", "0x010", "--print", "0")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("<!DOCTYPE html>\n")
    ran = cli("config", "16", "--print", "4", "--set", "powerdown_timeout=9")
    assert "Saved." in ran.out
    assert 'value="9"' in ran.out
    assert "Message frames" in cli("config", "--print", "0").out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["0x010", "--print", "77"], 1, "NO_SUCH_PAGE"),
        (["0x777", "--print", "0"], 1, "no device has TID 0x777"),
        (["0x010", "--set", "a=b"], 2, "--set goes with --print"),
        (["0x010", "--print", "1", "--set", "ab"], 2, "reads FIELD=VALUE"),
        (["0x010", "--print", "4294967296"], 2, "those end at 0xffffffff"),
        (["--port", "65536"], 2, "0xffff"),
        (["--port", "x"], 2, "no number"),
        (["-i", "nowhere:"], 2, "nowhere"),
    ],
)
def test_wrong_usage_is_one_line(cli, arguments, code, sentence):
    ran = cli("config", *arguments)
    assert ran.code == code
    assert sentence in one_line(ran)


def test_a_port_that_is_taken(cli):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = cli("config", "--no-browser", "--port", taken.getsockname()[1])
    assert ran.code == 1
    assert one_line(ran).endswith("Address already in use")


@pytest.mark.parametrize("tid", [None, "0x010"])
def test_the_browser_is_opened_and_ctrl_c_ends_it(cli, monkeypatch, tid):
    opened = []

    def browse(url: str) -> bool:
        opened.append(url)
        os.kill(os.getpid(), signal.SIGINT)
        return True

    monkeypatch.setattr(webbrowser, "open", browse)
    ran = cli("config", *([tid] if tid else []))
    assert ran.code == 0
    assert opened == [ran.out.strip()]
    assert opened[0].endswith("/010/0" if tid else "/")
    assert ran.err.splitlines()[-1] == "i2o: ended"
