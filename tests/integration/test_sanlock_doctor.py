"""Does doctor say of sanlock what is so, whatever state daemon and storage are in?"""

from __future__ import annotations

import os
import pwd
import shutil
from typing import TYPE_CHECKING

import pytest

from lockplugins.carrier import NoCarrier
from lockplugins.contract import Resource, ResourceType
from lockplugins.sanlock import examine, status, storage
from lockplugins.sanlock.plugin import SanlockPlugin
from lockplugins.sanlock.settings import Settings
from tests.support import doctor
from tests.support import sanlock_facts as facts
from tests.support.sanlock import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lockplugins.contract import Finding

OF_MANAGER = set(examine.CHECKS) - {examine.LEASE}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """Give a test what the plugin finds of a daemon, by check, the last of each."""

    def call(daemon: Daemon, resource: Resource | None = None, **config: str) -> dict[str, Finding]:
        for name, value in daemon.env.items():
            monkeypatch.setenv(name, value)
        plugin = SanlockPlugin({**daemon.config, **config}, NoCarrier())
        found = plugin.examine(resource)
        assert all(bool(mend) == (not well) for _check, well, _evidence, mend in found)
        return {finding[0]: finding for finding in found}

    return call


def test_a_host_that_is_in_is_told_so_and_when_what_happens(
    sanlock_host: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    sanlock_host.hold(str(disk))
    config = tmp_path / "config.toml"
    config.write_text(sanlock_host.toml())
    for name, value in sanlock_host.env.items():
        monkeypatch.setenv(name, value)
    asked = ("--plugin", "sanlock", "--config", str(config), "--disk", str(disk))
    answer = doctor.examine("--runtime-dir", str(tmp_path / "run"), *asked)
    assert answer.one(examine.LIBRARY).ok
    version = sanlock_host.status().daemon["version_str"]
    assert answer.one(examine.DAEMON).evidence.startswith(f"sanlock {version} answers; this host ")
    assert answer.one(examine.WATCHDOG).evidence.startswith("none (-w 0): ")
    host_id = answer.one(examine.HOST_ID)
    assert (host_id.ok, host_id.evidence) == (True, f"1, generation 1, in {sanlock_host.lockspace}")
    whole = f"{sanlock_host.lockspace}, 1024 KiB, mode 0600 of 0:0"
    assert (answer.one(storage.FILE).ok, answer.one(storage.FILE).evidence) == (True, whole)
    assert answer.one(storage.DIRECT).evidence.endswith(
        ": blocks of 512 bytes go past the page cache"
    )
    assert " this host's alone, " in answer.one(storage.SHARED).evidence
    seconds = [int(check.evidence.split()[0]) for check in answer.all(examine.TIMES)]
    assert seconds == [2, 7, 8, 68]
    lease = answer.one(examine.LEASE, str(disk))
    where = f"{sanlock_host.lease_file(str(disk))}, offset 0: version 1"
    assert (lease.ok, lease.evidence) == (True, where)


def test_nothing_is_made_and_nobody_joins(
    sanlock_hosts: Callable[[int], Daemon], ask: Callable[..., dict[str, Finding]], tmp_path: Path
) -> None:
    daemon = sanlock_hosts(1)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    found = {**ask(daemon), **ask(daemon, Resource(str(disk)))}
    assert set(found) == set(examine.CHECKS)
    assert found[examine.HOST_ID][1:3] == (True, "1, not joined yet: the first guest does so")
    made = f"{daemon.lockspace} is made by the first guest, mode 0600 of 0:0"
    assert found[storage.FILE][1:3] == (True, made)
    assert found[storage.DIRECT][1]
    assert found[examine.LEASE][2].endswith(", offset 0: made when it is first leased")
    assert os.listdir(daemon.lease_dir) == []
    assert daemon.status().lockspaces == []


def test_a_daemon_that_stands_still_or_is_gone_is_said_to_be_so(
    sanlock_hosts: Callable[[int], Daemon],
    ask: Callable[..., dict[str, Finding]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    daemon = sanlock_hosts(1)
    daemon.stop()
    monkeypatch.setattr(status, "ANSWER_S", 1)
    try:
        found = ask(daemon)
        assert found[examine.DAEMON][1:3] == (False, "no answer in 1 s")
        assert not found[examine.HOST_ID][1]
        assert set(found) == OF_MANAGER - {examine.WATCHDOG}
        (tmp_path / "disk").touch()
        assert ask(daemon, Resource(str(tmp_path / "disk")))[examine.LEASE][1]
    finally:
        daemon.cont()
    daemon.kill()
    check, well, evidence, mend = ask(daemon)[examine.DAEMON]
    assert (check, well, mend) == (examine.DAEMON, False, "run: systemctl start sanlock")
    assert evidence.startswith("it is not running ("), evidence


def test_a_number_that_is_another_hosts_is_named(
    sanlock_host: Daemon, sanlock_neighbour: Daemon, ask: Callable[..., dict[str, Finding]],
    sanlock_hosts: Callable[[int], Daemon],
) -> None:  # fmt: skip
    stranger = sanlock_hosts(2)
    neighbour = sanlock_neighbour.status().daemon["our_host_name"]
    found = ask(stranger, disk_lease_dir=str(sanlock_host.lease_dir))
    _check, well, evidence, mend = found[examine.HOST_ID]
    assert (well, evidence) == (False, f"2 was not given up by {neighbour}")
    assert "give every host one of its own" in mend
    found = ask(sanlock_host, host_id="7")
    assert found[examine.HOST_ID][2].startswith("this host is in it as host_id 1, at ")
    found = ask(sanlock_host, host_id="0001")
    assert found[examine.HOST_ID][1]
    found = ask(stranger, disk_lease_dir=str(sanlock_host.lease_dir), host_id="3")
    assert found[examine.HOST_ID][1:3] == (True, "3, not joined yet: the first guest does so")


def test_a_number_that_nobody_gave_is_asked_for(
    sanlock_host: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in sanlock_host.env.items():
        monkeypatch.setenv(name, value)
    plugin = SanlockPlugin({"disk_lease_dir": str(sanlock_host.lease_dir)}, NoCarrier())
    found = {finding[0]: finding for finding in plugin.examine(None)}
    assert found[examine.HOST_ID][1:3] == (False, "host_id is not set")


def test_a_lockspace_that_is_none_is_seen(
    sanlock_hosts: Callable[[int], Daemon], ask: Callable[..., dict[str, Finding]]
) -> None:
    daemon = sanlock_hosts(1)

    def said() -> str:
        _check, well, evidence, _mend = ask(daemon)[storage.FILE]
        assert not well
        return str(evidence.rpartition(": ")[2])

    facts.init_lockspace(daemon.lockspace, "other")
    assert said() == "that is lockspace other"
    os.unlink(daemon.lockspace)
    facts.init_lockspace(daemon.lockspace)
    os.truncate(daemon.lockspace, 4096)
    assert said() == "it has been truncated"
    os.truncate(daemon.lockspace, 0)
    assert said() == "that is no lockspace"
    shutil.rmtree(daemon.lease_dir)
    assert said() == "parent directory does not exist or is not a directory"


def test_another_file_than_the_daemons_is_seen(
    sanlock_hosts: Callable[[int], Daemon], ask: Callable[..., dict[str, Finding]]
) -> None:
    daemon = sanlock_hosts(1)
    daemon.join()
    os.unlink(daemon.lockspace)
    facts.init_lockspace(daemon.lockspace)
    _check, well, evidence, mend = ask(daemon)[examine.HOST_ID]
    assert not well
    assert "where others find another" in evidence
    assert "rem_lockspace" in mend


def test_a_lease_that_is_none_is_seen(
    sanlock_host: Daemon, ask: Callable[..., dict[str, Finding]], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    with open(sanlock_host.lease_file(str(disk)), "wb") as file:
        file.truncate(facts.FILE_BYTES)
    _check, well, evidence, _mend = ask(sanlock_host, Resource(str(disk)))[examine.LEASE]
    assert not well
    assert evidence.endswith(f" is not the lease {facts.LOCKSPACE}:{facts.lease_name(str(disk))}")
    missing = Resource("/x", resource_type=ResourceType.LEASE, lockspace="a", key="b")
    assert not ask(sanlock_host, missing)[examine.LEASE][1]
    assert not ask(sanlock_host, Resource("/nowhere"))[examine.LEASE][1]


def test_a_daemon_that_could_not_open_the_lockspace_is_seen(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    user = storage.User(nobody.pw_uid, nobody.pw_gid)
    config = {"disk_lease_dir": str(tmp_path)}
    refused = storage.of_file(Settings(config), user)
    assert refused[2].endswith(f": the daemon, user {nobody.pw_uid}, cannot open that")
    named = {**config, "user": "nobody", "group": str(nobody.pw_gid)}
    assert storage.of_file(Settings(named), user)[1]


def test_a_watchdog_that_does_not_answer_is_seen(
    lease_dirs: Callable[[], Path], ask: Callable[..., dict[str, Finding]]
) -> None:
    """The machines that test this have no watchdog: sanlock says -203 when it is to join."""
    directory = lease_dirs()
    daemon = Daemon(directory / "run", directory / "leases", watchdog=True)
    with daemon:
        _check, well, evidence, mend = ask(daemon)[examine.WATCHDOG]
        assert not well
        assert evidence.startswith("wdmd does not answer: /run/wdmd/wdmd.sock: No such file or ")
        assert mend.startswith("run: systemctl start wdmd")
        with pytest.raises(facts.SanlockError, match="done -203"):
            daemon.join()


@pytest.mark.usefixtures("as_root")
def test_what_is_not_installed_is_named_with_the_command_to_run(tmp_path: Path) -> None:
    library = "$(ldconfig -p | sed -n 's/.*libsanlock_client.so.1 .* => //p' | head -n 1)"
    hide = f'mount --bind /dev/null {library} && mount -t tmpfs none /usr/sbin && exec "$@"'
    (tmp_path / "config.toml").write_text(f'[sanlock]\ndisk_lease_dir = "{tmp_path}"\n')
    answer = doctor.examine(
        "--runtime-dir", str(tmp_path / "run"), "--config", str(tmp_path / "config.toml"),
        "--plugin", "sanlock",
        prefix=["env", "SANLOCK_RUN_DIR=/nowhere", "unshare", "-m", "sh", "-c", hide, "sh"],
    )  # fmt: skip
    assert answer.one(examine.LIBRARY).mend == "run: apt-get install libsanlock-client1"
    assert answer.one(examine.DAEMON).evidence == "it is not installed"
    assert answer.one(examine.DAEMON).mend == "run: apt-get install sanlock"
    assert answer.one(examine.HOST_ID).evidence == "host_id is not set"
