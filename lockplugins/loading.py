"""Which plugins are installed here, and how does a program get hold of one by name?

Looks at what is installed, which takes its time: for front doors and daemons,
never for the guard, which is told what it needs. It must not know any lock manager.
"""

from __future__ import annotations

import sys

from lockplugins import registry
from lockplugins.contract import ConfigError, LockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ENTRY_POINTS = "lockplugins"


class UnloadedError(LockError):
    """The plugin was loaded and has been unloaded; nothing of it may be used."""


class LoadedPlugin:
    """A plugin, or several joined by +, that a program has loaded by name.

    Guests that were started with it have leases of their own: unloading ends
    none of them. After `unload` nothing of it may be used; raises UnloadedError.
    """

    def __init__(self, name: str, capabilities: tuple[str, ...]) -> None:
        self._name = name
        self._capabilities = capabilities
        self._loaded = True

    def __repr__(self) -> str:
        return f"<plugin {self._name}{'' if self._loaded else ', unloaded'}>"

    @property
    def name(self) -> str:
        """Return what it is called, or NAME+NAME…."""
        self._check("use")
        return self._name

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Return what it can do: words of `contract.Capability`."""
        self._check("use")
        return self._capabilities

    def unload(self) -> bool:
        """Give it back."""
        self._check("unload")
        self._loaded = False
        return True

    def _check(self, verb: str) -> None:
        if not self._loaded:
            reason, advice = "it has been unloaded", "load it again"
            raise UnloadedError(verb, f"plugin {self._name}", reason, advice)


def load(name: str) -> LoadedPlugin:
    """Load the plugin NAME or NAME+NAME…, built in or installed; raises ConfigError.

    `sync-manager`, the seed's name, is sanlock.
    """
    if not isinstance(name, str):
        raise ConfigError("use", "a plugin", f"its name is a {type(name).__name__}", "give a str")
    words = name.split(registry.JOIN)
    classes = {word: where for word, (where, _) in third_party(words).items()}
    can = registry.capabilities(registry.plugin_classes(name, classes))
    return LoadedPlugin(registry.JOIN.join(map(registry.renamed, words)), can)


def third_party(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return {name: (module:Class, directory)} of the plugins among `names` that are not ours.

    They can be imported afterwards. Looks at what is installed only if it has to.
    """
    wanted = set(names).difference(registry.known())
    installed = entry_points_classes() if wanted else {}
    found = {name: where for name, where in installed.items() if name in wanted}
    sys.path += [where for _, where in found.values() if where not in sys.path]
    return found


def entry_points_classes() -> dict[str, tuple[str, str]]:
    """Return what is installed as {name: (module:Class, directory to import it from)}.

    Built-in names cannot be taken over.
    """
    from importlib.metadata import entry_points

    found = {}
    for entry in entry_points(group=ENTRY_POINTS):
        ours = entry.name in registry.known() or registry.renamed(entry.name) != entry.name
        if entry.dist is not None and not ours:
            found[entry.name] = (entry.value, str(entry.dist.locate_file("")))
    return found
