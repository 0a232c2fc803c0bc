# SPDX-License-Identifier: Apache-2.0
"""Shows configuration dialogs to the browser of this machine, and to nobody else.

It listens on 127.0.0.1. Every address has a secret in it, so other users and other web pages cannot
guess one. The Host header must be ours, so no name of somebody else's can lead here. What a device
sends is cleaned, and the browser is told to run and load nothing, should something be left.
"""

from __future__ import annotations

import hmac
import re
import secrets
import socket
import socketserver
import sys
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from i2o.config_dialog import MAX_QUERY
from i2o.errors import I2OError, InvalidArgument, RequestFailed, RequestTimeout
from i2o.frames.header import DetailedStatus
from i2o.tools import config_pages
from i2o.tools.config_pages import Addresses
from i2o.tools.failures import explain
from i2o.tools.output import note, printable

if TYPE_CHECKING:
    from i2o.iop import Iop

LOOPBACK: Final = "127.0.0.1"
MAX_CONNECTIONS: Final = 32
IDLE_S: Final = 20.0
"""How long a connection may take to say what it wants."""
_DEVICE_PATH: Final = re.compile(r"([0-9a-f]{3})/([0-9]{1,10})")
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _Answer(Exception):
    """Ends the handling of a request with a page."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        self.status, self.sentence = status, sentence
        super().__init__(sentence)


class ConfigServer(ThreadingHTTPServer):
    """The server; `serve_forever` runs it, closing it ends every connection.

    Args:
        iop: whose dialogs it shows. It is used by one request at a time.
        uri: what the IOP is called.
        port: TCP port; 0 takes a free one.

    Attributes:
        url: address of the list of devices, with the secret.
    """

    daemon_threads = False  # closing waits for them: the IOP is closed after the server
    allow_reuse_address = True

    def __init__(self, iop: Iop, uri: str, port: int = 0) -> None:
        self.iop, self.uri = iop, uri
        self.iop_lock = threading.Lock()
        self._connections: set[Any] = set()
        self._connections_lock = threading.Lock()
        self.addresses = Addresses(f"/{secrets.token_urlsafe(18)}/")
        super().__init__((LOOPBACK, port), _Handler)
        self.hosts = frozenset(f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost"))
        self.origin = f"http://{LOOPBACK}:{self.server_port}"
        self.url = f"{self.origin}{self.addresses.root}"

    def server_bind(self) -> None:
        """Take the port, without the name lookup that http.server adds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, unless there are too many."""
        with self._connections_lock:
            is_welcome = len(self._connections) < MAX_CONNECTIONS
            if is_welcome:
                self._connections.add(request)
        if is_welcome:
            super().process_request(request, client_address)
        else:
            super().shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """End one connection."""
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """End all connections, the idle ones that browsers keep among them."""
        with self._connections_lock:
            for request in self._connections:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line what went wrong, unless the browser just left."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            note(f"i2o: {printable(repr(error))}")


class _Handler(BaseHTTPRequestHandler):
    """One request; connections are not kept."""

    server: ConfigServer
    timeout = IDLE_S
    server_version, sys_version = "i2o", ""

    def do_GET(self) -> None:
        """Show a page."""
        self._serve(self._get)

    def do_POST(self) -> None:
        """Submit a form."""
        self._serve(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the addresses are secret."""

    def _serve(self, page: Any) -> None:
        where: Addresses | None = None
        status, kind = HTTPStatus.OK, "text/html"
        try:
            path, query = self._path()
            where = self.server.addresses
            kind, text = page(path, query)
        except _Answer as answer:
            status = answer.status
            text = config_pages.problem(where, status.phrase, answer.sentence)
        except RequestFailed as error:
            is_missing = error.req_status and error.detail == DetailedStatus.NO_SUCH_PAGE
            status = HTTPStatus.NOT_FOUND if is_missing else HTTPStatus.BAD_GATEWAY
            title = "There is no such page" if is_missing else "The device refuses"
            text = config_pages.problem(where, title, explain(error))
        except (I2OError, OSError) as error:
            if isinstance(error, ConnectionError) or self.rfile.closed:
                raise
            is_late = isinstance(error, RequestTimeout)
            status = HTTPStatus.GATEWAY_TIMEOUT if is_late else HTTPStatus.BAD_GATEWAY
            text = config_pages.problem(where, "The IOP does not answer as it should",
                                        explain(error))  # fmt: skip
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _path(self) -> tuple[str, str]:
        """Return what is asked for, behind the secret, and the query."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            raise _Answer(HTTPStatus.FORBIDDEN, "This server has another name.")
        path, _, query = self.path.partition("?")
        root = self.server.addresses.root
        # bytes: compare_digest takes only ASCII text
        given = path[: len(root)].encode("utf-8", "replace")
        if not hmac.compare_digest(given, root.encode()):
            raise _Answer(HTTPStatus.NOT_FOUND, "The address is not the one that i2o config told.")
        return path[len(root) :], query

    def _get(self, path: str, query: str) -> tuple[str, str]:
        server = self.server
        if path == "style.css":
            return "text/css", config_pages.STYLE
        if not path:
            with server.iop_lock:
                server.iop.refresh()
                devices = server.iop.devices
            return "text/html", config_pages.index(server.addresses, server.uri, devices)
        tid, page = self._device(path)
        if query:
            return "text/html", config_pages.confirmation(server.addresses, tid, page, query)
        return "text/html", self._dialog(tid, page, [])

    def _post(self, path: str, query: str) -> tuple[str, str]:
        origin = self.headers.get("Origin", self.server.origin)
        if origin.removeprefix("http://") not in self.server.hosts:
            raise _Answer(HTTPStatus.FORBIDDEN, "The form was not on a page of this server.")
        tid, page = self._device(path)
        return "text/html", self._dialog(tid, page, self._form())

    def _device(self, path: str) -> tuple[int, int]:
        found = _DEVICE_PATH.fullmatch(path)
        if found is None or int(found[2]) > 0xFFFF_FFFF:
            raise _Answer(HTTPStatus.NOT_FOUND, "There is no such page.")
        return int(found[1], 16), int(found[2])

    def _form(self) -> list[tuple[str, str]]:
        """Read the fields of a form that is submitted."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise _Answer(HTTPStatus.LENGTH_REQUIRED, "The form comes without its length.")
        if len(length) > 8 or int(length) > MAX_QUERY:
            self.close_connection = True
            raise _Answer(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A form has at most {MAX_QUERY} bytes."
            )
        body = self.rfile.read(int(length))
        if self.headers.get_content_type() != "application/x-www-form-urlencoded":
            raise _Answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "That is no form.")
        try:
            return parse_qsl(
                body.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(body),
                errors="strict",
            )
        except ValueError:
            raise _Answer(HTTPStatus.BAD_REQUEST, "The form cannot be read.") from None

    def _dialog(self, tid: int, page: int, form: list[tuple[str, str]]) -> str:
        server = self.server
        with server.iop_lock:
            try:
                name = server.iop.device(tid).class_name if tid else "executive"
            except InvalidArgument as error:
                raise _Answer(HTTPStatus.NOT_FOUND, explain(error)) from None
            data = server.iop.config_page(tid, page, form)
        return config_pages.device_page(server.addresses, tid, name, page, data)
