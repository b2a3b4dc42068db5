"""Does doctor see what an etcd cluster lacks, and leave no trace there?"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LockError, Resource
from lockplugins.etcd.plugin import EtcdPlugin
from tests.support.etcd import Cluster, Tls
from tests.support.stand_ins import CARRIER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.etcd_hosts import Host


def test_doctor_sees_the_cluster_well_and_says_the_arithmetic(
    etcd_three: Cluster, etcd_disks: list[str]
) -> None:
    before = etcd_three.kept()
    plugin = EtcdPlugin(etcd_three.config(), CARRIER)
    findings = plugin.examine(None)
    found = {(check, well): evidence for check, well, evidence, _mend in findings}
    assert "12 s after its last proof" in found["failover", True]
    assert "one cluster" in found["etcd cluster", True]
    assert "namespace fleet: a linearizable read is answered" in found["etcd quorum", True]
    assert found["etcd alarms", True] == "none"
    assert found["etcd version", True].startswith("3.")
    trusted = [
        evidence for check, well, evidence, _mend in findings if check == "etcd TLS" and well
    ]
    tls = etcd_three.config()
    looked_at = [tls["ca_cert"], tls["cert"], *tls["endpoints"].split(",")]
    assert [evidence.partition(": until 20")[0] for evidence in trusted] == looked_at
    ((name, well, _evidence, mend),) = plugin.examine(Resource(etcd_disks[0]))
    assert (name, well, "id=IDENTITY" in mend) == ("name", False, True)
    assert etcd_three.kept() == before


def test_doctor_names_the_members_that_are_away_and_a_quorum_that_is_lost(
    etcd_three: Cluster,
) -> None:
    for member in etcd_three.members[:2]:
        member.send(signal.SIGSTOP)
    try:
        found = EtcdPlugin(etcd_three.config(), CARRIER).examine(None)
    finally:
        for member in etcd_three.members[:2]:
            member.send(signal.SIGCONT)
    ill = [check for check, well, _evidence, _mend in found if not well]
    assert ill.count("etcd member") >= 2
    assert "etcd quorum" in ill
    assert all(mend for _check, well, _evidence, mend in found if not well)


def test_members_of_two_clusters_are_told_apart_and_one_alone_is_believed(
    etcd_member: Cluster, etcd_host: Host, tmp_path: Path, etcd_disks: list[str]
) -> None:
    with Cluster(tmp_path / "other") as other:
        both = f"{etcd_member.endpoints},{other.endpoints}"
        found = EtcdPlugin(etcd_member.config() | {"endpoints": both}, CARRIER).examine(None)
        ((words, mend),) = (
            (evidence, mend) for check, well, evidence, mend in found if check == "etcd cluster"
        )
        assert etcd_member.endpoints in words
        assert other.endpoints in words
        assert mend == "name those of one"
        plugin = etcd_host(etcd_member, "first", endpoints=both)
        plugin.acquire([Resource(etcd_disks[0])], None)
        etcd_member.members[0].send(signal.SIGSTOP)
        try:
            with pytest.raises(LockError, match="it is of another cluster"):
                plugin.renew()
        finally:
            etcd_member.members[0].send(signal.SIGCONT)
        assert other.kept() == {}


@pytest.mark.parametrize("which", ["ca", "client", "server"])
def test_doctor_names_the_certificate_that_soon_ends(
    which: str, require: Callable[[str], str], tmp_path: Path
) -> None:
    require("etcd")
    tls = Tls(tmp_path / "tls")
    tls.sign_again(which, days=13)
    with Cluster(tmp_path / "etcd", 1, tls) as cluster:
        found = EtcdPlugin(cluster.config(), CARRIER).examine(None)
        names = {"ca": tls.ca, "client": tls.cert, "server": cluster.endpoints}
    ill = [evidence for check, well, evidence, _mend in found if check == "etcd TLS" and not well]
    assert len(ill) == 1
    assert ill[0].startswith(f"{names[which]}: until 20")
