"""Does the documentation's example of a management daemon do what it says, killed at any line?

Run as a stranger would, on a guest that writes. To be killed, it kills itself before a given line.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from supervisor import client
from supervisor.client import NoAnswerError
from tests.support import proclocks, waiting
from tests.support.daemon import Daemon, new_disk
from tests.support.guest.checker import check, describe
from tests.support.qemu import guest_argv, wait_ready
from tests.support.sources import CHECKOUT, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow  # each boots guests

PATH = "docs/example-daemon.py"
DEADLINE_S = 60.0
UUID = "5f2c1d3e-0000-4000-8000-00000000001e"
HOSTS = ("here", "there")
HELD = [("WRITE", 0, "0")]
# Runs the example; before line N it is killed.
_KILLED = """
import os, runpy, signal, sys
path, line = sys.argv[1], int(sys.argv.pop(2))
def trace(frame, event, arg):
    if frame.f_code.co_filename == path:
        if event == "line" and frame.f_lineno == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
sys.settrace(trace)
del sys.argv[0]
runpy.run_path(path, run_name="__main__")
"""


class Example:
    """The daemon, whose directory and guest stay while its processes come and go."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.disk = new_disk(directory / "vda")
        fifo = str(directory / "serial")
        os.mkfifo(fifo)
        self._serial = os.fdopen(os.open(fifo, os.O_RDWR), "rb", 0)
        argv = guest_argv(self.disk, guest="web", serial=f"file:{fifo}")
        (directory / f"{UUID}.json").write_text(json.dumps({"name": "web1", "argv": argv}))
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, killed_before: int = 0) -> list[str]:
        """Kill the daemon and start it again, to be killed or not; returns where its guests are."""
        self.kill()
        path = os.path.join(CHECKOUT, PATH)
        how = ["-c", _KILLED, path, str(killed_before)] if killed_before else [path]
        self._process = subprocess.Popen(
            [sys.executable, *how, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": CHECKOUT},
            bufsize=0,
        )
        return self._until_ready()

    def _until_ready(self) -> list[str]:
        said = []
        while (line := self._line()) != "ready":
            said.append(line)
        return said

    def ask(self, *words: str) -> str:
        """Send a command; returns its answer, empty if the daemon is killed."""
        self._say(*words)
        return self._line()

    def restart(self) -> list[str]:
        """Have it put another process in its place."""
        self._say("restart")
        return self._until_ready()

    def _say(self, *words: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{' '.join(words)}\n".encode())

    def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        waiting.readable(self._process.stdout.fileno(), DEADLINE_S, "the daemon answers")
        return self._process.stdout.readline().decode().rstrip("\n")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=DEADLINE_S)

    def is_killed(self) -> bool:
        assert self._process is not None
        return self._process.wait(DEADLINE_S) == -signal.SIGKILL

    def until_ready(self) -> None:
        """Wait until the guest writes to one disk more."""
        wait_ready(self._serial, 1, DEADLINE_S)

    def until_written(self) -> None:
        before = self._newest()
        waiting.until(lambda: self._newest() > before, DEADLINE_S, "the guest writes")

    def _newest(self) -> int:
        return max((boot.last for boot in check(self.disk).boots), default=0)

    def states(self) -> list[str]:
        """Return the guest's state on each host, as its supervisor says."""
        return [self._state(host) for host in HOSTS]

    def _state(self, host: str) -> str:
        try:
            return client.get_child(f"{self.directory}/{host}/{UUID}").state
        except NoAnswerError:
            return "gone"

    def pid(self, host: str) -> int:
        return client.get_child(f"{self.directory}/{host}/{UUID}").pid

    def judge(self, *disks: str) -> None:
        """See that one guest wrote, all the time, and nothing that it wrote is lost."""
        for disk in (self.disk, *disks):
            report = check(disk)
            assert report.clean, describe(report)
            assert len(report.boots) == 1

    def close(self) -> None:
        self.kill()
        self._serial.close()
        for host in HOSTS:
            left = Daemon(self.directory)
            left.runtime_dir = str(self.directory / host)
            left.reap()


@pytest.fixture
def example(tmp_path: Path, require: Callable[[str], str]) -> Iterator[Example]:
    require("qemu-system-x86_64")
    made = Example(tmp_path)
    yield made
    made.close()


def line_of(text: str) -> int:
    """Return the number of the one line with this text."""
    (number,) = (n for n, line in enumerate(read(PATH).split("\n"), 1) if text in line)
    return number


def lines_of(function: str) -> list[int]:
    """Return the lines of a function at which a statement begins."""
    tree = ast.parse(read(PATH))
    (body,) = (x for x in tree.body if isinstance(x, ast.FunctionDef) and x.name == function)
    found = {x.lineno for x in ast.walk(body) if isinstance(x, ast.stmt) and x is not body}
    return sorted(found)


def test_it_does_what_it_says(example: Example, tmp_path: Path) -> None:
    assert example.begin() == []
    assert example.ask("start", UUID) == "ok done"
    example.until_ready()
    pid = example.pid("here")
    assert example.ask("start", UUID).startswith(f"failed cannot start guest {UUID}: ")

    hot = new_disk(tmp_path / "vdb")
    assert example.ask("plug", UUID, hot) == "ok done"
    example.until_ready()
    assert proclocks.below_qemus(hot) == HELD
    assert example.restart() == ["ok here"]
    assert example.pid("here") == pid
    assert example.ask("unplug", UUID, hot) == "ok done"
    assert proclocks.locks(hot) == []

    for states in (["gone", "running"], ["running", "gone"]):
        assert example.ask("migrate", UUID) == "ok done"
        assert example.states() == states
        example.until_written()
    assert example.ask("stop", UUID) == "ok done"
    assert proclocks.locks(example.disk) == []
    assert os.listdir(tmp_path / "guests") == []
    assert example.restart() == []
    example.judge(hot)


def test_killed_before_the_guest_runs_it_leaves_nothing_but_a_uuid(example: Example) -> None:
    example.begin(line_of("manager.run()"))
    assert example.ask("start", UUID) == ""
    assert example.is_killed()
    assert example.begin() == ["ok nowhere"]
    assert proclocks.locks(example.disk) == []
    assert example.ask("start", UUID) == "ok done"
    example.until_ready()
    assert example.begin() == ["ok here"]
    assert example.ask("stop", UUID) == "ok done"
    example.judge()


def test_killed_while_it_plugs_it_can_still_unplug(example: Example, tmp_path: Path) -> None:
    example.begin()
    example.ask("start", UUID)
    example.until_ready()
    hot = new_disk(tmp_path / "vdb")
    for words in ('qemu("blockdev-add"', 'qemu("device_add"', "manager.release_resource("):
        assert example.begin(line_of(words)) == ["ok here"]
        command = "unplug" if "release" in words else "plug"
        if command == "unplug":
            assert example.ask("plug", UUID, hot) == "ok done"
            example.until_ready()
        assert example.ask(command, UUID, hot) == ""
        assert example.is_killed()
        assert proclocks.below_qemus(hot) == HELD
        assert example.begin() == ["ok here"]
        assert example.ask("unplug", UUID, hot) == "ok done"
        assert proclocks.locks(hot) == []
    assert example.ask("stop", UUID) == "ok done"
    example.judge(hot)


def test_killed_at_any_line_of_a_migration_the_guest_is_found_in_one_place(
    example: Example, rounds: Callable[[int, int], int]
) -> None:
    example.begin()
    example.ask("start", UUID)
    example.until_ready()
    lines = lines_of("migrate")
    assert len(lines) > 10
    told = ("qemu.wait_for(", "arrived(", "source.complete_migrate_out()")
    for line in lines if rounds(0, 1) else map(migrating_line, told):
        assert len(example.begin(line)) == 1
        assert example.ask("migrate", UUID) == ""
        assert example.is_killed()
        (where,) = example.begin()
        assert where.startswith("ok ")
        states = ["running" if where == f"ok {host}" else "gone" for host in HOSTS]
        assert example.states() == states
        waiting.until(
            lambda: proclocks.below_qemus(example.disk) == HELD, DEADLINE_S, "it alone has the disk"
        )
        example.until_written()
    assert example.ask("migrate", UUID) == "ok done"
    assert example.ask("stop", UUID) == "ok done"
    example.judge()


def migrating_line(text: str) -> int:
    """Return the line of `migrate` with this text."""
    (number,) = (n for n in lines_of("migrate") if text in read(PATH).split("\n")[n - 1])
    return number


def test_it_can_be_read_at_once() -> None:
    assert read(PATH).count("\n") <= 200
