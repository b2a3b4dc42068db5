"""Does plan say what run does: which leases, from where, and whether it would be refused?"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.locking import READ, Locker, is_free
from tests.support.qemu import QEMU, idle_argv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guards

UUID = "5f2c1d3e-0000-4000-8000-00000000000a"
FIELDS = {"path", "mode", "found_in", "lockspace", "lease", "held_by"}


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk\n.raw"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def plan(command: Command, *words: str) -> Any:
    result = command("plan", "--json", *words)
    assert (result.code, result.err) == (0, ""), result
    assert result.out.isascii()
    answer = json.loads(result.out)
    assert set(answer) == {"guest", "plugin", "resources", "refusal"}
    assert all(set(row) == FIELDS for row in answer["resources"])
    return answer


def overlay(tmp_path: Path) -> tuple[str, str]:
    base, top = str(tmp_path / "base.qcow2"), str(tmp_path / "top.qcow2")
    for words in ((base, "1M"), ("-F", "qcow2", "-b", base, top)):
        create = ("qemu-img", "create", "-q", "-f", "qcow2")
        subprocess.run([*create, *words], check=True, timeout=60)
    return base, top


def test_what_is_planned_is_what_run_then_leases(
    command: Command, disk: str, tmp_path: Path
) -> None:
    base, top = overlay(tmp_path)
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "key").touch()
    config = tmp_path / "config.toml"
    config.write_text(f'[file]\nfile_lockspace_dir = "{tmp_path}/locks"\n')
    words = ["--config", str(config), "--uuid", UUID, "--disk", disk]
    words += ["--lease", f"space:key:{tmp_path}", "--", *idle_argv(top)]
    answer = plan(command, *words)
    assert answer["guest"] == {"name": os.path.basename(disk).replace("\n", "\\x0a"), "uuid": UUID}
    assert (answer["plugin"], answer["refusal"]) == ("file", None)
    assert not os.path.exists(tmp_path / "locks")
    found_in = {row["path"]: row["found_in"] for row in answer["resources"]}
    assert found_in == {
        disk: f"--disk {disk}",
        top: f"-drive file={top},format=qcow2,if=none,cache=unsafe,file.locking=off",
        base: f"backing file of {top}",
        str(tmp_path): f"--lease space:key:{tmp_path}",
    }
    command.guest(*words)
    leases = command.json("status", UUID)["leases"]
    planned = [(r["path"], r["mode"], r["lockspace"], r["lease"]) for r in answer["resources"]]
    assert planned == [(r["resource"], r["mode"], r["lockspace"], r["lease"]) for r in leases]
    again = plan(command, *words)
    assert {row["held_by"]["uuid"] for row in again["resources"]} == {UUID}
    assert again["refusal"] == f"a guest with uuid {UUID} runs in {tmp_path}/run"


@pytest.mark.parametrize(
    ("hold", "mode", "code"),
    [
        (None, "exclusive", 0),
        (None, "shared", 0),
        ("READ", "shared", 0),
        ("READ", "exclusive", 110),
        ("WRITE", "shared", 110),
        ("WRITE", "exclusive", 110),
    ],
)
def test_who_is_in_the_way_is_said_and_run_is_refused_alike(
    command: Command, disk: str, hold: str | None, mode: str, code: int
) -> None:
    words = ("--disk", f"{disk},{mode}", "--", "/bin/true")
    holder = Locker(disk, kind=READ if hold == "READ" else 1) if hold else None
    try:
        answer = plan(command, *words)
        assert command("run", *words).code == code
        told = command("plan", *words)
    finally:
        if holder:
            holder.end()
    (row,) = answer["resources"]
    assert row["mode"] == mode
    assert (answer["refusal"] is None) == (code == 0)
    last = told.out.splitlines()[-1]
    assert last.startswith(
        "run would be refused now: " if code else "run would get every lease now: "
    )
    if holder is None:
        assert row["held_by"] is None
        return
    description = row["held_by"]["description"]
    assert description.startswith(f"process {holder.pid} (python")
    assert code == 0 or description in answer["refusal"]


def test_a_missing_disk_is_planned_and_said_to_be_missing(command: Command, disk: str) -> None:
    words = ("--disk", f"{disk}.gone", "--", "/bin/true")
    answer = plan(command, *words)
    refused = command("run", *words)
    assert refused.code == 111
    assert refused.err == "lock-supervisor: " + answer["refusal"].replace("\n", "\\x0a") + "\n"
    (row,) = answer["resources"]
    assert (row["lockspace"], row["lease"]) == (None, None)
    held_by = row["held_by"]
    assert held_by.pop("description") == f"cannot tell: {answer['refusal']}"
    assert set(held_by.values()) == {None}


def test_what_run_cannot_understand_plan_refuses_in_the_same_words(
    command: Command, disk: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("plugin = 3\n")
    for words in (
        ("--", "/bin/true"),
        ("--plugin", "nonsense", "--disk", disk, "--", "/bin/true"),
        ("--disk", "", "--", "/bin/true"),
        ("--uuid", "nonsense", "--disk", disk, "--", "/bin/true"),
        ("--config", str(config), "--disk", disk, "--", "/bin/true"),
        ("--", QEMU, "-readconfig", "x"),
        ("--", QEMU, "-drive", "file=nbd://host/x"),
    ):
        planned, run = command("plan", *words), command("run", *words)
        assert (planned.code, planned.out) == (2, ""), (words, planned)
        assert (run.code, run.err) == (
            planned.code,
            planned.err.replace("plan --help", "run --help"),
        )


def test_a_person_sees_a_table_and_whether_run_would_start(
    command: Command, guards: Guards, disk: str
) -> None:
    guard = guards.run(disk, name="web1")
    lines = command("plan", "--name", "web2", "--", *idle_argv(disk)).out.splitlines()
    shown = disk.replace("\n", "\\x0a")
    first, heading, row, modes, last = lines
    assert first == "run would lease for guest web2:"
    assert heading.split() == ["DISK", "MODE", "FOUND", "IN", "LEASE", "HELD", "BY"]
    found_in = f"-drive file={shown},format=raw"
    assert row.startswith(f"{shown}  exclusive  {found_in[:40]}")
    assert "…  direct  guest web1 (" in row
    assert row.index("guest web1 (") == heading.index("HELD BY")
    assert modes.startswith("exclusive: ")
    holder = f"guest web1 ({guard.spec.uuid}), supervisor pid {guard.pid}"
    assert last.startswith(f"run would be refused now: disk {shown} is held by {holder}")


@pytest.mark.parametrize(
    "words", [["--no-discover", "--", "true"], ["--", QEMU, "-version"], ["--", QEMU, "-S"]]
)
def test_where_nothing_is_leased_nothing_is_planned(command: Command, words: list[str]) -> None:
    answer = plan(command, *words)
    assert (answer["resources"], answer["refusal"]) == ([], None)
    told = command("plan", *words).out.splitlines()
    assert told[0].endswith(": nothing")
    assert told[1:] == ["run would get every lease now: nobody is in the way"]


def test_a_plugin_that_holds_nothing_has_no_names_for_it(command: Command, disk: str) -> None:
    words = ("--plugin", "nop", "--disk", disk, "--", "true")
    (row,) = plan(command, *words)["resources"]
    assert (row["path"], row["lockspace"], row["lease"], row["held_by"]) == (disk, None, None, None)


def test_options_that_are_about_reporting_change_nothing(command: Command, disk: str) -> None:
    options = ["--ready-fd", "987", "--handshake-fd", "987", "--detach", "--wait", "inf"]
    answer = plan(command, *options, "--disk", disk, "--", "true")
    assert [row["path"] for row in answer["resources"]] == [disk]
    assert is_free(disk)
