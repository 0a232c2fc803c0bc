# SPDX-License-Identifier: Apache-2.0
"""What is left of a device's HTML: nothing that runs, loads or leads elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2o.tools.html_filter import clean, page_named

DANGEROUS = ("script", "style", "iframe", "object", "embed", "base", "meta", "link", "svg", "img")


def cleaned(html: str, page: int = 7) -> str:
    return clean(html, page, lambda number, query: f"/d/{number}" + (f"?{query}" if query else ""))


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("<p>one<p>two", "<p>one</p><p>two</p>"),
        ("<ul><li>1<li>2</ul>", "<ul><li>1</li><li>2</li></ul>"),
        (
            "<table><tr><td>1<td>2<tr><th>3</table>x",
            "<table><tr><td>1</td><td>2</td></tr><tr><th>3</th></tr></table>x",
        ),
        ("<b><i>x</b></i>", "<b><i>x</i></b>"),
        ("</div></body></html></main>x", "x"),
        ("<h1 onclick=x() style=y class=evil>t</h1>", "<h1>t</h1>"),
        ("<p class=error>t", '<p class="error">t</p>'),
        ("<script>if (a < b) x('</p>')</script>y", "y"),
        ("<SCRIPT SRC=//x></SCRIPT>y", "y"),
        ("<style>b { }</style>y", "y"),
        ("<title>t</title>y", "y"),
        ("<svg><a href=3>z</a></svg>y", "y"),
        ("<iframe src=//x>z</iframe>y", "y"),
        ("<!-- <b> --><!DOCTYPE html><?php x ?>y", "y"),
        ("<img src=//x alt='a<b'>", "a&lt;b"),
        ("<br/><hr>", "<br><hr>"),
        ("<a href=3>t</a>", '<a href="/d/3">t</a>'),
        ("<a href='3?a=1&amp;b=2'>t</a>", '<a href="/d/3?a=1&amp;b=2">t</a>'),
        ("<a href='javascript:x()'>t</a>", "<a>t</a>"),
        ("<a name=x>t</a>", "<a>t</a>"),
        ("<form>t</form>", '<form method="post" action="/d/7">t</form>'),
        ("<form method=get action=2>t", '<form method="post" action="/d/2">t</form>'),
        ("<form action=//x>t</form>", '<form method="post" inert="">t</form>'),
        ("<form><form action=2>t", '<form method="post" action="/d/7">t</form>'),
        ("<input type=file name=f>", '<input name="f" type="text">'),
        ("<input type=image src=x formaction=//x>", '<input type="text">'),
        ("<input type=checkbox checked name=f>", '<input checked="" name="f" type="checkbox">'),
        ("<button formaction=//x>t</button>", '<button type="submit">t</button>'),
        ("<button type=reset>t</button>", '<button type="reset">t</button>'),
        (
            "<select name=s><option value=1>a<option selected>b</select>",
            '<select name="s"><option value="1">a</option><option selected="">b</option></select>',
        ),
        ("<select><option>a<optgroup label='g\"'>b", None),
        ("&lt;script&gt;", "&lt;script&gt;"),
    ],
)
def test_what_is_left(html, expected):
    result = cleaned(html)
    if expected is not None:
        assert result == expected
    check(result)


def check(html: str) -> None:
    """Check that a page is closed and has nothing in it that is not allowed."""
    opened: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in DANGEROUS
            if tag not in ("br", "hr", "input"):
                opened.append(tag)
            for name, value in attrs:
                assert not name.startswith("on")
                assert name not in ("style", "src", "formaction")
                if name in ("href", "action"):
                    assert re.match(r"/d/\d+(\?|$)", value)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    checker = Checker()
    checker.feed(html)
    checker.close()
    assert opened == []


@given(
    st.lists(
        st.one_of(
            st.text(max_size=8),
            st.sampled_from([
                "<", ">", '"', "'", "</", "<!--", "-->", "<![CDATA[", "<script>", "</script>",
                "<form action='", "<a href=", "javascript:x", "//e", "<td>", "<tr", "<table>",
                "</table>", "<p ", "onload=x", "<svg>", "<style>", "</style>", "<title>",
                "&#60;", "<input type=", "<textarea>", "</textarea>", "<template>",
                "<plaintext>", "<select>",
            ]),
        ),
        max_size=12,
    ).map("".join)
)  # fmt: skip
def test_nothing_that_a_device_can_write_gets_through(html):
    check(cleaned(html))


def test_deep_nesting_ends_somewhere():
    result = cleaned("<div>" * 5000 + "x" + "</div>" * 5000)
    assert result.count("<div>") == result.count("</div>") == 100
    assert cleaned("<svg>" * 5000 + "x" + "</svg>" * 5000 + "y") in ("y", "")


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("", (7, "")),
        ("#there", (7, "")),
        ("3", (3, "")),
        (" ./3 ", (3, "")),
        ("3#there", (3, "")),
        ("3?a=b#c", (3, "a=b")),
        ("?page=3", (3, "")),
        ("?page=3&a=b", (3, "a=b")),
        ("4294967295", (4294967295, "")),
        ("4294967296", None),
        ("../3", None),
        ("/3", None),
        ("//3", None),
        ("3/4", None),
        ("٣", None),
        ("javascript:3", None),
        ("http://x/3", None),
    ],
)
def test_where_links_lead(link, expected):
    assert page_named(link, 7) == expected
