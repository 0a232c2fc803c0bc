# SPDX-License-Identifier: Apache-2.0
"""Configuration dialog, host side: pages of any length, forms that are sent once."""

from __future__ import annotations

import pytest

import i2o
from i2o import config_dialog
from i2o.config_dialog import FIRST_BUFFER, MAX_PAGE
from i2o.errors import InvalidArgument, RemoteFrameError, RequestFailed
from i2o.frames.functions import Function
from i2o.frames.header import DetailedStatus, ReqStatus

DISK = 0x010
POWER = 4


@pytest.fixture
def iop():
    with i2o.open("emu:") as opened:
        yield opened


class Dialog:
    """A device's dialog with a page of any length.

    Attributes:
        forms: what came in second buffers.
        sizes: of the page buffers.
    """

    def __init__(self, iop: i2o.Iop, page: bytes, *, says_cut: bool = True) -> None:
        from i2o.iop_emulator import sgl_data

        self.forms: list[bytes] = []
        self.sizes: list[int] = []
        soft_iop = iop.layer.port(iop.number).soft_iop

        def serve(request):
            dma = soft_iop.dma
            buffers = sgl_data.buffers(request, 5, dma, 4096)
            self.sizes.append(buffers[0].length)
            if len(buffers) > 1:
                self.forms.append(sgl_data.gather(dma, buffers[1], 1 << 20))
            sgl_data.scatter(dma, buffers[0], page)
            if len(page) > buffers[0].length and says_cut:
                return request.status(
                    ReqStatus.ERROR_PARTIAL_TRANSFER, DetailedStatus.REPLY_BUFFER_FULL
                )
            return request.success()

        soft_iop.lct.devices[DISK].dispatch[int(Function.UTIL_CONFIG_DIALOG)] = serve


def test_a_page_and_a_form(iop):
    assert b'<a href="4">' in iop.config_page(DISK)
    page = iop.config_page(DISK, POWER, {"powerdown_timeout": "77"})
    assert b"Saved." in page
    assert b'value="77"' in page
    assert iop.params_get(DISK, "power_control", "powerdown_timeout") == 77
    assert b"Saved." not in iop.config_page(DISK, POWER)


def test_a_page_that_is_not_there(iop):
    with pytest.raises(RequestFailed, match=r"page 99 of the configuration .* NO_SUCH_PAGE"):
        iop.config_page(DISK, 99)
    with pytest.raises(RequestFailed, match="INVALID_TARGET_ID"):
        iop.config_page(0x777)
    assert iop.config_page(DISK)


@pytest.mark.parametrize("says_cut", [True, False])
@pytest.mark.parametrize(
    "length", [0, 1, FIRST_BUFFER - 1, FIRST_BUFFER, FIRST_BUFFER + 1, 200_000]
)
def test_a_page_of_any_length_and_a_form_that_is_sent_once(iop, length, says_cut):
    dialog = Dialog(iop, b"x" * length, says_cut=says_cut)
    assert iop.config_page(DISK, 1, {"a": "ä &="}) == b"x" * length
    assert dialog.forms == [b"a=%C3%A4+%26%3D"]
    assert dialog.sizes == sorted(set(dialog.sizes))


def test_a_page_without_an_end(iop):
    Dialog(iop, b"x" * (MAX_PAGE + 1))
    with pytest.raises(RemoteFrameError, match="more than 1048576 bytes"):
        iop.config_page(DISK)


def test_a_form_that_is_too_long_is_not_sent(iop):
    dialog = Dialog(iop, b"x")
    with pytest.raises(InvalidArgument, match="at most 65536"):
        iop.config_page(DISK, 1, {"a": "x" * config_dialog.MAX_QUERY})
    assert dialog.sizes == []
