"""How is it said that a command line's disks cannot be told? Knows no option and no image."""

from __future__ import annotations

from lockplugins import contract

WAY_OUT = "name the disks with --disk PATH and add --no-discover"


class DiscoveryError(contract.LockError):
    """An argument or an image that may name a disk, and is not understood."""

    exit_code = contract.ConfigError.exit_code


def refusal(argument: str, reason: str, advice: str = WAY_OUT) -> DiscoveryError:
    """Return the error for `argument` (or image), to be raised."""
    return DiscoveryError("find the disks of", argument, reason, advice)
