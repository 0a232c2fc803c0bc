# SPDX-License-Identifier: Apache-2.0
"""The parts of the libfabric transport that need no libfabric."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from i2o.errors import TransportUnavailable, UriError
from i2o.transport.fabric.errors import FabricError
from i2o.transport.ofi import library, native_books, native_build, native_posters
from i2o.transport.ofi.addresses import AddressFormat, split_host, to_bytes, to_text
from i2o.transport.ofi.library import load
from i2o.transport.ofi.opening import open_endpoint
from i2o.transport.ofi.peer import Deferred, Peer
from i2o.transport.ofi.provider import provider_of
from i2o.transport.ofi.segments import is_dead_segment, owner_of, remove_stale_segments

IN, IN6, STR = AddressFormat.SOCKADDR_IN, AddressFormat.SOCKADDR_IN6, AddressFormat.STR


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "format", "canonical"),
    [
        ("192.0.2.1:4711", IN, "fi_sockaddr_in://192.0.2.1:4711"),
        ("fi_sockaddr_in://127.0.0.1:65535", IN, None),
        ("192.0.2.1", IN, "fi_sockaddr_in://192.0.2.1:0"),
        ("[::1]:80", IN6, "fi_sockaddr_in6://[::1]:80"),
        ("fi_sockaddr_in6://[fe80::1%3]:1", IN6, None),
        ("[2001:db8::1]", IN6, "fi_sockaddr_in6://[2001:db8::1]:0"),
        ("fi_shm://1:2:3", STR, None),
        ("name", STR, "fi_ns://name"),
    ],
)
def test_addresses_there_and_back(text: str, format: AddressFormat, canonical: str | None) -> None:
    assert to_text(to_bytes(text, format), format) == (canonical or text)


def test_an_address_as_the_kernel_has_it() -> None:
    assert to_bytes("1.2.3.4:258", IN) == struct.pack("=H", 2) + b"\1\2\1\2\3\4" + bytes(8)


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("localhost:1", IN),
        ("1.2.3.4:65536", IN),
        ("1.2.3.4:-1", IN),
        ("1.2.3.4:x", IN),
        ("[::1]:1", IN),
        ("1.2.3.4:1", IN6),
        ("[::1", IN6),
        ("[::1]x", IN6),
        ("[fe80::1%eth0]:1", IN6),
        ("", STR),
        ("fi_shm://", STR),
        ("fi_ns://a/b", STR),
        ("a\0b", STR),
        ("x" * 300, STR),
    ],
)
def test_addresses_that_are_none(text: str, format: AddressFormat) -> None:
    with pytest.raises(FabricError) as caught:
        to_bytes(text, format)
    assert caught.value.errno == errno.EINVAL


def test_hosts_and_ports() -> None:
    assert split_host("") == ("", 0)
    assert split_host(":7") == ("", 7)
    assert split_host("[::1]:7") == ("::1", 7)


# --- segments ------------------------------------------------------------------------------------


@pytest.fixture
def dead() -> int:
    """The number of a process that is gone."""
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                             check=True, capture_output=True, text=True)  # fmt: skip
    return int(process.stdout)


def segment(folder: Path, name: str, pid: int) -> Path:
    path = folder / name
    path.write_bytes(struct.pack("=BxHi", 4, 0, pid) + bytes(100))
    return path


def test_only_what_nobody_needs_is_removed(tmp_path: Path, dead: int) -> None:
    me, user = os.getpid(), os.getuid()
    stale = segment(tmp_path, f"{dead}:{user}:0", dead)
    kept = [
        segment(tmp_path, f"{me}:{user}:0", me),
        segment(tmp_path, f"{dead}:{user + 1}:0", dead),
        segment(tmp_path, f"{dead}:{user}:x", dead),
        segment(tmp_path, "name", dead),
    ]
    assert remove_stale_segments(tmp_path) == [stale.name]
    assert not stale.exists()
    assert all(path.exists() for path in kept)


def test_whose_a_segment_is(tmp_path: Path, dead: int) -> None:
    segment(tmp_path, "mine", os.getpid())
    segment(tmp_path, "stale", dead)
    segment(tmp_path, "being-made", 0)
    (tmp_path / "short").write_bytes(b"x")
    assert owner_of("fi_ns://mine", tmp_path) == os.getpid()
    assert owner_of("stale", tmp_path) == dead
    assert owner_of("being-made", tmp_path) is None
    assert owner_of("short", tmp_path) is None
    assert owner_of("missing", tmp_path) is None
    assert not is_dead_segment("mine", tmp_path)
    assert is_dead_segment("stale", tmp_path)
    assert is_dead_segment("missing", tmp_path)


def test_a_process_that_waits_to_be_reaped_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        segment(tmp_path, "zombie", process.pid)
        assert is_dead_segment("zombie", tmp_path)


# --- peers ---------------------------------------------------------------------------------------


class Wire:
    """Answers calls with the codes that were put in."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.sent: list[str] = []

    def __call__(self, what: str) -> int:
        code = self.codes.pop(0) if self.codes else 0
        if code == 0:
            self.sent.append(what)
        return code


def deferred(wire: Wire, what: str, *, is_fenced: bool = False) -> Deferred:
    return Deferred(object(), wire, (what,), is_fenced)  # type: ignore[arg-type]


def someone() -> Peer:
    return Peer(1, "peer", SimpleNamespace(address=1, outstanding=0, is_waiting=False))


def test_a_send_that_is_not_taken_waits_in_order() -> None:
    peer, wire = someone(), Wire(-errno.EAGAIN, -errno.EAGAIN)
    for what in "abc":
        assert peer.post(deferred(wire, what)) == 0
    assert list(peer.retry()) == []
    assert wire.sent == []
    assert peer.tally.is_waiting
    assert list(peer.retry()) == []
    assert wire.sent == ["a", "b", "c"]
    assert (peer.tally.outstanding, peer.has_answered, len(peer.waiting)) == (3, True, 0)
    assert not peer.tally.is_waiting


def test_what_is_refused_for_good_is_told() -> None:
    peer, wire = someone(), Wire(-errno.ENOTCONN, -errno.EAGAIN, -errno.ECONNRESET)
    assert peer.post(deferred(wire, "a")) == -errno.ENOTCONN
    first, second = deferred(wire, "b"), deferred(wire, "c")
    peer.post(first)
    peer.post(second)
    assert list(peer.retry()) == [(first.operation, errno.ECONNRESET)]
    assert wire.sent == ["c"]


def test_a_fence_waits_and_holds_back() -> None:
    peer, wire = someone(), Wire()
    peer.post(deferred(wire, "a"))
    peer.post(deferred(wire, "fenced", is_fenced=True))
    peer.post(deferred(wire, "after"))
    assert list(peer.retry()) == []
    assert wire.sent == ["a"]
    peer.tally.outstanding -= 1
    assert list(peer.retry()) == []
    assert wire.sent == ["a", "fenced", "after"]
    peer.post(deferred(wire, "again", is_fenced=True))
    left = list(peer.give_up())
    assert len(left) == 1
    assert not peer.waiting
    assert not peer.tally.is_waiting


# --- without libfabric ---------------------------------------------------------------------------


def test_without_the_extension_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "MODULE", "i2o.transport.ofi._missing")
    with pytest.raises(TransportUnavailable, match="no libfabric") as caught:
        load()
    assert caught.value.backend == "ofi"
    assert "libfabric-dev" in caught.value.remedy
    with pytest.raises(TransportUnavailable):
        open_endpoint("ofi://shm/")


def test_it_is_built_where_the_headers_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rdma").mkdir()
    monkeypatch.setattr(native_build, "_FOLDERS", ())
    monkeypatch.setenv("CPATH", f"/nowhere{os.pathsep}{tmp_path}")
    assert not native_build.can_be_built()
    whole = native_build._second_module()  # a build script cannot import the parts
    assert whole == native_books.BOOKS + native_posters.SOURCE + native_books.MODULE
    (tmp_path / "rdma" / "fabric.h").touch()
    assert native_build.can_be_built()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("emu:", "no URI of libfabric"),
        ("ofi:shm", "no URI of libfabric"),
        ("ofi:///x", "a provider stands behind"),
        ("ofi://shm/?type=raw", "type='raw'"),
        ("ofi://shm/?caps=wings", "no capability 'wings'"),
        ("ofi://shm/?colour=red", "unknown option"),
        ("ofi://shm/?connect_ms=0", "not between"),
        ("ofi://udp/host:port", "host:port"),
    ],
)
@pytest.mark.libfabric
def test_uris_that_make_no_sense(uri: str, why: str) -> None:
    with pytest.raises(UriError, match=why):
        open_endpoint(uri)


# --- providers -----------------------------------------------------------------------------------


def test_what_is_known_of_providers() -> None:
    old, new = provider_of("shm", 117), provider_of("shm", 206)
    assert not old.peeks
    assert new.peeks
    assert new.has_segments
    assert provider_of("verbs", 117).name == "verbs"
    assert provider_of("net;ofi_rxm", 117).takes_everything
