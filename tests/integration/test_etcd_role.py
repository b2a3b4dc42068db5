"""What can a fleet's user do, with the role that docs/etcd.md gives it? What the plugin needs."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Resource
from lockplugins.etcd.connection import now
from tests.support import waiting
from tests.support.etcd import NAMESPACE, USER, USER_PASSWORD, Cluster

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.etcd_hosts import Host

AS_USER = f"{USER}:{USER_PASSWORD}"
FLEET = 60
OWN = f"/lsup/v1/{NAMESPACE}/"


def test_the_role_reaches_its_own_namespace(etcd_three: Cluster) -> None:
    etcd_three.etcdctl("put", OWN + "test", "own", user=AS_USER)
    assert etcd_three.etcdctl("get", OWN + "test", user=AS_USER).split() == [OWN + "test", "own"]
    etcd_three.etcdctl("del", OWN + "test", user=AS_USER)
    assert OWN + "test" not in etcd_three.kept()


@pytest.mark.parametrize(
    "words",
    [
        "put /lsup/v1/other/disk/a/w x",
        f"put /lsup/v1/{NAMESPACE}2/disk/a/w x",
        f"put /lsup/v1/{NAMESPACE} x",
        "put /elsewhere x",
        "get /lsup/v1/other/disk/a/w",
        "get --prefix /lsup/",
        "del --prefix /lsup/",
        "auth disable",
        "auth enable",
        "user add intruder:password",
        f"user grant-role {USER} root",
        f"role grant-permission {USER} readwrite /elsewhere",
        "role delete root",
        "member add intruder --peer-urls=http://127.0.0.1:1",
    ],
)
def test_and_nothing_else(etcd_three: Cluster, words: str) -> None:
    before = etcd_three.kept("/")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        etcd_three.etcdctl(*words.split(), user=AS_USER)
    assert "permission denied" in refused.value.stderr
    assert etcd_three.kept("/") == before


def test_guests_go_on_when_users_and_roles_change(
    etcd_three: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    plugin = etcd_host(etcd_three, "first")
    plugin.acquire([Resource(etcd_disks[0])], None)
    plugin.renew()
    new_password = f"user passwd {USER} --interactive=false"  # ends every login
    for words in ("role add other", "role delete other", new_password):
        etcd_three.etcdctl(*words.split(), told=USER_PASSWORD + "\n")
        before = now()
        assert plugin.renew() > before
    assert plugin.acquire([Resource(etcd_disks[1])], None)


@pytest.mark.long
def test_a_fleet_whose_cluster_was_started_again_logs_in_before_its_guests_are_dead(
    require: Callable[[str], str], tmp_path: Path, etcd_host: Host
) -> None:
    """With etcd's own cost of a login; who gives up too early, and asks anew, keeps all waiting."""
    require("etcd")
    cluster = Cluster(tmp_path / "etcd", 3, auth=True)
    cluster.options = ["--bcrypt-cost", "10"]
    with cluster, ThreadPoolExecutor(FLEET) as at_once:
        hosts = [etcd_host(cluster, f"guest-{n}", failover_s="30") for n in range(FLEET)]
        for member in cluster.members:
            member.kill()
        for member in cluster.members:
            cluster.start(member)
        waiting.until(cluster.is_healthy, 30, "it is healthy again")
        began = now()
        proven = list(at_once.map(lambda host: host.renew(), hosts))
        assert min(proven) > began
