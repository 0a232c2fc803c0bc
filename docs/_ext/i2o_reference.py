# SPDX-License-Identifier: Apache-2.0
"""Sphinx directives that show what the code says: layouts, value names, and command line help.

`{i2o-layouts} messages|structures|parameter_groups` makes a section per layout, by chapter;
`{i2o-values}` one per class of value names; `{i2o-help} [COMMAND]` runs the real parser;
`{i2o-names} own|aliases|extras|messages` makes a table of names that filters know.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
from collections.abc import Iterable
from enum import Flag
from itertools import groupby
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from i2o.decode.extra_names import extra_names
from i2o.decode.filter_fields import FILTER_ALIASES
from i2o.decode.names import OWN_NAMES, name_of
from i2o.frames import catalog
from i2o.frames.layout import Field, Layout, MessageLayout, ParameterGroup, ValueNames
from i2o.tools.cli import main

_HELP_WIDTH = "92"


class _Generated(SphinxDirective):
    """Builds document trees by hand, so that no markup in a name can break them."""

    def section(self, title: str, target: str, *children: nodes.Node) -> nodes.section:
        """Return a section that links can lead to."""
        section = nodes.section(ids=[nodes.make_id(target)], names=[target])
        section += nodes.title(title, title)
        section += children
        return section

    def paragraph(self, text: str) -> nodes.paragraph:
        """Turn text with `code` in backticks into a paragraph."""
        paragraph = nodes.paragraph()
        for index, part in enumerate(text.split("`")):
            if part:
                paragraph += nodes.literal(part, part) if index % 2 else nodes.Text(part)
        return paragraph

    def table(self, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> nodes.table:
        """Return a table; cells are text or inline nodes."""
        head = list(head)
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=1) for _ in head]
        group += nodes.thead("", self._row(nodes.Text(name) for name in head))
        group += nodes.tbody("", *(self._row(row) for row in rows))
        return nodes.table("", group)

    def _row(self, cells: Iterable[nodes.Node | str]) -> nodes.row:
        row = nodes.row()
        for cell in cells:
            content = nodes.Text(cell) if isinstance(cell, str) else cell
            row += nodes.entry("", nodes.paragraph("", "", content))
        return row


class LayoutTables(_Generated):
    """All layouts of one kind."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return one section per chapter."""
        layouts: tuple[Layout, ...] = getattr(catalog, self.arguments[0])()
        ordered = sorted(layouts, key=lambda layout: layout.chapter)
        return [
            self.section(
                chapter, f"{self.arguments[0]}-{chapter}", *(self._layout(found) for found in group)
            )
            for chapter, group in groupby(ordered, key=lambda layout: layout.chapter)
        ]

    def _layout(self, layout: Layout) -> nodes.section:
        section = self.section(layout.name, layout.qualified_name)
        title = section[0]
        assert isinstance(title, nodes.title)
        if isinstance(layout, MessageLayout):
            title += nodes.Text(f" ({layout.direction})")
        section += self.paragraph(" ".join(_facts(layout)))
        section += self.table(
            ("Word", "Byte", "Bits", "Name", "In the specification", "Values"),
            (self._field(field) for field in layout.fields),
        )
        return section

    def _field(self, field: Field) -> Iterable[nodes.Node | str]:
        if field.kind == "bytes":
            bits = f"{field.width_bits // 8} bytes"
        else:
            bits = f"{field.bit + field.width_bits - 1}:{field.bit}"
        yield str(field.byte // 4)
        yield f"{field.byte:#04x}"
        yield bits + (" signed" if field.kind == "sint" else "")
        yield nodes.literal(field.path, field.path)
        yield field.spec_name
        yield self._link(field.enum) if field.enum else ""

    def _link(self, names: ValueNames) -> nodes.Node:
        return addnodes.pending_xref(
            "",
            nodes.literal(names.__name__, names.__name__),
            refdomain="std",
            reftype="ref",
            refexplicit=True,
            reftarget=_label(names),
            refdoc=self.env.docname,
            refwarn=True,
        )


class ValueTables(_Generated):
    """The classes that name values."""

    def run(self) -> list[nodes.Node]:
        """Return one section per class."""
        return [self._names(names) for names in _all_value_names()]

    def _names(self, names: ValueNames) -> nodes.section:
        standard = self.env.get_domain("std")
        target = _label(names)
        standard.note_hyperlink_target(target, self.env.docname, target, names.__name__)
        kind = "Flags" if issubclass(names, Flag) else "Values"
        return self.section(
            names.__name__,
            target,
            self.paragraph(f"{kind} in `{names.__module__}`. {inspect.getdoc(names) or ''}"),
            self.table(
                ("Name", "Value"),
                (
                    (nodes.literal(name, name), f"{member.value:#04x}")
                    for name, member in names.__members__.items()
                ),
            ),
        )


class CommandHelp(_Generated):
    """What `i2o [COMMAND] --help` prints."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the text as a literal block."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output), _environment(COLUMNS=_HELP_WIDTH, NO_COLOR="1"):
            code = main([*self.arguments, "--help"])
        text = output.getvalue().rstrip()
        if code or not text:
            raise self.error(f"i2o {' '.join(self.arguments)} --help gave {code}: {text}")
        return [nodes.literal_block(text, text, language="text")]


class FilterNames(_Generated):
    """Names that filters know."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a table of one kind of names."""
        kind = self.arguments[0]
        if kind == "aliases":
            rows = [(_literal(name), _literal(full)) for name, full in FILTER_ALIASES.items()]
            return [self.table(("Name", "Stands for"), rows)]
        if kind == "messages":
            found: dict[str, list[Layout]] = {}
            for layout in catalog.messages():
                for field in layout.fields:
                    found.setdefault(name_of(field), []).append(layout)
            rows = [
                (_literal(name), ", ".join(sorted({layout.name for layout in layouts}))
                 if len(layouts) <= 6 else f"{len(layouts)} messages")
                for name, layouts in sorted(found.items())
            ]  # fmt: skip
            return [self.table(("Name", "In"), rows)]
        names = OWN_NAMES if kind == "own" else tuple(extra_names().values())
        return [
            self.table(
                ("Name", "Kind", "What it is"),
                ((_literal(name.name), _KINDS[name.kind], name.text) for name in names),
            )
        ]


_KINDS = {"uint": "number", "sint": "number", "bytes": "bytes", "text": "text", "number": "time"}


def _literal(text: str) -> nodes.literal:
    return nodes.literal(text, text)


def _facts(layout: Layout) -> Iterable[str]:
    if isinstance(layout, MessageLayout) and layout.function is not None:
        yield f"Function {layout.function:#04x}."
    if isinstance(layout, ParameterGroup):
        yield f"Group {layout.number:#06x}, {'a table' if layout.is_table else 'scalar'}."
    yield f"{layout.size} bytes."
    if isinstance(layout, MessageLayout) and layout.sgl_word_offset:
        yield f"A scatter/gather list follows from word {layout.sgl_word_offset}."
    yield f"Declared as `{layout.qualified_name}`."
    if layout.reference:
        yield f"{layout.reference}."
    if layout.note:
        yield layout.note


def _all_value_names() -> list[ValueNames]:
    layouts = (*catalog.messages(), *catalog.structures(), *catalog.parameter_groups())
    found = {field.enum for layout in layouts for field in layout.fields if field.enum}
    return sorted(found, key=lambda names: names.__name__)


def _label(names: ValueNames) -> str:
    return nodes.make_id(f"values-{names.__name__}")


@contextlib.contextmanager
def _environment(**values: str) -> Any:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("i2o-layouts", LayoutTables)
    app.add_directive("i2o-values", ValueTables)
    app.add_directive("i2o-help", CommandHelp)
    app.add_directive("i2o-names", FilterNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
