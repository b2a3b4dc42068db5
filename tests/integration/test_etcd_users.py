"""What becomes of a guest whose user etcd takes no longer? No proof, until that is undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Resource
from lockplugins.etcd.client import RefusedError
from lockplugins.etcd.connection import now
from tests.support.etcd import USER, Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.etcd_hosts import Host

UNDONE = {"disable": "enable", "enable": "disable"}


@pytest.fixture
def cluster(require: Callable[[str], str], tmp_path: Path) -> Iterator[Cluster]:
    require("etcd")
    with Cluster(tmp_path / "etcd", auth=True) as found:
        yield found


def switch(cluster: Cluster, word: str) -> None:
    cluster.etcdctl("auth", word)
    cluster._guarded = word == "enable"


@pytest.mark.parametrize("word", UNDONE)
def test_a_guest_proves_nothing_while_users_are_switched_otherwise(
    word: str, cluster: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    switch(cluster, UNDONE[word])
    cluster.auth = cluster._guarded
    plugin = etcd_host(cluster, "first")
    plugin.acquire([Resource(etcd_disks[0])], None)
    switch(cluster, word)
    with pytest.raises(RefusedError, match=r"user name is empty|authentication is not enabled"):
        plugin.renew()
    switch(cluster, UNDONE[word])
    before = now()
    assert plugin.renew() > before


def test_a_guest_proves_nothing_without_its_role(
    cluster: Cluster, etcd_host: Host, etcd_disks: list[str]
) -> None:
    plugin = etcd_host(cluster, "first")
    plugin.acquire([Resource(etcd_disks[0])], None)
    cluster.etcdctl("user", "revoke-role", USER, USER)
    with pytest.raises(RefusedError, match="permission denied"):
        plugin.renew()
    cluster.etcdctl("user", "grant-role", USER, USER)
    before = now()
    assert plugin.renew() > before
