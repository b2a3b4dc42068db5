"""Why is a disk not attached to a running guest, or not detached from it?"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from supervisor.guard.carrier import Carrier
from supervisor.guard.descriptors import Shelf
from tests.support import waiting
from tests.support.errors.world import Case, Said, raised, wired
from tests.support.qemu import idle_argv
from tests.support.scripted import Control, Directory, hanging_up

if TYPE_CHECKING:
    from tests.support.errors.world import Provoke, World

DEADLINE_S = 30.0
# A QEMU that closes what it does not know, its monitor too.
_CARELESS = (
    "#!/usr/bin/python3\nimport os\nos.closerange(3, 300)\nos.execv('/bin/sleep', ['s', '1000'])\n"
)


def guest(*words: str, **fields: object) -> Provoke:
    """Provoke by a command about a running guest with one disk."""

    def provoke(world: World) -> Said:
        world.guest(world.disk, **fields)
        world.write("data.raw", bytes(1 << 16))
        return world.says(*words)

    return provoke


def asked(execute: str, **arguments: object) -> Provoke:
    """Provoke by a command on the control pipe of a running guest."""

    def provoke(world: World) -> Said:
        return wired(world.guest(world.disk), execute, **arguments)

    return provoke


def open_in_qemu(world: World) -> Said:
    world.guest(world.disk, command=idle_argv(world.disk))
    return world.says("detach", "web1", world.disk)


def monitor_closed(world: World) -> Said:
    program = world.write("qemu-kvm", _CARELESS, 0o755)
    guard = world.guest(world.disk, command=[program])
    comm = f"/proc/{guard.child_pid}/comm"
    waiting.until(lambda: _read(comm) == "sleep\n", DEADLINE_S, "it has closed its monitor")
    return world.says("detach", "web1", world.disk)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def not_running_yet(world: World) -> Said:
    ours, guards = socket.socketpair()
    with ours, guards:
        spec = world.guards.spec(name="web1", plugin="file", handshake_fd=guards.fileno())
        guard = world.guards.start(spec, pass_fds=[guards.fileno()])
        assert ours.recv(100) == b"ACQUIRED\n"
        found = wired(guard, "acquire-resource", path=world.disk)
        ours.sendall(b"GO\n")
        guard.ready()
    return found


def too_many(world: World) -> Said:
    disks = [world.write(f"disks/{number}", "") for number in range(257)]
    return world.refused(*disks)


def no_descriptors(world: World) -> Said:
    """A carrier whose other end is not there any more stands for a kernel that has no room."""
    carrier = Carrier(Shelf([]))
    for end in (carrier._sender, carrier._receiver):
        world.stack.callback(end.close)
    return raised(lambda: carrier.keep("file:12", 987654))


def faulty(world: World) -> Said:
    where = "tests.support.errors.faulty_plugin:FaultyPlugin"
    guard = world.guest(plugin="faulty", classes={"faulty": where})
    return wired(guard, "acquire-resource", path=world.disk)


def silent_guard(world: World) -> Said:
    """The guard is told to acquire, and gone before it answers."""
    with Directory(world.guards.runtime_dir) as directory, Control(directory.path, hanging_up):
        return world.says("attach", "web1", world.disk)


CASES = (
    Case(111, guest("attach", "web1", "disk.raw"),
         "It was attached before, or at the start. Go on with `blockdev-add`."),
    Case(111, guest("attach", "web1", "data.raw", plugin="nop"),
         "The plugin that the guest was started with holds nothing, so nothing can be attached "
         "under it."),
    Case(1, guest("detach", "web1", "data.raw"),
         "It was detached before, or never attached, or under another spelling of its path: "
         "`status` lists them."),
    Case(111, open_in_qemu,
         "`device_del`, wait for DEVICE_DELETED, `blockdev-del`, then detach."),
    Case(111, monitor_closed,
         "QEMU hangs, perhaps on its storage. The lease stays held, which is safe. `status` "
         "tells more."),
    Case(111, not_running_yet,
         "The launcher has not said GO yet, or the guest is ending."),
    Case(111, too_many,
         "A guest carries 256 lock files at most. Detach what is not needed."),
    Case(111, no_descriptors,
         "The kernel took no more descriptors. Raise RLIMIT_NOFILE of the supervisor."),
    Case(111, silent_guard,
         "The supervisor ended while it was asked. If it lives, `status` shows what it holds."),
    Case(111, faulty,
         "A bug in the plugin. Whether the lease is held cannot be told: see `status`, and "
         "report the line."),
    Case(2, asked("acquire-resource", path="/srv/data.raw", mode="write"),
         "For programs: exclusive or shared."),
    Case(2, asked("acquire-resource", path="/srv/data.raw", identity=17),
         "For programs: an identity is text, as `id=` of `--disk`."),
    Case(2, asked("acquire-resource", path="data.raw"),
         "For programs: an absolute path is needed, as the guard has another working directory."),
    Case(111, asked("acquire-resource", path="/srv/data.raw", type="vm"),
         "For programs: a guest has the lease on itself from its start to its end."),
    Case(111, asked("acquire-resource", path="prod:web1:/srv", type="lease", mode="shared"),
         "For programs: leave out the mode."),
)  # fmt: skip
