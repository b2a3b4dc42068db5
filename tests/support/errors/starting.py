"""What can keep a guest from starting, its disks and their leases aside?"""

from __future__ import annotations

import glob
import os
import shutil
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from supervisor import finding
from tests.support.errors.world import NOBODY, QEMU, UUID, Case, Said, command, run, said
from tests.support.guard import descendants
from tests.support.launcher import Launcher
from tests.support.locking import Locker, until_waited_for
from tests.support.scripted import Directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command import Started
    from tests.support.errors.world import Provoke, World

DETACHED = ("--detach", "--log", "log")
NO_DISKS = ("--plugin", "nop", "--no-discover")


def told_on_ready_fd(world: World) -> Said:
    """Return what a launcher reads on --ready-fd when an option is wrong."""
    read_fd, write_fd = os.pipe()
    world.says("run", "--ready-fd", str(write_fd), "--wait", "soon", "true", pass_fds=[write_fd])
    os.close(write_fd)
    with open(read_fd, encoding="utf-8") as file:
        _error, code, line = file.readline().rstrip("\n").split(" ", 2)
    return Said(int(code), line)


def few_descriptors(world: World) -> Said:
    limit = Launcher(limits={"RLIMIT_NOFILE": (100, 100)})
    return world.says("run", *NO_DISKS, "true", program=(*limit.prefix(), *world.program))


def refused_a_namespace(world: World) -> Said:
    top = world.checkout()
    words = ["run", *NO_DISKS, "--", QEMU, "-machine", "none", "-runas", "nobody"]
    return world.says(*words, program=(f"{top}/bin/lock-supervisor",), **NOBODY)


def no_go(world: World) -> Said:
    ours, guards = socket.socketpair()
    with ours, guards:
        ours.sendall(b"NO\n")
        return world.says(
            "run", "--name", "web1", "--handshake-fd", str(guards.fileno()), *NO_DISKS, "true",
            pass_fds=[guards.fileno()],
        )  # fmt: skip


@contextmanager
def waiting_for_the_disk(world: World, *options: str) -> Iterator[Started]:
    """Have a command `run` wait for the disk, which a stranger holds meanwhile."""
    with Locker(world.disk):
        words = ("--name", "web1", "--wait", "inf", "--disk", "disk.raw", "sleep", "1000")
        started = world.command.start("run", *options, *words)
        until_waited_for(world.disk)
        yield started


def ended(started: Started) -> Said:
    result = started.end()
    return said(result.code, result.err)


def interrupted(*options: str) -> Provoke:
    def provoke(world: World) -> Said:
        with waiting_for_the_disk(world, *options) as waiter:
            waiter.process.send_signal(signal.SIGTERM)
            return ended(waiter)

    return provoke


def killed_while_it_waits(world: World) -> Said:
    with waiting_for_the_disk(world) as waiter:
        (child,) = descendants(waiter.process.pid)
        os.kill(child, signal.SIGKILL)
        return ended(waiter)


def detached_and_killed(world: World) -> Said:
    """Somebody kills the guard that was started, not the command that waits for it."""
    with waiting_for_the_disk(world, *DETACHED) as waiter:
        (guard,) = finding.guests(world.guards.runtime_dir)
        os.kill(int(str(guard.record["supervisor_pid"])), signal.SIGKILL)
        return ended(waiter)


def supervised_already(world: World) -> Said:
    world.guest(plugin="nop")
    return world.says("run", "--uuid", UUID, *NO_DISKS, "true")


def detached_by_a_user_without_a_home(world: World) -> Said:
    top = world.checkout()
    launcher = Launcher(env=[f"LOCK_SUPERVISOR_RUNTIME_DIR={world.path('run')}"], user=54320)
    program = (*launcher.prefix(), f"{top}/bin/lock-supervisor")
    return world.says("run", "--detach", *NO_DISKS, "/bin/true", program=program)


def completed_for_a_strange_shell(world: World) -> Said:
    return world.says(env={"_LOCK_SUPERVISOR_COMPLETE": "csh_source"})


def beside_lockd(world: World) -> Said:
    """As libvirt starts QEMU when its lock manager is lockd."""
    path = world.path("virtlockd-sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as connection:
        listener.bind(path)
        listener.listen()
        connection.connect(path)
        words = ("run", "--name", "web1", "--disk", "disk.raw", "true")
        return world.says(*words, pass_fds=[connection.fileno()])


def text_as_program(world: World) -> Said:
    world.write("guest.txt", "no program", 0o755)
    return world.says("run", *NO_DISKS, "./guest.txt")


def in_a_directory_that_is_gone(world: World) -> Said:
    program = world.after("mkdir gone && cd gone && rmdir ../gone")
    return world.says("list", "--runtime-dir", "run", program=program)


def without_a_boot_id(world: World) -> Said:
    with Directory(world.guards.runtime_dir):
        path = "/proc/sys/kernel/random/boot_id"
        return world.failing("openat:error=EIO", "kill", "web1", path=path)


def with_a_broken_plugin(world: World) -> Said:
    top = world.checkout()
    packages = os.path.dirname(glob.glob(f"{top}/.venv/lib/*/site-packages/prctl.py")[0])
    for name, text in (
        ("mine.py", "LOCKS = 1 / 0\n"),
        ("mine-1.dist-info/METADATA", "Name: mine\nVersion: 1\n"),
        ("mine-1.dist-info/entry_points.txt", "[lockplugins]\nmine = mine:Plugin\n"),
    ):
        world.write(f"{packages}/{name}", text)
    words = ("run", "--plugin", "mine", "--no-discover", "true")
    return world.says(*words, program=(f"{top}/bin/lock-supervisor",))


def without_prctl(world: World) -> Said:
    top = world.checkout(without=".venv/lib/*/site-packages/prctl.py")
    words = ["run", *NO_DISKS, "true"]
    return world.says(*words, program=(f"{top}/bin/lock-supervisor",))


def without_packages(world: World) -> Said:
    top = world.checkout()
    shutil.rmtree(f"{top}/.venv")
    return world.says("list", program=(f"{top}/bin/lock-supervisor",))


CASES = (
    Case(2, run(),
         "No command to run was given. Put the QEMU command line after `--`."),
    Case(2, run("--", "", "-hda", "disk.raw"),
         "COMMAND begins with an empty word: usually a shell variable that is not set."),
    Case(2, run("--naem", "web1", "true"),
         "A misspelt option. Nothing was started."),
    Case(2, command("frobnicate"),
         "A misspelt command."),
    Case(2, run("--wait", "soon", "true"),
         "An option's value is of the wrong kind; the line names option and value."),
    Case(2, command("list", "--runtime-dir", ""),
         "An option was given an empty value: usually a shell variable that is not set."),
    Case(2, told_on_ready_fd,
         "The same failure as a launcher reads it on `--ready-fd`, after `ERROR 2 `."),
    Case(2, run("--name", "x" * 65, *NO_DISKS, "true"),
         "Names are 1 to 64 bytes long. Without `--name` one is chosen that fits."),
    Case(2, run("--name", "web\n1", *NO_DISKS, "true"),
         "Somebody passed a newline or an escape sequence in a name."),
    Case(2, run("--uuid", "web1", *NO_DISKS, "true"),
         "Leave `--uuid` out for a random one, or copy it whole: 8-4-4-4-12 hexadecimal digits."),
    Case(2, run("true"),
         "COMMAND is a wrapper or no QEMU at all, so its disks cannot be found in its arguments."),
    Case(127, run("--name", "web1", *NO_DISKS, "qemu-kvm"),
         "COMMAND is not installed, or not on PATH. Its leases were held for a moment and are "
         "free again."),
    Case(126, text_as_program,
         "COMMAND was found, but the kernel cannot execute it: no `#!` line, the wrong "
         "architecture, or not executable."),
    Case(127, run("--", "./qemu-kvm", "-version"),
         "The same, for a QEMU that is only asked for help or its version: no lease is involved."),
    Case(125, run("--id", "x" * 131070, *NO_DISKS, "true"),
         "The arguments are too long for the kernel once ours are added. Shorten them.",
         "supervisor.cli.run:"),
    Case(125, run("--detach", "--id", "x" * 131070, *NO_DISKS, "true"),
         "The same with `--detach`.", "supervisor.cli.detaching:"),
    Case(2, run("--ready-fd", "987", "--", QEMU, "-version"),
         "The launcher named a descriptor that it did not pass on (`pass_fds`, `3>file`)."),
    Case(2, run("--detach", "--handshake-fd", "1", *NO_DISKS, "true"),
         "A detached guest has no standard input and output of the launcher's: the handshake "
         "needs a descriptor of its own."),
    Case(2, run("--log", "web1.log", *NO_DISKS, "true"),
         "Only a detached guest has a log. Otherwise redirect the output yourself."),
    Case(111, run("--detach", "--log", "missing/web1.log", *NO_DISKS, "true"),
         "Where a detached guest's output would go nothing can be written. Make the directory, "
         "or name another file."),
    Case(2, completed_for_a_strange_shell,
         "Written by the completion script of a shell that is not supported."),
    Case(2, beside_lockd,
         "libvirt locks this guest's disks itself (`lock_manager = \"lockd\"`) and would be "
         "refused by us. Choose one of the two."),
    Case(2, run("--ready-fd", "987", *NO_DISKS, "true"),
         "The launcher named a descriptor in `--ready-fd` or `--handshake-fd` that it did not "
         "pass on."),
    Case(2, run("--", QEMU, "-netdev", "tap,id=net0,fd=987"),
         "QEMU is told to use a descriptor that is not open here. Whoever started us did not "
         "pass it on."),
    Case(111, few_descriptors,
         "The hard limit of open files is too low for the supervisor (`ulimit -Hn`; LimitNOFILE= "
         "in systemd)."),
    Case(2, run("--containment", "pdeathsig", "--", QEMU, "-daemonize"),
         "With this option QEMU would survive its supervisor's death. A PID namespace holds it "
         "all the same."),
    Case(2, refused_a_namespace,
         "The same, and an ordinary user cannot make a PID namespace. Run as root, or leave the "
         "option out."),
    Case(111, no_go,
         "The launcher that wanted to be asked (`--handshake-fd`) answered something else, or "
         "died. Nothing runs."),
    Case(143, interrupted(),
         "A signal came while the leases were still being acquired or waited for. Nothing runs, "
         "nothing is held.", "supervisor.guard.supervise:"),
    Case(137, killed_while_it_waits,
         "Somebody killed the guest's process before QEMU ran in it: look for the OOM killer in "
         "`dmesg`."),
    Case(110, supervised_already,
         "This guest runs already: `status` with the uuid shows it. Do not remove the directory."),
    Case(2, in_a_directory_that_is_gone,
         "The directory that the command was started in has been deleted, so a relative path "
         "means nothing."),
    Case(111, without_a_boot_id,
         "The kernel refused something that always works. Look at the named file, `ulimit -a`, "
         "and whether /proc is mounted."),
    Case(125, with_a_broken_plugin,
         "A bug, here in an installed plugin. Nothing was started. Please report the line."),
    Case(111, without_prctl,
         "The installation is incomplete. In a checkout, `bin/setup` mends it."),
    Case(125, without_packages,
         "The checkout has not been set up."),
    Case(111, detached_by_a_user_without_a_home,
         "A detached guest of this user has no place for its log."),
    Case(143, interrupted(*DETACHED),
         "Whoever asked for a detached guest was interrupted before it ran. Its supervisor gave "
         "up too.", "supervisor.cli.detaching:"),
    Case(137, detached_and_killed,
         "Somebody sent SIGKILL to the supervisor of a detached guest before the guest ran: "
         "nothing runs, nothing is held."),
)  # fmt: skip
