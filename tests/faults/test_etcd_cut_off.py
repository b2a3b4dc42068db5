"""Is a guest dead within its bound, and before another starts, when its guard cannot prove a thing?

Stopped, cut off, its wall clock stepped all the while; without a quorum; and is
none needlessly, when leaders die. Real guards and guests. The judge is the
taker's own guest: with its first instructions it looks at the other's pidfd.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import waiting
from tests.support.apart import Apart
from tests.support.etcd import Cluster, Tls
from tests.support.guard import DEADLINE_S
from tests.support.measured import percentile
from tests.support.qemu import idle_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Guard, Guards

FAILOVER_S = 15
PROOF_S = 0.4 * FAILOVER_S
KILL_EVERY_S = 20
LATE_S = 5.0  # how long a busy machine may stand still
STOPPED, CUT_OFF = "guard stopped", "network cut"
CASES = [(how, steps) for how in (STOPPED, CUT_OFF) for steps in (False, True)]
JUDGE = (
    "import os, select, sys, time\n"
    "dead = bool(select.select([int(sys.argv[1])], [], [], 0)[0])\n"
    "with open(sys.argv[2] + '.new', 'w') as file:\n"
    "    print(int(dead), time.clock_gettime(time.CLOCK_BOOTTIME), file=file)\n"
    "os.rename(sys.argv[2] + '.new', sys.argv[2])\n"
    "select.select([], [], [])\n"
)

pytestmark = pytest.mark.slow


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Scene:
    """Guests under one cluster, each on a disk of its own name."""

    def __init__(self, guards: Guards, cluster: Cluster, directory: Path) -> None:
        self._guards = guards
        self._table = cluster.config() | {"failover_s": str(FAILOVER_S)}
        self._directory = directory

    def start(self, name: str, prefix: tuple[str, ...] = ()) -> Guard:
        """Start a guest of QEMU's on a disk."""
        disk = self._directory / name
        disk.write_bytes(bytes(1 << 16))
        spec = self._guards.spec(disk, plugin="etcd", config={"etcd": self._table}, name=name)
        return self._guards.start(spec, idle_argv(disk), prefix=prefix)

    def follow(self, guard: Guard) -> Guard:
        """Start one that waits for the other's disk, and judges."""
        (disk,) = (resource.path for resource in guard.spec.resources)
        config = {"etcd": self._table}
        spec = self._guards.spec(disk, plugin="etcd", config=config, wait_s=4 * DEADLINE_S)
        fd, judged = str(guard.child_pidfd), disk + ".judged"
        judge = [sys.executable, "-I", "-S", "-c", JUDGE, fd, judged]
        return self._guards.start(spec, judge, pass_fds=[guard.child_pidfd])


def judged(guard: Guard) -> tuple[bool, float]:
    """Return whether the guest was dead when its follower's began to run, and when that was."""
    path = guard.spec.resources[0].path + ".judged"
    waiting.until(lambda: os.path.exists(path), DEADLINE_S, "the follower has judged")
    with open(path, encoding="ascii") as file:
        dead, instant = file.read().split()
    return dead == "1", float(instant)


def announced(guard: Guard) -> float:
    """Return the instant at which the guest would be fenced, as its status has it."""
    deadline_s = guard.status()["deadline_s"]
    assert isinstance(deadline_s, float)
    return now() + deadline_s


class World:
    """Where guards run: here or apart, under a wall clock that is stepped or not."""

    def __init__(self, apart: Apart, directory: Path) -> None:
        self.apart = apart
        self._library = directory / "stepping.so"
        source = os.path.join(os.path.dirname(waiting.__file__), "stepping_clock.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", self._library, source], check=True)

    def prefix(self, how: str, *, steps: bool) -> tuple[str, ...]:
        """Return what a guard's command line begins with."""
        there = self.apart.prefix if how == CUT_OFF else ()
        return (*there, "env", f"LD_PRELOAD={self._library}") if steps else there


class Hurt:
    """Guests whose guards will prove nothing, one in each way, each followed by another."""

    def __init__(self, scene: Scene, world: World) -> None:
        self._apart = world.apart
        self.guards = {
            (how, steps): scene.start(f"{how}, {steps}", world.prefix(how, steps=steps))
            for how, steps in CASES
        }
        self.followers = {case: scene.follow(guard.ready()) for case, guard in self.guards.items()}
        self.last = {case: announced(guard) for case, guard in self.guards.items()}

    def begin(self) -> float:
        """Cut and stop; returns an instant after which no guard can send what will be answered."""
        self._apart.cut()
        for (how, _), guard in self.guards.items():
            if how == STOPPED:
                signal.pidfd_send_signal(guard.pidfd, signal.SIGSTOP)
        return now()

    def deaths(self) -> dict[tuple[str, bool], float]:
        """Return when each guest died."""
        poll, found = select.poll(), {}
        alive = {guard.child_pidfd: case for case, guard in self.guards.items()}
        for pidfd in alive:
            poll.register(pidfd, select.POLLIN)
        while alive:
            events = poll.poll((PROOF_S + DEADLINE_S) * 1000)
            assert events, f"not dead: {alive.values()}"
            for pidfd, _ in events:
                found[alive.pop(pidfd)] = now()
                poll.unregister(pidfd)
        return found


@pytest.fixture
def world(require: Callable[[str], str], as_root: None, tmp_path: Path) -> Iterator[World]:
    assert as_root is None
    for tool in ("ip", "iptables", "nsenter", "gcc", "etcd", "qemu-system-x86_64"):
        require(tool)
    with Apart() as apart:
        yield World(apart, tmp_path)


def test_the_guest_of_a_guard_that_proves_nothing_is_dead_in_time_and_before_another_starts(
    world: World,
    guards: Guards,
    tmp_path: Path,
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    died: dict[tuple[str, bool], list[float]] = {case: [] for case in CASES}
    followed: list[float] = []
    with Cluster(tmp_path / "etcd", 3, host=world.apart.address) as cluster:
        for number in range(rounds(1, 30)):
            (home := tmp_path / str(number)).mkdir()
            hurt = Hurt(Scene(guards, cluster, home), world)
            began = hurt.begin()
            for case, instant in hurt.deaths().items():
                died[case].append(instant - began)
                assert instant < max(hurt.last[case], began + PROOF_S) + LATE_S, case
                code = hurt.guards[case].wait().code
                assert code == (-signal.SIGKILL if case[0] == STOPPED else 112)
            world.apart.mend()
            for case, guard in hurt.guards.items():
                assert hurt.followers[case].line(4 * DEADLINE_S).startswith("READY ")
                dead, instant = judged(guard)
                assert dead, f"{case}: two guests at once"
                followed.append(instant - began)
                guards.end(hurt.followers[case])
                guards.end(guard)
    for (how, steps), took in died.items():
        words = f"{how}, wall clock stepped" if steps else how
        measured("etcd", f"{words}: guest dead after {seconds(took)}, bound {PROOF_S:g} s")
    measured("etcd", f"after any of these another guest starts after {seconds(followed)}")


def seconds(values: list[float]) -> str:
    shortest, p50, p99, longest = (percentile(values, percent) for percent in (0, 50, 99, 100))
    shown = f"shortest {shortest:.2f}, p50 {p50:.2f}, p99 {p99:.2f}, longest {longest:.2f} s"
    return f"{shown} ({len(values)} rounds)"


def test_two_of_three_members_frozen_the_third_proves_nothing_and_the_guest_is_dead_in_time(
    guards: Guards, require: Callable[[str], str], tmp_path: Path
) -> None:
    require("qemu-system-x86_64")
    require("etcd")
    tls = Tls(tmp_path / "tls")
    with Cluster(tmp_path / "etcd", 3, tls, auth=True) as cluster:
        guard = Scene(guards, cluster, tmp_path).start("disk").ready()
        frozen = [member for member in cluster.members if member is not cluster.leader()][:1]
        frozen.append(cluster.leader())
        for member in frozen:
            member.send(signal.SIGSTOP)
        last = announced(guard)
        assert 0 < last - now() <= PROOF_S
        waiting.gone(guard.child_pidfd, PROOF_S + DEADLINE_S)
        assert now() < last + LATE_S
        for member in frozen:
            member.send(signal.SIGCONT)
        ended = guard.wait()
        assert ended.code == 112
        assert f"bound {PROOF_S:g} s" in ended.stderr


def test_no_guest_dies_of_leaders_that_do(
    guards: Guards,
    require: Callable[[str], str],
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
    tmp_path: Path,
) -> None:
    """Killed, and started again when each guest has proven its leases without it."""
    require("qemu-system-x86_64")
    require("etcd")
    took: list[float] = []
    tls = Tls(tmp_path / "tls")
    with Cluster(tmp_path / "etcd", 3, tls, auth=True) as cluster:
        scene = Scene(guards, cluster, tmp_path)
        guests = [scene.start(name) for name in ("one", "two", "three")]
        before = [guest.ready().status()["leases"] for guest in guests]
        for _ in range(kills := rounds(2, 300 // KILL_EVERY_S)):
            killed, after = kill_leader(cluster, guests)
            took += after
            if kills * KILL_EVERY_S >= 300:
                rest(killed + KILL_EVERY_S)
        assert [guest.status()["state"] for guest in guests] == ["running"] * len(guests)
        assert [guest.status()["leases"] for guest in guests] == before
        assert not any(waiting.is_gone(guest.child_pidfd) for guest in guests)
    words = f"leader killed {kills} times under 3 guests, none died; proven again after"
    measured("etcd", f"{words} {seconds(took)}")


def kill_leader(cluster: Cluster, guests: list[Guard]) -> tuple[float, list[float]]:
    """Return when, and how long each guest took to prove its leases then; it is back."""
    leader = cluster.leader()
    leader.kill()
    killed = now()
    took = []
    for guest in guests:
        why = "its leases are proven without the leader"
        waiting.until(
            lambda guest=guest: announced(guest) > killed + PROOF_S,  # type: ignore[misc]  # mypy cannot infer it
            PROOF_S + DEADLINE_S,
            why,
        )
        took.append(now() - killed)
    cluster.start(leader)
    waiting.until(cluster.is_healthy, DEADLINE_S, "the member is back")
    return killed, took


def rest(until: float) -> None:
    waiting.until(lambda: now() > until, DEADLINE_S, "it is time")
