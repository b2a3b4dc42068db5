"""Who wants the disks? On each host one for each disk, again and again, each for a turn.

Ours start guests under the real command, the others under `etcdctl lock`: the
same guest, which writes to a disk of theirs. Each takes a turn, waits, runs and
is told to end. It must not know what is done to them meanwhile.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
import uuid
from typing import TYPE_CHECKING

from tests.faults.race import announce
from tests.faults.race.verdict import OURS, THEIRS, Turn, run_name
from tests.support import qemu, waiting
from tests.support.command import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.faults.race.lab import Lab
    from tests.faults.race.network import Node

NAMESPACE = "race"
LOCK = "theirs"
TTL_S = 5  # as our sessions' at the smallest failover_s
WAIT_S = 30
DEADLINE_S = 60.0
SETTLED_S = 2.0
FAILED_S = 1.5
# From the guest's first write; some outlive what a frozen leader may tell them, and a taker waits.
_TURNS_S = ((2.0, 10.0), (2.0, 10.0), (2.0, 10.0), (20.0, 35.0))
_BOOT_S = 20.0  # at the most
_EXPECTED = {0, 110, 111, 112, 128 + signal.SIGTERM, 128 + signal.SIGKILL, -signal.SIGKILL,
             -signal.SIGTERM}  # fmt: skip
_WRITES_PER_S = 200  # without a bound guests would take all of the machine


class Contender(threading.Thread):
    """One that wants `disk`, or all, on one host; `process` is its supervisor, if it has one."""

    side = ""

    def __init__(self, lab: Lab, node: Node, disk: str, disks: Sequence[str], home: Path) -> None:
        super().__init__(name=f"{self.side}-{node.name}-{disk}", daemon=True)
        self._lab = lab
        self.node = node
        self._disk = disk
        self._disks = disks
        self._home = home
        self._rng = lab.rng(self.name)
        self._number = 0
        self.current = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.hurts: list[str] = []

    def run(self) -> None:
        while not self._lab.ending.is_set():
            self._number += 1
            both = self.side == OURS and self._rng.random() < 0.2
            disks = list(self._disks) if both else [self._disk]
            self.current = run_name(self.side, self.node.name, disks, self._number)
            self.hurts = []
            try:
                self._turn(disks)
            finally:
                self.process = None
            has_run = self._lab.watching.has_begun(self.current)
            self._lab.pause(self._rng.uniform(0.05, 0.5) if has_run else FAILED_S)

    def _turn(self, disks: Sequence[str]) -> None:
        raise NotImplementedError

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor, if it is still there."""
        if (process := self.process) is not None:
            process.send_signal(number)

    def _stay(self, ends_within: Callable[[float], bool]) -> None:
        """Let the guest run for a turn, or until it ends."""
        turn_s = self._rng.uniform(*self._rng.choice(_TURNS_S))
        written = False
        end = time.monotonic() + _BOOT_S
        while time.monotonic() < end and not ends_within(0.2):
            if not written and self._has_written():
                written = True
                end = time.monotonic() + turn_s

    def _has_written(self) -> bool:
        return self._console.exists() and b"ready nonce=" in self._console.read_bytes()

    def guest(self, disks: Sequence[str]) -> list[str]:
        """Return the guest's command, which writes at a bounded rate."""
        images = [str(self._home / disk) for disk in disks]
        argv = qemu.guest_argv(*images, guest=self.node.name, serial=f"file:{self._console}")
        bound = f",throttling.iops-total={_WRITES_PER_S}"
        argv = [word + bound if word.startswith("file=") else word for word in argv]
        return [str(self._home / "bin" / qemu.QEMU), *argv[1:]]

    def launch(self, *argv: str, pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
        env = {announce.RUN: self.current, "ETCDCTL_API": "3"}
        with self.log_file.open("wb") as log:
            self.process = self.node.start(
                *argv, env=env, pass_fds=pass_fds, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self.process

    @property
    def _console(self) -> Path:
        return self.log_file.with_suffix(".console")

    @property
    def log_file(self) -> Path:
        return self._home / "logs" / self.current.replace("/", "_")

    def ended(self, process: subprocess.Popen[bytes], deadline_s: float, generation: int) -> None:
        """Wait for the supervisor's end, and write down how that was."""
        try:
            code = process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            if self.side == OURS:
                self._lab.accuse(f"{self.current} does not end")
            process.kill()
            code = process.wait()
        said = self.log_file.read_text(errors="replace").strip()
        turn = Turn(self.current, code, time.monotonic(), generation, said[-400:], self.hurts)
        self._lab.turns[self.current] = turn
        self._lab.counts[f"{self.side} exit {code}"] += 1
        self._lab.say(f"{self.current}: exit {code} {self.hurts or ''} {said[-150:]}")
        if self.side == OURS and (code not in _EXPECTED or "Traceback" in said):
            self._lab.accuse(f"{self.current}: exit {code}: {said}")


class Ours(Contender):
    """A guest under lock-supervisor."""

    side = OURS

    def _turn(self, disks: Sequence[str]) -> None:
        read_fd, write_fd = os.pipe()
        words = [PROGRAM, "run", "--config", str(self._home / f"{self.node.name}.toml")]
        words += ["--runtime-dir", str(self._home / f"run-{self.node.name}")]
        words += ["--name", self.current, "--uuid", str(uuid.uuid4()), "--stop-timeout", "1"]
        words += [f"--disk={self._home / disk},id={disk}" for disk in disks]
        words += ["--wait", str(WAIT_S), "--ready-fd", str(write_fd), "--"]
        process = self.launch(*words, *self.guest(disks), pass_fds=[write_fd])
        os.close(write_fd)
        generation = 0
        with open(read_fd, "rb") as announcement:
            line = announcement.readline().decode()
        if line.startswith("READY "):
            generation = int(line.split("generation=")[1])
            self._stay(lambda seconds: _ends_within(process.pid, seconds))
            process.send_signal(signal.SIGTERM)
        self.ended(process, DEADLINE_S, generation)


class Theirs(Contender):
    """The same guest under `etcdctl lock`."""

    side = THEIRS

    def _turn(self, disks: Sequence[str]) -> None:
        words = ["etcdctl", "--endpoints", self._lab.cluster.endpoints, "lock", f"--ttl={TTL_S}"]
        process = self.launch(*words, LOCK, "--", *self.guest(disks))
        while not self._has_begun():
            # It may have been killed when its guest was on the way.
            if _ends_within(process.pid, 0.1) and not _settles(self._has_begun):
                self.ended(process, DEADLINE_S, 0)
                return
        self._stay(lambda seconds: not (self._lab.pause(seconds) and self._is_up()))
        self._lab.watching.signal(self.current, signal.SIGTERM)
        waiting.until(lambda: not self._is_up(), DEADLINE_S, f"the guest of {self.current} ends")
        self.ended(process, DEADLINE_S, 0)

    def _has_begun(self) -> bool:
        return self._lab.watching.has_begun(self.current)

    def _is_up(self) -> bool:
        return self.current in self._lab.watching.alive()


def _settles(condition: Callable[[], bool]) -> bool:
    """Does that become true yet?"""
    try:
        return waiting.until(condition, SETTLED_S, "it begins yet")
    except AssertionError:
        return False


def _ends_within(pid: int, seconds: float) -> bool:
    """Wait for a child of ours that nobody has reaped yet."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    found = bool(poll.poll(seconds * 1000))
    os.close(pidfd)
    return found
