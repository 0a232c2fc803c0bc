# SPDX-License-Identifier: Apache-2.0
"""`i2o download`: sends a module (a DDM, firmware) to an IOP; lists, fetches and removes them.

FILE is sent as it is. Its organization and module number are taken from the module header that it
begins with; without one --organization and --module name them.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from i2o import opening
from i2o.errors import I2OError, ParameterError, RequestFailed
from i2o.frames.executive import SwType
from i2o.frames.header import DetailedStatus
from i2o.software import MAX_SIZE, ModuleId, Software, StoredModule, name_in_header, type_name
from i2o.tools import files, output
from i2o.tools.arguments import (
    SubParsers,
    UsageError,
    add_iop,
    add_json,
    add_progress,
    add_yes,
    check_yes,
    number_up_to,
    size,
    with_faults,
)
from i2o.tools.failures import OK, explain

if TYPE_CHECKING:
    from i2o.iop import Iop

_ONLY: Final = {
    "organization": ("download", "upload", "remove"),
    "module": ("download", "upload", "remove"),
    "type": ("download", "upload", "remove"),
    "permanent": ("download",),
    "override": ("download",),
    "verify": ("download",),
    "size": ("upload",),
}
"""Options, and the actions that they belong to."""


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("download", help=summary, description=__doc__)
    parser.add_argument("file", nargs="?", metavar="FILE", help="what to send; - is stdin")
    parser.add_argument("--list", action="store_true", help="show what the IOP has stored instead")
    parser.add_argument("--upload", metavar="FILE", help="fetch the module instead; - is stdout")
    parser.add_argument("--remove", action="store_true", help="remove the module instead")
    parser.add_argument(
        "--type",
        type=_type,
        metavar="TYPE",
        help=f"what it is: {', '.join(map(type_name, SwType))} or a number (ddm)",
    )
    parser.add_argument("--organization", type=_id, metavar="NUMBER", help="who made it")
    parser.add_argument("--module", type=_id, metavar="NUMBER", help="which of theirs it is")
    parser.add_argument("--permanent", action="store_true", help="it is to outlive a reset")
    parser.add_argument("--override", action="store_true", help="replace one of the same name")
    parser.add_argument("--verify", action="store_true", help="fetch it again and compare")
    parser.add_argument(
        "--size", type=size, metavar="SIZE", help="with --upload: its size, if the IOP does not say"
    )
    add_yes(parser)
    add_iop(parser)
    add_json(parser)
    add_progress(parser)
    parser.set_defaults(run=run)


def _type(text: str) -> int:
    names = {type_name(kind): int(kind) for kind in SwType}
    value = names.get(text.lower())
    if value is None and not text[:1].isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no type; known are {', '.join(names)}")
    return number_up_to(0xFF, text, "type") if value is None else value


def _id(text: str) -> int:
    return number_up_to(0xFFFF, text, "number of 16 bits")


def run(args: argparse.Namespace) -> int:
    """Do one of the four actions."""
    action = _action(args)
    if action == "list":
        return _list(args)
    if action == "download":
        return _download(args)
    if action == "upload":
        return _upload(args)
    return _remove(args)


def _action(args: argparse.Namespace) -> str:
    asked = {
        "download": args.file is not None,
        "list": args.list,
        "upload": args.upload is not None,
        "remove": args.remove,
    }
    chosen = [name for name, is_asked in asked.items() if is_asked]
    if len(chosen) != 1:
        raise UsageError(
            "one of FILE, --list, --upload FILE and --remove says what to do",
            remedy=f"given are {len(chosen)}" if chosen else "see i2o download --help",
        )
    for option, actions in _ONLY.items():
        if getattr(args, option) not in (None, False) and chosen[0] not in actions:
            wanted = ", ".join("FILE" if one == "download" else f"--{one}" for one in actions)
            raise UsageError(f"--{option} goes with {wanted}")
    return chosen[0]


def _named(args: argparse.Namespace, data: bytes = b"") -> ModuleId:
    """Return which module is meant, with the help of what the file says.

    Raises:
        UsageError: nothing tells.
    """
    known = name_in_header(data) or (None, None)
    organization, module = (
        from_header if given is None else given
        for given, from_header in zip((args.organization, args.module), known, strict=True)
    )
    if organization is None or module is None:
        why = f"{args.file} does not begin with a module header" if data else "no module is named"
        raise UsageError(
            output.printable(why), remedy="name it: --organization NUMBER --module NUMBER"
        )
    return ModuleId(int(SwType.DDM) if args.type is None else args.type, organization, module)


# --- list ----------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    with opening.open(with_faults(args.iop, args.faults)) as iop:
        stored = iop.software.modules()
        if args.json:
            for module in stored:
                output.emit(asdict(module))
            return OK
        output.show(*_lines(stored))
        try:
            space = iop.software.space()
        except ParameterError:
            return OK  # it does not tell
    output.show(
        f"{space.module_count:,} of {output.plural(space.module_limit, 'module')}, "
        f"{output.human_size(space.current_space)} used, "
        f"{output.human_size(space.free_space)} free"
    )
    return OK


def _lines(stored: tuple[StoredModule, ...]) -> list[str]:
    if not stored:
        return []
    rows = [
        (
            str(module.index),
            f"{module.organization_id:#06x}",
            f"{module.module_id:#06x}",
            f"{module.version:#x}",
            f"{module.size:,}",
            f"{module.flags:#x}",
            "-" if module.tid is None else f"{module.tid:#05x}",
            output.printable(module.name),
        )
        for module in stored
    ]
    headers = ("no.", "organization", "module", "version", "bytes", "flags", "TID", "name")
    return output.table(headers, rows, right="no. version bytes flags")


# --- download ------------------------------------------------------------------------------------


def _download(args: argparse.Namespace) -> int:
    check_yes(args, "whose software would be changed")
    with files.source(args.file, MAX_SIZE, "that a module may have") as (opened, length):
        data = opened.read(length)
    if not data:
        raise UsageError(f"{output.printable(args.file)} is empty", remedy="name a module's file")
    module = _named(args, data)
    with opening.open(with_faults(args.iop, args.faults)) as iop:
        with output.Progress("sending", len(data), force=args.progress) as progress:
            try:
                iop.software.download(
                    module,
                    data,
                    permanent=args.permanent,
                    override=args.override,
                    progress=progress,
                )
            except RequestFailed as error:
                is_there = not args.override and error.detail == DetailedStatus.DEVICE_BUSY
                raise _with_remedy(
                    error, "is it there already? --override replaces it" if is_there else ""
                ) from None
            seconds = progress.seconds
        if args.verify:
            _verify(iop.software, module, data, is_shown=args.progress)
        tid = _tid(iop, module)
    digest = hashlib.sha256(data).hexdigest()
    if args.json:
        record = {"permanent": args.permanent, "verified": args.verify, "tid": tid}
        output.emit({**_record(module, data, seconds), "sha256": digest, **record})
        return OK
    remarks = [
        f"{output.human_size(len(data))} as {module}",
        "permanent" if args.permanent else "until the next reset",
        *(["verified"] if args.verify else []),
        *([f"runs as TID {tid:#05x}"] if tid is not None else []),
        output.rate(len(data), seconds),
    ]
    output.note(", ".join(remarks))
    return OK


def _with_remedy(error: RequestFailed, remedy: str) -> RequestFailed:
    """Say what to do about a status; a FAIL frame has none."""
    if error.req_status is None or not remedy:
        return error
    return RequestFailed(
        f"{explain(error)} ({remedy})", req_status=error.req_status, detail=error.detail
    )


def _verify(software: Software, module: ModuleId, data: bytes, *, is_shown: bool) -> None:
    """Fetch what was sent.

    Raises:
        I2OError: it is something else.
    """
    with output.Progress("verifying", len(data), force=is_shown) as progress:
        back = software.upload(module, len(data), progress=progress)
    if back != data:
        at = next(
            at for at, (one, other) in enumerate(zip(back, data, strict=True)) if one != other
        )
        raise I2OError(f"{module} came back different, from byte {at} on: send it again")


def _tid(iop: Iop, module: ModuleId) -> int | None:
    """Return the TID that a DDM was started with, if the IOP tells."""
    if module.sw_type != SwType.DDM:
        return None
    try:
        stored = iop.software.modules()
    except ParameterError:
        return None
    for one in stored:
        if (one.organization_id, one.module_id) == module[1:]:
            return one.tid
    return None


# --- upload and remove ---------------------------------------------------------------------------


def _upload(args: argparse.Namespace) -> int:
    module = _named(args)
    to_stdout = args.upload == "-"
    if to_stdout and output.is_terminal(sys.stdout):
        raise UsageError("the bytes would go to a terminal", remedy="use --upload FILE, or a pipe")
    if to_stdout and args.json:
        raise UsageError("--json and the bytes cannot both go to stdout", remedy="use a file")
    with opening.open(with_faults(args.iop, args.faults)) as iop:
        length = iop.software.size_of(module) if args.size is None else args.size
        with output.Progress("fetching", length, force=args.progress) as progress:
            data = iop.software.upload(module, length, progress=progress)
            seconds = progress.seconds
    if to_stdout:
        output.binary_stdout().write(data)
        return OK
    with files.replacing(args.upload) as out:
        out.write(data)
    digest = hashlib.sha256(data).hexdigest()
    if args.json:
        output.emit({**_record(module, data, seconds), "sha256": digest, "output": args.upload})
    else:
        output.note(
            f"{output.human_size(len(data))} of {module} to {output.printable(args.upload)}, "
            f"{output.rate(len(data), seconds)}"
        )
    return OK


def _remove(args: argparse.Namespace) -> int:
    check_yes(args, "whose software would be changed")
    module = _named(args)
    with opening.open(with_faults(args.iop, args.faults)) as iop:
        try:
            iop.software.remove(module)
        except RequestFailed as error:
            is_unknown = error.detail == DetailedStatus.INVALID_PARAMETER
            raise _with_remedy(error, "--list shows what there is" if is_unknown else "") from None
    if args.json:
        output.emit(module._asdict())
    else:
        output.note(f"{module} removed")
    return OK


def _record(module: ModuleId, data: bytes, seconds: float) -> dict[str, object]:
    return {**module._asdict(), "size": len(data), "seconds": round(seconds, 6)}
