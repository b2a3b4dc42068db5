"""The plugin `etcd`: leases are keys of an etcd cluster; no storage is shared for them.

Holds with: an owner key for each disk, for each reader of a shared one, and
for the guest itself, none of which etcd ever ends; and a proof, not older than
K, that all of them and the session are this guest's. A migration's destination
owns by one transaction, when its source has handed over (handover.py).
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
    LockError,
    Mode,
    Plugin,
    ResourceType,
    UnsupportedError,
)
from lockplugins.etcd import keys, names
from lockplugins.etcd.client import Believed, Client, Login, RefusedError, UnreachableError
from lockplugins.etcd.connection import Endpoint, now, pause
from lockplugins.etcd.giving_up import GivingUp
from lockplugins.etcd.keeping import Keeping
from lockplugins.etcd.session import Session, new_sid
from lockplugins.etcd.taking import Blocker, Claim, Taking
from lockplugins.etcd.timing import Timing
from lockplugins.etcd.transaction import Transaction
from lockplugins.etcd.trust import trust_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lockplugins.contract import Carrier, Finding, Guest, Holder, Resource
    from lockplugins.etcd.handover import EtcdHandover
    from lockplugins.handover import Handover

DEFAULT_ENDPOINTS = "http://127.0.0.1:2379"
ANSWER_S = 8.0  # for what a launch, a hot-plug or the end waits for
KEEPALIVE_S = 1.0
BETWEEN_S = 0.02
POLL_S = 0.5  # a waiter's: etcd answers some thousands of these a second


class EtcdPlugin(Plugin):
    """Owner keys without TTL, proven by linearizable reads."""

    name = "etcd"
    capabilities = (
        Capability.RESOURCES, Capability.HOTPLUG, Capability.MIGRATION, Capability.EXPIRES,
        Capability.GENERATIONS, Capability.VM, Capability.NETWORK,
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
        self._login: Login | None = None
        if "username" in config:
            self._login = Login(config["username"], config.get("password_file", ""))
        self._trust = trust_of(config, self._endpoints)
        self._clients: list[Client] = []
        self._handover: EtcdHandover | None = None
        self.leases: dict[Lease, Claim] = {}
        self._given_up: dict[Lease, Claim] = {}

    def _client(self, endpoints: Sequence[Endpoint] = ()) -> Client:
        believed = None if endpoints else self._believed
        return Client(endpoints or self._endpoints, self._trust, self._login, believed)

    def open(self, guest: Guest) -> None:
        if self._trust is not None:
            self._trust.context()  # what cannot be used is said at once
        self._resolve()
        self._guest = guest
        self._clients = [self._client(), self._client()]
        self._jobs, self._renewals = self._clients
        sid = new_sid()
        value = keys.Owner(sid, guest, os.getpid(), self.timing.proof_s).as_value()
        key = keys.session(self.namespace, sid)
        self._session = Session(key, sid, value, self.timing.ttl_s)
        self._keeping = Keeping(self._session)
        self._taking = self._new_taking()
        self._giving_up = GivingUp(self._jobs, self._keeping, self._session)
        self._keeping.heal(self._jobs, now() + ANSWER_S)

    def _new_taking(self) -> Taking:
        return Taking(self._jobs, self._keeping, self.namespace, self.timing, self._session)

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
        located = [(resource, self.place_of(resource)) for resource in resources]
        return self.acquire_all(located, [], wait_until)

    def acquire_all(
        self,
        located: Sequence[tuple[Resource, keys.Place]],
        besides: Sequence[Claim],
        wait_until: float | None,
    ) -> list[Lease]:
        """Acquire all of it, and have what is claimed besides, or nothing."""
        wanted = [*besides, *self._claims(located)]
        revision = self._take(wanted, wait_until) if wanted else 0
        leases = []
        for resource, place in located:
            lease = Lease(resource, self.namespace, place.name, revision)
            mode = Mode.EXCLUSIVE if place.owner in self._keeping.held else Mode.SHARED
            self.leases[lease] = Claim(resource, place, mode, self._session.sid)
            leases.append(lease)
        return leases

    def place_of(self, resource: Resource) -> keys.Place:
        if resource.type == ResourceType.VM:
            return keys.Place(self.namespace, ResourceType.VM, resource.path)
        return keys.Place(self.namespace, ResourceType.DISK, names.of(resource))

    def _claims(self, located: Sequence[tuple[Resource, keys.Place]]) -> list[Claim]:
        """Return what is to be taken: one claim a disk, the strongest mode winning."""
        claims: dict[str, Claim] = {}
        for resource, place in located:
            known = claims.get(place.below)
            if known is None or known.mode == Mode.SHARED:
                claims[place.below] = Claim(resource, place, resource.mode, self._session.sid)
        held = self._keeping.held
        for claim in claims.values():
            if claim.mode == Mode.EXCLUSIVE and claim.place.readers + self._session.sid in held:
                why = "this guest has it shared, by this name or another"
                name = f"disk {claim.resource.path}"
                raise UnsupportedError("lease", name, why, "detach that first")
        return [
            claim
            for claim in claims.values()
            if claim.key not in held and claim.place.owner not in held
        ]

    def _take(self, claims: Sequence[Claim], wait_until: float | None) -> int:
        bound = now() + ANSWER_S
        self._taking.blockers.clear()  # those of an earlier call
        while True:
            limit = bound if wait_until is None else max(bound, wait_until + ANSWER_S)
            revision = self._taking.attempt(claims, limit)
            if revision is not None:
                self._keeping.held |= {claim.key: claim.resource.path for claim in claims}
                return revision
            if not self._taking.blockers and now() < limit:
                pause(BETWEEN_S)
                continue  # there was one, and he has gone
            if wait_until is None or now() >= wait_until:
                raise self._taking.refusal(claims)
            proven = [x.may_be_taken_at(self.timing) for x in self._taking.blockers.values()]
            pause(max(BETWEEN_S, min(POLL_S, wait_until - now(), max(proven) - now())))

    def migration(self) -> Handover:
        if self._handover is None:
            from lockplugins.etcd.attempt import Attempt  # only where a guest migrates
            from lockplugins.etcd.handover import EtcdHandover

            uuid, space = self._guest.uuid, self.namespace
            attempt = Attempt(self._jobs, self._keeping, self._session, space, uuid)
            self._handover = EtcdHandover(self, attempt, self._new_taking())
        return self._handover

    def release(self, lease: Lease) -> None:
        if (claim := self.leases.get(lease)) is None:
            raise LockError("release", f"the lease on {lease.resource}", "this guest has none")
        if self._handover is not None and self._handover.leaves(claim):
            return
        self._given_up[lease] = claim
        same = [other for other in self.leases.values() if other.key == claim.key]
        if len(same) == 1:  # else another is on the same disk
            self._let_go(lease, claim)
        del self.leases[lease]

    def _let_go(self, lease: Lease, claim: Claim) -> None:
        held, until = self._keeping.held, now() + ANSWER_S
        held.pop(claim.key, None)
        try:
            self._giving_up.let_go(claim.key, claim.place, until, f"lease on {lease.resource}")
        except (RefusedError, UnreachableError):
            held |= {claim.key: lease.resource}  # as before, and to be proven
            raise

    def reacquire(self, lease: Lease) -> None:
        name = f"the lease on {lease.resource}"
        if (claim := self._given_up.get(lease)) is None:
            raise LockError("re-acquire", name, "it was not released")
        if claim.key not in self._keeping.held:  # else it is back with another, on the same disk
            self._giving_up.take_back(claim.key, claim.place, now() + ANSWER_S, name)
            self._keeping.held |= {claim.key: lease.resource}
        del self._given_up[lease]
        self.leases[lease] = claim

    def renew(self) -> float:
        until = now() + self.PROOF_TERM_S
        try:
            self._session.keep_alive(self._renewals, now() + KEEPALIVE_S)
        except LockError:
            pass  # spares takers nothing; what counts is the proof
        return self._keeping.prove(self._renewals, until)

    def close(self) -> None:
        """End the session, so that nobody has to watch it, and forget what was given up."""
        try:
            if self._handover is not None:
                self._handover.close()
            for lease, claim in self._given_up.items():
                name = f"lease on {lease.resource}"
                self._giving_up.forget(claim.place, now() + ANSWER_S, name)
            if self._clients:  # else nothing was begun
                self._session.end(self._jobs, now() + ANSWER_S)
        finally:
            self.disconnect()

    def disconnect(self) -> None:
        """Close every connection, and leave all in etcd as it is."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def examine(self, resource: Resource | None) -> list[Finding]:
        from lockplugins.etcd import examine  # only doctor asks

        if resource is not None:
            return [examine.of_resource(resource)] if resource.type == ResourceType.DISK else []
        found = [examine.of_times(self.timing)]
        clients: list[Client] = []
        try:
            self._resolve()
            if self._trust is not None:
                files = (self.config.get("ca_cert"), self.config.get("cert"))
                found += examine.of_certificates(files, self._endpoints, self._trust)
            clients = [self._client([one]) for one in self._endpoints]
            clients.append(self._client())
            members = list(zip(map(str, self._endpoints), clients, strict=False))
            found += examine.of_cluster(members, clients[-1], self.namespace)
        except LockError as error:
            found.append((examine.CLUSTER, False, str(error), "see [etcd]"))
        finally:
            for client in clients:
                client.close()
        return found

    def named(self, resource: Resource) -> list[tuple[str, str]]:
        return [(self.namespace, self.place_of(resource).name)]

    def inquire(self, resource: Resource) -> list[Holder]:
        self._resolve()
        place = self.place_of(resource)
        transaction = Transaction()
        transaction.read(place.owner)
        transaction.read(place.readers, below=True)
        what = f"lease on {resource.path}"
        client = self._client()
        try:
            outcome = transaction.commit_read(client, now() + ANSWER_S, what)
        finally:
            client.close()
        claim = Claim(resource, place, resource.mode, "")
        return [Blocker(claim, kept).holder() for read in outcome.read for kept in read]
