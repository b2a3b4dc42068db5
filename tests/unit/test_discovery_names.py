"""Does every file name come through every way of spelling it? And what does --disk say?"""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.discovery.disks import DiscoveryError, discover, parse_disk_option

NO_CONFIG = "/nonexistent/qemu.conf"
# Absolute names of any bytes that a file can have, rich in what has a meaning to QEMU.
NAMES = st.lists(
    st.one_of(
        st.sampled_from([b",", b",,", b"=", b".", b":", b" ", b"\n", b"'", b'"', b"\\", b"//"]),
        st.sampled_from([b"json:{", b"file:", b",readonly=on", b",shared", b"\xff", b"\xc3\xa9"]),
        st.binary(min_size=1, max_size=4),
    ),
    max_size=8,
).map(lambda parts: b"/nowhere/" + b"".join(parts).replace(b"\0", b"0"))
UNICODE = NAMES.map(lambda name: name.decode("utf-8", "replace"))


def paths(*args: str) -> list[str]:
    return [d.path for d in discover(["qemu-kvm", *args], "/vm", qemu_config=NO_CONFIG)]


def doubled(text: str) -> str:
    return text.replace(",", ",,")


@given(NAMES)
def test_any_name_comes_through_qemus_quoting(name: bytes) -> None:
    text = os.fsdecode(name)
    quoted = doubled(text)
    assert paths("-hda", text) == [text]
    assert paths(text) == [text]
    assert paths("-drive", f"if=none,file={quoted},format=raw") == [text]
    assert paths("-drive", f"file.filename={quoted},if=none") == [text]
    assert paths("-blockdev", f"file,filename={quoted},node-name=n") == [text]
    nested = f"driver=raw,node-name=n,file.driver=file,file.filename={quoted}"
    assert paths("-blockdev", nested) == [text]
    assert [os.fsencode(path) for path in paths("-cdrom", text)] == [name]


@given(UNICODE, st.booleans())
def test_any_unicode_name_comes_through_json(name: str, ascii_only: bool) -> None:  # noqa: FBT001
    text = json.dumps(
        {"driver": "file", "node-name": "n", "filename": name}, ensure_ascii=ascii_only
    )
    assert paths("-blockdev", text) == [name]
    nested = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": name}})
    assert paths("-hda", f"json:{nested}") == [name]
    assert paths("-drive", f"if=none,file=json:{doubled(nested)}") == [name]


@given(NAMES, st.sampled_from(["", ",id=x", ",copied", ",copied,id=x"]))
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
