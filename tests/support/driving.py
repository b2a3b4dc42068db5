"""How does a management daemon drive both ends of a migration, and what does its successor do?

A process of its own, to be killed. It knows the guest's uuid, both runtime
directories, and a file where it keeps the cookie: so whoever comes after it
can finish what it has begun, or cancel it. QEMU's own monitors are the test's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from tests.support.moving import End, World

DEADLINE_S = 60.0
_PROGRAM = """
import os, sys
import lockplugins
from lockplugins.contract import LockError
from supervisor.manager import LockManager, MigrateFlags, NewFlags, ObjectType

uuid, here_dir, there_dir, kept = sys.argv[1:]

def attach(runtime_dir):
    plugin = lockplugins.load("file")
    manager = LockManager(plugin, ObjectType.DOMAIN, NewFlags.ATTACH, runtime_dir=runtime_dir)
    manager.set_parameter("uuid", uuid)
    return manager

def state(manager):
    try:
        return manager.get_child(0).state
    except LockError:
        return "gone"

here, there = attach(here_dir), attach(there_dir)
leaving = ("migrating-out", "migrated")

def prepare():
    cookie = here.prepare_migrate("to the other end")
    with open(kept + ".new", "w") as file:
        file.write(cookie)
    os.rename(kept + ".new", kept)

def complete_in():
    with open(kept) as file:
        there.complete_migrate_in(cookie=file.read())

def complete_out():
    here.complete_migrate_out()

def finish():
    if state(there) == "incoming":
        complete_in()
    if state(here) in leaving:
        complete_out()

def cancel():
    if state(there) == "incoming":
        there.complete_migrate_in(MigrateFlags.CANCEL)
    if state(here) in leaving and state(there) == "gone":
        here.complete_migrate_out(MigrateFlags.CANCEL)

print("up", flush=True)
for line in sys.stdin:
    globals()[line.strip()]()
    print("done", flush=True)
"""


class Driver:
    """The daemon; a context that kills it."""

    def __init__(self, world: World, source: End, kept: Path) -> None:
        here = world.host_of(source)
        directories = (world.hosts[here].runtime_dir, world.hosts[1 - here].runtime_dir)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, world.uuid, *directories, os.fspath(kept)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._hear("up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def do(self, step: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{step}\n")
        self._process.stdin.flush()
        self._hear("done")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=DEADLINE_S)

    def _hear(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{word}\n"
