"""Does the race's judge see two guests on one disk, and only those?

Made-up intervals, and real processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.faults.race import announce
from tests.faults.race.verdict import (
    FOREVER,
    Run,
    Turn,
    overlaps,
    run_name,
    runs_of,
    takeovers,
    tokens_that_do_not_rise,
)
from tests.faults.race.watching import Watching
from tests.support import waiting

if TYPE_CHECKING:
    from tests.faults.race.verdict import Overlap

DEADLINE_S = 30.0


def run(number: int, begin: float, end: float, disks: str = "a", orphaned: float = FOREVER) -> Run:
    name = run_name("ours", "h0", disks.split("+"), number)
    return Run(name, begin, end=end, orphaned=orphaned)


def seen(*runs: Run) -> list[tuple[str, int, int]]:
    def number(one: Run) -> int:
        return int(one.name.rpartition("/")[2])

    def told(overlap: Overlap) -> tuple[str, int, int]:
        return overlap.disk, number(overlap.first), number(overlap.second)

    return [told(overlap) for overlap in overlaps(runs)]


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        ([run(1, 0, 5), run(2, 5, 9)], []),
        ([run(1, 0, 5), run(2, 4.999, 9)], [("a", 1, 2)]),
        ([run(1, 0, 5), run(2, 1, 2)], [("a", 1, 2)]),
        ([run(1, 0, FOREVER), run(2, 7, FOREVER)], [("a", 1, 2)]),
        ([run(1, 0, 9, "a"), run(2, 1, 2, "b")], []),
        ([run(1, 0, 9, "a+b"), run(2, 1, 2, "b")], [("b", 1, 2)]),
        ([run(1, 0, 9, "a+b"), run(2, 1, 2, "b+a")], [("a", 1, 2), ("b", 1, 2)]),
        # Not only neighbours: the third meets the first, which the second has outlived.
        ([run(1, 0, 9), run(2, 1, 2), run(3, 5, 6)], [("a", 1, 2), ("a", 1, 3)]),
        ([run(1, 0, 5), run(2, 3, 3)], []),
    ],
)
def test_two_on_a_disk_are_seen_and_no_others(
    runs: list[Run], found: list[tuple[str, int, int]]
) -> None:
    assert seen(*runs) == found


def test_an_overlap_is_as_long_as_both_live() -> None:
    (overlap,) = overlaps([run(1, 0, 5), run(2, 3, 9)])
    assert (overlap.begin, overlap.end, overlap.seconds) == (3, 5, 2)


@pytest.mark.parametrize(("orphaned", "is_an_orphans"), [(FOREVER, False), (2, True), (4, False)])
def test_whose_supervisor_had_died_before_is_told(orphaned: float, *, is_an_orphans: bool) -> None:
    (overlap,) = overlaps([run(1, 0, 5, orphaned=orphaned), run(2, 3, 9)])
    assert overlap.is_an_orphans == is_an_orphans


def test_only_who_gave_nothing_back_is_taken_over() -> None:
    runs = [run(1, 0, 5), run(2, 8, 9), run(3, 20, 21)]
    turns = {one.name: Turn(one.name, code, 0) for one, code in zip(runs, (0, -9, 0), strict=True)}
    assert takeovers(runs, turns) == [("a", 11)]


@pytest.mark.parametrize(("tokens", "wrong"), [((3, 4, 9), 0), ((3, 3, 9), 1), ((9, 0, 3), 1)])
def test_a_token_that_does_not_rise_is_seen(tokens: tuple[int, ...], wrong: int) -> None:
    runs = [run(number, number, number + 1) for number in range(3)]
    turns = {one.name: Turn(one.name, 0, 0, token) for one, token in zip(runs, tokens, strict=True)}
    assert len(tokens_that_do_not_rise(runs, turns)) == wrong


def begin(watching: Watching, name: str, *supervisor: str) -> subprocess.Popen[bytes]:
    """Have a process announce itself, as a guest of the race does, and become another."""
    env = {**os.environ, announce.JUDGE: str(watching.path), announce.RUN: name}
    env[announce.QEMU] = "/bin/sleep"
    return subprocess.Popen([*supervisor, announce.__file__, "1000"], env=env)


def test_real_processes_are_seen_from_before_they_begin_until_they_are_dead(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("j") / "judge"
    names = [run_name("ours", "h0", ["a"], number) for number in range(3)]
    with Watching(path) as watching:
        first = begin(watching, names[0])
        waiting.until(lambda: watching.has_begun(names[0]), DEADLINE_S, "the first begins")
        first.kill()
        second = begin(watching, names[1])
        waiting.until(lambda: watching.has_begun(names[1]), DEADLINE_S, "the second begins")
        third = begin(watching, names[2])
        waiting.until(lambda: watching.has_begun(names[2]), DEADLINE_S, "the third begins")
        for process in (second, third):
            process.send_signal(signal.SIGKILL)
        for process in (first, second, third):
            process.wait(DEADLINE_S)
        waiting.until(lambda: not watching.alive(), DEADLINE_S, "all are dead")
    assert [(one.first.name, one.second.name) for one in overlaps(watching.runs())] == [
        (names[1], names[2])
    ]
    assert all(one.end < FOREVER for one in runs_of(watching.events[1:]))


def test_from_when_on_nobody_supervises_a_guest_is_seen(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    name = run_name("theirs", "h0", ["a"], 1)
    with Watching(tmp_path_factory.mktemp("j") / "judge") as watching:
        supervisor = begin(watching, name, "sh", "-c", '"$0" "$@" & wait')
        waiting.until(lambda: watching.has_begun(name), DEADLINE_S, "it begins")
        supervisor.kill()
        supervisor.wait(DEADLINE_S)
        waiting.until(lambda: watching.runs()[0].orphaned < FOREVER, DEADLINE_S, "that is seen")
        assert watching.signal(name, signal.SIGKILL)
        waiting.until(lambda: not watching.alive(), DEADLINE_S, "it is dead")
    (seen_run,) = watching.runs()
    assert seen_run.begin < seen_run.orphaned < seen_run.end
