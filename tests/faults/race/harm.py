"""What is done to supervisors, guests and sessions? To ours and to `etcdctl lock`'s alike."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.faults.race.cluster import AdminError, decoded
from tests.faults.race.hosts import LOCK, NAMESPACE
from tests.faults.race.verdict import OURS, THEIRS

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random
    from typing import Any

    from tests.faults.race.hosts import Contender
    from tests.faults.race.lab import Lab

    Harm = Callable[[Lab, Random], None]

SESSIONS = f"/lsup/v1/{NAMESPACE}/sess/"
PATIENCE_S = 10.0
HEALED_S = 6.0  # longer than from one proof to the next
HEALED = "sessions made anew by their guards"
_SHORT_S, _LONG_S = (0.3, 3.0), (8.5, 12.0)  # less, and more, than any guest has without a proof


def await_guest(lab: Lab) -> None:
    """Return when one of ours runs, or is not to be had for a while."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and lab.pause(0.1):
        if any(name.startswith(OURS) for name in lab.watching.alive()):
            return


def victims(lab: Lab, rng: Random) -> list[Contender]:
    """Choose one whose guest runs, of ours and of theirs, as far as there is one."""
    alive = lab.watching.alive()
    found = []
    for side in (OURS, THEIRS):
        running = [one for one in lab.contenders if one.side == side and one.current in alive]
        found += rng.sample(running, 1) if running else []
    return found


def _named(chosen: list[Contender]) -> str:
    return ", ".join(one.current for one in chosen)


def kill_supervisors(lab: Lab, rng: Random) -> None:
    chosen = victims(lab, rng)
    with lab.fault("SIGKILL supervisor", _named(chosen)):
        for one in chosen:
            one.hurts.append("killed")
            one.signal(signal.SIGKILL)


def kill_waiter(lab: Lab, rng: Random) -> None:
    """SIGKILL whoever, mostly one that waits."""
    ours = [one for one in lab.contenders if one.side == OURS and one.process]
    if ours:
        one = rng.choice(ours)
        with lab.fault("SIGKILL supervisor", one.current):
            one.hurts.append("killed")
            one.signal(signal.SIGKILL)


def stop_supervisors(lab: Lab, rng: Random) -> None:
    chosen = victims(lab, rng)
    seconds = rng.uniform(*rng.choice((_SHORT_S, _LONG_S)))
    with lab.fault("SIGSTOP supervisor", _named(chosen)), ExitStack() as stack:
        for one in chosen:
            one.hurts.append("stopped")
            one.signal(signal.SIGSTOP)
            if one.process:
                stack.callback(one.process.send_signal, signal.SIGCONT)
        lab.pause(seconds)


def kill_guests(lab: Lab, rng: Random) -> None:
    chosen = victims(lab, rng)
    with lab.fault("SIGKILL guest", _named(chosen)):
        for one in chosen:
            one.hurts.append("guest killed")
            lab.watching.signal(one.current, signal.SIGKILL)


def stop_guests(lab: Lab, rng: Random) -> None:
    names = [one.current for one in victims(lab, rng)]
    with lab.fault("SIGSTOP guest", ", ".join(names)):
        for name in names:
            lab.watching.signal(name, signal.SIGSTOP)
        lab.pause(rng.uniform(0.5, 8.0))
        for name in names:
            lab.watching.signal(name, signal.SIGCONT)


def revoke_sessions(lab: Lab, rng: Random) -> None:
    def revoke(kept: dict[str, Any]) -> None:
        lab.cluster.ask("lease/revoke", ID=kept["lease"])

    _end_sessions(lab, rng, "revoke session", revoke)


def delete_sessions(lab: Lab, rng: Random) -> None:
    def delete(kept: dict[str, Any]) -> None:
        lab.cluster.ask("kv/deleterange", key=kept["key"])

    _end_sessions(lab, rng, "del session", delete)


def _end_sessions(lab: Lab, rng: Random, kind: str, end: Callable[[dict[str, Any]], None]) -> None:
    """End an owner's session before its time; count what his guard makes anew."""
    chosen = victims(lab, rng)
    with lab.fault(kind, _named(chosen)):
        try:
            for one in chosen:
                kept = _session_of(lab, one)
                if kept is not None:
                    end(kept)
                    if one.side == OURS:
                        _watch_healing(lab, kept["key"], kept["create_revision"])
        except AdminError as error:
            lab.say(f"{kind}: {error}")


def _session_of(lab: Lab, one: Contender) -> dict[str, Any] | None:
    """Return what etcd has of a contender's session; the lock's owner is who is oldest."""
    if one.side == THEIRS:
        return next(iter(lab.cluster.read(f"{LOCK}/")), None)
    for kept in lab.cluster.read(SESSIONS):
        if json.loads(decoded(kept["value"]))["guest"] == one.current:
            return kept
    return None


def _watch_healing(lab: Lab, key: str, created: str) -> None:
    end = time.monotonic() + HEALED_S
    while time.monotonic() < end and lab.pause(0.1):
        for kept in lab.cluster.ask("kv/range", key=key).get("kvs", ()):
            if kept["create_revision"] != created:
                lab.counts[HEALED] += 1
                return


ALL: tuple[Harm, ...] = (
    kill_supervisors, kill_supervisors, kill_waiter, stop_supervisors, kill_guests, stop_guests,
    revoke_sessions, delete_sessions,
)  # fmt: skip
