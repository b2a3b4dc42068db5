"""Does `doctor` say of this host, of disks and of a command line what is so, and touch nothing?"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from lockplugins.file.examine import PLACE
from lockplugins.kernel_locks import exclusion, reach
from supervisor.doctor.names import Name
from tests.support import proclocks, waiting
from tests.support.command import PROGRAM
from tests.support.doctor import DEADLINE_S, examine
from tests.support.guard import descendants, pidfds_below
from tests.support.locking import Locker, is_free
from tests.support.qemu import QEMU, idle_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guards

pytestmark = pytest.mark.slow

OF_COMMAND = {Name.DISKS, Name.COMMAND, Name.CONTAINMENT, Name.MONITOR}
TOOK = re.compile(r"\b\d+\.\d ms\b")


@pytest.fixture(autouse=True)
def _runtime_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCK_SUPERVISOR_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return str(path)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[str]:
    """Give a QEMU that says nothing, to no question, for ever; what it writes is who it is."""
    path = tmp_path / "qemu-system-hanging"
    path.write_text(f"#!/bin/sh\necho $$ >>{tmp_path}/hangs\nexec sleep 1000000\n")
    path.chmod(0o755)
    yield str(path)
    assert [pid for pid in (tmp_path / "hangs").read_text().split() if is_alive(pid)] == []


def is_alive(pid: str) -> bool:
    try:
        return stat_of(int(pid))[0] not in "ZX"
    except FileNotFoundError:
        return False


def stat_of(pid: int) -> list[str]:
    """Return state, parent and the rest of /proc/PID/stat."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def test_the_host_is_looked_at_in_every_way(tmp_path: Path) -> None:
    answer = examine()
    checks = [check.check for check in answer.checks]
    assert set(checks) == {*Name.ALL, exclusion.NAME} - OF_COMMAND
    assert len(checks) == len(set(checks))
    for name in (Name.PARENT_DEATH, Name.TIMER, Name.CARRIED, Name.PIDFD):
        check = answer.one(name)
        assert check.ok, check
        assert TOOK.search(check.evidence), check
    assert answer.one(Name.PYTHON).ok
    assert answer.one(exclusion.NAME).evidence.startswith(
        f"{tmp_path}/run, to be made in {tmp_path}: OFD and POSIX locks, exclusive and shared, "
    )
    assert not os.path.exists(tmp_path / "run")


def test_a_person_reads_it_without_the_manual(command: Command) -> None:
    result = command("doctor", deadline_s=DEADLINE_S)
    lines = result.out.splitlines()
    assert result.err == ""
    assert all(re.match("(ok  |WEAK)  [a-z]|      +-> |$", line) for line in lines[:-1])
    weak = sum(line.startswith("WEAK") for line in lines)
    assert result.code == (1 if weak else 0)
    assert sum("  -> " in line for line in lines) == weak
    assert lines[-1].startswith(f"{weak} of " if weak else "All ")


def test_a_command_line_is_looked_at_as_run_would_have_it(
    require: Callable[[str], str], disk: str
) -> None:
    program = require(QEMU)
    answer = examine("--", *idle_argv(disk))
    for name, words in (
        (Name.DISKS, "leases on all that the arguments tell of: 1 exclusive 0 shared"),
        (Name.COMMAND, f"{program}: QEMU emulator version "),
        (Name.CONTAINMENT, "pdeathsig (auto was asked for): nothing in it disarms the "),
        (Name.MONITOR, "it opens a private monitor, and greets as QEMU "),
    ):
        check = answer.one(name)
        assert check.ok, check
        assert check.evidence.startswith(words)
    assert answer.one(PLACE, disk).evidence == f"the lease is byte 0 of {disk}"
    assert answer.one(exclusion.NAME, disk).ok
    assert answer.one(reach.NAME, disk).check == reach.NAME


def test_a_disk_alone_is_looked_at_without_a_command(disk: str) -> None:
    answer = examine("--disk", f"{disk},shared")
    assert answer.one(exclusion.NAME, disk).ok
    assert not {check.check for check in answer.checks} & OF_COMMAND


@pytest.mark.parametrize(
    ("options", "command", "name", "evidence", "mend"),
    [
        ((), (QEMU, "-runas", "nobody"), Name.CONTAINMENT, "pidns (auto was asked for): QEMU ", ""),
        (
            ("--containment", "pdeathsig"),
            (QEMU, "-daemonize"),
            Name.CONTAINMENT,
            "QEMU is told to fork (-daemonize), which disarms the parent-death signal",
            "use --containment pidns",
        ),
        (
            (),
            ("qemu-system-nonesuch",),
            Name.COMMAND,
            "qemu-system-nonesuch: No such file or directory (ENOENT)",
            "install it, or name its path",
        ),
        ((), ("/etc/passwd",), Name.COMMAND, "/etc/passwd is not an executable file", "name"),
        (
            ("--no-discover",),
            ("/bin/true",),
            Name.COMMAND,
            "/bin/true is not QEMU by its name",
            "let it exec QEMU",
        ),
        ((), ("/bin/true",), Name.DISKS, "cannot find the disks of /bin/true: ", "name them with"),
        (("--no-discover",), ("/bin/true",), Name.DISKS, "no disk is named", "name what it writes"),
        (
            ("--no-discover",),
            (QEMU, "-hda", "/a.img"),
            Name.DISKS,
            "the guest writes to /a.img without a lease",
            "leave --no-discover out",
        ),
        (
            (),
            (QEMU, "-readconfig", "x"),
            Name.DISKS,
            "cannot find the disks of -readconfig x: ",
            "name the disks with --disk",
        ),
        (
            (),
            (QEMU, "-blockdev", "driver=file,filename=/a,node-name=a",
             "-device", "virtio-blk,drive=a,share-rw=on"),
            Name.DISKS,
            "-device virtio-blk,drive=a,share-rw=on lets other guests of ours write to",
            "do so with cluster filesystems alone",
        ),
        (("--no-monitor",), (QEMU,), Name.MONITOR, "--no-monitor: stop pulls", "leave --no-monit"),
        (("--plugin", "nonsense"), (QEMU,), Name.PLUGIN, "cannot use plugin nonsense", "allowed"),
        (("--config", "/missing"), (QEMU,), Name.CONFIGURATION, "cannot read config", "correct"),
    ],
)  # fmt: skip
def test_what_of_a_command_line_weakens_is_named(
    *, options: tuple[str, ...], command: tuple[str, ...], name: str, evidence: str, mend: str
) -> None:
    check = examine(*options, "--", *command).one(name)
    assert check.evidence.startswith(evidence)
    assert (check.mend or "").startswith(mend)
    assert check.ok == (mend == "")


def test_a_disk_that_is_leased_by_another_of_its_names_is_leased(disk: str, tmp_path: Path) -> None:
    link = str(tmp_path / "link")
    os.symlink(disk, link)
    answer = examine("--no-discover", "--disk", link, "--", *idle_argv(disk))
    assert answer.one(Name.DISKS).ok
    answer = examine("--no-discover", "--disk", f"{link},shared", "--", *idle_argv(disk))
    assert answer.one(Name.DISKS).evidence == f"the guest writes to {disk} without a lease"


def test_a_plugin_that_holds_nothing_is_no_good_news(disk: str) -> None:
    answer = examine("--plugin", "nop+file", "--disk", disk)
    assert [check.ok for check in answer.all(Name.PLUGIN)] == [True, True]
    assert answer.one("leases").evidence == "plugin nop holds no lease"
    assert answer.one(exclusion.NAME, disk).ok


def test_a_running_guest_and_its_leases_are_not_touched(guards: Guards, disk: str) -> None:
    command = idle_argv(disk, locking_off=False)
    guard = guards.run(disk, command=command)
    waiting.until(lambda: len(proclocks.locks(disk)) > 1, DEADLINE_S, "QEMU has its own locks")
    before = proclocks.locks(disk), os.stat(disk)
    answer = examine("--", *command)
    assert answer.one(exclusion.NAME, disk).ok
    assert (proclocks.locks(disk), os.stat(disk)) == before
    assert not is_free(disk)
    with guard.connect() as client:
        status = client.execute("query-status", timeout_s=DEADLINE_S)
    assert isinstance(status, dict)
    assert (status["state"], status["unleased"]) == ("running", [])


def test_virtlockds_lock_is_not_touched(disk: str) -> None:
    with Locker(disk, posix=True) as virtlockd:
        before = proclocks.locks(disk)
        assert examine("--disk", disk).one(exclusion.NAME, disk).ok
        assert virtlockd.held
        assert proclocks.locks(disk) == before
        assert not is_free(disk)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_descriptors_are_no_fault(disk: str, tmp_path: Path, closed: str) -> None:
    script = f'exec "$@" {closed}'
    argv = ["sh", "-c", script, "sh", PROGRAM, "doctor", "--json", "--disk", disk]
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run(argv, stdout=out, stderr=subprocess.PIPE, timeout=60, check=False)
    answer = (tmp_path / "out").read_bytes()
    assert done.returncode == (111 if "1>" in closed else 1 if b'"ok": false' in answer else 0)
    assert (b'"check": "exclusion", "ok": true' in answer) == ("1>" not in closed)


def test_a_qemu_that_says_nothing_is_given_up(hanging: str) -> None:
    answer = examine("--", hanging)
    assert answer.one(Name.COMMAND).evidence == f"{hanging}: says nothing to -version"
    assert answer.one(Name.MONITOR).evidence.startswith("it does not open a private monitor")
    assert answer.one(Name.CONTAINMENT).ok


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)]
)
def test_nothing_is_left_behind_by_whatever_ends_it(
    hanging: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    doctor = subprocess.Popen(
        [PROGRAM, "doctor", "--", hanging], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    with doctor:
        waiting.until((tmp_path / "hangs").exists, DEADLINE_S, "QEMU was asked")
        said = waiting.until((tmp_path / "hangs").read_text, DEADLINE_S, "it says who it is")
        asked = int(said.split()[0])
        waiting.until(lambda: len(descendants(doctor.pid)) > 1, DEADLINE_S, "it is seen")
        left = pidfds_below(doctor.pid)
        for pid in (int(stat_of(asked)[1]), asked):  # so that neither ends by itself
            os.kill(pid, signal.SIGSTOP)
        doctor.send_signal(number)
        _, err = doctor.communicate(timeout=DEADLINE_S)
        assert (doctor.returncode, err) == (code, b"")
    for pidfd in left:
        waiting.gone(pidfd, DEADLINE_S)
        os.close(pidfd)
    assert not os.path.exists(tmp_path / "run")
