# SPDX-License-Identifier: Apache-2.0
"""The parts that the tests use: a part is here because a test boots it."""

from __future__ import annotations

from vm.parts import Extras, Headers, Kernel, Part, Qemu, Userland

QEMU = Qemu("qemu", ("qemu-system-x86",), ("trixie", "trixie-backports"), "")

_PROGRAMS = ("busybox-static", "python3", "python3-cffi-backend", "e2fsprogs")
_AMD64 = Userland("userland-amd64", _PROGRAMS, ("trixie",), "amd64")
_I386 = Userland("userland-i386", _PROGRAMS, ("bookworm",), "i386")

PYTHON_I386 = Headers("python-i386", (r"libpython3\.\d+-dev",), ("bookworm",), "i386")
"""Python's headers, to build the extension module for 32 bits."""

DEBIAN_11 = Kernel(
    "kernel-debian-11",
    (r"linux-image-5\.10\.\d+-\d+-amd64",),
    ("bullseye-security",),
    "amd64",
    _AMD64,
)
"""The last series with a driver for I2O hardware, `dpt_i2o`."""

DEBIAN_12_I686 = Kernel(
    "kernel-debian-12-i686", (r"linux-image-6\.1\.\d+-\d+-686",), ("bookworm",), "i386", _I386
)
"""The last series that Debian built for 32-bit machines."""

DEBIAN_13 = Kernel(
    "kernel-debian-13", (r"linux-image-6\.12\.\d+\+deb13-amd64",), ("trixie",), "amd64", _AMD64
)
"""A current kernel with the drivers of Debian's generic build."""

LIBUSB = Extras("libusb", ("libusb-1.0-0", "libudev1", "libcap2"), ("trixie",), "amd64")
"""What pyusb needs of the system."""

UDEV = Extras(
    "udev",
    (
        *("udev", "libsystemd-shared", "libkmod2", "libcrypt1", "libmount1", "libpam0g"),
        *("libseccomp2", "libaudit1", "libcap-ng0"),
    ),
    ("trixie",),
    "amd64",
    ("usr/bin/udevadm", "**/*-linux-gnu/**/*.so*"),
)
"""Who tells libusb what is plugged in after its program has begun."""

PARTS: tuple[Part, ...] = (
    QEMU, _AMD64, _I386, PYTHON_I386, DEBIAN_11, DEBIAN_12_I686, DEBIAN_13, LIBUSB,
    UDEV,
)  # fmt: skip
