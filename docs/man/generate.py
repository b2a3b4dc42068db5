"""What does the manual page say? Prints it: `.venv/bin/python -m docs.man.generate`.

Commands, options and examples are read off the command line's own tree, exit
codes from the README's table (which is tested against the code). Only what
neither knows is written here. A test compares the page beside this file.

Ours, not click-man: that one finds no command of a group that loads them late
(it reads `Group.commands`), escapes neither a leading dot nor a backslash, and
has no place for exit codes, files and environment.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap

import click

from supervisor import __version__, config
from supervisor.cli import main
from supervisor.cli.render import NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = os.path.join(os.path.dirname(__file__), "lock-supervisor.1")
README = os.path.join(os.path.dirname(__file__), "../../README.md")
DATE = "2026-11-26"  # of what is written below
_EXAMPLE = "Example: "

_DESCRIPTION = """\
Put in front of a QEMU command line, {name} acquires the lease of every disk of the guest, \
execs QEMU as its child and holds the leases for as long as QEMU lives. The disks are found in \
QEMU's own arguments, backing files included: what the guest writes is leased exclusively, what \
it only reads is shared. A second guest on one of these disks, started here or, where it is \
configured alike, by libvirt with virtlockd, is refused, and told who has it.

A guest runs only while every lease on its disks is held. The kernel ends the guest when its \
supervisor dies, and no lease is free before the guest is dead.

A prefix is transparent: QEMU gets its arguments, environment, working directory, descriptors, \
limits, terminal and exit status as if it had been started directly.

GUEST is a uuid, a name, or the unambiguous beginning (4 characters or more) of a uuid. \
--json prints one JSON value and nothing else. An error is one line on standard error."""

_ENVIRONMENT = {
    config.FILE_VARIABLE: "The configuration file, unless --config names one.",
    config.RUNTIME_DIR_VARIABLE: "The runtime directory, unless --runtime-dir names one.",
    "XDG_RUNTIME_DIR": "For other users than root: the runtime directory is lock-supervisor in it.",
    "NOTIFY_SOCKET": "Told READY=1 and MAINPID when the guest runs (systemd's Type=notify).",
}

_FILES = {
    config.DEFAULT_FILE: "The configuration, in TOML; it need not exist.",
    "/etc/lock-supervisor/NAME.conf": "What lock-supervisor@NAME.service runs.",
    "/run/lock-supervisor/UUID/": "A guest's runtime directory (of root's guests): child.pid and "
    "supervisor.pid hold a number and a newline, control is a Unix socket that speaks QMP's "
    "wire format.",
    "/var/log/lock-supervisor/NAME.log": "What run --detach appends to (for root's guests).",
}

_SEE_ALSO = "qemu-system-x86_64(1), qemu-img(1), virtlockd(8), systemd.service(5)"


def page() -> str:
    """Return the manual page in man(7)'s macros."""
    commands = list(_commands(click.Context(main.commands, info_name=NAME)))
    shared = set.intersection(*(set(_options(command).items()) for command in commands))
    described = {term for term, _ in shared}
    summary = (main.commands.help or "").partition("\n")[0].rstrip(".")
    lines = [
        f'.TH {NAME.upper()} 1 {DATE} "{NAME} {__version__}" "User Commands"',
        ".nh\n.nr HY 0\n.ad l",  # no hyphens: paths and commands are to be copied
        *(".SH NAME", f"{_roff(NAME)} \\- {_roff(summary[0].lower() + summary[1:])}"),
        *(".SH SYNOPSIS", ".nf", *(_synopsis(command) for command in commands), ".fi"),
        *(".SH DESCRIPTION", *_paragraphs(_DESCRIPTION.format(name=NAME))),
        ".SH COMMANDS",
    ]
    for command in commands:
        lines += _about(command, described, commands[0])
    return "\n".join(
        [
            *lines,
            *(".SH OPTIONS OF EVERY COMMAND", *_terms(dict(sorted(shared)))),
            *(".SH EXIT STATUS", *_exit_status()),
            *(".SH ENVIRONMENT", *_terms(_ENVIRONMENT)),
            *(".SH FILES", *_terms(_FILES)),
            *(".SH SEE ALSO", *_paragraphs(_SEE_ALSO), ""),
        ]
    )


def _commands(context: click.Context) -> Iterator[click.Context]:
    """Yield a context for each command below, those of groups included."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(inner)
        elif not command.hidden:
            yield inner


def _arguments(context: click.Context) -> str:
    return " ".join(context.command.collect_usage_pieces(context))


def _synopsis(context: click.Context) -> str:
    return f"\\fB{_roff(context.command_path)}\\fR {_roff(_arguments(context))}"


def _options(context: click.Context) -> dict[str, str]:
    """Return what each option of a command does."""
    options = {}
    for parameter in context.command.params:
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            options[record[0]] = parameter.help or ""
    return options


def _about(context: click.Context, left_out: set[str], first: click.Context) -> list[str]:
    """Return what one command does, its options and its example.

    The options of `first` are described there: whoever has them all says so.
    """
    name = context.command_path.removeprefix(f"{NAME} ")
    text, _, example = (context.command.help or "").partition(_EXAMPLE)
    options, firsts = _options(context), _options(first)
    if context is not first and firsts.items() <= options.items():
        left_out = left_out | firsts.keys()
        text += f"\n\nEvery option of {first.info_name}, above, and:"
    return [
        f'.SS "{_roff(name)} {_roff(_arguments(context))}"',
        *_paragraphs(text),
        *_terms({term: said for term, said in options.items() if term not in left_out}),
        *(".PP", "Example:", ".PP", ".RS", ".EX", _roff(" ".join(example.split())), ".EE", ".RE"),
    ]


def _exit_status() -> list[str]:
    """Return the README's table, and its words about the other commands."""
    with open(README, encoding="utf-8") as file:
        section = file.read().split("### Exit codes of `run`")[1].split("\n#")[0]
    rows = re.findall(r"^\| ([^|-]+) \|[^|]*\| ([^|]+) \|$", section, re.MULTILINE)
    codes = {code: meaning[0].upper() + meaning[1:] + "." for code, meaning in rows[1:]}
    rest = section.rpartition("|\n")[2].strip()
    return [*_paragraphs("Of lock-supervisor run:"), *_terms(codes), ".PP", *_paragraphs(rest)]


def _terms(described: dict[str, str]) -> list[str]:
    lines: list[str] = []
    for term, text in described.items():
        lines += [".TP", f"\\fB{_roff(term)}\\fR", *_paragraphs(text)]
    return lines


def _paragraphs(text: str) -> list[str]:
    """Return `text` in lines, with a .PP between paragraphs."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines += [".PP"] if lines else []
        words = " ".join(paragraph.split())
        # Not at a hyphen: a path that begins a line anew has lost its meaning.
        lines += [_roff(line) for line in textwrap.wrap(words, 72, break_on_hyphens=False)]
    return lines


def _roff(text: str) -> str:
    """Return `text` so that roff prints it as it is; a `-` is one that can be copied."""
    safe = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("`", "")
    safe = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in safe)
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe


if __name__ == "__main__":
    sys.stdout.write(page())
