"""Do guests on two hosts with sanlock exclude each other, and how soon does one follow another?

Two daemons with a host_id each are two hosts. Both guests write to one image, and the
checker says whether they ever did so at once.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from tests.faults.sanlock_scenes import HELD, Image, Writers, is_dead
from tests.support.measured import milliseconds
from tests.support.sanlock import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Guard

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]

HOST_DEATH_S = 150.0  # 8 io_timeouts and 60 s, and a busy machine


@pytest.fixture
def hosts(
    sanlock_host: Daemon, sanlock_neighbour: Daemon, tmp_path: Path
) -> Iterator[tuple[Writers, Writers]]:
    image = Image(tmp_path / "disk.raw")
    with (
        Writers(tmp_path / "one", sanlock_host, image) as one,
        Writers(tmp_path / "two", sanlock_neighbour, image) as two,
    ):
        yield one, two


def test_one_host_refuses_the_other_and_is_named(hosts: tuple[Writers, Writers]) -> None:
    for first, second in (hosts, reversed(hosts)):
        guard = first.start()
        refused = second.refused()
        assert refused.code == HELD, refused
        assert f"held by host_id {first.daemon.host_id} (" in refused.stderr
        guard.kill()
        first.daemon.until_free(first.image.path)
    hosts[0].image.check()


def test_sharers_share_and_nobody_else(hosts: tuple[Writers, Writers]) -> None:
    one, two = hosts
    idle = ["/bin/sleep", "1000000"]
    sharers = [each.guards.start(each.spec(Mode.SHARED), idle).ready() for each in hosts]
    for each in hosts:
        assert each.refused().code == HELD
    sharers[0].kill()
    one.daemon.until_free(one.image.path)
    assert one.refused().code == HELD
    sharers[1].kill()
    two.daemon.until_free(two.image.path)
    one.start().kill()


def ends(guard: Guard) -> None:
    os.kill(guard.pid, signal.SIGTERM)


def loses_its_supervisor(guard: Guard) -> None:
    os.kill(guard.pid, signal.SIGKILL)


def loses_its_guest(guard: Guard) -> None:
    os.kill(guard.child_pid, signal.SIGKILL)


@pytest.mark.parametrize("how", [ends, loses_its_supervisor, loses_its_guest])
def test_who_waits_on_the_other_host_follows_a_death(
    how: Callable[[Guard], None],
    hosts: tuple[Writers, Writers],
    measured: Callable[[str, str], None],
    rounds: Callable[[int, int], int],
) -> None:
    took = []
    for number in range(rounds(2, 20)):
        first, second = hosts if number % 2 else reversed(hosts)
        guard = first.start()
        waiter = second.waiter()
        begun = time.monotonic()
        how(guard)
        second.written(waiter)
        took.append(time.monotonic() - begun)
        waiter.kill()
        second.daemon.until_free(second.image.path)
    hosts[0].image.check()
    words = how.__name__.replace("_", " ")
    measured("sanlock", f"a guest {words}, until one on another host writes: {milliseconds(took)}")


def dies(daemon: Daemon, guard: Guard) -> None:
    """The whole host: nobody there can do anything more."""
    os.kill(guard.pid, signal.SIGSTOP)
    daemon.kill()
    guard.kill()


def loses_its_daemon(daemon: Daemon, _guard: Guard) -> None:
    daemon.kill()


def has_a_stopped_daemon(daemon: Daemon, _guard: Guard) -> None:
    daemon.stop()


@pytest.mark.long
def test_who_waits_follows_a_hosts_death(
    lease_dirs: Callable[[], Path], measured: Callable[[str, str], None]
) -> None:
    strikes = (dies, loses_its_daemon, has_a_stopped_daemon)
    with ThreadPoolExecutor() as threads:
        took = [threads.submit(until_taken_over, lease_dirs(), strike) for strike in strikes]
    for strike, until in zip(strikes, took, strict=True):
        words = strike.__name__.replace("_", " ")
        line = f"a host {words}, until a guest on another writes: {until.result():.1f} s"
        measured("sanlock", f"{line} (io_timeout 1)")


def until_taken_over(directory: Path, strike: Callable[[Daemon, Guard], None]) -> float:
    """Return how long a waiter on another host waits after `strike`."""
    image = Image(directory / "disk.raw")
    with (
        Daemon(directory / "run1", directory / "leases", 1) as first,
        Daemon(directory / "run2", directory / "leases", 2) as second,
        Writers(directory / "one", first, image) as one,
        Writers(directory / "two", second, image) as two,
    ):
        guard = one.start()
        waiter = two.waiter()
        begun = time.monotonic()
        strike(first, guard)
        two.written(waiter, HOST_DEATH_S)
        took = time.monotonic() - begun
        assert is_dead(guard.child_pidfd, 0)
        waiter.kill()
        image.check()
    return took
