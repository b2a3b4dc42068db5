"""How fast does the guard say who its child is, asked over the control pipe and by command?"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from supervisor import client
from tests.bench import ours, phases, rivals
from tests.bench.figures import median, percentile, ratios, rounds
from tests.bench.report import TIMES, Aim, Section, Table, number
from tests.bench.starting import DEADLINE_S, READY_FD, BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.spec import GuestSpec
    from tests.bench.rivals import Rivals
    from tests.bench.starting import Cost, Lab

COMMAND = "lock-supervisor child"
_WARM_AIM_US, _COMMAND_AIM = 200.0, 6.0
_WARM_UP = 100
_ASKED_A_ROUND = 50


def measure(lab: Lab, peers: Rivals, count: int) -> Section:
    """Ask one guard `count` rounds of questions."""
    section = Section(
        "GetChild",
        "`query-child` over a control connection that is open, by the product's own Python "
        "client; and whole processes that ask for one fact.",
    )
    spec = ours.spec(lab, "asked", ready_fd=READY_FD)
    ready, our_ready = os.pipe()
    started = lab.spawn([*ours.guard(lab, "asked", ready_fd=READY_FD), *lab.holding],
                        {READY_FD: our_ready})  # fmt: skip
    lab.await_readable(ready, started)
    lab.await_stamp(started)
    warm = _warm(spec, count * _ASKED_A_ROUND)
    samples = rounds(_commands(lab, peers, spec), count)
    child = _command(spec)
    section.profile.append(phases.imports(lab, _interpreted(child), [], max(3, count // 10)))
    lab.end(started)
    for fd in (ready, our_ready):
        os.close(fd)
    section.tables += [_warm_table(warm), _table(samples)]
    section.aims.append(Aim("GetChild, connection open", median(warm), _WARM_AIM_US, "µs"))
    unit = [cost.whole_ms for cost in samples[ours.NOTHING]]
    times = median(ratios([cost.whole_ms for cost in samples[COMMAND]], unit))
    section.aims.append(Aim(f"`{COMMAND}` over `{ours.NOTHING}`", times, _COMMAND_AIM, TIMES))
    return section


def _warm(spec: GuestSpec, count: int) -> list[float]:
    """Return the microseconds of each of `count` questions."""
    times = []
    with client.connect(os.path.join(spec.runtime_dir, spec.uuid), DEADLINE_S) as connection:
        for number_asked in range(_WARM_UP + count):
            begin = time.monotonic_ns()
            answer = connection.execute("query-child", {}, DEADLINE_S)
            end = time.monotonic_ns()
            if not isinstance(answer, dict) or "pid" not in answer:
                raise BenchError(f"query-child: {answer!r}")
            if number_asked >= _WARM_UP:
                times.append((end - begin) / 1e3)
    return times


def _command(spec: GuestSpec) -> list[str]:
    return [*ours.command(), "child", "--runtime-dir", spec.runtime_dir, spec.uuid]


def _interpreted(argv: list[str]) -> list[str]:
    """Return `argv` with the interpreter and options that its first line names."""
    with open(argv[0], encoding="utf-8") as file:
        interpreter = file.readline().removeprefix("#!").split()
    return [*interpreter, *argv]


def _commands(lab: Lab, peers: Rivals, spec: GuestSpec) -> dict[str, Callable[[], Cost]]:
    argv = {ours.NOTHING: ours.nothing(), COMMAND: _command(spec)}
    if peers.has(rivals.SANLOCK):
        argv["sanlock client status"] = peers.sanlock_status
    if peers.has(rivals.ETCDCTL):
        argv["etcdctl get"] = peers.etcdctl_get

    def row(words: list[str]) -> Callable[[], Cost]:
        return lambda: lab.run(words)

    return {name: row(words) for name, words in argv.items()}


def _warm_table(times: list[float]) -> Table:
    row = (number(median(times)), number(percentile(times, 99)), str(len(times)))
    return Table("GetChild over an open connection", ("", "median µs", "p99 µs", "questions"),
                 [("**query-child**", *row)])  # fmt: skip


def _table(samples: dict[str, list[Cost]]) -> Table:
    unit = [cost.whole_ms for cost in samples[ours.NOTHING]]
    rows = []
    for name, costs in samples.items():
        whole = [cost.whole_ms for cost in costs]
        rows.append([
            f"**{name}**" if name == COMMAND else name,
            number(median(whole)), number(percentile(whole, 90)),
            f"{median(ratios(whole, unit)):.2f}",
        ])  # fmt: skip
    head = ("command", "whole ms", "p90", f"{TIMES} {ours.NOTHING}")
    return Table(f"Commands that ask, {len(unit)} rounds", head, rows)
