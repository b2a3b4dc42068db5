"""Where does the time of a launch go? Milestones inside one guard, and what its imports cost."""

from __future__ import annotations

import os
import py_compile
import tempfile
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from supervisor.spec import Containment
from tests.bench import marking, ours
from tests.bench.figures import median
from tests.bench.report import Table, number
from tests.bench.starting import DEADLINE_S, MARKS_FD, BenchError
from tests.support import waiting
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.starting import Lab, Started

# (milestone that ends the phase, what the phase was), in the order of time.
_LAUNCH = (
    ("first line", "exec, ld.so, interpreter to its first line"),
    ("main imported", "imports: main, contract, spec, signals"),
    ("rest imported", "imports: prepare, supervise and what they need"),
    ("watching", ""),
    ("enter parse", "signals blocked"),
    ("leave parse", "argv parsed"),
    ("enter Prepared", "on to the preparation"),
    ("enter claim", "descriptors looked at, command found, containment decided"),
    ("leave claim", "runtime directory claimed"),
    ("enter fork", "carrier, record, pipes"),
    ("leave fork", "fork"),
    ("enter _acquire", "supervisor made, threads started"),
    ("leave publish_acquiring", "guest.json published (acquiring)"),
    ("leave load", "plugin imported"),
    ("enter publish_acquired", "leases acquired"),
    ("leave publish_acquired", "published (acquired), control pipe bound"),
    ("enter go", "main thread woken"),
    ("command", "go written, child woken, exec, command's first instruction"),
)
# Of a plugin that registers the guest's process with its lock manager.
_REGISTERED = (
    *_LAUNCH[:4],
    ("enter plugin_classes", "signals blocked, argv parsed"),
    ("leave plugin_classes", "plugin imported, with what it needs"),
    ("enter fork", "directory claimed, carrier, record, pipes"),
    ("leave fork", "fork"),
    ("leave load", "threads started, guest.json published (acquiring)"),
    ("enter _register", "lock manager reached, its library loaded"),
    ("leave _register", "guest's process registered"),
    ("enter acquire", "resources named"),
    ("leave acquire", "leases acquired by the lock manager, and looked at"),
    ("leave publish_acquired", "proven, published (acquired), control pipe bound"),
    _LAUNCH[-1],
)
# Of a plugin that keeps its leases in a cluster, and proves them.
_CLUSTERED = (
    *_REGISTERED[:8],
    ("leave load", "threads started, guest.json published (acquiring)"),
    ("enter claims", "cluster reached, user logged in, session made"),
    ("enter acquire", "resources named"),
    ("leave acquire", "leases acquired by one transaction"),
    *_REGISTERED[-2:],
)
_TAKEOVER = (
    ("enter publish_acquired", "holder's guard and guest die, the waiter wakes with the lock"),
    ("leave publish_acquired", "published (acquired), control pipe bound"),
    ("enter go", "main thread woken"),
    ("command", "go written, child woken, exec, command's first instruction"),
)
_END = (
    ("enter _ended", "child's exit(2), main thread woken"),
    ("enter remove", "child reaped, states passed"),
    ("leave remove", "runtime directory removed"),
    ("gone", "threads ended, memory freed"),
)
_NOT_THE_GUARDS = "watching"
_SLOWEST = 10
MODES = (Containment.PDEATHSIG, Containment.PIDNS)

Marks = dict[str, int]
Steps = tuple[tuple[str, str], ...]


def launch(lab: Lab, count: int) -> list[Table]:
    """Return the profile of the launch: phases and imports."""
    return [
        _table(f"launch, medians of {count}", _alone(lab, count, _LAUNCH, "spawn", _file(lab))),
        imports(lab, ours.guard(lab, "imports"), lab.command, count),
    ]


def registered(lab: Lab, count: int, words: Callable[[str], list[str]]) -> list[Table]:
    """Return the same of guards whose plugin registers: `words(containment)` makes each."""
    columns = _alone(lab, count, _REGISTERED, "spawn", words)
    return [
        _table(f"launch, medians of {count}", columns),
        imports(lab, words(Containment.PDEATHSIG), lab.command, count),
    ]


def clustered(lab: Lab, count: int, words: dict[str, list[str]]) -> list[Table]:
    """Return the same of guards whose leases are in a cluster: a column for each of `words`."""
    marker = Marker(lab)
    columns = [
        _column([marker.spawn(each).marks() for _ in range(count)], _CLUSTERED, "spawn")
        for each in words.values()
    ]
    return [
        _table(f"launch, medians of {count}", columns, list(words)),
        imports(lab, next(iter(words.values())), lab.command, count),
    ]


def _file(lab: Lab) -> Callable[[str], list[str]]:
    return lambda mode: ours.guard(lab, f"phases {mode}", containment=mode)


def end(lab: Lab, count: int) -> list[Table]:
    """Return the profile of the guest's end."""
    return [
        _table(f"guest's end, medians of {count}", _alone(lab, count, _END, "last act", _file(lab)))
    ]


def takeover(lab: Lab, count: int, take_over: Callable[[str, Marker], Marks]) -> list[Table]:
    """Return the profile of a takeover; `take_over(containment, marker)` does one."""
    marker = Marker(lab)
    columns = [
        _column([take_over(mode, marker) for _ in range(count)], _TAKEOVER, "killed")
        for mode in MODES
    ]
    return [_table(f"takeover, medians of {count}", columns)]


class Marker:
    """Has guards mark what they pass."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._script = lab.path("marking.pyc")
        py_compile.compile(marking.__file__, cfile=self._script, doraise=True)

    def spawn(self, words: Sequence[str]) -> Marked:
        """Start the guard whose argv begins with `words`, for a command that only stamps."""
        reading, writing = os.pipe()
        argv = [*words[:3], self._script, CHECKOUT, str(MARKS_FD), *words[4:], *self._lab.command]
        try:
            return Marked(self._lab, self._lab.spawn(argv, {MARKS_FD: writing}), reading)
        finally:
            os.close(writing)


class Marked:
    """A guard that marks."""

    def __init__(self, lab: Lab, started: Started, marks_fd: int) -> None:
        self._lab = lab
        self._started = started
        self._marks_fd = marks_fd

    def marks(self) -> Marks:
        """Wait for its end; returns when each milestone was passed first."""
        waiting.gone(self._started.pidfd, DEADLINE_S)
        gone = time.monotonic_ns()
        self._lab.reap(self._started, expected=0)
        with open(self._marks_fd, encoding="ascii") as file:
            lines = file.read().splitlines()
        first, last = self._lab.stamps()
        marks = {"spawn": self._started.at, "command": first, "last act": last, "gone": gone}
        for line in lines:
            milestone, at = line.split("\t")
            marks.setdefault(milestone, int(at))
        return marks


def _table(title: str, columns: list[dict[str, float]], names: Sequence[str] = MODES) -> Table:
    rows = [
        [name, *(number(column.get(name, 0.0)) for column in columns)]
        for name in dict.fromkeys(name for column in columns for name in column)
    ]
    rows.append(["**sum**", *(number(sum(column.values())) for column in columns)])
    head = ("phase", *(f"{name} ms" for name in names))
    return Table(f"Profile: the phases of the {title}", head, rows)


def _alone(
    lab: Lab, count: int, steps: Steps, begin: str, words: Callable[[str], list[str]]
) -> list[dict[str, float]]:
    """Return a column for each containment, of guards that run one after the other."""
    marker = Marker(lab)
    return [
        _column([marker.spawn(words(mode)).marks() for _ in range(count)], steps, begin)
        for mode in MODES
    ]


def _column(runs: list[Marks], steps: Steps, begin: str) -> dict[str, float]:
    times = [_times(marks, steps, begin) for marks in runs]
    return {name: median([time.get(name, 0.0) for time in times]) for name in times[0]}


def _times(marks: Marks, steps: Steps, begin: str) -> dict[str, float]:
    """Return the phases' milliseconds; one whose milestone is not there counts to the next."""
    times, before = {}, marks[begin]
    pending: list[str] = []
    for milestone, name in steps:
        at = marks.get(milestone)
        if milestone == _NOT_THE_GUARDS:
            before = at or before
            continue
        pending.append(name)
        if at is not None:
            times["; ".join(pending)] = (at - before) / 1e6
            before, pending = at, []
    return times


def imports(lab: Lab, prefix: Sequence[str], rest: Sequence[str], count: int) -> Table:
    """Return what `-X importtime` says of a Python command; `prefix[0]` is the interpreter."""
    runs = [_import_times(lab, [prefix[0], "-X", "importtime", *prefix[1:], *rest])
            for _ in range(count)]  # fmt: skip
    own: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for module, self_ms in run.items():
            own[module].append(self_ms)
    typical = {module: median(times) for module, times in own.items()}
    ordered = sorted(typical, key=lambda module: -typical[module])
    rows = [[module, number(typical[module])] for module in ordered[:_SLOWEST]]
    others = ordered[_SLOWEST:]
    rows.append([f"{len(others)} others", number(sum(typical[module] for module in others))])
    rows.append([f"**all {len(ordered)}**", number(sum(typical.values()))])
    name = os.path.basename(next(word for word in prefix[1:] if not word.startswith("-")))
    title = f"Profile: imports of {name}, those of the interpreter's start included (-X importtime)"
    return Table(title, ("module", "self ms"), rows)


def _import_times(lab: Lab, argv: list[str]) -> dict[str, float]:
    with tempfile.TemporaryFile() as said:
        lab.run(argv, {2: said.fileno()})
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").splitlines()
    found = {}
    for line in lines:
        if line.startswith("import time:") and "self [us]" not in line:
            self_us, _, module = line.removeprefix("import time:").split("|")
            found[module.strip()] = int(self_us) / 1e3
    if not found:
        raise BenchError(f"{argv[0]} -X importtime said nothing")
    return found
