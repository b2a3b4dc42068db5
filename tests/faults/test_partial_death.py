"""SIGKILL of only one of guard, init and QEMU: does the rest follow, before any lease is free?

Also a guest that SIGKILL cannot end yet: its leader is a zombie while another
of its threads sleeps on a frozen disk, and its lease stays held.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment
from tests.faults import firmware, freezing, processes
from tests.support import qemu, waiting
from tests.support.contender import Contender

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guard, Guards

pytestmark = pytest.mark.usefixtures("as_root")

MODES = (Containment.PDEATHSIG, Containment.PIDNS)
DEADLINE_S = 60  # a guest boots, on a busy machine
UNKILLABLE_S = 30
KILLED = 128 + signal.SIGKILL


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return firmware.image(tmp_path / "disk")


def assert_won_from_the_dead(contender: Contender) -> None:
    for won in contender.won():
        assert not won.alive, f"{won.path} free, guest {won.alive}"


Rounds = Callable[[int, int], int]


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_init_killed_alone_takes_the_guest_with_it(
    guards: Guards, disk: str, rounds: Rounds, *, stopped: bool
) -> None:
    for _ in range(rounds(5, 50)):
        guard = guards.run(disk, command=firmware.argv(disk), containment=Containment.PIDNS)
        init = processes.parent(guard.child_pid)
        assert processes.parent(init) == guard.pid
        with Contender(guard.child_pid, disk) as contender:
            if stopped:
                processes.stop(guard.child_pid)
            processes.kill(init)
            assert_won_from_the_dead(contender)
        assert guard.wait().code == KILLED
        assert not os.path.exists(guard.path)


@pytest.mark.parametrize("mode", MODES)
def test_the_guest_killed_alone_ends_the_guard_with_its_status(
    mode: str, guards: Guards, disk: str, rounds: Rounds
) -> None:
    for _ in range(rounds(5, 50)):
        guard = guards.run(disk, command=firmware.argv(disk), containment=mode)
        with Contender(guard.child_pid, disk) as contender:
            processes.kill(guard.child_pid)
            assert_won_from_the_dead(contender)
        assert guard.wait().code == KILLED
        assert not os.path.exists(guard.path)


def test_the_guard_killed_alone_takes_a_stopped_init_and_guest_with_it(
    guards: Guards, disk: str, rounds: Rounds
) -> None:
    for _ in range(rounds(5, 50)):
        guard = guards.run(disk, command=firmware.argv(disk), containment=Containment.PIDNS)
        init = processes.parent(guard.child_pid)
        init_pidfd = os.pidfd_open(init)
        with Contender(guard.child_pid, disk) as contender:
            processes.stop(init)
            processes.stop(guard.child_pid)
            processes.kill(guard.pid)
            assert_won_from_the_dead(contender)
        waiting.gone(init_pidfd, DEADLINE_S)
        os.close(init_pidfd)


@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_guard_killed_takes_the_guest_with_it(
    mode: str, guards: Guards, disk: str, rounds: Rounds
) -> None:
    for _ in range(rounds(5, 50)):
        guard = guards.run(disk, command=firmware.argv(disk), containment=mode)
        with Contender(guard.child_pid, disk) as contender:
            processes.stop(guard.pid)
            assert not contender.has_won()
            processes.kill(guard.pid)
            assert_won_from_the_dead(contender)


@pytest.fixture
def mounted(tmp_path: Path, guards: Guards) -> Iterator[freezing.Filesystem]:  # noqa: ARG001  # thawed before guards are reaped
    with freezing.filesystem(tmp_path) as filesystem:
        yield filesystem


def start_writing(guards: Guards, disk: str, mode: str) -> Guard:
    """Start the guest that writes without pause."""
    command = qemu.guest_argv(firmware.image(disk, 16 << 20), serial="null")
    return guards.run(disk, command=command, containment=mode)


def freeze_under(guard: Guard, filesystem: freezing.Filesystem) -> None:
    """Freeze the guest's disk once it writes, and see a thread of it in D."""
    disk = f"{filesystem.path}/disk"
    waiting.until(lambda: os.stat(disk).st_blocks, DEADLINE_S, "the guest has written")
    filesystem.freeze()
    waiting.until(
        lambda: "D" in processes.thread_states(guard.child_pid), DEADLINE_S, "a write hangs"
    )


def is_half_dead(pid: int) -> bool:
    states = processes.thread_states(pid)
    return processes.state(pid) == "Z" and "D" in states


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_guest_that_sleeps_in_the_kernel_keeps_its_lease_after_the_guards_death(
    mode: str, guards: Guards, command: Command, mounted: freezing.Filesystem
) -> None:
    disk = f"{mounted.path}/disk"
    guard = start_writing(guards, disk, mode)
    with Contender(guard.child_pid, disk) as contender:
        freeze_under(guard, mounted)
        processes.kill(guard.pid)
        waiting.until(
            lambda: is_half_dead(guard.child_pid), DEADLINE_S, "the leader a zombie, a thread in D"
        )
        (lease,) = command.json("who", disk)["leases"]
        dying = f"guest guest ({guard.spec.uuid}), its supervisor dead, guest pid {guard.child_pid}"
        assert lease["holder"]["description"].startswith(dying)
        assert not contender.has_won()
        mounted.thaw()
        assert_won_from_the_dead(contender)
    waiting.gone(guard.child_pidfd, DEADLINE_S)
    assert command("who", disk).code == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", [Containment.PDEATHSIG, pytest.param(Containment.PIDNS, marks=pytest.mark.long)]
)
def test_a_guest_that_cannot_be_killed_is_said_to_be_unkillable_and_keeps_its_lease(
    mode: str, guards: Guards, mounted: freezing.Filesystem
) -> None:
    disk = f"{mounted.path}/disk"
    guard = start_writing(guards, disk, mode)
    with Contender(guard.child_pid, disk) as contender:
        freeze_under(guard, mounted)
        with guard.connect() as client:
            client.execute("stop-guest", {"timeout_s": 0}, DEADLINE_S)
            waiting.until(
                lambda: is_half_dead(guard.child_pid), DEADLINE_S, "the leader a zombie, one in D"
            )
            words = f"pid {guard.child_pid} is unkillable"
            waiting.until(lambda: words in guard.stderr(), UNKILLABLE_S + DEADLINE_S, words)
            status = client.execute("query-status", timeout_s=DEADLINE_S)
        assert isinstance(status, dict)
        assert status["state"] == "stopping"
        assert [lease["state"] for lease in status["leases"]] == ["held"]
        assert not contender.has_won()
        mounted.thaw()
        assert_won_from_the_dead(contender)
    assert guard.wait().code == KILLED
    assert not os.path.exists(guard.path)
