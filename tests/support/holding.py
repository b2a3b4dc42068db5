"""In which ways can a disk be held? By guests of ours in every state, by others, by nobody seen.

Each way returns what `who` has to say of it. Judges nothing.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lockplugins.contract import Mode
from supervisor.spec import Containment
from tests.support import insight, waiting
from tests.support.guard import DEADLINE_S, Guards
from tests.support.locking import READ, WRITE, Locker
from tests.support.qemu import idle_argv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.gate import Gate
    from tests.support.guard import Guard

HOST = os.uname().nodename
OUTLIVES = ("/usr/bin/setpriv", "--pdeathsig", "clear", "/bin/sleep", "1000000")
UNSEEN = "a process that cannot be seen from here ("
NOTHING_KNOWN = dict.fromkeys(
    ("host", "guest", "uuid", "supervisor_pid", "child_pid", "since", "generation")
)

Holders = list[tuple[str, dict[str, object], str]]  # mode, fields, how the description begins


class World:
    """A disk, and all that it takes to have somebody hold it until the test's end."""

    def __init__(self, tmp_path: Path, guards: Guards, gate: Gate) -> None:
        self.guards = guards
        self.gate = gate
        self.elsewhere = tmp_path / "elsewhere"
        self.until_end = ExitStack()
        self.disk = str(tmp_path / "disk\x1b[2J.raw")
        with open(self.disk, "wb") as file:
            file.truncate(1 << 20)

    def orphan(self, mode: str) -> Guard:
        """Return a guard that is dead while its guest lives on."""
        fields: dict[str, object] = {"name": "web1", "containment": Containment.PDEATHSIG}
        guard = self.guards.run((mode, self.disk), command=OUTLIVES, **fields)
        cleared = b"/bin/sleep"
        waiting.until(
            lambda: insight.read(guard.child_pid, "cmdline").startswith(cleared),
            DEADLINE_S,
            "the guest has disarmed its parent-death signal",
        )
        os.kill(guard.pid, signal.SIGKILL)
        guard.wait()
        return guard

    def in_flight(self, kind: int) -> None:
        """Have the disk locked by a description that no process has open."""
        sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.until_end.enter_context(sender)
        self.until_end.enter_context(receiver)
        fd = os.open(self.disk, os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 1, 0))
        socket.send_fds(sender, [b"x"], [fd])
        os.close(fd)

    def locker(self, kind: int, *, posix: bool) -> Locker:
        return self.until_end.enter_context(Locker(self.disk, kind=kind, posix=posix))


def ours(guard: Guard, mode: str = Mode.EXCLUSIVE) -> tuple[str, dict[str, object], str]:
    words = f"guest {guard.spec.name} ({guard.spec.uuid}), supervisor pid {guard.pid}, "
    fields = {
        "host": HOST,
        "guest": guard.spec.name,
        "uuid": guard.spec.uuid,
        "supervisor_pid": guard.pid,
        "child_pid": guard.child_pid or None,
    }
    return mode, fields, words


def another(locker: Locker, mode: str = Mode.EXCLUSIVE) -> tuple[str, dict[str, object], str]:
    return mode, {**NOTHING_KNOWN, "host": HOST}, f"process {locker.pid} (python"


def running(world: World) -> Holders:
    return [ours(world.guards.run(world.disk, name="web1", command=idle_argv(world.disk)))]


def acquiring(world: World) -> Holders:
    """Its first lease is held, its second lock manager does not answer."""
    fields = {**world.gate.fields, "plugin": "file+gate", "name": "web1"}
    world.gate.shut("acquire")
    guard = world.guards.start(world.guards.spec(world.disk, **fields))
    world.gate.wait("acquire")
    return [ours(guard)]


def of_another_runtime_directory(world: World) -> Holders:
    elsewhere = world.until_end.enter_context(Guards(world.elsewhere))
    return [ours(elsewhere.run(world.disk, name="web1"))]


def as_virtlockd(world: World) -> Holders:
    return [another(world.locker(WRITE, posix=True))]


def by_another_program(world: World) -> Holders:
    return [another(world.locker(WRITE, posix=False))]


def shared_by_three(world: World) -> Holders:
    shared = (Mode.SHARED, world.disk)
    guards = [world.guards.run(shared, name=name) for name in ("web1", "web2")]
    reader = world.locker(READ, posix=True)
    return [*(ours(guard, Mode.SHARED) for guard in guards), another(reader, Mode.SHARED)]


def only_in_flight(world: World) -> Holders:
    world.in_flight(WRITE)
    return [(Mode.EXCLUSIVE, NOTHING_KNOWN, UNSEEN)]


def one_seen_one_in_flight(world: World) -> Holders:
    world.in_flight(READ)
    reader = world.locker(READ, posix=False)
    return [another(reader, Mode.SHARED), (Mode.SHARED, NOTHING_KNOWN, UNSEEN)]


def outliving_its_guard(world: World) -> Holders:
    guard = world.orphan(Mode.EXCLUSIVE)
    mode, fields, _ = ours(guard)
    words = f"guest web1 ({guard.spec.uuid}), its supervisor dead, guest pid {guard.child_pid}, "
    return [(mode, {**fields, "supervisor_pid": None}, words)]


def outliving_its_guard_beside_another(world: World) -> Holders:
    guard = world.orphan(Mode.SHARED)
    reader = world.locker(READ, posix=False)
    fields = {"guest": "web1", "child_pid": guard.child_pid, "supervisor_pid": None}
    words = f"guest web1 ({guard.spec.uuid}), its supervisor dead"
    return [another(reader, Mode.SHARED), (Mode.SHARED, fields, words)]
