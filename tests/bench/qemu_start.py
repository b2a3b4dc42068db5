"""How much later does a QEMU greet on its monitor when it is started under a lock?"""

from __future__ import annotations

import os
import shutil
import socket
import time
from typing import TYPE_CHECKING

from supervisor.spec import Containment
from tests.bench import ours, rivals
from tests.bench.figures import differences, median, percentile, ratios, rounds
from tests.bench.report import TIMES, Aim, Bar, Chart, Section, Table, number
from tests.bench.starting import DEADLINE_S, QMP_FD, BenchError
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.rivals import Rivals
    from tests.bench.starting import Lab

BARE = "bare QEMU"
_OURS = (ours.GUARD, ours.GUARD_PIDNS, ours.FRONT_DOOR)
_AIM = 1.6
_QEMU = "qemu-system-x86_64"


def measure(lab: Lab, peers: Rivals, count: int) -> Section:
    """Start QEMU with each prefix, up to the first byte of its QMP greeting."""
    qemu = shutil.which(_QEMU)
    section = Section(
        "QEMU to its greeting",
        "From the instant before posix_spawn(3) to the first byte of the QMP greeting of a QEMU "
        "(TCG, q35, -S, one drive), of which bare QEMU is the unit. The guard adds its private "
        "monitor to QEMU's arguments; the front door finds the drive there.",
    )
    if qemu is None:
        peers.missing.append(f"QEMU: {_QEMU} is not installed")
        return section
    samples = rounds(_rows(lab, peers, qemu), count)
    section.tables.append(_table(samples))
    for name in (ours.GUARD, ours.GUARD_PIDNS):
        times = median(ratios(samples[name], samples[BARE]))
        floor = median(ratios(samples[ours.FLOOR], samples[BARE]))
        what = f"{name}: QEMU to its greeting over bare QEMU"
        section.aims.append(Aim(what, times, _AIM, TIMES, floor))
    order = sorted(samples, key=lambda name: median(samples[name]))
    bars = [Bar(name, median(samples[name]), name in _OURS) for name in order]
    title = "QEMU to its QMP greeting"
    limit = _AIM * median(samples[BARE])
    section.charts.append(Chart("bench-qemu.svg", title, "milliseconds", bars, limit))
    return section


def command(qemu: str, image: str) -> list[str]:
    """Return a QEMU that runs no guest code and answers QMP on QMP_FD."""
    return [
        qemu, "-accel", "tcg", "-machine", "q35", "-S", "-nodefaults", "-display", "none",
        "-drive", f"file={image},format=raw,if=virtio",
        "-chardev", f"socket,id=bench,fd={QMP_FD}", "-mon", "chardev=bench,mode=control",
    ]  # fmt: skip


def _rows(lab: Lab, peers: Rivals, qemu: str) -> dict[str, Callable[[], float]]:
    def image(name: str) -> str:
        return lab.image(f"qemu {name}")

    def row(name: str, prefix: list[str]) -> Callable[[], float]:
        return lambda: _greeting_ms(lab, [*prefix, *command(qemu, image(name))])

    def rival(name: str) -> Callable[[], float]:
        lock, words = f"qemu lock {name}", command(qemu, image(name))
        return lambda: _greeting_ms(lab, [*peers.prefix(name, lock), *words])

    pidns = ours.guard(lab, f"qemu {ours.GUARD_PIDNS}", containment=Containment.PIDNS)
    rows = {
        BARE: row(BARE, []),
        ours.FLOOR: row(ours.FLOOR, ours.floor(lab, "qemu floor lock")),
        ours.GUARD: row(ours.GUARD, ours.guard(lab, f"qemu {ours.GUARD}")),
        ours.GUARD_PIDNS: row(ours.GUARD_PIDNS, pidns),
        ours.FRONT_DOOR: row(ours.FRONT_DOOR, ours.front_door(lab, "qemu")),
    }
    return rows | {name: rival(name) for name in peers.names() if name != rivals.FLOCK_CLOSE}


def _greeting_ms(lab: Lab, argv: list[str]) -> float:
    """Start QEMU, wait for its greeting, have it quit; returns milliseconds to the greeting."""
    monitor, theirs = socket.socketpair()
    with monitor, theirs:
        started = lab.spawn(argv, {QMP_FD: theirs.fileno()})
        theirs.close()
        lab.await_readable(monitor.fileno(), started)
        if not monitor.recv(1, socket.MSG_PEEK):
            raise BenchError(f"QEMU ended before its greeting; the log says: {lab.said()}")
        end = time.monotonic_ns()
        monitor.setblocking(False)
        monitor.send(b'{"execute": "qmp_capabilities"} {"execute": "quit"}')
        waiting.gone(started.pidfd, DEADLINE_S)
        lab.reap(started, expected=os.EX_OK)
    return (end - started.at) / 1e6


def _table(samples: dict[str, list[float]]) -> Table:
    rows = []
    for name in sorted(samples, key=lambda name: median(samples[name])):
        times = ratios(samples[name], samples[BARE])
        rows.append([
            f"**{name}**" if name in _OURS else name,
            number(median(samples[name])),
            number(percentile(samples[name], 90)),
            number(median(differences(samples[name], samples[BARE]))),
            f"{median(times):.2f} ({min(times):.2f} to {max(times):.2f})",
        ])  # fmt: skip
    head = ("prefix", "greeting ms", "p90", "over bare ms", f"{TIMES} bare (range)")
    return Table(f"QEMU to its greeting, {len(samples[BARE])} rounds", head, rows)
