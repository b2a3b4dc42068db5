"""What can a program be told that uses the packages, and no command?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lockplugins
from lockplugins import contract, registry
from lockplugins.contract import Resource
from lockplugins.vm import VmPlugin
from supervisor import domain_lock
from supervisor.discovery.domain_xml import Domain
from supervisor.manager import LockManager, NewFlags, ObjectType, ResourceType
from tests.support.daemon import IDLE
from tests.support.errors.world import UUID, Case, Said, raised
from tests.support.locking import CopyingCarrier

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.errors.world import Provoke, World

DISK, LEASE = ResourceType.DISK, ResourceType.LEASE
DOMAIN = Domain("web1", UUID)
EMPTY = "<disk device='cdrom'><target dev='sda'/></disk>"


def unloaded_twice(_world: World) -> Said:
    plugin = lockplugins.load("nop")
    plugin.unload()
    return raised(plugin.unload)


def machines(world: World) -> VmPlugin:
    carrier = CopyingCarrier()
    world.stack.callback(carrier.close)
    return VmPlugin({"lease_dir": world.path("leases")}, carrier)


def an_explicit_lease_of_a_guest(world: World) -> Said:
    lease = Resource("", resource_type=contract.ResourceType.LEASE, lockspace="prod", key="web1")
    return raised(lambda: machines(world).acquire([lease], None))


def a_disk_of_a_guest(world: World) -> Said:
    return world.says("who", "--plugin", "vm", world.disk)


def a_disk_of_several_guests(world: World) -> Said:
    classes = {"host": "tests.support.stand_ins:Vm"}
    several = registry.load("vm+host", {}, None, classes)
    return raised(lambda: several.inquire(Resource(world.disk)))


def a_guest_released_twice(world: World) -> Said:
    plugin = machines(world)
    (lease,) = plugin.acquire([Resource(UUID, resource_type=contract.ResourceType.VM)], None)
    plugin.release(lease)
    return raised(lambda: plugin.release(lease))


def manager(world: World, flags: int = 0, plugin: str = "file") -> LockManager:
    """Make the manager of a guest that nobody knows."""
    loaded = lockplugins.load(plugin)
    runtime_dir = world.guards.runtime_dir
    made = LockManager(loaded, ObjectType.DOMAIN, flags, runtime_dir=runtime_dir)
    made.set_parameter("name", "web1")
    made.set_parameter("uuid", UUID)
    made.set_parameter("log", world.path("log"))
    made.set_parameter("no_discover", value=True)
    return made


def attached(world: World) -> LockManager:
    return manager(world, NewFlags.ATTACH)


def calling(call: Callable[[LockManager], object], flags: int = 0, plugin: str = "file") -> Provoke:
    """Provoke by one call of such a manager."""
    return lambda world: raised(lambda: call(manager(world, flags, plugin)))


def another_object(_world: World) -> Said:
    loaded = lockplugins.load("nop")
    return raised(lambda: LockManager(loaded, None))  # type: ignore[arg-type]  # that is the mistake


def another_plugin(_world: World) -> Said:
    plugin = "nop"
    return raised(lambda: LockManager(plugin, ObjectType.DOMAIN))  # type: ignore[arg-type]  # the same


def handed_descriptors(world: World) -> Said:
    made = manager(world)
    made.set_parameter("ready_fd", 2)
    return raised(lambda: made.acquire_object(IDLE))


def a_guest_of_no_uuid(_world: World) -> Said:
    made = LockManager(lockplugins.load("file"), ObjectType.DOMAIN, NewFlags.ATTACH)
    return raised(made.get_child)


def a_prefix_that_was_not_executed(world: World) -> Said:
    made = manager(world)
    made.get_supervisor_path()
    return raised(made.kill_supervisor)


def a_prefix_that_is_late(world: World) -> Said:
    made = manager(world)
    made.get_supervisor_path()
    return raised(lambda: made.get_child(0.1))


def a_guest_that_was_not_told_to_go(world: World) -> Said:
    made = manager(world)
    made.acquire_object(IDLE)
    world.stack.callback(made.kill_supervisor)
    return raised(lambda: attached(world).get_child(0.1))


def a_guest_that_stays(world: World) -> Said:
    world.guest(world.disk)
    return raised(lambda: attached(world).shutdown(0.1))


def a_guard_that_dies(world: World) -> Said:
    made = manager(world)
    made.acquire_object(IDLE)
    attached(world).kill_supervisor()
    return raised(made.run)


def without_setsid(world: World) -> Said:
    program = (
        "import lockplugins, os; os.environ['PATH'] = '/missing'\n"
        "from supervisor.manager import LockManager, ObjectType\n"
        "made = LockManager(lockplugins.load('nop'), ObjectType.DOMAIN)\n"
        f"made.set_parameter('log', '{world.path('log')}')\n"
        "made.set_parameter('no_discover', True)\n"
        "made.acquire_object(['true'])"
    )
    return world.python_says(program)


CASES = (
    Case(2, another_object,
         "A manager is for a guest: the seed's OBJECT_DOMAIN or START_DOMAIN."),
    Case(2, calling(lambda made: made.register_resource(DISK, "/disk", 4)),
         "Flags of another call, or none of ours."),
    Case(2, calling(lambda made: made.register_resource("disk", "/disk")),  # type: ignore[arg-type]
         "A type is a member of ResourceType."),
    Case(2, lambda world: raised(lambda: manager(world, NewFlags.ATTACH | NewFlags.MIGRATE)),
         "A guest that is there is attached to; for one that comes a supervisor is started."),
    Case(2, calling(lambda made: made.set_parameter("nmae", "web1")),
         "A misspelt parameter."),
    Case(2, calling(lambda made: made.set_parameter("id", "")),
         "An empty parameter is somebody's unset variable."),
    Case(2, calling(lambda made: made.set_parameter("no_monitor", "yes")),
         "A switch is a Boolean in Python."),
    Case(2, calling(lambda made: made.set_parameter("domain", 5)),
         "A domain is what `virsh dumpxml` prints, or what was made of it."),
    Case(2, another_plugin,
         "The first argument is a plugin, not its name."),
    Case(2, calling(lambda made: made.acquire_object([])),
         "No command line was given for the guest, or one text instead of a list."),
    Case(2, calling(lambda made: made.acquire_object(["true"], [-1])),
         "The guest can be handed only what the program has open."),
    Case(2, calling(lambda made: made.get_child(-1), NewFlags.ATTACH),
         "A time is a number, which may be infinite."),
    Case(2, handed_descriptors,
         "How the launch goes `acquire_object` and `run` tell by themselves."),
    Case(111, calling(lambda made: made.register_resource(LEASE, "prod:web1", 2)),
         "An explicit lease cannot be shared."),
    Case(111, calling(lambda made: made.acquire_resource(DISK, "/disk"), NewFlags.ATTACH, "vm"),
         "The manager's plugin cannot do that at all.", "supervisor.manager:LockManager._need"),
    Case(2, calling(lambda made: made.run()),
         "The calls came in another order than the sequences have them."),
    Case(2, a_guest_of_no_uuid,
         "A running guest is found by its uuid."),
    Case(1, a_prefix_that_was_not_executed,
         "The supervisor that you start yourself has not come up: look at your own process."),
    Case(111, a_prefix_that_is_late,
         "The same, while its process was waited for.", "supervisor.getchild"),
    Case(111, a_guest_that_was_not_told_to_go,
         "The guest is there, and waits: for a lease, or for run().", "supervisor.getchild"),
    Case(1, calling(lambda made: made.get_child(), NewFlags.ATTACH),
         "The guest has ended, or runs in another runtime directory."),
    Case(111, a_guest_that_stays,
         "shutdown() ends nothing. Have QEMU quit, or revoke the guest."),
    Case(111, a_guard_that_dies,
         "The supervisor was killed between acquire_object and run. Its log may say more.",
         "supervisor.starting:died"),
    Case(111, without_setsid,
         "setsid(1) starts supervisors apart from the program; it is part of every Linux."),
    Case(2, lambda _: raised(lambda: domain_lock.process_pause("<domain/>")),
         "A running guest is found by its domain's uuid: save what `virsh dumpxml` prints."),
    Case(2, lambda _: raised(lambda: domain_lock.image_attach(DOMAIN, EMPTY, runtime_dir="/srv")),
         "There is nothing to lock: the drive is empty, or the element is no <disk>."),
    Case(2, lambda _: raised(lambda: domain_lock.lease_attach(DOMAIN, EMPTY, runtime_dir="/srv")),
         "The element is another one, or there are several."),
    Case(2, lambda _: raised(lambda: domain_lock.process_pause(5)),  # type: ignore[arg-type]
         "It is neither what `virsh dumpxml` prints nor a Domain."),
    Case(2, lambda _: raised(lambda: domain_lock.lease_attach(DOMAIN, 5, runtime_dir="/srv")),  # type: ignore[arg-type]
         "A device is given as an element's text, or as a Disk or a Domain's lease."),
    Case(2, lambda _: raised(lambda: lockplugins.load(5)),  # type: ignore[arg-type]
         "Plugins are loaded by name."),
    Case(2, lambda _: raised(lambda: lockplugins.load("sanlok")),
         "A misspelt plugin's name, or one that is not installed for this Python."),
    Case(111, unloaded_twice,
         "The program has given the plugin back. Guests that run with it run on."),
    Case(111, an_explicit_lease_of_a_guest,
         "The plugin `vm` has one lease for a guest, and no others."),
    Case(111, a_disk_of_a_guest,
         "Under the plugin `vm` disks have no leases: ask for the guest's uuid."),
    Case(111, a_disk_of_several_guests,
         "The same, of several plugins that lease guests alone."),
    Case(111, a_guest_released_twice,
         "The lease was released before.", "lockplugins.vm"),
)  # fmt: skip
