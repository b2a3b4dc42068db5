"""When is a sanlock lease free after a death? When the guest's last thread is gone, never before.

On a real daemon. Another process of the host spins on the lease, and judges
the guest's threads the moment it gets it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment
from tests.faults import firmware, freezing, processes
from tests.support import qemu, waiting
from tests.support.contender import Contender
from tests.support.guard import DEADLINE_S
from tests.support.measured import milliseconds
from tests.support.sanlock_facts import LOCKSPACE, lease_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.guard import Guard, Guards
    from tests.support.sanlock import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]

LOST = 112
Rounds = Callable[[int, int], int]
Measure = Callable[[str, str], None]
Victim = Callable[["Guard", int], int]


class Leased:
    """Guests with sanlock leases from one host, and who spins on those."""

    def __init__(self, guards: Guards, host: Daemon) -> None:
        self._guards = guards
        self._host = host
        guards.env |= host.env

    def start(self, disk: str, mode: str, monitor: qemu.Monitor | None = None) -> tuple[Guard, int]:
        """Start a guest; returns its guard, and the process that sanlock has registered."""
        fields: dict[str, object] = {"plugin": "sanlock", "config": {"sanlock": self._host.config}}
        spec = self._guards.spec(disk, containment=mode, **fields)
        command = firmware.argv(disk, extra=monitor.argv if monitor else ())
        pass_fds = [monitor.fd] if monitor else []
        guard = self._guards.start(spec, command, pass_fds=pass_fds).ready()
        (held,) = self._host.held(disk)
        assert (held.pid == guard.child_pid) == (mode == Containment.PDEATHSIG)
        return guard, held.pid

    def contender(self, guard: Guard, disk: str) -> Contender:
        name = f"{LOCKSPACE}:{lease_name(disk)}:{self._host.lease_file(disk)}"
        return Contender(guard.child_pid, name, kind="sanlock", env=self._host.env)

    def is_held_later(self, disk: str) -> bool:
        """Is the lease held when the daemon has served several others, and so has had its time?"""
        for number in range(3):
            stranger = self._host.hold(f"{disk}-of-another-{number}")
            stranger.kill()
            stranger.wait(DEADLINE_S)
        return bool(self._host.held(disk))


@pytest.fixture
def leased(guards: Guards, sanlock_host: Daemon) -> Leased:
    return Leased(guards, sanlock_host)


def the_guard(guard: Guard, _registered: int) -> int:
    return guard.pid


def the_guest(guard: Guard, _registered: int) -> int:
    return guard.child_pid


def init(_guard: Guard, registered: int) -> int:
    return registered


DEATHS = [
    (Containment.PDEATHSIG, the_guard),
    (Containment.PDEATHSIG, the_guest),
    (Containment.PIDNS, the_guard),
    (Containment.PIDNS, the_guest),
    (Containment.PIDNS, init),
]


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: f"{death[0]}-{death[1].__name__}")
def test_a_lease_is_free_when_the_last_thread_is_gone_and_never_before(
    death: tuple[str, Victim], leased: Leased, tmp_path: Path, rounds: Rounds, measured: Measure
) -> None:
    mode, victim = death
    took = []
    for number in range(rounds(4, 100)):
        disk = firmware.image(tmp_path / f"disk{number}")
        guard, registered = leased.start(disk, mode)
        with leased.contender(guard, disk) as spinning:
            began = time.monotonic()
            processes.kill(victim(guard, registered))
            (won,) = spinning.won()
        assert not won.alive, f"free, guest {won.alive}"
        took.append(won.at - began)
        guard.wait()
    words = f"{mode}, SIGKILL of {victim.__name__.replace('_', ' ')}"
    measured("sanlock-takeover", f"{words}: {milliseconds(took)}")


@pytest.fixture
def mounted(tmp_path: Path, guards: Guards) -> Iterator[freezing.Filesystem]:  # noqa: ARG001  # thawed before guards are reaped
    with freezing.filesystem(tmp_path) as filesystem:
        yield filesystem


@pytest.mark.parametrize("mode", [Containment.PDEATHSIG, Containment.PIDNS])
def test_a_guest_that_sleeps_in_the_kernel_keeps_its_lease(
    mode: str, leased: Leased, mounted: freezing.Filesystem
) -> None:
    disk = firmware.image(f"{mounted.path}/disk")
    with qemu.Monitor() as monitor:
        guard, _ = leased.start(disk, mode, monitor)
        mounted.freeze()
        write = {"command-line": 'qemu-io virtio0 "aio_write 0 64k"'}
        monitor.execute("human-monitor-command", **write)
    with leased.contender(guard, disk) as spinning:
        waiting.until(
            lambda: "D" in processes.thread_states(guard.child_pid), DEADLINE_S, "a write hangs"
        )
        processes.kill(guard.pid)
        waiting.until(
            lambda: processes.state(guard.child_pid) == "Z", DEADLINE_S, "its leader is a zombie"
        )
        assert "D" in processes.thread_states(guard.child_pid)
        assert leased.is_held_later(disk)
        assert not spinning.has_won()
        mounted.thaw()
        (won,) = spinning.won()
    assert not won.alive, f"free, guest {won.alive}"


@pytest.mark.parametrize(
    "mode", [Containment.PIDNS, pytest.param(Containment.PDEATHSIG, marks=pytest.mark.long)]
)
def test_a_guest_that_sanlock_ends_while_its_guard_stands_still_is_a_lost_lease(
    mode: str, guards: Guards, sanlock_hosts: Callable[[int], Daemon], tmp_path: Path
) -> None:
    host = sanlock_hosts(1)
    host.join()
    guard, _ = Leased(guards, host).start(firmware.image(tmp_path / "disk"), mode)
    processes.stop(guard.pid)
    host.leave()  # sanlock kills who has leases there
    waiting.gone(guard.child_pidfd, DEADLINE_S)
    processes.kill(guard.pid, signal.SIGCONT)
    ended = guard.wait()
    assert ended.code == LOST
    assert f"guest running: lease lost (cannot keep lockspace {LOCKSPACE}: " in ended.stderr
    assert ended.stderr.endswith("; exiting 112\n")
