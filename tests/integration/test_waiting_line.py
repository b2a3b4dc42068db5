"""Does a person at a terminal see who is waited for, and does nothing hang on that?"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from lockplugins.contract import Resource
from supervisor.spec import Containment, render
from tests.support import insight, prefixes, waiting
from tests.support.guard import DEADLINE_S
from tests.support.locking import Locker, is_free, until_waited_for
from tests.support.screen import Screen
from tests.support.terminal import CONTROL_C, CONTROL_Q, CONTROL_S, CONTROL_Z, ENTER, Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.gate import Gate
    from tests.support.guard import Guard, Guards

pytestmark = pytest.mark.slow

SPEAKS = ("/bin/sh", "-c", "printf first")
WIDE = 400


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal() as opened:
        yield opened


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk\n.raw"
    path.touch()
    return str(path)


@pytest.fixture
def other(disk: str) -> Iterator[Locker]:
    with Locker(disk) as locker:
        yield locker


def waits(
    guards: Guards,
    terminal: Terminal,
    disk: str,
    command: Sequence[str] = SPEAKS,
    *,
    way: str = Containment.PDEATHSIG,
    **fields: object,
) -> Guard:
    """Start a guard that waits for `disk` on the terminal."""
    waiting_for = {"plugin": "file", "resources": [Resource(disk)], "wait_s": float("inf")}
    return prefixes.start(
        guards,
        way,
        command,
        launcher=terminal.launcher,
        fields={**waiting_for, **fields},
        **terminal.streams,
    )


def seconds(lines: list[str]) -> int:
    """Return how long the line on the screen says that is waited, 0 without a line."""
    found = re.search(r"^lock-supervisor: waiting (\d+) s", "".join(lines))
    return int(found.group(1)) if found else 0


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_the_line_says_who_and_how_long_and_is_gone_before_the_guests_first_byte(
    guards: Guards, terminal: Terminal, disk: str, other: Locker, way: str
) -> None:
    screen = Screen(terminal, WIDE)
    guard = waits(guards, terminal, disk, way=way)
    holder = f", held by process {other.pid} (python"
    (line,) = screen.until(lambda lines: holder in "".join(lines), "the line is there")
    shown = disk.replace("\n", "\\x0a")
    assert line.startswith("lock-supervisor: waiting 1 s (^C gives up) for disk " + shown), line
    screen.until(lambda lines: seconds(lines) >= 3, "the seconds count on")
    other.end()
    screen.until(lambda lines: lines == ["first"], "what the guest says is all there is")
    assert guard.wait().code == 0
    assert all(line.startswith(("lock-supervisor: waiting ", "first")) for line in screen.seen)


def test_the_guard_keeps_no_more_of_the_terminal_than_it_had(
    guards: Guards, terminal: Terminal, disk: str, other: Locker
) -> None:
    screen = Screen(terminal, WIDE)
    guard = waits(guards, terminal, disk, ("/bin/sh", "-c", "printf first; exec sleep 1000"))
    screen.until(lambda lines: seconds(lines) >= 1, "the line is there")
    assert draws(guard.pid)
    other.end()
    screen.until(lambda lines: lines == ["first"], "the guest runs")
    assert not draws(guard.pid)


def test_a_guest_of_ours_is_waited_for_by_name(
    guards: Guards, terminal: Terminal, disk: str
) -> None:
    screen = Screen(terminal, WIDE)
    first = guards.run(disk, name="web1")
    waits(guards, terminal, disk)
    holder = f"held by guest web1 ({first.spec.uuid}), supervisor pid {first.pid}"
    screen.until(lambda lines: holder in "".join(lines), "the line is there")


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_control_c_gives_up_with_nothing_left_of_the_line(
    guards: Guards, terminal: Terminal, disk: str, other: Locker, way: str
) -> None:
    screen = Screen(terminal, WIDE)
    guard = waits(guards, terminal, disk, way=way)
    screen.until(lambda lines: seconds(lines) >= 1, "the line is there")
    terminal.type(CONTROL_C)
    said = "lock-supervisor: cannot run guest guest: signal 2 came first; nothing held"
    screen.until(lambda lines: lines == [said], "the error is all that is left")
    assert guard.wait().code == 128 + signal.SIGINT
    other.end()
    assert is_free(disk)


def test_a_wait_that_is_too_long_ends_in_its_error_alone(
    guards: Guards, terminal: Terminal, disk: str, other: Locker
) -> None:
    screen = Screen(terminal, WIDE)
    guard = waits(guards, terminal, disk, wait_s=2.5)
    screen.until(lambda lines: seconds(lines) >= 1, "the line is there")
    start = "lock-supervisor: cannot start guest guest: disk "
    (error,) = screen.until(lambda lines: "".join(lines).startswith(start), "the error is there")
    assert guard.wait().code == 110
    screen.until(lambda lines: f"process {other.pid} (" in "".join(lines), "it names the holder")
    assert error


@pytest.mark.parametrize("columns", [2, pytest.param(20, marks=pytest.mark.slow), 60])
def test_a_narrow_window_is_never_wrapped(
    guards: Guards, terminal: Terminal, disk: str, other: Locker, columns: int
) -> None:
    screen = Screen(terminal, columns)
    waits(guards, terminal, disk)
    whole = "lock-supervisor: waiting 1 s (^C gives up) for disk " + disk.replace("\n", "\\x0a")
    cut = whole[: columns - 1]
    screen.until(lambda lines: lines == [cut], f"the line is {cut!r}")
    other.end()
    screen.until(lambda lines: "".join(lines) == "first", "the line is gone")


def test_a_window_made_narrower_gets_a_shorter_line(
    guards: Guards, terminal: Terminal, disk: str, other: Locker
) -> None:
    screen = Screen(terminal, 60)
    waits(guards, terminal, disk)
    screen.until(lambda lines: [len(line) for line in lines] == [59], "the line is there")
    assert other.held
    screen.resize(31)
    screen.until(
        lambda lines: [len(line) for line in lines] == [30] and seconds(lines) > 1, "it is shorter"
    )


def test_nothing_is_said_where_standard_error_is_no_terminal(
    guards: Guards, terminal: Terminal, disk: str, other: Locker
) -> None:
    screen = Screen(terminal, WIDE)
    spec = guards.spec(disk, wait_s=2.5)
    streams = {"stdin": terminal.streams["stdin"], "stdout": terminal.streams["stdout"]}
    guard = guards.start(spec, SPEAKS, prefix=terminal.launcher.prefix(), **streams)
    ended = guard.wait()
    assert (ended.code, ended.stderr.count("\n")) == (110, 1)
    assert f"process {other.pid} (" in ended.stderr
    terminal.type(b"x")  # the echo is the first that is seen
    screen.until(lambda lines: lines == ["x"], "nothing else is there")


def test_of_two_terminals_that_of_standard_error_has_the_line(
    guards: Guards, terminal: Terminal, disk: str, other: Locker
) -> None:
    with Terminal() as second:
        screen, errors = Screen(terminal, WIDE), Screen(second, WIDE)
        spec = guards.spec(disk, wait_s=float("inf"))
        streams = {**terminal.streams, "stderr": second.streams["stderr"]}
        guards.start(spec, SPEAKS, prefix=terminal.launcher.prefix(), **streams)
        errors.until(lambda lines: seconds(lines) >= 1, "the line is there")
        other.end()
        errors.until(lambda lines: lines == [], "the line is gone")
        screen.until(lambda lines: lines == ["first"], "the guest has its terminal to itself")
        assert set(screen.seen) <= {"first"}


def test_a_terminal_that_is_stopped_holds_nothing_up(
    guards: Guards, terminal: Terminal, disk: str, other: Locker, tmp_path: Path
) -> None:
    screen = Screen(terminal, WIDE)
    started = tmp_path / "started"
    guard = waits(guards, terminal, disk, ("/bin/sh", "-c", f"echo $$ >{started}; printf first"))
    screen.until(lambda lines: seconds(lines) >= 1, "the line is there")
    terminal.type(CONTROL_S)
    other.end()
    guard.ready()
    waiting.until(lambda: started.exists() and started.read_text(), DEADLINE_S, "the guest runs")
    terminal.type(CONTROL_Q)
    screen.until(lambda lines: "".join(lines).startswith("first"), "and speaks when it may")
    assert guard.wait().code == 0


def test_an_inquiry_that_hangs_holds_nothing_up(
    guards: Guards, terminal: Terminal, disk: str, other: Locker, gate: Gate
) -> None:
    screen = Screen(terminal, WIDE)
    gate.shut("inquire")
    fields: dict[str, Any] = {**gate.fields, "plugin": "gate+file"}
    guard = waits(guards, terminal, disk, **fields)
    gate.wait("inquire")
    other.end()
    screen.until(lambda lines: lines == ["first"], "the guest speaks")
    assert guard.wait().code == 0
    assert set(screen.seen) <= {"first"}


def test_a_background_job_draws_nothing_and_is_not_stopped(
    guards: Guards, terminal: Terminal, disk: str, other: Locker, tmp_path: Path
) -> None:
    screen = Screen(terminal, WIDE)
    marker = tmp_path / "marker"
    spec = guards.spec(disk, wait_s=float("inf"))
    argv = shlex.join([*render(spec), "/bin/sh", "-c", f"echo $PPID >{marker}"])
    env = {**os.environ, "PS1": "", "TERM": "dumb", "HISTFILE": ""}
    shell = subprocess.Popen(
        [*terminal.launcher.prefix(), "/bin/bash", "--norc", "--noediting", "-i"],
        env=env, **terminal.streams,
    )  # fmt: skip
    try:
        terminal.type(b"stty -echo tostop" + ENTER)
        waiting.until(lambda: b"tostop" in stty(terminal), DEADLINE_S, "the shell listens")
        terminal.type(argv.encode() + b" &" + ENTER)
        until_waited_for(disk)
        pid = guard_pid(spec.runtime_dir, spec.uuid)
        waiting.until(lambda: draws(pid), DEADLINE_S, "the line would be drawn")
        terminal.type(b"sleep 1.5; echo hel''lo" + ENTER)  # longer than from line to line
        screen.until(lambda lines: lines[-1:] == ["hello"], "the shell goes on")
        assert insight.status(pid)["State"] != "T (stopped)"
        assert not [line for line in screen.seen if "waiting" in line]
        terminal.type(b"fg" + ENTER)
        screen.until(lambda lines: seconds(lines[-1:]) >= 1, "in the foreground it is drawn")
        terminal.type(CONTROL_Z)
        screen.until(lambda lines: "Stopped" in "".join(lines[-2:]), "it is stopped")
        terminal.type(b"bg" + ENTER)
        other.end()
        waiting.until(marker.exists, DEADLINE_S, "the guest runs in the background")
    finally:
        shell.kill()
        shell.wait()


def stty(terminal: Terminal) -> bytes:
    shown = subprocess.run(
        ["stty", "-a"], stdin=terminal.streams["stdin"], capture_output=True, check=True, timeout=20
    )
    return b"tostop" if b" tostop" in shown.stdout else b""


def guard_pid(runtime_dir: str, uuid: str) -> int:
    with open(f"{runtime_dir}/{uuid}/supervisor.pid", encoding="ascii") as file:
        return int(file.read())


def draws(pid: int) -> bool:
    """Has the guard opened the terminal once more?"""
    return sum(link.startswith("/dev/pts/") for link in insight.links(pid).values()) == 4
