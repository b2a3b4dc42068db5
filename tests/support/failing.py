"""How is a scene of a migration set, and what happens in it done? On real guests that write.

Does what the model (outcomes.py, failures.py) speaks of, and looks from
outside: at pidfds, QEMU's own monitors, the kernel's list of locks. Judges
nothing by itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from supervisor.guard.lifecycle import State
from tests.support import waiting
from tests.support.guest.checker import check, describe
from tests.support.locking import READ, Locker
from tests.support.moving import DEADLINE_S, Hesitant
from tests.support.outcomes import MOVING, THERE, Ends
from tests.support.qemu import GuestError
from tests.support.wire import Closed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.driving import Driver
    from tests.support.moving import End

WRITES = 20  # blocks, which tell that a guest runs
_PIDFD_GETFD = 438  # pidfd_getfd(2)
_SLOW, _FAST = 10, 1 << 40  # bytes a second; a page in 100 ms
_UNSHARED_WRITES = 201  # QEMU's own: held by whom nobody else may write beside
_OVER = ("failed", "cancelled", "completed")
_libc = ctypes.CDLL(None, use_errno=True)


class Pair:
    """The two ends of one migration, brought to where `scene` has them, by a daemon if one drives.

    With `locked` somebody's QEMU has the image when the destination is to run it.
    """

    def __init__(
        self,
        source: End,
        scene: Ends,
        driver: Driver | None = None,
        *,
        machine: str = "pc",
        locked: bool = False,
    ) -> None:
        self.world, self.source, self.scene = source.world, source, scene
        self.cookie, self._driver, self._locked = "", driver, locked
        self.locker: Locker | None = None
        world, there = source.world, 1 - source.world.host_of(source)
        self.destination: End = (
            world.hesitate(there)
            if scene.destination == State.ACQUIRED
            else world.receive(there, machine=machine)
        )
        if scene.source == State.PARKED:
            source.control.execute("pause-guest")
        elif scene.source != State.RUNNING:
            self.prepare()
        if scene.memory == MOVING:
            self.begin_to_migrate()
        elif scene.memory == THERE:
            self.migrate()
            self._go_on()

    def _go_on(self) -> None:
        if self.scene.destination != State.INCOMING:
            self.complete_in()
            if self._locked:
                self.locker = Locker(self.world.disk, kind=READ, byte=_UNSHARED_WRITES)
            cont(self.destination)
        if self.scene.destination == State.PARKED:
            self.destination.control.execute("pause-guest")
        if self.scene.source == State.STOPPING:
            self.source.control.execute("stop-guest", {"timeout_s": None})
        elif self.scene.source not in State.ALL:
            self.complete_out()

    def ends(self) -> tuple[End, End]:
        return self.source, self.destination

    def without_driver(self, cookie: str) -> None:
        """Go on without the daemon, which is dead."""
        self._driver, self.cookie = None, cookie

    def prepare(self) -> None:
        if self._driver is None:
            self.cookie = self.source.prepare()
        else:
            self._driver.do("prepare")

    def complete_in(self, timeout_s: float = DEADLINE_S) -> None:
        if self._driver is None:
            self.destination.complete_in(self.cookie, timeout_s)
        else:
            self._driver.do("complete_in")

    def complete_out(self) -> None:
        if self._driver is None:
            self.source.complete_out()
        else:
            self._driver.do("complete_out")

    def cancel_in(self) -> None:
        self.destination.cancel_in()

    def cancel_out(self) -> None:
        if self.scene.memory == MOVING and seen(self.destination) != State.INCOMING:
            self.migration_is_over()
        self.source.cancel_out()

    def hang_up(self) -> None:
        """Have the destination wait for GO no longer."""
        if isinstance(self.destination, Hesitant):
            self.destination.hang_up()

    def begin_to_migrate(self) -> None:
        self.source.monitor.execute("migrate-set-parameters", **{"max-bandwidth": _SLOW})
        self.source.monitor.execute("migrate", uri=self.destination.uri)
        waiting.until(lambda: self.migration() == "active", DEADLINE_S, "QEMU migrates")

    def migrate(self) -> None:
        """Have QEMU migrate, or go on with it; returns when the source has handed over."""
        self.source.monitor.execute("migrate-set-parameters", **{"max-bandwidth": _FAST})
        if self.migration() == "active":
            self.source.until_qemu("postmigrate")
        else:
            self.source.send_to(self.destination)
        self.source.until("migrated")
        self.destination.until_qemu("paused")

    def migration(self) -> str:
        found = self.source.monitor.execute("query-migrate")
        assert isinstance(found, dict)
        return str(found.get("status", ""))

    def migration_is_over(self) -> None:
        waiting.until(lambda: self.migration() in _OVER, DEADLINE_S, "QEMU's migration is over")


def kill_supervisor(end: End) -> None:
    assert end.guard is not None
    signal.pidfd_send_signal(end.guard.pidfd, signal.SIGKILL)


def kill_qemu(end: End) -> None:
    signal.pidfd_send_signal(end.child_pidfd, signal.SIGKILL)


def cont(end: End) -> None:
    with suppress(GuestError, ConnectionError):  # ended before it has answered
        end.monitor.execute("cont")


def cont_early(pair: Pair) -> None:
    pair.destination.monitor.execute("cont")
    if pair.scene.memory == MOVING:
        pair.source.monitor.execute("migrate-set-parameters", **{"max-bandwidth": _FAST})
    else:
        pair.source.monitor.execute("migrate", uri=pair.destination.uri)


def cannot_migrate(end: End, uri: str) -> None:
    """Have QEMU's migration fail, before it is through, or be refused."""
    with suppress(GuestError):
        end.monitor.execute("migrate-set-parameters", **{"max-bandwidth": _SLOW})
        end.monitor.execute("migrate", uri=uri)
        waiting.until(
            lambda: "failed" in str(end.monitor.execute("query-migrate")), DEADLINE_S, "it failed"
        )


def prepare_refused(pair: Pair) -> None:
    """Prepare while QEMU migrates to somewhere else."""
    monitor, begun = pair.source.monitor, False
    with suppress(GuestError):
        monitor.execute("migrate-set-parameters", **{"max-bandwidth": _SLOW})
        monitor.execute("migrate", uri="exec:cat >/dev/null")
        begun = True
    try:
        pair.source.prepare()
    finally:
        if begun:
            monitor.execute("migrate_cancel")
            pair.migration_is_over()


def close_monitor(end: End) -> None:
    """Shut QEMU's end of the guard's private monitor, as closing it would."""
    assert end.guard is not None
    with open(f"{end.guard.path}/monitor", encoding="utf-8") as file:
        number = int(file.read().partition('fd = "')[2].partition('"')[0])
    fd = _libc.syscall(_PIDFD_GETFD, end.child_pidfd, number, 0)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    with socket.socket(fileno=fd) as qemus:
        qemus.shutdown(socket.SHUT_RDWR)


REAL: dict[str, Callable[[Pair], object]] = {
    "SIGKILL of the source's supervisor": lambda pair: kill_supervisor(pair.source),
    "SIGKILL of the source's QEMU": lambda pair: kill_qemu(pair.source),
    "SIGKILL of the destination's supervisor": lambda pair: kill_supervisor(pair.destination),
    "SIGKILL of the destination's QEMU": lambda pair: kill_qemu(pair.destination),
    "`complete-in`": lambda pair: pair.complete_in(0.0),
    "`complete-out`": Pair.complete_out,
    "`complete-in --cancel`": Pair.cancel_in,
    "`complete-out --cancel`": Pair.cancel_out,
    "`cont` on the source": lambda pair: cont(pair.source),
    "`cont` on the destination": lambda pair: cont(pair.destination),
    "`cont` on the destination, then its guest comes": cont_early,
    "QEMU refuses: `migrate` to a dead URI":
        lambda pair: cannot_migrate(pair.source, f"unix:{pair.world.disk}.missing"),
    "QEMU refuses: the destination is another machine":
        lambda pair: cannot_migrate(pair.source, str(pair.destination.uri)),
    "QEMU refuses: `prepare`, it migrates already": prepare_refused,
    "QEMU closes our monitor of the source": lambda pair: close_monitor(pair.source),
    "QEMU closes our monitor of the destination": lambda pair: close_monitor(pair.destination),
}  # fmt: skip


def seen(end: End) -> str:
    """Return an end's state, or how it is gone."""
    with suppress(Closed, OSError):
        return ended(end) or end.state()
    return ended(end)


def ended(end: End) -> str:
    """Return how an end is gone, "" while it is there."""
    code = end.process.poll()
    if code is None:
        return ""
    waiting.gone(end.child_pidfd, DEADLINE_S)
    return "gone" if code < 0 else f"gone, {code}"


def executes(end: End) -> bool:
    """Does QEMU say that the guest runs?"""
    if ended(end) or isinstance(end, Hesitant):
        return False
    try:
        return end.qemu() == "running"
    except (ConnectionError, GuestError):  # it has ended since
        return False


def newest(disk: str) -> int:
    return max((boot.last for boot in check(disk).boots), default=0)


def writes(disk: str) -> None:
    """Wait until a guest writes to the disk."""
    before = newest(disk)
    waiting.until(lambda: newest(disk) > before + WRITES, DEADLINE_S, "the guest writes")


def judge_disk(end: End) -> None:
    """See that nothing on the disk is lost or another's, while its guest stands still."""
    end.monitor.execute("stop")
    report = check(end.world.disk)
    assert report.clean, describe(report)
    end.monitor.execute("cont")
