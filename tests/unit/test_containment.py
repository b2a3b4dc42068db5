"""Is the tie decided as the kernel would have it, and doubted where it may not hold?"""

from __future__ import annotations

import os
import posix
import socket
import struct
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from lockplugins.carrier import NoCarrier
from lockplugins.contract import ConfigError, Plugin
from supervisor.guard.containment import daemonizes, decide, resolve, status_of
from supervisor.guard.guarantee import doubts, words
from supervisor.spec import Containment
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_S = 20
QEMU = "/usr/bin/qemu-system-x86_64"
# struct vfs_cap_data of capability.h, version 2: cap_net_raw, permitted and effective.
SOME_CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    return path


def script(path: Path, interpreter: str) -> str:
    path.write_text(f"#!{interpreter}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("argv", "forks"),
    [
        ([QEMU, "-daemonize"], True),
        ([QEMU, "--daemonize"], True),
        (["kvm", "-S", "-daemonize", "-m", "1"], True),
        ([QEMU, "-S"], False),
        (["-daemonize"], False),
        (["busybox", "-daemonize"], False),
    ],
)
def test_only_qemu_is_told_to_daemonize(argv: list[str], *, forks: bool) -> None:
    assert daemonizes(argv) is forks


DISARMING = {
    "-runas nobody": ["-runas", "nobody"],
    "--runas nobody": ["--runas", "nobody"],
    "-run-with user=": ["-run-with", "chroot=/srv,user=nobody"],
    "-daemonize": ["-daemonize"],
}
HARMLESS = {
    "nothing": [],
    "-run-with": ["-run-with", "chroot=/srv"],
    "a name": ["-name", "runas"],
    "-chroot": ["-chroot", "/srv"],
}


@as_root
@pytest.mark.parametrize("options", DISARMING.values(), ids=DISARMING)
def test_what_disarms_the_signal_goes_into_a_namespace_or_is_refused(options: list[str]) -> None:
    argv = [QEMU, *options]
    assert decide(Containment.AUTO, argv, QEMU) == Containment.PIDNS
    assert decide(Containment.PIDNS, argv, QEMU) == Containment.PIDNS
    with pytest.raises(ConfigError) as caught:
        decide(Containment.PDEATHSIG, argv, QEMU)
    assert f"({' '.join(options).replace('--', '-')})" in str(caught.value)
    assert "which disarms the parent-death signal; use --containment pidns" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("options", HARMLESS.values(), ids=HARMLESS)
def test_what_does_not_is_tied_by_the_signal(options: list[str]) -> None:
    for mode in (Containment.AUTO, Containment.PDEATHSIG):
        assert decide(mode, [QEMU, *options], QEMU) == Containment.PDEATHSIG


@pytest.mark.parametrize("options", DISARMING.values(), ids=DISARMING)
def test_options_of_what_is_not_qemu_mean_nothing(program: Path, options: list[str]) -> None:
    argv = [str(program), *options]
    assert decide(Containment.AUTO, argv, str(program)) == Containment.PDEATHSIG


def refusal(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        decide(Containment.PDEATHSIG, [path], path)
    return str(caught.value)


@pytest.mark.parametrize("bit", [0o4000, 0o2000])
def test_set_id_bits_disarm_it(program: Path, bit: int) -> None:
    program.chmod(0o755 | bit)
    assert f"{program} is set-user-ID or set-group-ID, which disarms" in refusal(str(program))


@as_root
def test_file_capabilities_disarm_it(program: Path) -> None:
    os.setxattr(program, "security.capability", SOME_CAPABILITY)
    assert f"{program} has file capabilities, which disarms" in refusal(str(program))


def test_the_interpreter_counts_and_its_interpreter(program: Path, tmp_path: Path) -> None:
    inner = script(tmp_path / "inner", f"  {program} -x")
    outer = script(tmp_path / "outer", inner)
    assert decide(Containment.PDEATHSIG, [outer], outer) == Containment.PDEATHSIG
    program.chmod(0o4755)
    assert f"{program} is set-user-ID" in refusal(outer)


@pytest.mark.parametrize("name", ["missing", "directory", "loop"])
def test_what_cannot_be_run_is_for_exec_to_refuse(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    script(tmp_path / "loop", str(tmp_path / "loop"))
    path = str(tmp_path / name)
    assert decide(Containment.AUTO, [path], path) == Containment.PDEATHSIG


def test_a_command_is_found_as_execvp_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("empty", "directory", "text", "first", "second"):
        (tmp_path / name).mkdir()
    (tmp_path / "directory" / "it").mkdir()
    (tmp_path / "text" / "it").touch()
    for name in ("first", "second"):
        script(tmp_path / name / "it", "/bin/sh")
    path = ":".join(
        f"{tmp_path}/{name}" for name in ("no", "empty", "directory", "text", "first", "second")
    )
    environ: Any = posix.environ
    monkeypatch.setitem(environ, b"PATH", path.encode())
    assert resolve("it") == f"{tmp_path}/first/it"
    assert resolve("nothing") == "nothing"
    assert resolve("./it") == "./it"
    monkeypatch.chdir(tmp_path / "second")
    monkeypatch.setitem(environ, b"PATH", b"/nowhere::/usr/bin")
    assert resolve("it") == "./it"
    monkeypatch.delitem(environ, b"PATH")
    assert resolve("sh") in ("/bin/sh", "/usr/bin/sh")


# -- the look at a running guest


@contextmanager
def running(*command: str, **popen: Any) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command that reads its input; gives it, and the inode of a socket that it has."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], **popen
        )
        try:
            waiting.until(
                lambda: status_of(process.pid)["State"].startswith("S"), DEADLINE_S, "it waits"
            )
            yield process, os.fstat(theirs.fileno()).st_ino
        finally:
            process.kill()
            process.communicate(timeout=DEADLINE_S)


@pytest.mark.parametrize("mode", [Containment.PDEATHSIG, Containment.PIDNS])
def test_a_guest_as_it_should_be_raises_no_doubt(mode: str) -> None:
    with running("/bin/cat") as (process, inode):
        assert doubts(mode, process.pid, inode) == ""


def test_a_guest_that_does_not_carry_its_leases_is_doubted() -> None:
    with running("/bin/cat") as (process, inode):
        doubt = doubts(Containment.PIDNS, process.pid, inode + 1)
        assert doubt == f"process {process.pid} of the guest was not seen to carry its leases"


def test_a_guest_that_is_gone_is_doubted() -> None:
    with running("/bin/cat") as (process, inode):
        pass
    assert doubts(Containment.PIDNS, process.pid, inode) != ""


@as_root
@pytest.mark.parametrize(
    ("changed", "what"), [({"user": 54321}, "user"), ({"group": 54321}, "group")]
)
def test_a_guest_that_changed_who_it_is_is_doubted(changed: dict[str, int], what: str) -> None:
    with running("/bin/cat", **changed) as (process, inode):
        doubt = doubts(Containment.PDEATHSIG, process.pid, inode)
        assert doubt == f"the guest changed {what}, which disarms the parent-death signal"
        assert doubts(Containment.PIDNS, process.pid, inode) == ""


def test_a_guest_with_children_is_doubted_where_the_signal_does_not_reach_them() -> None:
    with running("/bin/sh", "-c", "/bin/cat; :") as (process, inode):
        assert "has forked" in doubts(Containment.PDEATHSIG, process.pid, inode)
        assert doubts(Containment.PIDNS, process.pid, inode) == ""


def test_a_process_cannot_name_itself_into_its_status() -> None:
    with running("/bin/sh", "-c", "printf 'x\\014CapPrm:\\t7' >/proc/self/comm; read x") as (
        process,
        _,
    ):
        status = status_of(process.pid)
        assert status["Name"] == "x\x0cCapPrm:\t7"
        assert status["CapPrm"] == status_of("self")["CapPrm"]
    assert status_of(2**30) == {}


def test_the_guarantee_says_what_holds_and_what_does_not() -> None:
    plugin = Plugin({}, NoCarrier())
    whole = words(Containment.PDEATHSIG, "", [], plugin)
    assert "SIGKILL when the supervisor dies" in whole
    assert "PID namespace" in words(Containment.PIDNS, "", [], plugin)
    assert words(Containment.PIDNS, "it forked", ["/a"], plugin) == "weakened: it forked"
    unleased = words(Containment.PDEATHSIG, "", ["/a\n", "/b"], plugin)
    assert unleased.startswith(r"weakened: 2 open without a lease (/a\x0a, …); else the kernel")
    assert whole.startswith("the guest runs only while every lease is held: it carries them, and")
    plugin.PROOF_TERM_S, plugin.CAVEAT = 8.0, "there is no watchdog"
    proven = words(Containment.PDEATHSIG, "", [], plugin)
    assert "held: 8 s without a new proof end it, a frozen supervisor's too, and the" in proven
    assert proven.endswith("when the supervisor dies; there is no watchdog")
