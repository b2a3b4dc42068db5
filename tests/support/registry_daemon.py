"""Which lock manager knows its holders by their processes? A stand-in, a program of its own.

registry_daemon.py DIRECTORY: listens on the socket `daemon` there. A line is a
request: `register NAME INODE` takes a write lock on the file NAME.lease until
that connection ends, `acquire NAME PID` is answered by whether PID is who
registered as NAME, `open` is answered. The file `how` says what becomes of a
`register`: one of the words below. Each is a line `PID NAME INODE` in the file
`log`, its pid as the kernel tells it. Runs under `python -I -S`.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import sys

WELL = "well"
REFUSE = "refuse"
LEAVE = "leave"  # end without an answer
STOP = "stop"  # SIGSTOP oneself: connect(2) and send(2) go on to succeed

_WRITE_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
_UCRED = "3i"


class Daemon:
    """Serves connections until it is killed."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.path.join(directory, "daemon"))
        self._listener.listen()
        self._poll = select.poll()
        self._poll.register(self._listener, select.POLLIN)
        self._connections: dict[int, socket.socket] = {}
        self._registered: dict[str, tuple[int, int, int]] = {}  # pid, connection, lease

    def serve(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._listener.fileno():
                    connection = self._listener.accept()[0]
                    self._connections[connection.fileno()] = connection
                    self._poll.register(connection, select.POLLIN)
                else:
                    self._hear(fd)

    def _hear(self, fd: int) -> None:
        connection = self._connections[fd]
        line = connection.recv(1 << 10).decode()
        if line:
            connection.sendall(self._obey(connection, *line.split()).encode())
            return
        for name, (_, its, lease_fd) in list(self._registered.items()):
            if its == fd:
                del self._registered[name]
                os.close(lease_fd)
        self._poll.unregister(fd)
        self._connections.pop(fd).close()

    def _obey(self, connection: socket.socket, word: str, *rest: str) -> str:
        if word == "register":
            return self._register(connection, *rest)
        if word == "acquire":
            name, pid = rest
            is_known = name in self._registered and self._registered[name][0] == int(pid)
            return "well" if is_known else f"{name} is {self._registered.get(name)}"
        return "well"

    def _register(self, connection: socket.socket, name: str, inode: str) -> str:
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(_UCRED)
        )
        pid = struct.unpack(_UCRED, credentials)[0]
        with open(os.path.join(self._directory, "log"), "a", encoding="ascii") as log:
            log.write(f"{pid} {name} {inode}\n")
        with open(os.path.join(self._directory, "how"), encoding="ascii") as file:
            how = file.read()
        if how == LEAVE:
            sys.exit()
        if how == STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == REFUSE:
            return REFUSE
        lease_fd = os.open(os.path.join(self._directory, f"{name}.lease"), os.O_RDWR | os.O_CREAT)
        fcntl.fcntl(lease_fd, fcntl.F_OFD_SETLK, _WRITE_LOCK)
        self._registered[name] = (pid, connection.fileno(), lease_fd)
        return "well"


if __name__ == "__main__":
    Daemon(sys.argv[1]).serve()
