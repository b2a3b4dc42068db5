"""Does events tell what happens to a guest, from its acquiring to its end, as a pipe expects?"""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import waiting
from tests.support.locking import Locker, is_free, until_waited_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Command, Started
    from tests.support.guard import Guards


@pytest.fixture
def disks(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in ("a.raw", "b\n\udcff.raw")]
    for path in paths:
        path.touch()
    return [str(path) for path in paths]


def next_event(follower: Started) -> dict[str, Any]:
    """Return what it prints next, while it runs."""
    assert follower.process.stdout is not None
    waiting.readable(follower.process.stdout.fileno(), 30, "an event is printed")
    line = follower.process.stdout.readline()
    assert line.isascii()
    event: dict[str, Any] = json.loads(line)
    assert set(event) == {"event", "data", "timestamp"}
    return event


def until_it_follows(command: Command, follower: Started) -> None:
    """Return when its connection is served: later clients are served later."""
    waiting.until(lambda: follower.has_open("socket:"), 30, "it has connected")
    assert command.json("status", "web1")["state"] == "running"


def test_every_event_is_a_line_at_once_until_the_guest_is_gone(
    guards: Guards, command: Command, disks: list[str]
) -> None:
    guards.run(disks[0], name="web1")
    follower = command.start("events", "web1")
    until_it_follows(command, follower)
    assert command("attach", "web1", disks[1]).code == 0
    acquired = next_event(follower)
    assert (acquired["event"], acquired["data"]["resource"]) == ("RESOURCE_ACQUIRED", disks[1])
    assert command("detach", "web1", disks[1]).code == 0
    assert next_event(follower)["event"] == "RESOURCE_RELEASED"
    assert command("stop", "web1", "--timeout", "30").code == 0
    assert is_free(disks[0])
    result = follower.end()
    (exited,) = (json.loads(line) for line in result.out.splitlines())
    assert (exited["event"], exited["data"]) == ("GUEST_EXITED", {"status": 128 + signal.SIGTERM})
    assert (result.code, result.err) == (0, "")
    assert os.listdir(guards.runtime_dir) == []


def test_begun_while_leases_are_acquired_it_hears_of_the_end(
    guards: Guards, command: Command, disks: list[str], tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Locker(disks[0]):
        guard = guards.start(
            guards.spec(disks[0], name="web1", wait_s=float("inf")),
            ("/bin/sh", "-c", f"read _ <{fifo}; exit 7"),
        )
        until_waited_for(disks[0])
        follower = command.start("events", "web1")
        waiting.until(lambda: follower.has_open("anon_inode:[pidfd]"), 30, "it watches the guard")
    guard.ready()
    until_it_follows(command, follower)
    fifo.write_text("\n")
    assert next_event(follower)["data"] == {"status": 7}
    assert follower.end().code == 0


@pytest.mark.parametrize("whom", ["pid", "child_pid"])
def test_a_death_by_sigkill_ends_it_with_0(
    guards: Guards, command: Command, disks: list[str], whom: str
) -> None:
    guard = guards.run(disks[0], name="web1")
    follower = command.start("events", "web1")
    until_it_follows(command, follower)
    os.kill(getattr(guard, whom), signal.SIGKILL)
    result = follower.end()
    assert is_free(disks[0])
    assert (result.code, result.err) == (0, "")
    told = re.findall(r'"event": "(\w+)"', result.out)
    assert told == ([] if whom == "pid" else ["GUEST_EXITED"])


def test_interrupted_it_says_130_and_the_guest_goes_on(guards: Guards, command: Command) -> None:
    guards.run(plugin="nop", name="web1")
    follower = command.start("events", "web1")
    until_it_follows(command, follower)
    follower.process.send_signal(signal.SIGINT)
    result = follower.end()
    assert (result.code, result.out, result.err) == (130, "", "")
    assert command.json("status", "web1")["state"] == "running"


def test_a_reader_that_has_enough_ends_it_quietly_and_at_once(
    guards: Guards, command: Command, disks: list[str]
) -> None:
    guards.run(disks[0], name="web1")
    follower = command.start("events", "web1")
    until_it_follows(command, follower)
    command("attach", "web1", disks[1])
    next_event(follower)
    assert follower.process.stdout is not None
    follower.process.stdout.close()
    assert follower.process.wait(30) == 128 + signal.SIGPIPE
    assert follower.process.stderr is not None
    assert follower.process.stderr.read() == ""
    assert command.json("status", "web1")["state"] == "running"


def test_no_such_guest_is_1(command: Command) -> None:
    result = command("events", "web1")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
