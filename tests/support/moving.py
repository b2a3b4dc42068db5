"""How does a test migrate a guest? Between two supervisors of this host, or without any.

Each end has a runtime directory, a QEMU with a monitor of the test's own, and
the control pipe. The guest is the one that writes without pause. Judges
nothing.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import sources, waiting
from tests.support.guard import Guards
from tests.support.qemu import STAYS_SHARED, Monitor, guest_argv, shared_memory, wait_ready
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from tests.support.guard import Guard

DEADLINE_S = 60.0
NAME = "web1"
_PYTHON = getattr(sys, "_base_executable", sys.executable)


class End:
    """One QEMU, under a guard or not, that runs the guest or waits for it at `uri`."""

    def __init__(
        self,
        world: World,
        guards: Guards | None,
        uri: str | None,
        machine: str = "pc",
        pass_fds: Sequence[int] = (),
        **fields: Any,
    ) -> None:
        self.world, self.uri = world, uri
        self.monitor = Monitor()
        awaits = [] if uri is None else ["-incoming", uri, "-S"]
        extra = [*self.monitor.argv, *world.memory, *awaits, "-machine", machine]
        argv = guest_argv(
            world.disk,
            nonce=world.nonce,
            serial="stdio",
            extra=extra,
            locking_off=world.locking_off,
        )
        popen: dict[str, Any] = {"stdout": subprocess.PIPE, "bufsize": 0}
        self.guard: Guard | None = None
        if guards is None:
            self.process = subprocess.Popen(
                argv, pass_fds=[self.monitor.fd], stdin=subprocess.DEVNULL, **popen
            )
        else:
            wait_s = DEADLINE_S if uri else 0.0  # a sharer that tries has byte 2 at times
            fields = {"name": NAME, "uuid": world.uuid, "incoming": uri is not None, **fields}
            spec = guards.spec(world.disk, wait_s=wait_s, **fields)
            self.guard = guards.start(spec, argv, pass_fds=[self.monitor.fd, *pass_fds], **popen)
            self.process = self.guard.process
        self.come_up()

    def come_up(self) -> None:
        """Return when the guest writes, or is awaited."""
        if self.guard is not None:
            self.guard.ready(DEADLINE_S)
            self.control = self.another_client()
        if self.uri is None:
            assert self.process.stdout is not None
            wait_ready(self.process.stdout, deadline_s=DEADLINE_S)
        else:
            assert self.qemu() == "inmigrate"
        self.monitor.execute("migrate-set-capabilities", **STAYS_SHARED)

    @property
    def child_pidfd(self) -> int:
        assert self.guard is not None
        return self.guard.child_pidfd

    def state(self) -> str:
        return str(self.control.execute("query-status")["state"])

    def leases(self) -> list[tuple[str, str]]:
        return [(x["mode"], x["state"]) for x in self.control.execute("query-leases")]

    def prepare(self) -> str:
        cookie = self.control.execute("prepare-migrate", {"uri": "to the other end"})["cookie"]
        assert isinstance(cookie, str)
        return cookie

    def send_to(self, other: End) -> None:
        """Migrate to `other`; returns when this end has stopped for good."""
        self.monitor.execute("migrate", uri=other.uri)
        self.until_qemu("postmigrate")

    def until_qemu(self, status: str) -> None:
        waiting.until(lambda: self.qemu() == status, DEADLINE_S, f"QEMU is {status}")

    def until(self, state: str) -> None:
        waiting.until(lambda: self.state() == state, DEADLINE_S, f"the guest is {state}")

    def qemu(self) -> str:
        answer = self.monitor.execute("query-status")
        assert isinstance(answer, dict)
        return str(answer["status"])

    def complete_in(self, cookie: str, timeout_s: float = DEADLINE_S) -> None:
        asked = {"cookie": cookie, "timeout_s": timeout_s}
        assert self.control.execute("complete-migrate-in", asked, DEADLINE_S) == {}

    def cancel_in(self) -> None:
        assert self.control.execute("complete-migrate-in", {"cancel": True}, DEADLINE_S) == {}

    def another_client(self) -> Wire:
        assert self.guard is not None
        return Wire(f"{self.guard.path}/control")

    def complete_out(self) -> None:
        assert self.control.execute("complete-migrate-out", {}, DEADLINE_S) == {}

    def cancel_out(self) -> None:
        assert self.control.execute("complete-migrate-out", {"cancel": True}, DEADLINE_S) == {}

    def told(self) -> str:
        """Return how it is, for the report of a test that failed."""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        console = self.process.stdout.read() or b""
        words = "nobody's" if self.guard is None else self.guard.stderr()
        return f"pid {self.process.pid}, exit code {self.process.poll()}: {words}{console!r}"

    def close(self) -> None:
        if self.guard is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        else:
            self.control.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.monitor.__exit__()


class Hesitant(End):
    """A destination whose leases are acquired, and which has not been told to go yet."""

    def __init__(self, world: World, guards: Guards, uri: str) -> None:
        self._shake, self._theirs = socket.socketpair()
        fd = self._theirs.fileno()
        super().__init__(world, guards, uri, pass_fds=[fd], handshake_fd=fd)

    def come_up(self) -> None:
        self._theirs.close()
        waiting.readable(self._shake.fileno(), DEADLINE_S, "the destination has acquired")
        assert self._shake.recv(100) == b"ACQUIRED\n"
        assert self.guard is not None
        self.control = self.another_client()
        self.guard.child_pidfd = os.pidfd_open(self.control.execute("query-child")["pid"])

    def hang_up(self) -> None:
        self._shake.close()

    def close(self) -> None:
        self.hang_up()
        super().close()
        os.close(self.child_pidfd)


class World:
    """A disk, its guest, and two runtime directories to have it in; a context."""

    def __init__(self, directory: Path, disk_bytes: int = 1 << 20) -> None:
        self.disk = str(directory / "disk.raw")
        with open(self.disk, "wb") as file:
            file.truncate(disk_bytes)
        self.memory = shared_memory(directory / "memory")
        self.locking_off = True
        self.uuid = str(uuid.uuid4())
        self.nonce = os.urandom(8).hex()
        self.hosts = tuple(Guards(directory / name) for name in ("here", "there"))
        self._directory = directory
        self._ends: list[End] = []
        self._sockets = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._ends:
            end = self._ends.pop()
            print(end.told())
            end.close()
        for guards in self.hosts:
            guards.__exit__(kind, error, trace)

    def boot(self, host: int = 0, **fields: Any) -> End:
        """Start the guest under a guard; returns when it writes."""
        return self._add(End(self, self.hosts[host], None, **fields))

    def receive(self, host: int = 1, **fields: Any) -> End:
        """Start the other end, which waits for the guest."""
        return self._add(End(self, self.hosts[host], self._uri(), **fields))

    def hesitate(self, host: int = 1) -> Hesitant:
        """Start the other end, which waits for GO."""
        end = Hesitant(self, self.hosts[host], self._uri())
        self._add(end)
        return end

    def host_of(self, end: End) -> int:
        """Return which of the two hosts an end is on."""
        return [end.guard in guards.started for guards in self.hosts].index(True)

    def bare(self, *, waits: bool) -> End:
        """Start an end that nobody supervises."""
        return self._add(End(self, None, self._uri() if waits else None))

    def want(self, mode: str) -> Guard:
        """Start a stranger's guard that waits for the disk as long as it takes."""
        guards = self.hosts[0]
        return guards.start(guards.spec((mode, self.disk), wait_s=float("inf")))

    def end(self, end: End) -> None:
        """End one that has been moved away from: a test of many rounds keeps none of them."""
        self._ends.remove(end)
        end.close()

    def _uri(self) -> str:
        self._sockets += 1
        return f"unix:{self._directory}/{self._sockets}.sock"

    def _add(self, end: End) -> End:
        self._ends.append(end)
        return end


class Intruder:
    """The program that tries to get in, from the beginning of a context to its end."""

    def __init__(self, *words: str, program: str = "intruding.py", **env: str) -> None:
        path = os.path.join(sources.CHECKOUT, "tests/support", program)
        argv = [_PYTHON, "-I", "-S", path, *words]
        self._process = subprocess.Popen(
            argv, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.tried = 0

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        waiting.readable(self._process.stdout.fileno(), DEADLINE_S, "the intruder tries")
        assert self._process.stdout.readline() == b"intruding\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=DEADLINE_S)

    def got_in(self) -> int:
        """End it; returns how often it got in."""
        said = self._process.communicate(b".", timeout=DEADLINE_S)[0]
        self.tried, got_in = map(int, said.split()[-2:])
        return got_in


@pytest.fixture
def world(tmp_path: Path, require: Callable[[str], str]) -> Iterator[World]:
    """Give a test a guest's disk, and two hosts."""
    require("qemu-system-x86_64")
    with World(tmp_path) as made:
        yield made


@pytest.fixture
def without_us(tmp_path: Path, world: World) -> Iterator[World]:  # noqa: ARG001  # beside it
    """Give a test another guest's disk, for comparison."""
    apart = tmp_path / "without-us"
    apart.mkdir()
    with World(apart) as made:
        yield made
