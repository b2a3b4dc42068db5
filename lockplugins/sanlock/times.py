"""After how long does sanlock do what? Its own rules, by a host's io_timeout (sanlock(8)).

They are the same for every host: each counts on it that the others keep to them.
"""

from __future__ import annotations

_WATCHDOG_S = 60  # in which a watchdog ends what sanlock could not


def renewal_s(io_timeout_s: int) -> int:
    """Return how often a host renews."""
    return 2 * io_timeout_s


def failure_s(io_timeout_s: int) -> int:
    """Return how long after its last renewal a host ends who uses the lockspace."""
    return 8 * io_timeout_s


def takeover_s(io_timeout_s: int) -> int:
    """Return how long after that renewal others may take what the host has."""
    return failure_s(io_timeout_s) + _WATCHDOG_S
