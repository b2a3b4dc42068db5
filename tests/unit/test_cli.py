"""Does every way to end a command say so in one line, with its exit code?"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import click
import pytest

from lockplugins.contract import LeaseHeldError
from supervisor import __version__
from supervisor.cli import main
from tests.support.scripted import Directory

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = {
    "run", "child", "list", "status", "attach", "detach", "stop", "kill", "wait", "doctor",
    "plan", "who", "events", "migrate",
}  # fmt: skip

MIGRATING = {f"migrate {name}" for name in ("prepare", "complete-in", "complete-out")}

Captured = pytest.CaptureFixture[bytes]


@pytest.fixture(autouse=True)
def _runtime_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCK_SUPERVISOR_RUNTIME_DIR", str(tmp_path))


def test_the_commands_are_those_of_this_version() -> None:
    context = click.Context(main.commands)
    assert set(main.commands.list_commands(context)) == COMMANDS
    for name in COMMANDS:
        command = main.commands.get_command(context, name)
        assert command is not None
        assert command.name == name


def test_version_and_help_are_printed(capsysbinary: Captured) -> None:
    assert main.execute(["--version"]) == 0
    assert capsysbinary.readouterr().out == f"lock-supervisor {__version__}\n".encode()
    assert main.execute(["--help"]) == 0
    out = capsysbinary.readouterr().out.decode()
    assert all(f"  {name} " in out for name in COMMANDS)


def test_no_word_at_all_shows_the_help_and_is_no_success(capsysbinary: Captured) -> None:
    assert main.execute(["--help"]) == 0
    shown = capsysbinary.readouterr()
    assert main.execute([]) == 2
    assert capsysbinary.readouterr() == shown


@pytest.mark.parametrize("name", sorted(COMMANDS - {"migrate"} | MIGRATING))
def test_every_help_has_an_example_that_can_be_copied_and_is_understood(
    name: str, capsysbinary: Captured
) -> None:
    assert main.execute([*name.split(), "--help"]) == 0
    example = capsysbinary.readouterr().out.decode().partition("  Example: ")[2].partition("\n")[0]
    program, *args = shlex.split(example)
    assert (program, args[: len(name.split())]) == ("lock-supervisor", name.split())
    command: click.Command | None = main.commands
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), args.pop(0))
    assert command is not None
    with command.make_context(name, args) as understood:  # no more than that is done
        assert any(understood.params.values())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_says_what_it_is_for(name: str) -> None:
    command = main.commands.get_command(click.Context(main.commands), name)
    assert command is not None
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.opts for option in options if len(option.help or "") < len("Print JSON.")] == []


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["nonsense"], "'nonsense'"),
        (["plan"], "COMMAND"),
        (["plan", "--wait", "soon", "x"], "soon is not a number of seconds"),
        (["who"], "DISK"),
        (["who", ""], "the path is empty"),
        (["events"], "GUEST"),
        (["--nonsense"], "--nonsense"),
        (["child"], "GUEST"),
        (["child", "a", "b"], "b"),
        (["status", "a", "--jsn"], "--jsn"),
        (["stop", "a", "--timeout", "soon"], "soon is not a number of seconds"),
        (["stop", "a", "--timeout", "-1"], "-1 is not a number of seconds"),
        (["stop", "a", "--timeout", "nan"], "nan is not a number of seconds"),
        (["list", "--runtime-dir", ""], "the path is empty"),
        (["run"], "COMMAND"),
        (["run", "--wait"], "--wait"),
        (["run", "--wait", "x", "y"], "x is not a number of seconds"),
        (["run", "--containment", "none", "x"], "none"),
        (["run", "--ready-fd", "-1", "x"], "-1"),
        (["run", "--incoming=x", "y"], "--incoming"),
        (["migrate", "prepare", "web1"], "--to"),
        (["migrate", "complete-in", "web1"], "--cookie"),
        (["migrate", "complete-in", "web1", "--cookie", "c", "--timeout", "soon"], "soon"),
        (["migrate", "sideways", "web1"], "sideways"),
        (["migrate"], "Missing command"),
        (["run", "--log", "", "x"], "the path is empty"),
        (["run", "--na\x1bme", "x"], "--na\\x1bme"),
    ],
)
def test_a_usage_error_is_one_line_that_names_the_word(
    args: list[str], named: str, capsysbinary: Captured
) -> None:
    assert main.execute(args) == 2
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert err.startswith(b"lock-supervisor: cannot ")
    assert err.count(b"\n") == 1
    assert named in err.decode()


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["run", "x"], 2),
        (["run", "--detach", "x"], 2),
        (["run", "--log", "f", "--no-discover", "x"], 2),
        (["run", "--detach", "--log", "/missing/f", "--no-discover", "x"], 111),
        (["run", "--detach", "--handshake-fd", "0", "--no-discover", "x"], 2),
        (["run", "--detach", "--ready-fd", "987654", "--no-discover", "x"], 2),
        (["run", "--detach", "--ready-fd", "98765432109", "--no-discover", "x"], 2),
        (["run", "--on-lockfailure", "pause", "--no-monitor", "--no-discover", "x"], 2),
        (["run", "--plugin", "nonsense", "--no-discover", "x"], 2),
        (["run", "--config", "/missing.toml", "x"], 2),
        (["run", "qemu-kvm", "-readconfig", "x"], 2),
        (["child", "web1"], 1),
        (["status", "web1"], 1),
        (["stop", "web1"], 1),
        (["kill", "web1"], 1),
        (["wait", "web1"], 1),
        (["events", "web1"], 1),
        (["plan", "x"], 2),
        (["plan", "--plugin", "nonsense", "--no-discover", "x"], 2),
        (["plan", "qemu-kvm", "-readconfig", "x"], 2),
        (["who", "--plugin", "nonsense", "x"], 2),
        (["who", "/missing"], 111),
        (["who", "/"], 111),
        (["attach", "web1", "/a"], 1),
        (["detach", "web1", "/a"], 1),
    ],
)
def test_an_error_of_ours_is_one_line_with_its_exit_code(
    args: list[str], code: int, capsysbinary: Captured
) -> None:
    assert main.execute(args) == code
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert err.startswith(b"lock-supervisor: cannot ")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (LeaseHeldError("acquire", "a\nb", "held"), 110, "cannot acquire a\\x0ab: held"),
        (KeyboardInterrupt(), 130, None),
        (BrokenPipeError(), 141, None),
        (KeyError("x\ny"), 125, "cannot go on: our own fault: KeyError('x\\ny')"),
    ],
)
def test_whatever_a_command_raises_becomes_an_exit_code(
    raised: BaseException,
    code: int,
    line: str | None,
    capsysbinary: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_base: str, _text: str) -> None:
        raise raised

    monkeypatch.setattr("supervisor.finding.resolve", fail)
    assert main.execute(["child", "web1"]) == code
    err = capsysbinary.readouterr().err.decode()
    assert err.startswith(f"lock-supervisor: {line}") if line else err == ""
    assert err.count("\n") == (line is not None)


def test_names_that_are_not_utf8_are_shown_as_the_bytes_they_are(capsysbinary: Captured) -> None:
    assert main.execute(["child", os.fsdecode(b"\xff\n")]) == 1
    assert b"guest \xff\\x0a:" in capsysbinary.readouterr().err
    assert main.execute(["child", "\ud800"]) == 1  # stands for no byte
    assert b"guest \\ud800:" in capsysbinary.readouterr().err


@pytest.mark.parametrize(
    ("options", "start"),
    [
        (["--plugin", "nonsense", "--no-discover"], b"ERROR 2 cannot use plugin nonsense: "),
        (["--containment", "nonsense"], b"ERROR 2 cannot understand the command line: "),
        ([], b"ERROR 2 cannot find the disks of x: "),
    ],
)
@pytest.mark.usefixtures("capsysbinary")
def test_a_front_door_that_fails_tells_ready_fd(options: list[str], start: bytes) -> None:
    read_fd, write_fd = os.pipe()
    main.execute(["run", *options, "--ready-fd", str(write_fd), "x"])
    os.close(write_fd)
    with open(read_fd, "rb") as file:
        told = file.read()
    assert told.startswith(start)
    assert told.count(b"\n") == 1
    assert told.endswith(b"\n")


@pytest.mark.usefixtures("capsysbinary")
def test_a_ready_fd_that_is_not_open_changes_no_exit_code() -> None:
    assert main.execute(["run", "--ready-fd", "987654", "x"]) == 2


def test_closed_standard_descriptors_are_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Directory(str(tmp_path)):
        monkeypatch.setattr("sys.stderr", None)
        assert main.execute(["child", "nobody"]) == 1
        monkeypatch.setattr("sys.stdout", None)
        assert main.execute(["list"]) == 111


def test_help_says_of_each_command_in_one_whole_line_what_it_does(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert main.execute(["--help"]) == 0
    listed = capsysbinary.readouterr().out.decode().partition("Start a guest:\n")[2]
    lines = [line.split() for line in listed.splitlines() if line.startswith("  ")]
    assert sorted(words[0] for words in lines) == sorted(COMMANDS)
    assert "..." not in listed
