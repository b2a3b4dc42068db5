"""Are certificates of the next connection those that are in the files then?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import LockError, Resource
from lockplugins.etcd.connection import now
from tests.support.etcd import Cluster, Tls

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.etcd_hosts import Host


def test_certificates_that_are_replaced_serve_the_next_connection_and_bad_ones_do_not(
    require: Callable[[str], str], tmp_path: Path, etcd_host: Host, etcd_disks: list[str]
) -> None:
    require("etcd")
    tls, strange = Tls(tmp_path / "tls"), Tls(tmp_path / "strange")
    good = {path: Path(path).read_bytes() for path in (tls.cert, tls.key)}
    with Cluster(tmp_path / "etcd", 1, tls) as cluster:
        plugin = etcd_host(cluster, "first")
        plugin.acquire([Resource(etcd_disks[0])], None)

        def disconnected() -> None:
            cluster.members[0].kill()
            cluster.start(cluster.members[0])

        Path(tls.cert).write_text("half of a certificate")
        disconnected()
        before = now()
        assert plugin.renew() > before  # by what there was
        for ours, theirs in ((tls.cert, strange.cert), (tls.key, strange.key)):
            Path(ours).write_bytes(Path(theirs).read_bytes())
        disconnected()
        with pytest.raises(LockError):  # by what is there now, which no member trusts
            plugin.renew()
        for path, content in good.items():
            Path(path).write_bytes(content)
        before = now()
        assert plugin.renew() > before
