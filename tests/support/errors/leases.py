"""Why is a lease not acquired? It is held elsewhere, its disk is unusable, or nobody can tell."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lockplugins.contract import Mode, Plugin, Resource, ResourceType
from lockplugins.file.plugin import FilePlugin
from lockplugins.kernel_locks.lockfile import LockFile
from tests.support.errors.world import NOBODY, Case, Said, raised, run
from tests.support.locking import READ, WRITE, CopyingCarrier, Locker
from tests.support.loop import loop_device, second_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.errors.world import Provoke, World

# A stranger with a name: it locks byte 0 of its argument, says so, and keeps it.
_BACKUP = f"""#!/usr/bin/python3
import fcntl, os, struct, sys
fd, kind = os.open(sys.argv[2], os.O_RDWR), {{"read": {READ}, "write": {WRITE}}}[sys.argv[1]]
fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, 0, 1, 0))
os.write(1, b"locked")
os.read(0, 1)
"""


@contextmanager
def stranger(disk: str, how: str = "write") -> Iterator[None]:
    """Have a program called backup hold the disk's lock, beside which it stands."""
    program = Path(disk).with_name("backup")
    program.write_text(_BACKUP)
    program.chmod(0o755)
    pipe = subprocess.PIPE
    with subprocess.Popen([program, how, disk], stdin=pipe, stdout=pipe) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.read(6) == b"locked"
        yield
        running.stdin.close()


def held_by_a_guest(world: World) -> Said:
    world.guest(world.disk)
    return world.says("run", "--disk", "disk.raw", "true")


def held_by_a_stranger(world: World) -> Said:
    with stranger(world.disk):
        return world.says("run", "--disk", "disk.raw", "true")


def still_held_after_a_wait(world: World) -> Said:
    world.guest(world.disk)
    return world.says("run", "--name", "web2", "--wait", "0.2", "--disk", "disk.raw", "true")


def not_free_in_time(world: World) -> Said:
    """A lock manager that does not answer, nor names a holder."""
    gates = world.path("gates")
    os.mkdir(gates)
    os.mkfifo(f"{gates}/acquire")
    where = "tests.support.gate_plugin:GatePlugin"
    fields = {"classes": {"gate": where}, "config": {"gate": {"directory": gates}}}
    return world.refused(world.disk, name="web2", plugin="gate", wait_s=0.2, **fields)


def by_nobody(*words: str) -> Provoke:
    """Provoke as an ordinary user, to whom the disk is read-only."""

    def provoke(world: World) -> Said:
        top = world.checkout()
        environment = {"LOCK_SUPERVISOR_RUNTIME_DIR": None, "XDG_RUNTIME_DIR": world.directory}
        os.chmod(world.directory, 0o777)  # noqa: S103  # the user's own runtime directory is there
        return world.says(
            *words, program=(f"{top}/bin/lock-supervisor",), env=environment, **NOBODY
        )

    return provoke


def asked_by_nobody(world: World) -> Said:
    os.chmod(world.disk, 0o600)
    return by_nobody("who", "disk.raw")(world)


def configured(text: str, *words: str) -> Provoke:
    """Provoke with a configuration of the plugin file."""

    def provoke(world: World) -> Said:
        file = world.write("config.toml", f"[file]\n{text}\n")
        return world.says(*words[:1], "--config", file, *words[1:])

    return provoke


def a_lock_file_that_is_none(world: World) -> Said:
    from lockplugins.file.names import lock_file

    locks = world.path("locks")
    place = lock_file(world.disk, {"file_lockspace_dir": locks}, is_block=False)
    assert place is not None
    os.mkdir(locks)
    os.mkfifo("/".join(place))
    return configured(f'file_lockspace_dir = "{locks}"', "run", "--disk", "disk.raw", "true")(world)


def plugin(call: Callable[[FilePlugin, str], object], **config: str) -> Provoke:
    """Provoke by a call of the plugin itself."""

    def provoke(world: World) -> Said:
        carrier = CopyingCarrier()
        world.stack.callback(carrier.close)
        return raised(lambda: call(FilePlugin(config, carrier), world.disk))

    return provoke


def released_twice(made: FilePlugin, disk: str) -> None:
    (lease,) = made.acquire([Resource(disk)], None)
    made.release(lease)
    made.release(lease)


def released_from_under_sharers(made: FilePlugin, disk: str) -> None:
    (writer,) = made.acquire([Resource(disk)], None)
    made.acquire([Resource(disk, Mode.SHARED)], None)
    with Locker(disk, byte=2):
        made.release(writer)


def locked_without_write_access(world: World) -> Said:
    """The kernel's EBADF stands for what a filesystem without locks says."""
    file = LockFile(os.open(world.disk, os.O_RDONLY), os.O_RDONLY, f"disk {world.disk}")
    world.stack.callback(file.close)
    return raised(lambda: file.lock(Mode.EXCLUSIVE))


def device(provoke: Callable[[World, str], Said]) -> Provoke:
    """Provoke with a block device of the world's own."""

    def with_device(world: World) -> Said:
        with loop_device(world.path("loop.img")) as made:
            return provoke(world, made)

    return with_device


def a_lease_that_is_a_device(world: World, made: str) -> Said:
    os.mkdir(world.path("prod"))
    second_node(made, world.path("prod/web1"))
    return world.says("run", "--lease", f"prod:web1:{world.directory}", "true")


def no_kernel_node(world: World, made: str) -> Said:
    node = second_node(made, world.path("disk"))
    program = world.after("mount -t tmpfs none /dev", "unshare", "-m")
    return world.says("run", "--disk", node, "true", program=program, stdin=None)


def a_private_dev(world: World, made: str) -> Said:
    device = os.stat(made).st_rdev
    copied = f"mknod {made} b {os.major(device)} {os.minor(device)}"
    program = world.after(f"mount -t tmpfs none /dev && {copied}", "unshare", "-m")
    return world.says("run", "--disk", made, "true", program=program, stdin=None)


def lvs(script: str) -> Callable[[World, str], Said]:
    """Provoke with a tool `lvs` that behaves like this."""

    def provoke(world: World, made: str) -> Said:
        world.write("bin/lvs", f"#!/bin/sh\n{script}\n", 0o755)
        file = world.write("config.toml", f'[file]\nlvm_lockspace_dir = "{world.path("lvm")}"\n')
        path = f"{world.path('bin')}:{os.environ['PATH']}"
        words = ("run", "--config", file, "--disk", made, "/bin/true")
        return world.says(*words, env={"PATH": path})

    return provoke


def no_scsi_id(world: World, made: str) -> Said:
    file = world.write("config.toml", f'[file]\nscsi_lockspace_dir = "{world.path("scsi")}"\n')
    hide = "{ [ ! -e /lib/udev ] || mount -t tmpfs none /lib/udev; }"
    program = world.after(hide, "unshare", "-m")
    return world.says("run", "--config", file, "--disk", made, "true", program=program)


def replaced_again_and_again(world: World, made: str) -> Said:
    node, number = second_node(made, world.path("disk")), os.stat(made).st_rdev
    replace = f"mknod $0.new b {os.major(number)} {os.minor(number)}; mv $0.new {node}; exit 5"
    return lvs(replace)(world, node)


def a_volume_that_lvs_does_not_name(world: World, made: str) -> Said:
    world.write("bin/lvs", "#!/bin/sh\nexit 5\n", 0o755)
    file = world.write("config.toml", f'[file]\nlvm_lockspace_dir = "{world.path("lvm")}"\n')
    name = os.path.basename(made)
    books = f"/sys/block/{name}"
    script = (
        f"mount -t tmpfs none {books}/. && mkdir {books}/dm && printf LVM-x >{books}/dm/uuid && "
        f"echo DEVNAME={name} >{books}/uevent"
    )
    words = ("run", "--config", file, "--disk", made, "/bin/true")
    path = f"{world.path('bin')}:{os.environ['PATH']}"
    program = world.after(script, "unshare", "-m")
    return world.says(*words, program=program, env={"PATH": path})


LOCKS = 'file_lockspace_dir = "/proc/locks"'
CASES = (
    Case(110, held_by_a_guest,
         "Another guest of ours uses the disk. `status web1` shows it; `stop web1` ends it. "
         "Never delete the lock, never start QEMU without us instead.",
         "lockplugins.kernel_locks.books"),
    Case(110, held_by_a_stranger,
         "Another program holds the lock: its pid and command are named. virtlockd means a guest "
         "of libvirt (`virsh list`)."),
    Case(110, still_held_after_a_wait,
         "Waited in vain for the guest that is named."),
    Case(110, not_free_in_time,
         "Waited in vain, and the lock manager names nobody: it may be slow, or gone."),
    Case(111, run("--disk", "missing.raw", "true"),
         "A misspelt path, or a filesystem that is not mounted. Mount it before you create "
         "anything.", "lockplugins.file.names:_find"),
    Case(111, run("--disk", ".", "true"),
         "A directory was named, or a directory was mounted over the disk.",
         "lockplugins.file.names:_find"),
    Case(111, by_nobody("run", "--disk", "disk.raw", "true"),
         "We may not write to the disk. Run as its owner or root, or lease it shared: `--disk "
         "PATH,shared`."),
    Case(111, locked_without_write_access,
         "The filesystem does not support the kernel's locks, or its server does not answer. "
         "`doctor --disk PATH` tells."),
    Case(111, configured(LOCKS, "run", "--disk", "disk.raw", "true"),
         "The configured lockspace directory is missing, not mounted, or no directory.",
         "lockplugins.kernel_locks.lockfile"),
    Case(111, a_lock_file_that_is_none,
         "Somebody put something else where the lock file belongs."),
    Case(2, run("--lease", "web1", "true"),
         "LOCKSPACE and KEY are both needed, separated by a colon."),
    Case(111, run("--lease", "prod:web1:/srv:512", "true"),
         "Only sanlock's leases have offsets."),
    Case(111, run("--lease", "..:web1:/srv", "true"),
         "Names with `/`, `.` and `..` could lead out of the lockspace."),
    Case(111, run("--lease", "prod:web1", "true"),
         "The plugin `file` has to be told the directory of the lockspace."),
    Case(111, device(a_lease_that_is_a_device),
         "An explicit lease is an ordinary file."),
    Case(111, device(no_kernel_node),
         "Another device node could get past the lease. In a container, /dev must have the "
         "host's nodes."),
    Case(111, device(a_private_dev),
         "libvirt gives every QEMU a `/dev` of its own, as containers have it: see libvirt.md. On "
         "the host itself it has to be a devtmpfs."),
    Case(111, device(lvs("kill -9 $$")),
         "The tool that names LVM volumes was killed: look for the OOM killer in `dmesg`."),
    Case(111, device(lvs("printf ../../etc/passwd")),
         "The tool answered nonsense. Run it by hand."),
    Case(111, device(no_scsi_id),
         "The tool that libvirt too asks for SCSI identities is not installed."),
    Case(111, device(replaced_again_and_again),
         "A program keeps renaming files over the disk or its lock file: a backup or image tool."),
    Case(111, device(a_volume_that_lvs_does_not_name),
         "LVM's metadata is unreadable at the moment, and another host would choose another "
         "lock."),
    Case(111, plugin(lambda made, disk: made.acquire([Resource(disk,
         resource_type=ResourceType.VM)], None)),
         "The plugin `file` leases files, not virtual machines."),
    Case(111, plugin(lambda made, disk: made.inquire(Resource(disk)),
         file_lockspace_dir="/proc/locks"),
         "The lock file's directory cannot be looked into, so nobody can tell. Ask as root, or "
         "look at the directory.", "lockplugins.kernel_locks.books:open_lock_file"),
    Case(111, plugin(lambda made, disk: Plugin({}, made.carrier).inquire(Resource(disk))),
         "Somebody's plugin cannot say who holds a lease. Ask its lock manager."),
    Case(111, asked_by_nobody,
         "We may not open the disk, so locks that other hosts hold cannot be seen.",
         "lockplugins.kernel_locks.books:_of_lease"),
    Case(111, plugin(released_twice),
         "The lease was released before. Seen by programs that use the plugin.",
         "lockplugins.file.plugin"),
    Case(111, plugin(released_from_under_sharers),
         "Somebody took the sharers' lock (byte 2) of this disk. The lease stays exclusive."),
)  # fmt: skip
