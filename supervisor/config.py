"""What does the configuration file say, and where is the runtime directory?

Reads TOML, checks every key and value, and names file, table, key and what is
allowed when something is wrong. A plugin's table is checked against the keys
that the plugin's class declares. It must not know what was given on the
command line, which wins over all of this.
"""

from __future__ import annotations

import os

from lockplugins.contract import ConfigError, cause
from supervisor import rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_FILE = "/etc/lock-supervisor/config.toml"
FILE_VARIABLE = "LOCK_SUPERVISOR_CONFIG"
RUNTIME_DIR_VARIABLE = "LOCK_SUPERVISOR_RUNTIME_DIR"

_POWEROFF = "poweroff"
_LIST = ","  # between the parts of a value that is several
_DIRECTORY = "_dir"  # a plugin's key that ends so names a directory


class NoRundirError(rundir.RundirError):
    """There is no place for a runtime directory; exit code 2."""

    exit_code = ConfigError.exit_code


class Config:
    """The settings of one file, None where it says nothing; `tables` holds a dict a plugin."""

    def __init__(self, file: str = "") -> None:
        self.file = file
        self.plugin: str | None = None
        self.containment: str | None = None
        self.on_lockfailure: str | None = None
        self.stop_timeout: float | None = None
        self.runtime_dir: str | None = None
        self.auto_disk_leases = True
        self.require_lease_for_disks = False
        self.tables: dict[str, dict[str, str]] = {}


def default_base() -> str:
    """Return the runtime directory of this user; raises NoRundirError when there is none."""
    if os.geteuid() == 0:
        return "/run/lock-supervisor"
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        return base + "/lock-supervisor"
    reason = "not root and XDG_RUNTIME_DIR is not set"
    raise NoRundirError("choose", "a runtime directory", reason, "give one with --runtime-dir")


def file_named(option: str | None) -> str | None:
    """Return the configuration file to read: the option's, the environment's, the system's."""
    named = option or os.environ.get(FILE_VARIABLE)
    if named:
        return named
    return DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None


def read(option: str | None) -> Config:
    """Return the checked settings of the file to read, the defaults without one."""
    path = file_named(option)
    if path is None:
        return Config()
    config = Config(path)
    for key, value in _load(path).items():
        if isinstance(value, dict):
            config.tables[key] = _table(path, key, value)
        else:
            _set(config, key, value)
    return config


def runtime_dir(option: str | None, config_option: str | None) -> str:
    """Return the absolute runtime directory; no more of the file is looked at than is needed."""
    chosen = option or os.environ.get(RUNTIME_DIR_VARIABLE)
    if not chosen and (path := file_named(config_option)) is not None:
        config = Config(path)
        settings = _load(path)
        if "runtime_dir" in settings:
            _set(config, "runtime_dir", settings["runtime_dir"])
        chosen = config.runtime_dir
    try:
        return os.path.abspath(chosen or default_base())
    except FileNotFoundError as error:
        reason = "it is relative, and the working directory is gone"
        raise ConfigError("use", f"runtime directory {chosen}", reason, "name it from /") from error


def working_directory() -> str:
    """Return where we are; unlike getcwd(3) this does not fail when that has been removed.

    What is under a mount, or in one that is detached, shares its name with another directory. It
    gets one that nothing has: a relative name must not mean another file to us than to QEMU.
    """
    path = os.readlink("/proc/self/cwd")
    try:
        if os.path.samestat(os.stat(path), os.stat(".")):
            return path
    except OSError:
        pass  # removed, or out of reach
    return f"{path} (gone, or covered by a mount)"


def _load(path: str) -> dict[str, object]:
    """Parse the file; raises ConfigError with the line."""
    import tomllib  # 13 ms, and most machines have no such file

    name = f"configuration file {path}"
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        advice = f"correct --config or ${FILE_VARIABLE}"
        raise ConfigError("read", name, cause(error), advice) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(
            "read", name, f"not UTF-8 (at line {line})", "save it as UTF-8"
        ) from error
    except ValueError as error:  # TOMLDecodeError, and a number of thousands of digits
        raise ConfigError("read", name, f"not TOML: {error}", "correct that line") from error
    except RecursionError as error:
        raise ConfigError("read", name, "nested too deep", "no setting is") from error


def _set(config: Config, key: str, value: object) -> None:
    """Put one top-level setting into `config`."""
    if key not in _READERS:
        allowed = " ".join(_READERS) + ", and a table for each plugin"
        raise wrong(config.file, key, "unknown key", allowed)
    setattr(config, key, _READERS[key](config.file, key, value))


def _table(path: str, name: str, values: dict[str, object]) -> dict[str, str]:
    """Check a plugin's table; its values travel as text."""
    from lockplugins import registry
    from lockplugins.loading import third_party

    table = f"table [{name}]"
    classes = {plugin: found for plugin, (found, _) in third_party([name]).items()}
    if name not in (names := registry.known(classes)):
        raise wrong(path, table, "there is no such plugin here", " ".join(names))
    allowed = registry.plugin_class(name, classes).CONFIG_KEYS
    checked = {}
    for key, value in values.items():
        if key not in allowed:
            words = " ".join(allowed) or "no key at all"
            raise wrong(path, f"{table} {key}", "unknown key", words)
        read_as = _directory if key.endswith(_DIRECTORY) else _scalar
        checked[key] = read_as(path, f"{table} {key}", value)
    try:
        registry.load(name, {name: checked}, None, classes)
    except ConfigError as error:
        where = f"{error.name}, {table} of {path}"
        raise ConfigError(error.verb, where, error.reason, error.advice) from error
    return checked


def on_lockfailure(where: str, key: str, value: object) -> str:
    """Return the checked value; libvirt's word poweroff is kill."""
    from supervisor.spec import OnLockFailure

    allowed = (*OnLockFailure.ALL, _POWEROFF)
    chosen = _one_of(where, key, value, allowed)
    return OnLockFailure.KILL if chosen == _POWEROFF else chosen


def wrong(where: str, what: str, reason: str, allowed: str) -> ConfigError:
    """Return the error for a key or value in the file (or on the command line) `where`."""
    return ConfigError("use", f"{what} of {where}", reason, f"allowed: {allowed}")


def _containment(path: str, key: str, value: object) -> str:
    from supervisor.spec import Containment

    return _one_of(path, key, value, Containment.ALL)


def _one_of(where: str, key: str, value: object, allowed: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise wrong(where, f"{key} = {value}", "unknown value", " ".join(allowed))
    return value


def _text(path: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise wrong(path, f"{key} = {value}", "not a text that can be used", "a string, not empty")
    return value


def _directory(path: str, key: str, value: object) -> str:
    directory = _text(path, key, value)
    if not os.path.isabs(directory):
        raise wrong(path, f"{key} = {value}", "a relative directory", "an absolute one")
    return directory


def _seconds(path: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_time(value):
        raise wrong(path, f"{key} = {value}", "not a number of seconds", "0 or more")
    return float(value)


def _is_time(value: float) -> bool:
    return 0 <= value < 1 << 63 or value == float("inf")  # as far as TOML's own integers go


def _switch(path: str, key: str, value: object) -> bool:
    if not isinstance(value, int) or value not in (0, 1):  # libvirt writes 0 and 1
        raise wrong(path, f"{key} = {value}", "neither on nor off", "true false 1 0")
    return bool(value)


def _scalar(path: str, key: str, value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and value:
        parts = [_text(path, key, part) for part in value]
        if any(_LIST in part for part in parts):
            raise wrong(path, f"{key} = {value}", f"a {_LIST} within", "a string for each")
        return _LIST.join(parts)
    return _text(path, key, value)


_READERS: dict[str, Callable[[str, str, object], object]] = {
    "plugin": _text,
    "containment": _containment,
    "on_lockfailure": on_lockfailure,
    "stop_timeout": _seconds,
    "runtime_dir": _directory,
    "auto_disk_leases": _switch,
    "require_lease_for_disks": _switch,
}
