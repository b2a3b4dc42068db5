"""When does each guest run, by one clock? A program: judge.py SOCKET, a line of JSON an event.

A guest announces itself and waits (announce.py): its run begins when that is
written down, before QEMU can do anything, and ends when its pidfd says that it
is dead. Who began is compared with nobody here (verdict.py). Deaths are looked
for right before a beginning is stamped: what is not dead then overlaps. It runs
before all others (SCHED_FIFO), so that neither is seen late. No fault touches
it. It must not know who owns what, nor why. Ends with its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass

from tests.faults.race.announce import GO

LONGEST_NAME = 256
_PRIORITY = 50
_CREDENTIALS = struct.Struct("3i")


@dataclass
class Watched:
    """One run that has not ended; `supervisor_fd` is -1 once that is known to be dead."""

    run: str
    pidfd: int
    supervisor_fd: int


class Judge:
    """Stamps beginnings and ends; `say` writes them down."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen(64)
        self._announcing: list[socket.socket] = []
        self._watched: list[Watched] = []

    def serve(self) -> None:
        self.say("ready", "")
        while True:
            poll = select.poll()
            poll.register(sys.stdin, select.POLLIN)
            for sock in (self._listener, *self._announcing):
                poll.register(sock, select.POLLIN)
            for watched in self._watched:
                poll.register(watched.pidfd, select.POLLIN)
                if watched.supervisor_fd >= 0:
                    poll.register(watched.supervisor_fd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll()}
            self._bury()
            if sys.stdin.fileno() in ready:
                return
            for sock in [sock for sock in self._announcing if sock.fileno() in ready]:
                self._announcing.remove(sock)
                with sock:
                    self._begin(sock)
            if self._listener.fileno() in ready:
                self._announcing.append(self._listener.accept()[0])

    def _begin(self, sock: socket.socket) -> None:
        """Write down who announces itself, and let it begin; not who has died meanwhile."""
        run = sock.recv(LONGEST_NAME).decode()
        size = _CREDENTIALS.size
        pid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
        try:
            pidfd = os.pidfd_open(pid)
            supervisor_fd = os.pidfd_open(_parent(pid))
        except (ProcessLookupError, FileNotFoundError):
            return  # the judge's own table of processes is the guest's: it is dead, and never ran
        if not run or _is_readable(sock.fileno()):
            return  # it has gone: that number may be another's
        self._bury()
        self.say("begin", run, pid=pid)
        self._watched.append(Watched(run, pidfd, supervisor_fd))
        sock.send(GO)

    def _bury(self) -> None:
        """Write down who is dead by now."""
        for watched in list(self._watched):
            if watched.supervisor_fd >= 0 and _is_readable(watched.supervisor_fd):
                os.close(watched.supervisor_fd)
                watched.supervisor_fd = -1
                if not _is_readable(watched.pidfd):
                    self.say("orphan", watched.run)
            if _is_readable(watched.pidfd):
                self.say("end", watched.run)
                self._watched.remove(watched)
                os.close(watched.pidfd)
                if watched.supervisor_fd >= 0:
                    os.close(watched.supervisor_fd)

    def say(self, event: str, run: str, pid: int = 0) -> None:
        line = {"event": event, "at": time.monotonic(), "run": run, "pid": pid}
        os.write(1, json.dumps(line).encode() + b"\n")


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def main() -> None:
    with contextlib.suppress(PermissionError):  # then a death may be seen some milliseconds late
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    Judge(sys.argv[1]).serve()


if __name__ == "__main__":
    main()
