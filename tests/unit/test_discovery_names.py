"""Does every file name come through every way of spelling it? And what does --disk say?"""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.discovery.disks import DiscoveryError, discover, parse_disk_option
from supervisor.discovery.drivers import NETWORK
from tests.support.quoting import JSON, NAMES, PLAIN

CWD = "/vm"
NO_CONFIG = "/nonexistent/qemu.conf"
ABSOLUTE = NAMES.map(lambda name: b"/nowhere/" + name)
UNICODE = ABSOLUTE.map(lambda name: name.decode("utf-8", "replace"))
PROTOCOL = re.compile(r"[^:/]*:")


def paths(*args: str) -> list[str]:
    return [d.path for d in discover(["qemu-kvm", *args], CWD, qemu_config=NO_CONFIG)]


@given(ABSOLUTE)
def test_any_name_comes_through_qemus_quoting(name: bytes) -> None:
    for spelling in PLAIN:
        found = paths(*spelling(os.fsdecode(name)))
        assert [os.fsencode(path) for path in found] == [name]


@given(UNICODE)
def test_any_unicode_name_comes_through_json(name: str) -> None:
    for spelling in JSON:
        assert paths(*spelling(name)) == [name]


@given(NAMES.filter(lambda name: name and not name.startswith(b"/dev/fdset/")))
def test_a_relative_name_is_found_right_or_refused(name: bytes) -> None:
    """With a colon before any slash QEMU sees a protocol, save where only a file can be meant."""
    text = os.fsdecode(name)
    for spelling in PLAIN:
        usual = spelling("a")[1]
        literal = "filename=" in usual or "=file:" in usual
        protocol = None if literal else PROTOCOL.match(text)
        expected = os.path.join(CWD, text.removeprefix("file:") if protocol else text)
        if protocol and protocol.group()[:-1] in NETWORK:
            expected = text
        try:
            assert paths(*spelling(text)) == [expected]
        except DiscoveryError:
            assert protocol
            assert protocol.group() != "file:"


@given(ABSOLUTE, st.sampled_from(["", ",id=x", ",copied", ",copied,id=x"]))
def test_any_name_comes_through_the_disk_option(name: bytes, options: str) -> None:
    text = os.fsdecode(name)
    assert parse_disk_option(f"{text},exclusive{options}", "/").path == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.img", ("/vm/a.img", "exclusive", None, False)),
        ("/a.img", ("/a.img", "exclusive", None, False)),
        ("a.img,exclusive", ("/vm/a.img", "exclusive", None, False)),
        ("a.img,shared", ("/vm/a.img", "shared", None, False)),
        ("a.img,readonly", ("/vm/a.img", "shared", None, False)),
        ("a.img,copied", ("/vm/a.img", "exclusive", None, True)),
        ("a.img,id=wwn-5000", ("/vm/a.img", "exclusive", "wwn-5000", False)),
        ("a.img,id=x=y,shared", ("/vm/a.img", "shared", "x=y", False)),
        ("a.img,shared,id=x", ("/vm/a.img", "shared", "x", False)),
        ("a.img,exclusive,copied,id=x", ("/vm/a.img", "exclusive", "x", True)),
        ("a,b.img", ("/vm/a,b.img", "exclusive", None, False)),
        ("a,,shared", ("/vm/a,", "shared", None, False)),
        ("a,shared,exclusive", ("/vm/a,shared", "exclusive", None, False)),
        ("a,copied,exclusive", ("/vm/a,copied", "exclusive", None, False)),
        ("a,shared,readonly", ("/vm/a,shared", "shared", None, False)),
        ("a,id=x,id=y", ("/vm/a,id=x", "exclusive", "y", False)),
        ("a,mode", ("/vm/a,mode", "exclusive", None, False)),
        ("a,id", ("/vm/a,id", "exclusive", None, False)),
        ("a,copied=on", ("/vm/a,copied=on", "exclusive", None, False)),
        ("shared", ("/vm/shared", "exclusive", None, False)),
        ("../x//y", ("/vm/../x//y", "exclusive", None, False)),
    ],
)
def test_the_disk_option(text: str, expected: tuple[str, str, str | None, bool]) -> None:
    disk = parse_disk_option(text, "/vm")
    assert (disk.path, disk.mode, disk.identity, disk.copied) == expected
    assert disk.found_in == f"--disk {text}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the path is empty"),
        (",shared", "the path is empty"),
        ("a,id=", "identity after id= is empty"),
        ("a,copied,shared", "a copied disk cannot be shared"),
        ("a,readonly,copied", "a copied disk cannot be readonly"),
    ],
)
def test_a_disk_option_that_cannot_be_meant(text: str, reason: str) -> None:
    with pytest.raises(DiscoveryError, match=reason) as raised:
        parse_disk_option(text, "/vm")
    assert str(raised.value).startswith(f"cannot read --disk {text}: ")
    assert raised.value.exit_code == 2
