"""How does a test play a guard? Files like a guard's, and a control pipe that says what it wants.

For what a real guard does not do on demand: silence, nonsense, halves, late
answers, a pid that is somebody else's. Knows no command.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

from supervisor import rundir

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

GREETING: dict[str, object] = {"QMP": {"version": {}, "capabilities": []}}
UUID = "5f2c1d3e-0000-4000-8000-00000000000a"
DEADLINE_S = 10.0


def guest_json(fields: dict[str, object]) -> dict[str, object]:
    """Return a guest.json of a guard that is this process, with `fields` instead of its own."""
    pid = os.getpid()
    return {
        "uuid": UUID,
        "name": "web1",
        "id": None,
        "plugin": "file",
        "config": {},
        "containment": "pdeathsig",
        "since": "2026-01-02T03:04:05Z",
        "boot_id": rundir.boot_id(),
        "supervisor_pid": pid,
        "supervisor_start_time": rundir.start_time(pid),
        "child_pid": None,
        "child_start_time": None,
        "carrier_inode": 0,
        "leases": [],
        **fields,
    }


def child_of(pid: int) -> dict[str, object]:
    """Return guest.json's fields for a child of this pid."""
    return {"child_pid": pid, "child_start_time": rundir.start_time(pid)}


class Directory:
    """A guest's runtime directory as a guard leaves it; locked, unless `guarded` is false."""

    def __init__(
        self, base: str, fields: dict[str, object] | None = None, *, guarded: bool = True
    ) -> None:
        guest = guest_json(fields or {})
        self.path = os.path.join(base, str(guest["uuid"]))
        os.makedirs(self.path)
        self._lock_fd = os.open(self.file(rundir.SUPERVISOR_PID), os.O_RDWR | os.O_CREAT, 0o600)
        os.write(self._lock_fd, b"%d\n" % os.getpid())
        if guarded:
            whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(self._lock_fd, fcntl.F_OFD_SETLK, whole)
        self.write(guest)
        if guest["child_pid"] is not None:
            with open(self.file(rundir.CHILD_PID), "w", encoding="ascii") as file:
                file.write(f"{guest['child_pid']}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def write(self, guest: dict[str, object]) -> None:
        with open(self.file(rundir.GUEST_JSON), "w", encoding="ascii") as file:
            json.dump(guest, file)

    def die(self) -> None:
        """Let go of the lock, as a guard's death does."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


class Connection:
    """One client of the control pipe."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._lines = peer.makefile("rb")

    def hear(self) -> dict[str, object] | None:
        """Return the next command, None at the end."""
        line = self._lines.readline()
        return dict(json.loads(line)) if line else None

    def say(self, message: object, *fds: int) -> None:
        self.say_raw(json.dumps(message).encode() + b"\r\n", *fds)

    def say_raw(self, data: bytes, *fds: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        self._peer.sendmsg([data], [rights] if fds else [])

    def answer(self, command: dict[str, object], result: object, *fds: int) -> None:
        self.say({"return": result, "id": command["id"]}, *fds)

    def close(self) -> None:
        self._lines.close()
        self._peer.close()


class Control:
    """A control pipe in `directory`; `talk(connection)` is called for each client, one by one."""

    def __init__(self, directory: str, talk: Callable[[Connection], None]) -> None:
        self._talk = talk
        self._listener = socket.socket(socket.AF_UNIX)
        dir_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        try:
            self._listener.bind(f"/proc/self/fd/{dir_fd}/{rundir.CONTROL}")
        finally:
            os.close(dir_fd)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "a client of the stand-in is still connected"
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection(peer)
            try:
                self._talk(connection)
            finally:
                connection.close()


def hanging_up(connection: Connection) -> None:
    """Hear of one command, and say nothing any more."""
    connection.say(GREETING)
    connection.hear()
    connection.say({"return": {}})
    connection.hear()


def answering(
    reply: Callable[[Connection, dict[str, object]], None],
) -> Callable[[Connection], None]:
    """Return a `talk` that greets, agrees on capabilities, and calls `reply` for each command."""

    def talk(connection: Connection) -> None:
        connection.say(GREETING)
        while (command := connection.hear()) is not None:
            if command["execute"] == "qmp_capabilities":
                connection.say({"return": {}})
            else:
                reply(connection, command)

    return talk
