"""What do all of the race share? Its cluster, hosts and contenders, its end, and what was done."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.faults.race.verdict import FOREVER, Turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.race.clocks import Clock
    from tests.faults.race.cluster import LabCluster
    from tests.faults.race.hosts import Contender
    from tests.faults.race.network import Node
    from tests.faults.race.watching import Watching


@dataclass
class Fault:
    """What was done, from when to when (CLOCK_MONOTONIC), to which members and hosts.

    `members` are of no use to a quorum meanwhile, `hosts` cannot reach one.
    """

    kind: str
    what: str
    begin: float
    members: Sequence[str] = ()
    hosts: Sequence[str] = ()
    end: float = FOREVER


@dataclass
class Lab:
    """One race."""

    seed: int
    cluster: LabCluster
    watching: Watching
    hosts: list[Node]
    clocks: dict[str, Clock]
    contenders: list[Contender] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    turns: dict[str, Turn] = field(default_factory=dict)
    accused: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ending: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)

    def rng(self, what: str) -> random.Random:
        """Return choices that are the same for the same seed, whatever others choose."""
        return random.Random(f"{self.seed} {what}")

    def pause(self, seconds: float) -> bool:
        """Let time pass; False when the race ends."""
        return not self.ending.wait(seconds)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:7.2f} {text}", flush=True)

    def accuse(self, text: str) -> None:
        self.say(f"FAULT {text}")
        self.accused.append(text)

    @contextmanager
    def fault(
        self, kind: str, what: str = "", members: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> Iterator[None]:
        """Write down what is done in this context."""
        self.say(f"{kind} {what}")
        done = Fault(kind, what, time.monotonic(), members, hosts)
        self.faults.append(done)
        try:
            yield
        finally:
            done.end = time.monotonic()
            self.say(f"{kind} {what}: over")
