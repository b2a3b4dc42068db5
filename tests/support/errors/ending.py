"""Why is a guest not found, not looked at, or not proven gone?"""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

from supervisor import client, ending, finding
from tests.support.errors.starting import waiting_for_the_disk
from tests.support.errors.world import NOBODY, UUID, Case, Said, command, raised
from tests.support.scripted import Control, Directory, answering, child_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.errors.world import Provoke, World
    from tests.support.scripted import Connection

ANOTHER_USER = 64055  # libvirt-qemu
OTHER_UUID = "5f2c1d3e-0000-4000-8000-00000000000b"


def ambiguous(world: World) -> Said:
    for uuid in (UUID, OTHER_UUID):
        world.guards.run(name="web1", uuid=uuid, plugin="nop")
    return world.says("child", "web1")


def acquiring(world: World) -> Said:
    with waiting_for_the_disk(world):
        return world.says("child", "web1")


def guard_says(talk: Callable[[Connection], None], *words: str) -> Provoke:
    """Provoke by a command to a guard that says what no guard of ours does."""

    def provoke(world: World) -> Said:
        with Directory(world.guards.runtime_dir) as directory, Control(directory.path, talk):
            return world.says(*words)

    return provoke


def saying(*answers: bytes) -> Callable[[Connection], None]:
    """Return a guard that hears the first command, says this, and waits for the client to go."""

    def talk(connection: Connection) -> None:
        connection.hear()
        for answer in answers:
            connection.say_raw(answer)
        while connection.hear() is not None:
            pass

    return talk


def hung_up(_world: World) -> Said:
    ours, guards = socket.socketpair()
    guards.close()
    with ours:
        return raised(lambda: client.Client(ours, UUID))


def gone_in_between(_world: World) -> Said:
    ours, guards = socket.socketpair()
    with client.Client(ours, UUID) as guard:
        guards.recv(100)
        guards.close()
        return raised(lambda: guard.receive(None))


def reset(_world: World) -> Said:
    ours, guards = socket.socketpair()
    with client.Client(ours, UUID) as guard:
        guards.close()
        return raised(lambda: guard.receive(None))


def just_ended(world: World) -> Said:
    with Directory(world.guards.runtime_dir) as directory:

        def die(_connection: Connection) -> None:
            directory.die()

        with Control(directory.path, die):
            return world.says("status", "web1")


def no_control_pipe(world: World) -> Said:
    with Directory(world.guards.runtime_dir) as directory:
        with Control(directory.path, lambda _: None):
            pass
        return world.says("stop", "web1")


def a_guard_that_does_not_say_who_it_is(world: World) -> Said:
    with Directory(world.guards.runtime_dir, {"supervisor_pid": None}):
        return world.says("kill", "web1")


def somebody_elses(world: World) -> Said:
    with Directory(world.guards.runtime_dir):
        top = world.checkout()
        for path in (world.guards.runtime_dir, f"{world.guards.runtime_dir}/{UUID}"):
            os.chmod(path, 0o755)  # noqa: S103  # it may be looked at
        os.chmod(f"{world.guards.runtime_dir}/{UUID}/guest.json", 0o644)
        return world.says("kill", "web1", program=(f"{top}/bin/lock-supervisor",), **NOBODY)


def a_strangers_process(world: World) -> Said:
    """What another user has written names a process of ours."""
    with subprocess.Popen(["/bin/sleep", "1000"]) as ours:
        world.stack.callback(ours.kill)
        fields = child_of(ours.pid) | {"supervisor_pid": None}
        with Directory(world.guards.runtime_dir, fields, guarded=False):
            os.chown(world.guards.runtime_dir, ANOTHER_USER, ANOTHER_USER)
            found = world.says("kill", "web1")
        ours.kill()
    return found


def still_there(world: World) -> Said:
    """A process that carries the leases, and does not go away."""
    ours, carriers = socket.socketpair()
    with (
        ours,
        carriers,
        subprocess.Popen(["/bin/sleep", "1000"], pass_fds=[carriers.fileno()]) as s,
    ):
        world.stack.callback(s.kill)
        inode = os.fstat(carriers.fileno()).st_ino
        carriers.close()
        fields: dict[str, object] = {"supervisor_pid": 4, "carrier_inode": inode}
        with Directory(world.guards.runtime_dir, fields, guarded=False) as directory:
            guest = finding.Guest(directory.path, guarded=False)
            found = raised(lambda: ending.revoke(guest, 0.05))
        s.kill()
    return found


def full(world: World) -> Said:
    with open("/dev/full", "wb") as device:
        return world.says("list", stdout=device)


def closed(world: World) -> Said:
    return world.says("list", program=("sh", "-c", 'exec "$@" >&-', "sh", *world.program))


def a_file_as_runtime_directory(world: World) -> Said:
    return world.says("list", "--runtime-dir", world.disk)


CASES = (
    Case(1, command("status", "web1"),
         "A misspelt name, a guest that has ended, or one of another user (each has a runtime "
         "directory of its own)."),
    Case(2, ambiguous,
         "Two guests have the name, or two uuids begin so. Give one uuid whole."),
    Case(111, acquiring,
         "It waits for its leases. `stop` ends the waiting."),
    Case(1, just_ended,
         "Between the question and the answer the guest ended. Nothing is left to do."),
    Case(111, no_control_pipe,
         "The control pipe is there, its supervisor does not listen: it is ending, or stuck.",
         "supervisor.client:connect"),
    Case(111, guard_says(saying(b"HELLO\r\n"), "child", "web1"),
         "What answers there is no supervisor of ours."),
    Case(111, guard_says(saying(b"[]\r\n"), "child", "web1"),
         "The same."),
    Case(111, guard_says(saying(), "child", "web1"),
         "The supervisor is stopped (SIGSTOP), frozen or out of memory: `ps` shows its state. "
         "Guest and leases are safe."),
    Case(111, gone_in_between,
         "The supervisor is ending, or served too many clients.",
         "supervisor.client:Client._fill"),
    Case(111, hung_up,
         "The same, while it was asked.", "supervisor.client:Client._send"),
    Case(111, reset,
         "The same, while it answered.", "supervisor.client:Client._fill"),
    Case(111, guard_says(answering(lambda c, command: c.answer(command, [])), "child", "web1"),
         "The supervisor is of another version."),
    Case(111, guard_says(answering(lambda c, _: c.say({"error": {"desc": "no"}})), "child",
         "web1"),
         "A refusal in the supervisor's own words; it is of another version.",
         "supervisor.client:_error_of"),
    Case(111, a_guard_that_does_not_say_who_it_is,
         "guest.json is damaged or still being written."),
    Case(111, somebody_elses,
         "It is another user's guest."),
    Case(111, a_strangers_process,
         "Another user could have written that, so that root ends the process for him. If it "
         "really is the guest, end it by its pid."),
    Case(111, still_there,
         "The guest cannot be killed: it waits for storage that does not answer. Mend the "
         "storage, or reboot the host. Its leases stay held, and nobody else may start it."),
    Case(111, full,
         "The disk that our output goes to is full."),
    Case(111, closed,
         "Started with standard output closed (`>&-`)."),
    Case(111, a_file_as_runtime_directory,
         "`--runtime-dir` names a file."),
)  # fmt: skip
