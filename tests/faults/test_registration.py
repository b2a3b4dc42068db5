"""Does a lock manager that knows guests by their processes know the right one, for its whole life?

Stand-in plugins register with a real process, which takes the pid from the
kernel and frees the lease when the connection ends. It ends with the guest's
last thread, whatever dies first, and never before.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from supervisor.guard.registration import BOUND_S
from supervisor.spec import Containment
from tests.faults import firmware, processes
from tests.support import insight, registry_daemon, waiting
from tests.support.contender import Contender
from tests.support.guard import DEADLINE_S, IDLE, descendants
from tests.support.registrar import RegistryDaemon
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.guard import Guard, Guards

pytestmark = pytest.mark.usefixtures("as_root")

MODES = (Containment.PDEATHSIG, Containment.PIDNS)
FIRST_OWN = 200
FAILED, HELD, OUR_FAULT, TERMINATED = 111, 110, 125, 128 + signal.SIGTERM
KILLED = 128 + signal.SIGKILL
Rounds = Callable[[int, int], int]
DISARMING = [("-runas", "nobody"), ("-daemonize",), ("-runas", "nobody", "-daemonize")]


class Manager(RegistryDaemon):
    """The lock manager, and guests that register with it."""

    def __init__(self, guards: Guards, directory: Path) -> None:
        super().__init__(directory)
        self._guards = guards
        self.disk = firmware.image(directory / "disk")

    def start(
        self,
        mode: str,
        command: Sequence[str] = IDLE,
        *,
        plugin: str = "registering",
        pass_fds: Sequence[int] = (),
    ) -> Guard:
        spec = self._guards.spec(self.disk, containment=mode, **self.fields(plugin))
        spec.import_dirs += [CHECKOUT]
        return self._guards.start(spec, command, pass_fds=pass_fds)


@pytest.fixture
def manager(guards: Guards, tmp_path: Path) -> Iterator[Manager]:
    with Manager(guards, tmp_path) as started:
        yield started


def registrar(guard: Guard, mode: str) -> int:
    """Return the process that the guest ends with."""
    return descendants(guard.pid)[0] if mode == Containment.PIDNS else guard.child_pid


def copies(pid: int, inode: str) -> list[int]:
    """Return the process's descriptors of one socket."""
    found = insight.descriptors(pid)
    return [fd for fd, (link, _) in found.items() if link == f"socket:[{inode}]"]


@pytest.mark.parametrize("mode", MODES)
def test_the_process_that_the_guest_ends_with_registers_and_the_guest_inherits(
    mode: str, manager: Manager
) -> None:
    guard = manager.start(mode, firmware.argv(manager.disk)).ready()
    process = registrar(guard, mode)
    ((pid, _, inode),) = manager.registered()
    assert pid == process
    assert (pid == guard.child_pid) == (mode == Containment.PDEATHSIG)
    (fd,) = copies(guard.child_pid, inode)
    assert fd >= FIRST_OWN
    assert len(copies(process, inode)) == 1
    assert copies(guard.pid, inode) == []
    for holder in (guard.child_pid, process):
        assert "/dev/zero" not in [link for link, _ in insight.descriptors(holder).values()]


@pytest.mark.parametrize("mode", MODES)
def test_the_inherited_descriptor_is_clear_of_every_number_in_the_command(
    mode: str, manager: Manager
) -> None:
    numbers = [str(number) for number in range(FIRST_OWN, FIRST_OWN + 20)]
    opened = os.open(os.devnull, os.O_RDONLY)
    passed = os.dup2(opened, FIRST_OWN + 21, inheritable=True)
    os.close(opened)
    command = ["sh", "-c", "exec sleep 1000000", *numbers]
    guard = manager.start(mode, command, pass_fds=[passed]).ready()
    os.close(passed)
    ((_, _, inode),) = manager.registered()
    (fd,) = copies(guard.child_pid, inode)
    assert fd >= FIRST_OWN
    assert str(fd) not in numbers
    assert insight.descriptors(guard.child_pid)[passed][0] == os.devnull


@pytest.mark.parametrize("mode", MODES)
def test_several_plugins_register_the_same_process(mode: str, manager: Manager) -> None:
    guard = manager.start(mode, firmware.argv(manager.disk), plugin="registering+second").ready()
    process = registrar(guard, mode)
    found = manager.registered()
    assert [(pid, name) for pid, name, _ in found] == [
        (process, "registering"), (process, "second"),
    ]  # fmt: skip
    for _, _, inode in found:
        assert len(copies(guard.child_pid, inode)) == 1
    with Contender(guard.child_pid, *map(manager.lease, ("registering", "second"))) as contender:
        processes.kill(guard.pid)
        assert [won.alive for won in contender.won()] == [(), ()]


def the_guard(guard: Guard, _mode: str) -> int:
    return guard.pid


def the_guest(guard: Guard, _mode: str) -> int:
    return guard.child_pid


@pytest.mark.parametrize(
    ("mode", "victim"),
    [
        (Containment.PDEATHSIG, the_guard),
        (Containment.PDEATHSIG, the_guest),
        (Containment.PIDNS, the_guard),
        (Containment.PIDNS, the_guest),
        (Containment.PIDNS, registrar),
    ],
)
def test_the_lease_is_free_when_the_guests_last_thread_is_gone_and_never_before(
    mode: str, victim: Callable[[Guard, str], int], manager: Manager, rounds: Rounds
) -> None:
    for _ in range(rounds(3, 100)):
        guard = manager.start(mode, firmware.argv(manager.disk)).ready()
        with Contender(guard.child_pid, manager.lease()) as contender:
            processes.kill(victim(guard, mode))
            (won,) = contender.won()
        assert not won.alive, f"free, guest {won.alive}"
        waiting.gone(guard.child_pidfd, DEADLINE_S)
        guard.wait()


@pytest.mark.parametrize("options", DISARMING, ids=" ".join)
def test_a_guest_that_forks_or_changes_user_keeps_its_lease_for_life(
    options: tuple[str, ...], manager: Manager
) -> None:
    command = firmware.argv(manager.disk, extra=options)
    guard = manager.start(Containment.AUTO, command).ready()
    ((pid, _, inode),) = manager.registered()
    assert pid == processes.parent(guard.child_pid)
    assert len(copies(guard.child_pid, inode)) == 1
    with Contender(guard.child_pid, manager.lease()) as contender:
        processes.kill(guard.pid)
        (won,) = contender.won()
    assert not won.alive, f"free, guest {won.alive}"


@pytest.mark.parametrize("mode", MODES)
def test_the_sigterm_of_a_lock_manager_ends_the_guest_in_order(mode: str, manager: Manager) -> None:
    guard = manager.start(mode, firmware.argv(manager.disk)).ready()
    waiting.until(
        lambda: signal.SIGTERM in insight.signals(guard.child_pid, "SigCgt"),
        DEADLINE_S,
        "QEMU listens",
    )
    ((pid, _, _),) = manager.registered()
    processes.kill(pid, signal.SIGTERM)
    assert guard.wait().code == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_refusal_to_register_is_the_launchs_own(mode: str, manager: Manager) -> None:
    manager.becomes(registry_daemon.REFUSE)
    ended = manager.start(mode).refused()
    line = "cannot register the guest: the daemon is full; end another guest first"
    assert ended.code == HELD
    assert ended.stderr == f"lock-supervisor: {line}\n"
    assert [name for _, name, _ in manager.registered()] == ["registering"]


@pytest.mark.parametrize("mode", MODES)
def test_a_lock_manager_that_leaves_while_the_guest_registers(mode: str, manager: Manager) -> None:
    manager.becomes(registry_daemon.LEAVE)
    ended = manager.start(mode).refused()
    assert ended.code == FAILED
    assert ended.stderr == "lock-supervisor: cannot obey register: the daemon is gone; start it\n"


@pytest.mark.parametrize("mode", MODES)
def test_a_plugin_that_fails_while_it_registers_is_named(mode: str, manager: Manager) -> None:
    manager.fault()
    ended = manager.start(mode).refused()
    assert ended.code == OUR_FAULT
    line = "cannot register guest guest: our own fault: KeyError('fault')"
    assert ended.stderr == f"lock-supervisor: {line}\n"


@pytest.fixture
def stopped(manager: Manager) -> Manager:
    """Have the lock manager stop itself at the first that registers."""
    manager.becomes(registry_daemon.STOP)
    return manager


def until_asked(manager: Manager) -> None:
    why = "the lock manager stands still, asked to register"
    waiting.until(lambda: processes.state(manager.process.pid) == "T", DEADLINE_S, why)


def test_a_lock_manager_that_never_answers_is_waited_for_within_bounds(stopped: Manager) -> None:
    ended = stopped.start(Containment.PDEATHSIG).refused()
    assert ended.code == FAILED
    why = f"the lock manager has not answered in {BOUND_S:g} s; nothing was acquired"
    assert ended.stderr == f"lock-supervisor: cannot register guest guest: {why}\n"


@pytest.mark.parametrize("mode", MODES)
def test_a_signal_ends_a_guard_whose_lock_manager_never_answers(
    mode: str, stopped: Manager
) -> None:
    guard = stopped.start(mode)
    until_asked(stopped)
    processes.kill(guard.pid, signal.SIGTERM)
    ended = guard.refused()
    assert ended.code == TERMINATED
    assert f"signal {signal.SIGTERM:d} came first; nothing held" in ended.stderr


@pytest.mark.parametrize("mode", MODES)
def test_the_death_of_who_registers_is_seen_at_once(mode: str, stopped: Manager) -> None:
    guard = stopped.start(mode)
    until_asked(stopped)
    ((pid, _, _),) = stopped.registered()
    processes.kill(pid)
    ended = guard.refused(deadline_s=BOUND_S / 2)
    assert ended.code == KILLED
    assert "it ended with 137 before it was up" in ended.stderr


@pytest.mark.parametrize("mode", MODES)
def test_the_guards_death_ends_who_registers(mode: str, stopped: Manager) -> None:
    guard = stopped.start(mode)
    until_asked(stopped)
    ((pid, _, _),) = stopped.registered()
    pidfd = os.pidfd_open(pid)
    try:
        processes.kill(guard.pid)
        waiting.gone(pidfd, DEADLINE_S)
    finally:
        os.close(pidfd)
