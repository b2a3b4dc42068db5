"""How is a command started, and what does that cost? By posix_spawn(3), which is vfork and exec.

What is started under a lock is a small static program, compiled here: it writes
CLOCK_MONOTONIC to a descriptor as its first act and again as its last. It must
not know what a command is an example of.
"""

from __future__ import annotations

import os
import re
import select
import signal
import struct
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEADLINE_S = 60.0
# Numbers in the child, clear of what the driver has open itself.
STAMP_FD, GO_FD, READY_FD, QMP_FD, MARKS_FD = range(190, 195)

_STAMP_BYTES = 8
_LOG_TAIL = 2000
_STAMPS_HELD = 1000
_PROGRAM = """
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static void stamp(int fd) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    long long ns = t.tv_sec * 1000000000LL + t.tv_nsec;
    if (write(fd, &ns, sizeof ns) != sizeof ns) _exit(99);
}
int main(int argc, char **argv) {
    char byte;
    stamp(atoi(argv[1]));
    if (argc > 2 && read(atoi(argv[2]), &byte, 1) < 0) _exit(99);
    stamp(atoi(argv[1]));
    _exit(0);
}
"""


class BenchError(Exception):
    """A command did not do what is to be measured."""


@dataclass(frozen=True)
class Cost:
    """One run: to the command's first instruction, and of the whole process, in milliseconds."""

    launch_ms: float
    whole_ms: float
    cpu_ms: float
    faults: int


@dataclass(frozen=True)
class Started:
    """A process that runs; `at` is the instant of time.monotonic_ns() before it was started."""

    pid: int
    pidfd: int
    at: int


class Lab:
    """The place of one benchmark: two directories, the stamping program, what was started.

    Guards have their runtime directory in `runtime_dir`. A context: at its end
    nothing that it started runs any more.
    """

    def __init__(self, directory: str, runtime_dir: str) -> None:
        self.directory = directory
        self.runtime_dir = runtime_dir
        self.env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": directory}
        self.stamp = _compile(directory)
        self.command = [self.stamp, str(STAMP_FD)]
        self.holding = [*self.command, str(GO_FD)]
        self._log_fd = os.open(os.path.join(directory, "stderr"), os.O_RDWR | os.O_CREAT)
        self._stamps, self._stamps_write = os.pipe()
        self._alive: dict[int, Started] = {}
        # Held programs read from here: nothing comes until this process ends.
        self.never, self._never_write = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for started in list(self._alive.values()):
            self.end(started)
        for fd in (self._log_fd, self._stamps, self._stamps_write, self.never, self._never_write):
            os.close(fd)

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def image(self, name: str) -> str:
        """Return a sparse file of 1 MiB, made if it is not there; `name` may be any text."""
        path = self.path(re.sub(r"[^a-z0-9]+", "-", name.lower()) + ".raw")
        with open(path, "ab") as file:
            file.truncate(1 << 20)
        return path

    def spawn(self, argv: list[str], fds: Mapping[int, int] | None = None) -> Started:
        """Start `argv` with descriptors `fds` ({number there: ours}); STAMP_FD is passed always."""
        given = {2: self._log_fd, STAMP_FD: self._stamps_write, GO_FD: self.never, **(fds or {})}
        actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_RDWR, 0),
            *((os.POSIX_SPAWN_DUP2, ours, number) for number, ours in given.items()),
        ]
        at = time.monotonic_ns()
        pid = os.posix_spawn(argv[0], argv, self.env, file_actions=actions)
        started = Started(pid, os.pidfd_open(pid), at)
        self._alive[pid] = started
        return started

    def run(self, argv: list[str], fds: Mapping[int, int] | None = None) -> Cost:
        """Run `argv` to its end; `launch_ms` is 0 if it starts nothing that stamps."""
        started = self.spawn(argv, fds)
        waiting.gone(started.pidfd, DEADLINE_S)
        end = time.monotonic_ns()
        usage = self.reap(started, expected=0)
        stamps = self.stamps()
        return Cost(
            (stamps[0] - started.at) / 1e6 if stamps else 0.0,
            (end - started.at) / 1e6,
            (usage.ru_utime + usage.ru_stime) * 1e3,
            usage.ru_minflt,
        )

    def reap(self, started: Started, expected: int | None = None) -> _Usage:
        """Collect a process that is dead; raises BenchError unless it ended as `expected`."""
        _, status, usage = os.wait4(started.pid, 0)
        os.close(started.pidfd)
        del self._alive[started.pid]
        code = os.waitstatus_to_exitcode(status)
        if expected is not None and code != expected:
            raise BenchError(f"process ended with {code}; it said: {self.said()}")
        return usage

    def end(self, started: Started) -> None:
        """SIGKILL what was started, and wait for its death."""
        signal.pidfd_send_signal(started.pidfd, signal.SIGKILL)
        waiting.gone(started.pidfd, DEADLINE_S)
        self.reap(started)

    def stamps(self) -> list[int]:
        """Return the stamps that wait to be read, as time.monotonic_ns() counts."""
        data = b""
        while select.select([self._stamps], [], [], 0)[0]:
            data += os.read(self._stamps, _STAMP_BYTES * _STAMPS_HELD)
        return [stamp for (stamp,) in struct.iter_unpack("q", data)]

    def await_stamp(self, started: Started) -> int:
        """Wait for one stamp from below `started`; raises BenchError if that ends without one."""
        self.await_readable(self._stamps, started)
        return int(struct.unpack("q", os.read(self._stamps, _STAMP_BYTES))[0])

    def stamp_or_end(self, started: Started) -> int | None:
        """Wait for one stamp from below `started`; None: it ended without one, and is reaped."""
        if self._stamps in select.select([self._stamps, started.pidfd], [], [], DEADLINE_S)[0]:
            return self.await_stamp(started)
        waiting.gone(started.pidfd, DEADLINE_S)
        self.reap(started)
        return None

    def await_readable(self, fd: int, started: Started) -> None:
        """Wait for `fd`; raises BenchError if `started` ends before."""
        ready = select.select([fd, started.pidfd], [], [], DEADLINE_S)[0]
        if fd not in ready:
            how = "ended" if ready else f"was silent for {DEADLINE_S:g} s"
            raise BenchError(f"what was started {how}; it said: {self.said()}")

    def said(self) -> str:
        """Return the end of what everything started here wrote to standard error."""
        size = os.fstat(self._log_fd).st_size
        text = os.pread(self._log_fd, _LOG_TAIL, max(0, size - _LOG_TAIL))
        return text.decode("utf-8", "replace").strip()


if TYPE_CHECKING:
    import resource

    _Usage = resource.struct_rusage


def first_below(pid: int) -> int:
    """Return a process that any thread of `pid` started; raises BenchError if there is none."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
            if found := file.read().split():
                return int(found[0])
    raise BenchError(f"process {pid} has no child")


def tool(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Run a command of the set-up; returns its output, raises BenchError if it fails."""
    done = subprocess.run(
        argv, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BenchError(f"{argv[0]}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _compile(directory: str) -> str:
    source, program = os.path.join(directory, "stamp.c"), os.path.join(directory, "stamp")
    with open(source, "w", encoding="ascii") as file:
        file.write(_PROGRAM)
    tool(["cc", "-O2", "-static", "-o", program, source], os.environ)
    return program
