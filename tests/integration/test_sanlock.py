"""Does a guest of QEMU run while sanlock says that it holds its disks, and is all of it told?"""

from __future__ import annotations

import os
import re
import select
import signal
import time
from typing import TYPE_CHECKING

import pytest

from supervisor import exitcodes
from supervisor.spec import Containment
from tests.support import sanlock_facts as facts
from tests.support import waiting
from tests.support.command import DEADLINE_S, ready
from tests.support.qemu import idle_argv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.sanlock import Daemon

NEEDED = ("run", "--plugin", "sanlock")


@pytest.fixture
def daemon(sanlock_host: Daemon, command: Command, tmp_path: Path) -> Daemon:
    """Give a test the session's daemon, and the command its configuration."""
    (tmp_path / "config.toml").write_text(sanlock_host.toml())
    command.env |= {**sanlock_host.env, "LOCK_SUPERVISOR_CONFIG": str(tmp_path / "config.toml")}
    return sanlock_host


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def qemu(name: str, *disks: str) -> list[str]:
    return ["--plugin", "sanlock", "--name", name, "--", *idle_argv(*disks, machine="pc")]


def test_a_guest_holds_its_disks_and_a_second_one_is_told_by_whom(
    daemon: Daemon, command: Command, disk: str, tmp_path: Path
) -> None:
    run, pid = command.guest(*qemu("web1", disk))
    (held,) = daemon.held(disk)
    assert (held.pid, held.version) == (pid, 1)
    status = command.json("status", "web1")
    (lease,) = status["leases"]
    assert (lease["lockspace"], lease["lease"]) == (facts.LOCKSPACE, facts.lease_name(disk))
    assert (lease["generation"], lease["state"], status["state"]) == (1, "held", "running")
    assert 0 < status["deadline_s"] <= 8
    assert (
        ": 8 s without a new proof end it, a frozen supervisor's too, and " in status["guarantee"]
    )
    assert "; without a watchdog, a host that stands still " in status["guarantee"]
    refused = command(*NEEDED, "--", *idle_argv(disk))
    named = f"held by guest web1 ({status['uuid']}), supervisor pid {run.process.pid}, guest pid"
    assert (refused.code, refused.out) == (exitcodes.HELD_ELSEWHERE, "")
    assert named in refused.err
    who = command.json("who", disk, "--plugin", "sanlock")
    assert who["leases"][0]["holder"]["guest"] == "web1"
    assert who["leases"][0]["holder"]["generation"] == 1
    other = tmp_path / "other"
    other.write_bytes(bytes(4096))
    assert command("attach", "web1", str(other)).code == 0
    assert [one.pid for one in daemon.held(str(other))] == [pid]
    assert command("detach", "web1", str(other)).code == 0
    assert daemon.held(str(other)) == []
    assert command("stop", "web1", "--timeout", "0").code == 0
    assert run.end().code in (0, 128 + signal.SIGKILL)
    assert daemon.held(disk) == []
    assert command("who", disk, "--plugin", "sanlock").code == exitcodes.NO_SUCH_GUEST
    assert str(pid) not in daemon.client("status")


def test_a_guest_with_a_disk_by_two_names_ends_as_it_ended(
    daemon: Daemon, command: Command, disk: str, tmp_path: Path
) -> None:
    link = tmp_path / "a-link"  # released last, when it is shared alone
    link.symlink_to(disk)
    run, pid = command.guest("--disk", f"{link},readonly", *qemu("web1", disk))
    assert len(daemon.held(disk)) == len(daemon.held(str(link))) == 1
    os.kill(pid, signal.SIGKILL)
    ended = run.end()
    assert (ended.code, ended.err) == (128 + signal.SIGKILL, "")


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("containment", [Containment.PDEATHSIG, Containment.PIDNS])
@pytest.mark.parametrize("victim", ["supervisor", "guest"])
def test_a_lease_is_taken_over_as_soon_as_the_guest_is_dead(
    command: Command, disk: str, victim: str, containment: str, measured: Callable[[str, str], None]
) -> None:
    run, pid = command.guest("--containment", containment, *qemu("web1", disk))
    pidfd = os.pidfd_open(pid)
    waiter, announcement = command.guest_to_be("--wait", "30", *qemu("web2", disk))
    waiting.until(
        lambda: any(g["name"] == "web2" for g in command.json("list")), DEADLINE_S, "web2 waits"
    )
    killed = time.monotonic()
    os.kill(run.process.pid if victim == "supervisor" else pid, signal.SIGKILL)
    ready(announcement)
    took = time.monotonic() - killed
    assert select.select([pidfd], [], [], 0)[0], "the taker runs while the first guest lives"
    os.close(pidfd)
    measured("sanlock", f"takeover after SIGKILL of the {victim}, {containment}: {took:.3f} s")
    assert waiter.is_running()
    if victim == "guest":
        assert run.end().code == 128 + signal.SIGKILL


def test_readers_share_and_explicit_leases_are_as_they_are(
    daemon: Daemon, command: Command, disk: str
) -> None:
    explicit = str(daemon.lease_dir / "explicit")
    facts.init_lease(explicit, "mine", offset=1 << 20)
    lease = f"{facts.LOCKSPACE}:mine:{explicit}:{1 << 20}"
    readers = [
        command.guest("--disk", f"{disk},readonly", *qemu(name)) for name in ("web1", "web2")
    ]
    assert {(one.pid, one.version) for one in daemon.held(disk)} == {
        (pid, None) for _, pid in readers
    }
    refused = command(*NEEDED, "--disk", disk, "--", *idle_argv())
    assert (refused.code, "exclusive lease for disk" in refused.err) == (110, True)
    _, pid = command.guest("--lease", lease, *qemu("web3"))
    held = [one for one in daemon.leases() if one.resource == "mine"]
    assert [(one.pid, one.path, one.offset) for one in held] == [(pid, explicit, 1 << 20)]
    assert command(*NEEDED, "--lease", lease, "--", *idle_argv()).code == 110
    elsewhere = command(*NEEDED, "--lease", f"other:mine:{explicit}", "--", *idle_argv())
    assert elsewhere.code == exitcodes.FAILED
    assert "this host is not in its lockspace" in elsewhere.err


def test_more_than_eight_resources_are_refused_before_anything_starts(
    daemon: Daemon, command: Command, tmp_path: Path
) -> None:
    disks = []
    for number in range(9):
        (tmp_path / f"disk{number}").write_bytes(bytes(4096))
        disks += ["--disk", str(tmp_path / f"disk{number}")]
    ran = tmp_path / "ran"
    refused = command(*NEEDED, *disks, "--", "/bin/touch", str(ran))
    assert refused.code == exitcodes.FAILED
    assert "it would need 9 resources of sanlock, which has 8 a guest; name disks by" in refused.err
    assert not ran.exists()
    assert not any(daemon.held(disk) for disk in disks[1::2])


def test_another_host_is_named_and_keeps_what_it_has(
    daemon: Daemon, sanlock_neighbour: Daemon, command: Command, disk: str
) -> None:
    holder = sanlock_neighbour.hold(disk)
    refused = command(*NEEDED, "--", *idle_argv(disk))
    assert refused.code == exitcodes.HELD_ELSEWHERE
    assert re.search(r"held by host_id 2 \(\S+, seen alive \d+ s ago\); stop", refused.err)
    (lease,) = command.json("who", disk, "--plugin", "sanlock")["leases"]
    assert (lease["mode"], lease["holder"]["host"]) == ("exclusive", "host_id 2")
    assert lease["holder"]["generation"] == 1
    waiter, announcement = command.guest_to_be("--wait", "30", *qemu("web1", disk))
    holder.kill()
    holder.wait(DEADLINE_S)
    taker = ready(announcement)
    assert [one.pid for one in daemon.held(disk)] == [taker]
    assert waiter.is_running()


@pytest.mark.parametrize("containment", [Containment.PDEATHSIG, Containment.PIDNS])
def test_the_daemon_ends_the_guest_of_a_frozen_supervisor(
    sanlock_hosts: Callable[[int], Daemon], command: Command, disk: str, tmp_path: Path,
    containment: str,
) -> None:  # fmt: skip
    host = sanlock_hosts(1)
    (tmp_path / "config.toml").write_text(host.toml())
    command.env |= {**host.env, "LOCK_SUPERVISOR_CONFIG": str(tmp_path / "config.toml")}
    run, pid = command.guest("--containment", containment, *qemu("web1", disk))
    pidfd = os.pidfd_open(pid)
    os.kill(run.process.pid, signal.SIGSTOP)
    with open(host.lockspace, "r+b") as file:
        file.write(b"x" * 512)
    waiting.gone(pidfd, DEADLINE_S)
    os.close(pidfd)
    os.kill(run.process.pid, signal.SIGCONT)
    ended = run.end()
    assert ended.code in (exitcodes.LEASE_LOST, -signal.SIGKILL), ended
    if ended.code == exitcodes.LEASE_LOST:
        assert "lost" in ended.err or "gives it up" in ended.err


def test_a_guest_that_the_daemon_has_ended_was_lost(
    sanlock_hosts: Callable[[int], Daemon], command: Command, disk: str, tmp_path: Path
) -> None:
    host = sanlock_hosts(1)
    (tmp_path / "config.toml").write_text(host.toml())
    command.env |= {**host.env, "LOCK_SUPERVISOR_CONFIG": str(tmp_path / "config.toml")}
    run, _ = command.guest(*qemu("web1", disk))
    host.leave()
    ended = run.end()
    assert ended.code == exitcodes.LEASE_LOST
    assert ended.err.startswith("lock-supervisor: cannot keep ")
    assert ended.err.count("\n") == 1
