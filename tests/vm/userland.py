# SPDX-License-Identifier: Apache-2.0
"""Packs busybox and Python out of unpacked packages, as archives for kernels to unpack."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path
from typing import BinaryIO

from vm.cpio import cpio_archive

_MERGED = ("bin", "sbin", "lib", "lib64")
"""Folders that are links into `/usr`, whether or not a package knows it yet."""

_WANTED = re.compile(r"usr/(?:bin/python3[.\d]*|sbin/(?:mke2fs|e2fsck)|lib/.+|lib64/.+)")
_UNWANTED = re.compile(
    r"usr/lib/(?:dpkg|tmpfiles\.d|sysctl\.d|systemd|tc|valgrind|pam\.d|mime)/"
    r"|usr/lib/[^/]+-linux-gnu/(?:gconv|perl|perl-base|audit|ossl-modules|engines-3|security)/"
    r"|usr/lib/python3[^/]*/(?:idlelib|tkinter|turtledemo|test|lib2to3|ensurepip|pydoc_data)/"
)


def pack_busybox(tree: Path, out: BinaryIO) -> None:
    """Write the archive with the folders of a system and busybox.

    Args:
        tree: the unpacked packages.
        out: takes the archive.
    """
    with cpio_archive(out) as cpio:
        for name in _MERGED:
            cpio.folder(f"usr/{name}")
            cpio.link(name, f"usr/{name}")
        for name in ("dev", "proc", "sys", "tmp", "run", "root"):
            cpio.folder(name)
        for name in ("usr/bin/busybox", "bin/busybox"):
            if (tree / name).is_file():
                cpio.copy("usr/bin/busybox", tree / name)


def pack_python(tree: Path, out: BinaryIO) -> None:
    """Write the archive that adds Python and the libraries that it needs.

    Args:
        tree: the unpacked packages.
        out: takes the archive.
    """
    with cpio_archive(out) as cpio:
        for path in sorted(tree.rglob("*")):
            name = path.relative_to(tree).as_posix()
            if name.partition("/")[0] in _MERGED:
                name = f"usr/{name}"
            is_leaf = path.is_symlink() or path.is_file()
            if is_leaf and _WANTED.fullmatch(name) and not _UNWANTED.match(name):
                cpio.copy(name, path)


def compile_python(tree: Path) -> None:
    """Compile the standard library, which packages bring as source: guests are slow at it.

    The tree's own Python does it. Where this machine cannot run it, guests start later, no more.
    """
    libraries = [*tree.glob("usr/lib/*-linux-gnu"), *tree.glob("lib/*-linux-gnu")]
    loaders = [path for folder in libraries for path in folder.glob("ld-linux*.so.*")]
    for python in tree.glob("usr/bin/python3.*[0-9]"):
        command = [
            *(str(loaders[0]), "--library-path", ":".join(map(str, libraries)), str(python)),
            *("-S", "-m", "compileall", "-q", "-s", str(tree), "-p", "/"),
            *("--invalidation-mode", "unchecked-hash", str(tree / "usr/lib" / python.name)),
        ]
        environment = {"PYTHONHOME": str(tree / "usr")}
        with contextlib.suppress(OSError):
            subprocess.run(command, env=environment, capture_output=True)
