"""What does the plugin `file` say of the places where it keeps leases? And leaves no trace?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode, Resource, ResourceType
from lockplugins.file.examine import CHECKS, DEVICE, PLACE
from lockplugins.file.plugin import FilePlugin
from lockplugins.kernel_locks import exclusion, reach
from tests.support import proclocks
from tests.support.locking import READ, WRITE, CopyingCarrier, Locker
from tests.support.loop import loop_device, second_node

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXCLUDES = "exclude between two opens and two processes"

# As the kernel writes mounts of these types; the machines that test this have few of them.
NFS = "92 28 0:52 / /srv rw,relatime shared:1 - nfs4 nas:/vms rw,vers=4.2,hard,local_lock=none"
RECORDED = [
    ("36 35 98:0 / /mnt rw,noatime - ext4 /dev/root rw,errors=continue", True, "on this host only"),
    ("28 1 0:25 / /run rw,nosuid - tmpfs tmpfs rw,size=800k,mode=755", True, "on this host only"),
    (NFS, False, "NFS 4.2: its locks reach every host; a host that is cut off loses them"),
    (NFS.replace("none", "posix"), False, "NFS 4.2 with local_lock=posix: its locks are this host"),
    (NFS.replace("none", "all"), False, "NFS 4.2 with local_lock=all: its locks are this host's"),
    (NFS.replace("none", "flock"), False, "NFS 4.2: its locks reach every host"),
    (
        "9 2 0:5 / /srv rw - nfs nas:/vms rw,vers=3,hard,nolock,proto=tcp,local_lock=all",
        False,
        "NFS 3 with nolock: its locks are this host's alone",
    ),
    (
        "9 2 0:5 / /srv rw - nfs nas:/vms rw,vers=3,hard,proto=tcp,local_lock=none",
        False,
        "NFS 3: its locks reach every host; those of a host that died stay for good",
    ),
    ("9 2 0:5 / /srv rw - cifs //nas/vms rw,vers=3.1.1", False, "forbid reading too"),
    ("9 2 0:5 / /srv rw - cifs //nas/vms rw,vers=3.1.1,nobrl", False, "cifs: its locks are this"),
    ("9 2 0:5 / /srv rw - 9p vms rw,sync,dirsync,access=client,trans=virtio", False, "this host's"),
    ("9 2 0:5 / /srv rw - virtiofs vms rw", False, "virtiofs: its locks are this host's alone"),
    ("9 2 0:5 / /srv rw - fuse.sshfs me@nas: rw,user_id=0", False, "fuse.sshfs: whether"),
    ("9 2 0:5 / /srv rw - fuseblk /dev/sdb1 rw", False, "fuseblk: whether"),
    ("9 2 0:5 / /srv rw - ceph 10.0.0.1:/ rw,name=vms,acl", True, "ceph: its locks reach every"),
    ("9 2 0:5 / /srv rw - gfs2 /dev/mapper/vg-vms rw", True, "gfs2: its locks reach every host"),
    ("9 2 0:5 / /srv rw - ocfs2 /dev/mapper/vg-vms rw", True, "ocfs2: its locks reach every host"),
    ("9 2 0:5 / /srv rw - lustre mgs@tcp:/vms rw,flock", True, "lustre: its locks reach every"),
    ("9 2 0:5 / /srv rw - lustre mgs@tcp:/vms rw,localflock", False, "lustre without flock"),
    (
        "1 2 0:5 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
        False,
        "overlay: the same file under its upper or lower directory has locks of its own",
    ),
]


def plugin(**config: str) -> FilePlugin:
    return FilePlugin(config, CopyingCarrier())


def stamps(directory: Path) -> dict[str, tuple[object, ...]]:
    """Return what a look could have changed, of everything below."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted((directory, *directory.rglob("*"))):
        status = path.lstat()
        found[str(path)] = (*status, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    return found


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    os.utime(path, ns=(0, 0))  # an access of any kind would move this under relatime
    return str(path)


@pytest.mark.parametrize(("line", "well", "words"), RECORDED)
def test_how_far_a_lock_reaches_is_told_by_type_and_options(
    line: str, words: str, *, well: bool
) -> None:
    found = reach.judge(reach.Mount(line))
    assert found[0] == well
    assert words in found[1]
    assert bool(found[2]) == (not well)


@pytest.mark.parametrize("mode", Mode.ALL)
def test_a_filesystem_that_excludes_is_good(image: str, mode: str) -> None:
    found = plugin().examine(Resource(image, mode))
    assert [finding[:2] for finding in found] == [
        (PLACE, True),
        (exclusion.NAME, True),
        (reach.NAME, True),
    ]
    assert found[0][2] == f"the lease is byte 0 of {image}"
    kinds = "exclusive and shared" if mode == Mode.EXCLUSIVE else "shared (it is opened to read)"
    assert found[1][2] == f"OFD and POSIX locks, {kinds}, {EXCLUDES}"
    assert all(not finding[3] for finding in found)


def test_nothing_changes_by_a_look(image: str, tmp_path: Path) -> None:
    lockspace = tmp_path / "lockspace"
    lockspace.mkdir()
    (lockspace / "one").touch()
    with Locker(image), Locker(lockspace / "one", kind=READ):
        before, locks = stamps(tmp_path), proclocks.locks(image)
        for directory in (lockspace, tmp_path / "missing" / "too"):
            checked = plugin(file_lockspace_dir=str(directory))
            found = [*checked.examine(None), *checked.examine(Resource(image))]
            assert {finding[1] for finding in found} == {True}, found
        assert stamps(tmp_path) == before
        assert proclocks.locks(image) == locks


def test_lock_files_and_lockspaces_are_named(image: str, tmp_path: Path) -> None:
    wanted = tmp_path / "missing" / "too"
    checked = plugin(file_lockspace_dir=str(wanted))
    assert f", lock file {wanted}/" in checked.examine(Resource(image))[0][2]
    found = checked.examine(None)
    assert [finding[0] for finding in found] == [exclusion.NAME, reach.NAME]
    assert found[0][2].startswith(f"{wanted}, to be made in {tmp_path}: OFD and POSIX locks, ")
    assert not wanted.parent.exists()


def test_a_lock_on_all_of_the_file_leaves_nothing_to_try(image: str) -> None:
    with Locker(image, byte=0) as everything:
        assert everything.held
        assert plugin().examine(Resource(image))[1][1]
    with Locker(image, kind=WRITE, byte=0, length=0):
        (found,) = [f for f in plugin().examine(Resource(image)) if f[0] == exclusion.NAME]
        assert found[1:3] == (False, "no lock can be tried: somebody has one on all of the file")


def test_a_disk_that_is_not_there_is_no_good_place(tmp_path: Path) -> None:
    (found,) = plugin().examine(Resource(str(tmp_path / "missing")))
    assert found[:3] == (PLACE, False, "No such file or directory (ENOENT)")
    assert found[3]


def test_what_is_no_disk_says_so(tmp_path: Path) -> None:
    (found,) = plugin().examine(Resource(str(tmp_path)))
    assert found[:2] == (PLACE, False)
    assert "directory" in found[2]


def test_an_explicit_lease_has_a_place_too(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "key").touch()
    lease = Resource(str(tmp_path), resource_type=ResourceType.LEASE, lockspace="space", key="key")
    found = plugin().examine(lease)
    assert found[0][:3] == (PLACE, True, f"the lease is byte 0 of {tmp_path}/space/key")
    assert found[1][:2] == (exclusion.NAME, True)


@pytest.mark.parametrize("way", ["device", "second node"])
def test_a_block_device_is_tried_with_the_kernels_own_node(
    way: str, require: Callable[[str], str], tmp_path: Path
) -> None:
    require("losetup")
    if os.geteuid() != 0:
        pytest.skip("only root has loop devices")
    with loop_device(str(tmp_path / "loop.img")) as device:
        path = device if way == "device" else second_node(device, str(tmp_path / "node"))
        found = plugin().examine(Resource(path))
    checks = [finding[0] for finding in found]
    assert set(checks) == set(CHECKS)
    assert checks.count(exclusion.NAME) == (1 if way == "device" else 2)
    assert {finding[1] for finding in found if finding[0] == exclusion.NAME} == {True}
    assert f"byte 0 of {device}" in found[0][2]
    (other,) = [finding for finding in found if finding[0] == DEVICE]
    assert other[1] is False
    assert f"the image {tmp_path}/loop.img" in other[2]
