"""Does a guest get all its leases or none, each file once, whatever the names?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import (
    LeaseHeldError,
    LockError,
    Mode,
    Resource,
    ResourceError,
    ResourceType,
    UnsupportedError,
)
from lockplugins.file.attempt import Attempt
from lockplugins.file.plugin import FilePlugin
from tests.support.locking import READ, CopyingCarrier, Locker, is_free

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def plugin() -> Iterator[FilePlugin]:
    carrier = CopyingCarrier()
    yield FilePlugin({}, carrier)
    carrier.close()


@pytest.fixture
def disks(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{number}.img" for number in range(8)]
    for path in paths:
        path.touch()
    return [str(path) for path in paths]


def exclusive(*paths: str) -> list[Resource]:
    return [Resource(path) for path in paths]


def shared(*paths: str) -> list[Resource]:
    return [Resource(path, Mode.SHARED) for path in paths]


def test_all_or_nothing_when_the_last_of_eight_is_held(
    plugin: FilePlugin, disks: list[str]
) -> None:
    with Locker(disks[-1]):
        with pytest.raises(LeaseHeldError):
            plugin.acquire(exclusive(*disks), None)
        assert all(is_free(disk) for disk in disks[:-1])
    leases = plugin.acquire(exclusive(*disks), None)
    assert [lease.resource for lease in leases] == disks
    assert not any(is_free(disk) for disk in disks)


def test_a_missing_disk_is_known_before_any_lock_is_taken(
    plugin: FilePlugin, disks: list[str]
) -> None:
    with (
        Locker(disks[0]),  # would be the error if locks came first
        pytest.raises(
            ResourceError, match=r"cannot open disk /no/such: .* \(ENOENT\); is its name right"
        ),
    ):
        plugin.acquire(exclusive(disks[0], "/no/such"), None)


def aliases(path: str, directory: Path) -> dict[str, str]:
    link, hard = directory / "link", directory / "hard"
    link.symlink_to(path)
    os.link(path, hard)
    base = os.path.dirname(path)
    return {
        "symlink": str(link),
        "hard link": str(hard),
        "//": path.replace("/", "//"),
        "..": f"{base}/../{os.path.basename(base)}/{os.path.basename(path)}",
        "itself": path,
    }


@pytest.mark.parametrize("kind", ["symlink", "hard link", "//", "..", "itself"])
def test_another_spelling_is_the_same_disk_within_a_guest_and_refused_between_guests(
    plugin: FilePlugin, disks: list[str], tmp_path: Path, kind: str
) -> None:
    alias = aliases(disks[0], tmp_path)[kind]
    first, second = plugin.acquire(exclusive(disks[0], alias), None)
    (third,) = plugin.acquire(exclusive(alias), None)
    with pytest.raises(LeaseHeldError, match="held by process"):
        FilePlugin({}, CopyingCarrier()).acquire(exclusive(alias), None)
    assert plugin.carrier.calls == [("keep", "file:" + plugin.carrier.calls[0][1][5:])]  # type: ignore[attr-defined]  # the test's own carrier
    for lease in (first, second):
        plugin.release(lease)
        assert not is_free(disks[0])
    plugin.release(third)
    assert is_free(disks[0])


@pytest.mark.parametrize("first", Mode.ALL)
def test_the_strongest_mode_wins_within_one_acquire(
    plugin: FilePlugin, disks: list[str], first: str
) -> None:
    second = Mode.EXCLUSIVE if first == Mode.SHARED else Mode.SHARED
    leases = plugin.acquire([Resource(disks[0], first), Resource(disks[0], second)], None)
    assert [lease.mode for lease in leases] == [first, second]
    assert not is_free(disks[0], READ)


@pytest.mark.parametrize("first", [Mode.EXCLUSIVE, Mode.SHARED])
def test_an_alias_acquired_later_converts_in_place_and_back(
    plugin: FilePlugin, disks: list[str], first: str
) -> None:
    modes = {Mode.EXCLUSIVE: exclusive(disks[0]), Mode.SHARED: shared(disks[0])}
    second = Mode.SHARED if first == Mode.EXCLUSIVE else Mode.EXCLUSIVE
    leases = {mode: plugin.acquire(modes[mode], None)[0] for mode in (first, second)}
    assert not is_free(disks[0], READ)
    assert is_free(disks[0], byte=2), "a migration's destination could take its ticket"
    plugin.release(leases[Mode.EXCLUSIVE])
    assert is_free(disks[0], READ)
    assert not is_free(disks[0])
    assert not is_free(disks[0], byte=2)
    plugin.release(leases[Mode.SHARED])
    assert is_free(disks[0])


def test_releasing_the_shared_alias_leaves_the_disk_exclusive(
    plugin: FilePlugin, disks: list[str]
) -> None:
    plugin.acquire(exclusive(disks[0]), None)
    (reader,) = plugin.acquire(shared(disks[0]), None)
    plugin.release(reader)
    assert not is_free(disks[0], READ)


def test_a_refused_conversion_leaves_the_guest_sharing(
    plugin: FilePlugin, disks: list[str]
) -> None:
    (lease,) = plugin.acquire(shared(disks[0]), None)
    with Locker(disks[0], kind=READ) as other:
        assert other.held
        with pytest.raises(LeaseHeldError) as refused:
            plugin.acquire(exclusive(disks[1], disks[0]), None)
        assert refused.value.holder is not None
        assert refused.value.holder.pid == other.pid
        assert is_free(disks[1])
    assert is_free(disks[0], READ)
    assert not is_free(disks[0], byte=2)
    plugin.release(lease)
    assert is_free(disks[0])


def test_a_conversion_is_undone_when_a_later_disk_is_refused(
    plugin: FilePlugin, disks: list[str]
) -> None:
    plugin.acquire(shared(disks[0]), None)
    with Locker(disks[1]), pytest.raises(LeaseHeldError):
        plugin.acquire(exclusive(disks[0], disks[1]), None)
    assert is_free(disks[0], READ)
    assert not is_free(disks[0])
    assert not is_free(disks[0], byte=2)


def test_a_release_that_cannot_keep_the_sharers_covered_changes_nothing(
    plugin: FilePlugin, disks: list[str]
) -> None:
    (writer,) = plugin.acquire(exclusive(disks[0]), None)
    plugin.acquire(shared(disks[0]), None)
    with Locker(disks[0], byte=2) as destination:
        assert destination.held
        with pytest.raises(LockError, match="cannot release"):
            plugin.release(writer)
        assert not is_free(disks[0], READ)
    plugin.release(writer)
    assert is_free(disks[0], READ)
    assert not is_free(disks[0])


class Watching(CopyingCarrier):
    """Asks at every call whether a stranger could get in."""

    def __init__(self, disk: str) -> None:
        super().__init__()
        self.disk = disk
        self.breaches: list[str] = []

    def keep(self, name: str, fd: int) -> None:
        super().keep(name, fd)
        self._look(name)

    def drop(self, name: str) -> None:
        self._look(name)
        super().drop(name)
        self._look(name)

    def _look(self, name: str) -> None:
        if is_free(self.disk):
            self.breaches.append(name)


def test_a_conversion_hands_the_guest_the_new_descriptor_before_the_old_one_goes(
    disks: list[str],
) -> None:
    carrier = Watching(disks[0])
    plugin = FilePlugin({}, carrier)
    plugin.acquire(shared(disks[0]), None)
    plugin.acquire(exclusive(disks[0]), None)
    assert [call for call, _name in carrier.calls] == ["keep", "keep", "drop"]
    assert carrier.breaches == []
    assert not is_free(disks[0], READ)
    carrier.close()


REFUSED_KINDS: dict[str, Callable[[str], object]] = {"a FIFO": os.mkfifo, "a directory": os.mkdir}


@pytest.mark.parametrize("kind", REFUSED_KINDS)
@pytest.mark.parametrize("mode", Mode.ALL)
def test_what_is_no_disk_is_refused_in_words_and_never_opened(
    plugin: FilePlugin, tmp_path: Path, kind: str, mode: str
) -> None:
    path = str(tmp_path / "thing")
    REFUSED_KINDS[kind](path)
    with pytest.raises(ResourceError, match=f"cannot lease disk .*: it is {kind}; only regular"):
        plugin.acquire([Resource(path, mode)], None)
    with pytest.raises(ResourceError, match=f"it is {kind}"):
        plugin.inquire(Resource(path, mode))


def test_a_character_device_is_refused(plugin: FilePlugin) -> None:
    with pytest.raises(ResourceError, match="it is a character device"):
        plugin.acquire(exclusive("/dev/ptmx"), None)


@pytest.mark.parametrize("path", ["relative", "", "/a\0b", "/\ud800"])
def test_a_name_that_no_kernel_can_be_asked_for_is_refused(plugin: FilePlugin, path: str) -> None:
    with pytest.raises(ResourceError, match="not an absolute path"):
        plugin.acquire(exclusive(path), None)


@pytest.mark.parametrize(
    "name", [b"with space", b"new\nline", b"a,b,,c", b"\xff\xfe", "ä".encode(), b"-"]
)
def test_any_file_name_will_do(plugin: FilePlugin, tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    os.close(os.open(path, os.O_CREAT))
    (lease,) = plugin.acquire(exclusive(os.fsdecode(path)), None)
    assert os.fsencode(lease.lease) == path
    with Locker(os.fsdecode(path)) as other:
        assert not other.held


def test_a_lease_says_what_it_is(plugin: FilePlugin, disks: list[str]) -> None:
    (lease,) = plugin.acquire(exclusive(disks[0]), None)
    assert lease.as_json() == {
        "resource": disks[0],
        "type": ResourceType.DISK,
        "mode": Mode.EXCLUSIVE,
        "lockspace": "direct",
        "lease": disks[0],
        "generation": None,
        "state": "held",
    }


def test_a_guests_uuid_is_not_for_this_plugin(plugin: FilePlugin) -> None:
    with pytest.raises(UnsupportedError, match="use plugin vm"):
        plugin.acquire([Resource("some-uuid", resource_type=ResourceType.VM)], None)


def test_a_file_that_was_replaced_under_its_name_is_not_taken_for_the_disk(
    disks: list[str],
) -> None:
    carrier = CopyingCarrier()
    attempt = Attempt({}, carrier, {}, None)
    attempt.open(exclusive(disks[0]))
    assert attempt.lock() is None
    assert attempt.still_named()
    os.rename(disks[1], disks[0])
    assert not attempt.still_named()
    attempt.undo()
    carrier.close()
