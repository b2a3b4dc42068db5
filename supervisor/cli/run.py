"""What does `run` do? Turns itself into the guard, which is told all by its arguments.

Gone, by exec, before any lease is taken (but with --detach: detaching.py). It must not know what
the options mean for the guest, nor talk to a lock manager.
"""

from __future__ import annotations

import errno
import os

import click

from lockplugins.contract import ConfigError, LockError
from supervisor import exitcodes
from supervisor.cli import launcher
from supervisor.cli.render import usage
from supervisor.cli.run_options import ENDS_AT_COMMAND, describes_a_guest
from supervisor.discovery import disks
from supervisor.spec import render
from supervisor.specify import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Unpack

    from supervisor.specify import Given


class RunCommand(click.Command):
    """`run`, which tells --ready-fd of wrong arguments too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            fd = ctx.params.get("ready_fd")  # eager: read before what is wrong
            if isinstance(fd, int):
                launcher.tell_error(fd, exitcodes.USAGE, usage(error))
            raise


@click.command("run", cls=RunCommand, context_settings=ENDS_AT_COMMAND)
@describes_a_guest()
def run_command(**given: Unpack[Given]) -> None:
    """Start COMMAND (QEMU) under its leases.

    The disks are found in COMMAND's own arguments; what the guest writes is
    leased exclusively. Refused, with the holder's name, while somebody else has
    a lease: "list", "who" and "--wait" help.

    COMMAND begins at the first argument that is no option; "--" before it is
    allowed. Exits with the guest's own status, 110 if a lease is held elsewhere.

    Example: lock-supervisor run -- qemu-system-x86_64 -drive file=web1.qcow2
    """
    command = given["command"]
    try:
        if given["log"] is not None and not given["detach"]:
            reason = "without --detach the output goes where yours goes"
            raise ConfigError("use", "--log", reason, "add --detach, or redirect it: >>FILE 2>&1")
        if disks.is_qemu(command[0]) and disks.passes_through(command):
            _become_command(given)
        spec = build(given)
        if not given["detach"]:
            _become([*render(spec), *command])
        from supervisor.cli import detaching  # subprocess costs 10 ms

        detaching.start(spec, command, given["log"])
    except LockError as error:
        launcher.tell_error(given["ready_fd"], error.exit_code, str(error))
        raise


def _become_command(given: Given) -> NoReturn:
    """Exec COMMAND itself: no guest will run."""
    for fd in (given["ready_fd"], given["handshake_fd"]):
        if fd is not None:
            launcher.withhold(fd)
    command = given["command"]
    _restore_launcher()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        missing = error.errno == errno.ENOENT
        code = exitcodes.NOT_FOUND if missing else exitcodes.NOT_EXECUTABLE
        raise launcher.ExecError(command[0], error, code) from error


def _become(argv: list[str]) -> NoReturn:
    """Exec the guard."""
    _restore_launcher()
    try:
        os.execv(argv[0], argv)
    except OSError as error:
        raise launcher.ExecError("the guard", error, exitcodes.OUR_FAULT) from error


def _restore_launcher() -> None:
    """Give back what Python changed as it started."""
    launcher.restore_signals()
    launcher.restore_environment()
