"""What does every interop test get? A host with stock libvirt that it leaves clean, and ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.sanlock_sides import ONE, TWO, SanlockSides
from tests.interop.sides import Sides
from tests.support.emulator import Emulated
from tests.support.spelling import Names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.libvirt import Host, Hosts
    from tests.support.sanlock import Daemon

MODES = ("direct", pytest.param("indirect", marks=pytest.mark.slow))


@pytest.fixture(scope="session")
def lockspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the lockspace directory of indirect mode; virtlockd makes it."""
    return tmp_path_factory.mktemp("lockd") / "files"


@pytest.fixture(scope="session")
def lockd_hosts(libvirt_hosts: Hosts, lockspace: Path) -> dict[str, Host]:
    return {
        "direct": libvirt_hosts.start(lock_manager="lockd"),
        "indirect": libvirt_hosts.start(lock_manager="lockd", file_lockspace_dir=lockspace),
    }


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Names]:
    """Give a test other names of its disks; devices need root, as libvirt does."""
    (directory := tmp_path / "names").mkdir()
    made = Names(directory)
    yield made
    made.close()


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(lockd_hosts: dict[str, Host], mode: str) -> Iterator[Host]:
    """Give a test a host without domains."""
    yield lockd_hosts[mode]
    lockd_hosts[mode].clear()


@pytest.fixture
def sides(host: Host, command: Command, tmp_path: Path, mode: str, lockspace: Path) -> Sides:
    """Both sides, configured alike."""
    return Sides(host, command, tmp_path, lockspace if mode == "indirect" else None)


@pytest.fixture
def own_sides(libvirt: Hosts, command: Command, tmp_path: Path, mode: str) -> Sides:
    """Both sides, configured alike, on a host that the test may hurt."""
    lockspace = tmp_path / "lockd" if mode == "indirect" else None
    return Sides(libvirt.start(file_lockspace_dir=lockspace), command, tmp_path, lockspace)


@pytest.fixture(scope="session")
def sanlock_libvirt(libvirt_hosts: Hosts, sanlock_host: Daemon) -> Host:
    return libvirt_hosts.start(sanlock=sanlock_host)


@pytest.fixture(params=(ONE, TWO))
def daemons(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def our_daemon(sanlock_host: Daemon, sanlock_neighbour: Daemon, daemons: str) -> Daemon:
    """Return theirs, too, or that of another host."""
    return sanlock_host if daemons == ONE else sanlock_neighbour


@pytest.fixture
def sanlock_sides(
    sanlock_libvirt: Host,
    sanlock_host: Daemon,
    our_daemon: Daemon,
    command: Command,
    tmp_path: Path,
) -> Iterator[SanlockSides]:
    """Both sides with sanlock, on one host or on two; theirs is without domains."""
    yield SanlockSides(sanlock_libvirt, command, tmp_path, ours=our_daemon, theirs=sanlock_host)
    sanlock_libvirt.clear()


@pytest.fixture(scope="session")
def unlocked_host(libvirt_hosts: Hosts) -> Host:
    return libvirt_hosts.start(lock_manager=None)


@pytest.fixture
def emulated(unlocked_host: Host, tmp_path: Path) -> Iterator[Emulated]:
    """Give a test a host without libvirt's own lock manager, whose domains may be ours."""
    yield (made := Emulated(unlocked_host, tmp_path))
    made.command.reap()
    unlocked_host.clear()
