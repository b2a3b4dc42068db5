"""What does the guard say that is called by hand, whose host fails it, or whose lease is lost?"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.guard.deadline import KernelTimer
from supervisor.spec import render
from tests.support import expiring, waiting
from tests.support.errors.configuration import GUEST, guard
from tests.support.errors.starting import NO_DISKS
from tests.support.errors.world import UUID, Case, Said, raised, said
from tests.support.guard import DEADLINE_S
from tests.support.launcher import Launcher
from tests.support.registrar import RegistryDaemon
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from tests.support.errors.world import Provoke, World


_LONELY = 54321  # from here on, users without any process


def bare(*words: str) -> Provoke:
    """Provoke by a guard with these arguments alone."""
    return lambda world: world.guard_says(*words)


def on_a_filesystem(options: str, *, filler: int) -> Provoke:
    """Provoke by a runtime directory on a filesystem like this, `filler` bytes of it in use."""

    def provoke(world: World) -> Said:
        path = world.path("tmpfs")
        mount = f"mkdir {path} && mount -t tmpfs -o {options} tmpfs {path}"
        script = f"{mount} && {{ head -c {filler} /dev/zero >{path}/filler || true; }}"
        words = (
            "run",
            "--runtime-dir",
            f"{path}/run",
            "--uuid",
            UUID,
            "--disk",
            "disk.raw",
            "true",
        )
        return world.says(*words, program=world.after(script, "unshare", "-m"))

    return provoke


def in_somebodys_directory(world: World) -> Said:
    path = f"{world.guards.runtime_dir}/{UUID}"
    os.makedirs(path)
    os.chmod(path, 0o777)  # noqa: S103  # what it is about
    return world.says("run", "--uuid", UUID, "--disk", "disk.raw", "true")


def on_a_file(world: World) -> Said:
    return world.says("run", "--runtime-dir", world.disk, "--uuid", UUID, *NO_DISKS, "true")


def no_pidfile(world: World) -> Said:
    program = world.write("qemu-kvm", "#!/bin/sh\nexec sleep 1000\n", 0o755)
    words = ("--containment", "pidns", "--", program, "-pidfile", "missing/pid")
    return world.says("run", *words)


def that_expires(world: World, term_s: str) -> dict[str, object]:
    """Return the fields of a guest whose lock manager proves its leases for `term_s`."""
    directory = world.path("manager")
    os.mkdir(directory)
    os.mkfifo(f"{directory}/notice")
    os.mkfifo(f"{directory}/never")
    world.write("manager/how", expiring.WELL)
    return {
        "plugin": "expiring",
        "classes": {"expiring": "tests.support.expiring:ExpiringPlugin"},
        "config": {"expiring": {"directory": directory, "term_s": term_s, "every_s": "0.05"}},
    }


def old_proof(world: World) -> Said:
    return world.refused(world.disk, name="web1", **that_expires(world, "0.5"))


def expiring_lease(how: str) -> Provoke:
    """Provoke by a lock manager whose leases expire, and which behaves like this."""

    def provoke(world: World) -> Said:
        made = world.guest(world.disk, **that_expires(world, "60"))
        world.write("manager/new", how)
        os.rename(world.path("manager/new"), world.path("manager/how"))
        if how == expiring.STUCK:
            signal.pidfd_send_signal(made.child_pidfd, signal.SIGKILL)
        ended = made.wait()
        return said(ended.code, ended.stderr)

    return provoke


def faulty(world: World) -> Said:
    where = "tests.support.errors.faulty_plugin:FaultyPlugin"
    return world.refused(world.disk, name="web1", plugin="faulty", classes={"faulty": where})


def failing_to_register(world: World) -> Said:
    with RegistryDaemon(Path(world.directory)) as daemon:
        daemon.fault()
        return world.refused(world.disk, name="web1", **daemon.fields())


def upgraded_meanwhile(world: World) -> Said:
    """The package is gone from under the running guard when the first client comes."""
    top = world.checkout(without="supervisor/qmp/server.py")
    guard = world.guards.start(
        world.guards.spec(name="web1", plugin="nop"),
        argv_of=lambda spec: [word.replace(CHECKOUT, top) for word in render(spec)],
    ).ready()
    world.command.start("status", "web1")
    stderr = waiting.until(guard.stderr, DEADLINE_S, "it says what it cannot load")
    return said(0, stderr.splitlines(keepends=True)[0])


def unable_to_fork(processes: int) -> Provoke:
    """Provoke as a user who may have so many processes, and has none yet."""

    def provoke(world: World) -> Said:
        top = world.checkout()
        os.chmod(world.directory, 0o777)  # noqa: S103  # the user's runtime directory is made there
        limit = Launcher(limits={"RLIMIT_NPROC": (processes, processes)}, user=_LONELY + processes)
        program = (*limit.prefix(), f"{top}/bin/lock-supervisor")
        return world.says("run", "--name", "web1", *NO_DISKS, "sleep", "1000", program=program)

    return provoke


def broken_plugin(world: World) -> Said:
    world.write("mine.py", "LOCKS = 1 / 0\n")
    return world.guard_says(
        *GUEST, f"import={world.directory}", "plugin=mine", "class=mine=mine:Plugin", "--", "true"
    )


def in_a_namespace(script: str) -> Provoke:
    """Provoke by what needs a PID namespace, in a user namespace of its own after this script."""

    def provoke(world: World) -> Said:
        words = ("run", "--name", "web1", "--containment", "pidns", *NO_DISKS, "true")
        return world.says(*words, program=world.after(script, "unshare", "-U", "-r"))

    return provoke


def namespace_that_ends(world: World) -> Said:
    words = ("run", "--name", "web1", "--containment", "pidns", *NO_DISKS, "true")
    return world.failing("prctl:error=EPERM", *words)


def claimed_by_many(world: World) -> Said:
    """Whoever removes the directory of a dead guard is faster, every time."""
    os.mkdir(world.guards.runtime_dir)
    path = f"{world.guards.runtime_dir}/{UUID}"
    words = ("run", "--uuid", UUID, *NO_DISKS, "true")
    return world.failing("mkdir:error=ENOENT", *words, path=path)


def no_timer(_world: World) -> Said:
    return raised(lambda: KernelTimer().arm(-1.0))


CASES = (
    Case(2, bare("name=web1"),
         "The guard was started by hand, without `--` before COMMAND."),
    Case(2, bare("name=web1", "--"),
         "The guard was started by hand, without COMMAND."),
    Case(2, bare("nmae=web1", "--", "true"),
         "A misspelt key."),
    Case(2, bare("name=web1", "--", "true"),
         "The keys name, uuid and runtime_dir are needed."),
    Case(2, guard("identity=x"),
         "`identity=` belongs behind its `disk=`."),
    Case(2, guard("wait=soon"),
         "The value is no number of seconds."),
    Case(2, guard("ready_fd=x"),
         "The value is no number."),
    Case(2, guard("monitor=maybe"),
         "The value is not one of those that are allowed."),
    Case(111, guard("disk=exclusive:disk.raw"),
         "The guard has to be told whole paths; the command makes them whole.",
         "lockplugins.file.names"),
    Case(111, on_a_file,
         "Something on the way to the runtime directory is no directory."),
    Case(111, in_somebodys_directory,
         "Somebody else could replace what is in there. Find out who made it so."),
    Case(111, on_a_filesystem("nr_inodes=2", filler=0),
         "The filesystem of the runtime directory (/run, a tmpfs) is full. Nothing was started.",
         "supervisor.rundir:GuardDir.claim"),
    Case(111, on_a_filesystem("size=4k", filler=4096),
         "The same."),
    Case(111, on_a_filesystem("size=8k", filler=4096),
         "The same."),
    Case(111, on_a_filesystem("nr_inodes=7", filler=1),
         "The same."),
    Case(111, no_pidfile,
         "QEMU's `-pidfile` cannot be written. Under a PID namespace the supervisor writes it."),
    Case(111, in_a_namespace("echo 0 >/proc/sys/user/max_pid_namespaces"),
         "A container, or user.max_pid_namespaces = 0. Run outside, or without what needs a PID "
         "namespace (`-daemonize`, `-runas`)."),
    Case(111, namespace_that_ends,
         "The first process of the guest's PID namespace died: look at `dmesg`, and for limits "
         "of processes."),
    Case(111, claimed_by_many,
         "Some program keeps removing the guest's directory. Find it."),
    Case(111, unable_to_fork(1),
         "No process could be made: too many, or no memory. `ulimit -u`, and the cgroup's "
         "pids.max."),
    Case(111, unable_to_fork(2),
         "The same for a thread."),
    Case(125, faulty,
         "A bug, perhaps in a plugin. The guest was ended, its leases are free. Please report "
         "the line."),
    Case(112, expiring_lease(expiring.LOST),
         "The lock manager says that the lease is gone: somebody else may have the disk. The "
         "guest was killed before it could write on. Find out why before you start it again."),
    Case(111, old_proof,
         "The lock manager has not renewed for so long that the guest would be ended at once: "
         "look at its storage and its log."),
    Case(111, expiring_lease(expiring.STUCK),
         "The guest is dead. The lock manager does not answer, and will free the leases in its "
         "own time."),
    Case(125, failing_to_register,
         "A bug, perhaps in a plugin. Nothing runs. Please report the line."),
    Case(125, broken_plugin,
         "A bug, perhaps in a plugin that cannot be imported. Nothing runs."),
    Case(111, no_timer,
         "The kernel refused the timer that would end the guest in time, so it was not started."),
    Case(0, upgraded_meanwhile,
         "The guest runs on. The package was removed or upgraded from under it: `list` will show "
         "`unknown`. Restart the guest when you can."),
)  # fmt: skip
