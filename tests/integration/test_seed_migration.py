"""Do the seed's sequences during migration run as they are written, on a guest that writes?

Two runtime directories of this machine are the two hosts. The seed's lines are
the comments with >.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from supervisor.manager import LockManager, MigrateFlags, NewFlags, ObjectType, ResourceType
from tests.support import proclocks, waiting
from tests.support.daemon import DEADLINE_S, Daemon, new_disk
from tests.support.guest.checker import check, describe
from tests.support.qemu import STAYS_SHARED, shared_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from supervisor.client import Child
    from tests.support.daemon import Machine

pytestmark = pytest.mark.slow  # each boots guests

UUID = "5f2c1d3e-0000-4000-8000-00000000001e"
NONCE = "00000000c0ffee01"
DISK = ResourceType.DISK
HELD = [("WRITE", 0, "0")]


class Hosts:
    """The guest on its source host, and the destination that waits for it."""

    def __init__(self, directory: Path, machine: Callable[..., Machine]) -> None:
        for name in ("source", "target"):
            (directory / name).mkdir()
        self.disk = new_disk(directory / "vda")
        self.uri = f"unix:{directory}/migration.sock"
        self.source, self.target = Daemon(directory / "source"), Daemon(directory / "target")
        memory = shared_memory(directory / "memory")
        self.here = machine(self.disk, nonce=NONCE, extra=memory)
        incoming = [*memory, "-incoming", self.uri, "-S"]
        self.there = machine(self.disk, nonce=NONCE, extra=incoming)
        self.starter = self.source.manager(guest_uuid=UUID)
        self.source.log(self.starter)
        self.starter.register_resource(DISK, self.disk)
        self.starter.acquire_object(self.here.argv)
        self.starter.run()
        self.here.wait_ready()
        stay_shared(self.here)
        self.supervisor: subprocess.Popen[bytes] | None = None

    def receive(self, cookie: str) -> tuple[LockManager, Child]:
        """Do what the seed does at 2., on the destination host."""
        # > manager = virLockManagerNew(driver, VIR_LOCK_MANAGER_START_DOMAIN, NEW_MIGRATE);
        manager = LockManager(
            self.target.plugin,
            ObjectType.START_DOMAIN,
            NewFlags.MIGRATE,
            runtime_dir=self.target.runtime_dir,
        )
        # > virLockManagerSetParameter(manager, "id", id); "uuid", uuid; "name", name
        manager.set_parameter("id", 7)
        manager.set_parameter("uuid", UUID)
        manager.set_parameter("name", "web1")
        manager.set_parameter("cookie", cookie)
        # > foreach disk: virLockManagerRegisterResource(manager, TYPE_DISK, disk.path, ..flags...);
        manager.register_resource(DISK, self.disk, 0)
        # > supervisor = virLockManagerGetSupervisorPath(manager);
        supervisor = manager.get_supervisor_path()
        # > virLockManagerGetSupervisorArgs(&argv, &argc);
        words = manager.get_supervisor_args()
        # > cmd = qemuBuildCommandLine(supervisor, supervisorargv, supervisorargv);
        command = [supervisor, *words, *self.there.argv]
        # > supervisorpid = virCommandExec(cmd);
        self.supervisor = subprocess.Popen(command)
        # > if (!virLockManagerGetChild(manager, &qemupid)) kill(supervisorpid);
        child = manager.get_child(DEADLINE_S * 2)
        assert self.there.status() == "inmigrate"
        stay_shared(self.there)
        return manager, child

    def judge(self) -> None:
        """See that there was one guest, and that nothing that it wrote is lost."""
        report = check(self.disk)
        assert report.clean, describe(report)
        assert [boot.nonce for boot in report.boots] == [int(NONCE, 16)]

    def close(self) -> None:
        self.source.reap()
        self.target.reap()
        if self.supervisor is not None:
            self.supervisor.wait(DEADLINE_S)


def stay_shared(machine: Machine) -> None:
    with machine.qmp() as monitor:
        monitor.execute("migrate-set-capabilities", STAYS_SHARED)


@pytest.fixture
def hosts(tmp_path: Path, machine: Callable[..., Machine]) -> Iterator[Hosts]:
    made = Hosts(tmp_path, machine)
    yield made
    made.close()


def test_during_migration_on_success(hosts: Hosts) -> None:
    # > 1. On source host
    source = hosts.starter
    # > if (!virLockManagerPrepareMigrate(manager, hosturi)) ..don't start migration..
    if not (cookie := source.prepare_migrate(hosts.uri)):
        pytest.fail("a call returns its value or raises")
    # > 2. On dest host
    target, child = hosts.receive(cookie)
    # > 3. Initiate migration in QEMU on source and wait for completion
    hosts.here.migrate(hosts.uri)
    # > 4b1 On target: virLockManagerCompleteMigrateIn(manager, 0);
    assert target.complete_migrate_in(0)
    hosts.there.cont()
    # > 4b2 On source: virLockManagerCompleteMigrateIn(manager, 0);
    assert source.complete_migrate_in(0)
    # > virLockManagerShutdown(manager); virLockManagerFree(manager);
    assert source.shutdown(DEADLINE_S)
    assert source.free()

    waiting.until(
        lambda: proclocks.below_qemus(hosts.disk) == HELD, DEADLINE_S, "the target alone has it"
    )
    hosts.there.quit()
    assert target.shutdown(DEADLINE_S)
    assert target.free()
    os.close(child.pidfd if child.pidfd is not None else -1)
    hosts.judge()


def test_during_migration_on_success_with_daemons_that_were_restarted(hosts: Hosts) -> None:
    """Neither end knows more than the uuid: which side it is, its guard tells."""
    cookie = hosts.source.manager(NewFlags.ATTACH, guest_uuid=UUID).prepare_migrate(hosts.uri)
    hosts.receive(cookie)
    hosts.here.migrate(hosts.uri)
    target = hosts.target.manager(NewFlags.ATTACH, guest_uuid=UUID)
    assert target.complete_migrate_in(cookie=cookie)
    hosts.there.cont()
    source = hosts.source.manager(NewFlags.ATTACH, guest_uuid=UUID)
    assert source.complete_migrate_in()
    assert source.shutdown(DEADLINE_S)
    assert target.get_child().state == "running"
    assert target.kill_supervisor()
    hosts.judge()


@pytest.mark.parametrize("arrived", [False, True])
def test_during_migration_on_failure(hosts: Hosts, *, arrived: bool) -> None:
    source = hosts.starter
    cookie = source.prepare_migrate(hosts.uri)
    target, _child = hosts.receive(cookie)
    # > 3. Initiate migration in QEMU on source and wait for completion
    if arrived:
        hosts.here.migrate(hosts.uri)
    else:
        with hosts.here.qmp() as monitor:
            monitor.execute("migrate", {"uri": "unix:/missing/migration.sock"})
            waiting.until(
                lambda: monitor.execute("query-migrate")["status"] == "failed", DEADLINE_S, "failed"
            )
    # > 4a. On failure
    # > 4a1 On target: virLockManagerCompleteMigrateIn(manager, VIR_LOCK_MANAGER_MIGRATE_CANCEL);
    assert target.complete_migrate_in(MigrateFlags.CANCEL)
    # > virLockManagerShutdown(manager); virLockManagerFree(manager);
    assert target.shutdown(DEADLINE_S)
    assert target.free()
    # > 4a2 On source: virLockManagerCompleteMigrateIn(manager, VIR_LOCK_MANAGER_MIGRATE_CANCEL);
    assert source.complete_migrate_in(MigrateFlags.CANCEL)

    if arrived:
        hosts.here.cont()
    assert hosts.here.status() == "running"
    assert source.get_child().state == "running"
    assert proclocks.below_qemus(hosts.disk) == HELD
    hosts.here.quit()
    assert source.shutdown(DEADLINE_S)
    hosts.judge()
