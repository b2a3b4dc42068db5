"""An example of a management daemon: starts guests, restarts under them, hot-plugs, migrates.

    python3 example-daemon.py DIRECTORY

DIRECTORY/UUID.json defines a guest: {"name": NAME, "argv": QEMU's command line}. Commands are lines
on standard input, each answered by a line: start, migrate, settle (what has failed to migrate) and
stop UUID; plug and unplug UUID PATH; restart, which puts another process in the daemon's place.

It remembers the uuids of its guests (DIRECTORY/guests/UUID), the rest it asks their supervisors: it
may be killed at any line. Two runtime directories play two hosts, between which a cookie would go.
"""

import json
import os
import socket
import sys
from contextlib import AbstractContextManager, suppress
from typing import Any

import lockplugins
from lockplugins.contract import LockError
from supervisor.finding import NoSuchGuestError
from supervisor.manager import LockManager, MigrateFlags, NewFlags, ObjectType, ResourceType

HOSTS = ("here", "there")
PLUGIN = lockplugins.load("file")
PROGRAM = os.path.abspath(__file__)


class Monitor(AbstractContextManager["Monitor"]):
    """A connection to a guest's QEMU; raises OSError for what QEMU refuses."""

    def __init__(self, uuid: str, host: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{host}/{uuid}.qmp")
            self._lines = connection.makefile("rw")
        self._events: list[Any] = []
        self._next()  # the greeting
        self("qmp_capabilities")

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def __call__(self, command: str, **arguments: str) -> None:
        words = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._lines.write(json.dumps({"execute": command, "arguments": words}))
        self._lines.flush()
        while "event" in (said := self._next()):
            self._events.append(said)
        if "error" in said:
            raise OSError(f"{command}: {said['error']['desc']}")

    def wait_for(self, event: str, field: str, *values: str) -> None:
        while True:
            said = self._events.pop(0) if self._events else self._next()
            if said.get("event") == event and said["data"].get(field) in values:
                return

    def _next(self) -> Any:
        if not (line := self._lines.readline()):
            raise EOFError("QEMU is gone")
        return json.loads(line)


def attached(uuid: str, host: str) -> LockManager:
    """Return the manager of a guest that runs, for which its uuid is enough."""
    manager = LockManager(PLUGIN, ObjectType.DOMAIN, NewFlags.ATTACH, runtime_dir=host)
    manager.set_parameter("uuid", uuid)
    return manager


def state(uuid: str, host: str) -> str:
    """Ask the guest's supervisor. What a killed daemon had acquired and not run goes by itself."""
    with suppress(NoSuchGuestError), attached(uuid, host) as manager:
        child = manager.get_child()
        if child.pidfd is not None:
            os.close(child.pidfd)
        return child.state
    return "gone"


def where(uuid: str) -> str:
    return next((host for host in HOSTS if state(uuid, host) == "running"), "nowhere")


def launch(uuid: str, host: str, flags: int = 0, *more: str) -> None:
    with open(f"{uuid}.json", encoding="utf-8") as file:
        guest = json.load(file)
    with LockManager(PLUGIN, ObjectType.DOMAIN, flags, runtime_dir=host) as manager:
        for key, value in {"uuid": uuid, "name": guest["name"], "log": f"{host}/log"}.items():
            manager.set_parameter(key, value)
        monitor = ["-qmp", f"unix:{host}/{uuid}.qmp,server=on,wait=off"]
        # Every lease is held and QEMU waits, or this raises and nothing has happened.
        manager.acquire_object([*guest["argv"], *monitor, *more])
        # Here, not before, disks are labelled and networks set up: the guest runs nowhere else.
        # Until run() it goes with this process; from then on it needs nobody.
        manager.run()


def start(uuid: str) -> None:
    # The uuid first: one without a guest is found out, a guest without one is not.
    with open(f"guests/{uuid}", "w", encoding="ascii"):
        launch(uuid, HOSTS[0])


def plug(uuid: str, path: str) -> None:
    host, name = where(uuid), os.path.basename(path)
    with attached(uuid, host) as manager, Monitor(uuid, host) as qemu:
        # Before blockdev-add: QEMU opens what it is told to, whoever else has it.
        manager.acquire_resource(ResourceType.DISK, path)
        qemu("blockdev-add", driver="file", node_name=name, filename=path)
        qemu("device_add", driver="virtio-blk-pci", id=name, drive=name)


def unplug(uuid: str, path: str) -> None:
    """Take a disk out, one that was plugged by half as well."""
    host, name = where(uuid), os.path.basename(path)
    with attached(uuid, host) as manager, Monitor(uuid, host) as qemu:
        with suppress(OSError):
            qemu("device_del", id=name)  # asks the guest, which takes its time
            qemu.wait_for("DEVICE_DELETED", "device", name)
        with suppress(OSError):
            qemu("blockdev-del", node_name=name)
        # After both. If QEMU has the disk open all the same, this is refused.
        manager.release_resource(ResourceType.DISK, path)


def migrate(uuid: str) -> None:
    here = where(uuid)
    there = HOSTS[here == HOSTS[0]]
    uri = f"unix:{there}/{uuid}.migration"
    with attached(uuid, here) as source, Monitor(uuid, here) as qemu:
        cookie = source.prepare_migrate(uri)
        launch(uuid, there, NewFlags.MIGRATE, "-incoming", uri, "-S")
        qemu("migrate", uri=uri)
        qemu.wait_for("MIGRATION", "status", "completed", "failed")
        # The target first: from then on it owns the disks, and the source never again.
        with attached(uuid, there) as target, Monitor(uuid, there) as arrived:
            target.complete_migrate_in(cookie=cookie)
            arrived("cont")
        source.complete_migrate_out()


def settle(uuid: str) -> str:
    """End a migration that was left half done, and return where the guest is."""
    states = {host: state(uuid, host) for host in HOSTS}
    here = next((host for host in HOSTS if states[host] in ("migrating-out", "migrated")), None)
    there = next((host for host in HOSTS if host != here and states[host] != "gone"), None)
    if here and there and states[there] == "running":  # it has arrived: onwards
        with attached(uuid, here) as source, Monitor(uuid, there) as arrived:
            arrived("cont")
            source.complete_migrate_out()
        return there
    if there and states[there] == "incoming":  # without the cookie it never will: back
        with attached(uuid, there) as target:
            target.complete_migrate_in(MigrateFlags.CANCEL)
            target.shutdown()
    if here:
        with attached(uuid, here) as source, Monitor(uuid, here) as qemu:
            qemu("migrate_cancel")
            # The source comes last: while a target is left it is refused.
            source.complete_migrate_out(MigrateFlags.CANCEL)
            qemu("cont")
    return where(uuid)


def stop(uuid: str) -> None:
    with attached(uuid, host := where(uuid)) as manager, Monitor(uuid, host) as qemu:
        qemu("quit")
        try:
            manager.shutdown(30)  # the guest is dead and its leases are free when it returns
        except LockError:
            manager.kill_supervisor()
    os.unlink(f"guests/{uuid}")


def answer(call: Any, *words: str) -> None:
    try:
        print("ok", call(*words) or "done", flush=True)
    except (LockError, OSError, EOFError) as error:
        print("failed", error, flush=True)


def main(directory: str) -> None:
    os.chdir(directory)
    for name in (*HOSTS, "guests"):
        os.makedirs(name, exist_ok=True)
    for uuid in sorted(os.listdir("guests")):
        answer(settle, uuid)
    commands = {f.__name__: f for f in (start, plug, unplug, migrate, settle, stop)}
    print("ready", flush=True)
    with open(0, "rb", buffering=0, closefd=False) as lines:  # a next daemon reads on where we end
        while words := lines.readline().decode().split():
            if words == ["restart"]:
                os.execv(sys.executable, [sys.executable, PROGRAM, os.getcwd()])
            answer(commands[words[0]], *words[1:])


if __name__ == "__main__":
    main(sys.argv[1])
