"""How soon does another have a lease of sanlock after its holder got SIGKILL, on one host?"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from tests.bench.figures import median, percentile, ratios, rounds
from tests.bench.report import TIMES, Aim, Bar, Chart, Section, Table, number
from tests.bench.sanlock_peers import CLIENT, DRIVER, MODES, OURS
from tests.bench.starting import DEADLINE_S, BenchError, first_below
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.sanlock_peers import Sanlock
    from tests.bench.starting import Lab, Started

GUEST_KILLED = f"{OURS}, the guest killed"
_AIM = 2.5


def measure(lab: Lab, peers: Sanlock, count: int) -> Section:
    """Kill holders while somebody of their kind wants their disk."""
    section = Section(
        "Takeover",
        "From SIGKILL of the holder to the first instruction of the next one's command, which "
        "wants the same disk of the same host. The guard's next one has `wait=inf`; its holder's "
        "supervisor is killed, and the kernel kills the guest, or the guest alone. "
        f"`{CLIENT}` cannot wait: it is started again as soon as it has been refused, which keeps "
        f"a processor and the daemon busy. `{DRIVER}` cannot either: the next domain's virsh is "
        "started after the kill, until it succeeds, to its end. The death of a whole host is "
        "another matter: it takes 8 io_timeouts and 60 s, whoever waits.",
    )
    rows: dict[str, Callable[[], float]] = {CLIENT: _client(lab, peers)}
    for name in MODES:
        rows[name] = _guards(lab, peers, name, lambda held: held.pidfd)
    rows[GUEST_KILLED] = _guards(lab, peers, OURS, _guest_pidfd)
    if DRIVER in peers.hosts:
        rows[DRIVER] = _domains(peers)
    samples = rounds(rows, count)
    section.tables.append(_table(samples))
    for name in (*MODES, GUEST_KILLED):
        times = median(ratios(samples[name], samples[CLIENT]))
        section.aims.append(Aim(f"{name}: takeover over `{CLIENT}`", times, _AIM, TIMES))
    order = sorted(samples, key=lambda name: median(samples[name]))
    bars = [Bar(name, median(samples[name]), name.startswith(OURS[:5])) for name in order]
    title = "Takeover under sanlock after SIGKILL"
    limit = _AIM * median(samples[CLIENT])
    section.charts.append(Chart("bench-sanlock-takeover.svg", title, "milliseconds", bars, limit))
    return section


def _client(lab: Lab, peers: Sanlock) -> Callable[[], float]:
    argv = [*peers.client(peers.disks("takeover client", 1)), *lab.holding]

    def row() -> float:
        held, _ = _insist(lab, argv)
        if lab.stamp_or_end(lab.spawn(argv)) is not None:
            raise BenchError("a lease was given twice")
        begin = time.monotonic_ns()
        lab.end(held)
        taken, stamp = _insist(lab, argv)
        lab.end(taken)
        return (stamp - begin) / 1e6

    return row


def _insist(lab: Lab, argv: list[str]) -> tuple[Started, int]:
    """Start a command that holds until it is not refused; returns it, and its stamp."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        started = lab.spawn(argv)
        if (stamp := lab.stamp_or_end(started)) is not None:
            return started, stamp
    raise BenchError(f"refused for {DEADLINE_S:g} s: {lab.said()}")


def _guards(
    lab: Lab, peers: Sanlock, name: str, victim: Callable[[Started], int]
) -> Callable[[], float]:
    """Return a row for our own; `victim` is the pidfd of whom to kill in a guard that holds."""
    label = f"takeover {name} {victim.__name__}"
    disks = peers.disks(label, 1)
    holder, waiter = (
        [*peers.guard(f"{label} {number}", disks, name, wait_s=float("inf")), *lab.holding]
        for number in range(2)
    )

    def row() -> float:
        held = lab.spawn(holder)
        lab.await_stamp(held)
        guest, pidfd = first_below(held.pid), victim(held)
        waits = lab.spawn(waiter)
        waiting.until(lambda: _watches(waits.pid, guest), DEADLINE_S, "the waiter waits")
        begin = time.monotonic_ns()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        stamp = lab.await_stamp(waits)
        waiting.gone(held.pidfd, DEADLINE_S)
        if pidfd != held.pidfd:
            os.close(pidfd)
        lab.reap(held)
        lab.end(waits)
        peers.daemon.until_free(disks[0])
        return (stamp - begin) / 1e6

    return row


def _guest_pidfd(held: Started) -> int:
    return os.pidfd_open(first_below(held.pid))


def _watches(pid: int, watched: int) -> bool:
    """Has the process a pidfd of another? The guard that waits has one of whom it waits for."""
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
                if f"\nPid:\t{watched}\n" in file.read():
                    return True
        except FileNotFoundError:
            continue
    return False


def _domains(peers: Sanlock) -> Callable[[], float]:
    disks, host = peers.disks("takeover domains", 1), peers.hosts[DRIVER]
    for domain in ("first", "second"):
        peers.define(DRIVER, domain, disks)

    def row() -> float:
        peers.start(DRIVER, "first")
        pidfd = os.pidfd_open(host.qemu_pid("first"))
        begin = time.monotonic_ns()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        end = _until_started(peers, "second")
        os.close(pidfd)
        peers.destroy(DRIVER, "second", disks)
        waiting.until(lambda: host.state("first") == "shut off", DEADLINE_S, "its end is noticed")
        return (end - begin) / 1e6

    return row


def _until_started(peers: Sanlock, domain: str) -> int:
    """Run virsh until it succeeds; returns when it did."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            peers.start(DRIVER, domain)
        except BenchError:
            continue
        return time.monotonic_ns()
    raise BenchError(f"virsh was refused for {DEADLINE_S:g} s: {peers.lab.said()}")


def _table(samples: dict[str, list[float]]) -> Table:
    rows = []
    for name, times in sorted(samples.items(), key=lambda row: median(row[1])):
        over = ratios(times, samples[CLIENT])
        rows.append([
            f"**{name}**" if name.startswith(OURS[:5]) else name,
            number(median(times)), number(percentile(times, 90)), number(max(times)),
            f"{median(over):.2f} ({min(over):.2f} to {max(over):.2f})",
        ])  # fmt: skip
    head = ("holder and next one", "ms", "p90", "max", f"{TIMES} {CLIENT} (range)")
    count = len(samples[CLIENT])
    return Table(f"SIGKILL of the holder to the next one's command, {count} rounds", head, rows)
