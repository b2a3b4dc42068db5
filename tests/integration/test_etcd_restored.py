"""Who has a disk when etcd's data are those of an older day? Who had it then, at once."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LeaseLostError, Resource
from lockplugins.etcd.connection import now
from tests.support.etcd import DEADLINE_S, Cluster

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.etcd_hosts import Host


def test_a_backup_has_forgotten_who_came_since_and_its_owner_is_told(
    require: Callable[[str], str], tmp_path: Path, etcd_host: Host, etcd_disks: list[str]
) -> None:
    require("etcd")
    backup = str(tmp_path / "backup")
    with Cluster(tmp_path / "etcd") as cluster:
        before, since = (etcd_host(cluster, name) for name in ("before", "since"))
        before.acquire([Resource(etcd_disks[0])], None)
        cluster.etcdctl("snapshot", "save", backup)
        since.acquire([Resource(etcd_disks[1])], None)
        since.renew()
        restore(cluster, backup)
        began = now()
        assert before.renew() > began
        with pytest.raises(LeaseLostError, match="its key in etcd is gone"):
            since.renew()
        assert etcd_host(cluster, "third").acquire([Resource(etcd_disks[1])], None)


def restore(cluster: Cluster, backup: str) -> None:
    """Start the member anew with what it had then, as the same one."""
    (member,) = cluster.members
    member.kill()
    shutil.rmtree(member.data)
    peer = f"http://{member.host}:{member.peer_port}"
    words = ["--name", member.name, "--data-dir", str(member.data)]
    words += ["--initial-cluster", f"{member.name}={peer}", "--initial-advertise-peer-urls", peer]
    subprocess.run(
        ["env", "ETCDCTL_API=3", "etcdctl", "snapshot", "restore", backup, *words],
        check=True, capture_output=True, timeout=DEADLINE_S,
    )  # fmt: skip
    cluster.start(member)
