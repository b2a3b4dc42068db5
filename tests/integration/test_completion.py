"""Does TAB do in bash, zsh and fish what a person expects? Real shells on real ptys."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from supervisor.cli import completion
from tests.support.command import PROGRAM
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guards

    Complete = Callable[[str], str]

pytestmark = pytest.mark.slow

SHOW = b"\x07"  # ^G, told to print the line as it is
TAB = b"\t"
PROMPT = "ready>"
UUID = "5f2c1d3e-0000-4000-8000-00000000000a"

ZSH = "setopt nobeep; show() printf '<<%s>>' \"$BUFFER\"; zle -N show; bindkey '^G' show"
# How each is started so that only our script counts, how it prints the line being edited, and how
# it gets the script: from a file, or as a package installs it for a zsh.
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        (
            'bind \'set bell-style none\'; bind -x \'"\\C-g": printf "<<%s>>" "$READLINE_LINE"\'; '
            "source ./_lock-supervisor"
        ),
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        f"{ZSH}; autoload -U compinit; compinit -D; source ./_lock-supervisor",
    ),
    "zsh package": (
        ["zsh", "-f", "-i"],
        f"{ZSH}; fpath=($HOME $fpath); autoload -U compinit; compinit -u -D",
    ),
    "fish": (
        ["fish", "--no-config", "-i"],
        (
            "function fish_prompt; echo -n $PS1; end; "
            "bind \\cg 'printf \"<<%s>>\" (commandline)'; set -g fish_autosuggestion_enabled 0; "
            "source ./_lock-supervisor"
        ),
    ),
}


@pytest.fixture(params=sorted(SHELLS))
def complete(
    request: pytest.FixtureRequest, require: Callable[[str], str], guards: Guards, tmp_path: Path
) -> Iterator[Complete]:
    """Type a line and TAB in one shell, and return what the line is then."""
    (shell, *options), setting_up = SHELLS[request.param]
    home = tmp_path / "home"
    home.mkdir()
    (home / "_lock-supervisor").write_text(completion.script(shell))
    env = {
        "PATH": f"{os.path.dirname(PROGRAM)}:{os.environ['PATH']}",
        "HOME": str(home),
        "TERM": "dumb",
        "PS1": PROMPT,
        "LOCK_SUPERVISOR_RUNTIME_DIR": guards.runtime_dir,
    }
    with Terminal() as terminal:
        process = subprocess.Popen(
            [*terminal.launcher.prefix(), require(shell), *options],
            env=env,
            cwd=home,
            **terminal.streams,
        )
        try:
            terminal.type(f"{setting_up}; echo set'' up\n".encode())
            terminal.read_until(b"\nset up")
            terminal.read_until(PROMPT.encode())

            def completed(line: str) -> str:
                terminal.type(b"\x15" + line.encode() + TAB + SHOW)
                terminal.read_until(b"<<")
                return terminal.read_until(b">>").decode().removesuffix(">>")

            yield completed
        finally:
            process.kill()
            process.wait()


def test_a_command_an_option_and_its_value(complete: Complete) -> None:
    assert complete("lock-supervisor stat") == "lock-supervisor status "
    assert complete("lock-supervisor run --contain") == "lock-supervisor run --containment "
    assert complete("lock-supervisor run --containment pi") == (
        "lock-supervisor run --containment pidns "
    )
    assert complete("lock-supervisor run --containment=pi") == (
        "lock-supervisor run --containment=pidns "
    )
    assert complete("lock-supervisor run --plugin file+n") == (
        "lock-supervisor run --plugin file+nop "
    )


def test_files_directories_and_programs(complete: Complete, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "disk one.qcow2").touch()
    (home / "plain.conf").touch()
    (home / "runtime").mkdir()
    (home / "runtime.txt").touch()
    assert complete("lock-supervisor run --config pla") == (
        "lock-supervisor run --config plain.conf "
    )
    assert complete("lock-supervisor run --config=pla") == (
        "lock-supervisor run --config=plain.conf "
    )
    assert complete("lock-supervisor list --runtime-dir runt") == (
        "lock-supervisor list --runtime-dir runtime/"
    )
    assert complete("lock-supervisor attach web1 dis") == (
        "lock-supervisor attach web1 disk\\ one.qcow2 "
    )
    assert complete("lock-supervisor who dis") == "lock-supervisor who disk\\ one.qcow2 "
    assert complete("lock-supervisor plan -- qemu-im") == "lock-supervisor plan -- qemu-img "
    assert complete("lock-supervisor run -- qemu-im") == "lock-supervisor run -- qemu-img "
    assert complete("lock-supervisor run qemu-kvm -hda dis") == (
        "lock-supervisor run qemu-kvm -hda disk\\ one.qcow2 "
    )


def test_guests(complete: Complete, guards: Guards) -> None:
    guards.run(plugin="nop", name="web1", uuid=UUID)
    guards.run(plugin="nop", name="it's b: $x")
    assert complete("lock-supervisor stop we") == "lock-supervisor stop web1 "
    assert complete("lock-supervisor events we") == "lock-supervisor events web1 "
    assert complete("lock-supervisor stop 5f2c") == f"lock-supervisor stop {UUID} "
    assert complete("lock-supervisor kill it").replace("\\:", ":") == (
        r"lock-supervisor kill it\'s\ b:\ \$x "
    )


def test_no_prompt_waits_for_a_file_that_does_not_answer(command: Command, tmp_path: Path) -> None:
    fifo = tmp_path / "config.toml"
    os.mkfifo(fifo)
    asked = command(
        "lock-supervisor stop ",
        "",
        _LOCK_SUPERVISOR_COMPLETE="bash_complete",
        LOCK_SUPERVISOR_RUNTIME_DIR="",
        LOCK_SUPERVISOR_CONFIG=str(fifo),
    )
    assert (asked.code, asked.out, asked.err) == (-signal.SIGALRM, "", "")
