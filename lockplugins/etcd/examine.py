"""What does doctor say of an etcd cluster, and of a disk's name in it? Changes nothing there."""

from __future__ import annotations

import os
import re
import ssl
import time

from lockplugins.contract import LockError
from lockplugins.etcd import names
from lockplugins.etcd.client import cluster_of
from lockplugins.etcd.connection import now
from lockplugins.etcd.transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lockplugins.contract import Finding, Resource
    from lockplugins.etcd.client import Client, Message
    from lockplugins.etcd.timing import Timing

MEMBER, CLUSTER, QUORUM, ALARM = "etcd member", "etcd cluster", "etcd quorum", "etcd alarms"
VERSION, CERTIFICATE, TIMES, NAME = "etcd version", "etcd TLS", "failover", "name"
CHECKS = (MEMBER, CLUSTER, QUORUM, ALARM, VERSION, CERTIFICATE, TIMES, NAME)

ANSWER_S = 2.0
SOON_S = 14 * 86400.0
_STATUS, _ALARM = "/v3/maintenance/status", "/v3/maintenance/alarm"
# Fixed in these: an early end of leases after a leader's pause (15247), renewal of revoked ones.
_GOOD = {(3, 4): 38, (3, 5): 23}
_FIRST_GOOD = (3, 6)


def of_cluster(clients: Sequence[tuple[str, Client]], every: Client, own: str) -> Iterator[Finding]:
    """Yield what each member says, and what the cluster does; `own` is a prefix of our keys."""
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
    yield _quorum(every, own)
    yield _alarms(every)
    for version in sorted({str(status.get("version")) for status in statuses.values()}):
        yield _version(version)


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


def _quorum(client: Client, own: str) -> Finding:
    transaction = Transaction()
    transaction.read(own)
    try:
        outcome = transaction.commit_read(client, now() + ANSWER_S, "a linearizable read")
    except LockError as error:
        return QUORUM, False, error.reason, error.advice or "see the members' logs"
    return QUORUM, True, f"a linearizable read is answered in {now() - outcome.sent:.3f} s", ""


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


def _version(version: str) -> Finding:
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


def of_certificates(context: ssl.SSLContext) -> Iterator[Finding]:
    """Yield when the authorities that we trust run out; a client's is the member's to refuse."""
    for found in context.get_ca_certs():
        ends = found.get("notAfter")
        left = ssl.cert_time_to_seconds(str(ends)) - time.time()
        well = left > SOON_S
        yield CERTIFICATE, well, f"authority until {ends}", "" if well else "renew it in time"


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
