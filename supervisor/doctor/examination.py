"""Which checks does a question call for, and in which order? Asks them all.

Without COMMAND and disks: the host. It must not know how a check is made.
"""

from __future__ import annotations

import copy

from lockplugins.contract import Capability, Mode, cause
from lockplugins.registry import JOIN, capabilities, plugin_classes
from supervisor.discovery.options import cut, is_on, values
from supervisor.doctor import here, libvirt
from supervisor.doctor.asking import Check, Trial, ask
from supervisor.doctor.names import Name
from supervisor.spec import is_qemu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lockplugins.contract import LockError
    from supervisor.spec import GuestSpec

_DENIED = "allow pidfd_open (seccomp), on Linux 5.10 or newer; without it no guard runs"
_OF_COMMAND = (Name.COMMAND, Name.CONTAINMENT)
_OF_THE_HOST = (
    Name.PYTHON,
    Name.PIDFD,
    Name.PARENT_DEATH,
    Name.PID_NAMESPACE,
    Name.TIMER,
    Name.CARRIED,
    Name.DESCRIPTORS,
    Name.OOM,
    Name.HOLDERS,
)


class Question:
    """What is asked about: `guest` and COMMAND as `run` would have them, as far as they are good.

    `problems` are what is not, by the check that tells of it; `config_file`
    is the one that was read, `unleased` are the disks that COMMAND writes to
    and nobody asked to lease.
    """

    def __init__(self, guest: GuestSpec, command: Sequence[str]) -> None:
        self.guest = guest
        self.command = list(command)
        self.config_file: str | None = None
        self.problems: dict[str, LockError] = {}
        self.unleased: list[str] = []


def examine(question: Question) -> Iterator[Check]:
    """Yield every check: the host's, then the disks', then COMMAND's."""
    guest = question.guest
    host = copy.copy(guest)
    host.resources = []
    yield _configuration(question)
    yield here.user(here.read("status"))
    yield here.freezer(here.read("cgroup"))
    yield libvirt.beside(guest.plugin, guest.config, ours=question.config_file)
    trials = [Trial(name, host) for name in _OF_THE_HOST]
    for name, of_name in ((Name.RUNTIME_DIR, _of_directory), (Name.PLUGIN, _of_plugins)):
        if name in question.problems:
            yield _problem(question, name)
        else:
            trials += of_name(host)
    try:
        yield from ask(trials)
    except OSError as error:  # asking takes what is asked about
        yield Check(
            Name.PIDFD, False, f"no process can be started and seen: {cause(error)}", _DENIED
        )
        return
    if question.command or Name.DISKS in question.problems:
        yield _disks(question)
    trials = [] if Name.PLUGIN in question.problems else list(_of_disks(guest))
    if question.command:
        trials += [Trial(name, host, question.command) for name in _OF_COMMAND]
        if is_qemu(question.command[0]) and guest.monitor:
            trials.append(Trial(Name.MONITOR, host, question.command))
    yield from ask(trials)
    if is_qemu((question.command or [""])[0]) and not guest.monitor:
        evidence = "--no-monitor: stop pulls the plug, and what is opened unleased is not seen"
        yield Check(Name.MONITOR, False, evidence, "leave --no-monitor out")


def _configuration(question: Question) -> Check:
    if Name.CONFIGURATION in question.problems:
        return _problem(question, Name.CONFIGURATION)
    file = question.config_file
    words = f"{file} is understood" if file else "no configuration file: the defaults"
    return Check(Name.CONFIGURATION, True, words)


def _problem(question: Question, name: str) -> Check:
    error = question.problems[name]
    evidence = f"cannot {error.verb} {error.name}: {error.reason}"
    return Check(name, False, evidence, error.advice or "put that right")


def _of_directory(host: GuestSpec) -> Iterator[Trial]:
    yield Trial(Name.RUNTIME_DIR, host)


def _of_plugins(host: GuestSpec) -> Iterator[Trial]:
    """Yield a trial of each plugin's lock manager."""
    for word in host.plugin.split(JOIN):
        one = copy.copy(host)
        one.plugin = word
        yield Trial(Name.PLUGIN, one)


def _of_disks(guest: GuestSpec) -> Iterator[Trial]:
    """Yield a trial of each resource by each plugin: what hangs hangs alone."""
    for resource in guest.resources:
        for word in guest.plugin.split(JOIN):
            one = copy.copy(guest)
            one.plugin, one.resources = word, [resource]
            yield Trial(Name.PLUGIN, one, subject=resource.path)


def _disks(question: Question) -> Check:
    """Does a lease guard every disk that the guest writes to?"""
    if Name.DISKS in question.problems:
        return _problem(question, Name.DISKS)
    modes = [resource.mode for resource in question.guest.resources]
    if unleased := _unleased(question):
        return Check(Name.DISKS, False, *unleased)
    if not modes and not is_qemu(question.command[0]):
        evidence = "no disk is named, and COMMAND is not QEMU, whose arguments would tell"
        return Check(Name.DISKS, False, evidence, "name what it writes to with --disk")
    if together := _written_together(question.command):
        evidence = f"{together} lets other guests of ours write to its disk at once"
        return Check(Name.DISKS, False, evidence, "do so with cluster filesystems alone")
    if not modes:
        return Check(Name.DISKS, True, "the arguments tell of no disk")
    words = " ".join(f"{modes.count(mode)} {mode}" for mode in Mode.ALL)
    return Check(Name.DISKS, True, f"leases on all that the arguments tell of: {words}")


def _unleased(question: Question) -> tuple[str, str] | None:
    """Return which disks nobody leases, and what to do."""
    guest = question.guest
    if question.unleased:
        evidence = f"the guest writes to {', '.join(question.unleased)} without a lease"
        return evidence, "leave --no-discover out, or name it with --disk"
    if not guest.resources or Name.PLUGIN in question.problems:
        return None
    if Capability.RESOURCES in capabilities(plugin_classes(guest.plugin, guest.classes)):
        return None
    evidence = f"plugin {guest.plugin} leases the guest, not its disks: others may use them"
    return evidence, f"add a plugin that does: {guest.plugin}+file"


def _written_together(command: Sequence[str]) -> str:
    """Return the device that shares a writable disk, empty if none does."""
    if not is_qemu(command[0]):
        return ""
    devices = [option for option in cut(command) if option.name == "device"]
    shared = [str(o) for o in devices if is_on(values(o, "driver").get("share-rw"))]
    return shared[0] if shared else ""
