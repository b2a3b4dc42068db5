"""Does a newcomer get through the first hour without the manual? Typed into a real terminal.

Every screen is kept: docs/first-hour.md is written from them under --long, and must say the
same as what is seen now but for numbers.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.support.sources import CHECKOUT, read
from tests.support.tmux import Tmux

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.tmux import Window

PAGE = "docs/first-hour.md"
DOCTOR = "$ lock-supervisor doctor"
HEAD = """# The first hour

What a newcomer types, and what is seen. Written by a test that types it into a real terminal
(`bin/test --long`); only the numbers differ from one machine to the next.
"""
QEMU = "qemu-system-x86_64 -name web1 -accel tcg -display none -drive file=web1.qcow2"
# Numbers, of which uuids have letters too, blanks, and the demo's directory.
VARYING = re.compile(r"(?<=lock-supervisor-demo\.)\w+|[0-9a-f\s-]")


class Hour:
    """The screens so far, as the page shows them."""

    def __init__(self) -> None:
        self.page = HEAD

    def tell(self, words: str, screen: str) -> None:
        self.page += f"\n{words}\n\n```text\n{screen}\n```\n"

    def run(self, window: Window, words: str, line: str, codes: int | set[int], *said: str) -> str:
        """Give one command on an empty screen; it must exit with one of `codes` and say `said`."""
        window.clear()
        ended = window.run(line)
        screen = window.screen().removesuffix("$").rstrip()
        self.tell(words, screen)
        assert ended in (codes if isinstance(codes, set) else {codes}), screen
        flowing = " ".join(screen.split())
        for phrase in said:
            assert phrase in flowing, screen
        return screen


@pytest.mark.slow
def test_the_first_hour(
    tmp_path: Path, require: Callable[[str], str], pytestconfig: pytest.Config
) -> None:
    hour = Hour()
    with Tmux(tmp_path, require("tmux")) as tmux:
        first = tmux.window("first")
        install(hour, first)
        one_guest(hour, first)
        questions(hour, first)
        waiting_for_it(hour, first, tmux)
        mistakes(hour, first)
    if pytestconfig.getoption("--long"):
        with open(os.path.join(CHECKOUT, PAGE), "w", encoding="utf-8") as file:
            file.write(hour.page)
    assert same(hour.page) == same(read(PAGE)), f"bin/test --long writes {PAGE} anew"


def same(page: str) -> list[str]:
    """Return what is the same everywhere: no numbers and blanks, and not what doctor finds."""
    screens = page.split("\n```")
    return [VARYING.sub("", "".join(screen.split())) for screen in screens if DOCTOR not in screen]


def install(hour: Hour, window: Window) -> None:
    hour.run(window, "Set it up, in the checkout.", "cd lock-supervisor && bin/setup", 0, "ready")
    hour.run(window, "See it work on a real guest.", "bin/demo", 0, "never two writers")
    window.run("export PATH=$PWD/bin:$PATH; cd ..")
    hour.run(window, "What can it do?", "lock-supervisor --help", 0, "Example:", "doctor")


def one_guest(hour: Hour, window: Window) -> None:
    words = "A disk, and can this machine keep the promise for a guest on it?"
    window.run("qemu-img create -q -f qcow2 web1.qcow2 1G")
    hour.run(
        window, words, f"lock-supervisor doctor -- {QEMU}", {0, 1}, "/srv/web1.qcow2", "pdeathsig"
    )
    words = "What would be leased?"
    hour.run(window, words, f"lock-supervisor plan -- {QEMU}", 0, "/srv/web1.qcow2", "exclusive")
    words = "Put it in front of the QEMU command line."
    screen = hour.run(window, words, f"lock-supervisor run --detach -- {QEMU}", 0)
    assert re.search(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", screen, re.MULTILINE)
    words = "The same again, by mistake, is refused, with the reason and the way out."
    held = "held by guest web1"
    hour.run(window, words, f"lock-supervisor run --detach -- {QEMU}", 110, held, "--wait")


def questions(hour: Hour, window: Window) -> None:
    hour.run(window, "Who has that disk?", "lock-supervisor who web1.qcow2", 0, "web1")
    hour.run(window, "Which guests run here?", "lock-supervisor list", 0, "running")
    words = "What of this one?"
    hour.run(window, words, "lock-supervisor status web1", 0, "the guest runs only while")


def waiting_for_it(hour: Hour, first: Window, tmux: Tmux) -> None:
    """The second terminal waits for the disk; the first stops the guest; the third looks on."""
    second, third = (tmux.window(name) for name in ("second", "third"))
    for window in (second, third):
        window.run("export PATH=/srv/lock-supervisor/bin:$PATH")
    second.clear()
    before = len(second.codes)
    second.begin(f"lock-supervisor run --wait 600 --name web2 -- {QEMU}")
    words = "A second guest for that disk, in another terminal, may wait for the first one."
    hour.tell(words, second.until("held by guest web1 ("))
    words = (
        "Back in the first terminal: stop it. This guest has no operating system that would answer."
    )
    hour.run(first, words, "lock-supervisor stop web1 --timeout 2", 0, "power button")
    third.run("until lock-supervisor list | grep -q 'web2.* running'; do :; done")
    hour.run(first, "The other one runs now.", "lock-supervisor list", 0, "web2", "running")
    hour.run(first, "And ends.", "lock-supervisor kill web2", 0)
    assert second.ended(before) == 137
    hour.tell("Its terminal has the prompt back.", second.screen())
    hour.run(first, "Who has the disk now? Nobody.", "lock-supervisor who web1.qcow2", 1)


def mistakes(hour: Hour, window: Window) -> None:
    hour.run(window, "A name that is not there.", "lock-supervisor status wbe1", 1, "none in")
    words = "A disk that is not there."
    line = f"lock-supervisor run -- {shlex.join(QEMU.split()[:-1])} file=web9.qcow2"
    hour.run(window, words, line, 111, "No such file")
    words = "An option that is not there."
    hour.run(window, words, f"lock-supervisor run --dsik a -- {QEMU}", 2, "--disk")
