# SPDX-License-Identifier: Apache-2.0
"""`i2o demo`: the main job from end to end, with nothing else installed.

Starts a software IOP with a disk, brings it up, shows what it says about itself and what is on the
disk, moves data through I2O messages and checks it by hash, reads an archive from the I2O disk, and
takes one request and its reply apart. All traffic is kept in i2o-demo.pcapng in the working folder.
Without --disk the disk is a temporary image; with --disk it is your own, read only unless --write
is given. With -i any IOP is read from.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Final

from i2o import capture, opening
from i2o.block import BlockDevice
from i2o.errors import I2OError
from i2o.frames import catalog
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.layout import Layout
from i2o.iop import Iop
from i2o.tools import archives, disk_content, files, hrt, lct, output, params, status
from i2o.tools.arguments import (
    SubParsers,
    UsageError,
    add_faults,
    add_json,
    add_progress,
    size,
    with_faults,
)
from i2o.tools.demo_capture import DemoRecorder, Recorded
from i2o.tools.demo_osm import DiskOsm
from i2o.tools.disk_content import Content
from i2o.tools.failures import NEGATIVE, OK
from i2o.tools.frame_view import frame_lines, frame_rows, hex_lines
from i2o.tools.story import Story
from i2o.transport.port import Port
from i2o.transport.registry import open_port

DEFAULT_SIZE: Final = 32 << 20
MIN_SIZE: Final = 4 << 20
MAX_MOVED: Final = 64 << 20
MAX_WRITTEN: Final = 256 << 20  # what is written to a disk of our own is kept in memory
_BLOCK_CLASS: Final = DeviceClass.RANDOM_BLOCK_STORAGE.value
_SECTOR: Final = 512
_SHOWN: Final = 24
_LINE: Final = 77

_BRING_UP_WORDS: Final = {
    Function.EXEC_STATUS_GET.value: "what state are you in?",
    Function.EXEC_IOP_RESET.value: "start afresh",
    Function.UTIL_NOP.value: "give the first frame back",
    Function.EXEC_OUTBOUND_INIT.value: "here are frames for your replies",
    Function.EXEC_HRT_GET.value: "which adapters do you have?",
    Function.EXEC_SYS_TAB_SET.value: "here are all IOPs of this machine",
    Function.EXEC_SYS_ENABLE.value: "go OPERATIONAL",
    Function.EXEC_LCT_NOTIFY.value: "which devices do you have?",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the demo runs on.

    Attributes:
        uri: the IOP.
        images: image files behind its disks, in TID order; empty if not known.
        own: the disk is ours, to be written to as we like.
        write_back: write what was read back, unchanged.
        about: one sentence on the disk.
    """

    uri: str
    images: tuple[str, ...]
    own: bool
    write_back: bool
    about: tuple[str, ...]


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("demo", help=summary, description=__doc__)
    parser.add_argument(
        "--disk", metavar="FILE", action="append", default=[], help="a disk image; repeatable"
    )
    parser.add_argument(
        "--write", action="store_true", help="also write the blocks of --disk back, unchanged"
    )
    parser.add_argument(
        "--size", type=size, metavar="SIZE", help="size of the temporary disk (32M)"
    )
    parser.add_argument(
        "--count", type=size, metavar="SIZE", help="bytes to move of each disk (64M)"
    )
    parser.add_argument("-i", "--iop", metavar="URI", help="use this IOP; its disks are only read")
    add_faults(parser)
    add_json(parser)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; 1 if a comparison failed."""
    start = time.perf_counter()
    with _plan(args) as plan:
        story = Story(as_json=args.json)
        plan = replace(plan, uri=with_faults(plan.uri, args.faults))
        _Demo(plan, story, args.count, force_progress=args.progress).run()
    seconds = time.perf_counter() - start
    good = not story.failed
    if good:
        story.headline(
            f"Everything agrees ({output.plural(story.checks, 'check')}); {seconds:.2f} s in all.",
            output.GREEN,
        )
    else:
        story.headline(f"{story.failed} of {story.checks} checks failed.", output.RED)
    story.record("end", checks=story.checks, failed=story.failed, seconds=round(seconds, 3))
    return OK if good else NEGATIVE


@contextmanager
def _plan(args: argparse.Namespace) -> Iterator[Plan]:
    """Check the options, make the temporary disk if there is to be one, and remove it."""
    if args.iop is not None and args.disk:
        raise UsageError("-i and --disk exclude one another", remedy="-i 'emu:?disk=FILE' has both")
    if args.write and not args.disk:
        raise UsageError("--write needs --disk: other disks are written anyway, or never")
    if args.size is not None and (args.disk or args.iop is not None):
        raise UsageError("--size is for the temporary disk: it goes with neither --disk nor -i")
    if args.count is not None and (not args.count or args.count % _SECTOR):
        raise UsageError(f"--count {args.count} is no whole number of blocks of {_SECTOR}")
    if args.iop is not None:
        yield Plan(args.iop, (), False, False, (f"the disks of {args.iop}, which are only read",))
    elif args.disk:
        yield _own_images(args.disk, write=args.write)
    else:
        total = DEFAULT_SIZE if args.size is None else args.size
        if total < MIN_SIZE or total % _SECTOR:
            raise UsageError(
                f"--size {total} is no disk: {MIN_SIZE >> 20}M or more, in blocks of {_SECTOR}"
            )
        if args.count is not None and args.count > MAX_WRITTEN:
            raise UsageError(f"--count of the temporary disk ends at {MAX_WRITTEN >> 20}M")
        with files.temporary_folder() as folder:
            path = os.path.join(folder, "disk.img")
            with open(path, "wb") as image:
                image.truncate(total)
            about = f"a temporary image of {output.human_size(total)}, removed at the end"
            yield Plan(_uri([path], ""), (path,), True, False, (about,))


def _own_images(paths: list[str], *, write: bool) -> Plan:
    about = []
    for path in paths:
        total = files.check_image(path, writable=write)
        how = "blocks are written back unchanged" if write else "read-only"
        about.append(f"{output.printable(path)}, {output.human_size(total)}, {how}")
    if write and len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UsageError("an image is given twice: with --write each can be used once")
    return Plan(_uri(paths, "" if write else ",ro"), tuple(paths), False, write, tuple(about))


def _uri(paths: list[str], flags: str) -> str:
    return "emu:?" + "&".join(f"disk={files.disk_option(path)}{flags}" for path in paths)


class _Demo:
    """One run of the demo."""

    def __init__(
        self, plan: Plan, story: Story, count: int | None, *, force_progress: bool
    ) -> None:
        self.plan, self.story = plan, story
        self.limit = MAX_MOVED if count is None else count
        self.force_progress = force_progress

    def run(self) -> None:
        """Tell the whole story."""
        story, plan = self.story, self.plan
        story.headline("i2o demo: an IOP, a disk behind it, and data through I2O messages")
        story.section("The disk")
        story.say(*plan.about)
        story.section("Bring-up")
        port = open_port(plan.uri)
        with DemoRecorder(plan.uri) as recorder:
            self._use_iop(capture.tapped(port, recorder), recorder)
        self._tell_capture(recorder)

    def _use_iop(self, port: Port, recorder: DemoRecorder) -> None:
        plan = self.plan
        start_ns = time.time_ns()
        recorder.keep()
        layer = opening.default_message_layer()
        with opening.open(port, layer=layer) as iop:
            seconds = (time.time_ns() - start_ns) / 1e9
            self._tell_bring_up(recorder.kept(), start_ns, seconds)
            self._tell_tables(iop)
            disks = iop.of_class(_BLOCK_CLASS)
            if not disks:
                raise I2OError(f"{plan.uri} has no block device to show")
            for index, entry in enumerate(disks):
                image = plan.images[index] if plan.images else None
                self._disk(iop, entry.tid, image, recorder)
            self._tell_end(iop)

    # --- the IOP -------------------------------------------------------------------------------

    def _tell_bring_up(self, frames: list[Recorded], start_ns: int, seconds: float) -> None:
        requests = [recorded for recorded in frames if recorded.is_request]
        rows = []
        for recorded in requests:
            function = recorded.frame[7]
            name = catalog.function_name(function, DeviceClass.EXECUTIVE.value)
            words = _BRING_UP_WORDS.get(function, "")
            at_ms = (recorded.time_ns - start_ns) / 1e6
            rows.append((f"{at_ms:.2f} ms", name, f"{len(recorded.frame)}", words))
        table = output.table(("at", "message", "bytes", "which says"), rows, right="at bytes")
        self.story.say(
            *table,
            f"OPERATIONAL after {1e3 * seconds:.1f} ms, {output.plural(len(requests), 'request')}",
        )
        self.story.record(
            "bring_up",
            iop=self.plan.uri,
            seconds=round(seconds, 6),
            messages=[name for _, name, _, _ in rows],
        )

    def _tell_tables(self, iop: Iop) -> None:
        story = self.story
        story.section("What the IOP says about itself")
        story.say(*(f"{name:18}{text}" for name, text in status.status_pairs(iop.status)), "")
        story.say("Hardware resource table:", *hrt.rows(iop.hrt), "")
        story.say("Logical configuration table:", *lct.rows(iop.lct))
        story.record("status", **status.record(self.plan.uri, iop))
        for adapter in iop.hrt:
            story.record("hrt", **hrt.record(adapter))
        for entry in iop.devices:
            story.record("lct", **lct.record(entry))

    def _tell_end(self, iop: Iop) -> None:
        complaints = status.complaints_of(iop)
        if complaints is not None:
            self.story.say("")
            self.story.check(
                "the IOP complains about nothing this driver did",
                not complaints,
                complaints=complaints,
            )
            self.story.say(*map(output.printable, complaints))

    def _tell_capture(self, recorder: DemoRecorder) -> None:
        story, file = self.story, recorder.file
        story.section("All of it, frame by frame")
        if file is None:
            story.say(*textwrap.wrap(f"nothing was kept: {recorder.problem}", _LINE))
            story.record("capture", file=None, problem=recorder.problem)
            return
        name = output.printable(file.name)
        story.say(f"every frame and the memory it points to: {name}")
        if file.dropped:
            story.say(f"but for {output.plural(file.dropped, 'packet')}: the disk was too slow")
        story.say(f"see it with: i2o dump -r {name}")
        story.record("capture", file=file.name, dropped=file.dropped)

    # --- one disk ------------------------------------------------------------------------------

    def _disk(self, iop: Iop, tid: int, image: str | None, recorder: DemoRecorder) -> None:
        story, plan = self.story, self.plan
        story.section(f"Parameters of the disk, TID {tid:#05x}")
        for name in ("device_info", "device_identity"):
            layout = iop.group(tid, name)
            rows = params.read_rows(iop, tid, layout)
            story.say(f"{layout.number:#06x} {layout.name}", *params.group_lines(layout, rows))
            story.record("params", tid=tid, **params.json_group(layout, rows))
        with ExitStack() as opened:
            device = opened.enter_context(iop.block(tid))
            osm = opened.enter_context(DiskOsm(iop.number, tid, iop.memory))
            if plan.own:
                self._survey(device, "What is on the disk at first")
                self._write_and_read(device, osm, image)
                content = self._survey(device, "What is on the disk now")
            else:
                content = self._survey(device, "What is on the disk")
                self._read_and_compare(device, osm, image)
            self._archive(device, content)
            self._one_request(device, osm, recorder)

    def _survey(self, device: BlockDevice, title: str) -> list[Content]:
        story = self.story
        story.section(title)
        found = disk_content.survey(device.read, device.size)
        for content in found[:_SHOWN]:
            story.say(*content_lines(content))
        if len(found) > _SHOWN:
            story.say(f"and {len(found) - _SHOWN} more")
        for content in found:
            story.record("content", tid=device.tid, **content_record(content))
        return found

    def _write_and_read(self, device: BlockDevice, osm: DiskOsm, image: str | None) -> None:
        story = self.story
        story.section("Data through OSMMsgSend and back")
        self._tell_osm(osm)
        archive, sources = archives.source_archive()
        count = min(device.size, max(self.limit, len(archive) + -len(archive) % _SECTOR))
        data = memoryview(bytearray(archive) + os.urandom(count - len(archive)))
        expected = hashlib.sha256(data).hexdigest()
        story.say(
            f"a tar archive of this program's {len(sources)} source files "
            f"({output.human_size(len(archive))}), then random data"
        )
        with self._moving("writing", osm, count) as progress:
            osm.write(0, data, progress.add)
            osm.flush()
        found = self._read_back(osm, count)
        story.say(f"SHA-256 {expected}")
        story.check("what was read back is what was written", found == expected, sha256=found)
        if image is not None:
            direct = _file_hash(image, count)
            story.check("the image file has the same bytes", direct == expected, sha256=direct)

    def _read_and_compare(self, device: BlockDevice, osm: DiskOsm, image: str | None) -> None:
        story = self.story
        story.section("Data through OSMMsgSend")
        self._tell_osm(osm)
        count = min(device.size, self.limit)
        count -= count % device.block_size
        part = "all" if count == device.size else f"the first {output.human_size(count)} of"
        story.say(f"{part} {output.human_size(device.size)}")
        found = self._read_back(osm, count)
        story.say(f"SHA-256 {found}")
        if image is None:
            other = _device_hash(device, count)
            story.check("the file-like view has the same bytes", found == other, sha256=other)
            return
        direct = _file_hash(image, count)
        story.check("the file, read directly, has the same bytes", found == direct, sha256=direct)
        if self.plan.write_back:
            with self._moving("rewriting", osm, count) as progress:
                for start in range(0, count, files.CHUNK):
                    piece = bytearray()
                    osm.read(start, min(files.CHUNK, count - start), piece.extend)
                    osm.write(start, memoryview(piece), progress.add)
                osm.flush()
            again = _file_hash(image, count)
            story.check("written back, the file has the same bytes", again == found, sha256=again)

    def _tell_osm(self, osm: DiskOsm) -> None:
        self.story.say(
            f"OSMMsgRegister gave cookie {osm.cookie:#x}; per request: OSMMsgGetReqBuf, fill the",
            "frame, OSMMsgSend; then the callback, which ends with OSMMsgFreeRepBuf",
        )

    def _read_back(self, osm: DiskOsm, count: int) -> str:
        digest = hashlib.sha256()
        with self._moving("reading", osm, count) as progress:

            def take(piece: memoryview) -> None:
                digest.update(piece)
                progress.add(len(piece))

            osm.read(0, count, take)
        return digest.hexdigest()

    @contextmanager
    def _moving(self, what: str, osm: DiskOsm, count: int) -> Iterator[output.Progress]:
        """Show a bar while data moves, and afterwards say how much and how fast."""
        requests, callbacks = osm.requests, osm.callbacks
        with output.Progress(what, count, force=self.force_progress) as progress:
            yield progress
            seconds = progress.seconds
        requests, callbacks = osm.requests - requests, osm.callbacks - callbacks
        self.story.say(
            f"{what:10}{output.human_size(count)} in {output.plural(requests, 'request')}, "
            f"{output.plural(callbacks, 'callback')}: {seconds:.3f} s, "
            + output.rate(count, seconds)
        )
        self.story.record(
            "transfer",
            what=what,
            tid=osm.tid,
            bytes=count,
            requests=requests,
            callbacks=callbacks,
            seconds=round(seconds, 6),
        )

    def _archive(self, device: BlockDevice, content: list[Content]) -> None:
        story = self.story
        story.section("An archive, read straight from the I2O disk")
        first = content[0]
        if first.offset or first.category not in ("archive", "compressed"):
            story.say("the disk does not start with an archive: there is nothing to list")
            story.record("archive", tid=device.tid, kind=None)
            return
        with device.as_file() as disk:
            listing = archives.list_archive(disk, first.kind)
            story.say(f"{first.kind}: device.as_file() given to Python's {listing.kind}file")
            story.say(*(f"  {count:>10,}  {name[:60]}" for name, count in listing.first))
            more = (
                "" if listing.complete else " so far" if not listing.problem else " until it broke"
            )
            story.say(
                f"{output.plural(listing.members, 'member')}, "
                f"{output.human_size(listing.total)} unpacked{more}"
            )
            if listing.problem:
                story.say(f"cannot be read further: {listing.problem}")
            story.record(
                "archive",
                tid=device.tid,
                kind=first.kind,
                members=listing.members,
                bytes=listing.total,
                problem=listing.problem,
            )
            if self.plan.own:
                name = "i2o/__init__.py"
                _, sources = archives.source_archive()
                same = archives.read_member(disk, name) == sources[name]
                story.check(f"{name} in it is the one that is running", same)

    def _one_request(self, device: BlockDevice, osm: DiskOsm, recorder: DemoRecorder) -> None:
        story = self.story
        story.section("One request and its reply, field by field")
        recorder.keep()
        seen = bytearray()
        osm.read(0, device.block_size, seen.extend)
        for recorded in recorder.kept():
            frame = recorded.frame
            layout = _layout_of(recorded)
            title = "request, host to IOP" if recorded.is_request else "reply, IOP to host"
            story.say(
                "",
                output.styled(f"{layout.name}: {title}, {len(frame)} bytes", output.BOLD),
                *frame_lines(frame, layout, _BLOCK_CLASS),
            )
            story.record(
                "frame",
                direction="request" if recorded.is_request else "reply",
                layout=layout.qualified_name,
                hex=frame.hex(),
                fields=[row._asdict() for row in frame_rows(frame, layout, _BLOCK_CLASS)],
            )
        story.say("", "and in host memory now, the start of the block:")
        story.say(*hex_lines(bytes(seen[:32])))


def content_lines(content: Content) -> list[str]:
    """Return one thing found on a disk as a line, or two if it has much to say."""
    parts = [content.kind]
    if content.label:
        parts.append(f"{content.label!r}")
    if content.size is not None:
        parts.append(output.human_size(content.size))
    pad = "  " * content.depth
    more = [text for text in (content.detail, content.uuid) if text]
    line = f"{content.offset:>14,}  {pad}" + ", ".join(parts + more)
    if len(line) <= _LINE:
        return [line]
    first = f"{content.offset:>14,}  {pad}" + ", ".join(parts)
    return [first, *(f"{'':16}{pad}  {text}" for text in more)]


def content_record(content: Content) -> dict[str, object]:
    """Return one thing found on a disk for JSON."""
    return {
        "kind": content.kind,
        "category": content.category,
        "offset": content.offset,
        "size": content.size,
        "label": content.label,
        "uuid": content.uuid,
        "detail": content.detail,
        "depth": content.depth,
    }


def _layout_of(recorded: Recorded) -> Layout:
    frame = recorded.frame
    if recorded.is_request:
        layout = catalog.request_layout(frame[7], _BLOCK_CLASS)
        assert layout is not None  # only our own read passes here
        return layout
    return catalog.reply_layout(frame[7], _BLOCK_CLASS, frame[1], frame[19], len(frame) // 4)


def _file_hash(path: str, count: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as image:
        while count and (piece := image.read(min(files.CHUNK, count))):
            digest.update(piece)
            count -= len(piece)
    return digest.hexdigest()


def _device_hash(device: BlockDevice, count: int) -> str:
    digest = hashlib.sha256()
    with device.as_file() as disk:
        while count and (piece := disk.read(min(files.CHUNK, count))):
            digest.update(piece)
            count -= len(piece)
    return digest.hexdigest()
