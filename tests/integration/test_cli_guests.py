"""Do the guests' commands tell the truth about real guards, and end real guests?"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment
from tests.support import waiting
from tests.support.command import PROGRAM, freeze
from tests.support.locking import Locker, is_free, until_waited_for
from tests.support.qemu import idle_argv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Command, Started
    from tests.support.guard import Guard, Guards

CONTAINMENTS = (Containment.PDEATHSIG, Containment.PIDNS)
DEAF = ("/bin/sh", "-c", 'trap "" TERM; while :; do read _ </dev/zero; done')
GUEST_KEYS = {
    "uuid", "name", "id", "state", "supervisor_pid", "child_pid", "plugin", "containment",
    "guarantee", "since", "leases",
}  # fmt: skip
LEASE_KEYS = {"resource", "type", "mode", "lockspace", "lease", "generation", "state"}


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def is_dead(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def acquiring(guards: Guards, disk: str, **fields: object) -> Guard:
    """Start a guard that waits for `disk`, which somebody else has."""
    guard = guards.start(guards.spec(disk, wait_s=float("inf"), **fields))
    until_waited_for(disk)
    return guard


def until_it_waits(command: Command, waiter: Started) -> None:
    """Return when the guard has heard of a `wait` that is up: later clients are served later."""
    waiting.until(lambda: waiter.has_open("socket:"), 10, "it has connected")
    assert command.json("status", "web1")["state"] == "running"


def test_child_prints_the_pid_by_name_uuid_and_prefix(guards: Guards, command: Command) -> None:
    guard = guards.run(plugin="nop", name="web1")
    for text in ("web1", guard.spec.uuid, guard.spec.uuid[:8].upper()):
        result = command("child", text)
        assert (result.code, result.out, result.err) == (0, f"{guard.child_pid}\n", "")
    assert command("child", "web").code == 1


def test_status_and_list_have_every_field_of_the_contract(
    guards: Guards, command: Command, disk: str
) -> None:
    guard = guards.run(disk, name="web1", id="7")
    status = command.json("status", "web1")
    (listed,) = command.json("list")
    assert set(status) == GUEST_KEYS | {"deadline_s", "unleased", "parked"}
    assert set(listed) == GUEST_KEYS
    (lease,) = status["leases"]
    assert set(lease) == LEASE_KEYS
    assert (lease["resource"], lease["type"], lease["mode"]) == (disk, "disk", "exclusive")
    assert (lease["state"], lease["generation"]) == ("held", None)
    for shown in (status, listed):
        assert (shown["uuid"], shown["name"], shown["id"]) == (guard.spec.uuid, "web1", "7")
        assert (shown["state"], shown["plugin"]) == ("running", "file")
        assert (shown["supervisor_pid"], shown["child_pid"]) == (guard.pid, guard.child_pid)
        assert shown["containment"] in CONTAINMENTS
        time.strptime(shown["since"], "%Y-%m-%dT%H:%M:%SZ")
    assert (listed["leases"], status["deadline_s"], status["unleased"]) == (1, None, [])


def test_a_guest_that_waits_is_acquiring_and_has_no_child(
    guards: Guards, command: Command, disk: str
) -> None:
    with Locker(disk):
        guard = acquiring(guards, disk, name="web1")
        status = command.json("status", "web1")
        assert (status["state"], status["child_pid"], status["leases"]) == ("acquiring", None, [])
        assert status["supervisor_pid"] == guard.pid
        result = command("child", "web1")
        assert (result.code, "acquired" in result.err) == (111, True)
    guard.ready()
    assert command.json("status", "web1")["state"] == "running"
    assert command("child", "web1").out == f"{guard.child_pid}\n"


def test_stop_ends_a_guard_that_is_still_acquiring(
    guards: Guards, command: Command, disk: str
) -> None:
    with Locker(disk):
        guard = acquiring(guards, disk, name="web1")
        result = command("stop", "web1")
        assert (result.code, "SIGTERM" in result.out) == (0, True), result
        assert is_dead(guard.pidfd)
        assert guard.wait().code == 143
        assert os.listdir(guards.runtime_dir) == []


@pytest.mark.slow
def test_a_frozen_guard_is_unknown_and_its_child_is_told_all_the_same(
    guards: Guards, command: Command, disk: str
) -> None:
    guard = guards.run(disk, name="web1")
    guards.run(plugin="nop", name="web2")
    freeze(guard)
    start = time.monotonic()
    states = {guest["name"]: guest["state"] for guest in command.json("list")}
    assert states == {"web1": "unknown", "web2": "running"}
    status = command.json("status", "web1")
    assert (status["state"], status["child_pid"]) == ("unknown", guard.child_pid)
    assert [lease["state"] for lease in status["leases"]] == ["unknown"]
    assert command("child", "web1").out == f"{guard.child_pid}\n"
    assert time.monotonic() - start > 3
    result = command("stop", "web1", "--timeout", "0")
    assert (result.code, result.out) == (111, "")
    assert not is_dead(guard.child_pidfd)


@pytest.mark.parametrize("containment", CONTAINMENTS)
@pytest.mark.parametrize("frozen", ["neither", "guard", "guest"])
def test_kill_returns_when_the_guest_is_dead_and_its_leases_are_free(
    guards: Guards, command: Command, disk: str, containment: str, frozen: str
) -> None:
    guard = guards.run(disk, name="web1", containment=containment)
    if frozen == "guard":
        freeze(guard)
    if frozen == "guest":
        signal.pidfd_send_signal(guard.child_pidfd, signal.SIGSTOP)
    assert not is_free(disk)
    result = command("kill", "web1")
    assert is_free(disk)
    assert is_dead(guard.child_pidfd)
    assert is_dead(guard.pidfd)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert guard.wait().code == -signal.SIGKILL
    assert os.listdir(guards.runtime_dir) == []
    assert command("kill", "web1").code == 1


def test_kill_ends_a_guard_that_is_still_acquiring(
    guards: Guards, command: Command, disk: str
) -> None:
    with Locker(disk):
        guard = acquiring(guards, disk, name="web1")
        assert command("kill", "web1").code == 0
        assert is_dead(guard.pidfd)
    assert is_free(disk)


def test_kill_waits_for_whoever_inherited_the_leases(
    guards: Guards, command: Command, disk: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    survivor = f"setsid sh -c 'echo $$ >{fifo}; exec sleep 1000' & exec sleep 1000"
    guard = guards.run(
        disk, name="web1", command=("/bin/sh", "-c", survivor), containment=Containment.PDEATHSIG
    )
    heir = os.pidfd_open(int(fifo.read_text()))
    killing = command.start("kill", "web1")
    waiting.gone(guard.child_pidfd, 10)
    assert not is_free(disk)
    assert killing.is_running()
    signal.pidfd_send_signal(heir, signal.SIGKILL)
    result = killing.end()
    assert is_free(disk)
    assert (result.code, result.err) == (0, "")
    os.close(heir)


def test_stop_presses_qemus_power_button_and_then_insists(
    guards: Guards, command: Command, disk: str
) -> None:
    guard = guards.run(disk, name="web1", command=idle_argv(disk, machine="pc"))
    start = time.monotonic()
    result = command("stop", "web1", "--timeout", "1")
    assert is_free(disk)
    assert is_dead(guard.child_pidfd)
    assert (result.code, "power button" in result.out) == (0, True), result
    assert "is gone, ended by SIGKILL\n" in result.out
    assert time.monotonic() - start >= 1
    assert guard.wait().code == 128 + signal.SIGKILL


def test_stop_sends_sigterm_where_there_is_no_monitor(
    guards: Guards, command: Command, disk: str
) -> None:
    guard = guards.run(disk, name="web1", command=idle_argv(disk), monitor=False)
    result = command("stop", "web1")
    assert is_free(disk)
    assert is_dead(guard.child_pidfd)
    assert (result.code, "SIGTERM" in result.out) == (0, True), result
    assert "is gone with exit status 0\n" in result.out
    assert guard.wait().code == 0  # QEMU's own end
    assert os.listdir(guards.runtime_dir) == []


def test_stop_gives_as_long_as_run_was_told(guards: Guards, command: Command, disk: str) -> None:
    guard = guards.run(disk, name="web1", command=DEAF, stop_timeout_s=0.5)
    result = command("stop", "web1")
    assert is_free(disk)
    assert is_dead(guard.child_pidfd)
    assert result.code == 0
    assert guard.wait().code == 128 + signal.SIGKILL


def test_wait_prints_the_exit_status(guards: Guards, command: Command, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    guard = guards.run(
        name="web1", plugin="nop", command=("/bin/sh", "-c", f"read _ <{fifo}; exit 3")
    )
    waiters = [command.start("wait", "web1") for _ in range(2)]
    for waiter in waiters:
        until_it_waits(command, waiter)
    assert all(waiter.is_running() for waiter in waiters)
    fifo.write_text("\n")
    for waiter in waiters:
        result = waiter.end()
        assert (result.code, result.out, result.err) == (0, "3\n", "")
    assert guard.wait().code == 3


def test_wait_begun_before_the_guest_ran_knows_its_exit_status(
    guards: Guards, command: Command, disk: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Locker(disk):
        spec = guards.spec(disk, name="web1", wait_s=float("inf"))
        guard = guards.start(spec, ("/bin/sh", "-c", f"read _ <{fifo}; kill -USR1 $$"))
        until_waited_for(disk)
        waiter = command.start("wait", "web1")
        waiting.until(
            lambda: (
                waiter.has_open("anon_inode:[pidfd]")
                and waiter.sleeps()
                and not waiter.has_open("socket:")
            ),
            10,
            "it has tried to connect, and watches the guard",
        )
    guard.ready()
    until_it_waits(command, waiter)
    fifo.write_text("\n")
    result = waiter.end()
    assert (result.code, result.out) == (0, f"{128 + signal.SIGUSR1}\n")


def test_wait_says_unknown_when_the_supervisor_was_killed(
    guards: Guards, command: Command, disk: str
) -> None:
    guard = guards.run(disk, name="web1")
    waiter = command.start("wait", "web1")
    until_it_waits(command, waiter)
    guard.kill()
    result = waiter.end()
    assert is_free(disk)
    assert (result.code, result.out, result.err) == (0, "unknown\n", "")
    assert os.listdir(guards.runtime_dir) == []


def test_a_dead_guards_directory_is_gone_after_list(guards: Guards, command: Command) -> None:
    dead, alive = guards.run(plugin="nop", name="web1"), guards.run(plugin="nop", name="web2")
    dead.kill()
    assert len(os.listdir(guards.runtime_dir)) == 2
    assert [guest["name"] for guest in command.json("list")] == ["web2"]
    assert os.listdir(guards.runtime_dir) == [alive.spec.uuid]


def test_stop_waits_for_the_end_though_nothing_can_be_printed(
    guards: Guards, command: Command
) -> None:
    guard = guards.run(plugin="nop", name="web1", command=DEAF, stop_timeout_s=0.5)
    with open("/dev/full", "wb") as full:
        argv = [PROGRAM, "stop", "web1"]
        done = subprocess.run(argv, env=command.env, stdout=full, timeout=30, check=False)
    assert is_dead(guard.pidfd)
    assert done.returncode == 111
