"""Does the guest's end hold exactly what it should? Judged by another process's lock attempts.

Each lease is an OFD lock whose description is in flight and nowhere else, so
that its file is locked if and only if the carrier carries it.
"""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockplugins.contract import LockError
from supervisor.guard.carrier import CAPACITY, Carrier
from supervisor.guard.descriptors import Shelf
from tests.support import waiting
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_S = 20
FEW = 6
LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
_PROBER = """
import fcntl, os, struct, sys
kinds = [struct.pack("hhqqi4x", kind, 0, 0, 1, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK)]
fds = [os.open(path, os.O_RDWR) for path in sys.argv[1:]]
while os.read(0, 1):
    answer = bytearray()
    for fd in fds:
        try:
            for kind in kinds:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, kind)
            answer += b"."
        except BlockingIOError:
            answer += b"L"
    os.write(1, answer)
"""


class Prober:
    """Another process, which says which of its files are locked by somebody else."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROBER, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def locked(self) -> set[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"?")
        waiting.readable(self.process.stdout.fileno(), DEADLINE_S, "the prober answers")
        answer = self.process.stdout.read(len(self.paths))
        return {path for path, state in zip(self.paths, answer, strict=True) if state == ord("L")}


@contextmanager
def probing(directory: Path, count: int) -> Iterator[Prober]:
    paths = [os.path.join(directory, str(number)) for number in range(count)]
    for path in paths:
        with open(path, "wb"):
            pass
    prober = Prober(paths)
    try:
        yield prober
    finally:
        prober.process.kill()
        prober.process.communicate(timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def prober(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prober]:
    with probing(tmp_path_factory.mktemp("locks"), FEW) as process:
        yield process


@contextmanager
def carrying() -> Iterator[Carrier]:
    carrier = Carrier(Shelf([]))
    try:
        yield carrier
    finally:
        carrier._sender.close()
        carrier._receiver.close()


def keep(carrier: Carrier, path: str) -> None:
    """Lock `path`, and leave the lock to the carrier alone."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, LOCK)
        carrier.keep(path, fd)
    finally:
        os.close(fd)


@given(st.lists(st.integers(0, FEW - 1), max_size=30))
def test_what_is_in_flight_is_what_should_be(prober: Prober, toggles: list[int]) -> None:
    with carrying() as carrier:
        expected: set[str] = set()
        for number in toggles:
            path = prober.paths[number]
            if path in expected:
                carrier.drop(path)
                expected.remove(path)
            else:
                keep(carrier, path)
                expected.add(path)
            assert prober.locked() == expected
    assert prober.locked() == set()


# Each guard is killed one step later than the last one, until it lives to see its drop done. The
# guest's end stays with its parent, which then looks which locks are gone.
_KILLED = """
import fcntl, os, struct, sys
sys.path[:0] = [sys.argv[1]]
from supervisor.guard.carrier import Carrier
from supervisor.guard.descriptors import Shelf

WRITE, NONE = (struct.pack("hhqqi4x", kind, 0, 0, 1, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK))

class Dying(Carrier):
    steps = 1000

    def step(self):
        self.steps -= 1
        if self.steps < 0:
            os._exit(1)

    def _send(self, token, fd):
        self.step()
        super()._send(token, fd)
        self.step()

    def _receive(self, flags):
        self.step()
        received = super()._receive(flags)
        self.step()
        return received

def locked(path):
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, WRITE)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False

def killed(paths, dropped, steps):
    carrier = Dying(Shelf([]))
    for path in paths:
        fd = os.open(path, os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, WRITE)
        carrier.keep(path, fd)
        os.close(fd)
    pid = os.fork()
    if pid == 0:
        carrier.steps = steps
        carrier.drop(dropped)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    free = [path for path in paths if not locked(path)]
    carrier._sender.close()
    carrier._receiver.close()
    return ended, free

for dropped in (paths := sys.argv[2:]):
    steps, ended = 0, 1
    while ended:
        ended, free = killed(paths, dropped, steps)
        assert free in ([], [dropped]), (dropped, steps, free)
        steps += 1
    assert free == [dropped]
    print(steps)
"""


def test_sigkill_between_any_steps_of_a_drop_frees_no_other(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(FEW)]
    for path in paths:
        path.touch()
    argv = [sys.executable, "-I", "-S", "-W", "ignore", "-c", _KILLED, CHECKOUT, *map(str, paths)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    steps = [int(line) for line in done.stdout.split()]
    assert len(steps) == FEW
    assert min(steps) > 4


@given(st.permutations(range(FEW)))
def test_a_drop_for_which_there_is_no_room_frees_nothing_else(
    prober: Prober, order: list[int]
) -> None:
    first, *rest = (prober.paths[number] for number in order)
    with carrying() as carrier:
        keep(carrier, first)
        for path in rest:
            keep(carrier, path)
        carrier._sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for path in rest:
            carrier.drop(path)
            assert {first} <= prober.locked()
        with pytest.raises(LockError, match=r"cannot carry lease .*: Resource temp"):
            carrier.keep(first, 0)


def test_without_a_descriptor_to_spare_a_drop_frees_nothing_else(prober: Prober) -> None:
    with carrying() as carrier:
        for path in prober.paths:
            keep(carrier, path)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        probe = os.dup(0)
        os.close(probe)
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
        try:
            carrier.drop(prober.paths[-1])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert prober.locked() >= set(prober.paths[:-1])


def test_it_carries_as_many_as_it_says_and_lets_each_go(tmp_path: Path) -> None:
    with probing(tmp_path, CAPACITY) as prober, carrying() as carrier:
        for path in prober.paths:
            keep(carrier, path)
        with pytest.raises(LockError, match=f"the guest carries {CAPACITY} already"):
            carrier.keep("one more", 0)
        left = set(prober.paths)
        assert prober.locked() == left
        for path in prober.paths[::37]:
            carrier.drop(path)
            left.remove(path)
            assert prober.locked() == left
        keep(carrier, prober.paths[0])
        assert prober.locked() == {*left, prober.paths[0]}


def test_the_guests_end_is_the_socket_it_names() -> None:
    with carrying() as carrier:
        assert os.readlink(f"/proc/self/fd/{carrier.guest_fd}") == f"socket:[{carrier.inode()}]"
        assert not os.get_inheritable(carrier.guest_fd)
        assert not os.get_inheritable(carrier._sender.fileno())


_CROWD = """
import os, resource, sys
sys.path[:0] = [sys.argv[1]]
from lockplugins.contract import LockError
from supervisor.guard.carrier import Carrier
from supervisor.guard.descriptors import Shelf
soft, hard = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
fd = os.open("/dev/null", os.O_RDONLY)
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
carriers = [Carrier(Shelf([])) for _ in range(3)]
try:
    for number in range(600):
        carriers[number // 250].keep(str(number), fd)
    print("carried", number + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except LockError as error:
    print("refused", number, error)
"""


@pytest.mark.parametrize(
    ("hard", "said"),
    [(5000, "carried 600 5000"), (300, "refused 301 cannot carry lease 301: Too many references")],
)
def test_what_an_unprivileged_user_has_in_flight_counts_against_the_hard_limit(
    hard: int, said: str
) -> None:
    argv = [sys.executable, "-I", "-S", "-c", _CROWD, CHECKOUT, "300", str(hard)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stdout.startswith(said), done
