"""What can a program be told that uses the packages, and no command?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lockplugins
from lockplugins import registry
from lockplugins.contract import Resource, ResourceType
from lockplugins.vm import VmPlugin
from tests.support.errors.world import UUID, Case, Said, raised
from tests.support.locking import CopyingCarrier

if TYPE_CHECKING:
    from tests.support.errors.world import World


def unloaded_twice(_world: World) -> Said:
    plugin = lockplugins.load("nop")
    plugin.unload()
    return raised(plugin.unload)


def machines(world: World) -> VmPlugin:
    carrier = CopyingCarrier()
    world.stack.callback(carrier.close)
    return VmPlugin({"lease_dir": world.path("leases")}, carrier)


def an_explicit_lease_of_a_guest(world: World) -> Said:
    lease = Resource("", resource_type=ResourceType.LEASE, lockspace="prod", key="web1")
    return raised(lambda: machines(world).acquire([lease], None))


def a_disk_of_a_guest(world: World) -> Said:
    return world.says("who", "--plugin", "vm", world.disk)


def a_disk_of_several_guests(world: World) -> Said:
    classes = {"host": "tests.support.stand_ins:Vm"}
    several = registry.load("vm+host", {}, None, classes)
    return raised(lambda: several.inquire(Resource(world.disk)))


def a_guest_released_twice(world: World) -> Said:
    plugin = machines(world)
    (lease,) = plugin.acquire([Resource(UUID, resource_type=ResourceType.VM)], None)
    plugin.release(lease)
    return raised(lambda: plugin.release(lease))


CASES = (
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
