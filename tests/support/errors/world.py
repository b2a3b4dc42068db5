"""How is a line provoked? By the real command, the real guard, or a call, in a place of its own.

A World is one directory that everybody may enter, with a disk in it and everything started there;
a Case says which line it is about. It must not know any line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockplugins.contract import LockError
from supervisor.spec import python
from tests.support.command import PROGRAM, Command
from tests.support.guard import Guard, Guards
from tests.support.sources import CHECKOUT
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    Provoke = Callable[["World"], "Said"]

SPEAKER = "lock-supervisor: "
UUID = "5f2c1d3e-0000-4000-8000-00000000000a"
QEMU = "qemu-system-x86_64"
DEADLINE_S = 60.0
NOBODY: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []}
_NEEDED = ("click", "prctl.py", "_prctl*.so")


@dataclass(frozen=True)
class Said:
    """One line, without the speaker's name, and the exit code that goes with it."""

    code: int
    line: str


@dataclass(frozen=True)
class Case:
    """One error: its exit code, how to provoke it, what it means and what to do.

    `at` is module:function, for a line that several places can say alike.
    """

    code: int
    provoke: Provoke
    means: str
    at: str = ""


class World:
    """One case's own directory, `directory`; a context that ends what was started in it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        os.mkdir(directory, 0o711)
        self.disk = self.write("disk.raw", bytes(1 << 16))
        self.guards = Guards(Path(directory))
        self.command = Command(self.guards.runtime_dir, directory)
        self.program = (PROGRAM,)
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        self.stack.enter_context(self.guards)
        self.stack.callback(self.command.reap)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> str:
        """Write a file, and the directories above it; returns its path."""
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return str(path)

    def says(
        self,
        *words: str,
        program: Sequence[str] = (PROGRAM,),
        env: Mapping[str, str | None] | None = None,
        **popen: Any,
    ) -> Said:
        """Return the one line that a command ends with; None takes a variable away."""
        given = {**self.command.env, **(env or {})}
        done = subprocess.run(
            [*program, *words],
            env={name: value for name, value in given.items() if value is not None},
            timeout=DEADLINE_S,
            check=False,
            encoding="utf-8",
            errors="surrogateescape",
            **{
                "cwd": self.directory,
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **popen,
            },
        )
        return said(done.returncode, done.stderr)

    def after(self, script: str, *before: str) -> tuple[str, ...]:
        """Return the command as a program that runs after a shell's script (itself `before`'s)."""
        return (*before, "sh", "-c", f'{script} && exec "$@"', "sh", *self.program)

    def failing(self, fault: str, *words: str, path: str | None = None) -> Said:
        """Return what a command says when the kernel answers a call (about `path`) with a fault.

        As strace(1) injects it: SYSCALL:error=ERRNO.
        """
        tool = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={fault}"]
        tool += [] if path is None else ["-P", path]
        return self.says(*words, program=(*tool, *self.program))

    def python_says(self, program: str) -> Said:
        """Return the error that a program raises, in a process of its own."""
        ending = f"print('{SPEAKER}' + str(error), file=sys.stderr); sys.exit(error.exit_code)"
        indented = program.replace("\n", "\n ")
        text = f"import sys\nfrom lockplugins.contract import LockError\ntry:\n {indented}"
        words = ("-c", f"{text}\nexcept LockError as error:\n {ending}")
        return self.says(*words, program=(sys.executable,), cwd=CHECKOUT)

    def guard_says(self, *words: str, **popen: Any) -> Said:
        """Return what the guard ends with when its own argv is `words`."""
        main = f"{CHECKOUT}/supervisor/guard/__main__.py"
        return self.says(*words, program=(python(), "-I", "-S", main), **popen)

    def refused(self, *disks: str, **fields: Any) -> Said:
        """Return why a guard of these disks, and of these fields of its spec, did not start."""
        ended = self.guards.refusal(*disks, **fields)
        return said(ended.code, ended.stderr)

    def guest(self, *disks: str, **fields: Any) -> Guard:
        """Start a guest, and wait until it runs."""
        return self.guards.run(*disks, **{"name": "web1", "uuid": UUID, **fields})

    def checkout(self, *, without: str = "") -> str:
        """Copy the command to where everybody may read it, all but one file; returns where."""
        top = self.path("checkout")
        for package in ("bin", "supervisor", "lockplugins"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(f"{CHECKOUT}/{package}", f"{top}/{package}", ignore=ignored)
        below = f".venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        os.makedirs(f"{top}/{below}")
        for pattern in _NEEDED:
            for found in Path(f"{CHECKOUT}/{below}").glob(pattern):
                copy = shutil.copytree if found.is_dir() else shutil.copy
                copy(found, f"{top}/{below}/{found.name}")
        for unwanted in Path(top).glob(without) if without else ():
            unwanted.unlink()
        return top


def said(code: int, stderr: str) -> Said:
    """Return what a process said with its exit code; it must be one line of ours."""
    assert stderr.count("\n") == 1, f"not one line: {stderr!r}, exit {code}"
    assert stderr.startswith(SPEAKER), stderr
    return Said(code, stderr.removeprefix(SPEAKER).rstrip("\n"))


def command(*words: str, **given: Any) -> Provoke:
    """Provoke by one call of the command."""
    return lambda world: world.says(*words, **given)


def run(*words: str, **given: Any) -> Provoke:
    """Provoke by `run` with these words."""
    return command("run", *words, **given)


def qemu(*words: str, options: Sequence[str] = (), **given: Any) -> Provoke:
    """Provoke by `run` of a QEMU with these arguments."""
    return run(*options, "--", QEMU, *words, **given)


def raised(call: Callable[[], object]) -> Said:
    """Provoke by a call that raises."""
    try:
        found = call()
    except LockError as error:
        return Said(error.exit_code, str(error))
    raise AssertionError(f"nothing was raised; returned {found!r}")


def wired(guard: Guard, execute: str, **arguments: object) -> Said:
    """Provoke by a command on the control pipe."""
    with Wire(f"{guard.path}/control") as wire:
        try:
            found = wire.execute(execute, arguments)
        except Refused as refused:
            return Said(int(refused.fields["exit_code"]), refused.desc)
    raise AssertionError(f"not refused: {found!r}")
