"""Why does etcd not give a lease, or not keep it? Configuration, cluster, other holders."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lockplugins.contract import Guest, Lease, Mode, Resource
from lockplugins.etcd import names
from lockplugins.etcd.client import Answer
from lockplugins.etcd.plugin import EtcdPlugin
from lockplugins.etcd.transaction import Outcome
from tests.support.errors.world import Case, Said, World, raised
from tests.support.etcd import NAMESPACE, USER_PASSWORD, Cluster
from tests.support.locking import CopyingCarrier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.errors.world import Provoke

_NOBODY = "http://127.0.0.1:1"


def table(**keys: str) -> Provoke:
    """Provoke by `run` with these keys in the configuration's [etcd]."""

    def provoke(world: World) -> Said:
        lines = "".join(f'{key} = "{value}"\n' for key, value in keys.items())
        config = world.write("config.toml", "[etcd]\n" + lines)
        words = ("run", "--plugin", "etcd", "--disk", world.disk, "--config", config, "true")
        return world.says(*words)

    return provoke


@contextmanager
def cluster(world: World, *, auth: bool = False) -> Iterator[Cluster]:
    with Cluster(Path(world.path("etcd")), auth=auth) as found:
        yield found


def says(world: World, found: Cluster, *words: str, **keys: str) -> Said:
    """Return what `run` says with that cluster."""
    lines = "".join(f'{key} = "{value}"\n' for key, value in (found.config() | keys).items())
    config = world.write("config.toml", "[etcd]\n" + lines)
    return world.says("run", "--plugin", "etcd", "--config", config, *words, "true")


def held(world: World) -> Said:
    with cluster(world) as found:
        world.guest(world.disk, plugin="etcd", config={"etcd": found.config()})
        return says(world, found, "--disk", world.disk)


def too_many(world: World) -> Said:
    with cluster(world) as found:
        disks = [f"--disk={world.write(f'disk{number}', '')}" for number in range(70)]
        return says(world, found, *disks)


def wrong_user(world: World) -> Said:
    with cluster(world, auth=True) as found:
        return says(world, found, "--disk", world.disk, username="stranger")


def foreign_namespace(world: World) -> Said:
    with cluster(world, auth=True) as found:
        return says(world, found, "--disk", world.disk, namespace="others")


def frozen(world: World) -> Said:
    with cluster(world) as found:
        number = found.members[0].process
        assert number
        os.kill(number.pid, 19)
        try:
            return says(world, found, "--disk", world.disk)
        finally:
            os.kill(number.pid, 18)


@contextmanager
def owner(world: World) -> Iterator[tuple[EtcdPlugin, Cluster, Lease]]:
    """Have a plugin of this process own the disk."""
    with cluster(world) as found:
        plugin = EtcdPlugin(found.config(), CopyingCarrier())
        try:
            plugin.open(Guest("uuid", "web1"))
            yield plugin, found, plugin.acquire([Resource(world.disk)], None)[0]
        finally:
            plugin.disconnect()


def deleted(world: World) -> Said:
    with owner(world) as (plugin, found, _):
        (key,) = (key for key in found.kept() if key.endswith("/w"))
        found.etcdctl("del", key)
        return raised(plugin.renew)


def session_of_others(world: World) -> Said:
    with owner(world) as (plugin, found, _):
        found.etcdctl("del", plugin._session.key)
        found.etcdctl("put", plugin._session.key, "theirs")
        return raised(plugin.renew)


def had_by_others(world: World) -> Said:
    with owner(world) as (plugin, found, lease):
        plugin.release(lease)
        (marker,) = (key for key in found.kept() if "/p/" in key)
        found.etcdctl("del", marker)
        return raised(lambda: plugin.reacquire(lease))


def held_by_others(world: World) -> Said:
    with owner(world) as (plugin, found, lease):
        plugin.release(lease)
        (marker,) = (key for key in found.kept() if "/p/" in key)
        found.etcdctl("put", marker.split("/p/")[0] + "/w", "theirs")
        return raised(lambda: plugin.reacquire(lease))


def not_given_up(world: World) -> Said:
    with owner(world) as (plugin, _, lease):
        return raised(lambda: plugin.reacquire(lease))


def shared_already(world: World) -> Said:
    with owner(world) as (plugin, _, lease):
        plugin.release(lease)
        plugin.acquire([Resource(world.disk, Mode.SHARED)], None)
        return raised(lambda: plugin.acquire([Resource(world.disk)], None))


def bad_uri(_world: World) -> Said:
    return raised(lambda: names.of(Resource("nbd://10.0.0.1:port/disk")))


def none_to_release(world: World) -> Said:
    plugin = EtcdPlugin({"namespace": NAMESPACE}, CopyingCarrier())
    return raised(lambda: plugin.release(Lease(Resource(world.disk), NAMESPACE, "x")))


def no_transaction(_world: World) -> Said:
    answer = Answer({}, 0, "http://10.0.0.1:2379", doubtful=False)
    return raised(lambda: Outcome(answer))


def no_disk(world: World) -> Said:
    with cluster(world) as found:
        return says(world, found, "--disk", "/dev/null")


def gone(world: World) -> Said:
    with cluster(world) as found:
        return says(world, found, "--disk", world.path("gone"))


def long_name(world: World) -> Said:
    with cluster(world) as found:
        return says(world, found, "--disk", f"{world.disk},id={'x' * 600}")


def no_password(world: World) -> Said:
    return table(endpoints=_NOBODY, username="fleet", password_file=world.path("none"))(world)


def unreadable_password(world: World) -> Said:
    path = world.write("password", USER_PASSWORD.encode() + b"\xff")
    return table(endpoints=_NOBODY, username="fleet", password_file=path)(world)


def bad_certificate(world: World) -> Said:
    path = world.write("ca.pem", "no certificate")
    return table(endpoints="https://127.0.0.1:1", ca_cert=path)(world)


CASES = (
    Case(110, held, "Another guest owns the disk, or the guest itself runs elsewhere. Stop it, or "
         "wait; a holder whose session is gone is dead or cut off, and is taken over in the time "
         "said."),
    Case(111, table(endpoints=_NOBODY), "No member of the cluster could be reached; nothing was "
         "done. Is etcd running, are the endpoints right?"),
    Case(111, frozen, "Members were asked and did not answer: the cluster has no quorum, or the "
         "network loses answers. What was asked may still be done; if so it is undone by the "
         "session's end."),
    Case(111, wrong_user, "etcd knows no such user, or another password."),
    Case(111, foreign_namespace, "The user's role does not reach the namespace's keys "
         "(/lsup/v1/NAMESPACE/)."),
    Case(111, too_many, "etcd's limit for one transaction, in which all disks of a guest are "
         "taken. Start with fewer and attach the others."),
    Case(2, table(endpoints="ftp://a"), "An endpoint is http:// or https://, host and port."),
    Case(2, table(endpoints="http://a/b"), "An endpoint is http:// or https://, host and port."),
    Case(2, table(endpoints="a:2379", ca_cert="/srv/ca.pem"), "Certificates are only used with "
         "https://, which is not what a host and port alone mean."),
    Case(2, table(username="fleet1"), "A user without a password, a password without a user, or "
         "a key without a certificate would be ignored."),
    Case(2, table(failover_s="5"), "Every time of the plugin follows from failover_s; shorter, and "
         "a change of the leader would end guests."),
    Case(111, table(endpoints="http://no.such.host.invalid:2379"), "None of the endpoints' names "
         "can be resolved."),
    Case(2, no_password, "The password is read from that file, whenever it is needed."),
    Case(2, unreadable_password, "The password is read from that file, whenever it is needed."),
    Case(2, table(endpoints="https://127.0.0.1:1", ca_cert="/srv/none.pem"), "A file of [etcd] "
         "cannot be read."),
    Case(2, bad_certificate, "A certificate or key of [etcd] is none that OpenSSL takes."),
    Case(111, gone, "The disk is not there."),
    Case(111, no_disk, "A device that is no disk has no name that other hosts know. Give it one."),
    Case(2, long_name, "Names of disks are part of keys that people read."),
    Case(112, deleted, "Somebody has deleted the owner's key, or another guest has taken the disk "
         "over. The guest is ended."),
    Case(112, session_of_others, "Somebody has overwritten the session's key. The guest is ended."),
    Case(112, had_by_others, "While the guest was parked another owned the disk. It is ended."),
    Case(111, held_by_others, "While the guest was parked another took the disk. It is tried again "
         "until the time for parking is over."),
    Case(111, not_given_up, "A program wants a lease back that it has not released.",
         "lockplugins.etcd"),
    Case(111, shared_already, "The guest has a lease on that disk as a shared one, perhaps by "
         "another name, and the two would not go together."),
    Case(111, bad_uri, "A network disk's URI that nobody could open."),
    Case(111, none_to_release, "A program has released a lease that it does not have.",
         "lockplugins.etcd"),
    Case(111, no_transaction, "What answers is no etcd, or one of another version."),
)  # fmt: skip
