"""What can be wrong with the configuration, the plugins, and the place of the runtime directory?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import prctl

from lockplugins import registry
from lockplugins.contract import Plugin, Resource
from supervisor import parkable
from supervisor.spec import GuestSpec
from tests.support.claiming import ClaimingPlugin
from tests.support.errors.world import NOBODY, UUID, Case, Said, raised, run
from tests.support.expiring import ExpiringPlugin
from tests.support.locking import CopyingCarrier
from tests.support.stand_ins import CLASSES

if TYPE_CHECKING:
    from tests.support.errors.world import Provoke, World


def file(text: str | bytes) -> Provoke:
    """Provoke by `run` with this configuration file."""

    def provoke(world: World) -> Said:
        path = world.write("config.toml", text)
        return world.says("run", "--config", path, "--disk", "disk.raw", "true")

    return provoke


def directory(text: str) -> Provoke:
    """Provoke by `list`, which looks at no more than the runtime directory."""

    def provoke(world: World) -> Said:
        path = world.write("config.toml", text)
        return world.says("list", "--config", path, env={"LOCK_SUPERVISOR_RUNTIME_DIR": None})

    return provoke


def no_runtime_directory(world: World) -> Said:
    top = world.checkout()
    environment = {"LOCK_SUPERVISOR_RUNTIME_DIR": None, "XDG_RUNTIME_DIR": None}
    return world.says("list", program=(f"{top}/bin/lock-supervisor",), env=environment, **NOBODY)


def a_plugin_that_is_none(world: World) -> Said:
    return world.guard_says(*GUEST, "plugin=mine", "class=mine=os:path", "--", "true")


PRCTL = f"import={os.path.dirname(str(prctl.__file__))}"
GUEST = ("name=web1", f"uuid={UUID}", "runtime_dir=run", PRCTL)


def guard(*words: str) -> Provoke:
    return lambda world: world.guard_says(*GUEST, *words, "--", "true")


def parked(command: str, plugin: type[Plugin]) -> Provoke:
    """Provoke by a guest that is to be parked under this plugin."""
    spec = GuestSpec("web1", UUID, "/run")
    return lambda _world: raised(lambda: parkable.check(spec, [command], [plugin]))


def nobody_leases_disks(world: World) -> Said:
    carrier = CopyingCarrier()
    world.stack.callback(carrier.close)
    classes = {**CLASSES, "host": "tests.support.stand_ins:Vm"}
    several = registry.Composite(
        [
            registry.load("machine", {}, carrier, classes),
            registry.load("host", {}, carrier, classes),
        ]
    )
    return raised(lambda: several.acquire([Resource(world.disk)], None))


def a_lease_of_nobody(world: World) -> Said:
    carrier = CopyingCarrier()
    world.stack.callback(carrier.close)
    several = registry.load("one+two", {}, carrier, CLASSES)
    (lease, _other) = several.acquire([Resource(world.disk)], None)
    several.release(lease)
    return raised(lambda: several.release(lease))


def reacquired(world: World) -> Said:
    carrier = CopyingCarrier()
    world.stack.callback(carrier.close)
    plugin: Plugin = registry.load("file", {}, carrier)
    (lease,) = plugin.acquire([Resource(world.disk)], None)
    return raised(lambda: plugin.reacquire(lease))


CASES = (
    Case(2, run("--config", "missing.toml", "true"),
         "The file that was asked for is not there. Without one the defaults count.",
         "supervisor.config:_load"),
    Case(2, file("plugin = file\n"),
         "A text needs quotes in TOML."),
    Case(2, file(b"plugin = '\xff'\n"),
         "The file was saved in another encoding."),
    Case(2, file("plugin = " + "[" * 5000),
         "Not a configuration file of ours."),
    Case(2, file("plugni = 'file'\n"),
         "A misspelt key. Nothing is guessed: a misspelt safety setting would be no setting."),
    Case(2, file("[fiel]\nfile_lockspace_dir = '/locks'\n"),
         "A misspelt plugin's name, or one that is not installed."),
    Case(2, file("[file]\nlockspace_dir = '/locks'\n"),
         "A misspelt key."),
    Case(2, file("containment = 'none'\n"),
         "The value is not one of those that are allowed."),
    Case(2, run("--on-lockfailure", "pause", "--no-monitor", "--no-discover", "true"),
         "A guest is parked by way of its private monitor ([parking.md](parking.md))."),
    Case(2, parked("/bin/sleep", ClaimingPlugin),
         "Only QEMU can be parked: another COMMAND is killed when it loses a lease."),
    Case(111, parked("qemu-kvm", ExpiringPlugin),
         "Whoever had the leases meanwhile would not be noticed. Such a guest is killed."),
    Case(2, file("plugin = 7\n"),
         "The value needs quotes."),
    Case(2, file("[file]\nfile_lockspace_dir = 'locks'\n"),
         "A relative directory would be another one for each user."),
    Case(2, file("stop_timeout = 'soon'\n"),
         "The value is no number."),
    Case(2, file("[etcd]\nendpoints = ['http://a,http://b']\n"),
         "A list has a text for each of its parts."),
    Case(2, file("auto_disk_leases = 'never'\n"),
         "The value is neither true nor false."),
    Case(2, directory("runtime_dir = 'run'\n"),
         "A relative directory would be another one for each working directory."),
    Case(2, no_runtime_directory,
         "An ordinary user without a login session. Give `--runtime-dir`, or log in properly."),
    Case(2, run("--plugin", "sanlok", "--no-discover", "true"),
         "A misspelt plugin's name, or one that is not installed for this Python."),
    Case(2, run("--plugin", "file+file", "--no-discover", "true"),
         "A plugin can be asked once."),
    Case(2, guard("plugin=mine", "class=mine=mine.locks:Plugin"),
         "Somebody's plugin is not installed, or only for another Python."),
    Case(2, a_plugin_that_is_none,
         "The package that brings the plugin is broken."),
    Case(2, guard("plugin=file", "config=file.lockspace_dir=/locks"),
         "A misspelt key in the guard's own arguments."),
    Case(2, guard("plugin=file", "config=file.file_lockspace_dir=locks"),
         "A relative directory in the guard's own arguments."),
    Case(111, nobody_leases_disks,
         "None of the plugins leases disks. Add one that does: `--plugin file+…`."),
    Case(111, a_lease_of_nobody,
         "The lease was released before. Seen by programs that use plugins."),
    Case(111, reacquired,
         "Kernel locks cannot be recognised after they were let go. Seen by programs that use "
         "plugins."),
)  # fmt: skip
