"""What does `run` do? Turns itself into the guard, which is told all by its arguments.

Gone, by exec, before any lease is taken. It must not know what the options
mean for the guest, nor talk to a lock manager.
"""

from __future__ import annotations

import errno
import os
import select
import signal

import click

from lockplugins.contract import ConfigError, LockError, shown
from supervisor import exitcodes
from supervisor.cli.render import as_bytes
from supervisor.cli.run_options import ENDS_AT_COMMAND, describes_a_guest
from supervisor.cli.specify import build
from supervisor.discovery import disks
from supervisor.spec import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Unpack

    from supervisor.cli.specify import Given


class ExecError(LockError):
    """COMMAND (or the guard) could not be executed; the exit code says how."""

    def __init__(self, command: str, error: OSError, exit_code: int) -> None:
        super().__init__("execute", command, os.strerror(error.errno or 0))
        self.exit_code = exit_code


_PATIENCE_S = 1.0


class RunCommand(click.Command):
    """`run`, which tells --ready-fd of wrong arguments too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            message = " ".join(error.format_message().split())
            fd = ctx.params.get("ready_fd")  # eager: read before what is wrong
            if isinstance(fd, int):
                _tell(fd, exitcodes.USAGE, f"cannot run: {shown(message)}")
            raise


@click.command("run", cls=RunCommand, context_settings=ENDS_AT_COMMAND)
@describes_a_guest()
def run_command(**given: Unpack[Given]) -> NoReturn:
    """Start COMMAND (QEMU) under its leases.

    COMMAND begins at the first argument that is no option; "--" before it is
    allowed. Exits with the guest's own status, 110 if a lease is held elsewhere.

    Example: lock-supervisor run --name web1 -- qemu-system-x86_64 -drive file=web1.qcow2
    """
    command = given["command"]
    try:
        if disks.is_qemu(command[0]) and disks.passes_through(command):
            _become_command(given)
        spec = build(given)
        _become([*render(spec), *command])
    except LockError as error:
        _tell(given["ready_fd"], error.exit_code, str(error))
        raise


def _become_command(given: Given) -> NoReturn:
    """Exec COMMAND itself: no guest will run."""
    for fd in (given["ready_fd"], given["handshake_fd"]):
        if fd is not None:
            _close(fd)
    command = given["command"]
    _restore_launcher()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        missing = error.errno == errno.ENOENT
        code = exitcodes.NOT_FOUND if missing else exitcodes.NOT_EXECUTABLE
        raise ExecError(command[0], error, code) from error


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConfigError("use", f"descriptor {fd}", reason) from error


def _become(argv: list[str]) -> NoReturn:
    """Exec the guard."""
    _restore_launcher()
    try:
        os.execv(argv[0], argv)
    except OSError as error:
        raise ExecError("the guard", error, exitcodes.OUR_FAULT) from error


def _restore_launcher() -> None:
    """Give back what Python changed as it started: LC_CTYPE, SIGPIPE and SIGXFSZ."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    with open("/proc/self/environ", "rb") as file:
        entries = file.read().split(b"\0")
    given = [entry for entry in entries if entry.startswith(b"LC_CTYPE=")]
    if given:
        os.putenv(b"LC_CTYPE", given[0].partition(b"=")[2])
    else:
        os.unsetenv(b"LC_CTYPE")


def _tell(ready_fd: int | None, code: int, text: str) -> None:
    """Tell the launcher that nothing was started, as the guard would, if it listens."""
    if ready_fd is not None:
        try:
            if select.select([], [ready_fd], [], _PATIENCE_S)[1]:
                os.write(ready_fd, as_bytes(f"ERROR {code} {text}\n"))
        except (OSError, ValueError):  # the exit code has to say it
            pass
