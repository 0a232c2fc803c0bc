#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest: asks the device of `docs/examples/usb_gadget` what it is, and tells in JSON."""

import json
import time

from i2o.transport.usb.address import UsbAddress
from i2o.transport.usb.discovery import find
from i2o.transport.usb.host_device import UsbBus
from i2o.transport.usb.interface import BEGIN_LINK, LINK_INFO, MAGIC, VERSION, Request

while not (found := list(find())):
    time.sleep(0.05)
with UsbBus().open(UsbAddress(0x1209, 1)) as device:

    def link() -> int:
        info = LINK_INFO.unpack_from(device.control_in(Request.GET_LINK_INFO, LINK_INFO.size))
        assert (info.magic, info.version, info.frame_limit) == (MAGIC, VERSION, 65536)
        return info.link

    links = [link()]
    begin = BEGIN_LINK.build(magic=MAGIC, version=VERSION, frame_limit=4096, link=7)
    device.control_out(Request.BEGIN_LINK, begin)
    links.append(link())
    device.control_out(Request.END_LINK)
    links.append(link())
    try:
        device.control_in(99, 4)
        refused = ""
    except OSError as error:
        refused = error.strerror
    packet = device.packet_size
print(
    json.dumps(
        {
            "uris": [each.uri for each in found],
            "obstacles": [each.reason for each in found[0].obstacles],
            "links": links,
            "refused": refused,
            "packet": packet,
        }
    ),
    flush=True,
)
