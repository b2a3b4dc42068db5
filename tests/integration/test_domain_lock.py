"""Are guests locked that a daemon knows as libvirt domains, from their start to their end?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import ConfigError, LeaseHeldError, LockError, Mode, UnsupportedError
from supervisor import domain_lock
from supervisor.discovery import disk as discovered
from supervisor.discovery import domain_xml as libvirts
from supervisor.manager import NewFlags, ResourceType
from supervisor.spec import parse_lease
from tests.support import proclocks, waiting
from tests.support.daemon import DEADLINE_S, IDLE, Daemon, new_disk
from tests.support.domain import Disk, domain_xml
from tests.support.guest.checker import check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from supervisor.discovery.domain_xml import Domain
    from supervisor.manager import LockManager
    from tests.support.daemon import Machine

pytestmark = pytest.mark.slow

HELD = [("WRITE", 0, "0")]
SHARED = [("READ", 0, "0"), ("READ", 2, "2")]


@pytest.fixture(params=["XML", "Domain"])
def described(request: pytest.FixtureRequest) -> Callable[[str], str | Domain]:
    """Describe a domain as its XML, or as what was read of that."""
    return libvirts.parse if request.param == "Domain" else str


def start(daemon: Daemon, domain: str | Domain, argv: Sequence[str] = IDLE) -> LockManager:
    return domain_lock.process_start(
        daemon.plugin,
        domain,
        argv,
        log=str(daemon.directory / "log"),
        config=daemon.config,
        runtime_dir=daemon.runtime_dir,
    )


def newest(disk: str) -> int:
    return max((boot.last for boot in check(disk).boots), default=0)


def until_written(disk: str) -> None:
    before = newest(disk)
    waiting.until(lambda: newest(disk) > before, DEADLINE_S, "the guest writes")


def lease_file(directory: Path, key: str) -> Path:
    path = directory / "prod" / key
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def lease_element(directory: Path, key: str) -> str:
    where = f"<lockspace>prod</lockspace><key>{key}</key><target path='{directory}'/>"
    return f"<lease>{where}</lease>"


def test_a_domain_is_locked_from_before_its_start_until_its_end(
    daemon: Daemon,
    machine: Callable[..., Machine],
    tmp_path: Path,
    described: Callable[[str], str | Domain],
) -> None:
    disk, lease = new_disk(tmp_path / "vda"), lease_file(tmp_path, "web1")
    qemu = machine(disk)
    devices = [lease_element(tmp_path, "web1")]
    domain = described(domain_xml("web1", disk, devices=devices))
    manager = start(daemon, domain, qemu.argv)
    assert proclocks.bytes_locked(disk) == proclocks.bytes_locked(lease) == HELD
    assert domain_lock.process_inquire(domain, runtime_dir=daemon.runtime_dir) is None
    qemu.wait_ready()
    for another in (domain_xml("web2", disk), domain_xml("web2", devices=devices)):
        with pytest.raises(LeaseHeldError, match="held by guest web1"):
            start(daemon, described(another))
    assert len(os.listdir(daemon.runtime_dir)) == 1
    qemu.quit()
    assert manager.shutdown(DEADLINE_S)
    assert proclocks.locks(disk) == proclocks.locks(lease) == []
    report = check(disk)
    assert report.clean, report.reasons
    assert len(report.boots) == 1


def test_a_domain_that_is_paused_is_locked_and_goes_on(
    daemon: Daemon,
    machine: Callable[..., Machine],
    tmp_path: Path,
    described: Callable[[str], str | Domain],
) -> None:
    disk, base = new_disk(tmp_path / "vda"), daemon.runtime_dir
    qemu = machine(disk)
    domain = described(domain_xml("web1", disk))
    start(daemon, domain, qemu.argv)
    qemu.wait_ready()
    state = domain_lock.process_pause(domain, runtime_dir=base)
    assert state.endswith(":leases-kept")
    assert domain_lock.process_inquire(domain, runtime_dir=base) == state
    stopped_at = newest(disk)
    with pytest.raises(LeaseHeldError, match="held by guest web1"):
        start(daemon, domain_xml("web2", disk))
    with pytest.raises(ConfigError, match="not the state of the pause"):
        domain_lock.process_resume(domain, f"{state}!", runtime_dir=base)
    assert newest(disk) == stopped_at
    assert proclocks.bytes_locked(disk) == HELD
    assert domain_lock.process_resume(domain, state, runtime_dir=base)
    until_written(disk)
    assert domain_lock.process_inquire(domain, runtime_dir=base) is None
    with pytest.raises(LockError, match="it is running, not parked"):
        domain_lock.process_resume(domain, state, runtime_dir=base)
    qemu.quit()
    waiting.until(lambda: proclocks.locks(disk) == [], DEADLINE_S, "its disk is free")
    report = check(disk)
    assert report.clean, report.reasons
    assert len(report.boots) == 1


def test_an_image_is_locked_before_it_is_plugged_and_until_it_is_unplugged(
    daemon: Daemon,
    machine: Callable[..., Machine],
    tmp_path: Path,
    described: Callable[[str], str | Domain],
) -> None:
    disk, hot, base = new_disk(tmp_path / "vda"), new_disk(tmp_path / "vdb"), daemon.runtime_dir
    qemu = machine(disk)
    domain, element = described(domain_xml("web1", disk)), Disk(hot).xml("vdb")
    start(daemon, domain, qemu.argv)
    qemu.wait_ready()
    assert domain_lock.image_attach(domain, element, runtime_dir=base)
    assert proclocks.bytes_locked(hot) == HELD
    qemu.plug(hot)
    with pytest.raises(LockError, match="QEMU has it open"):
        domain_lock.image_detach(domain, element, runtime_dir=base)
    assert proclocks.bytes_locked(hot) == HELD
    qemu.unplug()
    assert domain_lock.image_detach(domain, element, runtime_dir=base)
    assert proclocks.locks(hot) == []
    qemu.quit()


def test_all_images_of_a_disk_are_locked_or_none(daemon: Daemon, tmp_path: Path) -> None:
    overlay, backing = new_disk(tmp_path / "overlay"), new_disk(tmp_path / "backing")
    base, domain = daemon.runtime_dir, domain_xml("web1")
    element = Disk(overlay, format="qcow2", backing=backing).xml("vdb")
    other = Disk(new_disk(tmp_path / "other"), format="qcow2", backing=backing).xml("vdc")
    start(daemon, domain)
    holder = start(daemon, domain_xml("web2", backing))
    with pytest.raises(LeaseHeldError, match="held by guest web2"):
        domain_lock.image_attach(domain, element, runtime_dir=base)
    assert proclocks.locks(overlay) == []
    holder.kill_supervisor()
    assert domain_lock.image_attach(domain, element, runtime_dir=base)
    assert (proclocks.bytes_locked(overlay), proclocks.bytes_locked(backing)) == (HELD, SHARED)
    assert domain_lock.image_attach(domain, other, runtime_dir=base)
    assert domain_lock.image_detach(domain, element, runtime_dir=base)
    assert proclocks.locks(overlay) == []
    assert proclocks.bytes_locked(tmp_path / "other") == HELD
    assert proclocks.bytes_locked(backing) == SHARED, "the other disk stands on it"
    below = discovered.Disk(backing, Mode.SHARED, "a test")
    assert domain_lock.image_detach(domain, below, runtime_dir=base)
    assert proclocks.locks(backing) == []


def test_a_lease_comes_and_goes_while_the_guest_runs(
    daemon: Daemon, tmp_path: Path, described: Callable[[str], str | Domain]
) -> None:
    base, file = daemon.runtime_dir, lease_file(tmp_path, "extra")
    first, second = (described(domain_xml(name)) for name in ("web1", "web2"))
    for domain in (first, second):
        start(daemon, domain)
    element, words = lease_element(tmp_path, "extra"), f"prod:extra:{tmp_path}"
    assert domain_lock.lease_attach(first, element, runtime_dir=base)
    assert proclocks.bytes_locked(file) == HELD
    with pytest.raises(LeaseHeldError, match="held by guest web1"):
        domain_lock.lease_attach(second, element, runtime_dir=base)
    with pytest.raises(LockError, match="the guest has a lease on it already"):
        domain_lock.lease_attach(first, parse_lease(words), runtime_dir=base)
    with pytest.raises(LockError, match="the guest has no lease on it"):
        domain_lock.lease_detach(second, element, runtime_dir=base)
    assert domain_lock.lease_detach(first, parse_lease(words), runtime_dir=base)
    assert proclocks.locks(file) == []
    assert domain_lock.lease_attach(second, element, runtime_dir=base)


def test_a_leases_path_may_be_relative_to_where_the_daemon_is(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lease_file(tmp_path, "extra")
    manager = start(daemon, domain_xml("web1"))
    monkeypatch.chdir(tmp_path)  # the guard's is another
    assert manager.acquire_resource(ResourceType.LEASE, "prod:extra:.")
    assert proclocks.bytes_locked(file) == HELD


def test_a_domain_that_was_started_can_be_attached_to(daemon: Daemon) -> None:
    domain = domain_xml("web1")
    pid = start(daemon, domain).get_child().pid
    again = daemon.manager(NewFlags.ATTACH, guest_uuid=libvirts.parse(domain).uuid)
    child = again.get_child()
    assert child.pid == pid
    assert again.kill_supervisor()


def test_what_the_plugin_cannot_do_is_refused_and_nothing_is_touched(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(f"[vm]\nlease_dir = '{tmp_path}/leases'\n")
    daemon = Daemon(tmp_path, "vm")
    daemon.config = str(tmp_path / "config.toml")
    disk, base = new_disk(tmp_path / "vda"), daemon.runtime_dir
    domain = domain_xml("web1", disk)
    start(daemon, domain, machine(disk).argv)
    try:
        element, lease = Disk(disk).xml("vdb"), lease_element(tmp_path, "web1")
        for image_call in (domain_lock.image_attach, domain_lock.image_detach):
            with pytest.raises(UnsupportedError, match="plugin vm has no hotplug"):
                image_call(domain, element, runtime_dir=base)
        for lease_call in (domain_lock.lease_attach, domain_lock.lease_detach):
            with pytest.raises(UnsupportedError, match="plugin vm has no hotplug"):
                lease_call(domain, lease, runtime_dir=base)
        assert proclocks.locks(disk) == []
        state = domain_lock.process_pause(domain, runtime_dir=base)
        (uuid,) = os.listdir(tmp_path / "leases")
        assert proclocks.bytes_locked(tmp_path / "leases" / uuid) == HELD
        assert domain_lock.process_resume(domain, state, runtime_dir=base)
    finally:
        daemon.reap()


def test_a_guest_that_is_no_qemu_cannot_be_paused(daemon: Daemon) -> None:
    domain = domain_xml("web1")
    manager = start(daemon, domain)
    for call in (
        lambda: domain_lock.process_pause(domain, runtime_dir=daemon.runtime_dir),
        lambda: domain_lock.process_resume(domain, "state", runtime_dir=daemon.runtime_dir),
    ):
        with pytest.raises(UnsupportedError, match="no private monitor"):
            call()
    os.close(manager.get_child().pidfd or 0)
