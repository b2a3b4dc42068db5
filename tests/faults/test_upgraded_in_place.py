"""What does a guest suffer when the code of its supervisor is replaced or removed under it?

As `pipx upgrade` and `pip uninstall` do it. The supervisor loads what answers clients when the
first one comes: parts of another version would not fit.
"""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

import lockplugins
from supervisor import client
from supervisor.manager import LockManager, NewFlags, ObjectType
from supervisor.spec import render
from tests.support import waiting
from tests.support.guard import DEADLINE_S
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from supervisor.spec import GuestSpec
    from tests.support.command import Command
    from tests.support.guard import Guard, Guards

pytestmark = pytest.mark.slow

UPGRADED = "lock-supervisor: cannot load the control pipe: "


class Installed:
    """A copy of the code, from which guards are started."""

    def __init__(self, directory: Path) -> None:
        self._code = directory / "code"
        self._fetch(self._code)

    def _fetch(self, directory: Path) -> None:
        for package in ("supervisor", "lockplugins"):
            shutil.copytree(f"{CHECKOUT}/{package}", directory / package, copy_function=shutil.copy)

    def argv(self, spec: GuestSpec) -> list[str]:
        return [word.replace(f"{CHECKOUT}/s", f"{self._code}/s") for word in render(spec)]

    def remove(self) -> None:
        shutil.rmtree(self._code)

    def upgrade(self) -> None:
        """Replace every file, as pip does; the late part calls the others in another way."""
        newer = self._code.with_name("newer")
        self._fetch(newer)
        commands = newer / "supervisor/guard/commands.py"
        text = commands.read_text()
        assert "def serve(" in text
        commands.write_text(text.replace("def serve(", "def serve(new: object, "))
        self.remove()
        newer.rename(self._code)

    def pull(self) -> None:
        """Replace the late part alone, as git does where the others are the same."""
        commands = self._code / "supervisor/guard/commands.py"
        newer = commands.with_name("newer")
        newer.write_text(commands.read_text().replace("def serve(", "def serve(new: object, "))
        newer.rename(commands)


def unanswered(guard: Guard) -> None:
    with pytest.raises(client.NoAnswerError), guard.connect() as asked:
        asked.execute("query-status", timeout_s=1)


def attached(runtime_dir: str, guest_uuid: str) -> int:
    """Return the guest's pid as a daemon is told that attaches to it."""
    plugin = lockplugins.load("file")
    with LockManager(plugin, ObjectType.DOMAIN, NewFlags.ATTACH, runtime_dir=runtime_dir) as found:
        found.set_parameter("uuid", guest_uuid)
        child = found.get_child()
    assert child.pidfd is not None
    os.close(child.pidfd)
    return child.pid


@pytest.mark.parametrize("change", [Installed.upgrade, Installed.pull, Installed.remove])
def test_the_guest_runs_on_and_is_told_of_once(
    change: Callable[[Installed], None], guards: Guards, command: Command, tmp_path: Path
) -> None:
    installed = Installed(tmp_path)
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    guard = guards.start(guards.spec(disk), argv_of=installed.argv).ready()
    change(installed)
    unanswered(guard)
    waiting.until(lambda: UPGRADED in guard.stderr(), DEADLINE_S, "the guard says why")
    unanswered(guard)
    assert guard.stderr().count(UPGRADED) == 1
    assert guards.refusal(disk).code == 110
    assert command("child", guard.spec.uuid).out == f"{guard.child_pid}\n"
    assert attached(guards.runtime_dir, guard.spec.uuid) == guard.child_pid
    assert command.json("status", guard.spec.uuid)["state"] == "unknown"
    assert command("kill", guard.spec.uuid).code == 0
    assert guard.wait().code == -signal.SIGKILL


def test_asked_before_it_answers_for_ever(guards: Guards, tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    guard = guards.start(guards.spec(), argv_of=installed.argv).ready()
    with guard.connect() as asked:
        asked.execute("query-status", timeout_s=DEADLINE_S)
    installed.upgrade()
    with guard.connect() as asked:
        status = asked.execute("query-status", timeout_s=DEADLINE_S)
    assert isinstance(status, dict)
    assert status["child_pid"] == guard.child_pid
