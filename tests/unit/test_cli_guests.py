"""Do the guests' commands ask the right thing, and show what was answered, or that nothing was?"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from supervisor import client, rundir
from supervisor.cli import main
from tests.support.scripted import Connection, Control, Directory, answering, child_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Command = dict[str, object]

Captured = pytest.CaptureFixture[bytes]

FIRST = "5f2c1d3e-0000-4000-8000-00000000000a"
SECOND = "5f2c1d3e-0000-4000-8000-00000000000b"
LEASE = {
    "resource": "/images/a\nb\udcff.raw",
    "type": "disk",
    "mode": "exclusive",
    "lockspace": "direct",
    "lease": "/images/a",
    "generation": None,
    "state": "held",
}
STATUS = {
    "uuid": FIRST,
    "name": "web1",
    "id": None,
    "state": "running",
    "supervisor_pid": 11,
    "child_pid": 12,
    "plugin": "file",
    "containment": "pdeathsig",
    "guarantee": "while it runs",
    "since": "2026-01-02T03:04:05Z",
    "leases": [LEASE, LEASE],
    "deadline_s": 7.5,
    "unleased": ["/images/c.raw"],
    "parked": None,
}
LISTED = set(STATUS) - {"deadline_s", "unleased", "parked"}


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("LOCK_SUPERVISOR_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(client, "ANSWER_S", 0.05)
    return str(tmp_path)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        yield process
        process.kill()


def tells(connection: Connection, command: Command) -> None:
    if command["execute"] == "query-child":
        connection.answer(command, {"pid": 12, "start_time": 1, "boot_id": ""})
    else:
        connection.answer(command, STATUS)


def says_nothing(_connection: Connection, _command: Command) -> None:
    pass


def run(capsysbinary: Captured, *args: str) -> str:
    assert main.execute(args) == 0
    return capsysbinary.readouterr().out.decode("utf-8", "surrogateescape")


def test_child_prints_the_pid_alone(base: str, capsysbinary: Captured) -> None:
    with Directory(base) as made, Control(made.path, answering(tells)):
        assert run(capsysbinary, "child", "web1") == "12\n"
        assert run(capsysbinary, "child", FIRST[:4], "--runtime-dir", base) == "12\n"


def test_child_of_a_guest_that_is_acquiring_cannot_be_told(
    base: str, capsysbinary: Captured
) -> None:
    with Directory(base):
        assert main.execute(["child", "web1"]) == 111
        assert b"still being acquired" in capsysbinary.readouterr().err


def test_list_counts_leases_and_status_shows_them(base: str, capsysbinary: Captured) -> None:
    with Directory(base) as made, Control(made.path, answering(tells)):
        assert json.loads(run(capsysbinary, "status", "web1", "--json")) == STATUS
        (listed,) = json.loads(run(capsysbinary, "list", "--json"))
        assert set(listed) == LISTED
        assert listed == {**{key: STATUS[key] for key in LISTED}, "leases": 2}


def test_json_is_one_line_of_ascii(base: str, capsysbinary: Captured) -> None:
    with Directory(base) as made, Control(made.path, answering(tells)):
        for args in (["status", "web1", "--json"], ["list", "--json"]):
            text = run(capsysbinary, *args)
            assert text.isascii()
            assert text.count("\n") == 1
    assert run(capsysbinary, "list", "--json") == "[]\n"


def test_a_person_sees_aligned_columns_and_no_control_characters(
    base: str, capsysbinary: Captured
) -> None:
    with Directory(base) as made, Control(made.path, answering(tells)):
        heading, row = run(capsysbinary, "list").splitlines()
        assert heading.index("STATE") == row.index("running")
        assert heading.index("SINCE") == row.index("2026-")
        shown = run(capsysbinary, "status", "web1")
    assert "/images/a\\x0ab\udcff.raw" in shown
    assert "unleased:" in shown
    assert "\n\nRESOURCE" in shown
    fields = shown.partition("\n\n")[0].splitlines()
    assert len({line.index(line.split(":", 1)[1].strip()) for line in fields}) == 1


def test_a_guard_that_says_nothing_is_unknown_and_vouches_for_nothing(
    base: str, capsysbinary: Captured
) -> None:
    fields: dict[str, object] = {"child_pid": 12, "leases": [LEASE]}
    with Directory(base, fields) as made, Control(made.path, answering(says_nothing)):
        status = json.loads(run(capsysbinary, "status", "web1", "--json"))
        (listed,) = json.loads(run(capsysbinary, "list", "--json"))
        assert "web1" in run(capsysbinary, "list")
    assert set(status) == set(STATUS)
    assert (status["state"], status["child_pid"], status["name"]) == ("unknown", 12, "web1")
    assert status["leases"] == [{**LEASE, "state": "unknown"}]
    assert status["guarantee"].startswith("unknown:")
    assert set(listed) == LISTED
    assert (listed["state"], listed["leases"]) == ("unknown", 1)


def test_a_guard_without_a_control_pipe_is_acquiring(base: str, capsysbinary: Captured) -> None:
    with Directory(base) as made:
        status = json.loads(run(capsysbinary, "status", "web1", "--json"))
        assert (status["state"], status["child_pid"], status["leases"]) == ("acquiring", None, [])
        os.unlink(made.file(rundir.GUEST_JSON))
        (listed,) = json.loads(run(capsysbinary, "list", "--json"))
        assert (listed["uuid"], listed["name"], listed["state"]) == (FIRST, "", "acquiring")
        assert FIRST in run(capsysbinary, "list")


def test_a_living_guest_of_a_dead_guard_is_unknown(
    base: str, capsysbinary: Captured, sleeper: subprocess.Popen[bytes]
) -> None:
    with Directory(base, child_of(sleeper.pid)) as made:
        made.die()
        status = json.loads(run(capsysbinary, "status", "web1", "--json"))
        assert (status["state"], status["child_pid"]) == ("unknown", sleeper.pid)
        assert "supervisor is dead" in status["guarantee"]


def test_a_guest_that_ends_while_it_is_asked_is_no_guest(base: str, capsysbinary: Captured) -> None:
    with Directory(base) as made:

        def dies(_connection: Connection, _command: Command) -> None:
            made.die()

        with Control(made.path, answering(dies)):
            assert main.execute(["status", "web1", "--json"]) == 1
    with Directory(base) as made, Control(made.path, answering(dies)):
        assert run(capsysbinary, "list", "--json") == "[]\n"


def test_many_silent_guards_cost_no_more_than_one(base: str, capsysbinary: Captured) -> None:
    with (
        Directory(base, {"uuid": FIRST}) as first,
        Directory(base, {"uuid": SECOND}) as second,
        Control(first.path, answering(says_nothing)),
        Control(second.path, answering(tells)),
    ):
        listed = json.loads(run(capsysbinary, "list", "--json"))
    assert [guest["state"] for guest in listed] == ["unknown", "running"]


@pytest.mark.parametrize(
    ("args", "wire"),
    [
        (["attach", "web1", "/a.raw"], ("acquire-resource", "/a.raw", "exclusive", None)),
        (["attach", "web1", "/a.raw,shared"], ("acquire-resource", "/a.raw", "shared", None)),
        (["attach", "web1", "/a.raw,readonly"], ("acquire-resource", "/a.raw", "shared", None)),
        (["attach", "web1", "a,b,id=x"], ("acquire-resource", "HERE/a,b", "exclusive", "x")),
        (["detach", "web1", "/a,shared"], ("release-resource", "/a,shared", None, None)),
        (["detach", "web1", "a"], ("release-resource", "HERE/a", None, None)),
        (["detach", "web1", "../a\udcff"], ("release-resource", "HERE/../a\udcff", None, None)),
    ],
)
def test_attach_and_detach_name_the_disk_absolutely(
    base: str,
    capsysbinary: Captured,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    wire: tuple[str, str, str | None, str | None],
) -> None:
    monkeypatch.chdir("/tmp")
    heard: list[Command] = []

    def hear(connection: Connection, command: Command) -> None:
        heard.append(command)
        connection.answer(command, {})

    with Directory(base) as made, Control(made.path, answering(hear)):
        assert run(capsysbinary, *args) == ""
    (command,) = heard
    asked = command["arguments"]
    assert isinstance(asked, dict)
    assert asked.pop("type") == "disk"
    assert (command["execute"], asked["path"], asked.get("mode"), asked.get("identity")) == (
        wire[0],
        wire[1].replace("HERE", "/tmp"),
        wire[2],
        wire[3],
    )


def test_what_the_guard_refuses_is_the_commands_exit_code(
    base: str, capsysbinary: Captured
) -> None:
    codes = iter([110, 1, 111])

    def refuse(connection: Connection, command: Command) -> None:
        fields = {"verb": "attach", "name": "a", "reason": "no", "exit_code": next(codes)}
        connection.say({"error": {"class": "X", "fields": fields}, "id": command["id"]})

    with Directory(base) as made, Control(made.path, answering(refuse)):
        for code, name in ((110, "attach"), (1, "detach"), (111, "attach")):
            assert main.execute([name, "web1", "/a"]) == code
            assert capsysbinary.readouterr().err == b"lock-supervisor: cannot attach a: no\n"


def test_attach_to_a_silent_guard_claims_nothing(
    base: str, capsysbinary: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.cli.disks.WITHIN_S", 0.05)
    with Directory(base) as made, Control(made.path, answering(says_nothing)):
        assert main.execute(["attach", "web1", "/a"]) == 111
    err = capsysbinary.readouterr().err
    assert err.startswith(b"lock-supervisor: cannot tell whether disk /a is leased: ")
