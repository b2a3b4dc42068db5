"""Is the lockspace there whole or not at all, and is it joined whoever else does so at once?"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LockError, ResourceError
from lockplugins.sanlock import lockspace
from lockplugins.sanlock.library import Library
from lockplugins.sanlock.settings import LOCKSPACE, Settings
from tests.support import sanlock_facts as facts
from tests.support import waiting
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.sanlock import Daemon

MAKERS = 8
BUSY_S = 200.0
FULL_BYTES = 3 << 20
# Makes a lease file, says when it could be formatted, and waits.
MAKER = """
import sys
sys.path.insert(0, sys.argv[1])
from lockplugins.sanlock import files, library, settings
def form(path):
    print("made", flush=True)
    sys.stdin.read()
files.create(sys.argv[2], settings.Settings({}), library.SMALL, form)
"""


# Joins, and says its number or why it is refused.
JOINER = """
import sys
sys.path.insert(0, sys.argv[1])
from lockplugins.contract import LockError
from lockplugins.sanlock import library, lockspace, settings
lockspace.HALF_MADE_S = float(sys.argv[2])
table = settings.Settings(dict(word.split("=", 1) for word in sys.argv[3:]))
try:
    print(lockspace.join(library.Library(), table).number)
except LockError as error:
    print(error)
"""


@pytest.fixture
def daemon(sanlock_host: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """Give a test the session's daemon, for its own process too."""
    for name, value in sanlock_host.env.items():
        monkeypatch.setenv(name, value)
    return sanlock_host


@pytest.fixture
def place(lease_dirs: Callable[[], Path]) -> Path:
    return lease_dirs()


def settings(place: Path, **more: str) -> Settings:
    table = {"disk_lease_dir": str(place), "host_id": "1", "io_timeout": "1"}
    return Settings({**table, **more})


def formatted(daemon: Daemon, place: Path) -> str:
    """Return the lockspace of the directory in the daemon's words."""
    return daemon.client("read", "-s", f":0:{place / LOCKSPACE}:0")


def test_it_is_made_as_libvirt_makes_it(daemon: Daemon, place: Path) -> None:
    lockspace.create(Library(), settings(place))
    status = (place / LOCKSPACE).stat()
    assert (status.st_size, stat.S_IMODE(status.st_mode)) == (1 << 20, 0o600)
    assert f"{LOCKSPACE}:" in formatted(daemon, place)
    assert os.listdir(place) == [LOCKSPACE]


def test_it_is_its_groups_where_one_is_named(daemon: Daemon, place: Path) -> None:
    lockspace.create(Library(), settings(place, user=str(os.getuid()), group=str(os.getgid())))
    status = (place / LOCKSPACE).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, os.getgid())
    assert f"{LOCKSPACE}:" in formatted(daemon, place)


def test_of_several_makers_one_is_first_and_nothing_is_left(daemon: Daemon, place: Path) -> None:
    asked, wanted = Library(), settings(place)
    with ThreadPoolExecutor(MAKERS) as threads:
        list(threads.map(lambda _: lockspace.create(asked, wanted), range(MAKERS)))
    assert os.listdir(place) == [LOCKSPACE]
    assert f"{LOCKSPACE}:" in formatted(daemon, place)


def test_a_maker_that_is_killed_leaves_nothing_in_the_way(daemon: Daemon, place: Path) -> None:
    argv = [sys.executable, "-c", MAKER, CHECKOUT, str(place / LOCKSPACE)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"made\n"
        maker.send_signal(signal.SIGKILL)
    assert LOCKSPACE not in os.listdir(place)
    lockspace.create(Library(), settings(place))
    assert f"{LOCKSPACE}:" in formatted(daemon, place)


@pytest.fixture
def mounted(as_root: None, tmp_path: Path, place: Path) -> Iterator[Callable[[int, int], Path]]:  # noqa: ARG001  # a fixture
    """Mount a filesystem of its own on a loop device: `mounted(bytes, sector_bytes)`."""
    undo: list[list[str]] = []

    def mount(size: int, sector: int) -> Path:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(size)
        loop = _output("losetup", "--find", "--show", "--sector-size", str(sector), str(image))
        undo.append(["losetup", "--detach", loop])
        _output("mkfs.ext4", "-q", "-O", "^has_journal", loop)
        _output("mount", loop, str(place))
        undo.append(["umount", str(place)])
        os.rmdir(place / "lost+found")
        return place

    yield mount
    for argv in reversed(undo):
        _output(*argv)


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def test_on_large_sectors_it_is_larger(daemon: Daemon, mounted: Callable[[int, int], Path]) -> None:
    place = mounted(64 << 20, 4096)
    lockspace.create(Library(), settings(place))
    assert (place / LOCKSPACE).stat().st_size == 8 << 20
    assert os.listdir(place) == [LOCKSPACE]
    assert f"{LOCKSPACE}:" in formatted(daemon, place)


def test_where_there_is_no_room_nothing_is_left_and_later_it_is_made(
    daemon: Daemon, mounted: Callable[[int, int], Path]
) -> None:
    place = mounted(FULL_BYTES, 512)
    filler = place / "filler"
    with filler.open("wb") as file:
        free = os.statvfs(place)
        os.posix_fallocate(file.fileno(), 0, free.f_bfree * free.f_frsize - (1 << 19))
    with pytest.raises(ResourceError, match=r"No space left on device .*; has its filesystem room"):
        lockspace.create(Library(), settings(place))
    assert os.listdir(place) == ["filler"]
    filler.unlink()
    lockspace.create(Library(), settings(place))
    assert f"{LOCKSPACE}:" in formatted(daemon, place)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_without_a_directory_it_says_libvirts_words(tmp_path: Path, kind: str) -> None:
    parent = tmp_path / "leases"
    if kind == "file":
        parent.touch()
    with pytest.raises(LockError) as refused:
        lockspace.check_parent(settings(parent))
    assert str(refused.value) == (
        f"Unable to create lockspace {parent}/__LIBVIRT__DISKS__: "
        "parent directory does not exist or is not a directory"
    )


class Joiner:
    """A process of its own that joins: the library keeps to the first daemon that it has met."""

    def __init__(self, host: Daemon, half_made_s: float = 10.0, **table: str) -> None:
        words = [f"{key}={value}" for key, value in {**host.config, **table}.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-c", JOINER, CHECKOUT, str(half_made_s), *words],
            env={**os.environ, **host.env}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def said(self, deadline_s: float = facts.DEADLINE_S) -> str:
        """Return how it went: the number of the membership, or why there is none."""
        out, _ = self._process.communicate(timeout=deadline_s)
        return out.rstrip("\n")


def test_whoever_joins_at_once_is_in_it_even_if_libvirt_is_just_making_it(
    sanlock_hosts: Callable[[int], Daemon],
) -> None:
    host = sanlock_hosts(1)
    with open(host.lockspace, "wb") as file:
        file.truncate(1 << 20)
    joining = [Joiner(host) for _ in range(4)]
    waiting.until(lambda: "result -223" in _log(host), facts.DEADLINE_S, "it was seen half made")
    facts.init_lockspace(host.lockspace)
    numbers = {joiner.said() for joiner in joining}
    assert len(numbers) == 1
    assert numbers.pop().isdecimal()
    assert [space.host_id for space in host.status().lockspaces] == [1]
    other = host.directory / LOCKSPACE
    facts.init_lockspace(str(other))
    in_it = (
        f"this host is in it as host_id 1, at {host.lockspace}; configure libvirt and this alike"
    )
    assert Joiner(host, host_id="2").said().endswith(in_it)
    assert Joiner(host, disk_lease_dir=str(host.directory)).said().endswith(in_it)
    link = host.directory / "link"
    link.symlink_to(host.lease_dir)
    assert Joiner(host, disk_lease_dir=str(link)).said().isdecimal()


def _log(host: Daemon) -> str:
    return (host.directory / "log").read_text(errors="replace")


def test_what_is_no_lockspace_of_ours_is_never_formatted(
    sanlock_hosts: Callable[[int], Daemon],
) -> None:
    host = sanlock_hosts(1)
    path = host.lease_dir / LOCKSPACE
    facts.init_lockspace(str(path), "another")
    another = path.read_bytes()
    for content, words in (
        (b"", "EMSGSIZE (-90); if no host uses it, remove it"),
        (b"x" * (1 << 20), "SANLK_LEADER_MAGIC (-223); if no host uses it, remove it"),
        (another, "that is another lockspace: SANLK_LEADER_LOCKSPACE (-226); give it"),
    ):
        path.write_bytes(content)
        assert words in Joiner(host, half_made_s=0).said()
        assert path.read_bytes() == content


@pytest.mark.long  # sanlock watches the other for longer than a dead host's leases are kept
def test_a_host_id_that_another_host_uses_is_refused(
    sanlock_neighbour: Daemon, sanlock_hosts: Callable[[int], Daemon]
) -> None:
    joiner = Joiner(sanlock_hosts(2), disk_lease_dir=str(sanlock_neighbour.lease_dir))
    said = joiner.said(BUSY_S)
    assert "another host uses this host_id: SANLK_HOSTID_BUSY (-262); give every host" in said
