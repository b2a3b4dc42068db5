"""Does the guest find itself as the launcher made it? All but its descriptors and environment.

Each guest is compared, by what the kernel shows of it, with the same command
run bare by the same launcher.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import insight, prefixes
from tests.support.guard import DEADLINE_S
from tests.support.launcher import Launcher

if TYPE_CHECKING:
    from tests.support.guard import Guards

INFINITY = resource.RLIM_INFINITY
EXCEPTION = {signal.SIGPIPE, signal.SIGXFSZ}  # default in the guest, as Python cannot tell
CAN_BE_IGNORED = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
LAUNCHERS = {
    "plain": Launcher(),
    "umask 0": Launcher(umask=0),
    "umask 777": Launcher(umask=0o777),
    "cwd": Launcher(cwd="/usr/lib"),
    "nice": Launcher(nice=7),
    "every signal ignored": Launcher(ignored=sorted(CAN_BE_IGNORED - EXCEPTION)),
    "every signal blocked": Launcher(blocked=sorted(CAN_BE_IGNORED)),
    "nohup": Launcher(ignored=[signal.SIGHUP]),
    "a shell's background": Launcher(ignored=[signal.SIGINT, signal.SIGQUIT]),
    "its own process group": Launcher(group=True),
    "its own session": Launcher(session=True),
    "limits": Launcher(
        limits={
            "RLIMIT_AS": (1 << 40, 1 << 41),
            "RLIMIT_CORE": (0, 12345),
            "RLIMIT_CPU": (1000, 2000),
            "RLIMIT_FSIZE": (1 << 33, 1 << 34),
            "RLIMIT_MEMLOCK": (1 << 20, 1 << 21),
            "RLIMIT_MSGQUEUE": (100, 200),
            "RLIMIT_NOFILE": (777, 888),
            "RLIMIT_NPROC": (5000, 5001),
            "RLIMIT_SIGPENDING": (99, 999),
            "RLIMIT_STACK": (1 << 22, 1 << 23),
        }
    ),
    "few descriptors": Launcher(limits={"RLIMIT_NOFILE": (16, 512)}),
    "no limits": Launcher(limits={"RLIMIT_CORE": (INFINITY, INFINITY)}),
    "to be killed first": Launcher(oom_score_adj=1000),
}
CAP_SYS_RESOURCE = 24
_PRCTLS = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
number = ctypes.c_int(-1)
libc.prctl(2, ctypes.byref(number))  # PR_GET_PDEATHSIG
subreaper = ctypes.c_int(-1)
libc.prctl(37, ctypes.byref(subreaper))
plain = [libc.prctl(option, 0, 0, 0, 0) for option in (3, 7, 27, 30, 34, 39, 42)]
os.write(int(sys.argv[1]), repr((number.value, subreaper.value, plain)).encode())
"""


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("launcher", LAUNCHERS.values(), ids=LAUNCHERS)
def test_the_guest_is_as_if_run_bare(guards: Guards, way: str, launcher: Launcher) -> None:
    guard = prefixes.idling(guards, way, launcher)
    with prefixes.bare(launcher) as bare_pid:
        expected = insight.inherited(bare_pid, bare_pid)
        assert insight.inherited(guard.child_pid, guard.pid) == expected


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_the_guests_chance_to_be_killed_first_is_its_launchers(guards: Guards, way: str) -> None:
    if not int(insight.status(os.getpid())["CapEff"], 16) >> CAP_SYS_RESOURCE & 1:
        pytest.skip("nobody here may lower oom_score_adj")
    guard = prefixes.idling(guards, way, Launcher(oom_score_adj=-17))
    assert insight.read(guard.pid, "oom_score_adj") == b"-1000\n"
    assert insight.read(guard.child_pid, "oom_score_adj") == b"-17\n"


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_a_working_directory_that_is_gone_stays_the_guests(
    guards: Guards, tmp_path: Path, way: str
) -> None:
    launcher = Launcher(doomed_cwd=str(tmp_path / "doomed"))
    guard = prefixes.idling(guards, way, launcher)
    assert os.readlink(f"/proc/{guard.child_pid}/cwd") == f"{tmp_path}/doomed (deleted)"


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_python_cannot_hand_on_that_two_signals_were_ignored(guards: Guards, way: str) -> None:
    launcher = Launcher(ignored=[*EXCEPTION, signal.SIGHUP])
    guard = prefixes.idling(guards, way, launcher)
    assert insight.signals(guard.child_pid, "SigIgn") == {signal.SIGHUP}


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_a_launcher_with_too_few_descriptors_is_told(guards: Guards, way: str) -> None:
    launcher = Launcher(limits={"RLIMIT_NOFILE": (100, 200)})
    ended = prefixes.start(guards, way, launcher=launcher).refused()
    assert (ended.code, "RLIMIT_NOFILE is 200" in ended.stderr) == (111, True), ended


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_the_parent_death_signal_is_all_that_prctl_adds(guards: Guards, way: str) -> None:
    read_fd, write_fd = os.pipe()
    command = (sys.executable, "-I", "-S", "-c", _PRCTLS, str(write_fd))
    try:
        subprocess.run(command, pass_fds=[write_fd], timeout=DEADLINE_S, check=True)
        guard = prefixes.start(guards, way, command, pass_fds=[write_fd])
        assert guard.ready().wait().code == 0
        bare, guarded = os.read(read_fd, 4096).decode().replace(")(", ")\n(").splitlines()
    finally:
        os.close(read_fd)
        os.close(write_fd)
    death_signal = 0 if way == "pidns" else int(signal.SIGKILL)
    assert bare.startswith("(0, 0, ["), bare
    assert guarded == bare.replace("(0,", f"({death_signal},", 1)


AWKWARD = ["", "--", "name=x", "-S", "a b\n", "\udcff\udcfe", "ü", "x" * 100_000]


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_argv_arrives_as_it_was_given(guards: Guards, way: str) -> None:
    # Found on PATH, and still called by the name that was given.
    command = ["busybox", "sh", "-c", "read line", *AWKWARD]
    guard = prefixes.start(guards, way, command, stdin=subprocess.PIPE).ready()
    prefixes.settle(guard.child_pid)
    assert cmdline(guard.child_pid) == command
    end(guard.process)
    assert guard.wait().code == 1  # what read says at the end of its input


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("monitor", [True, False])
def test_qemu_gets_a_monitor_more_and_nothing_else(
    guards: Guards, tmp_path: Path, way: str, *, monitor: bool
) -> None:
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text("#!/bin/busybox sh\nread line\n")
    qemu.chmod(0o755)
    fields = {} if monitor else {"monitor": False}
    command = [str(qemu), "-nodefaults", "-S", *AWKWARD]
    guard = prefixes.start(guards, way, command, fields=fields, stdin=subprocess.PIPE).ready()
    prefixes.settle(guard.child_pid)
    argv = cmdline(guard.child_pid)[2:]
    if monitor:
        *argv, option, path = argv
        assert option == "-readconfig"
        (fd,) = re.findall(r'^fd = "(\d+)"$', Path(path).read_text(), re.MULTILINE)
        assert os.readlink(f"/proc/{guard.child_pid}/fd/{fd}").startswith("socket:")
    assert argv == command
    end(guard.process)


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_the_guard_goes_by_its_guests_name_and_shows_what_it_was_told(
    guards: Guards, way: str
) -> None:
    guard = prefixes.idling(guards, way, name="web1")
    assert insight.read(guard.pid, "comm") == b"lock:web1\n"
    words = cmdline(guard.pid)
    end_of_keys = words.index("--")
    assert words[end_of_keys + 1 :] == list(prefixes.IDLE)
    assert {"name=web1", f"uuid={guard.spec.uuid}"} < set(words[:end_of_keys])
    assert insight.read(guard.child_pid, "comm") == b"busybox\n"


def test_a_name_that_is_no_utf8_names_the_guard_as_well_as_it_can(guards: Guards) -> None:
    guard = prefixes.idling(guards, "pdeathsig", name="web\udcff")
    assert insight.read(guard.pid, "comm") == b"lock:web?\n"


def cmdline(pid: int) -> list[str]:
    return [os.fsdecode(word) for word in insight.read(pid, "cmdline").split(b"\0")[:-1]]


def end(process: subprocess.Popen[bytes]) -> None:
    """Close the standard input that it shares with its guest."""
    assert process.stdin is not None
    process.stdin.close()
