"""What is said when a lease of sanlock is not acquired, or is lost?

By a daemon of the world's own, which joins where the line is about a guest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lockplugins.contract import Lease, Resource, ResourceType
from lockplugins.sanlock import claims, files, library, life, names, status
from lockplugins.sanlock.plugin import SanlockPlugin
from lockplugins.sanlock.settings import LOCKSPACE, Settings
from tests.support import sanlock_facts as facts
from tests.support.errors.world import Case, Said, raised, run
from tests.support.locking import CopyingCarrier
from tests.support.sanlock import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.errors.world import Provoke, World

ABSENT = {"SANLOCK_RUN_DIR": "/nowhere"}
SETTINGS = Settings({"host_id": "1"})


def host(world: World, *, joined: bool = True) -> Daemon:
    """Start the world's sanlock; the command uses it."""
    directory = Path(world.directory)
    daemon = world.stack.enter_context(Daemon(directory / "r", directory / "leases"))
    if joined:
        daemon.join()
    world.command.env |= {
        **daemon.env,
        "LOCK_SUPERVISOR_CONFIG": world.write("config.toml", daemon.toml()),
    }
    return daemon


def sanlock(*words: str) -> tuple[str, ...]:
    return ("run", "--plugin", "sanlock", *words, "true")


def plugin(call: Callable[[SanlockPlugin, str], object]) -> Provoke:
    """Provoke by a call of the plugin itself, which has no daemon."""

    def provoke(world: World) -> Said:
        carrier = CopyingCarrier()
        world.stack.callback(carrier.close)
        return raised(lambda: call(SanlockPlugin({"host_id": "1"}, carrier), world.disk))

    return provoke


def program(text: str, *, joined: bool = True, env: Mapping[str, str] | None = None) -> Provoke:
    """Provoke by a program in a process of its own, which has a daemon unless `env` is given."""

    def provoke(world: World) -> Said:
        table = host(world, joined=joined).config if env is None else {}
        world.command.env |= env or {}
        return world.python_says(f"table, disk = {table!r}, {world.disk!r}\n{text}")

    return provoke


def held_by_a_guest(world: World) -> Said:
    daemon = host(world)
    world.guards.env |= daemon.env
    world.guest(world.disk, plugin="sanlock", config={"sanlock": daemon.config})
    return world.says(*sanlock("--disk", "disk.raw"))


def of_no_lockspace(world: World) -> Said:
    host(world)
    return world.says(*sanlock("--lease", f"other:a:{world.disk}"))


def of_no_lease(world: World) -> Said:
    host(world)
    return world.says(*sanlock("--lease", f"{LOCKSPACE}:a:{world.disk}"))


def who_of_no_lease(world: World) -> Said:
    host(world, joined=False)
    world.write(f"leases/{facts.lease_name(world.disk)}", b"x" * facts.FILE_BYTES)
    return world.says("who", "--plugin", "sanlock", world.disk)


def another_lockspace(world: World) -> Said:
    daemon = host(world, joined=False)
    facts.init_lockspace(daemon.lockspace, "other")
    return world.says(*sanlock("--disk", "disk.raw"))


def another_host_id(world: World) -> Said:
    daemon = host(world)
    file = world.write("two.toml", daemon.toml().replace("host_id = 1", "host_id = 2"))
    return world.says(*sanlock("--config", file, "--disk", "disk.raw"))


def without_a_daemon(world: World) -> Said:
    return world.says("who", "--plugin", "sanlock", "disk.raw", env=ABSENT)


def badly_configured(world: World) -> Said:
    file = world.write("config.toml", "[sanlock]\nhost_id = 0\n")
    return world.says("run", "--config", file, "true")


def membership(path: str) -> status.Membership:
    """Return what a daemon would say of a lockspace at `path`."""
    where = library.Lockspace(LOCKSPACE.encode(), 1, 0, library.Disk(path.encode()))
    numbers = (
        "space_id", "io_timeout", "host_generation", "acquire_last_success",
        "renewal_last_success", "corrupt_result",
        "renewal_last_result", "killing_pids", "space_dead", "sector_size",
    )  # fmt: skip
    return status.Membership(
        where, dict.fromkeys(numbers, "1") | {"list": "spaces"}, {"use_watchdog": "0"}
    )


def nine_names(_world: World) -> Said:
    leases = [
        Resource("/x", resource_type=ResourceType.LEASE, lockspace="a", key=f"{number}")
        for number in range(9)
    ]
    return raised(lambda: claims.wanted([names.locate(lease, SETTINGS) for lease in leases]))


def no_place(world: World) -> Said:
    where = f"{world.disk}/lease"
    return raised(lambda: files.create(where, SETTINGS, library.SMALL, lambda _: None))


LIFE = """
from lockplugins.sanlock import life, status
joined = status.read().lockspaces[0]
proof = life.Life()
proof.watch(joined)
"""
# A process that is its own guest.
GUEST = """
import os
from lockplugins.contract import Guest, Resource
from lockplugins.sanlock.plugin import SanlockPlugin
guest = Guest("uuid", "web1")
guest.pid = os.getpid()
made, other = SanlockPlugin(table, None), SanlockPlugin(table, None)
made.open(guest)
other.open(guest)
"""
REGISTERED = f"""{GUEST}
(fd,) = made.in_child()
(lease,) = made.acquire([Resource(disk)], None)
"""
# The same process is both ends of a migration.
ENDS = f"""{REGISTERED}
from lockplugins.sanlock import decision
NONCE = "00112233445566"
source, target = made.migration(), other.migration()
told = source.prepare(NONCE)
step = decision.Decision(other.asked(), other.holding(), other.settings, "uuid", NONCE)
"""
AWAITED = "target.await_in([Resource(disk)], (), None)\n"


def awaited_twice(world: World) -> Said:
    daemon = host(world)
    daemon.hold(f"destination of {LOCKSPACE}:{facts.lease_name(world.disk)}")
    text = f"{GUEST}(fd,) = made.in_child()\nother.migration().await_in([Resource(disk)], (), None)"
    return world.python_says(f"table, disk = {daemon.config!r}, {world.disk!r}\n{text}")


CASES = (
    Case(2, badly_configured,
         "A plugin's table has a value that the plugin cannot use.", "supervisor.config:_table"),
    Case(2, run("--plugin", "sanlock", "--disk", "disk.raw", "true"),
         "Every host of the lockspace needs a number of its own: `host_id` in `[sanlock]`."),
    Case(2, plugin(lambda made, _: type(made)({"io_timeout": "ten"}, made.carrier)),
         "A value of `[sanlock]` that sanlock cannot use."),
    Case(2, plugin(lambda made, _: type(made)({"user": "no-such-user"}, made.carrier)),
         "`user` and `group` are those as whom the sanlock daemon opens its files."),
    Case(111, without_a_daemon,
         "sanlock's daemon is not there, or may not be spoken to. Without it nothing is leased."),
    Case(111, lambda _: raised(lambda: library.Library("libnothing.so.1")),
         "sanlock's client library is a package of its own."),
    Case(110, held_by_a_guest,
         "Another guest of this host has the disk, or another host, with its host_id and since "
         "when it was seen alive.", "lockplugins.sanlock.refusals"),
    Case(111, another_lockspace,
         "The file is not what its name says, or the daemon does not let this host in: sanlock's "
         "own name and number for it follow."),
    Case(111, another_host_id,
         "libvirt, or an administrator, has joined the lockspace with other settings."),
    Case(111, nine_names,
         "sanlock gives one process 8 resources. A disk needs two if its path is a symlink."),
    Case(111, no_place,
         "The directory of the leases is read-only, full, or not what it was."),
    Case(111, plugin(lambda made, _: made.named(Resource("disk.raw"))),
         "A disk is known by its absolute path, which is the same on all hosts.",
         "lockplugins.sanlock"),
    Case(111, plugin(lambda made, _: made.named(Resource("/nowhere"))),
         "A misspelt path, or a filesystem that is not mounted.", "lockplugins.sanlock"),
    Case(111, plugin(lambda made, _: made.named(Resource("/dev/null"))),
         "Only what a guest can have as a disk is leased.", "lockplugins.sanlock"),
    Case(111, plugin(lambda made, _: made.named(Resource("u", resource_type=ResourceType.VM))),
         "The plugin `sanlock` leases disks, not virtual machines."),
    Case(111, plugin(lambda made, _: made.named(
         Resource("/a b", resource_type=ResourceType.LEASE, lockspace="a", key="b"))),
         "sanlock parts names by blanks and colons, and takes 47 bytes."),
    Case(111, of_no_lockspace,
         "An explicit lease needs its lockspace joined (`sanlock client add_lockspace`)."),
    Case(111, of_no_lease,
         "What is there was never formatted as this lease, or was overwritten."),
    Case(111, who_of_no_lease,
         "The lease's file cannot be read as one, so nobody can tell."),
    Case(111, program(
         "from lockplugins.sanlock.plugin import SanlockPlugin\n"
         "SanlockPlugin(table, None).in_child()", env=ABSENT),
         "The daemon did not take the guest's process as one that may hold leases."),
    Case(111, program(
         "from lockplugins.sanlock import claims, library, lockspace, names, settings\n"
         "place = names.Place(('a', 'b'), '/nowhere/x', is_made=True)\n"
         "made = settings.Settings({'disk_lease_dir': '/nowhere'})\n"
         "lockspace.create_resources(library.Library(), made, [claims.Claim(place)])",
         joined=False),
         "The file of a lease that nobody has had yet could not be made."),
    Case(111, program(LIFE + "proof.end()\nproof.end()"),
         "sanlock did not renew in the meantime. Said as the reason when a lease is lost."),
    Case(112, program(LIFE + "joined.number += 1\nproof.watch(joined)\nproof.check()"),
         "An administrator, or sanlock, has taken this host out of the lockspace: whoever used it "
         "is ended."),
    Case(112, program(LIFE + "import os, shutil\ncopy = shutil.copy(joined.path, disk)\n"
         "os.rename(copy, joined.path)\nproof.check()"),
         "Somebody has replaced the lockspace's file: other hosts use another one than sanlock "
         "here, which is as if they used none."),
    Case(111, lambda _: raised(lambda: life._file(membership("/nowhere"))),
         "The lockspace's file is gone, or its storage is. Said as the reason when a lease is "
         "lost.", "lockplugins.sanlock.life:_file"),
    Case(111, lambda _: raised(lambda: life.check_record(membership("/nowhere"))),
         "The same, before a guest is started.", "lockplugins.sanlock.life:check_record"),
    Case(111, lambda _: raised(lambda: life.check_record(membership("/dev/null"))),
         "sanlock has the lockspace open that was there before somebody replaced its file."),
    Case(111, program("from lockplugins.sanlock import status\nstatus.hosts('none')", joined=False),
         "The daemon answered with an error of its own.", "lockplugins.sanlock.status:_ask"),
    Case(111, lambda _: raised(lambda: status._Answer(b"").take(1)),
         "The daemon ended while it was asked."),
    Case(111, plugin(lambda made, disk: made.release(Lease(Resource(disk), "a", "b"))),
         "The lease was released before. Seen by programs that use the plugin.",
         "lockplugins.sanlock.plugin:SanlockPlugin.release"),
    Case(111, plugin(lambda made, disk: made.reacquire(Lease(Resource(disk), "a", "b"))),
         "Only a lease that was given up can be taken back.",
         "lockplugins.sanlock.plugin:SanlockPlugin.reacquire"),
    Case(111, program(GUEST + "made.acquire([Resource(disk)], None)"),
         "COMMAND, or something before it, has closed the connection that the guest inherits."),
    Case(112, program(REGISTERED + "os.close(fd)\nmade.renew()"),
         "The guest has closed the connection that it inherits, or an administrator has released "
         "its leases (`sanlock client release`)."),
    Case(112, program(REGISTERED + "made.release(lease)\n"
         "other.release(*other.acquire([Resource(disk)], None))\nmade.reacquire(lease)"),
         "Somebody has had the disk while the guest stood still: it may not go on.",
         "lockplugins.sanlock.refusals"),
    Case(112, program(REGISTERED + "made.release(lease)\n"
         "other.acquire([Resource(disk)], None)\nmade.reacquire(lease)"),
         "Somebody has the disk that the guest gave up while it stood still: it may not go on.",
         "lockplugins.sanlock.plugin"),
    Case(112, program(REGISTERED + "made.release(lease)\n"
         "try: made.on_readable(0)\nexcept LockError: made.reacquire(lease)"),
         "The daemon has ended while the guest stood still: another would not know the guest."),
    Case(112, plugin(lambda made, _: made.on_readable(0)),
         "The daemon that knew which process has the leases is gone: the guest is ended."),
    Case(110, awaited_twice,
         "A guest has one destination at a time: end the other one."),
    Case(110, program(ENDS + AWAITED + "target.complete_in(NONCE, told)"),
         "Complete the migration when the source's QEMU says `postmigrate`.",
         "lockplugins.sanlock.handover"),
    Case(111, program(ENDS + AWAITED + "target.complete_in(NONCE[::-1], told)"),
         "The source has cancelled that attempt, perhaps to begin another one, with another "
         "cookie; or another destination has taken it.", "lockplugins.sanlock.handover"),
    Case(2, program(ENDS + AWAITED + 'target.complete_in(NONCE, "")'),
         "The cookie is another guest's, or the destination was started with other disks.",
         "lockplugins.sanlock.handover"),
    Case(111, program(ENDS + "step.withdraw()\nsource.hand_over()"),
         "Somebody has removed the file by which both ends agree, or the destination's guest was "
         "run too early. Nobody can tell whose the guest is: end both, and start it anew.",
         "lockplugins.sanlock.leaving"),
    Case(111, program(ENDS + "source.hand_over()\nstep.take(decision.HANDED)\n"
         "step.let_go()\nsource.take_back()"),
         "The destination has had the disks, or was about to: the source's memory is not what they "
         "belong to any more.", "lockplugins.sanlock.leaving"),
    Case(110, program(ENDS + AWAITED + "source.hand_over()\nsource.take_back()"),
         "`complete-in --cancel` at the destination first. If its host is dead, it takes as long "
         "as the line says.", "lockplugins.sanlock.leaving"),

)  # fmt: skip
