"""What has the launcher given us, and what is it told? For `run`, which stands between.

It must not know what is launched.
"""

from __future__ import annotations

import os
import select
import signal

from lockplugins.contract import ConfigError, LockError, cause
from supervisor.cli.render import as_bytes

_PATIENCE_MS = 1000


class ExecError(LockError):
    """COMMAND (or the guard) could not be executed; the exit code says how."""

    def __init__(self, command: str, error: OSError, exit_code: int) -> None:
        super().__init__("execute", command, cause(error), "nothing was started")
        self.exit_code = exit_code


def withhold(fd: int) -> None:
    """Keep a descriptor that the launcher passed for us from what we execute."""
    try:
        os.set_inheritable(fd, False)
    except (OSError, OverflowError) as error:
        raise ConfigError("use", f"descriptor {fd}", "it is not open", "pass it on") from error


def restore_signals() -> None:
    """Give SIGPIPE and SIGXFSZ back, which Python ignores from its start."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def restore_environment() -> None:
    """Give LC_CTYPE back, which Python sets as it starts (PEP 538)."""
    with open("/proc/self/environ", "rb") as file:
        entries = file.read().split(b"\0")
    given = [entry for entry in entries if entry.startswith(b"LC_CTYPE=")]
    if given:
        os.putenv(b"LC_CTYPE", given[0].partition(b"=")[2])
    else:
        os.unsetenv(b"LC_CTYPE")


def tell(ready_fd: int | None, line: str) -> None:
    """Write a line to the launcher's --ready-fd, if it listens."""
    if ready_fd is not None:
        try:
            poll = select.poll()
            poll.register(ready_fd, select.POLLOUT)
            if poll.poll(_PATIENCE_MS):
                os.write(ready_fd, as_bytes(f"{line}\n"))
        except (OSError, OverflowError):  # the exit code has to say it
            pass


def tell_error(ready_fd: int | None, code: int, text: str) -> None:
    """Tell the launcher that nothing was started, as the guard would."""
    tell(ready_fd, f"ERROR {code} {text}")
