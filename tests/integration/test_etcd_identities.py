"""Is a disk known by the identity that a person gives, whichever command it is given to?

The real command, real guards, and a real etcd; two hosts are two paths of one identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor import exitcodes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.etcd import Cluster

GUEST = ("--", "/bin/sleep", "1000000")


@pytest.fixture
def ours(etcd_member: Cluster, command: Command, tmp_path: Path) -> Command:
    """Give the command a configuration of the test's own namespace."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'plugin = "etcd"\n[etcd]\nendpoints = ["{etcd_member.endpoints}"]\n'
        f'namespace = "{tmp_path}"\nfailover_s = 15\n'
    )
    command.env["LOCK_SUPERVISOR_CONFIG"] = str(config)
    return command


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Return paths under which hosts know disks."""
    for name in ("system", "data", "system-there", "data-there"):
        (tmp_path / name).touch()
    return [str(tmp_path / name) for name in ("system", "data", "system-there", "data-there")]


def test_a_hot_plugged_disk_is_leased_by_its_identity(ours: Command, paths: list[str]) -> None:
    system, data, system_there, data_there = paths
    ours.guest("--name", "here", "--disk", f"{system},id=s", *GUEST)
    ours.guest("--name", "there", "--disk", f"{system_there},id=other", *GUEST)
    attached = ours("attach", "here", f"{data},id=d")
    assert attached.code == 0
    leases = {lease["resource"]: lease["lease"] for lease in ours.json("status", "here")["leases"]}
    assert (leases[system], leases[data]) == ("id:s", "id:d")
    refused = ours("attach", "there", f"{data_there},id=d")
    assert refused.code == exitcodes.HELD_ELSEWHERE
    assert "held by guest here" in refused.err
    assert ours("detach", "here", data).code == 0
    assert ours("attach", "there", f"{data_there},id=d").code == 0


def test_who_has_a_disk_is_asked_by_its_identity(ours: Command, paths: list[str]) -> None:
    system, data, system_there, _ = paths
    _, pid = ours.guest("--name", "here", "--disk", f"{system},id=s", *GUEST)
    (lease,) = ours.json("who", f"{system_there},id=s")["leases"]
    assert (lease["holder"]["guest"], lease["holder"]["child_pid"]) == ("here", pid)
    assert ours("who", f"{system_there},id=t").code == 1
    assert ours("who", data).code == 1
