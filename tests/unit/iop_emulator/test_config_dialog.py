# SPDX-License-Identifier: Apache-2.0
"""UtilConfigDialog on the wire: pages, forms that change groups, and everything that is no form."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urlencode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fakes.iop_rig import DISK, Reply, Rig
from i2o.frames import block_storage_groups as bsa
from i2o.frames import executive_groups, params, utility
from i2o.frames.block_storage_groups import BsaWritePolicy
from i2o.frames.header import DetailedStatus, ReqStatus
from i2o.frames.sgl import simple_sgl
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.ddm.config_dialog import MAX_QUERY
from i2o.iop_emulator.options import IopOptions

POLICY = BsaWritePolicy.WRITE_THRU_CACHE.value
NAMES, CACHE, TIMES, POWER, FRAMES = 1, 2, 3, 4, 5
CUT = (ReqStatus.ERROR_PARTIAL_TRANSFER, DetailedStatus.REPLY_BUFFER_FULL)


def ask(
    rig: Rig, tid: int, page: int, query: bytes | None = None, *, size: int = 16384
) -> tuple[Reply, bytes]:
    """Ask for a page; return the reply and the whole buffer, which was full of rubbish."""
    buffer = rig.buffer(b"\xee" * size)
    sgl = simple_sgl([(buffer.bus_address, size)], out=False, last=query is None)
    if query is not None:
        sent = rig.buffer(query)
        sgl += simple_sgl([(sent.bus_address, len(query))], out=True)
    message = utility.UTIL_CONFIG_DIALOG.build(target_address=tid, page_number=page)
    return rig.call(message + sgl), bytes(buffer.view)


def page_of(rig: Rig, tid: int, page: int, form: dict[str, object] | bytes | None = None) -> str:
    query = urlencode(form).encode() if isinstance(form, dict) else form
    reply, data = ask(rig, tid, page, query)
    assert reply.status == (0, 0)
    return data.split(b"\0", 1)[0].decode()


def scalar(rig: Rig, tid: int, group) -> dict[str, object]:
    """Read a group the way any driver does."""
    _, (block,) = rig.parameters(tid, operation(group))
    return {
        field.path: block.data[field.byte : field.byte + field.width_bits // 8]
        if field.kind == "bytes"
        else int.from_bytes(block.data[field.byte : field.byte + field.width_bits // 8], "little")
        for field in group.fields
    }


def operation(group) -> bytes:
    head = (params.ParamOperation.FIELD_GET, group.number, 0xFFFF)
    return b"".join(number.to_bytes(2, "little") for number in head)


class Checker(HTMLParser):
    """Checks that every element is closed, and collects links and texts."""

    EMPTY = ("meta", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


@pytest.mark.parametrize(("tid", "pages"), [(DISK, "1 2 3 4"), (0, "1 5"), (8, "1")])
def test_the_overview_links_to_the_pages_that_the_device_has(tid, pages):
    rig = Rig()
    assert check(page_of(rig, tid, 0)).links == pages.split()
    for number in range(1, 8):
        reply, data = ask(rig, tid, number)
        if str(number) in pages:
            assert reply.status == (0, 0)
            assert check(data.split(b"\0", 1)[0].decode()).links == [str(number), "0"]
        else:
            assert reply.status == (5, DetailedStatus.NO_SUCH_PAGE)
            assert set(data) == {0xEE}


def test_the_overview_shows_the_device_and_the_executive_its_devices():
    rig = Rig([MemoryDisk(3 << 20)])
    rig.iop.lct.devices[8].device_class = 0xABC
    disk = check(page_of(rig, DISK, 0)).text
    assert f"{3 << 20:,}" in disk
    assert "media loaded" in disk
    executive = check(page_of(rig, 0, 0)).text
    assert "random block storage" in executive
    assert "class 0xabc" in executive
    assert "0x010" in executive


def test_a_form_changes_the_group_and_tells_those_who_registered():
    rig = Rig()
    rig.post(
        utility.UTIL_EVENT_REGISTER.build(
            target_address=DISK, event_mask=GenericEvent.FIELD_MODIFIED
        )
    )
    query = b"write_policy=%d" % POLICY
    buffer, sent = rig.buffer(8192), rig.buffer(query)
    rig.post(
        utility.UTIL_CONFIG_DIALOG.build(target_address=DISK, page_number=CACHE)
        + simple_sgl([(buffer.bus_address, 8192)], out=False, last=False)
        + simple_sgl([(sent.bus_address, len(query))], out=True)
    )
    event, reply = rig.replies()
    assert event.words[4:6] == (GenericEvent.FIELD_MODIFIED, bsa.BSA_CACHE_CONTROL.number)
    assert reply.status == (0, 0)
    html = bytes(buffer.view).split(b"\0", 1)[0].decode()
    assert "Saved." in html
    assert f'<option value="{POLICY}" selected>' in html
    assert scalar(rig, DISK, bsa.BSA_CACHE_CONTROL)["write_policy"] == POLICY
    assert rig.iop.lct.devices[DISK].state.writes_through


def test_what_is_so_already_is_no_change():
    rig = Rig()
    register = utility.UTIL_EVENT_REGISTER
    rig.post(register.build(target_address=DISK, event_mask=GenericEvent.FIELD_MODIFIED))
    assert "so already" in page_of(rig, DISK, POWER, {"on_access": 1})


def test_names_are_stored_and_shown_escaped():
    rig = Rig()
    name = "<script>alert(\"1\")</script> & 'co'"
    html = page_of(rig, DISK, NAMES, {"device_name": name})
    assert "Saved." in html
    assert "<script" not in html
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp;" in html
    stored = scalar(rig, DISK, params.USER_INFORMATION)["device_name"]
    assert stored == name.encode().ljust(64)
    assert "Saved." in page_of(rig, DISK, NAMES, {"device_name": ""})
    assert scalar(rig, DISK, params.USER_INFORMATION)["device_name"] == b" " * 64


@pytest.mark.parametrize(
    ("page", "form", "sentence"),
    [
        (NAMES, {"device_name": "x" * 65}, "At most 64"),
        (NAMES, {"device_name": "é"}, "At most 64"),
        (NAMES, {"device_name": "a\nb"}, "At most 64"),
        (CACHE, {"write_policy": "77"}, "It can be"),
        (CACHE, {"write_policy": "-1"}, "from 0 to 255"),
        (POWER, {"on_access": "2"}, "It can be 0, 1"),
        (TIMES, {"retry_attempts": "256"}, "It can be 0 to 255"),
        (TIMES, {"timeout_base": "9" * 5000}, "A number from 0"),
        (TIMES, {"timeout_base": "٣"}, "A number from 0"),
        (TIMES, {"unheard_of": "1"}, "the fields of this form are"),
        (TIMES, b"timeout_base", "no form"),
        (TIMES, b"\xff\xfe", "no form"),
        (TIMES, b"a=%ff", "no form"),
        (TIMES, b"&".join(b"f%d=1" % n for n in range(65)), "no form"),
        (TIMES, b"timeout_base=1&timeout_base=2", "came twice"),
        (TIMES, b"timeout_base=" + b"1" * MAX_QUERY, "more than"),
        (0, b"a=b", "no form"),
    ],
)
def test_what_cannot_be_taken_is_said_in_the_page_and_changes_nothing(page, form, sentence):
    rig = Rig()
    groups = (params.USER_INFORMATION, bsa.BSA_CACHE_CONTROL, bsa.BSA_OPERATIONAL_CONTROL)
    before = [scalar(rig, DISK, group) for group in groups]
    html = page_of(rig, DISK, page, form)
    checked = check(html)
    assert sentence in checked.text
    assert 'class="error"' in html
    assert [scalar(rig, DISK, group) for group in groups] == before


def test_one_wrong_field_keeps_the_others_from_being_saved():
    rig = Rig()
    html = page_of(rig, DISK, TIMES, {"retry_attempts": 7, "timeout_base": "soon"})
    assert "Nothing was changed." in html
    assert 'value="soon"' in html
    assert 'value="7"' in html
    assert scalar(rig, DISK, bsa.BSA_OPERATIONAL_CONTROL)["retry_attempts"] == 0


def test_what_the_device_refuses_is_taken_back():
    rig = Rig(options=IopOptions())
    group = executive_groups.EXEC_IOP_MESSAGE_INTERFACE
    html = page_of(rig, 0, FRAMES, {"inbound_size_target": 100})
    assert "does not take this value" in html
    assert scalar(rig, 0, group)["inbound_size_target"] == 512
    assert "Saved." in page_of(rig, 0, FRAMES, {"inbound_size_target": 256})
    assert scalar(rig, 0, group)["inbound_size_target"] == 256


def test_a_page_that_does_not_fit_is_cut_and_its_form_is_done():
    rig = Rig()
    reply, whole = ask(rig, DISK, POWER, b"powerdown_timeout=9")
    assert reply.status == (0, 0)
    length = whole.index(0)
    assert not any(whole[length:])
    query = b"powerdown_timeout=8"
    reply, cut = ask(rig, DISK, POWER, query, size=100)
    assert reply.status == CUT
    assert cut == whole[:100]
    assert scalar(rig, DISK, bsa.BSA_POWER_CONTROL)["powerdown_timeout"] == 8


def test_a_page_that_fits_to_the_byte_is_whole():
    rig = Rig()
    _, whole = ask(rig, DISK, POWER)
    length = whole.index(0)
    reply, exact = ask(rig, DISK, POWER, size=length)
    assert (reply.status, exact) == ((0, 0), whole[:length])
    reply, _ = ask(rig, DISK, POWER, size=length - 1)
    assert reply.status == CUT


def test_a_page_buffer_that_is_not_there_leaves_everything_as_it_was():
    rig = Rig()
    query = rig.buffer(b"powerdown_timeout=9")
    message = (
        utility.UTIL_CONFIG_DIALOG.build(target_address=DISK, page_number=POWER)
        + simple_sgl([(0x00F0_0000, 4096)], out=False, last=False)
        + simple_sgl([(query.bus_address, 19)], out=True)
    )
    assert rig.call(message).status == (5, DetailedStatus.INVALID_PARAMETER)
    assert scalar(rig, DISK, bsa.BSA_POWER_CONTROL)["powerdown_timeout"] == 0


def test_without_a_page_buffer():
    rig = Rig()
    message = utility.UTIL_CONFIG_DIALOG.build(target_address=DISK)
    assert rig.call(message).status == (5, DetailedStatus.MISSING_PARAMETER)
    assert "no buffer for the page" in list(rig.complaints)[-1]
    empty = simple_sgl([(rig.buffer(4).bus_address, 0)], out=False)
    assert rig.call(message + empty).status == (5, DetailedStatus.MISSING_PARAMETER)


@settings(max_examples=60)
@given(
    page=st.integers(0, 6),
    tid=st.sampled_from([0, 8, DISK]),
    query=st.one_of(
        st.binary(min_size=1, max_size=200),
        st.dictionaries(
            st.sampled_from(["write_policy", "timeout_base", "device_name", "inbound_size_target"]),
            st.one_of(st.text(max_size=80), st.integers(0, 1 << 33).map(str)),
            min_size=1,
        ).map(lambda form: urlencode(form, errors="replace").encode()),
    ),
)
@example(page=2, tid=DISK, query=b"write_policy=%00")
def test_no_form_breaks_a_page(page, tid, query):
    rig = Rig()
    reply, data = ask(rig, tid, page, query)
    if reply.status == (0, 0):
        check(data.split(b"\0", 1)[0].decode())
    else:
        assert reply.status == (5, DetailedStatus.NO_SUCH_PAGE)
    assert rig.account() == 16


def test_a_field_that_is_refused_takes_the_fields_before_it_back():
    rig = Rig()
    group = rig.iop.lct.devices[DISK].parameters.group(bsa.BSA_POWER_CONTROL.number)
    write = group.write

    def refuse(name: str, value: object) -> None:
        if (name, value) == ("on_access", 0):
            raise ValueError(value)
        write(name, value)

    group.write = refuse
    html = page_of(rig, DISK, POWER, {"powerdown_timeout": 5, "on_access": 0})
    assert "does not take this value" in html
    assert scalar(rig, DISK, bsa.BSA_POWER_CONTROL) == {"powerdown_timeout": 0, "on_access": 1}
