"""How long may whom wait for what? All of it from one setting, `failover_s`.

An owner whose last proof was sent at t is dead by t + K, whatever happens. A
taker that has watched its session stay absent for W, by its own clock, takes
over. It must not know how proofs are made.
"""

from __future__ import annotations

from lockplugins.contract import ConfigError

DEFAULT_FAILOVER_S = 30.0
LEAST_FAILOVER_S = 15.0  # K must outlast a few changes of the leader, each 1 to 2 s
MOST_FAILOVER_S = 3600.0
DRIFT = 1.01  # how much faster or slower than true any host's clock may run
KILL_S = 1.0  # from SIGKILL to the last of the guest's threads

_TTL_SHARE, _PROOF_SHARE, _WATCH_SHARE, _EVERY_SHARE = 1 / 3, 0.4, 0.5, 0.1
_FOREIGN_WATCH = 1.25  # of another owner's K
EXPIRY_S = 2.5  # etcd's own delay in ending a session, a taker's in seeing it and in starting


class Timing:
    """Every bound of one host, in seconds.

    `ttl_s`: the session's in etcd, a whole number; `proof_s`: K; `watch_s`: W; `every_s`: from one
    renewal to the next.
    """

    def __init__(self, failover: str | None) -> None:
        """Raise ConfigError for a time in which no owner could be proven dead."""
        try:
            self.failover_s = DEFAULT_FAILOVER_S if failover is None else float(failover)
        except ValueError:
            self.failover_s = 0.0
        if not LEAST_FAILOVER_S <= self.failover_s <= MOST_FAILOVER_S:
            why = "an owner could not outlast the choice of a new leader, or nobody the wait"
            allowed = f"allowed: {LEAST_FAILOVER_S:g} to {MOST_FAILOVER_S:g} seconds"
            raise ConfigError("use", f"failover_s = {failover}", why, allowed)
        self.ttl_s = int(self.failover_s * _TTL_SHARE)
        self.proof_s = self.failover_s * _PROOF_SHARE
        self.watch_s = self.failover_s * _WATCH_SHARE
        self.every_s = self.failover_s * _EVERY_SHARE

    def watch_of(self, proof_s: float) -> float:
        """Return how long the session of an owner with that K must have been seen absent."""
        return max(self.watch_s, _FOREIGN_WATCH * proof_s, proof_s * DRIFT * DRIFT + KILL_S)

    def longest_failover_s(self) -> float:
        """Return the time from an owner's death to its taker's start, both with this setting."""
        return self.ttl_s + EXPIRY_S + self.watch_of(self.proof_s)
