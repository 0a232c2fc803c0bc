# SPDX-License-Identifier: Apache-2.0
"""Static frames that somebody made behind the message layer's back: they are in nobody's way."""

from __future__ import annotations

from i2o.frames import block_storage as bsa
from i2o.frames import executive as x
from i2o.message_layer import MessageLayer
from i2o.requester import Requester

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=0x10)


def test_a_static_frame_made_by_pass_through_breaks_nothing():
    with MessageLayer() as layer:
        number = layer.attach("emu:")
        port, counters = layer.port(number), layer.counters(number)
        with Requester(layer, number) as requester:
            creation = x.EXEC_STATIC_MF_CREATE.build(
                message_size=9, max_outstanding=2, static_message_frame=CHECK[:12]
            )
            reply = requester.call(creation + CHECK[12:])
            mfa = int.from_bytes(reply[20:24], "little")
            for _ in range(3):
                port.post(mfa)
                layer.poll()
            assert counters.unexpected == 3
            assert requester.call(x.EXEC_DDM_QUIESCE.build(device_tid=0x10)).failed is False
            port.post(mfa)
            layer.poll()
            assert (counters.fails, counters.nops) == (1, 0), "nothing was preserved"
            assert port.unit.idle_inbound() == port.unit.frame_count - 1
            assert requester.call(bytes(x.EXEC_STATIC_MF_RELEASE.build(static_mfa=mfa)))[19] == 0
            assert port.unit.idle_inbound() == port.unit.frame_count
        layer.bring_up(number)
        assert port.unit.held_by_host() == 0
        assert list(port.soft_iop.complaints)[:-1] == []
