"""Does nobody outlive the guard: a QEMU that changes user or forks, a binary with privileges?

What disarms the parent-death signal goes into a PID namespace, or is refused
with the reason before anything is started.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment
from tests.faults import firmware, processes
from tests.support import insight, waiting
from tests.support.contender import Contender
from tests.support.guard import descendants

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.guard import Guard, Guards

pytestmark = pytest.mark.usefixtures("as_root")

DEADLINE_S = 20
RUNAS, DAEMONIZE = ("-runas", "nobody"), ("-daemonize",)
DISARMING = [RUNAS, DAEMONIZE, (*RUNAS, *DAEMONIZE)]
SETSID = ("sh", "-c", "setsid sh -c 'sleep 1000000 & wait' & wait")


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return firmware.image(tmp_path / "disk")


def containment_of(guard: Guard) -> tuple[object, object]:
    status = guard.status()
    return status["containment"], status["guarantee"]


def assert_dies_with_the_guard(guard: Guard, disk: str) -> None:
    with Contender(guard.child_pid, disk) as contender:
        processes.kill(guard.pid)
        for won in contender.won():
            assert not won.alive, f"{won.path} free, guest {won.alive}"
    waiting.gone(guard.child_pidfd, DEADLINE_S)


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("options", DISARMING, ids=" ".join)
def test_a_qemu_that_disarms_the_signal_goes_into_a_namespace(
    options: tuple[str, ...], guards: Guards, disk: str, tmp_path: Path
) -> None:
    pidfile = str(tmp_path / "qemu.pid")
    command = firmware.argv(disk, extra=[*options, "-pidfile", pidfile])
    guard = guards.run(disk, command=command)
    assert read(pidfile) == read(f"{guard.path}/child.pid") == f"{guard.child_pid}\n"
    assert read(f"/proc/{guard.child_pid}/comm").startswith("qemu-system")
    init = processes.parent(guard.child_pid)
    assert processes.parent(init) == guard.pid
    if "-runas" in options:
        nobody = str(pwd.getpwnam("nobody").pw_uid)
        waiting.until(
            lambda: insight.status(guard.child_pid)["Uid"].split() == [nobody] * 4,
            DEADLINE_S,
            "QEMU has changed user",
        )
    mode, guarantee = containment_of(guard)
    assert mode == Containment.PIDNS
    assert str(guarantee).startswith("the guest runs only while every lease is held")
    assert_dies_with_the_guard(guard, disk)


@pytest.mark.parametrize("options", [(), *DISARMING], ids=" ".join)
def test_a_namespaces_qemu_ends_orderly_and_leaves_no_pid_file(
    options: tuple[str, ...], guards: Guards, disk: str, tmp_path: Path
) -> None:
    pidfile = str(tmp_path / "qemu.pid")
    command = firmware.argv(disk, extra=[*options, "-pidfile", pidfile])
    guard = guards.run(disk, command=command, containment=Containment.PIDNS)
    assert read(pidfile) == f"{guard.child_pid}\n"
    waiting.until(
        lambda: signal.SIGTERM in insight.signals(guard.child_pid, "SigCgt"),
        DEADLINE_S,
        "QEMU listens",
    )
    processes.kill(guard.pid, signal.SIGTERM)
    assert guard.wait().code == 0
    waiting.gone(guard.child_pidfd, DEADLINE_S)
    assert not os.path.exists(pidfile)
    assert not os.path.exists(guard.path)


def test_a_refused_guests_pid_file_is_not_the_running_ones(
    guards: Guards, disk: str, tmp_path: Path
) -> None:
    pidfile = str(tmp_path / "qemu.pid")
    command = firmware.argv(disk, extra=["-pidfile", pidfile])
    guard = guards.run(disk, command=command, containment=Containment.PIDNS)
    refusal = guards.refusal(disk, command=command, containment=Containment.PIDNS)
    assert refusal.code == 110
    assert read(pidfile) == f"{guard.child_pid}\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (RUNAS, "QEMU is told to change user (-runas"),
        (("--runas", "nobody"), "QEMU is told to change user (-runas"),
        (("-run-with", "chroot=/,user=nobody"), "QEMU is told to change user (-run-with"),
        (DAEMONIZE, "QEMU is told to fork (-daemonize)"),
        ((*RUNAS, *DAEMONIZE), "QEMU is told to change user (-runas"),
    ],
    ids=str,
)
def test_a_qemu_that_disarms_the_signal_is_refused_under_it(
    options: tuple[str, ...], reason: str, guards: Guards, disk: str, tmp_path: Path
) -> None:
    pidfile = tmp_path / "qemu.pid"
    command = firmware.argv(disk, extra=[*options, "-pidfile", str(pidfile)])
    refusal = guards.refusal(disk, command=command, containment=Containment.PDEATHSIG)
    assert refusal.code == 2
    assert reason in refusal.stderr
    assert "which disarms the parent-death signal; use --containment pidns" in refusal.stderr
    assert not pidfile.exists()
    assert not os.path.exists(guards.runtime_dir)


def with_capabilities(program: str) -> str:
    subprocess.run(["setcap", "cap_net_raw+ep", program], check=True, timeout=DEADLINE_S)
    return "has file capabilities"


def with_set_uid(program: str) -> str:
    os.chmod(program, 0o4755)  # noqa: S103  # what it is about
    return "is set-user-ID or set-group-ID"


def with_set_gid(program: str) -> str:
    os.chmod(program, 0o2755)  # noqa: S103  # what it is about
    return "is set-user-ID or set-group-ID"


def called_directly(program: str) -> list[str]:
    return [program, "1000000"]


def called_by_a_link(program: str) -> list[str]:
    os.symlink(program, f"{program}-link")
    return [f"{program}-link", "1000000"]


def called_as_an_interpreter(program: str) -> list[str]:
    with open(f"{program}-script", "w", encoding="utf-8") as script:
        script.write(f"#! {program} 1000000\n")
    os.chmod(f"{program}-script", 0o700)
    return [f"{program}-script"]


@pytest.fixture(params=[with_capabilities, with_set_uid, with_set_gid])
def privileged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Make a program with privileges; returns its path, and what there is to say against it."""
    program = str(tmp_path / "program")
    shutil.copy("/bin/sleep", program)
    return program, request.param(program)


@pytest.mark.parametrize("called", [called_directly, called_by_a_link])
def test_a_program_with_privileges_is_refused_under_the_signal(
    called: Callable[[str], list[str]], privileged: tuple[str, str], guards: Guards, disk: str
) -> None:
    program, reason = privileged
    refusal = guards.refusal(disk, command=called(program), containment=Containment.PDEATHSIG)
    assert refusal.code == 2
    assert reason in refusal.stderr
    assert "use --containment pidns" in refusal.stderr


def test_an_interpreter_with_privileges_is_refused_under_the_signal(
    privileged: tuple[str, str], guards: Guards, disk: str
) -> None:
    program, reason = privileged
    command = called_as_an_interpreter(program)
    refusal = guards.refusal(disk, command=command, containment=Containment.PDEATHSIG)
    assert refusal.code == 2
    assert f"{program} {reason}" in refusal.stderr


def test_a_program_with_privileges_on_the_path_is_refused_under_the_signal(
    privileged: tuple[str, str], guards: Guards, disk: str
) -> None:
    program, reason = privileged
    spec = guards.spec(disk, containment=Containment.PDEATHSIG)
    path = f"/nonexistent:{os.path.dirname(program)}"
    guard = guards.start(spec, ["program", "1000000"], env={"PATH": path})
    refusal = guard.refused()
    assert refusal.code == 2
    assert f"{program} {reason}" in refusal.stderr


def test_a_program_with_privileges_goes_into_a_namespace(
    privileged: tuple[str, str], guards: Guards, disk: str
) -> None:
    guard = guards.run(disk, command=called_directly(privileged[0]))
    assert containment_of(guard)[0] == Containment.PIDNS
    assert_dies_with_the_guard(guard, disk)


def test_a_grandchild_in_a_session_of_its_own_dies_with_the_guard(
    guards: Guards, disk: str
) -> None:
    guard = guards.run(disk, command=SETSID, containment=Containment.PIDNS)
    # init, the guest, its child in a session of its own, and that one's child
    waiting.until(lambda: len(descendants(guard.pid)) == 4, DEADLINE_S, "the family is complete")
    family = descendants(guard.pid)
    assert os.getsid(family[-1]) == family[-2] != os.getsid(guard.child_pid)
    pidfds = [os.pidfd_open(pid) for pid in family]
    assert_dies_with_the_guard(guard, disk)
    for pidfd in pidfds:
        waiting.gone(pidfd, DEADLINE_S)
        os.close(pidfd)


def test_a_guest_that_changes_user_by_itself_weakens_the_stated_guarantee(
    guards: Guards, disk: str
) -> None:
    command = ["setpriv", "--reuid", "nobody", "--clear-groups", "sleep", "1000000"]
    guard = guards.run(disk, command=command)
    waiting.until(
        lambda: read(f"/proc/{guard.child_pid}/comm") == "sleep\n", DEADLINE_S, "it has changed"
    )
    mode, guarantee = containment_of(guard)
    assert mode == Containment.PDEATHSIG
    assert "weakened: the guest changed user" in str(guarantee)


def test_a_guest_that_closes_its_descriptors_weakens_the_stated_guarantee(
    guards: Guards, disk: str
) -> None:
    code = "import os, signal; os.closerange(3, 1000); os.write(1, b'closed'); signal.pause()"
    guard = guards.run(disk, command=["/usr/bin/python3", "-I", "-S", "-c", code])
    waiting.until(lambda: "closed" in guard.stderr(), DEADLINE_S, "it has closed them")
    assert "was not seen to carry its leases" in str(containment_of(guard)[1])


# Daemonizes as QEMU does, but the process in the middle takes its time to exit.
_SLOW_TO_DAEMONIZE = """#!/usr/bin/python3 -I
import os, signal, sys
done_read, done_write = os.pipe()
if os.fork():
    os._exit(0 if os.read(done_read, 1) else 1)
os.setsid()
if os.fork():
    signal.sigwait({signal.SIGUSR1})
    os._exit(0)
os.write(done_write, b"+")
signal.pause()
"""


def namespaced(guard: Guard) -> list[str]:
    """Return the pids below the guard as they are in the namespace; none while one is going."""
    try:
        return [insight.status(pid)["NSpid"].split()[-1] for pid in descendants(guard.pid)]
    except (FileNotFoundError, ProcessLookupError):
        return []


def test_the_guest_is_the_survivor_however_slowly_the_process_in_the_middle_exits(
    guards: Guards, disk: str, tmp_path: Path
) -> None:
    program = tmp_path / "qemu-system-slow"
    program.write_text(_SLOW_TO_DAEMONIZE)
    program.chmod(0o700)
    guard = guards.start(guards.spec(disk, monitor=False), [str(program), "-daemonize"])
    family = ["1", "3", "4"]
    waiting.until(lambda: namespaced(guard) == family, DEADLINE_S, "the launched one is gone")
    _init, middle, survivor = descendants(guard.pid)
    processes.kill(middle, signal.SIGUSR1)
    assert guard.ready().child_pid == survivor
    assert read(f"{guard.path}/child.pid") == f"{survivor}\n"
    assert_dies_with_the_guard(guard, disk)
