# SPDX-License-Identifier: Apache-2.0
"""Takes a device's HTML apart and puts together only what cannot do harm.

Tags and attributes that are not listed here are left out, scripts and styles with their content.
Every link and form ends at a page of the same device, or nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from html.parser import HTMLParser
from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TEXT_TAGS: Final = _words(
    "h1 h2 h3 h4 h5 h6 p br hr div span b i u em strong small big tt code pre center blockquote "
    "ul ol li dl dt dd table thead tbody tfoot tr th td caption label fieldset legend "
    "a form input select option optgroup textarea button"
)
_VOID_TAGS: Final = frozenset({"br", "hr", "input"})
_DROPPED_WITH_CONTENT: Final = _words(
    "script style title iframe object applet noscript noframes noembed template svg math xmp "
    "audio video canvas"
)
_ATTRIBUTES: Final[Mapping[str, frozenset[str]]] = {
    "input": _words("name value checked disabled readonly maxlength size"),
    "select": _words("name multiple size disabled"),
    "option": _words("value selected disabled"),
    "optgroup": frozenset({"label"}),
    "textarea": _words("name rows cols readonly disabled"),
    "button": _words("name value disabled"),
    "label": frozenset({"for"}),
    "td": _words("colspan rowspan align"),
    "th": _words("colspan rowspan align"),
}
_EVERYWHERE: Final = frozenset({"id", "title"})
_CLASSES: Final = frozenset({"error", "notice"})
_INPUT_TYPES: Final = _words("text password number checkbox radio hidden submit reset")
_CLOSED_BY: Final[Mapping[str, frozenset[str]]] = {
    "li": frozenset({"li"}),
    "p": frozenset({"p"}),
    "option": frozenset({"option"}),
    "dt": frozenset({"dt", "dd"}),
    "dd": frozenset({"dt", "dd"}),
    "td": frozenset({"td", "th"}),
    "th": frozenset({"td", "th"}),
    "tr": frozenset({"td", "th", "tr"}),
}
_MAX_DEPTH: Final = 100
_PAGE: Final = re.compile(r"(?:\./)?(?:\?page=)?([0-9]{1,10})(?:[?&]([^#]*))?(?:#.*)?")
_MAX_PAGE: Final = (1 << 32) - 1

PageAddress = Callable[[int, str], str]


def clean(html: str, page: int, address: PageAddress) -> str:
    """Return the harmless part of a device's page.

    Args:
        html: the page, or a part of one.
        page: its number.
        address: makes the address of a page number and a query (empty if there is none).

    Returns:
        HTML for the body of a page; every element that is opened is closed.
    """
    cleaner = _Cleaner(page, address)
    cleaner.feed(html)
    cleaner.close()
    return cleaner.result()


def page_named(link: str, page: int) -> tuple[int, str] | None:
    """Return page number and query that a link of a page means; None if it leads elsewhere.

    Args:
        link: as in `3`, `3?a=b` or `?page=3&a=b`; nothing, or `#place`, is the page itself.
        page: the page that it is on.
    """
    wanted = link.strip()
    if not wanted or wanted.startswith("#"):
        return page, ""
    found = _PAGE.fullmatch(wanted)
    if found is None or int(found[1]) > _MAX_PAGE:
        return None
    return int(found[1]), found[2] or ""


class _Cleaner(HTMLParser):
    def __init__(self, page: int, address: PageAddress) -> None:
        super().__init__(convert_charrefs=True)
        self._page, self._address = page, address
        self._parts: list[str] = []
        self._open: list[str] = []
        self._dropping: list[str] = []

    def result(self) -> str:
        """Close what is open and return everything."""
        while self._open:
            self._close_last()
        return "".join(self._parts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Write a tag that is allowed, with what is allowed of its attributes."""
        if tag in _DROPPED_WITH_CONTENT:
            if len(self._dropping) < _MAX_DEPTH:
                self._dropping.append(tag)
            return
        if self._dropping:
            return
        given = {name: value or "" for name, value in attrs}
        if tag == "img":
            self._parts.append(escape(given.get("alt", "")))
        if tag not in _TEXT_TAGS:
            return
        while self._open and self._open[-1] in _CLOSED_BY.get(tag, ()):
            self._close_last()
        if tag not in _VOID_TAGS:
            if len(self._open) >= _MAX_DEPTH or (tag == "form" and "form" in self._open):
                return
            self._open.append(tag)
        kept = "".join(
            f' {name}="{escape(value)}"' for name, value in self._kept(tag, given).items()
        )
        self._parts.append(f"<{tag}{kept}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take `<tag/>` as browsers do: the slash means nothing."""
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close an element that is open, and what is open inside."""
        if self._dropping:
            if tag == self._dropping[-1]:
                self._dropping.pop()
        elif tag in self._open:
            while self._close_last() != tag:
                pass

    def handle_data(self, data: str) -> None:
        """Write text."""
        if not self._dropping:
            self._parts.append(escape(data))

    def _close_last(self) -> str:
        tag = self._open.pop()
        self._parts.append(f"</{tag}>")
        return tag

    def _kept(self, tag: str, given: Mapping[str, str]) -> dict[str, str]:
        allowed = _ATTRIBUTES.get(tag, frozenset()) | _EVERYWHERE
        kept = {name: value for name, value in given.items() if name in allowed}
        if given.get("class") in _CLASSES:
            kept["class"] = given["class"]
        if tag == "a":
            self._lead(kept, "href", given.get("href"))
        elif tag == "form":
            kept["method"] = "post"
            if not self._lead(kept, "action", given.get("action", "")):
                kept["inert"] = ""
        elif tag == "input":
            kind = given.get("type", "text").lower()
            kept["type"] = kind if kind in _INPUT_TYPES else "text"
        elif tag == "button":
            kept["type"] = "reset" if given.get("type", "").lower() == "reset" else "submit"
        return kept

    def _lead(self, kept: dict[str, str], name: str, link: str | None) -> bool:
        found = None if link is None else page_named(link, self._page)
        if found is not None:
            kept[name] = self._address(*found)
        return found is not None
