"""What does doctor say of an etcd cluster, and of a disk's name in it? Changes nothing there."""

from __future__ import annotations

import os
import re
import time
from functools import partial

from lockplugins.contract import LockError
from lockplugins.etcd import certificates, keys, names
from lockplugins.etcd.client import cluster_of
from lockplugins.etcd.connection import now
from lockplugins.etcd.transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from lockplugins.contract import Finding, Resource
    from lockplugins.etcd.client import Client, Message
    from lockplugins.etcd.connection import Endpoint
    from lockplugins.etcd.timing import Timing
    from lockplugins.etcd.trust import Trust

MEMBER, CLUSTER, QUORUM, ALARM = "etcd member", "etcd cluster", "etcd quorum", "etcd alarms"
VERSION, CERTIFICATE, TIMES, NAME = "etcd version", "etcd TLS", "failover", "name"
CHECKS = (MEMBER, CLUSTER, QUORUM, ALARM, VERSION, CERTIFICATE, TIMES, NAME)

ANSWER_S = 2.0
SOON_S = 14 * 86400.0
_STATUS, _ALARM = "/v3/maintenance/status", "/v3/maintenance/alarm"
# Fixed in these: an early end of leases after a leader's pause (15247), renewal of revoked ones.
_GOOD = {(3, 4): 38, (3, 5): 23, (3, 6): 5}
_FIRST_GOOD = (3, 7)


def of_cluster(
    clients: Sequence[tuple[str, Client]], every: Client, namespace: str
) -> Iterator[Finding]:
    """Yield what each member says, and what the cluster does."""
    statuses: dict[str, Message] = {}
    for endpoint, client in clients:
        try:
            statuses[endpoint] = client.ask(_STATUS, {}, now() + ANSWER_S, endpoint).message
        except LockError as error:
            yield MEMBER, False, error.reason, "start it, or correct endpoints; see [etcd]"
    for endpoint, status in statuses.items():
        size = int(str(status.get("dbSize", 0))) >> 20
        yield MEMBER, True, f"{endpoint}: etcd {status.get('version')}, {size} MiB", ""
    yield from _clusters(statuses)
    yield _quorum(every, namespace)
    yield _alarms(every)
    for version in sorted({str(status.get("version")) for status in statuses.values()}):
        yield of_version(version)


def _clusters(statuses: dict[str, Message]) -> Iterator[Finding]:
    """Yield whether all endpoints are of one cluster: two guests of two clusters never meet."""
    found: dict[object, list[str]] = {}
    for endpoint, status in statuses.items():
        found.setdefault(cluster_of(status), []).append(endpoint)
    if len(found) > 1:
        words = " and ".join(", ".join(endpoints) for endpoints in found.values())
        yield CLUSTER, False, f"endpoints of different clusters: {words}", "name those of one"
    elif found:
        yield CLUSTER, True, f"one cluster, id {next(iter(found))}", ""


def _quorum(client: Client, namespace: str) -> Finding:
    transaction = Transaction()
    transaction.read(keys.session(namespace, ""))
    try:
        outcome = transaction.commit_read(client, now() + ANSWER_S, "a linearizable read")
    except LockError as error:
        words = f"namespace {namespace}: {error.reason}"
        return QUORUM, False, words, error.advice or "see the members' logs"
    took = now() - outcome.sent
    words = f"namespace {namespace}: a linearizable read is answered in {took:.3f} s"
    return QUORUM, True, words, ""


def _alarms(client: Client) -> Finding:
    try:
        answer = client.ask(_ALARM, {"action": "GET"}, now() + ANSWER_S, "alarms")
    except LockError as error:
        return ALARM, False, error.reason, error.advice or "see etcdctl alarm list"
    alarms = answer.message.get("alarms") or []
    if isinstance(alarms, list) and alarms:
        kinds = " ".join(sorted({str(alarm.get("alarm")) for alarm in alarms}))
        mend = "compact and defragment, then etcdctl alarm disarm; running guests go on meanwhile"
        return ALARM, False, kinds, mend
    return ALARM, True, "none", ""


def of_version(version: str) -> Finding:
    """Return whether a member's release is new enough, and which faults of leases it has."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if numbers is None:
        return VERSION, False, f"{version} is no version that we know", "use etcd 3.4 or newer"
    major, minor, patch = map(int, numbers.groups())
    if (major, minor) < min(_GOOD):
        return VERSION, False, f"{version}: without what the plugin asks", "use 3.4 or newer"
    good = (major, minor) >= _FIRST_GOOD or patch >= _GOOD.get((major, minor), 0)
    words = f"{version}: its leases can end early, or live on when revoked (etcd #15247, #20616)"
    harmless = f"{words}; no lease of ours depends on them, those of etcdctl lock do"
    return VERSION, True, version if good else harmless, ""


def of_certificates(
    files: Iterable[str | None], members: Iterable[Endpoint], trust: Trust
) -> Iterator[Finding]:
    """Yield until when the certificates are valid by which we and the members trust each other."""
    for path in filter(None, files):
        yield _certificate(path, partial(certificates.first_end, path))
    for member in members:
        if member.secure:
            end = partial(certificates.end_of_members, member, trust, now() + ANSWER_S)
            yield _certificate(str(member), end)


def _certificate(name: str, look: Callable[[], float]) -> Finding:
    try:
        end = look()
    except certificates.UNREADABLE as error:
        return CERTIFICATE, False, f"{name}: {error}", "see [etcd]"
    words = f"{name}: until {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(end))}"
    well = end - time.time() > SOON_S
    return CERTIFICATE, well, words, "" if well else "renew it: without it every guest ends"


def of_times(timing: Timing) -> Finding:
    """Return the arithmetic of `failover_s`."""
    words = (
        f"failover_s {timing.failover_s:g}: a guest is dead {timing.proof_s:g} s after its last "
        f"proof was sent, one every {timing.every_s:g} s; a session ends after {timing.ttl_s} s, a "
        f"taker watches {timing.watch_of(timing.proof_s):g} s; from a host's death to the start "
        f"elsewhere {timing.longest_failover_s():g} s at most"
    )
    return TIMES, True, words, ""


def of_resource(resource: Resource) -> Finding:
    """Return by which name hosts know the disk, and whether all of them do."""
    try:
        name = names.of(resource)
    except LockError as error:
        return NAME, False, error.reason, error.advice or "name a disk that is there"
    if names.spans_hosts(name):
        return NAME, True, name, ""
    words = f"{name}: a path of this host ({os.uname().nodename}), which excludes its guests alone"
    return NAME, False, words, "give --disk PATH,id=IDENTITY if other hosts have the disk, too"
