"""Does an answer fit where it is read: a terminal, or a file?"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.support.command import DEADLINE_S, PROGRAM
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from tests.support.command import Command
    from tests.support.guard import Guards

COLUMNS = 60
GUARANTEE = "the guest runs only while every lease is held: it carries them, and the kernel sends"


def test_words_flow_within_a_terminals_width_and_nowhere_else(
    guards: Guards, command: Command
) -> None:
    guards.run(plugin="nop", name="web1")
    assert f"guarantee:       {GUARANTEE}" in command("status", "web1").out
    with Terminal() as terminal:
        terminal.resize(24, COLUMNS)
        argv = [PROGRAM, "status", "web1"]
        subprocess.run(argv, env=command.env, **terminal.streams, timeout=DEADLINE_S, check=True)
        lines = terminal.read_until(b"containment:").decode().split("\r\n")
    assert GUARANTEE in " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= COLUMNS
    assert len([line for line in lines if line.startswith(" " * 17)]) > 1
