"""What has a fault test of sanlock? A host of its own, whose guest writes under a lease.

The guest is a process that writes as the real one does, and looks at no lock. Of its guard
nothing is believed but how long it says that the guest may run.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import select
import signal
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lockplugins.contract import Mode
from supervisor.client import NoAnswerError
from tests.support import waiting
from tests.support.guard import Guards
from tests.support.guest.checker import check
from tests.support.qemu import WRITER
from tests.support.sanlock import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from supervisor.spec import GuestSpec
    from tests.support.guard import Ended, Guard

DEADLINE_S = 60.0
DISK_BYTES = 4 << 20
LOST, FAILED, HELD = 112, 111, 110
_ASK_MS = 100
_WELL = {"list": "spaces", "renewal_last_result": "1", "killing_pids": "0", "space_dead": "0"}
_REFUSAL = "acquire_token -243"  # SANLK_ACQUIRE_IDLIVE, in the daemon's log
_READY = re.compile("ready nonce=([0-9a-f]{16})")


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Death:
    """When a guest died, and until when its guard had said that it might run."""

    at: float
    announced: float


class Image:
    """A disk that guests write to; `nonces` are theirs, in the order in which they began."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.nonces: list[int] = []
        with path.open("wb") as file:
            file.truncate(DISK_BYTES)

    def check(self) -> None:
        """Find no guest in another's time, when all are dead."""
        report = check(self.path)
        assert report.clean, report.reasons
        assert [boot.nonce for boot in report.boots] == self.nonces


class Writers:
    """Guests of one host, which has `daemon`, on one image; a context that ends them."""

    def __init__(self, directory: Path, daemon: Daemon, image: Image) -> None:
        self.daemon = daemon
        self.image = image
        self.took_s = 0.0
        self.guards = Guards(directory)
        self.guards.env = daemon.env

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.guards.__exit__(None, None, None)

    def spec(self, mode: str = Mode.EXCLUSIVE, wait_s: float = 0) -> GuestSpec:
        spec = self.guards.spec((mode, self.image.path), plugin="sanlock", wait_s=wait_s)
        spec.config = {"sanlock": self.daemon.config}
        return spec

    def waiter(self) -> Guard:
        """Launch a guest that waits for a lease that another host has; returns when it does."""
        before = self.daemon.said().count(_REFUSAL)
        guard = self._launch(math.inf)
        waiting.until(
            lambda: self.daemon.said().count(_REFUSAL) > before, DEADLINE_S, "the waiter waits"
        )
        return guard

    def _launch(self, wait_s: float) -> Guard:
        nonce = secrets.randbits(64) | 1
        words = [str(WRITER), self.image.path, f"nonce={nonce:016x}"]
        return self.guards.start(self.spec(wait_s=wait_s), words)

    def start(self) -> Guard:
        """Start a guest; returns when it writes."""
        return self.written(self._launch(0))

    def written(self, guard: Guard, deadline_s: float = DEADLINE_S) -> Guard:
        """Return the guard when its guest writes."""
        guard.ready(deadline_s)
        nonces = waiting.until(lambda: _READY.findall(guard.stderr()), DEADLINE_S, "it writes")
        self.image.nonces.append(int(nonces[0], 16))
        return guard

    def refused(self) -> Ended:
        """See a launch refused; returns how it ended."""
        with tempfile.TemporaryDirectory() as directory:
            refused = self.guards.start(self.spec(), ["/bin/busybox", "touch", f"{directory}/ran"])
            ended = refused.refused(DEADLINE_S)
            assert os.listdir(directory) == []
        return ended

    def fenced(self, guard: Guard, by: Callable[[], None]) -> str:
        """See the guest dead before the guard's word is out, and the loss said; returns that.

        `took_s` is how long it took.
        """
        announced, begun = now() + deadline_s(guard), now()
        by()
        death = until_dead(guard, announced)
        self.took_s = death.at - begun
        assert death.at <= death.announced, f"{death.at - death.announced:.1f} s too late"
        ended = guard.wait(DEADLINE_S)
        assert ended.code == LOST, ended
        (line,) = (line for line in ended.stderr.splitlines() if "cannot keep guest" in line)
        assert line.endswith("; exiting 112")
        return line

    def runs_on(self, guard: Guard) -> None:
        """See the guest run past what had been announced, with a lease that it never gave up."""
        said = now() + deadline_s(guard)
        (before,) = self.daemon.held(self.image.path)
        waiting.until(lambda: now() > said, DEADLINE_S, "past the deadline")
        assert deadline_s(guard) > 0
        assert not is_dead(guard.child_pidfd, 0)
        assert self.daemon.held(self.image.path) == [before]


class Scene(Writers):
    """A host of its own, with its image; its daemon keeps its leases in `lease_dir`.

    The daemon has a name: started anew, it is the same host.
    """

    def __init__(self, directory: Path, lease_dir: Path | None = None) -> None:
        daemon = Daemon(directory / "run", lease_dir or directory / "leases", name="host")
        super().__init__(directory, daemon, Image(directory / "disk.raw"))

    def __enter__(self) -> Self:
        self.daemon.start()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.daemon.__exit__()

    def start(self) -> Guard:
        """Join, and start a guest; returns when it writes."""
        self.join()
        return super().start()

    def join(self) -> None:
        """Join if need be, which on a slow disk may take more than one try."""
        if not self.daemon.status().lockspaces:
            self.daemon.join()

    def follow(self, guard: Guard) -> None:
        """Start a guest that waits, and see that of `guard` dead by then."""
        following = self.written(self._launch(math.inf))
        assert is_dead(guard.child_pidfd, 0)
        following.kill()

    def judge(self) -> None:
        """See that a next guest gets the lease, and that none was ever in another's time.

        Waits until sanlock has given up a lockspace that failed; the guest waits for one that
        may be left of before the daemon was started anew.
        """
        waiting.until(self._is_settled, DEADLINE_S, "no lockspace fails")
        self.join()
        self.written(self._launch(math.inf)).kill()
        self.image.check()

    def _is_settled(self) -> bool:
        spaces = [space.fields for space in self.daemon.status().lockspaces]
        return all(space.items() >= _WELL.items() for space in spaces)


def deadline_s(guard: Guard) -> float:
    """Return how long the guest may run yet, according to `status`."""
    with guard.connect() as client:
        answer = client.execute("query-status", timeout_s=DEADLINE_S)
    assert isinstance(answer, dict)
    value = answer["deadline_s"]
    assert isinstance(value, float)
    return value


def until_dead(guard: Guard, announced: float) -> Death:
    """Ask until when the guest may run, again and again, until it is dead."""
    end = now() + DEADLINE_S
    while not is_dead(guard.child_pidfd, _ASK_MS):
        assert now() < end, f"the guest lives; until {announced - now():.1f} s from now"
        try:
            announced = max(announced, now() + deadline_s(guard))
        except NoAnswerError:
            continue  # it is ending
    return Death(now(), announced)


def is_dead(pidfd: int, within_ms: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within_ms))


def freeze(guard: Guard) -> None:
    """SIGSTOP the guard."""
    os.kill(guard.pid, signal.SIGSTOP)
