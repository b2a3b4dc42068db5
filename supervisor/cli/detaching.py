"""How does `run --detach` come back while the guest stays? Starts the guard, waits for its word.

The same guard with the same arguments, but in a session of its own, with
/dev/null for its input and the log for its output. From exec on it needs us no
more: killed, we leave a guest that comes up or is refused without us (README,
D9). It must not know what the guard does.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess

from lockplugins.contract import ConfigError, LockError
from supervisor import exitcodes
from supervisor.cli import launcher
from supervisor.cli.render import put
from supervisor.log import open_log
from supervisor.spec import render
from supervisor.starting import READY, NotStartedError, clear_of, died, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.spec import GuestSpec

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STANDARD = (0, 1, 2)
_LONGEST = 4096  # a line of the guard's comes in one piece


def start(spec: GuestSpec, command: Sequence[str], log: str | None) -> None:
    """Start the guest of `spec` and print its uuid when it runs; raises LockError if it does not.

    Interrupted, we have the guard give up, and return when it is gone.
    """
    launchers_fd = spec.ready_fd
    if spec.handshake_fd in _STANDARD:
        reason = "--detach has /dev/null and the log in its place"
        raise ConfigError(
            "shake hands on", f"descriptor {spec.handshake_fd}", reason, "pass another"
        )
    if launchers_fd is not None and launchers_fd != spec.handshake_fd:
        launcher.withhold(launchers_fd)  # we answer there
    log_path, log_fd = open_log(log, spec.name, spec.uuid)
    words_fd, fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    spec.ready_fd = clear_of(command, fd)
    os.set_inheritable(spec.ready_fd, True)
    interruptions = Interruptions()  # not before: a log that hangs can be given up
    guard = _spawn([*render(spec), *command], log_fd)
    os.close(spec.ready_fd)
    line = _hear(guard, words_fd, interruptions)
    if interruptions.last is not None:
        code = exitcodes.SIGNAL_BASE + interruptions.last
        reason = f"signal {interruptions.last} came first; nothing held"
        raise NotStartedError(code, f"cannot start guest {spec.name}: {reason}")
    if (refusal := refused(line)) is not None:
        raise refusal
    if not line.startswith(READY):
        raise _died(guard.wait(), spec.name, log_path)
    launcher.tell(launchers_fd, line)
    try:
        put(spec.uuid)
    except (LockError, BrokenPipeError):
        pass  # nobody takes it: the guest runs all the same, and that is what exit 0 says


class Interruptions:
    """The signals that would end us, from now on: each makes `fd` readable, `last` is the latest.

    What the launcher ignores stays ignored, by us, guard and guest.
    """

    def __init__(self) -> None:
        self.last: int | None = None
        self.fd, woken_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(woken_fd)
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda _number, _frame: None)  # the descriptor says it

    def take(self) -> int:
        """Return the latest of those that came; call when `fd` is readable."""
        self.last = os.read(self.fd, select.PIPE_BUF)[-1]
        return self.last


def _spawn(argv: list[str], log_fd: int) -> subprocess.Popen[bytes]:
    launcher.restore_environment()
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            close_fds=False,
            start_new_session=True,
        )
    except OSError as error:
        raise launcher.ExecError("the guard", error, exitcodes.OUR_FAULT) from error


def _hear(guard: subprocess.Popen[bytes], words_fd: int, interruptions: Interruptions) -> str:
    """Return the guard's first line, empty if it died without one.

    After an interruption not before the guard is gone.
    """
    gone_fd = os.pidfd_open(guard.pid)
    poll = select.poll()
    for fd in (words_fd, gone_fd, interruptions.fd):
        poll.register(fd, select.POLLIN)
    said = b""
    while True:
        ready = dict(poll.poll())
        if interruptions.fd in ready:
            guard.send_signal(interruptions.take())
        if words_fd in ready or gone_fd in ready:
            said += _read(words_fd)
        if words_fd in ready:
            poll.unregister(words_fd)
        if gone_fd in ready or (said and interruptions.last is None):
            return os.fsdecode(said).rstrip("\n")


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _LONGEST)
    except BlockingIOError:
        return b""


def _died(status: int, name: str, log_path: str) -> NotStartedError:
    if status < 0:
        return died(
            name, f"was killed by signal {-status}", log_path, exitcodes.SIGNAL_BASE - status
        )
    return died(name, f"ended with {status}", log_path, status)
