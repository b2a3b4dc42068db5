"""Do `who` and `plan` say of sanlock's leases what is so, also where nobody answers?"""

from __future__ import annotations

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import sanlock_facts as facts
from tests.support import waiting
from tests.support.command import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.sanlock import Daemon

FREE, CANNOT_TELL = 1, 111
SANLOCK = ("--plugin", "sanlock")
HOST_DEATH_S = 68.0  # 8 io_timeouts and 60 s


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    return str(path)


def ask(command: Command, daemon: Daemon, tmp_path: Path) -> None:
    """Have the command ask this daemon."""
    (tmp_path / "config.toml").write_text(daemon.toml())
    command.env |= {**daemon.env, "LOCK_SUPERVISOR_CONFIG": str(tmp_path / "config.toml")}


def who(command: Command, disk: str) -> list[dict[str, Any]]:
    """Return (mode, holder) of everybody who has the disk, by description."""
    leases: list[dict[str, Any]] = command.json("who", disk, *SANLOCK)["leases"]
    return sorted(leases, key=lambda lease: str(lease["holder"]["description"]))


def test_processes_of_this_host_are_named_by_pid_and_command(
    sanlock_host: Daemon, command: Command, tmp_path: Path, disk: str
) -> None:
    ask(command, sanlock_host, tmp_path)
    result = command("who", disk, *SANLOCK)
    assert result.code == FREE
    called = rf"{re.escape(disk)} \(__LIBVIRT__DISKS__ [0-9a-f]{{32}}\)"
    assert re.fullmatch(rf"{called} is free: nobody has a lease on it\n", result.out)
    sharers = sorted(sanlock_host.hold(disk, shared=True).pid for _ in range(2))
    found = who(command, disk)
    assert [lease["mode"] for lease in found] == ["shared", "shared"]
    described = [lease["holder"]["description"] for lease in found]
    assert described == sorted(f"process {pid} (sleep)" for pid in sharers)
    assert {lease["holder"]["host"] for lease in found} == {os.uname().nodename}


def test_another_host_is_named_and_what_it_shares_too(
    sanlock_host: Daemon, sanlock_neighbour: Daemon, command: Command, tmp_path: Path, disk: str
) -> None:
    ask(command, sanlock_host, tmp_path)
    name = re.escape(sanlock_neighbour.status().daemon["our_host_name"])
    sanlock_neighbour.hold(disk, shared=True)
    (lease,) = who(command, disk)
    assert (lease["mode"], lease["holder"]["host"]) == ("shared", "host_id 2")
    words = lease["holder"]["description"]
    assert re.fullmatch(rf"host_id 2 \({name}, seen alive \d+ s ago\)", words), words


def test_a_host_outside_the_lockspace_cannot_tell_the_living_from_the_dead(
    sanlock_hosts: Callable[[int], Daemon], sanlock_host: Daemon, command: Command,
    tmp_path: Path, disk: str,
) -> None:  # fmt: skip
    sanlock_host.hold(disk)
    stranger = sanlock_hosts(3)
    stranger.config["disk_lease_dir"] = str(sanlock_host.lease_dir)
    ask(command, stranger, tmp_path)
    (lease,) = who(command, disk)
    why = "whether it is alive cannot be told, since this host is not in the lockspace"
    assert lease["holder"]["description"] == f"host_id 1 ({why})"
    assert stranger.status().lockspaces == []


def test_plan_has_every_name_of_every_lease(
    sanlock_host: Daemon, command: Command, tmp_path: Path, disk: str
) -> None:
    ask(command, sanlock_host, tmp_path)
    link, explicit = str(tmp_path / "link"), str(sanlock_host.lease_dir / "planned")
    os.symlink(disk, link)
    facts.init_lease(explicit, "planned")
    holder = sanlock_host.hold(disk)
    before = sorted(os.listdir(sanlock_host.lease_dir))
    lease = f"{facts.LOCKSPACE}:planned:{explicit}"
    plan = command.json("plan", *SANLOCK, "--disk", link, "--lease", lease, "--", "/bin/true")
    rows = {row["lease"]: row for row in plan["resources"]}
    assert set(rows) == {facts.lease_name(disk), facts.lease_name(link), "planned"}
    assert {row["lockspace"] for row in rows.values()} == {facts.LOCKSPACE}
    assert rows["planned"]["held_by"] is None
    assert rows[facts.lease_name(link)]["held_by"]["description"] == f"process {holder.pid} (sleep)"
    assert plan["refusal"] == f"disk {link} is held by process {holder.pid} (sleep)"
    assert sorted(os.listdir(sanlock_host.lease_dir)) == before


def test_nobody_is_free_whom_a_daemon_does_not_tell_of(
    sanlock_hosts: Callable[[int], Daemon], command: Command, tmp_path: Path, disk: str
) -> None:
    daemon = sanlock_hosts(1)
    ask(command, daemon, tmp_path)
    words = ("plan", "--json", *SANLOCK, "--disk", disk, "--", "/bin/true")

    def both() -> tuple[str, str]:
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(command, "who", disk, *SANLOCK)
            planned = threads.submit(command, *words)
        assert (asked.result().code, asked.result().out) == (CANNOT_TELL, "")
        assert planned.result().code == 0
        plan = json.loads(planned.result().out)
        assert plan["resources"][0]["lease"] == facts.lease_name(disk)
        assert plan["resources"][0]["held_by"]["description"].startswith("cannot tell: ")
        return asked.result().err, plan["refusal"]

    daemon.stop()
    stands, refusal = both()
    daemon.cont()
    why = "cannot reach the sanlock daemon: no answer in 5 s; is it stopped, or its storage hung?"
    assert (stands, refusal) == (f"lock-supervisor: {why}\n", why)
    daemon.kill()
    gone, refusal = both()
    assert gone.startswith("lock-supervisor: cannot reach the sanlock daemon: it is not running (")
    assert refusal.endswith("; run: systemctl start sanlock")


@pytest.mark.long  # until a host is dead for sanlock
def test_a_dead_host_has_what_it_had_until_it_can_be_taken(
    sanlock_hosts: Callable[[int], Daemon], command: Command, tmp_path: Path, disk: str,
    measured: Callable[[str, str], None],
) -> None:  # fmt: skip
    one, two = sanlock_hosts(1), sanlock_hosts(2)
    with ThreadPoolExecutor() as threads:
        one.join()
        threads.submit(two.join).result()
    ask(command, one, tmp_path)
    two.hold(disk)
    waiting.until(lambda: "seen alive" in who(command, disk)[0]["holder"]["description"],
                  DEADLINE_S, "one has seen two")  # fmt: skip
    two.kill()
    died = time.monotonic()
    told: list[int] = []

    def is_free() -> bool:
        result = command("who", disk, *SANLOCK)
        if result.code == FREE:
            return True
        left = re.search(r"its lease can be taken in (\d+) s", result.out)
        told.extend([int(left[1])] if left else [])
        return False

    waiting.until(is_free, HOST_DEATH_S + DEADLINE_S, "what the dead host had is free")
    took = time.monotonic() - died
    assert told == sorted(told, reverse=True)
    assert told[0] <= HOST_DEATH_S
    assert took >= HOST_DEATH_S - 3  # it had renewed up to 2 s before
    measured("sanlock", f"a dead host's lease is called free after {took:.1f} s (io_timeout 1)")
    one.hold(disk)
