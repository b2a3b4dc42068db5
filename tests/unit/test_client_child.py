"""Whose pid does GetChild believe when the guard is silent?"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LockError
from supervisor import client, records, rundir
from tests.support.scripted import Connection, Control, Directory, answering, child_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Command = dict[str, object]

SOON_S = 0.05
PLENTY_S = 10.0


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    with Directory(str(tmp_path)) as made:
        yield made


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        yield process
        process.kill()


def test_get_child_believes_the_files_of_a_silent_guard(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    def reply(_connection: Connection, _command: Command) -> None:
        pass

    fields = child_of(sleeper.pid)
    with Directory(str(tmp_path), fields) as silent, Control(silent.path, answering(reply)):
        child = client.get_child(silent.path, pidfd=True, answer_s=SOON_S)
    assert (child.pid, child.start_time) == (sleeper.pid, fields["child_start_time"])
    assert child.pidfd is not None
    assert not client.is_readable(child.pidfd, 0)
    os.close(child.pidfd)


def test_get_child_does_not_override_what_the_guard_says(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    wire = {"class": "WrongState", "fields": {"verb": "tell", "name": "x", "reason": "no"}}

    def reply(connection: Connection, command: Command) -> None:
        connection.say({"error": wire, "id": command["id"]})

    with (
        Directory(str(tmp_path), child_of(sleeper.pid)) as made,
        Control(made.path, answering(reply)),
        pytest.raises(LockError, match="cannot tell x"),
    ):
        client.get_child(made.path)


def test_the_files_are_not_believed_when_anything_disagrees(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    fields = child_of(sleeper.pid)
    started = rundir.start_time(sleeper.pid)
    assert started is not None
    lies: list[dict[str, object]] = [
        {"child_start_time": started + 1},  # the pid was used again
        {"boot_id": "00000000-0000-0000-0000-000000000000"},  # so was the machine
        child_of(os.getpid()),  # child.pid says another one
    ]
    for number, lie in enumerate(lies):
        with Directory(str(tmp_path / str(number)), fields) as made:
            believed = client.recorded_child(made.path)
            assert believed is not None
            assert believed.pidfd is not None
            os.close(believed.pidfd)
            guest = records.read_guest(made.path)
            assert guest is not None
            made.write({**guest, **lie})
            assert client.recorded_child(made.path) is None
    with Directory(str(tmp_path / "unguarded"), fields, guarded=False) as made:
        assert client.recorded_child(made.path) is None


def test_a_child_that_has_ended_is_not_believed(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    with Directory(str(tmp_path), child_of(sleeper.pid)) as made:
        sleeper.kill()
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # a zombie that nobody reaps
        assert client.recorded_child(made.path) is None
        sleeper.wait()
        assert client.recorded_child(made.path) is None
