"""Who wakes up while nothing happens?"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from supervisor import client
from supervisor.spec import Containment
from tests.bench import ours, qemu_start, rivals
from tests.bench.report import Aim, Section, Table, number
from tests.bench.starting import DEADLINE_S, QMP_FD, READY_FD, first_below

if TYPE_CHECKING:
    from supervisor.spec import GuestSpec
    from tests.bench.rivals import Rivals
    from tests.bench.starting import Lab, Started

ASKED = "guard, file, pdeathsig, asked once"
INIT = "init of guard, file, pidns"
QEMU = "guard of a QEMU, with its private monitor"
_OURS = (ours.GUARD, ours.GUARD_PIDNS, INIT, ASKED, QEMU)
_SETTLED_S = 2.0
_SWITCHES = re.compile(r"^(voluntary|nonvoluntary)_ctxt_switches:\s+(\d+)$", re.MULTILINE)

Count = tuple[int, int, int]


def measure(lab: Lab, peers: Rivals, seconds: int) -> Section:
    """Start one of each, leave all alone for `seconds`, and count what the kernel counted."""
    section = Section(
        "Idle",
        "Context switches a minute, all threads, and CPU time, of processes that run side by side "
        f"with nothing to do, over {seconds} s. The daemons' rows are what a host pays once.",
    )
    pids: dict[str, int] = {}
    with ExitStack() as closing:
        started = [*_start_rivals(lab, peers, pids), *_start_guards(lab, pids, closing)]
        pause(_SETTLED_S)
        before = {name: count(pid) for name, pid in pids.items()}
        begin = time.monotonic()
        pause(seconds)
        after = {name: count(pid) for name, pid in pids.items()}
        minutes = (time.monotonic() - begin) / 60
        for one in started:
            lab.end(one)
    lab.stamps()
    found = {
        name: [(new - old) / minutes for old, new in zip(before[name], after[name], strict=True)]
        for name in pids
    }
    section.tables.append(_table(found))
    for name in _OURS:
        if name in found:
            what = f"{name}: voluntary context switches a minute"
            section.aims.append(Aim(what, found[name][0], 0, "/min"))
    return section


def _start_rivals(lab: Lab, peers: Rivals, pids: dict[str, int]) -> list[Started]:
    started = []
    for name in (rivals.FLOCK, rivals.TINI, rivals.ETCDCTL, rivals.SANLOCK):
        if peers.has(name):
            one = lab.spawn([*peers.prefix(name, f"idle {name}"), *lab.holding])
            lab.await_stamp(one)
            started.append(one)
            pids[name] = one.pid
    if peers.sanlock_pid:
        pids["sanlock daemon, 1 lockspace"] = peers.sanlock_pid
    if peers.etcd_pid:
        pids["etcd server, 1 session"] = peers.etcd_pid
    return started


def _start_guards(lab: Lab, pids: dict[str, int], closing: ExitStack) -> list[Started]:
    started = []
    qemu = shutil.which("qemu-system-x86_64")
    commands = dict.fromkeys((ours.GUARD, ASKED, ours.GUARD_PIDNS), lab.holding)
    if qemu is not None:
        commands[QEMU] = qemu_start.command(qemu, lab.image(f"idle {QEMU}"))
    for name, command in commands.items():
        mode = Containment.PIDNS if name == ours.GUARD_PIDNS else Containment.PDEATHSIG
        spec = ours.spec(lab, f"idle {name}", containment=mode, ready_fd=READY_FD)
        one = _start_guard(lab, spec, command, closing)
        started.append(one)
        pids[name] = one.pid
        if name == ours.GUARD_PIDNS:
            pids[INIT] = first_below(one.pid)
        if name == ASKED:
            with client.connect(os.path.join(spec.runtime_dir, spec.uuid), DEADLINE_S) as asked:
                asked.execute("query-child", {}, DEADLINE_S)
    return started


def _start_guard(lab: Lab, spec: GuestSpec, command: list[str], closing: ExitStack) -> Started:
    ready, our_ready = os.pipe()
    for fd in (ready, our_ready):
        closing.callback(os.close, fd)
    monitor, theirs = socket.socketpair()  # QEMU greets there, and nobody asks it anything
    closing.enter_context(monitor)
    with theirs:
        fds = {READY_FD: our_ready, QMP_FD: theirs.fileno()}
        one = lab.spawn([*ours.words(spec), *command], fds)
    lab.await_readable(ready, one)
    return one


def count(pid: int) -> Count:
    """Return switches, voluntary and not, and microseconds of CPU, of all threads so far."""
    counts = {"voluntary": 0, "nonvoluntary": 0}
    cpu_ns = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status", encoding="utf-8") as file:
            for kind, value in _SWITCHES.findall(file.read()):
                counts[kind] += int(value)
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
            cpu_ns += int(file.read().split()[0])
    return counts["voluntary"], counts["nonvoluntary"], cpu_ns // 1000


def pause(seconds: float) -> None:
    """Let time pass: it is what is measured."""
    select.select([], [], [], seconds)


def _table(found: dict[str, list[float]]) -> Table:
    rows = []
    for name in sorted(found, key=lambda name: found[name][0]):
        voluntary, forced, cpu_us = found[name]
        shown = f"**{name}**" if name in _OURS else name
        rows.append([shown, number(voluntary), number(forced), number(cpu_us / 1000)])
    head = ("process", "voluntary switches/min", "involuntary/min", "CPU ms/min")
    return Table("Wake-ups of the idle", head, rows)
