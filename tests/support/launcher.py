"""How does a launcher look that leaves nothing to defaults? Sets what exec hands on, then execs.

Stands where libvirt or a shell stands, in front of COMMAND or of the guard.
`prefix` goes before either's argv. Run as a script it is that launcher; it
knows nothing of the supervisor.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import struct
import sys
from dataclasses import asdict, dataclass, field

_EVERY_SIGNAL = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


@dataclass
class Launcher:
    """What the launched program finds; None leaves what is.

    `env` are the entries of environ(7) as they are, one character a byte
    (latin-1). `ignored` and `blocked` are all signals that are. `posix_locks`
    are (descriptor, first byte). `doomed_cwd` is removed once it is the
    working directory. `session` makes a session leader, whose controlling
    terminal `terminal` becomes.
    """

    env: list[str] | None = None
    umask: int | None = None
    cwd: str | None = None
    doomed_cwd: str | None = None
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)
    nice: int = 0
    oom_score_adj: int | None = None
    ignored: list[int] = field(default_factory=list)
    blocked: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    posix_locks: list[tuple[int, int]] = field(default_factory=list)
    group: bool = False
    session: bool = False
    terminal: int | None = None
    user: int | None = None

    def prefix(self) -> list[str]:
        """Return what goes before the argv to be launched."""
        return [sys.executable, "-I", "-S", os.path.abspath(__file__), json.dumps(asdict(self))]


def _set(given: Launcher) -> None:
    _set_process(given)
    if given.session:
        os.setsid()
    if given.terminal is not None:
        import termios

        fcntl.ioctl(given.terminal, termios.TIOCSCTTY, 0)
    if given.group:
        os.setpgid(0, 0)
    for fd, first in given.posix_locks:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, first, 1, 0)
        fcntl.fcntl(fd, fcntl.F_SETLK, lock)
    for fd in given.closed:
        os.close(fd)
    if given.user is not None:
        os.setgroups([])
        os.setresgid(given.user, given.user, given.user)
        os.setresuid(given.user, given.user, given.user)
    for number in _EVERY_SIGNAL:
        signal.signal(number, signal.SIG_IGN if number in given.ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, given.blocked)


def _set_process(given: Launcher) -> None:
    if given.umask is not None:
        os.umask(given.umask)
    if given.oom_score_adj is not None:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(given.oom_score_adj))
    for name, (soft, hard) in given.limits.items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    os.nice(given.nice)
    if given.doomed_cwd is not None:
        os.mkdir(given.doomed_cwd)
        os.chdir(given.doomed_cwd)
        os.rmdir(given.doomed_cwd)
    elif given.cwd is not None:
        os.chdir(given.cwd)


def _exec(argv: list[str], env: list[str] | None) -> None:
    """Call execve(2) itself: os.execve takes no entry twice, nor without an equals sign."""
    if env is None:
        os.execv(argv[0], argv)
    words = [os.fsencode(word) for word in argv]
    entries = [entry.encode("latin-1") for entry in env]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.execve(
        words[0],
        (ctypes.c_char_p * (len(words) + 1))(*words, None),
        (ctypes.c_char_p * (len(entries) + 1))(*entries, None),
    )
    sys.exit(f"launcher: cannot run {argv[0]}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    _given = Launcher(**json.loads(sys.argv[1]))
    _set(_given)
    _exec(sys.argv[2:], _given.env)
