"""How does a test get guests' ends of the etcd plugin, without guests? Opened plugins, as hosts.

Each test has a namespace of its own, where users do not forbid it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Guest
from lockplugins.etcd.plugin import EtcdPlugin
from tests.support.etcd import Cluster, Tls
from tests.support.stand_ins import CARRIER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Host = Callable[..., EtcdPlugin]

FAILOVER_S = 15


@pytest.fixture(scope="session")
def etcd_three(
    require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    require("etcd")
    directory = tmp_path_factory.mktemp("three")
    with Cluster(directory / "etcd", 3, Tls(directory / "tls"), auth=True) as cluster:
        yield cluster


@pytest.fixture
def etcd_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Return a maker of guests' plugins, opened, in a namespace of the test's own."""
    opened: list[EtcdPlugin] = []

    def start(cluster: Cluster, name: str, **table: str) -> EtcdPlugin:
        space = cluster.config()["namespace"] if cluster.auth else request.node.name
        config = cluster.config() | {"namespace": space, "failover_s": str(FAILOVER_S)} | table
        plugin = EtcdPlugin(config, CARRIER)
        opened.append(plugin)
        plugin.open(Guest(f"uuid-{name}", name))
        return plugin

    yield start
    for plugin in opened:
        plugin.disconnect()


@pytest.fixture
def etcd_disks(tmp_path: Path) -> list[str]:
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    return [str(tmp_path / name) for name in ("a", "b", "c")]
