"""Which set-ups have a plugin that can do something? A set-up's name begins with its plugin's."""

from __future__ import annotations

from lockplugins import registry
from tests.conformance.setups import SETUPS


def capabilities(plugin: str) -> tuple[str, ...]:
    return registry.capabilities(registry.plugin_classes(plugin))


def able(*wanted: str, without: str = "") -> list[str]:
    """Return the set-ups whose plugins can do all of `wanted`, and not `without`."""
    return [name for name in SETUPS if _fits(name.partition("-")[0], wanted, without)]


def unable(lacking: str) -> list[str]:
    """Return the set-ups whose plugins cannot."""
    return [name for name in SETUPS if name not in able(lacking)]


def _fits(plugin: str, wanted: tuple[str, ...], without: str) -> bool:
    can = capabilities(plugin)
    return set(wanted) <= set(can) and without not in can
