"""Would COMMAND run as a guest, tied to its guard? Asks the guard's own code, and QEMU.

Starts QEMU without a machine, a disk or a network. It must not start COMMAND
with its arguments, nor anything that is not QEMU.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys

from lockplugins.contract import cause
from supervisor import spec
from supervisor.doctor.names import Name
from supervisor.doctor.trial.process import Process, readable
from supervisor.guard import containment as guards
from supervisor.guard.prepare import CHARDEV, MON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

    from lockplugins.contract import Finding

_OLDEST_PYTHON = (3, 11)
_BARE = ("-machine", "none", "-S", "-no-user-config", "-nodefaults", "-display", "none")
_MOST = 1 << 16
_PATIENCE_S = 8.0  # less than a trial has, so that it ends what it started


def python(_guest: spec.GuestSpec, _command: list[str]) -> Iterator[Finding]:
    """Does this interpreter, started as a guard's is, load what a guard loads?"""
    version = ".".join(map(str, sys.version_info[:3]))
    words = f"{spec.python()} is Python {version}"
    if sys.version_info < _OLDEST_PYTHON:
        mend = "install Python 3.11 or newer for /usr/bin/python3"
        yield Name.PYTHON, False, f"{words}, too old for a guard", mend
        return
    try:
        import _prctl

        import supervisor.guard.supervise
    except ImportError as error:
        why = f"{words}; a guard cannot be loaded: {error}"
        yield Name.PYTHON, False, why, f"install lock-supervisor and prctl for Python {version}"
    else:
        where = f"guard from {supervisor.guard.supervise.__file__}, prctl from {_prctl.__file__}"
        yield Name.PYTHON, True, f"{words}; {where}", ""


def command(_guest: spec.GuestSpec, argv: list[str]) -> Iterator[Finding]:
    """Is there such a program, and is it QEMU?"""
    path = guards.resolve(argv[0])
    try:
        runs = stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK)
    except OSError as error:
        yield Name.COMMAND, False, cause(error, path), "install it, or name its path"
        return
    if not runs:
        yield Name.COMMAND, False, f"{path} is not an executable file", "name another"
    elif not spec.is_qemu(argv[0]):
        why = f"{path} is not QEMU by its name: what it forks, or closes, is not known before"
        mend = "let it exec QEMU and close no descriptor; --containment pidns covers what it forks"
        yield Name.COMMAND, False, why, mend
    else:
        said = _said(path, ["-version"])
        words = said.partition("\n")[0] or "says nothing to -version"
        yield Name.COMMAND, bool(said), f"{path}: {words}", "" if said else "see what it says"


def containment(guest: spec.GuestSpec, argv: list[str]) -> Iterator[Finding]:
    """Which containment would be chosen, and why? A refusal is the guard's own."""
    path = guards.resolve(argv[0])
    mode = guards.decide(guest.containment, argv, path)
    why = guards.disarms_death_signal(argv, path) or "nothing in it disarms the parent-death signal"
    if mode != guest.containment and mode == spec.Containment.PIDNS:
        why += ", which disarms the parent-death signal"
    yield Name.CONTAINMENT, True, f"{mode} ({guest.containment} was asked for): {why}", ""


def monitor(_guest: spec.GuestSpec, argv: list[str]) -> Iterator[Finding]:
    """Does this QEMU open our private monitor?"""
    ours, guests = socket.socketpair()
    with os.fdopen(os.memfd_create("monitor", 0), "w") as config:
        config.write(CHARDEV.format(fd=guests.fileno()) + MON)
        config.flush()
        os.set_inheritable(guests.fileno(), True)
        options = [*_BARE, "-readconfig", f"/proc/self/fd/{config.fileno()}"]
        with _output() as output, _Run(guards.resolve(argv[0]), options, output):
            guests.close()
            greeting = ours.recv(_MOST) if readable(ours.fileno(), _PATIENCE_S) else b""
            said = _text(output)
    try:
        version = json.loads(greeting.partition(b"\n")[0])["QMP"]["version"]["qemu"]
    except (ValueError, KeyError, TypeError):
        why = f"it does not open a private monitor: {said or 'no greeting'}"
        yield Name.MONITOR, False, why, "see what it says, or use --no-monitor and live without"
    else:
        words = ".".join(str(version[key]) for key in ("major", "minor", "micro"))
        yield Name.MONITOR, True, f"it opens a private monitor, and greets as QEMU {words}", ""


class _Run(Process):
    """A program that runs with its output in a file; ends with the context."""

    def __init__(self, path: str, options: Sequence[str], output: IO[bytes]) -> None:
        def life() -> None:
            null = os.open("/dev/null", os.O_RDWR)
            for fd, standard in ((null, 0), (output.fileno(), 1), (output.fileno(), 2)):
                os.dup2(fd, standard)
            os.execv(path, [path, *options])

        super().__init__(life)


def _said(path: str, options: Sequence[str]) -> str:
    """Return what a program says before it ends."""
    with _output() as output, _Run(path, options, output) as run:
        readable(run.pidfd, _PATIENCE_S)
        return _text(output)


def _output() -> IO[bytes]:
    return os.fdopen(os.memfd_create("output"), "w+b")


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read(_MOST).decode(errors="replace").strip()
