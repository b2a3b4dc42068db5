"""Does `run --detach` come back when the guest runs, and say so, or why not, as `run` would?"""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import insight, waiting
from tests.support.command import PROGRAM
from tests.support.guard import DEADLINE_S
from tests.support.locking import Locker, is_free, until_waited_for
from tests.support.qemu import QEMU, idle_argv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.detached import Detached

UUID = "5f2c1d3e-0000-4000-8000-00000000000a"
NO_DISKS = ("--plugin", "nop", "--no-discover")
IDLE = (*NO_DISKS, "--", "/bin/sleep", "1000000")


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def on_disk(disk: str, *command: str) -> list[str]:
    return ["--no-discover", "--disk", disk, "--", *command]


def lines(fd: int) -> list[str]:
    """Return what a pipe holds, to its end, and close it."""
    said = b""
    while True:
        waiting.readable(fd, DEADLINE_S, f"somebody writes, or all have closed after {said!r}")
        if not (data := os.read(fd, 4096)):
            os.close(fd)
            return said.decode().splitlines()
        said += data


def test_it_prints_the_uuid_of_a_guest_that_runs_and_the_commands_know_it(
    detached: Detached, command: Command, disk: str
) -> None:
    result = detached("--name", "web1", "--uuid", UUID, "--", *idle_argv(disk))
    assert (result.code, result.out, result.err) == (0, f"{UUID}\n", "")
    (guest,) = command.json("list")
    assert (guest["name"], guest["state"], guest["leases"]) == ("web1", "running", 1)
    assert command("child", "web1").out == f"{guest['child_pid']}\n"
    assert not is_free(disk)
    waiter = command.start("wait", "web1")
    waiting.until(
        lambda: waiter.has_open("socket:") and waiter.sleeps(), DEADLINE_S, "it has connected"
    )
    assert command("stop", "web1", "--timeout", "0").code == 0
    assert waiter.end().out in {"0\n", "137\n"}  # of SIGTERM, or of the SIGKILL at once after it
    assert is_free(disk)


def test_guard_and_guest_have_a_session_of_their_own_the_log_and_nothing_of_ours(
    detached: Detached,
) -> None:
    read_fd, write_fd = os.pipe()
    _, guard, guest = detached.up("--ready-fd", str(write_fd), *IDLE, pass_fds=[write_fd])
    os.close(write_fd)
    assert lines(read_fd) == [f"READY child={guest}"]  # to its end: nobody else has it
    assert [insight.stat(pid)["session"] for pid in (guard, guest)] == [guard, guard]
    assert [insight.stat(pid)["tty_nr"] for pid in (guard, guest)] == [0, 0]
    log = str(detached.log)
    for pid in (guard, guest):
        links = insight.links(pid)
        assert [links[fd] for fd in (0, 1, 2)] == ["/dev/null", log, log]
        assert [link for fd, link in links.items() if fd > 2 and link in (log, "/dev/pts/0")] == []


def test_the_rest_reaches_the_guest_as_it_came(detached: Detached, tmp_path: Path) -> None:
    passed_fd = os.open(tmp_path, os.O_RDONLY)
    script = f"umask; pwd; readlink /proc/$$/fd/{passed_fd}; echo $LC_CTYPE $MINE; ls /proc/$$/fd"
    wrapper = f"umask 0137; cd {tmp_path}; exec {PROGRAM} "
    words = [*detached.words(), *NO_DISKS, "--", "/bin/sh", "-c", f"{script}; exec sleep 1000000"]
    done = subprocess.run(
        ["/bin/sh", "-c", wrapper + '"$@"', "sh", *words],
        env={"PATH": "/usr/bin:/bin", "MINE": "1", "LC_CTYPE": "C",
             "LOCK_SUPERVISOR_RUNTIME_DIR": detached.runtime_dir},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, pass_fds=[passed_fd],
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    *said, open_fds = waiting.until(
        lambda: detached.said().split("\n", 4) if detached.said().count("\n") > 8 else None,
        DEADLINE_S,
        "the guest has said all",
    ) or [""]
    assert said == ["0137", str(tmp_path), str(tmp_path), "C 1"]
    below = sorted(int(fd) for fd in open_fds.split() if int(fd) < 200)
    assert below == sorted({0, 1, 2, passed_fd})
    os.close(passed_fd)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        ([*NO_DISKS, "--", "/missing"], 127, "cannot run /missing: No such file or directory"),
        ([*NO_DISKS, "--", "/etc/passwd"], 126, "cannot run /etc/passwd: Permission denied"),
        (["--", "true"], 2, "cannot find the disks of true: "),
        (["--no-discover", "--disk", "/missing", "--", "true"], 111, "/missing"),
        (["--uuid", "nonsense", *NO_DISKS, "--", "true"], 2, "uuid nonsense"),
        (["--", QEMU, "-add-fd", "fd=77,set=1"], 2, "descriptor 77 is not open"),
    ],
)
def test_what_cannot_start_is_refused_as_without_detach(
    words: list[str], code: int, reason: str, detached: Detached, command: Command
) -> None:
    refused = detached(*words)
    assert (refused.code, refused.out, refused.err.count("\n")) == (code, "", 1), refused
    assert refused.err.startswith("lock-supervisor: cannot ")
    assert reason in refused.err
    bare = command("run", *words)
    assert (bare.code, bare.err) == (refused.code, refused.err)
    assert detached.uuids() == []


def test_a_held_disk_is_refused_naming_its_guest_and_the_log_has_it_too(
    detached: Detached, disk: str
) -> None:
    detached.up("--name", "web1", *on_disk(disk, "/bin/sleep", "1000000"))
    read_fd, write_fd = os.pipe()
    refused = detached(
        *("--ready-fd", str(write_fd), "--name", "web2", *on_disk(disk, "true")),
        pass_fds=[write_fd],
    )
    os.close(write_fd)
    assert (refused.code, refused.out) == (110, ""), refused
    assert "held by guest web1 (" in refused.err
    assert refused.err in detached.said()
    text = refused.err.removeprefix("lock-supervisor: ").removesuffix("\n")
    assert lines(read_fd) == [f"ERROR 110 {text}"]


def test_a_descriptor_that_was_not_passed_is_not_there_whatever_is_ours(detached: Detached) -> None:
    """Ours would be one of these; then QEMU would be let go with a descriptor that it lacks."""
    for fd in range(3, 12):
        refused = detached("--", QEMU, "-add-fd", f"fd={fd},set=1", "-S")
        assert (refused.code, f"descriptor {fd} is not open" in refused.err) == (2, True), refused


def test_a_ready_fd_that_is_not_open_is_exit_2(detached: Detached) -> None:
    result = detached("--ready-fd", "987", *IDLE)
    assert (result.code, result.out, "987" in result.err) == (2, "", True), result
    assert detached.uuids() == []


def test_the_handshake_waits_for_go(detached: Detached, disk: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = on_disk(disk, "/bin/sleep", "1000000")
        started = detached.start(
            "--handshake-fd", str(theirs.fileno()), *words, pass_fds=[theirs.fileno()]
        )
        theirs.close()
        waiting.readable(ours.fileno(), DEADLINE_S, "it says ACQUIRED")
        assert ours.recv(100) == b"ACQUIRED\n"
        assert started.is_running()
        ours.sendall(b"GO\n")
        assert (started.end().code, len(detached.uuids())) == (0, 1)


def test_a_wait_comes_back_when_the_guest_runs(detached: Detached, disk: str) -> None:
    with Locker(disk) as holder:
        started = detached.start("--wait", "inf", *on_disk(disk, "/bin/sleep", "1000000"))
        until_waited_for(disk)
        assert started.is_running()
        holder.end()
        result = started.end()
    assert (result.code, result.out.split()) == (0, detached.uuids())
    assert not is_free(disk)


def test_probes_of_qemu_answer_here_and_now(detached: Detached) -> None:
    result = detached("--", QEMU, "-version")
    assert (result.code, "QEMU emulator version" in result.out) == (0, True), result
    assert not detached.log.exists()


def test_a_qemu_that_daemonizes_is_known_by_its_survivor(
    detached: Detached, command: Command, disk: str
) -> None:
    uuid, _, guest = detached.up("--", *idle_argv(disk), "-daemonize", "-display", "none")
    assert command("child", uuid).out == f"{guest}\n"
    assert insight.status(guest)["Name"].startswith("qemu-system")
    assert command("stop", uuid, "--timeout", "0").code == 0
    assert is_free(disk)


def test_what_the_guest_says_is_appended(detached: Detached) -> None:
    detached.log.write_text("before\n")
    for word in ("out", "err >&2"):
        result = detached(*NO_DISKS, "--", "/bin/sh", "-c", f"echo {word}")
        assert result.code == 0, result
    waiting.until(lambda: detached.said() == "before\nout\nerr\n", DEADLINE_S, "both have spoken")


@pytest.mark.parametrize("log", ["/dev/full", "/missing/log", "/"])
def test_a_log_that_cannot_be_written_starts_nothing(
    log: str, command: Command, detached: Detached, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    words = ["run", "--detach", "--log", log, *NO_DISKS, "--", "/usr/bin/touch", str(mark)]
    result = command(*words)
    assert (result.code, result.out, result.err.count("\n")) == (111, "", 1), result
    assert result.err.startswith(f"lock-supervisor: cannot write log {log}: ")
    assert (detached.uuids(), mark.exists()) == ([], False)


def test_output_that_nobody_takes_does_not_change_that_the_guest_runs(detached: Detached) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [PROGRAM, *detached.words(), *IDLE],
            stdout=full, stderr=subprocess.PIPE, check=False, timeout=DEADLINE_S,
            env={**os.environ, "LOCK_SUPERVISOR_RUNTIME_DIR": detached.runtime_dir},
        )  # fmt: skip
    assert (done.returncode, done.stderr, len(detached.uuids())) == (0, b"", 1)
