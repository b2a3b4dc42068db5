"""Who else holds leases of an etcd cluster, and how is each started? Ours among them.

A cluster of one member that trusts everybody, and one of three with TLS, client
certificates and users; beside them a sanlock daemon, for what it hands out.
Measures nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lockplugins.contract import Guest, Resource, ResourceType
from lockplugins.etcd.plugin import EtcdPlugin
from tests.bench import ours
from tests.bench.sanlock_peers import Sanlock
from tests.bench.starting import BenchError, tool
from tests.support.etcd import NAMESPACE, USER, USER_PASSWORD, Cluster, Tls
from tests.support.stand_ins import CARRIER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from typing import Any

    from supervisor.spec import GuestSpec
    from tests.bench.starting import Lab

ONE, THREE = ", 1 member", ", 3 members, TLS, user"
OURS, ETCDCTL, PUT = "guard, etcd", "etcdctl lock", "etcdctl put"


class Etcd:
    """What lives as long as `closing`: `clusters` by what is added to a row's name, `sanlock`."""

    def __init__(self, lab: Lab, closing: ExitStack) -> None:
        self.lab = lab
        self.missing: list[str] = []
        self.versions: list[str] = []
        self.clusters: dict[str, Cluster] = {}
        self.sanlock = Sanlock(lab, closing, beside_libvirt=False)
        try:
            self._start(closing)
        except (BenchError, OSError, AssertionError) as error:
            self.missing.append(f"etcd: {error}")
        self.missing += self.sanlock.missing
        self.versions += self.sanlock.versions

    def _start(self, closing: ExitStack) -> None:
        if lacking := [name for name in ("etcd", "etcdctl", "openssl") if not shutil.which(name)]:
            raise BenchError(f"not installed: {', '.join(lacking)}")
        directory = Path(self.lab.path("etcd"))
        directory.mkdir()
        tls = Tls(directory / "tls")
        clusters = {
            ONE: Cluster(directory / "one", on_disk=True),
            THREE: Cluster(directory / "three", 3, tls, auth=True, on_disk=True),
        }
        for name, cluster in clusters.items():
            self.clusters[name] = closing.enter_context(cluster)
        self.lab.env["ETCDCTL_API"] = "3"
        said = tool(["etcd", "--version"], self.lab.env).splitlines()[0]
        self.versions.append(said.replace(" Version:", ""))

    def pids(self, where: str) -> list[int]:
        """Return the members' pids."""
        processes = [member.process for member in self.clusters[where].members]
        return [process.pid for process in processes if process]

    def disks(self, name: str, count: int) -> list[str]:
        return [self.lab.image(f"{name} {index}") for index in range(count)]

    def spec(self, where: str, name: str, disks: Sequence[str], **fields: Any) -> GuestSpec:
        """Return a guest of ours with these disks."""
        fields |= {"plugin": "etcd", "config": {"etcd": self.clusters[where].config()}}
        guest = ours.spec(self.lab, name, **fields)
        guest.resources = [Resource(disk) for disk in disks]
        return guest

    def guard(self, where: str, name: str, disks: Sequence[str], **fields: Any) -> list[str]:
        """Return its guard's words, up to what it is to run."""
        return ours.words(self.spec(where, name, disks, **fields))

    def etcdctl(self, where: str, *words: str) -> list[str]:
        """Return etcd's own command, as the fleet's user; keys are to be `key`'s."""
        cluster = self.clusters[where]
        argv = [shutil.which("etcdctl") or "", "--endpoints", cluster.endpoints]
        if tls := cluster.tls:
            argv += ["--cacert", tls.ca, "--cert", tls.cert, "--key", tls.key]
        if cluster.auth:
            argv += ["--user", f"{USER}:{USER_PASSWORD}"]
        return [*argv, *words]

    def lock(self, where: str, name: str) -> list[str]:
        """Return `etcdctl lock`, up to what it is to run."""
        return self.etcdctl(where, "lock", key(name), "--")


def key(name: str) -> str:
    """Return a key that the fleet's user may write, and no guest of ours has."""
    return f"/lsup/v1/{NAMESPACE}/etcdctl/{name}"


def opened(config: dict[str, str], name: str) -> EtcdPlugin:
    """Return a guest's end of the plugin, in this process; `disconnect` it."""
    plugin = EtcdPlugin(config, CARRIER)
    plugin.open(Guest(f"uuid-{name}", name))
    return plugin


def wanted(name: str, disks: Sequence[str]) -> list[Resource]:
    """Return all that a guest with these disks takes: the lease of the VM, too."""
    return [Resource(f"uuid-{name}", resource_type=ResourceType.VM), *map(Resource, disks)]
