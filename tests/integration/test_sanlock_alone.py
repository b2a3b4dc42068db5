"""Are the tests' sanlock hosts the real thing, and is what they say true? Nothing of ours here."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support import sanlock_facts as facts
from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.sanlock import Daemon


def test_a_lease_excludes_and_is_free_after_its_holders_death(
    sanlock_host: Daemon, tmp_path: Path
) -> None:
    disk = str(tmp_path / "disk")
    holder = sanlock_host.hold(disk)
    (held,) = sanlock_host.held(disk)
    assert held == facts.Held(
        facts.LOCKSPACE, facts.lease_name(disk), sanlock_host.lease_file(disk), 0,
        holder.pid, 1,
    )  # fmt: skip
    assert sanlock_host.leader(disk)["owner_id"] == str(sanlock_host.host_id)
    with pytest.raises(facts.SanlockError, match="acquire done -17"):
        sanlock_host.hold(disk)
    holder.kill()
    holder.wait(facts.DEADLINE_S)
    sanlock_host.until_free(disk)
    again = sanlock_host.hold(disk)
    (held,) = sanlock_host.held(disk)
    assert (held.pid, held.version) == (again.pid, 2)


def test_a_shared_lease_is_shared(sanlock_host: Daemon, tmp_path: Path) -> None:
    disk = str(tmp_path / "disk")
    pids = {sanlock_host.hold(disk, shared=True).pid for _ in range(2)}
    assert {(held.pid, held.version) for held in sanlock_host.held(disk)} == {
        (pid, None) for pid in pids
    }
    with pytest.raises(facts.SanlockError, match="acquire done -17"):
        sanlock_host.hold(disk)


def test_two_daemons_are_two_hosts(sanlock_hosts: Callable[[int], Daemon], tmp_path: Path) -> None:
    one, two = sanlock_hosts(1), sanlock_hosts(2)
    facts.init_lockspace(one.lockspace)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda daemon: daemon.join(), (one, two)))
    disk = str(tmp_path / "disk")
    one.hold(disk)
    with pytest.raises(facts.SanlockError, match="acquire done -243"):
        two.hold(disk)
    assert [space.host_id for space in two.status().lockspaces] == [2]
    assert one.leader(disk) == two.leader(disk)
    one.stop()
    with pytest.raises(facts.SanlockError, match="no answer"):
        one.client("status", deadline_s=0.2)
    one.cont()
    pidfd = os.pidfd_open(one.pid)
    one.kill()
    waiting.gone(pidfd, 0)
    os.close(pidfd)
    one.start()
    assert one.status().lockspaces == []
