"""What has a program said about a guest? Its parameters, under the names of `run`'s options.

Each value is checked when it is given, as the command line checks it. It must
not know what the guard is told of them.
"""

from __future__ import annotations

import os

from lockplugins.contract import ConfigError, Mode, UnsupportedError
from supervisor import config, given, spec, specify
from supervisor.discovery.disk import Disk, named
from supervisor.discovery.domain_xml import Domain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.specify import Given

    Take = Callable[[str, object], object]

_REGISTERED = "register_resource"


class Parameters:
    """What `run` would have been given; `cookie` is what a migration's destination is told."""

    def __init__(self, plugin: str, config_file: str | None, runtime_dir: str | None) -> None:
        self.cookie: str | None = None
        self._registered: list[Disk] = []
        self._given = specify.nothing_given()
        self._given["plugin"] = plugin
        for key, value in (("config", config_file), ("runtime_dir", runtime_dir)):
            if value is not None:
                self.set(key, value)

    @property
    def place(self) -> str | None:
        """Return the guest's own directory, None unless its uuid was said."""
        if self._given["uuid"] is None:
            return None
        base = config.runtime_dir(self._given["runtime_dir"], self._given["config"])
        return os.path.join(base, self._given["uuid"].lower())

    @property
    def name(self) -> str:
        """Return what errors call the guest."""
        return self._given["name"] or self._given["uuid"] or "without a name"

    @property
    def log(self) -> str | None:
        return self._given["log"]

    def set(self, key: str, value: object) -> None:
        """Take one value, one more where the option repeats; raises ConfigError."""
        key = given.text("a parameter's name", key)
        if key == "cookie":
            self.cookie = _text(key, value)
        elif key in _REPEATED:
            self._given[key] += (_path(key, value),)  # type: ignore[literal-required]  # a key of it
        elif key in _TAKEN:
            name = "guest_id" if key == "id" else key
            self._given[name] = _TAKEN[key](key, value)  # type: ignore[literal-required]  # the same
        else:
            known = "known: " + " ".join(sorted(("cookie", *_REPEATED, *_TAKEN)))
            raise ConfigError("set", f"parameter {key}", "there is none of that name", known)

    def register_disk(self, path: str, *, shared: bool) -> None:
        """Add a disk, by its path as it is."""
        mode = Mode.SHARED if shared else Mode.EXCLUSIVE
        self._registered.append(Disk(disk_from_root(path), mode, _REGISTERED))

    def register_lease(self, words: str, *, shared: bool) -> None:
        """Add an explicit lease, LOCKSPACE:KEY[:PATH[:OFFSET]]."""
        words = lease_from_root(words)
        if shared:
            reason, advice = "explicit leases are exclusive", "register it without flags"
            raise UnsupportedError("register", f"lease {words}", reason, advice)
        self._given["lease"] += (words,)

    def given(self, command: Sequence[str] = ()) -> Given:
        """Return all of it as `run` would have been given it, with COMMAND."""
        return {**self._given, "registered": tuple(self._registered), "command": tuple(command)}


def from_root(path: str) -> str:
    """Return an absolute path: the guard has another working directory."""
    return os.path.join(config.working_directory(), given.path("path", path))


def disk_from_root(path: str) -> str:
    """Return the same of a disk, but a network disk's name as it is."""
    return named(given.path("path", path), config.working_directory())


def lease_from_root(words: str) -> str:
    """Return LOCKSPACE:KEY[:PATH[:OFFSET]] with an absolute PATH."""
    lease = spec.parse_lease(given.path("lease", words))
    lease.path = from_root(lease.path) if lease.path else ""
    return spec.lease_words(lease)


def _text(key: str, value: object) -> str:
    return given.text(f"parameter {key}", value)


def _path(key: str, value: object) -> str:
    return given.path(f"parameter {key}", value)


def _file(key: str, value: object) -> str:
    return os.path.join(config.working_directory(), _path(key, value))


def _domain(key: str, value: object) -> object:
    if not isinstance(value, str | Domain):
        raise ConfigError("set", f"parameter {key}", "neither a domain XML's text nor a Domain")
    return value


def _switch(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("set", f"parameter {key}", f"{value} is neither True nor False")
    return value


def _uuid(key: str, value: object) -> str:
    text = _text(key, value)
    spec.check_uuid(text.lower())
    return text


def _name(key: str, value: object) -> str:
    spec.check_name(text := _text(key, value))
    return text


def _converted(key: str, value: object) -> object:
    return spec.convert(key, _text(key, value))


_REPEATED = ("disk", "lease")
_TAKEN: dict[str, Take] = {
    "name": _name,
    "uuid": _uuid,
    "id": _text,
    "domain": _domain,
    "domain_xml": _file,
    "log": _file,
    "config": _file,
    "runtime_dir": _file,
    "no_discover": _switch,
    "no_monitor": _switch,
    "incoming": _switch,
    "on_lockfailure": lambda key, value: config.on_lockfailure("the parameters", key, value),
    "containment": _converted,
    "wait": _converted,
    "stop_timeout": _converted,
    "ready_fd": _converted,
    "handshake_fd": _converted,
}
