"""Is there one owner at most, at whichever line of a hand-over a guard dies?

A forked guard runs one end's step with the real plugin and the real carrier, and
SIGKILLs itself at the n-th line, for every n: so between any two of its system
calls. Its guest, which has nothing but the carrier's end, lives on for as long
as the test likes; this process is the other end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LockError
from tests.faults.dying import Hand, die_at_each
from tests.support.ends import NONCE, End, image
from tests.support.locking import DEADLINE_S, READ, is_free

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from supervisor.guard.carrier import Carrier
    from tests.faults.dying import DyingGuard, Hear, Tell

pytestmark = pytest.mark.slow

TRACED = ("lockplugins/", "guard/carrier.py")
DISKS = ("vda", "vdb")


class Step(Hand):
    """Two disks and the other end."""

    def __init__(self, directory: Path) -> None:
        self.disks = [image(directory / name) for name in DISKS]
        self.other = End()

    def close(self) -> None:
        if self.other.plugin._held:
            self.other.die()

    def excluded(self) -> None:
        assert not any(is_free(disk) for disk in self.disks), "a stranger could write"

    def own(self, carrier: Carrier) -> End:
        end = End(carrier)
        end.own(*self.disks)
        return end

    def is_granted(self, step: Callable[[], object]) -> bool:
        try:
            step()
        except LockError:
            return False
        return True

    def arrive(self) -> bool:
        return self.is_granted(lambda: self.other.side.complete_in(NONCE, self.told))

    told = ""


class Prepare(Step):
    """The source's: it owns before and after."""

    def begin(self, carrier: Carrier, tell: Tell, hear: Hear) -> Callable[[], object]:
        source = self.own(carrier)
        tell("owns")
        hear()
        return lambda: source.side.prepare(NONCE)

    def meet(self, dying: DyingGuard) -> None:
        assert dying.hear() == "owns"
        self.other.wait(*self.disks)
        self.told = self.other.told()
        dying.tell("go")

    def judge(self, *, ended: bool) -> None:  # noqa: ARG002 - it makes no difference
        self.excluded()
        assert not self.arrive()

    def judge_last(self, *, ended: bool) -> None:  # noqa: ARG002 - it makes no difference
        assert all(is_free(disk) for disk in self.disks)


class HandOver(Prepare):
    """The source's, its guest stopped for good: the destination may own as soon as it can."""

    def begin(self, carrier: Carrier, tell: Tell, hear: Hear) -> Callable[[], object]:
        source = self.own(carrier)
        source.side.prepare(NONCE)
        tell("owns")
        hear()
        return source.side.hand_over

    def judge(self, *, ended: bool) -> None:
        self.excluded()
        assert self.arrive() or not ended
        self.other.side.let_go()

    def judge_last(self, *, ended: bool) -> None:  # noqa: ARG002 - it makes no difference
        assert self.arrive(), "its memory is the last one"


class TakeBack(Step):
    """The source's, its guest fenced until it is done; no destination is left."""

    def begin(self, carrier: Carrier, tell: Tell, hear: Hear) -> Callable[[], object]:
        source = self.own(carrier)
        tell("owns")
        hear()
        source.side.prepare(NONCE)
        source.hand_over()
        tell("handed")
        hear()
        assert source.lost.result(DEADLINE_S) is False
        return source.side.take_back

    def meet(self, dying: DyingGuard) -> None:
        gone = End()
        assert dying.hear() == "owns"
        gone.wait(*self.disks)
        dying.tell("go")
        assert dying.hear() == "handed"
        gone.die()
        dying.tell("go")

    def judge(self, *, ended: bool) -> None:
        self.excluded()
        awaits = self.is_granted(lambda: self.other.wait(*self.disks))
        self.told = self.other.told() if awaits else ""
        assert not (ended and awaits and self.arrive()), "two owners"
        if awaits:
            self.other.die()

    def judge_last(self, *, ended: bool) -> None:  # noqa: ARG002 - it makes no difference
        assert all(is_free(disk) for disk in self.disks)


class CompleteIn(Step):
    """The destination's: the owner when it is done, and has not run before."""

    def begin(self, carrier: Carrier, tell: Tell, hear: Hear) -> Callable[[], object]:
        target = End(carrier)
        hear()
        target.wait(*self.disks)
        tell("waits")
        told = hear()

        def complete_in() -> None:
            target.side.complete_in(NONCE, told)
            target.side.confirm()

        return complete_in

    def meet(self, dying: DyingGuard) -> None:
        self.other.own(*self.disks)
        dying.tell("come")
        assert dying.hear() == "waits"
        told = self.other.side.prepare(NONCE)
        self.other.hand_over()
        dying.tell(told)

    def judge(self, *, ended: bool) -> None:  # noqa: ARG002 - it makes no difference
        self.excluded()
        assert not any(is_free(disk, READ, 2) for disk in self.disks), "a sharer could come"
        assert not self.is_granted(self.other.side.take_back), "two owners"

    def judge_last(self, *, ended: bool) -> None:
        lost = self.other.lost.result(DEADLINE_S)
        assert lost or not ended
        assert self.is_granted(self.other.side.take_back) != lost
        self.excluded()


@pytest.mark.parametrize("kind", [Prepare, HandOver, TakeBack, CompleteIn])
def test_one_owner_at_most_wherever_a_guard_dies(
    tmp_path: Path,
    kind: type[Step],
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    where = die_at_each(lambda: kind(tmp_path), TRACED, rounds(7, 1))
    measured("migration-failures", f"{kind.__name__}: a guard killed at {where}, one owner at most")
