"""Is a libvirt domain XML read as libvirt reads it, and everything else refused in one line?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockplugins.contract import LockError
from supervisor.discovery.domain_xml import LONGEST, Domain, parse, read
from supervisor.discovery.errors import DiscoveryError

if TYPE_CHECKING:
    from pathlib import Path

UUID = "5f2c1d3e-0000-4000-8000-00000000000a"
LEASE = "<lease><lockspace>{}</lockspace><key>{}</key><target {}/></lease>"


def domain(*devices: str, head: str = "") -> str:
    return f"<domain type='kvm'>{head}<devices>{''.join(devices)}</devices></domain>"


def leases(*rendered: tuple[str, str, str]) -> list[tuple[str | None, str | None, str, int]]:
    read_from = parse(domain(*(LEASE.format(*words) for words in rendered)))
    return [(r.lockspace, r.key, r.path, r.offset_bytes) for r in read_from.leases]


def test_a_domain_has_a_name_a_uuid_disks_and_leases() -> None:
    disk = "<disk><source file='/a'/><target dev='vda'/></disk>"
    lease = LEASE.format("space", "key", "path='/dir'")
    whole = parse(domain(disk, lease, head=f"<name>web1</name><uuid>{UUID}</uuid>"))
    assert (whole.name, whole.uuid) == ("web1", UUID)
    assert [(d.path, d.mode, d.found_in) for d in whole.disks] == [
        ("/a", "exclusive", "domain XML disk vda")
    ]
    assert [(r.type, r.lockspace, r.key) for r in whole.leases] == [("lease", "space", "key")]


def test_a_domain_may_say_nothing() -> None:
    for nothing in (parse("<domain/>"), parse(domain(head="<name/>")), Domain(None, None)):
        assert (nothing.name, nothing.uuid, nothing.disks, nothing.leases) == (None, None, [], [])


@pytest.mark.parametrize("given_uuid", [UUID, UUID.replace("-", ""), f"\n {UUID} "])
def test_a_uuid_is_brought_into_its_usual_form(given_uuid: str) -> None:
    assert parse(domain(head=f"<uuid>{given_uuid}</uuid>")).uuid == UUID


def test_a_uuid_that_is_none_is_left_for_others_to_refuse() -> None:
    assert parse(domain(head="<uuid>web1</uuid>")).uuid == "web1"


def test_leases_come_with_their_target() -> None:
    assert leases(("space", "key", "path='/d'"), ("s", "k", "path='/e:f' offset='1048576'")) == [
        ("space", "key", "/d", 0),
        ("s", "k", "/e:f", 1048576),
    ]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("", "key", "path='/d'"), "lease :key: it lacks a lockspace"),
        (("space", "", "path='/d'"), "lacks a lockspace, a key or a target"),
        (("space", "key", ""), "lacks a lockspace, a key or a target"),
        (("a:b", "key", "path='/d'"), "a colon in its lockspace or key"),
        (("space", "a:b", "path='/d'"), "a colon in its lockspace or key"),
        (("space", "key", "path='/d' offset='-1'"), "offset -1 is not a number"),
        (("space", "key", "path='/d' offset='\u0661'"), "is not a number"),
        (("space", "key", f"path='/d' offset='{'9' * 5000}'"), "is not a number"),
    ],
)
def test_a_lease_that_is_not_understood_is_refused(
    words: tuple[str, str, str], reason: str
) -> None:
    with pytest.raises(DiscoveryError, match=reason):
        leases(words)


def test_without_disks_none_is_refused() -> None:
    volume = "<disk type='volume'><source name='x'/><target dev='vda'/></disk>"
    with pytest.raises(DiscoveryError, match="a volume of a storage pool"):
        parse(domain(volume))
    lease = LEASE.format("space", "key", "path='/dir'")
    without = parse(domain(volume, lease, head="<name>a</name>"), with_disks=False)
    assert (without.name, without.disks, len(without.leases)) == ("a", [], 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed \\(no element found"),
        ("-drive file=a.img", "malformed"),
        ("<domain>", "malformed"),
        ("<domain></domain><domain/>", "malformed"),
        ("<domain>\0</domain>", "malformed"),
        ("<domain>&lt;&x;</domain>", "undefined entity"),
        ("<domain>\udcff</domain>", "not Unicode"),
        ("<!DOCTYPE domain><domain/>", "it has a DOCTYPE"),
        ("<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>", "it has a DOCTYPE"),
        ("<!DOCTYPE d SYSTEM 'file:///etc/passwd'><domain/>", "it has a DOCTYPE"),
        ("<?xml version='1.0' encoding='ISO-8859-1'?><domain/>", "encoding is ISO-8859-1"),
        ("\ufeff<?xml version='1.0' encoding=\"UTF-16\"?><domain/>", "encoding is UTF-16"),
        ("<domainstatus><domain/></domainstatus>", "root is <domainstatus>, not <domain>"),
        ("<disk/>", "root is <disk>"),
        ("<domain xmlns='other'/>", "root is <{other}domain>"),
    ],
)
def test_what_is_no_domain_xml_is_refused(text: str, reason: str) -> None:
    with pytest.raises(DiscoveryError, match=reason) as raised:
        parse(text)
    assert str(raised.value).startswith("cannot read domain XML: ")
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)


def test_the_usual_encoding_may_be_declared() -> None:
    for encoding in ("utf-8", "UTF-8"):
        assert parse(f"<?xml version='1.0' encoding='{encoding}'?>\n<domain/>").disks == []


def test_elements_nested_without_end_do_no_harm() -> None:
    depth = 100_000
    assert parse(domain("<a>" * depth + "</a>" * depth)).disks == []


def test_a_file_is_read_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<domain>\u00e9</domain>", encoding="utf-8")
    os.utime(tmp_path / "a.xml", (1, 2))
    assert read(str(tmp_path / "a.xml")) == "<domain>\u00e9</domain>"
    assert os.stat(tmp_path / "a.xml").st_atime == 1
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "latin").write_bytes(b"<domain>\xe9</domain>")
    (tmp_path / "utf16").write_text("<domain/>", encoding="utf-16")
    (tmp_path / "long").touch()
    os.truncate(tmp_path / "long", LONGEST + 1)
    for name, reason in (
        ("fifo", "not a regular file; save the XML to one"),
        (".", "Is a directory"),
        ("missing", "No such file or directory"),
        ("latin", "not UTF-8 (invalid continuation byte at byte 8)"),
        ("utf16", "not UTF-8"),
        ("long", "longer than 4 MiB"),
    ):
        with pytest.raises(DiscoveryError) as raised:
            read(str(tmp_path / name))
        assert str(raised.value).startswith(f"cannot read domain XML {tmp_path / name}: {reason}")


SHREDS = """<domain>
</domain>
<devices>
</devices>
<disk>
<disk type='block'>
</disk>
<source file='/a'/>
<source dev='b'>
</source>
<target dev='a'/>
<backingStore/>
<backingStore>
</backingStore>
<format type='qcow2'/>
<lease>
</lease>
<os firmware='efi'>
</os>
<nvram>/b</nvram>
&#10;
&x;
<![CDATA[
]]>
<!--
-->
<?x?>""".splitlines()
TEXTS = st.lists(st.one_of(st.sampled_from(SHREDS), st.text(max_size=3)), max_size=12)


@given(TEXTS)
def test_any_text_is_read_or_refused(parts: list[str]) -> None:
    for text in ("".join(parts), domain(*parts)):
        said = ""
        try:
            parse(text)
        except LockError as refused:
            said = str(refused)
        assert "\n" not in said
