"""Does doctor see what a user, a limit, a mount or a cgroup denies? Each is really denied.

Root only, since only root can give privileges away.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from supervisor.doctor.names import Name
from tests.faults.public import Public
from tests.support import waiting
from tests.support.doctor import DEADLINE_S, Answer, examine
from tests.support.qemu import QEMU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

pytestmark = [pytest.mark.usefixtures("as_root"), pytest.mark.slow]

FREEZER = "/sys/fs/cgroup/freezer"
NO_NAMESPACE = (
    "unshare(CLONE_NEWPID): Operation not permitted (EPERM): guests that need it are refused"
)


@pytest.fixture(autouse=True)
def _runtime_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCK_SUPERVISOR_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture
def public() -> Iterator[Public]:
    with tempfile.TemporaryDirectory(prefix="public-") as path:
        os.chmod(path, 0o711)  # noqa: S103  # pytest's own directories are root's alone
        yield Public(path)


def weak(answer: Answer) -> set[str]:
    return {check.check for check in answer.checks if not check.ok}


def test_an_ordinary_user_is_told_what_is_missing(public: Public) -> None:
    asked = ("--runtime-dir", f"{public.path}/run", "--disk", public.disk)
    answer = examine(*asked, "--", QEMU, "-runas", "root", program=public.command())
    assert weak(answer) >= {Name.USER, Name.PID_NAMESPACE, Name.OOM, Name.HOLDERS, Name.CONTAINMENT}
    assert answer.one(Name.PID_NAMESPACE).evidence == NO_NAMESPACE
    assert answer.one(Name.OOM).evidence.startswith(
        "oom_score_adj -1000: Permission denied (EACCES): "
    )
    assert "a PID namespace needs CAP_SYS_ADMIN" in answer.one(Name.CONTAINMENT).evidence
    assert answer.one(Name.USER).evidence.startswith("user 65534, without CAP_KILL ")
    for name in (Name.PIDFD, Name.PARENT_DEATH, Name.TIMER, Name.CARRIED, Name.DESCRIPTORS):
        assert answer.one(name).ok
    assert answer.one(Name.RUNTIME_DIR).ok
    assert answer.one("exclusion", public.disk).ok


def test_a_user_without_a_place_for_a_runtime_directory_is_told_so(public: Public) -> None:
    unset = ["env", "-u", "XDG_RUNTIME_DIR", "-u", "LOCK_SUPERVISOR_RUNTIME_DIR"]
    check = examine(prefix=unset, program=public.command()).one(Name.RUNTIME_DIR)
    assert check.evidence.startswith("cannot choose a runtime directory: not root and XDG_RUNTIME")
    assert check.mend == "give one with --runtime-dir"


def test_processes_that_proc_hides_are_told_of(public: Public) -> None:
    hiding = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    script = 'mount -t proc -o hidepid=invisible proc /proc && exec "$@"'
    prefix = [*hiding, script, "sh"]
    asked = ("--runtime-dir", f"{public.path}/run")
    check = examine(*asked, prefix=prefix, program=public.command()).one(Name.HOLDERS)
    assert not check.ok
    assert check.evidence.startswith("other users' processes are hidden (/proc is mounted with ")
    assert "hidepid=invisible" in check.evidence
    assert examine(*asked, prefix=prefix).one(Name.PARENT_DEATH).ok


@pytest.mark.parametrize(
    ("injected", "name", "words"),
    [
        ("prctl:retval=0", Name.PARENT_DEATH, "a child outlived its parent by "),
        ("timer_settime:retval=0", Name.TIMER, "a stopped process was not ended by its timer"),
        ("timer_create:error=EPERM", Name.TIMER, "no timer could be armed"),
        ("unshare:error=EPERM", Name.PID_NAMESPACE, NO_NAMESPACE),
        ("pidfd_open:error=EPERM", Name.PIDFD, "no process can be started and seen: Operation"),
        ("pidfd_send_signal:error=ENOSYS", Name.PIDFD, "cannot be tried: Function not implem"),
    ],
)
def test_a_kernel_that_does_not_do_what_it_says_is_found_out(
    require: Callable[[str], str], injected: str, name: str, words: str
) -> None:
    traced = injected.partition(":")[0]
    prefix = [require("strace"), "-f", "-qq", "-o", "/dev/null", "-e", f"trace={traced}"]
    answer = examine(prefix=[*prefix, "-e", f"inject={injected}"])
    check = answer.one(name)
    assert not check.ok
    assert check.evidence.startswith(words)


@pytest.mark.parametrize(
    ("limit", "words"),
    [(300, " leases, then: Too many open files"), (100, "RLIMIT_NOFILE is 100, less than ")],
)
def test_a_low_limit_of_open_files_is_found_out(limit: int, words: str) -> None:
    prefix = ["prlimit", f"--nofile={limit}:{limit}"]
    check = examine(prefix=prefix).one(Name.DESCRIPTORS)
    assert not check.ok
    assert words in check.evidence
    assert check.mend is not None
    assert check.mend.startswith("raise the hard limit")


def test_what_a_user_has_in_flight_counts(public: Public) -> None:
    """Others of the user's programs fill the limit; he may not pass it, as root may."""
    program = public.command()
    script = (
        "import os, socket, array\n"
        "null, pairs = os.open('/dev/null', os.O_RDONLY), []\n"
        "for _ in range(4):\n"
        "    pairs.append(socket.socketpair())\n"
        "    for _ in range(100):\n"
        "        socket.send_fds(pairs[-1][0], [b'.'], [null])\n"
        "os.write(1, b'sent')\n"
        "os.read(0, 1)\n"
    )
    other = [*program[: program.index("-c")], "-c", script]
    limited = ["prlimit", "--nofile=500:500"]
    asked = ("--runtime-dir", f"{public.path}/run")
    assert examine(*asked, prefix=limited, program=program).one(Name.DESCRIPTORS).ok
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        waiting.readable(sender.stdout.fileno(), DEADLINE_S, "all is in flight")
        assert sender.stdout.read(4) == b"sent"
        check = examine(*asked, prefix=limited, program=program).one(Name.DESCRIPTORS)
        sender.communicate(timeout=DEADLINE_S)
    assert not check.ok
    assert "then: Too many references: cannot splice (ETOOMANYREFS)" in check.evidence
    seen = re.search(r"this user is seen to have (\d+) in flight already", check.evidence)
    assert seen is not None
    assert int(seen[1]) >= 400


@pytest.mark.parametrize(
    ("marked", "words"),
    [
        (("chmod", "4755"), " is set-user-ID or set-group-ID"),
        (("setcap", "cap_net_admin+ep"), " has file capabilities"),
    ],
    ids=["set-user-ID", "capabilities"],
)
def test_a_qemu_that_disarms_the_signal_needs_a_namespace(
    tmp_path: Path, require: Callable[[str], str], marked: Sequence[str], words: str
) -> None:
    program = shutil.copy(require(QEMU), tmp_path / QEMU)
    subprocess.run([require(marked[0]), *marked[1:], program], check=True, timeout=30)
    chosen = examine("--", str(program)).one(Name.CONTAINMENT)
    assert chosen.ok
    assert chosen.evidence.startswith(f"pidns (auto was asked for): {program}{words}")
    asked = ("--containment", "pdeathsig", "--", str(program))
    refused = examine(*asked).one(Name.CONTAINMENT)
    assert refused.ok is False
    assert refused.evidence == f"{program}{words}, which disarms the parent-death signal"


@contextmanager
def cgroup(parent: str) -> Iterator[str]:
    """Make one below `parent`, where there is such a hierarchy."""
    if not os.path.isdir(parent):
        pytest.skip(f"no {parent} here")
    path = f"{parent}/doctor-{os.getpid()}"
    os.mkdir(path)
    try:
        yield path
    finally:
        os.rmdir(path)


def inside(group: str) -> list[str]:
    """Return what goes before a command that is to run in the cgroup."""
    return ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"]


def test_a_freezer_of_version_1_is_told_of() -> None:
    with cgroup(FREEZER) as group:
        check = examine(prefix=inside(group)).one(Name.FREEZER)
        assert not check.ok
        name = os.path.basename(group)
        assert check.evidence.startswith(f"in /{name} of the version 1 freezer: a supervisor ")
        assert examine().one(Name.FREEZER).ok


@pytest.mark.parametrize("version", [1, 2])
def test_a_freezer_lets_sigkill_through_in_version_2_alone(version: int) -> None:
    """What the check's words rest on."""
    parent, file, frozen, thawed = {
        1: (FREEZER, "freezer.state", "FROZEN", "THAWED"),
        2: (_unified(), "cgroup.freeze", "1", "0"),
    }[version]
    with cgroup(parent) as group, subprocess.Popen([*inside(group), "sleep", "1000000"]) as sleeper:
        pidfd = os.pidfd_open(sleeper.pid)
        waiting.until(lambda: _comm(sleeper.pid) == "sleep", DEADLINE_S, "it sleeps")
        _put(f"{group}/{file}", frozen)
        waiting.until(lambda: _is_frozen(group, version), DEADLINE_S, "it is frozen")
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if version == 1:
            with pytest.raises(AssertionError, match="the process is dead"):
                waiting.gone(pidfd, 1)
            _put(f"{group}/{file}", thawed)
        waiting.gone(pidfd, DEADLINE_S)
        os.close(pidfd)


def _unified() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        found = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    return found[0] if found else "/no/cgroup2"


def _is_frozen(group: str, version: int) -> bool:
    name, words = {1: ("freezer.state", "FROZEN"), 2: ("cgroup.events", "frozen 1")}[version]
    with open(f"{group}/{name}", encoding="ascii") as file:
        return words in file.read()


def _comm(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="ascii") as file:
        return file.read().strip()


def _put(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
