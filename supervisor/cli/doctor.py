"""What does `doctor` do? Asks whether this host, and this command line, can keep the promise.

Understands the command line as `run` does, but goes on where `run` would
refuse, and has the refusal among the answers. It must not know any check.
"""

from __future__ import annotations

import os

import click

from lockplugins.contract import LockError, Mode
from supervisor import config, specify
from supervisor.cli import render
from supervisor.cli.run_options import ENDS_AT_COMMAND, describes_a_guest
from supervisor.config import Config
from supervisor.discovery import disks
from supervisor.doctor.apart import answer
from supervisor.doctor.asking import DEADLINE_S
from supervisor.doctor.examination import Question, examine
from supervisor.doctor.names import Name
from supervisor.spec import GuestSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar, Unpack

    from lockplugins.contract import Plugin, Resource
    from supervisor.specify import Given

    Value = TypeVar("Value")

_NOBODY = "00000000-0000-0000-0000-000000000000"
_WEAK = 1


@click.command("doctor", context_settings=ENDS_AT_COMMAND)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@describes_a_guest(command_required=False)
def doctor_command(*, as_json: bool, **given: Unpack[Given]) -> None:
    """Can this host keep the promise?

    Each check with its evidence and the mend. With COMMAND or --disk also for
    these disks and this command line: takes run's options, starts nothing of
    it, leaves no trace. Exits with 1 if something weakens the promise.

    Example: lock-supervisor doctor -- qemu-system-x86_64 -drive file=web1.qcow2
    """
    checks = list(examine(_question(given)))
    well = all(check.ok for check in checks)
    if as_json:
        render.put_json({"ok": well, "checks": [check.as_json() for check in checks]})
    else:
        render.put_checks(checks)
    if not well:
        click.get_current_context().exit(_WEAK)


def _question(given: Given) -> Question:
    """Understand as much of the command line and the configuration as can be understood."""
    question = Question(GuestSpec("doctor", _NOBODY, "/"), given["command"])
    guest = question.guest

    def attempt(name: str, call: Callable[[], Value], otherwise: Value) -> Value:
        try:
            return call()
        except LockError as error:
            question.problems.setdefault(name, error)
            return otherwise

    settings = attempt(Name.CONFIGURATION, lambda: config.read(given["config"]), Config())
    question.config_file = settings.file or None
    location = given["runtime_dir"], given["config"]
    guest.runtime_dir = attempt(Name.RUNTIME_DIR, lambda: config.runtime_dir(*location), "/")
    plugins: Sequence[type[Plugin]] = attempt(
        Name.PLUGIN, lambda: specify.choose_plugins(guest, given["plugin"], settings), ()
    )
    guest.resources = attempt(Name.DISKS, lambda: _found(given, settings, plugins), [])
    guest.containment = given["containment"] or settings.containment or guest.containment
    guest.monitor = not given["no_monitor"]
    if not specify.discovers(given, settings):
        unleased: list[str] = []
        unleased = attempt(Name.DISKS, lambda: _unleased(given["command"], guest), unleased)
        question.unleased = unleased
    return question


def _found(given: Given, settings: Config, plugins: Sequence[type[Plugin]]) -> list[Resource]:
    """Return what would be leased; an image that hangs is given up."""
    return answer("the disks", lambda: specify.resources(given, settings, plugins), DEADLINE_S)


def _unleased(command: tuple[str, ...], guest: GuestSpec) -> list[str]:
    """Return the disks that COMMAND writes to, and that nobody asked to lease."""
    if not command or not disks.is_qemu(command[0]):
        return []

    def look() -> list[str]:
        found = disks.discover(command, config.working_directory(), allow_outside=True)
        leased = {os.path.realpath(r.path) for r in guest.resources if r.mode == Mode.EXCLUSIVE}
        written = [disk.path for disk in found if disk.mode == Mode.EXCLUSIVE]
        return [path for path in written if os.path.realpath(path) not in leased]

    try:
        return answer("the disks", look, DEADLINE_S)
    except LockError as error:
        name, advice = "whether every disk is named", "see that --disk names all it writes to"
        raise LockError("tell", name, error.reason, advice) from error
