"""Which words tell the guard what to run? Renders and parses the guard's own argv.

`PYTHON -I -S …/guard/__main__.py KEY=VALUE… -- COMMAND…` is the only wire form
of a `GuestSpec`: the front door execs it, the API hands it out, `ps` shows it
and a person can type it. It must not know where the values come from, nor open
anything.
"""

import sys

from lockplugins.contract import ConfigError, Mode, Resource, ResourceType, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

END = "--"
NAME_BYTES = 64
_LONGEST_NUMBER = 9  # a descriptor is an int
UUID_GROUPS = [8, 4, 4, 4, 12]


class Containment:
    """How the guest is tied to the guard's life (README, D4)."""

    AUTO = "auto"
    PDEATHSIG = "pdeathsig"
    PIDNS = "pidns"
    ALL = (AUTO, PDEATHSIG, PIDNS)


class OnLockFailure:
    """What happens to a guest whose lease is lost."""

    KILL = "kill"
    PAUSE = "pause"  # parked instead, where it can be (docs/parking.md)
    ALL = (KILL, PAUSE)


class Key:
    """The keys of the wire form; DISK, COPIED, LEASE, CLASS, IMPORT and CONFIG repeat."""

    NAME = "name"
    UUID = "uuid"
    ID = "id"
    PLUGIN = "plugin"
    CLASS = "class"
    IMPORT = "import"
    CONFIG = "config"
    RUNTIME_DIR = "runtime_dir"
    DISK = "disk"
    IDENTITY = "identity"
    COPIED = "copied"
    LEASE = "lease"
    WAIT = "wait"
    INCOMING = "incoming"
    ON_LOCKFAILURE = "on_lockfailure"
    CONTAINMENT = "containment"
    MONITOR = "monitor"
    STOP_TIMEOUT = "stop_timeout"
    READY_FD = "ready_fd"
    HANDSHAKE_FD = "handshake_fd"
    ALL = (
        NAME, UUID, ID, PLUGIN, CLASS, IMPORT, CONFIG, RUNTIME_DIR, DISK, IDENTITY, COPIED, LEASE,
        WAIT, INCOMING, ON_LOCKFAILURE, CONTAINMENT, MONITOR, STOP_TIMEOUT, READY_FD, HANDSHAKE_FD,
    )  # fmt: skip
    REQUIRED = (NAME, UUID, RUNTIME_DIR)


class GuestSpec:
    """All that the guard is told about one guest; times in seconds, resources in canonical order.

    `wait_s` is 0 (refuse at once) or a duration, infinity included.
    `config` maps a plugin's name to its table, `classes` a third-party
    plugin's name to `module:Class`. `incoming`: a migration's destination; `copied` are the
    paths of disks that the migration fills.
    """

    def __init__(self, name: str, uuid: str, runtime_dir: str) -> None:
        self.name = name
        self.uuid = uuid
        self.runtime_dir = runtime_dir
        self.id: str | None = None
        self.plugin = "file"
        self.classes: dict[str, str] = {}
        self.import_dirs: list[str] = []
        self.config: dict[str, dict[str, str]] = {}
        self.resources: list[Resource] = []
        self.copied: list[str] = []
        self.wait_s = 0.0
        self.incoming = False
        self.on_lockfailure = OnLockFailure.KILL
        self.containment = Containment.AUTO
        self.monitor = True
        self.stop_timeout_s = 10.0
        self.ready_fd: int | None = None
        self.handshake_fd: int | None = None

    @property
    def parks(self) -> bool:
        """Is a guest that loses its leases to be parked, if it can be?"""
        return self.on_lockfailure == OnLockFailure.PAUSE


def is_qemu(command: str) -> bool:
    """Does COMMAND count as QEMU? Judged by its basename alone."""
    name = command.rpartition("/")[2]
    return name.startswith("qemu-system-") or name in {"qemu-kvm", "kvm"}


def python() -> str:
    """Return the interpreter that runs guards: the one under any virtual environment."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def render(spec: GuestSpec) -> list[str]:
    """Return the guard's argv up to and with `--`; the guest's command line follows it."""
    words = [(Key.NAME, spec.name), (Key.UUID, spec.uuid), (Key.RUNTIME_DIR, spec.runtime_dir)]
    if spec.id is not None:
        words.append((Key.ID, spec.id))
    words.append((Key.PLUGIN, spec.plugin))
    words += [(Key.CLASS, f"{name}={where}") for name, where in spec.classes.items()]
    words += [(Key.IMPORT, directory) for directory in spec.import_dirs]
    words += [
        (Key.CONFIG, f"{table}.{key}={value}")
        for table, values in spec.config.items()
        for key, value in values.items()
    ]
    for resource in spec.resources:
        words += _render_resource(resource)
    words += [(Key.COPIED, path) for path in spec.copied]
    words += [
        (Key.WAIT, f"{spec.wait_s:g}"),
        (Key.INCOMING, "on" if spec.incoming else "off"),
        (Key.ON_LOCKFAILURE, spec.on_lockfailure),
        (Key.CONTAINMENT, spec.containment),
        (Key.MONITOR, "on" if spec.monitor else "off"),
        (Key.STOP_TIMEOUT, f"{spec.stop_timeout_s:g}"),
    ]
    descriptors = ((Key.READY_FD, spec.ready_fd), (Key.HANDSHAKE_FD, spec.handshake_fd))
    words += [(key, str(fd)) for key, fd in descriptors if fd is not None]
    main = __file__.removesuffix("spec.py") + "guard/__main__.py"
    return [python(), "-I", "-S", main, *(f"{key}={value}" for key, value in words), END]


def _render_resource(resource: Resource) -> list[tuple[str, str]]:
    if resource.type == ResourceType.LEASE:
        return [(Key.LEASE, lease_words(resource))]
    words = [(Key.DISK, f"{resource.mode}:{resource.path}")]
    if resource.identity is not None:
        words.append((Key.IDENTITY, resource.identity))
    return words


def parse(words: "Sequence[str]") -> tuple[GuestSpec, list[str]]:
    """Split the guard's arguments into spec and COMMAND; raises ConfigError naming the word."""
    if END not in words:
        raise _wrong("the guard's arguments", "there is no --", "end the keys with -- COMMAND")
    end = words.index(END)
    command = list(words[end + 1 :])
    if not command:
        raise _wrong("the guard's arguments", "there is no COMMAND after --", "give one")
    pairs = []
    for word in words[:end]:
        key, equals, value = word.partition("=")
        if not equals or key not in Key.ALL:
            raise _wrong(word, "not KEY=VALUE with a known key", "known: " + " ".join(Key.ALL))
        pairs.append((key, value))
    given = dict(pairs)
    missing = [key for key in Key.REQUIRED if not given.get(key)]
    if missing:
        raise _wrong("the guard's arguments", f"no value for {' '.join(missing)}", "give one")
    check_name(given[Key.NAME])
    check_uuid(given[Key.UUID])
    spec = GuestSpec(given[Key.NAME], given[Key.UUID], given[Key.RUNTIME_DIR])
    for key, value in pairs:
        _take(spec, key, value)
    return spec, command


def _take(spec: GuestSpec, key: str, value: str) -> None:
    """Put one pair into the spec."""
    if key in _SIMPLE:
        attribute, convert = _SIMPLE[key]
        setattr(spec, attribute, convert(key, value))
    elif key == Key.CLASS:
        name, _, spec.classes[name] = value.partition("=")
    elif key == Key.COPIED:
        spec.copied.append(value)
    elif key == Key.IMPORT:
        spec.import_dirs.append(value)
    elif key == Key.CONFIG:
        name, _, setting = value.partition("=")
        table, _, entry = name.partition(".")
        spec.config.setdefault(table, {})[entry] = setting
    elif key == Key.DISK:
        mode, _, path = value.partition(":")
        spec.resources.append(Resource(path, _one_of(key, mode, Mode.ALL)))
    elif key == Key.LEASE:
        spec.resources.append(parse_lease(value))
    elif key == Key.IDENTITY:
        if not spec.resources:
            raise _wrong(f"{key}={value}", "no disk= before it", "put it after its disk")
        spec.resources[-1].identity = value


def convert(key: str, text: str) -> object:
    """Return the checked value of a key of which there is one; raises ConfigError."""
    return _SIMPLE[key][1](key, text)


def check_name(name: str) -> None:
    """Raise ConfigError unless `name` can name a guest: 1 to 64 bytes, no control characters."""
    if not 0 < len(name.encode("utf-8", "surrogateescape")) <= NAME_BYTES:
        raise _wrong(f"guest name {name}", f"not 1 to {NAME_BYTES} bytes", "choose another --name")
    if shown(name) != name:
        raise _wrong(f"guest name {name}", "it has control characters", "choose another --name")


def check_uuid(uuid: str) -> None:
    """Raise ConfigError unless `uuid` has the form 8-4-4-4-12 in lower-case hexadecimal."""
    if not is_uuid(uuid):
        raise _wrong(f"uuid {uuid}", "not 8-4-4-4-12 lower-case hexadecimal digits", "correct it")


def is_uuid(text: str) -> bool:
    groups = text.split("-")
    sizes = [len(group) for group in groups]
    return sizes == UUID_GROUPS and not "".join(groups).strip("0123456789abcdef")


def lease_words(lease: Resource) -> str:
    """Return what `parse_lease` parses."""
    tail = f":{lease.path}:{lease.offset_bytes}" if lease.path else ""
    return f"{lease.lockspace}:{lease.key}{tail}"


def parse_lease(text: str) -> Resource:
    """Parse LOCKSPACE:KEY[:PATH[:OFFSET]], an explicit lease; raises ConfigError."""
    lockspace, _, rest = text.partition(":")
    key, _, path = rest.partition(":")
    head, colon, tail = path.rpartition(":")
    offset = 0
    if colon and tail.isascii() and tail.isdigit():
        path, offset = head, int(tail)
    if not lockspace or not key:
        raise _wrong(f"lease {text}", "not LOCKSPACE:KEY[:PATH[:OFFSET]]", "name both")
    return Resource(
        path, Mode.EXCLUSIVE, ResourceType.LEASE, lockspace=lockspace, key=key, offset_bytes=offset
    )


def _seconds(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:  # NaN is no duration either
        raise _wrong(f"{key}={text}", "not a number of seconds", "0 or more, or inf")
    return value


def _descriptor(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        raise _wrong(f"{key}={text}", "not a descriptor's number", "give an open one")
    return int(text)


def _one_of(key: str, value: str, allowed: "Sequence[str]") -> str:
    if value not in allowed:
        raise _wrong(f"{key}={value}", "unknown value", "allowed: " + " ".join(allowed))
    return value


_SIMPLE: "dict[str, tuple[str, Callable[[str, str], object]]]" = {
    Key.ID: ("id", lambda _, value: value),
    Key.PLUGIN: ("plugin", lambda _, value: value),
    Key.WAIT: ("wait_s", _seconds),
    Key.STOP_TIMEOUT: ("stop_timeout_s", _seconds),
    Key.ON_LOCKFAILURE: (
        "on_lockfailure",
        lambda key, value: _one_of(key, value, OnLockFailure.ALL),
    ),
    Key.CONTAINMENT: ("containment", lambda key, value: _one_of(key, value, Containment.ALL)),
    Key.INCOMING: ("incoming", lambda key, value: _one_of(key, value, ("on", "off")) == "on"),
    Key.MONITOR: ("monitor", lambda key, value: _one_of(key, value, ("on", "off")) == "on"),
    Key.READY_FD: ("ready_fd", _descriptor),
    Key.HANDSHAKE_FD: ("handshake_fd", _descriptor),
}


def _wrong(name: str, reason: str, advice: str) -> ConfigError:
    return ConfigError("understand", name, reason, advice)
