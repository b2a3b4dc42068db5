"""Is this guest's supervisor alive, as etcd's users see it? A key with a TTL.

Only a hint that spares takers their watch: it proves nothing to anybody, and
what etcd does to it, early or late, frees nothing. It must not know of leases.
"""

from __future__ import annotations

import os

from lockplugins.contract import LockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.etcd.client import Client

GRANT, KEEPALIVE, REVOKE = "/v3/lease/grant", "/v3/lease/keepalive", "/v3/lease/revoke"
_SID_BYTES = 8
_LARGEST_GRANT = (1 << 63) - 1


class Session:
    """One supervisor's key `key`; `created` is the revision that made it, 0 while there is none.

    `value` is what it holds. Each method asks with the caller's client. `Keeping.heal` makes it.
    """

    def __init__(self, key: str, sid: str, value: str, ttl_s: int) -> None:
        self.key = key
        self.sid = sid
        self.value = value
        self.created = 0
        self.grant = 0
        self._ttl_s = ttl_s

    def new_grant(self, client: Client, until: float) -> int:
        """Return a new TTL grant of etcd's; one that is never used ends by itself."""
        # A number of our own: a try that is made twice makes one grant.
        grant = int.from_bytes(os.urandom(8)) % _LARGEST_GRANT + 1
        message: dict[str, object] = {"TTL": str(self._ttl_s), "ID": str(grant)}
        try:
            client.ask(GRANT, message, until, f"session {self.sid}")
        except LockError as error:
            if "already exists" not in error.reason:
                raise
        return grant

    def adopt(self, grant: int, created: int) -> None:
        """Take what etcd has for ours from now on."""
        self.grant = grant
        self.created = created

    def keep_alive(self, client: Client, until: float) -> None:
        """Have its TTL run anew; what etcd answers is no proof of anything, and not looked at."""
        client.ask(KEEPALIVE, {"ID": str(self.grant)}, until, f"session {self.sid}")

    def end(self, client: Client, until: float) -> None:
        """Have etcd forget it, and spare takers the wait; raises the client's errors."""
        try:
            client.ask(REVOKE, {"ID": str(self.grant)}, until, f"session {self.sid}")
        except LockError as error:
            if "not found" not in error.reason:  # else it has forgotten it already
                raise


def new_sid() -> str:
    return os.urandom(_SID_BYTES).hex()
