"""Are lock files where libvirt has them, and explicit leases where they are told to be?"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import (
    ConfigError,
    LeaseHeldError,
    LockError,
    Mode,
    Resource,
    ResourceError,
    ResourceType,
    UnsupportedError,
)
from lockplugins.file.names import lock_file
from lockplugins.file.plugin import FilePlugin
from tests.support.locking import READ, CopyingCarrier, Locker, is_free

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def lockspace(tmp_path: Path) -> Path:
    """Not there yet, nor is its parent."""
    return tmp_path / "lockd" / "files"


@pytest.fixture
def plugin(lockspace: Path) -> Iterator[FilePlugin]:
    carrier = CopyingCarrier()
    yield FilePlugin({"file_lockspace_dir": str(lockspace)}, carrier)
    carrier.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "a.qcow2"
    path.touch()
    return path


def hashed(path: Path | str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def test_the_lock_file_is_the_hash_of_the_path_as_virtlockd_makes_it(
    plugin: FilePlugin, lockspace: Path, disk: Path
) -> None:
    (lease,) = plugin.acquire([Resource(str(disk))], None)
    assert os.listdir(lockspace) == [hashed(disk)]
    status = (lockspace / hashed(disk)).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, 0)
    assert stat.S_IMODE(lockspace.stat().st_mode) == 0o700
    assert (lease.lockspace, lease.lease) == (str(lockspace), hashed(disk))


def test_the_name_is_that_of_sha256sum() -> None:
    known = "ee7437f238052c0f2c787b7f480f135b5edac51ffb6759353586e40d95052c71"  # of sha256sum(1)
    assert lock_file("/srv/a.qcow2", {"file_lockspace_dir": "/l"}, is_block=False) == ("/l", known)
    assert lock_file("/srv/a.qcow2", {"lvm_lockspace_dir": "/l"}, is_block=False) is None


def test_disk_and_lock_file_are_both_locked_and_freed_and_the_file_stays(
    plugin: FilePlugin, lockspace: Path, disk: Path
) -> None:
    (lease,) = plugin.acquire([Resource(str(disk))], None)
    lock_file = lockspace / hashed(disk)
    assert not is_free(disk)
    assert not is_free(lock_file)
    plugin.release(lease)
    assert is_free(disk)
    assert is_free(lock_file)


def test_sharers_share_the_lock_file_too(plugin: FilePlugin, lockspace: Path, disk: Path) -> None:
    plugin.acquire([Resource(str(disk), Mode.SHARED)], None)
    lock_file = lockspace / hashed(disk)
    assert is_free(lock_file, READ)
    assert not is_free(lock_file)
    assert not is_free(lock_file, byte=2)


@pytest.mark.parametrize("claimed", ["as given", "realpath"])
def test_libvirts_lock_under_either_name_refuses_and_frees_the_rest(
    plugin: FilePlugin, lockspace: Path, disk: Path, tmp_path: Path, claimed: str
) -> None:
    link = tmp_path / "link"
    link.symlink_to(disk)
    lockspace.mkdir(parents=True)
    lock_file = lockspace / hashed(link if claimed == "as given" else disk)
    lock_file.touch()
    with Locker(lock_file, posix=True) as virtlockd:
        with pytest.raises(LeaseHeldError, match=f"lease for disk {link}: held by") as refused:
            plugin.acquire([Resource(str(link))], None)
        assert refused.value.holder is not None
        assert refused.value.holder.pid == virtlockd.pid
        assert is_free(disk)
        holders = plugin.inquire(Resource(str(link)))
        assert [holder.pid for holder in holders] == [virtlockd.pid]
    (lease,) = plugin.acquire([Resource(str(link))], None)
    assert lease.lease == hashed(link)
    assert not is_free(lock_file)


def test_names_of_one_disk_that_differ_share_its_lock_but_not_their_lock_files(
    plugin: FilePlugin, lockspace: Path, disk: Path, tmp_path: Path
) -> None:
    hard = tmp_path / "hard"
    os.link(disk, hard)
    first, second = plugin.acquire([Resource(str(disk)), Resource(str(hard))], None)
    plugin.release(first)
    assert is_free(lockspace / hashed(disk))
    assert not is_free(lockspace / hashed(hard))
    assert not is_free(disk)
    plugin.release(second)
    assert is_free(disk)


def test_a_refused_release_leaves_every_file_as_it_was(
    plugin: FilePlugin, lockspace: Path, disk: Path
) -> None:
    (writer,) = plugin.acquire([Resource(str(disk))], None)
    plugin.acquire([Resource(str(disk), Mode.SHARED)], None)
    with Locker(lockspace / hashed(disk), byte=2):
        with pytest.raises(LockError, match="cannot release the lease on"):
            plugin.release(writer)
        assert not is_free(disk, READ)
        assert is_free(disk, byte=2)
    plugin.release(writer)
    assert is_free(disk, READ)


def test_inquire_creates_nothing(plugin: FilePlugin, lockspace: Path, disk: Path) -> None:
    assert plugin.inquire(Resource(str(disk))) == []
    assert not lockspace.exists()
    lockspace.mkdir(parents=True)
    assert plugin.inquire(Resource(str(disk))) == []
    assert os.listdir(lockspace) == []


def test_a_lock_file_that_leads_elsewhere_is_not_followed(
    plugin: FilePlugin, lockspace: Path, disk: Path, tmp_path: Path
) -> None:
    lockspace.mkdir(parents=True)
    (lockspace / hashed(disk)).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResourceError, match="ELOOP"):
        plugin.acquire([Resource(str(disk))], None)
    assert not (tmp_path / "elsewhere").exists()
    assert is_free(disk)


def test_a_lockspace_that_is_no_directory_is_named(
    plugin: FilePlugin, lockspace: Path, disk: Path
) -> None:
    lockspace.parent.write_text("in the way")
    with pytest.raises(ResourceError, match=f"{lockspace}.*ENOTDIR|{lockspace}.*EEXIST"):
        plugin.acquire([Resource(str(disk))], None)
    assert is_free(disk)


@pytest.mark.parametrize("key", FilePlugin.CONFIG_KEYS)
def test_a_lockspace_directory_is_an_absolute_path(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} of plugin file: 'locks' is not an absolute"):
        FilePlugin({key: "locks"}, CopyingCarrier())


def explicit(
    directory: Path, lockspace: str = "prod", key: str = "web1", offset: int = 0
) -> Resource:
    return Resource(
        str(directory),
        resource_type=ResourceType.LEASE,
        lockspace=lockspace,
        key=key,
        offset_bytes=offset,
    )


def test_an_explicit_lease_is_byte_0_of_the_existing_file(
    plugin: FilePlugin, tmp_path: Path
) -> None:
    (tmp_path / "prod").mkdir()
    with pytest.raises(ResourceError, match=r"resource prod:web1: .*/prod/web1: .*ENOENT"):
        plugin.acquire([explicit(tmp_path)], None)
    lease_file = tmp_path / "prod" / "web1"
    assert not lease_file.exists()
    lease_file.touch()
    (lease,) = plugin.acquire([explicit(tmp_path)], None)
    assert (lease.lockspace, lease.lease) == (f"{tmp_path}/prod", "web1")
    assert not is_free(lease_file, READ)
    with pytest.raises(LeaseHeldError, match="exclusive lease for resource prod:web1: held by"):
        FilePlugin({}, CopyingCarrier()).acquire([explicit(tmp_path)], None)
    assert len(plugin.inquire(explicit(tmp_path))) == 1
    plugin.release(lease)
    assert is_free(lease_file)


@pytest.mark.parametrize("word", ["..", ".", "", "a/b", "/etc"])
def test_an_explicit_lease_does_not_leave_its_directory(
    plugin: FilePlugin, tmp_path: Path, word: str
) -> None:
    for resource in (explicit(tmp_path, lockspace=word), explicit(tmp_path, key=word)):
        with pytest.raises(ResourceError, match="is not a file's name"):
            plugin.acquire([resource], None)


def test_an_explicit_lease_elsewhere_than_at_byte_0_is_unsupported(
    plugin: FilePlugin, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="offset 512"):
        plugin.acquire([explicit(tmp_path, offset=512)], None)
    with pytest.raises(UnsupportedError, match="no PATH is given"):
        plugin.acquire(
            [Resource("", resource_type=ResourceType.LEASE, lockspace="a", key="b")], None
        )
