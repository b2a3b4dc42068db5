"""Is a guest of etcd's one end's, whole, at whichever line of a hand-over a guard dies?

A forked guard runs one end's step with the real plugin, and SIGKILLs itself at the n-th line of it,
for every n: so between any two of its requests. This process is the other end, and a stranger.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseHeldError, LockError, Resource
from tests.faults.dying import Hand, die_at_each
from tests.support.etcd_ends import FAILOVER_S, NONCE, End, attempt, owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.guard.carrier import Carrier
    from tests.faults.dying import DyingGuard, Hear, Tell
    from tests.support.etcd import Cluster

pytestmark = pytest.mark.slow

TRACED = ("lockplugins/etcd/attempt.py", "lockplugins/etcd/handover.py", "lockplugins/etcd/taking")
DISKS = ("vda", "vdb")


class Step(Hand):
    """The other end, and a stranger, in a namespace of their own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.table = cluster.config() | {"namespace": str(uuid.uuid4()), "failover_s": FAILOVER_S}
        self.other, self.stranger = End(self.table), End(self.table, "another guest's")

    def own(self) -> End:
        end = End(self.table)
        end.own(*DISKS)
        return end

    def wait(self, end: End) -> None:
        end.wait(*DISKS)

    def arrives(self) -> bool:
        return granted(lambda: self.other.side.complete_in(NONCE, self.other.told()))

    def whose(self) -> bool:
        """Return whether all is the other end's; nobody else gets any of it."""
        for name in DISKS:
            with pytest.raises(LeaseHeldError):
                self.stranger.plugin.acquire([Resource("/nowhere", identity=name)], None)
        (whose,) = owner(self.cluster, self.other)
        return whose

    def close(self) -> None:
        for end in (self.other, self.stranger):
            end.plugin.disconnect()


def granted(step: Callable[[], object]) -> bool:
    try:
        step()
    except LockError:
        return False
    return True


class Prepare(Step):
    """The source's: it owns before and after."""

    def begin(self, carrier: Carrier, tell: Tell, hear: Hear) -> Callable[[], object]:  # noqa: ARG002  # nothing is carried
        source = self.own()
        tell("owns")
        hear()
        return lambda: source.side.prepare(NONCE)

    def meet(self, dying: DyingGuard) -> None:
        assert dying.hear() == "owns"
        self.wait(self.other)
        dying.tell("go")

    def judge(self, *, ended: bool) -> None:  # noqa: ARG002  # it makes no difference
        assert not self.whose()
        assert not self.arrives()
        assert not self.whose()


class HandOver(Prepare):
    """The source's, its guest stopped for good: the destination may own as soon as it can."""

    def begin(self, carrier: Carrier, tell: Tell, hear: Hear) -> Callable[[], object]:  # noqa: ARG002  # nothing is carried
        source = self.own()
        source.side.prepare(NONCE)
        tell("owns")
        hear()
        return source.side.hand_over

    def judge(self, *, ended: bool) -> None:
        assert not self.whose()
        handed = attempt(self.cluster, self.other)[0].startswith("handed ")
        assert handed or not ended
        assert self.arrives() == handed
        assert self.whose() == handed


class TakeBack(Step):
    """The source's, its guest fenced until it is done; its destination has cancelled."""

    def begin(self, carrier: Carrier, tell: Tell, hear: Hear) -> Callable[[], object]:  # noqa: ARG002  # nothing is carried
        source = self.own()
        source.side.prepare(NONCE)
        source.side.hand_over()
        tell("handed")
        hear()
        return source.side.take_back

    def meet(self, dying: DyingGuard) -> None:
        assert dying.hear() == "handed"
        dying.tell("go")

    def judge(self, *, ended: bool) -> None:
        assert not self.whose()
        over = attempt(self.cluster, self.other)[0].startswith("over ")
        assert over or not ended
        awaits = granted(lambda: self.wait(self.other))  # else the dead one has the ticket
        assert awaits or not over
        assert (awaits and self.arrives()) == (awaits and not over)
        assert self.whose() == (awaits and not over)


class CompleteIn(Step):
    """The destination's: the owner of all of it when it is done, or of nothing."""

    def begin(self, carrier: Carrier, tell: Tell, hear: Hear) -> Callable[[], object]:  # noqa: ARG002  # nothing is carried
        target = End(self.table)
        hear()
        self.wait(target)
        tell("waits")
        hear()

        def complete_in() -> None:
            target.side.complete_in(NONCE, target.told())
            target.side.confirm()

        return complete_in

    def meet(self, dying: DyingGuard) -> None:
        self.other.own(*DISKS)
        dying.tell("come")
        assert dying.hear() == "waits"
        self.other.side.prepare(NONCE)
        self.other.side.hand_over()
        dying.tell("go")

    def judge(self, *, ended: bool) -> None:
        kept = self.whose()
        assert not (kept and ended)
        assert not granted(self.other.side.take_back), "not before the dead one's time, or never"
        self.cluster.etcdctl(
            "del", "--prefix", f"/lsup/v1/{self.table['namespace']}/in/"
        )  # as then
        assert granted(self.other.side.take_back) == kept
        assert self.whose() == kept


@pytest.mark.parametrize("kind", [Prepare, HandOver, TakeBack, CompleteIn])
def test_one_owner_at_most_wherever_a_guard_dies(
    etcd_member: Cluster,
    kind: type[Step],
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    where = die_at_each(lambda: kind(etcd_member), TRACED, rounds(5, 1))
    measured("etcd-migration", f"{kind.__name__}: a guard killed at {where}, one owner at most")
