# SPDX-License-Identifier: Apache-2.0
"""`i2o lct`: the devices of an IOP."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from i2o.decode.values import is_text
from i2o.frames.tables import LctDeviceFlags
from i2o.resources import Lct, LctEntry
from i2o.tools import output
from i2o.tools.arguments import SubParsers
from i2o.tools.listing import add_list_parser, show_tables


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    add_list_parser(subparsers, "lct", summary, __doc__, run)


def run(args: argparse.Namespace) -> int:
    """Print the table of every IOP asked for."""
    return show_tables(
        args,
        records=lambda iop: map(record, iop.devices),
        head=lambda iop: summary_of(iop.lct),
        lines=lambda iop: rows(iop.lct),
    )


def summary_of(lct: Lct) -> str:
    """Return what the table's header says."""
    boot = f", boot device {lct.boot_device_tid:#05x}" if lct.boot_device_tid else ""
    return (
        f"{output.plural(len(lct.devices), 'device')}, change indicator "
        f"{lct.change_indicator}{boot}"
    )


def rows(lct: Lct, *, indent: int = 0) -> list[str]:
    """Return the table as lines."""
    return output.table(
        ("TID", "class", "sub", "user", "parent", "events", "tag", "flags"),
        [
            (
                f"{entry.tid:#05x}",
                output.printable(entry.class_name),
                f"{entry.sub_class:#x}",
                "free" if entry.is_free else f"{entry.user_tid:#05x}",
                f"{entry.parent_tid:#05x}",
                f"{entry.event_capabilities:#010x}",
                tag_text(entry.identity_tag),
                flags_text(entry.device_flags),
            )
            for entry in lct.devices
        ],
        indent=indent,
    )


def tag_text(tag: bytes) -> str:
    """Return an identity tag: text, or hexadecimal."""
    return tag.rstrip(b"\0 ").decode("ascii") if is_text(tag) else tag.hex()


def flags_text(flags: int) -> str:
    """Return the names of device flags."""
    names = [(flag.name or "").lower() for flag in LctDeviceFlags if flags & flag == flag and flag]
    return ",".join(names) or "-"


def record(entry: LctEntry) -> dict[str, object]:
    """Return an entry for JSON."""
    values = asdict(entry)
    values["identity_tag"] = tag_text(entry.identity_tag)
    return {**values, "class_name": entry.class_name, "free": entry.is_free}
