"""How soon does a waiter's command run after the holder got SIGKILL?"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from supervisor.spec import Containment
from tests.bench import ours, phases, rivals
from tests.bench.figures import median, percentile, ratios, rounds
from tests.bench.report import TIMES, Aim, Bar, Chart, Section, Table, number
from tests.bench.starting import DEADLINE_S
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.rivals import Rivals
    from tests.bench.starting import Lab

_OURS = (ours.GUARD, ours.GUARD_PIDNS)
_AIM = 2.5
_TTL_S = 5
_TTL_ROUNDS = 3
_BLOCKED = "->"


def measure(lab: Lab, peers: Rivals, count: int) -> Section:
    """Kill holders with a waiter blocked on the very lock."""
    section = Section(
        "Takeover",
        "From SIGKILL of the holder to the first instruction of the waiter's command. Holder and "
        "waiter are of the same kind; the guard's waiter has `wait=inf`. Who holds: under "
        f"`{rivals.FLOCK_EXEC}` and `{rivals.SETLOCK}` the command itself, which is what is "
        "killed; under the guard the guest, which the kernel kills after the guard. "
        f"`{rivals.SANLOCK}` cannot wait and is left out. `{rivals.ETCDCTL}` hands over when "
        f"its TTL has passed, here {_TTL_S} s.",
    )
    rows: dict[str, Callable[[], float]] = {}
    for name in (rivals.FLOCK_EXEC, rivals.SETLOCK):
        if peers.has(name):
            image = lab.image(f"takeover {name}")
            argv = [*peers.prefix(name, f"takeover {name}"), *lab.holding]
            rows[name] = _row(lab, argv, argv, image)
    for name, mode in ((ours.GUARD, Containment.PDEATHSIG), (ours.GUARD_PIDNS, Containment.PIDNS)):
        holder, waiter, image = _contenders(lab, mode)
        rows[name] = _row(lab, [*holder, *lab.holding], [*waiter, *lab.holding], image)
    samples = rounds(rows, count)
    if peers.has(rivals.ETCDCTL):
        samples[rivals.ETCDCTL] = [_expiry(lab, peers) for _ in range(min(count // 5, _TTL_ROUNDS))]
    section.tables.append(_table(samples))
    section.profile += phases.takeover(lab, max(5, count // 4), lambda *how: _marked(lab, *how))
    if rivals.FLOCK_EXEC in samples:
        unit = samples[rivals.FLOCK_EXEC]
        for name in _OURS:
            times = median(ratios(samples[name], unit))
            what = f"{name}: takeover over `{rivals.FLOCK_EXEC}`"
            section.aims.append(Aim(what, times, _AIM, TIMES))
        section.charts.append(_chart(samples, _AIM * median(unit)))
    return section


def _row(lab: Lab, holder: list[str], waiter: list[str], image: str) -> Callable[[], float]:
    inode = os.stat(image).st_ino

    def row() -> float:
        return _takeover_ms(lab, holder, waiter, lambda: _is_awaited(inode))

    return row


def _contenders(lab: Lab, mode: str) -> tuple[list[str], list[str], str]:
    """Return two guards' argv, up to their `--`, and the image that both want."""
    image = lab.image(f"takeover {mode}")
    words = []
    for name in ("holder", "waiter"):
        spec = ours.spec(lab, f"{name} {mode}", containment=mode, wait_s=float("inf"))
        spec.resources[0].path = image
        words.append(ours.words(spec))
    return words[0], words[1], image


def _marked(lab: Lab, mode: str, marker: phases.Marker) -> phases.Marks:
    """Do one takeover by a guard that marks what it passes."""
    holder, waiter, image = _contenders(lab, mode)
    inode = os.stat(image).st_ino
    held = lab.spawn([*holder, *lab.holding])
    lab.await_stamp(held)
    waits = marker.spawn(waiter)
    waiting.until(lambda: _is_awaited(inode), DEADLINE_S, "the waiter is blocked")
    killed = time.monotonic_ns()
    lab.end(held)
    return {"killed": killed, **waits.marks()}


def _takeover_ms(
    lab: Lab, holder: list[str], waiter: list[str], blocked: Callable[[], bool]
) -> float:
    held = lab.spawn(holder)
    lab.await_stamp(held)
    waits = lab.spawn(waiter)
    waiting.until(blocked, DEADLINE_S, "the waiter is blocked")
    begin = time.monotonic_ns()
    signal.pidfd_send_signal(held.pidfd, signal.SIGKILL)
    stamp = lab.await_stamp(waits)
    waiting.gone(held.pidfd, DEADLINE_S)
    lab.reap(held)
    lab.end(waits)
    return (stamp - begin) / 1e6


def _is_awaited(inode: int) -> bool:
    """Does anybody wait for a lock on the file? The kernel's list names devices and inodes."""
    with open("/proc/locks", encoding="ascii") as file:
        return any(_BLOCKED in line and f":{inode} " in line for line in file)


def _expiry(lab: Lab, peers: Rivals) -> float:
    """Return milliseconds from the death of an `etcdctl lock` to the waiter's command."""
    prefix = peers.prefix(rivals.ETCDCTL, "takeover")
    argv = [*prefix[:2], f"--ttl={_TTL_S}", *prefix[2:], *lab.holding]
    return _takeover_ms(lab, argv, argv, lambda: peers.etcd_keys("takeover") == 2)


def _table(samples: dict[str, list[float]]) -> Table:
    unit = samples.get(rivals.FLOCK_EXEC, [])
    rows = []
    for name, times in sorted(samples.items(), key=lambda row: median(row[1])):
        over = f"{median(ratios(times, unit)):.2f}" if len(times) == len(unit) else ""
        rows.append([
            f"**{name}**" if name in _OURS else name, str(len(times)),
            number(median(times)), number(percentile(times, 90)), number(max(times)), over,
        ])  # fmt: skip
    head = ("holder and waiter", "rounds", "ms", "p90", "max", f"{TIMES} {rivals.FLOCK_EXEC}")
    return Table("SIGKILL of the holder to the waiter's command", head, rows)


def _chart(samples: dict[str, list[float]], limit: float) -> Chart:
    bars = [
        Bar(name, median(times), name in _OURS)
        for name, times in sorted(samples.items(), key=lambda row: median(row[1]))
        if name != rivals.ETCDCTL
    ]
    unit = "milliseconds"
    if rivals.ETCDCTL in samples:
        late = number(median(samples[rivals.ETCDCTL]))
        unit += f" ({rivals.ETCDCTL}, TTL {_TTL_S} s: {late} ms, not drawn)"
    return Chart("bench-takeover.svg", "Takeover after SIGKILL", unit, bars, limit)
