"""Does a guest that is parked write without its leases, whatever is done to it?

The lock manager is played by the test, the guest a real one that writes; what is judged is its
disk. The window, from a stranger's SIGCONT to the guest's death, is measured.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from supervisor.guard.resting import PULSE_S
from supervisor.spec import Containment, render
from tests.faults import processes
from tests.support import expiring, waiting
from tests.support.guest.checker import check, describe
from tests.support.manager import Manager
from tests.support.measured import milliseconds
from tests.support.parkable import DEADLINE_S, Parkable
from tests.support.qemu import guest_argv
from tests.support.terminal import CONTROL_Z, ENTER, Terminal
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Ended, Guards

    Measure = Callable[[str, str], None]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_root")]

MODES = (Containment.PDEATHSIG, Containment.PIDNS)
MORE_LONG = (Containment.PDEATHSIG, pytest.param(Containment.PIDNS, marks=pytest.mark.long))
TERM_S = 20.0
LOST, UNCONFIRMED, KILLED = 112, 111, -signal.SIGKILL


@pytest.fixture
def manager(guards: Guards, tmp_path: Path, require: Callable[[str], str]) -> Manager:
    require("qemu-system-x86_64")
    return Manager(guards, tmp_path)


@pytest.fixture
def mode() -> str:
    return Containment.AUTO


@pytest.fixture
def guest(mode: str, guards: Guards, manager: Manager) -> Iterator[Parkable]:
    spec = manager.spec("claiming", mode, TERM_S, on_lockfailure="pause")
    with Parkable(guards, spec, manager.disk) as started:
        yield started


@pytest.fixture
def parked(guest: Parkable, manager: Manager) -> int:
    """Have the guest lose its leases, and be parked; return when its disk was written to last."""
    manager.becomes(expiring.STALE)
    assert guest.parked()["state"] == "parked"
    return guest.written()


def ended(guest: Parkable) -> Ended:
    """Wait until the guest is dead, and its guard gone."""
    waiting.gone(guest.guard.child_pidfd, DEADLINE_S)
    found = guest.guard.wait(DEADLINE_S)
    report = check(guest.disk)
    assert report.clean, describe(report)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_who_has_it_continue_has_it_killed(
    mode: str, guest: Parkable, parked: int, measured: Measure
) -> None:
    started_at = time.monotonic()
    signal.pidfd_send_signal(guest.guard.child_pidfd, signal.SIGCONT)
    waiting.gone(guest.guard.child_pidfd, DEADLINE_S)
    took = time.monotonic() - started_at
    measured("parking", f"SIGCONT to a parked guest's death, {mode}: {milliseconds([took])}")
    found = ended(guest)
    assert (found.code, guest.written()) == (LOST, parked)
    assert "somebody had it continue while it was parked" in found.stderr


@pytest.mark.parametrize("mode", MORE_LONG)
def test_a_queued_cont_gets_it_no_further_than_the_window(
    mode: str, guest: Parkable, parked: int, measured: Measure
) -> None:
    guest.stranger.send("cont")
    written = os.stat(guest.disk).st_blocks, guest.written()
    assert written[1] == parked
    started_at = time.monotonic()
    signal.pidfd_send_signal(guest.guard.child_pidfd, signal.SIGCONT)
    waiting.gone(guest.guard.child_pidfd, DEADLINE_S)
    took = time.monotonic() - started_at
    wrote = "wrote in it" if guest.written() != parked else "wrote nothing"
    measured("parking", f"the same with cont queued, {mode}: {milliseconds([took])}, {wrote}")
    assert ended(guest).code == LOST


def test_cont_while_it_is_being_parked_is_undone_or_deadly(
    guest: Parkable, manager: Manager
) -> None:
    manager.becomes(expiring.STALE)
    guest.control.event("LEASE_LOST", DEADLINE_S)
    guest.stranger.send("cont")
    waiting.until(
        lambda: (
            waiting.is_gone(guest.guard.child_pidfd)
            or set(processes.thread_states(guest.guard.child_pid)) == {"T"}
        ),
        DEADLINE_S,
        "it stands still, or is dead",
    )
    written = guest.written()
    manager.claims.free(guest.disk, guest.guard.spec.uuid)
    if not waiting.is_gone(guest.guard.child_pidfd):
        manager.wait_for("reacquire")
    assert guest.written() == written


def test_fg_in_a_shell_has_it_killed(manager: Manager, tmp_path: Path) -> None:
    spec = manager.spec("claiming", term_s=TERM_S, on_lockfailure="pause")
    argv = [*render(spec), *guest_argv(manager.disk, serial=f"file:{tmp_path / 'console'}")]
    path = os.path.join(spec.runtime_dir, spec.uuid)
    with Terminal() as terminal:
        shell = subprocess.Popen(
            [*terminal.launcher.prefix(), "/bin/bash", "--norc", "-i"],
            env={**os.environ, "PS1": "prompt> ", "TERM": "dumb", "HISTFILE": ""},
            **terminal.streams,
        )
        terminal.read_until(b"prompt> ")
        terminal.type(shlex.join(argv).encode() + ENTER)
        waiting.until(lambda: os.path.exists(f"{path}/control"), DEADLINE_S, "the guest runs")
        with Wire(f"{path}/control") as control:
            child = os.pidfd_open(control.execute("query-child")["pid"])
            was = os.stat(manager.disk).st_mtime_ns
            waiting.until(
                lambda: os.stat(manager.disk).st_mtime_ns != was, DEADLINE_S, "the guest writes"
            )
            manager.becomes(expiring.STALE)
            control.event("GUEST_PARKED", DEADLINE_S)
        written = os.stat(manager.disk).st_mtime_ns
        terminal.type(CONTROL_Z)
        terminal.read_until(b"Stopped")
        terminal.type(b"fg" + ENTER)
        waiting.gone(child, DEADLINE_S)
        os.close(child)
        terminal.read_until(b"prompt> ")
        shell.kill()
        shell.wait()
    assert os.stat(manager.disk).st_mtime_ns == written


@pytest.mark.parametrize("mode", MORE_LONG)
def test_a_parked_guest_dies_with_its_guard(mode: str, guest: Parkable, parked: int) -> None:
    assert mode == guest.status()["containment"]
    guest.guard.kill()
    assert guest.written() == parked
    assert ended(guest).code == KILLED


def test_a_guard_that_is_frozen_while_its_guest_is_parked_is_ended(
    guest: Parkable, parked: int
) -> None:
    processes.stop(guest.guard.pid)
    frozen_at = time.monotonic()
    assert ended(guest).code == KILLED
    assert time.monotonic() - frozen_at < PULSE_S + DEADLINE_S / 6
    assert guest.written() == parked


def test_a_guest_whose_lease_somebody_else_had_is_killed(
    guest: Parkable, manager: Manager, parked: int
) -> None:
    manager.claims.free(guest.disk, guest.guard.spec.uuid)
    assert manager.claims.claim(guest.disk, "host2") is not None
    assert manager.claims.free(guest.disk, "host2")
    manager.becomes(expiring.WELL)
    found = ended(guest)
    assert (found.code, guest.written()) == (LOST, parked)
    assert "generation 2 by now" in found.stderr


def test_a_parked_guest_that_is_killed_is_not_taken_back(
    guest: Parkable, manager: Manager, parked: int
) -> None:
    processes.kill(guest.guard.child_pid)
    found = ended(guest)
    assert (found.code, guest.written()) == (UNCONFIRMED, parked)
    assert "cannot reach the lock manager" in found.stderr  # which has its leases yet
    assert manager.claims.read(guest.disk)[0] == 1


@pytest.mark.parametrize("way", ["stop", pytest.param("SIGTERM", marks=pytest.mark.long)])
def test_a_parked_guest_that_is_to_stop_is_killed(way: str, guest: Parkable, parked: int) -> None:
    for command, arguments in (
        ("acquire-resource", {"path": guest.disk}),
        ("release-resource", {"path": guest.disk}),
        ("pause-guest", {}),
    ):
        with pytest.raises(Refused, match="is parked"):
            guest.control.execute(command, arguments)
    if way == "stop":
        assert "SIGKILL" in guest.control.execute("stop-guest", {"timeout_s": None})["via"]
    else:
        processes.kill(guest.guard.pid, signal.SIGTERM)
    found = ended(guest)
    assert (found.code, guest.written()) == (128 + signal.SIGTERM, parked)
    assert "cannot run guest guest: signal 15 came first; nothing held" in found.stderr


BUSY = {
    "job": "job is under way",
    "export": "exports a block device",
    "read-only export": "exports a block device",
    "migration": "a migration is under way",
}


WRITERS = ["job", "export", "migration", "hung"]


@pytest.mark.parametrize(
    "writer", [*WRITERS, pytest.param("read-only export", marks=pytest.mark.long)]
)
def test_a_guest_that_would_write_on_is_killed_and_not_paused(
    writer: str, guest: Parkable, manager: Manager, tmp_path: Path
) -> None:
    if writer != "hung":
        occupy(guest, writer, tmp_path)
        with pytest.raises(Refused, match="its leases stay held") as refused:
            guest.control.execute("pause-guest")
        assert BUSY[writer] in refused.value.desc
        guest.writes()
        assert guest.status()["state"] == "running"
    else:
        processes.stop(guest.guard.child_pid)
    manager.becomes(expiring.STALE)
    found = ended(guest)
    assert found.code == LOST
    assert "; it cannot be parked: " in found.stderr
    assert manager.calls("release")[0][1] == [], "released while there was a process left"


def occupy(guest: Parkable, writer: str, directory: Path) -> None:
    """Have QEMU do something that goes on while its guest has stopped."""
    execute = guest.stranger.execute
    drives = execute("query-block")
    assert isinstance(drives, list)
    (node,) = [each["inserted"]["node-name"] for each in drives if each["device"] == "virtio0"]
    if writer == "job":
        target = {"driver": "file", "node-name": "copy", "filename": str(directory / "copy")}
        (directory / "copy").write_bytes(bytes(os.stat(guest.disk).st_size))
        execute("blockdev-add", **target)
        execute("blockdev-mirror", **{"job-id": "m", "device": node, "target": "copy"}, sync="full")
    elif writer == "migration":
        execute("migrate", uri="exec:exec sleep 1000")  # which reads nothing
    else:
        again = {"driver": "file", "node-name": "again", "filename": guest.disk, "locking": "off"}
        execute("blockdev-add", **again)
        address = {"type": "unix", "data": {"path": str(directory / "nbd")}}
        execute("nbd-server-start", addr=address)
        writable = writer == "export"
        named = {"id": "e", "node-name": "again", "type": "nbd", "writable": writable}
        execute("block-export-add", **named)
