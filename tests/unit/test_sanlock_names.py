"""Have a disk's resources libvirt's names, and a guest each once, as strongly as needed?"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import (
    LockError,
    Mode,
    Resource,
    ResourceError,
    ResourceType,
    UnsupportedError,
)
from lockplugins.sanlock import claims, names
from lockplugins.sanlock.settings import LOCKSPACE, Settings

if TYPE_CHECKING:
    from pathlib import Path

EXCLUSIVE, SHARED = Mode.EXCLUSIVE, Mode.SHARED


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk"
    path.touch()
    return str(path)


@pytest.fixture
def link(tmp_path: Path, disk: str) -> str:
    path = tmp_path / "link"
    path.symlink_to(disk)
    return str(path)


@pytest.fixture
def twin(tmp_path: Path, disk: str) -> str:
    path = tmp_path / "twin"
    os.link(disk, path)
    return str(path)


SETTINGS = Settings({"disk_lease_dir": "/leases/", "host_id": "3"})


def located(path: str, mode: str = EXCLUSIVE) -> names.Located:
    return names.locate(Resource(path, mode), SETTINGS)


def md5(path: str) -> str:
    return hashlib.md5(os.fsencode(path), usedforsecurity=False).hexdigest()


def test_a_disk_is_the_md5_of_its_path_as_libvirt_writes_it(disk: str) -> None:
    (place,) = located(disk).places
    assert place.key == (LOCKSPACE, md5(disk))
    assert place.path == f"/leases/{md5(disk)}"
    assert place.offset_bytes == 0


def test_the_bytes_of_a_name_count_whatever_they_are(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.img")
    open(path, "w", encoding="ascii").close()
    assert located(path).places[0].key[1] == md5(path)


def test_a_symlink_is_claimed_by_both_of_its_names(disk: str, link: str) -> None:
    assert [place.key[1] for place in located(link).places] == [md5(link), md5(disk)]


def test_an_explicit_lease_is_passed_on_as_it_is() -> None:
    lease = Resource(
        "/dev/leases", resource_type=ResourceType.LEASE, lockspace="prod", key="a", offset_bytes=8
    )
    (place,) = names.locate(lease, SETTINGS).places
    assert (place.key, place.path, place.offset_bytes) == (("prod", "a"), "/dev/leases", 8)
    told = place.resource()
    assert (told.lockspace, told.name, told.disk.path, told.disk.offset, told.num_disks) == (
        b"prod", b"a", b"/dev/leases", 8, 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lockspace", "key", "path"),
    [
        ("", "a", "/x"),
        ("a" * 48, "a", "/x"),
        ("a", "b c", "/x"),
        ("a", "b", ""),
        ("a", "b", "/x:y"),
    ],
)
def test_an_explicit_lease_that_sanlock_cannot_be_told_of_is_refused(
    lockspace: str, key: str, path: str
) -> None:
    lease = Resource(path, resource_type=ResourceType.LEASE, lockspace=lockspace, key=key)
    with pytest.raises(ResourceError, match="is empty, longer than"):
        names.locate(lease, SETTINGS)


@pytest.mark.parametrize(
    ("path", "words"),
    [("disk", "not an absolute path"), ("/nowhere/x", "ENOENT"), ("/dev/null", "a character dev"),
     ("/tmp", "a directory"), ("/x\0y", "not an absolute path"), ("/x\ud800", "not an absolute")],
)  # fmt: skip
def test_what_is_no_disk_is_refused(path: str, words: str) -> None:
    with pytest.raises(ResourceError, match=words):
        located(path)


def test_a_guest_as_a_whole_is_left_to_vm() -> None:
    guest = Resource("uuid", resource_type=ResourceType.VM)
    with pytest.raises(UnsupportedError, match=r"plugin sanlock leases disks; use vm\+sanlock"):
        names.locate(guest, SETTINGS)


def modes(*wanted: names.Located) -> dict[str, str]:
    return {key[1]: claim.mode for key, claim in claims.wanted(wanted).items()}


def test_one_resource_serves_all_names_in_the_strongest_mode(disk: str, link: str) -> None:
    assert modes(located(disk, SHARED)) == {md5(disk): SHARED}
    both = modes(located(disk, SHARED), located(link, EXCLUSIVE))
    assert both == {md5(disk): EXCLUSIVE, md5(link): EXCLUSIVE}


def test_a_hard_link_is_held_as_strongly_as_the_disk(disk: str, twin: str) -> None:
    both = modes(located(disk, SHARED), located(twin, EXCLUSIVE))
    assert both == {md5(disk): EXCLUSIVE, md5(twin): EXCLUSIVE}


def test_eight_resources_are_the_most_counted_over_all_names(tmp_path: Path) -> None:
    disks = []
    for number in range(5):
        (tmp_path / f"disk{number}").touch()
        (tmp_path / f"link{number}").symlink_to(tmp_path / f"disk{number}")
        disks.append(str(tmp_path / f"link{number}"))
    assert len(claims.wanted([located(disk) for disk in disks[:4]])) == 8
    with pytest.raises(LockError) as refused:
        claims.wanted([located(disk) for disk in disks])
    assert "it would need 10 resources of sanlock, which has 8 a guest" in str(refused.value)
    assert "; name disks by their realpath" in str(refused.value)


def test_a_change_takes_raises_lowers_and_drops(tmp_path: Path, disk: str, link: str) -> None:
    (tmp_path / "other").touch()
    other = located(str(tmp_path / "other"))
    before = claims.wanted([located(disk, SHARED), other])
    before[LOCKSPACE, md5(disk)].version = 7
    after = claims.wanted([located(link, EXCLUSIVE)])
    there = claims.Change(before, after)
    assert [claim.place.key[1] for claim in there.taken] == [md5(link)]
    assert [claim.place.key[1] for claim in there.raised] == [md5(disk)]
    assert [claim.place.key for claim in there.dropped] == [other.places[0].key]
    assert after[LOCKSPACE, md5(disk)].version == 7
    back = claims.Change(after, before)
    assert [claim.place.key[1] for claim in back.lowered] == [md5(disk)]
