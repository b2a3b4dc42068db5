"""Does a QEMU that loads a saved state (-incoming) get its leases first, or nothing at all?"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import prefixes, proclocks, waiting
from tests.support.qemu import Monitor, idle_argv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.guard import Guards

DEADLINE_S = 30
HELD = [("WRITE", 0, "0")]


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    return str(path)


@pytest.fixture
def state(tmp_path: Path, disk: str) -> Path:
    """Return a file with the state of a guest that has this disk."""
    path = tmp_path / "state"
    with Monitor() as monitor:
        argv = idle_argv(disk, machine="pc", extra=monitor.argv)
        with subprocess.Popen(argv, pass_fds=[monitor.fd]) as saved:
            monitor.execute("migrate", uri=f"exec:cat >{path}")
            waiting.until(
                lambda: word(monitor, "query-migrate") == "completed", DEADLINE_S, "saved"
            )
            saved.kill()
    return path


def test_it_holds_its_leases_while_it_loads_and_after(
    guards: Guards, disk: str, state: Path
) -> None:
    with Monitor() as monitor:
        argv = idle_argv(disk, machine="pc", extra=[*monitor.argv, "-incoming", "defer"])
        spec = {"plugin": "file", "resources": guards.spec(disk).resources}
        guard = prefixes.start(
            guards, prefixes.FRONT_DOOR, argv, pass_fds=[monitor.fd], fields=spec
        ).ready()
        assert word(monitor, "query-status") == "inmigrate"
        assert proclocks.below_qemus(disk) == HELD
        monitor.execute("migrate-incoming", uri=f"exec:cat {state}")
        waiting.until(
            lambda: word(monitor, "query-status") == "prelaunch", DEADLINE_S, "it is loaded"
        )
        assert proclocks.below_qemus(disk) == HELD
        guard.kill()
        assert proclocks.below_qemus(disk) == []


def test_it_is_refused_while_the_disk_is_held_and_reads_nothing(
    guards: Guards, disk: str, tmp_path: Path
) -> None:
    holder = guards.run(disk)
    read = tmp_path / "read"
    argv = idle_argv(disk, machine="pc", extra=["-incoming", f"exec:touch {read}"])
    ended = guards.refusal(disk, command=argv)
    assert ended.code == 110
    assert f"cannot acquire exclusive lease for disk {disk}: held by guest guest " in ended.stderr
    assert not read.exists()
    assert holder.process.poll() is None
    assert proclocks.below_qemus(disk) == HELD


def word(monitor: Monitor, query: str) -> object:
    answer = monitor.execute(query)
    assert isinstance(answer, dict)
    return answer.get("status")
