#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest: drives the IOP that is plugged in, over each URI given, and tells in JSON.

Arguments: the names of backends with their options, such as `vfio?irq=off`.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import i2o
from i2o.errors import I2OError, RequestFailed
from i2o.frames import block_storage as bsa
from i2o.frames.sgl import simple_sgl

PCI = Path("/sys/bus/pci/devices")
DRIVERS = {"uio": "uio_pci_generic", "vfio": "vfio-pci"}
DISK = 0x010
SIZE = 2 << 20


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


def the_iop() -> str:
    """Return the PCI address of the only I2O controller."""
    (found,) = (
        path.parent.name for path in PCI.glob("*/class") if path.read_text()[:6] == "0x0e00"
    )
    return found


def bind(address: str, driver: str) -> None:
    """Give the device to a driver, or to none."""
    folder = PCI / address
    if (folder / "driver").exists():
        (folder / "driver" / "unbind").write_text(address)
    (folder / "driver_override").write_text(driver or "\n")
    if driver:
        Path("/sys/bus/pci/drivers_probe").write_text(address)


def interrupts(address: str) -> int:
    """Return how many interrupts the device has made."""
    names = ("uio_pci_generic", f"vfio-msi[0]({address})", f"vfio-intx({address})")
    return sum(
        int(line.split()[1])
        for line in Path("/proc/interrupts").read_text().splitlines()
        if any(line.endswith(name) for name in names)
    )


def drive(uri: str, address: str, salt: int) -> None:
    """Write, read back and flush; then a request to memory that is none of ours."""
    before, began = interrupts(address), time.monotonic()
    with i2o.open(uri, timeout_s=60) as iop:
        devices = [(device.tid, device.class_name) for device in iop.devices]
        access = iop.layer.port(iop.number).access
        with iop.block(DISK) as disk:
            data = bytearray(hashlib.shake_128(bytes([salt])).digest(SIZE))
            disk.write(0, data)
            disk.flush()
            is_same = disk.read(0, SIZE) == data
            disk.write(1536, b"odd" * 512)
            data[1536:3072] = b"odd" * 512
            with disk.as_file() as file:
                file.seek(1000)
                is_same = is_same and file.read(5000) == data[1000:6000]
            buffer = iop.memory.allocate(4096)
            lowest = buffer.bus_address
            buffer.free()
            outside = astray(iop)
            alive = disk.read(512, 512) == data[512:1024]
        tell(
            uri=uri, state=iop.status.state_name, devices=devices, access=access, same=is_same,
            sha256=hashlib.sha256(data).hexdigest(), bus_address=lowest, outside=outside,
            alive=alive, interrupts=interrupts(address) - before,
            seconds=round(time.monotonic() - began, 2),
        )  # fmt: skip


def astray(iop) -> str:
    """Ask for data to an address that nothing is mapped at; return how it ends."""
    frame = bsa.BSA_BLOCK_READ.build(
        target_address=DISK, transfer_byte_count=512, logical_byte_address=0,
        message_size=10, version_offset=0x81,
    ) + simple_sgl(((0xDEAD0000, 512),), out=False)  # fmt: skip
    reply = iop.requester.call(frame)
    return f"{reply.req_status:#04x}"


def main() -> None:
    address = the_iop()
    for number, backend in enumerate(sys.argv[1:]):
        scheme, _, options = backend.partition("?")
        if scheme != "pci":  # which takes the device as it is
            bind(address, DRIVERS.get(scheme, ""))
        uri = f"{scheme}:{address}" + (f"?{options}" if options else "")
        try:
            drive(uri, address, number)
        except (I2OError, RequestFailed, OSError) as error:
            tell(uri=uri, error=str(error))
    os.sync()


main()
