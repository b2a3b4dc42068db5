"""Does the wheel work where pipx puts it, and where pip does, and leave nothing behind?

Both start from nothing: an empty home and an environment of two variables.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from supervisor import __version__
from tests.support import waiting
from tests.support.qemu import guest_argv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.packages import Packages

pytestmark = pytest.mark.slow

INSTALL_S = 300.0
DEADLINE_S = 60.0
REFUSED = "lock-supervisor: cannot acquire exclusive lease for disk {disk}: held by guest web1 ("


class Home:
    """A home directory with nothing in it, and what runs there."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "home"
        self.path.mkdir()
        self.command = f"{self.path}/.local/bin/lock-supervisor"
        self.disk = str(self.path / "disk.img")
        with open(self.disk, "wb") as file:
            file.truncate(64 << 20)
        self._env = {
            "HOME": str(self.path),
            "PATH": "/usr/bin:/bin",
            "LOCK_SUPERVISOR_RUNTIME_DIR": f"{self.path}/run",
        }

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._env,
            cwd=self.path,
            text=True,
        )

    def run(self, *argv: str, deadline_s: float = DEADLINE_S) -> tuple[int, str, str]:
        with self.start(*argv) as process:
            try:
                out, err = process.communicate(timeout=deadline_s)
            finally:
                process.kill()
        return process.returncode, out, err

    def install(self, *argv: str) -> None:
        code, out, err = self.run(*argv, deadline_s=INSTALL_S)
        assert code == 0, out + err

    def files(self, below: str) -> set[str]:
        return {
            os.path.join(directory, name)
            for directory, _, names in os.walk(self.path / below)
            for name in names
        }


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def runs_under_its_lease(home: Home) -> None:
    """Judge an installed command: a real guest, a refusal, an exit status."""
    assert home.run(home.command, "--version") == (0, f"lock-supervisor {__version__}\n", "")
    with home.start(home.command, "run", "--name", "web1", "--", *guest_argv(home.disk)) as guest:
        try:
            waiting.until(
                lambda: home.run(home.command, "child", "web1")[0] == 0, DEADLINE_S, "it runs"
            )
            code, _, err = home.run(home.command, "run", "--", *guest_argv(home.disk))
            assert code == 110
            assert err.startswith(REFUSED.format(disk=home.disk))
            assert home.run(home.command, "kill", "web1")[0] == 0
            assert guest.wait(DEADLINE_S) == -9
        finally:
            guest.kill()
    named = ("run", "--disk", home.disk, "--", "sh", "-c", "exit 7")
    assert home.run(home.command, *named)[0] == 7


def test_installed_by_pipx_it_runs_and_uninstalled_leaves_nothing(
    home: Home, packages: Packages, require: Callable[[str], str]
) -> None:
    pipx = require("pipx")
    home.install(pipx, "install", packages.wheel)
    runs_under_its_lease(home)
    venv = home.path / ".local/pipx/venvs/lock-supervisor"
    assert (venv / "share/man/man1/lock-supervisor.1").is_file()
    home.install(pipx, "uninstall", "lock-supervisor")
    assert home.files(".local/bin") == set()
    assert home.files(".local/pipx/venvs") == set()


def test_installed_by_pip_it_runs_and_uninstalled_leaves_nothing(
    home: Home, packages: Packages
) -> None:
    home.install("/usr/bin/python3", "-m", "venv", f"{home.path}/.local")
    pip = f"{home.path}/.local/bin/pip"
    home.install(pip, "install", "--quiet", packages.wheel)
    runs_under_its_lease(home)
    home.install(pip, "uninstall", "--yes", "--quiet", "lock-supervisor")
    left = {path for path in home.files(".local") if "supervisor" in path or "lockplugins" in path}
    assert left == set()
