"""Why is a guest not handed over to another host, or not taken over from one?"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

from lockplugins.contract import Resource
from supervisor.spec import render
from tests.support.ends import NONCE, OTHER_NONCE, End
from tests.support.errors.leases import stranger
from tests.support.errors.world import QEMU, UUID, Case, Said, command, raised, run, wired
from tests.support.guard import DEADLINE_S
from tests.support.locking import Locker
from tests.support.qemu import idle_argv
from tests.support.scripted import Control, Directory, hanging_up
from tests.support.sources import CHECKOUT
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.errors.world import Provoke, World
    from tests.support.guard import Guard

ATTEMPT = (1 << 60) + int(NONCE, 16)
AWAITED = ("-incoming", "defer")
PREPARE = ("migrate", "prepare", "web1", "--to", "tcp:host2:4444")
# A QEMU that refuses whatever it is asked on our monitor.
_REFUSING = """#!/usr/bin/python3
import json, re, socket, sys
told = open(sys.argv[sys.argv.index("-readconfig") + 1]).read()
monitor = socket.socket(fileno=int(re.search('fd = "([0-9]+)"', told)[1]))
monitor.sendall(b'{"QMP": {}}\\n')
for line in monitor.makefile():
    asked = json.loads(line)
    error = {"class": "GenericError", "desc": "there is no such capability"}
    answer = {"return": {}} if asked["execute"] == "qmp_capabilities" else {"error": error}
    monitor.sendall(json.dumps({**answer, "id": asked["id"]}).encode() + b"\\n")
"""


def ends(provoke: Callable[[End, End, Path], object]) -> Provoke:
    """Provoke by the plugins of a source and a destination, and a disk that both name."""

    def of_both(world: World) -> Said:
        source, target = End(), End()
        for end in (source, target):
            world.stack.callback(_bury, end)
        return raised(lambda: provoke(source, target, Path(world.disk)))

    return of_both


def _bury(end: End) -> None:
    if end.plugin._held:  # it has not died before
        end.die()


def attached_while_shared(_source: End, target: End, disk: Path) -> None:
    target.wait(disk)
    target.plugin.acquire([Resource(str(disk))], None)


def released_while_shared(_source: End, target: End, disk: Path) -> None:
    target.wait(disk)
    target.plugin.release(target.leases[0])


def prepared_while_shared(_source: End, target: End, disk: Path) -> None:
    target.wait(disk)
    target.side.prepare(NONCE)


def too_many_disks(source: End, _target: End, disk: Path) -> None:
    disks = [disk.with_name(f"disk{number}.raw") for number in range(150)]
    for each in disks:
        each.touch()
    source.own(*disks)
    source.side.prepare(NONCE)


def prepared_beside_a_lock(source: End, _target: End, disk: Path) -> None:
    source.own(disk)
    with Locker(disk, byte=ATTEMPT):
        source.side.prepare(NONCE)


def replaced_meanwhile(source: End, target: End, disk: Path) -> None:
    source.own(disk)
    target.wait(disk)
    told = source.side.prepare(NONCE)
    source.side.hand_over()
    disk.rename(disk.with_name("old.raw"))
    disk.touch()
    target.side.complete_in(NONCE, told)


def taken_back_from_an_owner(source: End, target: End, disk: Path) -> None:
    source.own(disk)
    target.wait(disk)
    told = source.side.prepare(NONCE)
    source.hand_over()
    target.complete_in(NONCE, told)
    target.die()
    assert source.lost.result(DEADLINE_S) is True
    source.side.take_back()


def taken_back_unheard(source: End, _target: End, disk: Path) -> None:
    source.own(disk)
    source.side.prepare(NONCE)
    source.side.hand_over()
    source.side.take_back()


def with_another_guests_cookie(source: End, target: End, disk: Path) -> None:
    other = disk.with_name("other.raw")
    other.touch()
    source.own(other)
    target.wait(disk)
    target.side.complete_in(NONCE, source.side.prepare(NONCE))


def beside_a_stranger(source: End, target: End, disk: Path) -> None:
    source.own(disk)
    target.wait(disk)
    told = source.side.prepare(OTHER_NONCE)
    source.side.hand_over()
    with stranger(str(disk), "read"):
        target.side.complete_in(NONCE, told)


def source(world: World) -> Guard:
    return world.guest(command=idle_argv())


def destination(world: World) -> Guard:
    return world.guest(command=idle_argv(extra=AWAITED), incoming=True)


def at(end: Callable[[World], Guard], *words: str) -> Provoke:
    """Provoke by a command about a guest at this end."""

    def provoke(world: World) -> Said:
        end(world)
        return world.says(*words)

    return provoke


def asked(end: Callable[[World], Guard], execute: str, **arguments: object) -> Provoke:
    """Provoke by a command on the control pipe of this end."""
    return lambda world: wired(end(world), execute, **arguments)


def one_after_the_other(world: World) -> Said:
    """QEMU stands still, so that the first command has no answer."""
    guard = source(world)
    signal.pidfd_send_signal(guard.child_pidfd, signal.SIGSTOP)
    with Wire(f"{guard.path}/control") as first, Wire(f"{guard.path}/control") as second:
        first.ask("prepare-migrate", {"uri": "tcp:host2:4444"})
        second.execute("query-child")
        try:
            second.execute("prepare-migrate", {"uri": "tcp:host2:4444"})
        except Refused as refused:
            return Said(int(refused.fields["exit_code"]), refused.desc)
    raise AssertionError("both are obeyed")


def without_a_monitor(world: World) -> Guard:
    return world.guest()


def without_migration(world: World) -> Guard:
    return world.guest(plugin="nop")


def faulty(world: World) -> Guard:
    where = "tests.support.errors.faulty_plugin:FaultyPlugin"
    return world.guest(command=idle_argv(), plugin="faulty", classes={"faulty": where})


def upgraded_meanwhile(world: World) -> Guard:
    top = world.checkout(without="supervisor/guard/migrating.py")
    spec = world.guards.spec(name="web1", plugin="nop")
    return world.guards.start(
        spec, argv_of=lambda spec: [word.replace(CHECKOUT, top) for word in render(spec)]
    ).ready()


def refusing_qemu(world: World) -> Said:
    program = world.write("qemu-kvm", _REFUSING, 0o755)
    return world.says("run", "--name", "web1", "--incoming", "--", program, *AWAITED, "-S")


def silent_guard(world: World) -> Said:
    with Directory(world.guards.runtime_dir) as directory, Control(directory.path, hanging_up):
        return world.says(*PREPARE)


def awaiting(*words: str) -> Provoke:
    return run("--name", "web1", "--incoming", *words)


COOKIE = f"lock-supervisor-1:{UUID}:file:{NONCE}:"
CASES = (
    Case(2, awaiting("--no-discover", "--", "true"),
         "Only QEMU can await a guest from another host."),
    Case(2, awaiting("--", QEMU, "-S"),
         "A destination's QEMU is started with `-incoming URI -S`: it waits, and does not run the "
         "guest before it is the owner of its disks."),
    Case(2, awaiting("--no-monitor", "--", QEMU, *AWAITED, "-S"),
         "We have to see when the guest runs."),
    Case(2, awaiting("--", QEMU, *AWAITED, "-S", "-daemonize"),
         "`run --detach` puts a destination into the background."),
    Case(111, refusing_qemu,
         "QEMU is too old, or is not waiting for a guest. It was ended; nothing is held."),
    Case(111, at(without_migration, *PREPARE),
         "The guest's plugin cannot hand leases over. Start the guest under one that can."),
    Case(111, at(without_a_monitor, *PREPARE),
         "It is no QEMU, or was started with `--no-monitor`. Start it again with its monitor."),
    Case(2, command("migrate", "complete-in", "web1"),
         "The destination needs the cookie that `migrate prepare` has printed on the source."),
    Case(111, at(source, "migrate", "complete-in", "web1", "--cookie", COOKIE),
         "The command belongs to the other end, or to another moment. `status` shows where the "
         "guest is."),
    Case(111, one_after_the_other,
         "Another command about the guest's migration is waiting for QEMU."),
    Case(2, at(destination, "migrate", "complete-in", "web1", "--cookie", "nonsense"),
         "Copy the cookie whole; quote it in a shell."),
    Case(111, at(destination, "migrate", "complete-in", "web1", "--cookie", COOKIE, "--timeout",
         "0"),
         "Complete the migration when the source's QEMU says `postmigrate`."),
    Case(111, silent_guard,
         "The supervisor ended while it was asked. If it lives, `status` shows what it holds; "
         "until then let neither end run."),
    Case(2, ends(with_another_guests_cookie),
         "The cookie is another guest's, or the destination was started with other disks.",
         "lockplugins.file.handover"),
    Case(110, ends(beside_a_stranger),
         "Somebody else holds the disk beside the source. The destination does not own it, and the "
         "guest may not run there."),
    Case(111, ends(replaced_meanwhile),
         "Somebody has put another file in the place of the disk."),
    Case(111, ends(prepared_while_shared),
         "The guest has arrived by a migration whose source is still there. End the source "
         "(`migrate complete-out`)."),
    Case(111, ends(taken_back_from_an_owner),
         "The guest has run, or may have run, at the destination, and this end's memory is older "
         "than its disks. It must not run here any more."),
    Case(111, ends(taken_back_unheard),
         "It takes a moment until it is known whether the destination has owned the disks."),
    Case(111, ends(attached_while_shared),
         "The same, for `attach`.", "lockplugins.file.attempt"),
    Case(111, ends(released_while_shared),
         "The same, for `detach`.", "lockplugins.file.plugin"),
    Case(111, ends(too_many_disks),
         "The cookie is one line of less than 4 KiB."),
    Case(110, ends(prepared_beside_a_lock),
         "Some program locks the whole of the file, and not our byte of it alone."),
    Case(111, asked(faulty, "prepare-migrate", uri="tcp:host2:4444"),
         "A bug in the plugin. Please report the line."),
    Case(111, asked(upgraded_meanwhile, "prepare-migrate", uri="tcp:host2:4444"),
         "The package was removed or upgraded from under the supervisor. The guest runs on, and "
         "cannot be migrated before it is started again."),
    Case(2, asked(source, "prepare-migrate", uri="a\nb"),
         "For programs: the URI is one line of text, for the record."),
    Case(2, asked(source, "complete-migrate-out", cancel="yes"),
         "For programs: true or false."),
    Case(2, asked(destination, "complete-migrate-in", cookie=COOKIE, timeout_s="soon"),
         "For programs: a number."),
)  # fmt: skip
