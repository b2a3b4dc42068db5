"""What if the runtime directory has no room, takes no writes, or was a dead guard's?

Nothing is started and nothing left, the disks untouched; and what a dead
guard left behind is taken over, whoever has its pid now.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

from supervisor import records, rundir
from supervisor.client import NoAnswerError, get_child
from supervisor.spec import Containment
from tests.faults import firmware, processes
from tests.faults.room import PAGE, fill, tmpfs
from tests.support import locking, waiting
from tests.support.guard import DEADLINE_S
from tests.support.stepping import Stepper, thread_reading_eventfd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Ended, Guard, Guards

pytestmark = pytest.mark.usefixtures("as_root")

MODES = (Containment.PDEATHSIG, Containment.PIDNS)
FAILED, SUPERVISED, NO_SUCH_GUEST = 111, 110, 1


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return firmware.image(tmp_path / "disk")


def appearance(disk: str) -> tuple[object, ...]:
    """Return all of a disk that a refusal must leave alone."""
    status = os.stat(disk)
    with open(disk, "rb") as file:
        content = file.read()
    return content, status.st_mtime_ns, status.st_ctime_ns, status.st_mode, status.st_uid


def assert_refused(refusal: Ended, reason: str) -> None:
    assert refusal.code == FAILED
    assert refusal.stderr.startswith("lock-supervisor: cannot ")
    assert reason in refusal.stderr
    assert refusal.stderr.count("\n") == 1


def start_on(guards: Guards, options: str, disk: str, directory: Path, mode: str) -> str:
    """Start a guard whose runtime directory is on such a tmpfs, beside a page of another's.

    Returns what could not be done, nothing for a guest that runs.
    """
    before = appearance(disk)
    with tmpfs(directory, options) as path:
        with open(f"{path}/other", "wb") as other:
            other.write(bytes(PAGE))
        base = f"{path}/run"
        guard = guards.start(guards.spec(disk, runtime_dir=base, containment=mode))
        line = guard.line()
        if line.startswith("READY"):
            guards.end(guard)
            return ""
        refusal = guard.wait()
        assert_refused(refusal, "No space left on device")
        assert line == f"ERROR {FAILED} " + refusal.stderr.removeprefix("lock-supervisor: ")
        assert not os.path.exists(base) or os.listdir(base) == []
    assert guards.left() == []
    assert locking.is_free(disk)
    assert appearance(disk) == before
    return refusal.stderr.split(": ")[1].replace(guard.path, "PATH")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("option", "steps"),
    [
        ("size={}k", ["write PATH/supervisor.pid", "write PATH/guest.json"]),
        (
            "nr_inodes={}",
            ["create runtime directory PATH", "write PATH/guest.json", "listen on PATH/control"],
        ),
    ],
    ids=["blocks", "inodes"],
)
def test_a_full_filesystem_at_every_step(
    guards: Guards, disk: str, tmp_path: Path, *, option: str, steps: list[str], mode: str
) -> None:
    failed: list[str] = []
    room = 2  # the root directory and the other's file; less than its page
    while step := start_on(guards, option.format(room), disk, tmp_path, mode):
        failed.append(step.removeprefix("cannot "))
        room += 1
        assert room < 32
    assert list(dict.fromkeys(failed)) == steps


def test_a_filesystem_that_becomes_full_refuses_an_attach_and_the_guest_goes_on(
    guards: Guards, disk: str, tmp_path: Path
) -> None:
    plugged = firmware.image(tmp_path / "plugged")
    with tmpfs(tmp_path, "size=128k") as path:
        guard = guards.run(disk, runtime_dir=f"{path}/run")
        with open(f"{path}/filler", "wb", buffering=0) as filler:
            fill(filler.fileno())
        with guard.connect() as client:
            arguments: dict[str, object] = {"type": "disk", "path": plugged, "mode": "exclusive"}
            with pytest.raises(Exception, match="No space left on device"):
                client.execute("acquire-resource", arguments, DEADLINE_S)
            assert locking.is_free(plugged)
            leases = client.execute("query-leases", timeout_s=DEADLINE_S)
            assert isinstance(leases, list)
            assert [lease["resource"] for lease in leases] == [disk]
            os.unlink(f"{path}/filler")
            client.execute("acquire-resource", arguments, DEADLINE_S)
        assert not locking.is_free(plugged)
        assert not locking.is_free(disk)
        guards.end(guard)


@pytest.mark.parametrize("claimed", [False, True], ids=["empty", "claimed before"])
def test_a_read_only_filesystem(
    guards: Guards, disk: str, tmp_path: Path, *, claimed: bool
) -> None:
    before = appearance(disk)
    with tmpfs(tmp_path, "size=1m") as path:
        base, guest = f"{path}/run", str(uuid.uuid4())
        if claimed:
            guard = guards.run(uuid=guest, plugin="nop", runtime_dir=base)
            guard.kill()
            guards.end(guard)
        remount = ["mount", "-o", "remount,ro", path]
        subprocess.run(remount, check=True, timeout=DEADLINE_S)
        refusal = guards.refusal(disk, uuid=guest, runtime_dir=base)
        assert_refused(refusal, "Read-only file system")
    assert guards.left() == []
    assert locking.is_free(disk)
    assert appearance(disk) == before


def left_behind(guards: Guards, disk: str) -> Guard:
    """Return a guard that is dead by SIGKILL, its directory as it was."""
    guard = guards.run(disk)
    guard.kill()
    assert {"supervisor.pid", "child.pid", "guest.json", "control"} <= set(os.listdir(guard.path))
    return guard


def test_a_dead_guards_directory_is_taken_over(guards: Guards, disk: str) -> None:
    dead = left_behind(guards, disk)
    guard = guards.run(disk, uuid=dead.spec.uuid)
    assert rundir.is_guarded(guard.path)
    with open(f"{guard.path}/supervisor.pid", encoding="ascii") as file:
        assert file.read() == f"{guard.pid}\n"
    with guard.connect() as client:
        status = client.execute("query-status", timeout_s=DEADLINE_S)
    assert isinstance(status, dict)
    assert (status["supervisor_pid"], status["child_pid"]) == (guard.pid, guard.child_pid)
    processes.kill(guard.child_pid)
    guard.wait()
    assert os.listdir(guards.runtime_dir) == []


def with_reused_pids(guards: Guards, disk: str, stranger: Guard) -> Guard:
    """Return a dead guard whose pids, as its files say them, are the stranger's by now."""
    dead = left_behind(guards, disk)
    guest = records.read_guest(dead.path)
    assert guest is not None
    pids = {"supervisor": stranger.pid, "child": stranger.child_pid}
    guest.update({f"{who}_pid": pid for who, pid in pids.items()})
    texts = {f"{who}.pid": f"{pid}\n" for who, pid in pids.items()}
    for name, text in (texts | {"guest.json": json.dumps(guest)}).items():
        with open(f"{dead.path}/{name}", "w", encoding="ascii") as file:
            file.write(text)
    return dead


def test_a_reused_pid_is_not_taken_for_the_guard_or_its_guest(
    guards: Guards, disk: str, tmp_path: Path
) -> None:
    stranger = guards.run(firmware.image(tmp_path / "other"))
    dead = with_reused_pids(guards, disk, stranger)
    assert not rundir.is_guarded(dead.path)
    with pytest.raises(NoAnswerError):
        get_child(dead.path)
    guard = guards.run(disk, uuid=dead.spec.uuid)
    assert get_child(guard.path).pid == guard.child_pid


@pytest.mark.parametrize("word", ["child", "status", "stop", "kill", "attach"])
def test_no_command_touches_a_stranger_that_has_the_pid_now(
    word: str, guards: Guards, command: Command, disk: str, tmp_path: Path
) -> None:
    stranger = guards.run(firmware.image(tmp_path / "other"))
    dead = with_reused_pids(guards, disk, stranger)
    more = [disk] if word == "attach" else []
    result = command(word, dead.spec.uuid, *more)
    assert (result.code, result.out) == (NO_SUCH_GUEST, "")
    with stranger.connect() as client:
        assert client.execute("query-child", timeout_s=DEADLINE_S)
    assert processes.state(stranger.child_pid) == "S"


def test_one_uuid_has_one_guard(guards: Guards, disk: str) -> None:
    guard = guards.run(disk)
    refusal = guards.refusal(plugin="nop", uuid=guard.spec.uuid)
    assert refusal.code == SUPERVISED
    assert f"supervisor process {guard.pid} already runs it ({guard.path})" in refusal.stderr
    with guard.connect() as client:
        assert client.execute("query-child", timeout_s=DEADLINE_S)


def test_of_many_guards_that_want_one_uuid_at_once_one_gets_it(
    guards: Guards, rounds: Callable[[int, int], int]
) -> None:
    for _ in range(rounds(5, 100)):
        guest = str(uuid.uuid4())
        specs = [guards.spec(plugin="nop", uuid=guest) for _ in range(8)]
        contenders = [guards.start(spec) for spec in specs]
        lines = [guard.line() for guard in contenders]
        assert sum(line.startswith("READY") for line in lines) == 1
        assert sum(line.startswith(f"ERROR {SUPERVISED} ") for line in lines) == 7
        for guard in contenders:
            guards.end(guard)


def test_what_a_guard_leaves_that_is_killed_while_it_writes_can_be_removed(
    guards: Guards, disk: str, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    plugged = firmware.image(tmp_path / "plugged")
    arguments: dict[str, object] = {"type": "disk", "path": plugged, "mode": "exclusive"}
    calls, done = 1, False
    while not done:
        guard = guards.run(disk)
        with guard.connect() as client:
            client.execute("query-leases", timeout_s=DEADLINE_S)
            with Stepper(thread_reading_eventfd(guard.pid)) as thread:
                client.send("acquire-resource", arguments)
                done = any(thread.next() == thread.idle for _ in range(calls))
                thread.kill(guard.pidfd)
        waiting.gone(guard.child_pidfd, DEADLINE_S)
        guards.end(guard)
        assert rundir.remove_dead(guard.path)
        assert os.listdir(guards.runtime_dir) == [], f"after {calls} calls"
        calls += rounds(2, 1)
