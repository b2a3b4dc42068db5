"""Where does one QEMU option end and the next begin, and what do its values say?

Knows the spelling of QEMU's command line (7.2 to 10) and the three languages
of its values: QemuOpts, dotted keys, JSON. It must not know what a disk is.
"""

from __future__ import annotations

import re

from supervisor.discovery.errors import refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Value = str | bool | int | float | None
    Values = dict[str, Value]

# Every option of every target; an unknown one is an error, since it may name a disk.
WITH_VALUE = frozenset(
    """D L M accel acpitable action add-fd append audio audiodev bios blockdev boot cdrom chardev
    chroot compat cpu d debugcon device dfilter display drive dtb dump-vmstate echr fda fdb fsdev
    fw_cfg g gdb global hda hdb hdc hdd icount incoming initrd iscsi k kernel loadvm m machine
    mem-path mon monitor msg mtdblock name net netdev nic numa object option-rom overcommit parallel
    pflash pidfile plugin prom-env qmp qmp-pretty qtest qtest-log readconfig rotate rtc run-with
    runas sandbox sd seed semihosting-config serial set shim smbios smp spice tpmdev trace usbdevice
    uuid vga virtfs vnc watchdog watchdog-action xen-domid""".split()  # noqa: SIM905 (a table of words)
)
ALONE = frozenset(
    """S async-teardown audio-help daemonize enable-hax enable-kvm enable-sync-profile full-screen h
    help jitdump mem-prealloc no-acpi no-fd-bootchk no-hpet no-reboot no-shutdown no-user-config
    nodefaults nographic old-param only-migratable perfmap portrait preconfig s semihosting
    singlestep snapshot usb version win2k-hack xen-attach xen-domid-restrict""".split()  # noqa: SIM905 (a table of words)
)
IMAGE = ""  # the name of the option that a bare argument stands for: a disk image

_VALUE = re.compile(r"(?:[^,]|,,)*")
_KEY = re.compile(r"[^=,]*")
_STRING = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""", re.DOTALL)
_ESCAPED = re.compile(r"""\\.|\"""", re.DOTALL)


class Option:
    """One option of a command line: `-name value`; `value` is None where it takes none."""

    __slots__ = ("known", "name", "value")

    def __init__(self, name: str, value: str | None = None) -> None:
        self.name = name
        self.value = value
        self.known = True

    def __str__(self) -> str:
        """Render the option as error messages and `found_in` name it."""
        words = [f"-{self.name}"] if self.name != IMAGE else []
        return " ".join(words if self.value is None else [*words, self.value])


def cut(argv: Sequence[str]) -> list[Option]:
    """Return the options of `argv`, whose first element is the program.

    An unknown option is taken to have the next argument as its value unless
    that looks like an option: good enough to name the guest, not to find disks.
    """
    found = []
    rest = iter(argv[1:])
    ahead = next(rest, None)
    while ahead is not None:
        word, ahead = ahead, next(rest, None)
        if not word.startswith("-"):
            found.append(Option(IMAGE, word))
            continue
        option = Option(word[2:] if word.startswith("--") else word[1:])
        option.known = option.name in WITH_VALUE or option.name in ALONE
        if option.name in WITH_VALUE or not (option.known or (ahead or "-").startswith("-")):
            option.value, ahead = ahead, next(rest, None)
        found.append(option)
    return found


def pairs(text: str, implied: str = "") -> Iterator[tuple[str, str]]:
    """Yield keys and values as QEMU reads them: `,,` is a comma, a lone key is a switch.

    `implied` is the key of a first value that stands without one.
    """
    while text:
        key = _KEY.match(text)
        name = key.group() if key else ""
        if text[len(name) : len(name) + 1] == "=" or implied:
            start = len(name) + 1 if text[len(name) : len(name) + 1] == "=" else 0
            matched = _VALUE.match(text, start)
            value = matched.group() if matched else ""
            yield name if start else implied, value.replace(",,", ",")
            text = text[start + len(value) + 1 :]
        else:
            yield (name[2:], "off") if name.startswith("no") else (name, "on")
            text = text[len(name) + 1 :]
        implied = ""


def values(option: Option, implied: str = "") -> Values:
    """Return the option's values by dotted key, from JSON or from KEY=VALUE; the last one wins."""
    text = option.value or ""
    if text.startswith("{"):
        return json_values(text, str(option))
    return dict(pairs(text, implied))


def json_values(text: str, argument: str) -> Values:
    """Return a JSON object's values by dotted key; QEMU allows single quotes, so do we."""
    import json

    try:
        read = json.loads(_STRING.sub(_double_quoted, text))
        return dict(_flat(read, ""))
    except (ValueError, RecursionError) as error:
        raise refusal(argument, f"not JSON that can be read ({error})") from error


def below(options: Mapping[str, Value], key: str) -> Values:
    """Return what `options` says of its part `key`: the keys that begin with `key.`."""
    prefix = f"{key}."
    return {name[len(prefix) :]: v for name, v in options.items() if name.startswith(prefix)}


def is_on(value: Value) -> bool:
    """Tell whether QEMU takes `value` for true."""
    return value is True or value in {"on", "yes", "true", "y"}


def _double_quoted(match: re.Match[str]) -> str:
    """Return a JSON string as Python's reader knows it."""
    text = match.group()
    escapes = {'"': '\\"', "\\'": "'"}
    inner = _ESCAPED.sub(lambda m: escapes.get(m.group(), m.group()), text[1:-1])
    return f'"{inner}"'


def _flat(value: object, key: str) -> Iterator[tuple[str, Value]]:
    """Yield the leaves under `value` with their dotted keys, as QEMU's own flattening does."""
    prefix = f"{key}." if key else ""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(part, f"{prefix}{name}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _flat(part, f"{prefix}{index}")
    elif key and (value is None or isinstance(value, (str, bool, int, float))):
        if isinstance(value, str) and b"\0" in value.encode():  # encode: QEMU wants Unicode
            raise ValueError(f"a NUL in {key}")
        yield key, value
    else:
        raise ValueError("an object was expected")
