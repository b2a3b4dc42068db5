"""Why is a guest whose leases are in etcd not handed over, taken back, or taken over?"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from lockplugins.contract import Resource
from tests.support.errors.etcd import cluster
from tests.support.errors.world import Case, Said, World, raised
from tests.support.etcd import NAMESPACE, Cluster
from tests.support.etcd_ends import NONCE, OTHER_NONCE, End

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.errors.world import Provoke


@contextmanager
def migrating(world: World) -> Iterator[tuple[End, End, Cluster, str]]:
    """Have a source that has prepared, and its destination; and what that is told."""
    with cluster(world) as found, End(found.config()) as source, End(found.config()) as target:
        source.own(world.disk)
        target.wait(world.disk)
        yield source, target, found, source.side.prepare(NONCE)


def prepared_by_nobody(world: World) -> Said:
    with migrating(world) as (source, _, found, _told):
        found.etcdctl("del", "--prefix", f"/lsup/v1/{NAMESPACE}/disk/")
        return raised(lambda: source.side.prepare(OTHER_NONCE))


def too_many_to_migrate(world: World) -> Said:
    with cluster(world) as found, End(found.config()) as source:
        for batch in range(2):
            source.plugin.acquire(
                [Resource(world.write(f"disk{batch}-{each}", "")) for each in range(63)], None
            )
        return raised(lambda: source.side.prepare(NONCE))


def handed_over_too_late(world: World) -> Said:
    with migrating(world) as (source, _, found, _told):
        found.etcdctl("del", "--prefix", f"/lsup/v1/{NAMESPACE}/out/")
        return raised(source.side.hand_over)


def taken_back_beside(world: World) -> Said:
    with migrating(world) as (source, _target, _found, _told):
        source.side.hand_over()
        return raised(source.side.take_back)


def taken_back_from_owner(world: World) -> Said:
    with migrating(world) as (source, target, _found, told):
        source.side.hand_over()
        target.side.complete_in(NONCE, told)
        return raised(source.side.take_back)


def completed(nonce: str = NONCE, *, gone: str = "", hands: bool = True) -> Provoke:
    """Provoke by a complete-in when some keys are gone."""

    def provoke(world: World) -> Said:
        with migrating(world) as (source, target, found, told):
            if hands:
                source.side.hand_over()
            if gone:
                found.etcdctl("del", "--prefix", f"/lsup/v1/{NAMESPACE}/{gone}/")
            return raised(lambda: target.side.complete_in(nonce, told))

    return provoke


def completed_for_others(world: World) -> Said:
    with migrating(world) as (_source, target, _found, _told):
        return raised(lambda: target.side.complete_in(NONCE, "0123456789ab"))


CASES = (
    Case(112, prepared_by_nobody, "Somebody has deleted owners' keys: the guest is about to be "
         "ended, and does not migrate."),
    Case(111, too_many_to_migrate, "All of a guest changes hands in one transaction."),
    Case(111, handed_over_too_late, "Somebody has deleted the key of the attempt. The guest has "
         "stopped; end it with `complete-out`, and the destination with `complete-in --cancel`."),
    Case(110, taken_back_beside, "A destination is there, and could be completed later. Or it is "
         "dead, which its session's absence proves after the time that is then named.",
         "lockplugins.etcd"),
    Case(111, taken_back_from_owner, "The destination has the guest, or had it."),
    Case(110, completed(hands=False), "`complete-in` waits for that, until its `--timeout`.",
         "lockplugins.etcd"),
    Case(111, completed(OTHER_NONCE), "The cookie is of another attempt than the source's last."),
    Case(111, completed(gone="in"), "The source, or a later destination, has proven this one dead: "
         "its session was absent for W."),
    Case(112, completed(gone="disk"), "The source is gone, and others have had the disks since: "
         "what the destination remembers they have moved on from."),
    Case(2, completed_for_others, "The cookie does not name the destination's disk. Perhaps both "
         "hosts know it by different names: `plan` shows them.", "lockplugins.etcd"),
)  # fmt: skip
