"""What is going on in the soak? All runs and clients, looked at whenever something happens.

Judges what pidfds, answers and exit codes show; the locks are the judge's. It
does not choose what happens next.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from tests.faults import processes
from tests.faults.soak.judge import Judge
from tests.faults.soak.runs import FOREVER, Claim, Hurt, Kind, Run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.soak.disks import Disks
    from tests.support.command import Command, Result, Started
    from tests.support.guard import Guards
    from tests.support.wire import Wire

LOG_LINES = 50
PATIENCE_S = 45.0  # on a busy machine, for what takes a second
ORPHAN_S = 10.0
YOUTH_S = 30.0  # a real guest boots in two seconds where nothing else runs
STOP_TIMEOUT_S = 10.0  # the longest that the soak asks for


class Client:
    """A command that is under way, about `run`; `answered` takes its result, returns a word."""

    def __init__(
        self, verb: str, run: Run | None, started: Started, answered: Callable[[Result], str]
    ) -> None:
        self.verb = verb
        self.run = run
        self.started = started
        self.answered = answered
        self.began = time.monotonic()


class World:
    """Everything that the soak has started; `faults` are what must not be."""

    def __init__(
        self, seed: int, directory: Path, disks: Disks, guards: Guards, command: Command
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.directory = directory
        self.disks = disks
        self.guards = guards
        self.command = command
        self.judge = Judge(disks.files)
        self.began = time.monotonic()
        self.runs: list[Run] = []
        self.past: deque[Run] = deque(maxlen=100)
        self.anchors: list[Run] = []  # nobody ends these
        self.clients: list[Client] = []
        self.mute: list[Wire] = []  # connections that nobody reads
        self.counts: Counter[str] = Counter()
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.faults: list[str] = []
        self._before = set(children())
        self._orphans: dict[int, float] = {}
        self._numbers = itertools.count(1)

    def say(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self.began:7.2f} {text}")

    def accuse(self, text: str) -> None:
        self.say(f"FAULT {text}")
        self.faults.append(text)

    def report(self) -> str:
        """Return what was found, and what happened last."""
        return "\n".join([f"seed {self.seed}", *self.faults, "What happened last:", *self.log])

    def number(self) -> int:
        return next(self._numbers)

    def choose(self, condition: Callable[[Run], object], *, anchors: bool = False) -> Run | None:
        """Choose a run of which this is true; anchors only where they may be touched."""
        among = [run for run in self.runs if anchors or run not in self.anchors]
        fitting = [run for run in among if condition(run)]
        return self.rng.choice(fitting) if fitting else None

    def choose_victim(self, condition: Callable[[Run], object] = bool) -> Run | None:
        """Choose a run to end; real guests are given the time to boot, mostly.

        Not one whose guard is dead: that it ends by itself has to be seen.
        """
        spared = self.rng.random() < 0.9

        def fits(run: Run) -> object:
            young = time.monotonic() < run.began + YOUTH_S and not run.booted()
            if run.guard_is_gone() or (spared and young and run.kind == Kind.REAL):
                return False
            return condition(run)

        return self.choose(fits)

    def ask(
        self, verb: str, run: Run | None, answered: Callable[[Result], str], *options: str
    ) -> Client:
        """Start a command about `run`, by uuid or name, and do not wait."""
        spec = run.guard.spec if run else None
        about = [self.rng.choice((spec.uuid, spec.name))] if spec else []
        words = (verb, *about, *options)
        self.say(f"{' '.join(words)} ({run})")
        self.clients.append(Client(verb, run, self.command.start(*words), answered))
        return self.clients[-1]

    def pause(self, seconds: float) -> None:
        """Let time pass, looking whenever something happens."""
        end = time.monotonic() + seconds
        while True:
            self.look()
            thaw = min((at for run in self.runs for at in run.frozen.values()), default=FOREVER)
            left = min(end, thaw) - time.monotonic()
            if time.monotonic() >= end:
                return
            poll = select.poll()
            for fd in self._awaited():
                poll.register(fd, select.POLLIN)
            poll.poll(1000 * max(0.0, left))

    def until(self, condition: Callable[[], object], why: str) -> None:
        """Let time pass until this is true; accuse when it takes PATIENCE_S seconds."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                self.accuse(f"not within {PATIENCE_S:g} s: {why}")
                return
            self.pause(0.05)

    def _awaited(self) -> list[int]:
        fds = [fd for run in self.runs for fd in run.awaited()]
        return fds + [client.started.pidfd for client in self.clients]

    def look(self) -> None:
        """Take in what has happened."""
        now = time.monotonic()
        for run in list(self.runs):
            run.thaw(now)
            if run.hear():
                self.say(f"{run}: {(run.line or 'gone without a word')[:30].strip()}")
                self._compare()
            if run.is_over():
                self._bury(run)
            elif _is_late(run, now):
                self.accuse(f"{run} gets no further: {run.hurts}, {run.line!r}")
                run.disturbed = now
        for client in [client for client in self.clients if not client.started.is_running()]:
            self._hear(client)
        for client in self.clients:
            if client.verb != "wait" and now > client.began + 2 * PATIENCE_S:
                self.accuse(f"{client.verb} ({client.run}) does not return")
                client.began = now
        self._look_for_orphans(now)
        for fault in self.judge.take():
            self.accuse(fault)

    def _bury(self, run: Run) -> None:
        end = run.finish()
        self.say(f"{run}: {end}")
        self.runs.remove(run)
        self.past.append(run)
        rivals = any(self.rivals(run, claim, run.began) for claim in run.claims)
        fault = run.fault(rivals=rivals)
        if fault:
            self.accuse(fault)
        fate = (
            "wrote"
            if run.booted()
            else "ran"
            if run.up
            else "refused"
            if end == "exit 110"
            else "ended before it was up"
        )
        self.counts[f"start {run.kind}: {fate}"] += 1
        self.guards.end(run.guard)

    def _hear(self, client: Client) -> None:
        self.clients.remove(client)
        result = client.started.end()
        self.command.started.remove(client.started)
        client.started.kill()
        outcome = client.answered(result)
        if outcome.startswith("FAULT"):
            self.accuse(f"{client.verb} ({client.run}): {outcome}: {result}")
        self.say(f"{client.verb} ({client.run}): {outcome}")
        self.counts[f"{client.verb}: {outcome}"] += 1

    def rivals(self, run: Run, claim: Claim, since: float) -> bool:
        """May another run have had what contradicts `claim`, at any time since then?"""
        return any(
            claim.contradicts(other) and other.ended >= since
            for its in (*self.runs, *self.past)
            if its is not run
            for other in its.claims
        )

    def _compare(self) -> None:
        """No two living guests hold what contradicts each other."""
        sure = [(run, claim) for run in self.runs for claim in run.claims if claim.sure]
        for (one, mine), (other, its) in itertools.combinations(sure, 2):
            if one is not other and mine.contradicts(its):
                signs = one.signs_of_life(), other.signs_of_life()
                if all(signs):
                    self.accuse(f"{one} and {other} have {mine.file} at once: {signs}")

    def acknowledge(self, claim: Claim) -> None:
        """Take a lease for held."""
        claim.sure = True
        self._compare()

    def children(self) -> set[int]:
        """Return the children, adopted ones included, that were not there at first."""
        return set(children()) - self._before

    def _look_for_orphans(self, now: float) -> None:
        """Reap whom we were given as a subreaper; nobody lives on without the guard."""
        ours = {run.guard.pid for run in self.runs}
        ours |= {client.started.process.pid for client in self.clients}
        orphans = self.children() - ours
        for pid in orphans:
            if os.waitpid(pid, os.WNOHANG)[0]:
                orphans = orphans - {pid}
        self._orphans = {pid: self._orphans.get(pid, now) for pid in orphans}
        for pid, since in self._orphans.items():
            if now > since + ORPHAN_S:
                self.accuse(f"process {pid} lives on without its guard")
                processes.kill(pid)
                self._orphans[pid] = now


def children() -> list[int]:
    """Return our own children, adopted ones included."""
    found: list[int] = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
            found += map(int, file.read().split())
    return found


def _is_late(run: Run, now: float) -> bool:
    """Has nothing happened for long where something must?"""
    ending = set(run.hurts) - {Hurt.FREEZE}
    waits = run.guard.spec.wait_s if run.line is None and not ending else STOP_TIMEOUT_S
    dying = run.guard_is_gone() or run.guest_is_gone()
    due = run.line is None or ending or dying
    return bool(due) and not run.frozen and now > run.disturbed + waits + PATIENCE_S
