"""Do guests outlive a database of etcd's that is full, and are others told of it?"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LockError, Resource
from lockplugins.etcd.connection import now
from lockplugins.etcd.plugin import EtcdPlugin
from tests.support.etcd import Cluster
from tests.support.stand_ins import CARRIER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.etcd_hosts import Host

QUOTA_BYTES = 2 << 20
PIECE = "x" * 100_000  # an argument is no longer than 128 KiB


def test_a_full_database_refuses_who_starts_and_ends_nobody(
    require: Callable[[str], str], tmp_path: Path, etcd_host: Host, etcd_disks: list[str]
) -> None:
    require("etcd")
    cluster = Cluster(tmp_path / "etcd")
    cluster.options = ["--quota-backend-bytes", str(QUOTA_BYTES)]
    with cluster:
        plugin = etcd_host(cluster, "first")
        (lease,) = plugin.acquire([Resource(etcd_disks[0])], None)
        fill(cluster, plugin)
        before = now()
        assert plugin.renew() > before
        with pytest.raises(LockError, match=r"space exceeded.*; .*etcdctl alarm disarm"):
            etcd_host(cluster, "second")
        found = EtcdPlugin(cluster.config(), CARRIER).examine(None)
        assert ("etcd alarms", False, "NOSPACE") in {finding[:3] for finding in found}
        cluster.etcdctl("lease", "revoke", f"{plugin._session.grant:x}")
        with pytest.raises(LockError, match="space exceeded"):
            plugin.renew()  # a session that has ended cannot be made anew
        make_room(cluster)
        plugin.renew()
        plugin.release(lease)
        assert etcd_host(cluster, "second").acquire([Resource(etcd_disks[0])], None)


def fill(cluster: Cluster, plugin: EtcdPlugin) -> None:
    """Write until that is refused; the plugin's session lives on."""
    for _ in range(2 * QUOTA_BYTES // len(PIECE)):
        plugin.renew()
        try:
            cluster.etcdctl("put", "/stuff", PIECE)
        except subprocess.CalledProcessError:
            return
    raise AssertionError("it is not full")


def make_room(cluster: Cluster) -> None:
    """Do as docs/etcd.md says."""
    told = json.loads(cluster.etcdctl("endpoint", "status", "--write-out", "json"))
    cluster.etcdctl("compact", str(told[0]["Status"]["header"]["revision"]))
    cluster.etcdctl("defrag")
    cluster.etcdctl("alarm", "disarm")
