"""Where can somebody who is not root run the product? In a copy that everybody may read.

As an installed package is; the checkout may be root's alone. Root only.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING

import click

from supervisor.spec import python, render
from tests.faults import firmware
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.spec import GuestSpec
    from tests.support.guard import Guard, Guards

USER, GROUP = "nobody", "nogroup"
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={GROUP}", "--clear-groups")
_COMMAND = "import sys; sys.path.insert(0, {!r}); from supervisor.cli.main import main; main()"


class Public:
    """A directory of USER's that everybody may enter, with a copy of the guard and a disk."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.disk = firmware.image(f"{path}/disk")
        self._code = f"{path}/code"
        for package in ("supervisor", "lockplugins"):
            shutil.copytree(f"{CHECKOUT}/{package}", f"{self._code}/{package}")
        for module in ("prctl", "_prctl"):
            found = importlib.util.find_spec(module)
            assert found is not None
            assert found.origin is not None
            shutil.copy(found.origin, self._code)
        shutil.copytree(os.path.dirname(str(click.__file__)), f"{self._code}/click")
        shutil.chown(path, USER, GROUP)
        shutil.chown(self.disk, USER, GROUP)

    def argv(self, spec: GuestSpec) -> list[str]:
        """Call the copied guard."""
        spec.import_dirs = [self._code]
        return [word.replace(CHECKOUT, self._code) for word in render(spec)]

    def start(
        self, guards: Guards, command: Sequence[str], containment: str, **fields: object
    ) -> Guard:
        """Start a guard of USER's for `command`."""
        spec = guards.spec(self.disk, containment=containment, **fields)
        return guards.start(
            spec, command, argv_of=self.argv, user=USER, group=GROUP, extra_groups=[], cwd=self.path
        )

    def command(self) -> list[str]:
        """Call the copied command line, as USER."""
        program = [python(), "-I", "-S", "-c", _COMMAND.format(self._code)]
        return [*AS_USER, *program]
