"""Does a daemon find all its guests again, without a thread or a descriptor for any of them?"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from supervisor.manager import LockManager, NewFlags, ResourceType
from tests.support import waiting
from tests.support.daemon import DEADLINE_S, IDLE, Daemon, new_disk
from tests.support.measured import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DISK = ResourceType.DISK


def started(daemon: Daemon, guest_uuid: str, disk: str) -> int:
    """Start a guest with a manager that is then dropped; returns its pid."""
    with daemon.manager(guest_uuid=guest_uuid, name=f"guest{guest_uuid[:8]}") as manager:
        daemon.log(manager)
        manager.register_resource(DISK, disk)
        manager.acquire_object(IDLE)
        manager.run()
        child = manager.get_child()
    os.close(child.pidfd if child.pidfd is not None else -1)
    return child.pid


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
def test_at_libvirtd_restart_all_guests_are_attached_to(
    daemon: Daemon,
    tmp_path: Path,
    rounds: Callable[[int, int], int],
    measured: Callable[[str, str], None],
) -> None:
    uuids = [str(uuid.uuid4()) for _ in range(rounds(20, 200))]
    pids = [started(daemon, each, new_disk(tmp_path / each)) for each in uuids]
    threads, before = threading.active_count(), descriptors()
    took: list[float] = []
    managers: list[LockManager] = []
    found: list[int] = []
    for each in uuids:
        begin = time.monotonic()
        managers.append(daemon.manager(NewFlags.ATTACH, guest_uuid=each))
        child = managers[-1].get_child()
        took.append(time.monotonic() - begin)
        found.append(child.pid)
        os.close(child.pidfd if child.pidfd is not None else -1)
    assert found == pids
    assert len(set(pids)) == len(uuids)
    assert (threading.active_count(), descriptors()) == (threads, before)
    what = f"LockManager(…, ATTACH) and get_child, {len(uuids)} guards running"
    measured("attach", f"{what}: {sum(took):.2f} s in all; each {milliseconds(took)}")
    measured("attach", f"threads and descriptors more, {len(uuids)} managers held: none")


def test_the_supervisor_is_nobodys_child_and_leaves_no_zombie(
    daemon: Daemon, tmp_path: Path
) -> None:
    before = children()
    each = str(uuid.uuid4())
    pid = started(daemon, each, new_disk(tmp_path / "vda"))
    assert children() == before
    manager = daemon.manager(NewFlags.ATTACH, guest_uuid=each)
    child = manager.get_child()
    assert child.pidfd is not None
    assert os.getsid(pid) not in (os.getsid(0), pid)  # the supervisor's own session
    signal.pidfd_send_signal(child.pidfd, signal.SIGTERM)
    waiting.gone(child.pidfd, DEADLINE_S)
    os.close(child.pidfd)
    assert manager.shutdown(DEADLINE_S)
    assert children() == before


def children() -> str:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return file.read()
