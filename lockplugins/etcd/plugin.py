"""The plugin `etcd`: leases are keys of an etcd cluster; no storage is shared for them.

Holds with: an owner key for each disk, for each reader of a shared one, and
for the guest itself, none of which etcd ever ends; and a proof, not older than
K, that all of them and the session are this guest's.
Released when: a lease is released, or the guest is dead and its supervisor
gives all back; after the supervisor's death a taker waits until it has seen
the session absent for W by its own clock.
Loss is seen by: a transaction that finds another owner, or no proof in time:
one second before K the guard ends the guest, at K the kernel ends the guard.
Does not protect against: whoever deletes owner keys; I/O that the guest has
left in a fabric when it dies; a guest in uninterruptible sleep; hosts whose
clocks run more than 1 % apart; a disk that two hosts know by different names.
"""

from __future__ import annotations

import os

from lockplugins.contract import (
    Capability,
    Lease,
    LeaseLostError,
    LockError,
    Mode,
    Plugin,
    ResourceType,
)
from lockplugins.etcd import keys, names
from lockplugins.etcd.client import (
    NOT_FOUND,
    Believed,
    Client,
    Login,
    RefusedError,
    UnknownOutcomeError,
    tls_context,
)
from lockplugins.etcd.connection import Endpoint, now, pause
from lockplugins.etcd.keeping import Keeping
from lockplugins.etcd.session import Session, new_sid
from lockplugins.etcd.taking import Blocker, Claim, Taking
from lockplugins.etcd.timing import Timing
from lockplugins.etcd.transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ssl import SSLContext

    from lockplugins.contract import Carrier, Finding, Guest, Holder, Resource

DEFAULT_ENDPOINTS = "http://127.0.0.1:2379"
ANSWER_S = 8.0  # for what a launch, a hot-plug or the end waits for
KEEPALIVE_S = 1.0
POLL_S = 0.5  # a waiter's: etcd answers some thousands of these a second


class EtcdPlugin(Plugin):
    """Owner keys without TTL, proven by linearizable reads."""

    name = "etcd"
    capabilities = (
        Capability.RESOURCES, Capability.HOTPLUG, Capability.EXPIRES, Capability.GENERATIONS,
        Capability.VM,
    )  # fmt: skip
    CONFIG_KEYS = (
        "endpoints", "namespace", "failover_s", "ca_cert", "cert", "key", "username",
        "password_file",
    )  # fmt: skip

    def __init__(self, config: Mapping[str, str], carrier: Carrier) -> None:
        super().__init__(config, carrier)
        self.timing = Timing(config.get("failover_s"))
        self.PROOF_TERM_S = self.timing.proof_s
        self.RENEW_EVERY_S = self.timing.every_s
        self.namespace = config.get("namespace", keys.DEFAULT_NAMESPACE)
        self._endpoints = [
            Endpoint(url.strip()) for url in config.get("endpoints", DEFAULT_ENDPOINTS).split(",")
        ]
        self._believed = Believed()
        self._clients: list[Client] = []
        self._leases: dict[Lease, str] = {}
        self._given_up: dict[Lease, str] = {}
        self._uncertain: set[str] = set()

    def _client(self, endpoints: Sequence[Endpoint] = ()) -> Client:
        login = None
        if "username" in self.config:
            login = Login(self.config["username"], self.config.get("password_file", ""))
        believed = None if endpoints else self._believed
        client = Client(endpoints or self._endpoints, self._context(), login, believed)
        self._clients.append(client)
        return client

    def _context(self) -> SSLContext | None:
        if not any(endpoint.secure for endpoint in self._endpoints):
            return None
        return tls_context(*(self.config.get(key) for key in ("ca_cert", "cert", "key")))

    def open(self, guest: Guest) -> None:
        self._resolve()
        self._jobs, self._renewals = self._client(), self._client()
        sid = new_sid()
        value = keys.Owner(sid, guest, os.getpid(), self.timing.proof_s).as_value()
        key = keys.session(self.namespace, sid)
        self._session = Session(key, sid, value, self.timing.ttl_s)
        self._keeping = Keeping(self._session)
        self._taking = Taking(self._jobs, self._keeping, self.namespace, self.timing, self._session)
        self._keeping.heal(self._jobs, now() + ANSWER_S)

    def _resolve(self) -> None:
        """Look every member's name up; one that has an address is enough."""
        failure: LockError | None = None
        for endpoint in self._endpoints:
            try:
                endpoint.resolve()
            except LockError as error:
                failure = error
        if failure and not any(endpoint.addresses for endpoint in self._endpoints):
            raise failure

    def acquire(self, resources: Sequence[Resource], wait_until: float | None) -> list[Lease]:
        claims = self._claims(resources)
        wanted = list(claims.values())
        revision = self._take(wanted, wait_until) if wanted else 0
        leases = []
        for resource in resources:
            place = self._place(resource)
            lease = Lease(resource, self.namespace, place.name, revision)
            key = place.claim(Mode.EXCLUSIVE, self._session.sid)
            held = key in self._keeping.held
            self._leases[lease] = key if held else place.claim(Mode.SHARED, self._session.sid)
            leases.append(lease)
        return leases

    def _place(self, resource: Resource) -> keys.Place:
        if resource.type == ResourceType.VM:
            return keys.Place(self.namespace, "vm", resource.path)
        return keys.Place(self.namespace, "disk", names.of(resource))

    def _claims(self, resources: Sequence[Resource]) -> dict[str, Claim]:
        """Return what is to be taken: one claim a disk, the strongest mode winning."""
        claims: dict[str, Claim] = {}
        for resource in resources:
            place = self._place(resource)
            known = claims.get(place.below)
            if known is None or known.mode == Mode.SHARED:
                claims[place.below] = Claim(resource, place, resource.mode, self._session.sid)
        return {
            below: claim for below, claim in claims.items() if claim.key not in self._keeping.held
        }

    def _take(self, claims: Sequence[Claim], wait_until: float | None) -> int:
        bound = now() + ANSWER_S
        while True:
            limit = bound if wait_until is None else max(bound, wait_until)
            try:
                revision = self._taking.attempt(claims, self._session.value, limit)
            except UnknownOutcomeError:
                self._uncertain.update(claim.key for claim in claims)
                raise
            if revision is not None:
                self._keeping.held |= {claim.key: claim.resource.path for claim in claims}
                return revision
            if not self._taking.blockers and now() < limit:
                continue  # there was one, and he has gone
            if wait_until is None or now() >= wait_until:
                raise self._taking.refusal()
            pause(min(POLL_S, wait_until - now()))

    def release(self, lease: Lease) -> None:
        key = self._leases.pop(lease, None)
        if key is None:
            raise LockError("release", f"the lease on {lease.resource}", "this guest has none")
        if key in self._leases.values():
            return  # another of this guest's, on the same disk
        self._given_up[lease] = key
        self._keeping.held.pop(key, None)
        until, what = now() + ANSWER_S, f"lease on {lease.resource}"
        try:
            self._giving_up(lease, key).commit(self._jobs, until, what)
        except RefusedError as refusal:
            if refusal.code != NOT_FOUND:
                raise
            self._keeping.heal(self._jobs, until)  # the session had ended, and its grant with it
            self._giving_up(lease, key).commit(self._jobs, until, what)

    def _giving_up(self, lease: Lease, key: str) -> Transaction:
        transaction = Transaction()
        transaction.demand_value(key, self._session.value)
        transaction.delete(key)
        transaction.put(self._marker(lease), self._session.value, self._session.grant)
        return transaction

    def _marker(self, lease: Lease) -> str:
        """Return the key that stays until the session ends, or anybody owns the disk alone."""
        return self._place(lease.claim).parked + self._session.sid

    def reacquire(self, lease: Lease) -> None:
        key, value, until = self._given_up[lease], self._session.value, now() + ANSWER_S
        name = f"the lease on {lease.resource}"
        place, marker = self._place(lease.claim), self._marker(lease)
        transaction = Transaction()
        transaction.demand_created(self._session.key, self._session.created)
        transaction.demand_value(marker, value)
        transaction.demand_created(place.owner, 0)
        if key == place.owner:
            transaction.demand_none_below(place.readers)
        transaction.put(key, value)
        transaction.delete(marker)
        for read in (self._session.key, marker, place.owner, key):
            transaction.read_otherwise(read)
        outcome = transaction.commit(self._jobs, until, name)
        found = {kept.key: kept for read in outcome.read for kept in read}
        is_ours = key in found and found[key].value == value  # it never arrived that we gave it up
        if not outcome.succeeded and not is_ours:
            if marker not in found:
                raise LeaseLostError("re-acquire", name, "others have had it in between")
            raise LockError("re-acquire", name, "others have it, or the session has ended")
        del self._given_up[lease]
        self._leases[lease] = key
        self._keeping.held |= {key: lease.resource}

    def renew(self) -> float:
        until = now() + self.PROOF_TERM_S
        try:
            self._session.keep_alive(self._renewals, now() + KEEPALIVE_S)
        except LockError:
            pass  # spares takers nothing; what counts is the proof
        return self._keeping.prove(self._renewals, until)

    def close(self) -> None:
        """End the session, so that nobody has to watch it."""
        try:
            self._session.end(self._jobs, now() + ANSWER_S)
        finally:
            self.disconnect()

    def disconnect(self, since: int = 0) -> None:
        """Close every connection (of the clients after the first `since`); all in etcd stays."""
        for client in self._clients[since:]:
            client.close()
        del self._clients[since:]

    def examine(self, resource: Resource | None) -> list[Finding]:
        from lockplugins.etcd import examine  # only doctor asks

        if resource is not None:
            return [examine.of_resource(resource)] if resource.type == ResourceType.DISK else []
        found = [examine.of_times(self.timing)]
        before = len(self._clients)
        try:
            self._resolve()
            if (context := self._context()) is not None:
                found += examine.of_certificates(context)
            members = [(str(one), self._client([one])) for one in self._endpoints]
            own = keys.session(self.namespace, "")
            found += examine.of_cluster(members, self._client(), own)
        except LockError as error:
            found.append((examine.CLUSTER, False, str(error), "see [etcd]"))
        finally:
            self.disconnect(before)
        return found

    def named(self, resource: Resource) -> list[tuple[str, str]]:
        return [(self.namespace, self._place(resource).name)]

    def inquire(self, resource: Resource) -> list[Holder]:
        self._resolve()
        place = self._place(resource)
        transaction = Transaction()
        transaction.read(place.owner)
        transaction.read(place.readers, below=True)
        what = f"lease on {resource.path}"
        before = len(self._clients)
        try:
            outcome = transaction.commit_read(self._client(), now() + ANSWER_S, what)
        finally:
            self.disconnect(before)
        claim = Claim(resource, place, resource.mode, "")
        return [Blocker(claim, kept).holder() for read in outcome.read for kept in read]
