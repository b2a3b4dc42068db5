"""Which bytes does the file plugin lock, and whom do they keep out?"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

import prctl
import pytest

from lockplugins.contract import (
    LeaseHeldError,
    LeaseUnknownError,
    LockError,
    Mode,
    Resource,
    ResourceError,
)
from lockplugins.file.plugin import FilePlugin
from lockplugins.kernel_locks.lockfile import LockFile
from tests.support.locking import READ, WRITE, CopyingCarrier, Locker, is_free

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BYTES = (0, 1, 2, 3, 99, 100, 101, 201, 203)


@pytest.fixture
def carrier() -> Iterator[CopyingCarrier]:
    made = CopyingCarrier()
    yield made
    made.close()


@pytest.fixture
def plugin(carrier: CopyingCarrier) -> FilePlugin:
    return FilePlugin({}, carrier)


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "a.qcow2"
    path.write_bytes(b"guest data")
    return str(path)


def locked(path: str, kind: int = WRITE) -> list[int]:
    return [byte for byte in BYTES if not is_free(path, kind, byte)]


def test_exclusive_locks_byte_0_for_writing_and_nothing_else(plugin: FilePlugin, disk: str) -> None:
    plugin.acquire([Resource(disk)], None)
    assert (locked(disk, READ), locked(disk, WRITE)) == ([0], [0])


def test_shared_locks_bytes_0_and_2_for_reading_and_nothing_else(
    plugin: FilePlugin, disk: str
) -> None:
    plugin.acquire([Resource(disk, Mode.SHARED)], None)
    assert (locked(disk, READ), locked(disk, WRITE)) == ([], [0, 2])


@pytest.mark.parametrize("posix", [True, False], ids=["POSIX", "OFD"])
def test_a_lock_of_another_process_on_byte_0_refuses(
    plugin: FilePlugin, disk: str, *, posix: bool
) -> None:
    with Locker(disk, posix=posix) as other:
        with pytest.raises(LeaseHeldError) as refused:
            plugin.acquire([Resource(disk)], None)
        assert refused.value.holder is not None
        assert refused.value.holder.pid == other.pid
    plugin.acquire([Resource(disk)], None)
    with Locker(disk, posix=posix) as late:
        assert not late.held


@pytest.mark.parametrize("posix", [True, False], ids=["POSIX", "OFD"])
def test_sharers_share_with_readers_and_refuse_writers(
    plugin: FilePlugin, disk: str, *, posix: bool
) -> None:
    with Locker(disk, kind=READ, posix=posix):
        with pytest.raises(LeaseHeldError):
            plugin.acquire([Resource(disk)], None)
        plugin.acquire([Resource(disk, Mode.SHARED)], None)
    with Locker(disk, kind=READ, posix=posix) as reader, Locker(disk, posix=posix) as writer:
        assert (reader.held, writer.held) == (True, False)


@pytest.mark.parametrize("mode", Mode.ALL)
def test_byte_2_held_for_writing_is_a_migrations_destination_s_and_keeps_everybody_out(
    plugin: FilePlugin, disk: str, mode: str
) -> None:
    with Locker(disk, byte=2) as destination:
        with pytest.raises(LeaseHeldError) as refused:
            plugin.acquire([Resource(disk, mode)], None)
        assert refused.value.holder is not None
        assert refused.value.holder.pid == destination.pid
        assert is_free(disk)
    plugin.acquire([Resource(disk, mode)], None)


@pytest.mark.parametrize("byte", [1, 100, 201])
def test_locks_of_libvirts_labels_and_of_qemu_are_nobodys_business(
    plugin: FilePlugin, disk: str, byte: int
) -> None:
    with Locker(disk, byte=byte):
        plugin.acquire([Resource(disk)], None)


def test_an_image_that_may_only_be_read_can_be_shared_but_not_held_exclusively(
    plugin: FilePlugin, readonly_disk: str
) -> None:
    with pytest.raises(ResourceError, match=r"Permission denied \(EACCES\); .*write access"):
        plugin.acquire([Resource(readonly_disk)], None)
    plugin.acquire([Resource(readonly_disk, Mode.SHARED)], None)


@pytest.fixture
def readonly_disk() -> Iterator[str]:
    """Of mode 0444, and we are not root while it exists."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103  # another user has to get in
        path = f"{directory}/disk"
        os.close(os.open(path, os.O_CREAT, 0o444))
        user = os.geteuid()
        os.seteuid(user or 65534)
        prctl.set_dumpable(True)  # or /proc/self would belong to root from now on
        yield path
        os.seteuid(user)
        prctl.set_dumpable(True)


def test_a_refusal_by_anything_but_a_holder_is_never_called_held(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    # The kernel's EBADF for a write lock on a read-only description stands for every such errno.
    file = LockFile(os.open(path, os.O_RDONLY), os.O_RDONLY, "disk vda")
    with pytest.raises(LeaseUnknownError, match=r"cannot lock disk vda: .* \(EBADF\)"):
        file.lock(Mode.EXCLUSIVE)
    file.close()


def test_release_frees_at_once_though_copies_of_the_descriptor_are_in_flight(
    plugin: FilePlugin, carrier: CopyingCarrier, disk: str
) -> None:
    (lease,) = plugin.acquire([Resource(disk)], None)
    assert len(carrier.carried) == 1
    plugin.release(lease)
    assert is_free(disk)
    assert carrier.carried == {}
    with pytest.raises(LockError, match="cannot release"):
        plugin.release(lease)


def test_the_lease_outlives_the_plugins_own_descriptor(
    plugin: FilePlugin, carrier: CopyingCarrier, disk: str
) -> None:
    plugin.acquire([Resource(disk)], None)
    for file in plugin._held.values():
        os.close(file.fd)
    assert not is_free(disk)
    carrier.close()
    carrier._copies.clear()
    assert is_free(disk)


def test_a_carrier_without_room_leaves_nothing_held(disk: str, tmp_path: Path) -> None:
    other = tmp_path / "b.qcow2"
    other.touch()
    full = CopyingCarrier(room=1, error=LockError("carry", "a lease", "no room"))
    plugin = FilePlugin({}, full)
    with pytest.raises(LockError, match="no room"):
        plugin.acquire([Resource(disk), Resource(str(other))], None)
    assert is_free(disk)
    assert is_free(other)
    assert full.carried == {}
    full.close()


def test_acquiring_and_releasing_leaves_bytes_owner_mode_and_times_alone(
    plugin: FilePlugin, disk: str
) -> None:
    os.utime(disk, (1000, 2000))
    before = os.stat(disk)
    plugin.inquire(Resource(disk))
    (lease,) = plugin.acquire([Resource(disk)], None)
    plugin.release(lease)
    with Locker(disk), pytest.raises(LeaseHeldError):
        plugin.acquire([Resource(disk)], None)
    after = os.stat(disk)
    assert after == before
    assert (after.st_atime_ns, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_atime_ns,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_no_descriptor_is_left_after_refusal_and_release(plugin: FilePlugin, disk: str) -> None:
    before = os.listdir("/proc/self/fd")
    with Locker(disk):
        locker_fds = os.listdir("/proc/self/fd")
        with pytest.raises(LeaseHeldError):
            plugin.acquire([Resource(disk), Resource(disk, Mode.SHARED)], None)
        plugin.inquire(Resource(disk))
        assert os.listdir("/proc/self/fd") == locker_fds
    leases = plugin.acquire([Resource(disk), Resource(disk)], None)
    for lease in leases:
        plugin.release(lease)
    copies = len(plugin.carrier._copies)  # type: ignore[attr-defined]  # the test's own carrier
    assert len(os.listdir("/proc/self/fd")) == len(before) + copies
