"""How does a newcomer use the command line? Types at a real terminal (tmux), reads the screen.

The shells run in a mount namespace of their own, where /run, /srv and /var/log are empty and
the checkout is /srv/lock-supervisor. Knows nothing of what is typed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from tests.support import waiting
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

DEADLINE_S = 120.0
COLUMNS, LINES = 110, 60

_PROMPT = "$"
_NAMESPACE = """
for directory in /run /srv /var/log; do mount -t tmpfs tmpfs "$directory"; done
mkdir /srv/lock-supervisor && mount --bind "$1" /srv/lock-supervisor
cd /srv && shift && exec "$@"
"""


class Window:
    """One shell on the screen; `codes` has the exit codes of the commands that it has run."""

    def __init__(self, tmux: Tmux, name: str) -> None:
        self._tmux = tmux
        self._name = name
        self._codes = f"{tmux.directory}/{name}.codes"
        shell = {
            "PROMPT_COMMAND": f"echo $? >>{self._codes}",
            "HOME": "/root",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
        }
        environment = [word for pair in shell.items() for word in ("-e", "=".join(pair))]
        size = ["-x", str(COLUMNS), "-y", str(LINES)]
        bash = f"exec env 'PS1={_PROMPT} ' bash --norc --noprofile"  # the first one unsets PS1
        tmux.do("new-session", "-d", "-s", name, "-c", "/srv", *size, *environment, bash)
        self._until_prompts(1)

    @property
    def codes(self) -> list[int]:
        try:
            with open(self._codes, encoding="ascii") as file:
                return [int(line) for line in file][1:]
        except FileNotFoundError:
            return []

    def type(self, *keys: str) -> None:
        """Press keys, in tmux's words for those that are no text."""
        self._tmux.do("send-keys", "-t", self._name, *keys)

    def begin(self, line: str) -> None:
        """Give one command, and do not wait for its end."""
        self._tmux.do("send-keys", "-t", self._name, "-l", line)
        self.type("Enter")

    def run(self, line: str) -> int:
        """Give one command; returns its exit code when the prompt is back."""
        before = len(self.codes)
        self.begin(line)
        return self.ended(before)

    def ended(self, before: int) -> int:
        """Return the exit code of the command given after `before` others."""
        self._until_prompts(before + 2)
        return self.codes[before]

    def clear(self) -> None:
        """Empty the screen, as ^L does."""
        self.type("C-l")
        waiting.until(
            lambda: self.screen() == _PROMPT, DEADLINE_S, f"{self._name}'s screen is empty"
        )

    def screen(self) -> str:
        """Return what can be read, without the blanks at the end."""
        return self._tmux.do("capture-pane", "-p", "-t", self._name).rstrip()

    def until(self, words: str) -> str:
        """Return the screen once `words` stand on it."""

        def shown() -> str:
            screen = self.screen()
            return screen if words in screen else ""

        return waiting.until(shown, DEADLINE_S, f"{words!r} on the screen:\n{self.screen()}")

    def _until_prompts(self, count: int) -> None:
        def prompts() -> bool:
            return len(self.codes) + 1 >= count and self.screen().splitlines()[-1:] == [_PROMPT]

        try:
            waiting.until(prompts, DEADLINE_S, "the prompt is back")
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen:\n{self.screen()}") from error


class Tmux:
    """A tmux server of the test's own; ends with all that was started in it."""

    def __init__(self, directory: Path, path: str) -> None:
        self.directory = directory
        self._path = path
        self._socket = f"{directory}/tmux"
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", _NAMESPACE, "sh"]
        environment = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        environment.pop("TMUX", None)
        self._server = subprocess.Popen(
            [*enter, CHECKOUT, path, "-D", "-f", "/dev/null", "-S", self._socket],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        waiting.until(
            lambda: os.path.exists(self._socket) and not self._ask("list-commands").returncode,
            DEADLINE_S,
            "tmux answers",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.send_signal(signal.SIGTERM)
        self._server.wait(DEADLINE_S)

    def window(self, name: str) -> Window:
        return Window(self, name)

    def do(self, *words: str) -> str:
        done = self._ask(*words)
        assert not done.returncode, (words, done.stderr)
        return done.stdout

    def _ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._path, "-S", self._socket, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=DEADLINE_S,
            check=False,
        )


def installed() -> str | None:
    """Return tmux's path."""
    return shutil.which("tmux")
