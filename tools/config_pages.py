# SPDX-License-Identifier: Apache-2.0
"""The pages that `i2o config` shows: the list of devices, a device's page in our frame, errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Final
from urllib.parse import parse_qsl

from i2o.bring_up import EXECUTIVE_TID
from i2o.frames.tables import LctDeviceFlags
from i2o.resources import LctEntry
from i2o.tools.html_filter import clean
from i2o.tools.output import printable

STYLE: Final = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; color: #1c2733; background: #f3f5f7; }
header { background: #1c2733; padding: 10px 24px; color: #c9d3dd; }
header a { color: #fff; font-weight: 600; text-decoration: none; margin-right: 18px; }
main { max-width: 820px; margin: 24px auto; padding: 8px 28px 24px; background: #fff;
       border: 1px solid #d8dee4; border-radius: 6px; }
h1 { font-size: 22px; } h2 { font-size: 17px; margin-top: 26px; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid #e6eaee;
         vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
input, select, button, textarea { font: inherit; padding: 3px 6px; }
.error { color: #a40e26; } .notice { color: #116329; font-weight: 600; }
.quiet { color: #5b6976; }
"""


@dataclass(frozen=True)
class Addresses:
    """Where pages are.

    Attributes:
        root: path of the list of devices; ends with a slash.
    """

    root: str

    @property
    def style(self) -> str:
        """Path of the style sheet."""
        return f"{self.root}style.css"

    def page(self, tid: int, page: int, query: str = "") -> str:
        """Path of a device's page."""
        return f"{self.root}{tid:03x}/{page}" + (f"?{query}" if query else "")


def index(where: Addresses, uri: str, devices: Iterable[LctEntry]) -> str:
    """Return the list of devices."""
    listed = list(devices)
    rows = []
    if not any(entry.tid == EXECUTIVE_TID for entry in listed):
        rows.append(_device(where, EXECUTIVE_TID, "executive", "", ""))
    for entry in listed:
        asks = "asks for it" if entry.device_flags & LctDeviceFlags.CONF_DIALOG_REQUEST else ""
        tag = printable(entry.identity_tag.rstrip(b"\0 ").decode("ascii", "replace"))
        rows.append(_device(where, entry.tid, entry.class_name, tag, asks))
    body = (
        "<h1>Configuration dialogs</h1>\n"
        f'<p class="quiet">{escape(uri)}</p>\n'
        "<table>\n<tr><th>TID</th><th>class</th><th>name</th><th></th></tr>\n"
        + "".join(rows)
        + "</table>\n"
    )
    return document(where, "Configuration dialogs", body)


def device_page(where: Addresses, tid: int, class_name: str, page: int, data: bytes) -> str:
    """Return a device's page, cleaned, in our frame."""
    content = clean(text_of(data), page, lambda number, query: where.page(tid, number, query))
    return document(where, f"TID {tid:#05x}", content, place=f"TID {tid:#05x}, {class_name}")


def confirmation(where: Addresses, tid: int, page: int, query: str) -> str:
    """Return what stands between a link with a query and the device: only forms change things."""
    pairs = parse_qsl(query, keep_blank_values=True)
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in pairs
    )
    shown = ", ".join(f"{name} = {value}" for name, value in pairs) or query
    body = (
        f"<h1>Send this to the device?</h1>\n<p>{escape(shown)}</p>\n"
        f'<form method="post" action="{escape(where.page(tid, page))}">{fields}'
        '<input type="submit" value="Send"></form>\n'
    )
    return document(where, "Send this to the device?", body, place=f"TID {tid:#05x}")


def problem(where: Addresses | None, title: str, sentence: str) -> str:
    """Return an error page; without links for somebody who does not know the addresses."""
    body = f'<h1>{escape(title)}</h1>\n<p class="error">{escape(sentence)}</p>\n'
    return document(where, title, body)


def document(where: Addresses | None, title: str, body: str, *, place: str = "") -> str:
    """Return a whole page."""
    style = head = ""
    if where is not None:
        style = f'<link rel="stylesheet" href="{escape(where.style)}">'
        home = f'<a href="{escape(where.root)}">All devices</a>'
        head = f"<header>{home}{escape(place)}</header>\n"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{escape(title)} - i2o config</title>{style}</head>\n"
        f"<body>\n{head}<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def text_of(data: bytes) -> str:
    """Decode a device's page: UTF-8, or else Latin-1, which takes any bytes."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _device(where: Addresses, tid: int, class_name: str, name: str, asks: str) -> str:
    link = f'<a href="{escape(where.page(tid, 0))}">{tid:#05x}</a>'
    cells = (link, escape(class_name), escape(name), f'<span class="error">{asks}</span>')
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
