"""How does a test run the guard itself? Starts it for a command, waits for READY or ERROR, reaps.

The guard is started as the front door starts it, by its own argv, in a runtime
directory of the test's own. Judges nothing; what a test concludes, it
concludes from pidfds and from the kernel's books.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import tempfile
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode, Resource
from supervisor import client
from supervisor.spec import GuestSpec, render
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Self

DEADLINE_S = 30.0
IDLE = ("/bin/sleep", "1000000")
LATE = "could not be looked at in time"


@dataclass(frozen=True)
class Ended:
    """How a guard ended: its exit code and all that it wrote to standard error."""

    code: int
    stderr: str


@dataclass
class Guard:
    """One guard process; `child_pid` and `child_pidfd` are set by `ready`."""

    spec: GuestSpec
    process: subprocess.Popen[bytes]
    pidfd: int
    child_pid: int = 0
    child_pidfd: int = -1
    _stderr_fd: int = -1
    _ready_fd: int = -1
    _fds: list[int] = field(default_factory=list)
    _guest_pidfds: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def path(self) -> str:
        """Return the guest's own directory under the runtime directory."""
        return os.path.join(self.spec.runtime_dir, self.spec.uuid)

    def line(self, deadline_s: float = DEADLINE_S) -> str:
        """Return what the guard writes to --ready-fd, "" if it ends without a word."""
        text = b""
        while not text.endswith(b"\n"):
            waiting.readable(self._ready_fd, deadline_s, "the guard says READY or ERROR")
            if not (data := os.read(self._ready_fd, 4096)):
                break
            text += data
        return text.decode("utf-8", "surrogateescape")

    def ready(self, deadline_s: float = DEADLINE_S) -> Self:
        """Wait until the guest runs, and open its pidfd."""
        line = self.line(deadline_s)
        assert line.startswith("READY child="), f"{line!r}; stderr: {self.stderr()}"
        self.child_pid = int(line.split()[1].removeprefix("child="))
        self.child_pidfd = os.pidfd_open(self.child_pid)
        self._guest_pidfds.append(self.child_pidfd)
        return self

    def refused(self, deadline_s: float = DEADLINE_S) -> Ended:
        """Wait until the guard has said ERROR and is gone."""
        line = self.line(deadline_s)
        ended = self.wait(deadline_s)
        assert line.startswith(f"ERROR {ended.code} cannot "), f"{line!r}; {ended}"
        return ended

    def wait(self, deadline_s: float = DEADLINE_S) -> Ended:
        """Wait until the guard is gone; a death by signal n counts -n."""
        waiting.gone(self.pidfd, deadline_s)
        return Ended(self.process.wait(), self.stderr())

    def stderr(self) -> str:
        size = os.fstat(self._stderr_fd).st_size
        return os.pread(self._stderr_fd, size, 0).decode("utf-8", "surrogateescape")

    def connect(self, deadline_s: float = DEADLINE_S) -> client.Client:
        """Connect to the control pipe with the product's own client."""
        return client.connect(self.path, deadline_s)

    def status(self, deadline_s: float = DEADLINE_S) -> dict[str, object]:
        """Return the status once it tells of the guest: a busy QEMU may be late for one answer."""

        def told() -> dict[str, object]:
            status = asking.execute("query-status", timeout_s=deadline_s)
            assert isinstance(status, dict)
            return {} if LATE in str(status["guarantee"]) else status

        with self.connect(deadline_s) as asking:
            return waiting.until(told, deadline_s, "the guest is looked at in time")

    def kill(self) -> None:
        """SIGKILL the guard, and with it the guest; returns when both are dead."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.wait()
        if self.child_pidfd >= 0:
            waiting.gone(self.child_pidfd, DEADLINE_S)

    def reap(self) -> None:
        """End what is left of it, even a guest that got away; close what this object owns."""
        if self.process.poll() is None:
            self._guest_pidfds += pidfds_below(self.pid)
            self.process.kill()
        self.process.wait(DEADLINE_S)
        for pidfd in self._guest_pidfds:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            waiting.gone(pidfd, DEADLINE_S)
        for fd in (*self._fds, *self._guest_pidfds):
            os.close(fd)


class Guards:
    """Starts guards whose runtime directory is in `tmp_path`, and reaps them all."""

    def __init__(self, tmp_path: Path) -> None:
        self.runtime_dir = str(tmp_path / "run")
        self.defaults: dict[str, object] = {}
        self.env: dict[str, str] = {}  # what every guard has besides the test's own
        self.started: list[Guard] = []
        self._before = set(descendants(os.getpid()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        while self.started:
            self.started.pop().reap()

    def left(self) -> list[int]:
        """Return the processes below the test's own that were not there at first."""
        return [pid for pid in descendants(os.getpid()) if pid not in self._before]

    def end(self, guard: Guard) -> None:
        """Reap one of them now: a test of many rounds keeps nothing of the last one."""
        self.started.remove(guard)
        guard.reap()

    def spec(self, *disks: str | os.PathLike[str] | tuple[str, str], **fields: object) -> GuestSpec:
        """Return a spec with a uuid of its own; a disk is a path (exclusive) or (mode, path).

        `fields` are attributes of GuestSpec, on top of `defaults`.
        """
        spec = GuestSpec("guest", str(uuid.uuid4()), self.runtime_dir)
        spec.import_dirs = [_import_dir("prctl")]
        for disk in disks:
            mode, path = disk if isinstance(disk, tuple) else (Mode.EXCLUSIVE, os.fspath(disk))
            spec.resources.append(Resource(path, mode))
        for name, value in (self.defaults | fields).items():
            assert hasattr(spec, name), f"GuestSpec has no {name}"
            setattr(spec, name, value)
        return spec

    def start(
        self,
        spec: GuestSpec,
        command: Sequence[str] = IDLE,
        *,
        pass_fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
        argv_of: Callable[[GuestSpec], list[str]] = render,
        **popen: Any,
    ) -> Guard:
        """Start the guard of `spec` for `command` and do not wait; `prefix` may be strace.

        `popen` are subprocess.Popen's; standard output and error go to `stderr()`.
        `argv_of` says how the guard is called: directly, unless it says otherwise.
        """
        ready_fd, spec.ready_fd = os.pipe()
        with tempfile.TemporaryFile() as stderr:
            streams = {"stdin": subprocess.DEVNULL, "stdout": stderr, "stderr": stderr}
            popen = {**streams, "env": {**os.environ, **self.env}, **popen}
            process: subprocess.Popen[bytes] = subprocess.Popen(
                [*prefix, *argv_of(spec), *command], pass_fds=(*pass_fds, spec.ready_fd), **popen
            )
            os.close(spec.ready_fd)
            stderr_fd = os.dup(stderr.fileno())
        pidfd = os.pidfd_open(process.pid)
        guard = Guard(spec, process, pidfd, _stderr_fd=stderr_fd, _ready_fd=ready_fd)
        guard._fds += [pidfd, stderr_fd, ready_fd]
        self.started.append(guard)
        return guard

    def run(
        self,
        *disks: str | os.PathLike[str] | tuple[str, str],
        command: Sequence[str] = IDLE,
        **fields: object,
    ) -> Guard:
        """Start a guard for `command` and wait until that runs."""
        return self.start(self.spec(*disks, **fields), command).ready()

    def refusal(
        self,
        *disks: str | os.PathLike[str] | tuple[str, str],
        command: Sequence[str] = IDLE,
        **fields: object,
    ) -> Ended:
        """Start a guard that has to refuse, and return how it ended."""
        return self.start(self.spec(*disks, **fields), command).refused()


@pytest.fixture
def guards(tmp_path: Path) -> Iterator[Guards]:
    """Give a test its own runtime directory to start guards in."""
    with Guards(tmp_path) as started:
        yield started


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, of any of its threads, parents first."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                for child in map(int, file.read().split()):
                    found += [child, *descendants(child)]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def pidfds_below(pid: int) -> list[int]:
    """Return pidfds of what `descendants` names, as far as it is still there."""
    pidfds = []
    for below in descendants(pid):
        try:
            pidfds.append(os.pidfd_open(below))
        except ProcessLookupError:
            continue
    return pidfds


def _import_dir(module: str) -> str:
    found = importlib.util.find_spec(module)
    assert found is not None, f"{module} is not installed"
    assert found.origin is not None, f"{module} is no file"
    return os.path.dirname(found.origin)
