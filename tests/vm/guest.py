# SPDX-License-Identifier: Apache-2.0
"""Boots a guest for one job, waits for it, and brings back what the job left."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vm.cache import Cache
from vm.errors import GuestFailed
from vm.initramfs import Job, write_initramfs
from vm.inventory import QEMU
from vm.outcome import Outcome, Traces
from vm.parts import Kernel

_KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 oops=panic"
    # quicker where every instruction is translated: nothing to hide, nobody to hide it from
    " nokaslr mitigations=off"
    # checks of time, which fail when this machine is busy
    " no_timer_check nowatchdog"
)
_IOMMU_DEVICE = ("-device", "intel-iommu,intremap=on,caching-mode=on")


@dataclass(frozen=True)
class Machine:
    """What a guest runs on: one processor, translated, and no devices but serial ports.

    Args:
        arguments: more arguments of QEMU, for instance devices.
        kernel_arguments: more arguments of the kernel.
        memory_mb: its memory, which a device in another process can map.
        iommu: whether there is an Intel IOMMU, and the kernel uses it.
    """

    arguments: Sequence[str] = ()
    kernel_arguments: str = ""
    memory_mb: int = 512
    iommu: bool = False

    def words(self) -> list[str]:
        """Return the arguments of QEMU."""
        memory = f"memory-backend-memfd,id=ram,size={self.memory_mb}M,share=on"
        return [
            *("-accel", "tcg", "-machine", "q35,memory-backend=ram", "-object", memory),
            *("-m", f"{self.memory_mb}M", "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-display", "none", "-cpu", "qemu64,+rdrand"),  # or it gathers random numbers for 1 s
            *(_IOMMU_DEVICE if self.iommu else ()),
            *self.arguments,
        ]

    def kernel_line(self) -> str:
        """Return the arguments of the kernel."""
        iommu = "intel_iommu=on" if self.iommu else ""
        return " ".join(filter(None, (_KERNEL_ARGUMENTS, iommu, self.kernel_arguments)))


class Guest:
    """A guest that runs from construction on. Whoever makes it closes it.

    Args:
        cache: has QEMU, the kernel and its programs.
        kernel: boots.
        job: what to do.
        machine: what it runs on.
        folder: takes the initial file system and what the guest writes; must exist.
    """

    def __init__(
        self, cache: Cache, kernel: Kernel, job: Job, machine: Machine, folder: Path
    ) -> None:
        image = kernel.image(cache)
        self._traces = Traces(folder)
        self._initramfs = folder / "initramfs.cpio"
        write_initramfs(self._initramfs, cache, kernel, job)
        command = [
            *(*QEMU.command(cache), *machine.words()),
            *(
                "-kernel",
                str(image),
                "-initrd",
                str(self._initramfs),
                "-append",
                machine.kernel_line(),
            ),
            *(word for path in self._traces.ports for word in ("-serial", f"file:{path}")),
        ]
        with self._traces.qemu.open("wb") as said:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def wait(self, deadline_s: float) -> Outcome:
        """Wait until the guest has switched itself off, and return what it left.

        Raises:
            GuestFailed: the deadline passed, or the guest's kernel or QEMU failed.
        """
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.close()
            raise GuestFailed(
                self._traces.report(f"the guest did not finish within {deadline_s:g} s")
            ) from None
        return self._traces.outcome(self._process.returncode)

    def close(self) -> None:
        """End the guest if it still runs."""
        self._process.kill()
        self._process.wait()
        self._initramfs.unlink(missing_ok=True)  # large, and made of what is elsewhere
